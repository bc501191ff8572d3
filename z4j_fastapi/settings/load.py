"""`load_settings`: sources in, checked settings or one error out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from z4j_fastapi.errors import ConfigError, RedactionConfigError
from z4j_fastapi.settings.checks import advice, check_values
from z4j_fastapi.settings.description import Problem
from z4j_fastapi.settings.environment import read_environment
from z4j_fastapi.settings.fields import SETTINGS
from z4j_fastapi.settings.keywords import check_keyword_names
from z4j_fastapi.settings.model import AgentSettings


def load_settings(
    overrides: Mapping[str, object], *, environ: Mapping[str, str] | None = None
) -> AgentSettings:
    """Load and check every setting: keyword arguments over environment over defaults.

    Args:
        overrides: Keyword arguments by setting name. None counts as not passed; empty text hides
            the environment variable, so that the default applies.
        environ: Variables to read, by default those of the process. No `.env` file is read.

    Returns:
        Complete settings. With `enabled=False` they may lack what is required, and what is wrong
        is in `warnings`.

    Raises:
        ConfigError: Lists every problem at once and shows no value. `RedactionConfigError` when
            all of them are about redaction patterns.
        TypeError: `overrides` has a name that is no setting.

    Spec: config-and-cli.md sections 1, 2, 8.
    """
    from z4j_fastapi.settings.pydantic_compat import read_sources  # noqa: PLC0415 - costs 23 ms

    check_keyword_names(overrides, SETTINGS, caller="load_settings")
    given = {name: value for name, value in overrides.items() if value is not None}
    keywords = {name: value for name, value in given.items() if not _is_blank(value)}
    environment = read_environment(os.environ if environ is None else environ, hidden=given)

    loaded = read_sources(keywords, environment.values)
    values = loaded.values
    problems = loaded.problems
    _expand_ca_file(values, problems)
    bad = frozenset(problem.field for problem in problems)
    problems += check_values(values, bad=bad)
    problems.sort(key=lambda problem: _ORDER[problem.field])
    warnings = [*environment.warnings, *advice(values)]
    if problems:
        if values["enabled"] is not False:
            raise _error(problems)
        warnings += [
            f"{problem} (the agent is disabled)" for problem in problems if not problem.missing
        ]
        _replace_bad(values, problems)
    return _build(values, warnings=warnings, keywords=keywords, environment=environment.values)


def _is_blank(value: object) -> bool:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return isinstance(value, str) and not value.strip()


def _expand_ca_file(values: dict[str, object], problems: list[Problem]) -> None:
    # Not `home` and `buffer_path`: the outbox expands them, and moves elsewhere where it cannot.
    path = values["ca_file"]
    if isinstance(path, Path):
        try:
            values["ca_file"] = path.expanduser()
        except RuntimeError:
            text = f"begins with ~ but there is no such home; {SETTINGS['ca_file'].fix}"
            variable = SETTINGS["ca_file"].environment
            problems.append(Problem(field="ca_file", text=text, environment=variable))
            values["ca_file"] = None


def _error(problems: Sequence[Problem]) -> ConfigError:
    lines = [str(problem) for problem in problems]
    kind = RedactionConfigError if all(problem.redaction for problem in problems) else ConfigError
    if len(lines) == 1:
        message = f"z4j configuration: {lines[0]}"
    else:
        listed = "\n".join(f"  - {line}" for line in lines)
        message = f"z4j configuration: {len(lines)} problems\n{listed}"
    names = sorted({problem.field for problem in problems})
    return kind(message, problems=lines, details={"fields": names})


def _replace_bad(values: dict[str, object], problems: Sequence[Problem]) -> None:
    """Put defaults where values are unusable, so that a disabled agent's settings are sound."""
    from z4j_fastapi.settings.pydantic_compat import read_sources  # noqa: PLC0415 - already loaded

    defaults = read_sources({}, {}).values
    for problem in problems:
        values[problem.field] = defaults[problem.field]


def _build(
    values: Mapping[str, object],
    *,
    warnings: Sequence[str],
    keywords: Mapping[str, object],
    environment: Mapping[str, object],
) -> AgentSettings:
    complete: dict[str, Any] = dict(values)
    for name, empty in _EMPTY.items():
        if complete[name] is None:
            complete[name] = empty
    return AgentSettings(
        **complete,
        warnings=tuple(warnings),
        keyword_names=frozenset(keywords),
        environment_names=frozenset(environment),
    )


_ORDER = {name: position for position, name in enumerate(SETTINGS)}

#: What a disabled agent's settings hold where a required value was not given.
_EMPTY: Mapping[str, object] = {
    "brain_url": "",
    "token": SecretStr(""),
    "hmac_secret": SecretStr(""),
    "project_id": "",
}
