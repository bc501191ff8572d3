"""Bounds and rules over settings that pydantic has loaded: plain functions, one `Problem` each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from pydantic import SecretStr

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.settings.description import Kind, Problem
from z4j_fastapi.settings.fields import SETTINGS
from z4j_fastapi.settings.hmac_secret import decode_hmac_secret
from z4j_fastapi.settings.urls import host_of, is_loopback_host

_KEYS = "redaction_extra_key_patterns"
_VALUES = "redaction_extra_value_patterns"
_USEFUL_PAYLOAD_BYTES = 8192
_PEM_BYTES_SEARCHED = 1 << 20
#: Python's error about a regular expression may quote a part of it.
_QUOTED = re.compile(r"""(['"]).*\1""", re.DOTALL)


def check_values(values: Mapping[str, object], *, bad: frozenset[str]) -> list[Problem]:
    """Everything that is wrong with converted values.

    Args:
        values: One for every setting; None for a required one that was not given.
        bad: Settings already found wrong; their values are defaults and not judged.

    Spec: config-and-cli.md sections 2, 2.4, 8.
    """
    problems = [
        problem
        for name in SETTINGS
        if name not in bad and (problem := _check_bounds(name, values[name])) is not None
    ]
    problems += _check_missing(values, bad)
    bad |= {problem.field for problem in problems}
    for check in (_check_secrets, _check_plaintext, _check_ca_file, _check_redaction):
        problems += [problem for problem in check(values) if problem.field not in bad]
    problems += _check_later_features(values)
    return problems


def advice(values: Mapping[str, object]) -> list[str]:
    """Warnings about values that are allowed but hardly meant."""
    warnings: list[str] = []
    if values["redaction_defaults_enabled"] is False:
        warnings.append(
            "redaction_defaults_enabled is False: the built-in redaction patterns are OFF, "
            "passwords and tokens in task arguments leave this host"
        )
    payload_bytes = cast("int", values["max_payload_bytes"])
    if payload_bytes > _USEFUL_PAYLOAD_BYTES:
        warnings.append(
            f"max_payload_bytes is above {_USEFUL_PAYLOAD_BYTES}, where the brain cuts anyway"
        )
    return warnings


def _problem(name: str, text: str, *, missing: bool = False, redaction: bool = False) -> Problem:
    return Problem(
        field=name,
        text=text,
        environment=SETTINGS[name].environment,
        missing=missing,
        redaction=redaction,
    )


def _check_bounds(name: str, value: object) -> Problem | None:
    setting = SETTINGS[name]
    if setting.kind is Kind.TEXT and isinstance(value, str):
        if setting.maximum is not None and len(value) > setting.maximum:
            return _problem(name, f"is longer than {setting.maximum} characters; shorten it")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        too_small = setting.minimum is not None and value < setting.minimum
        if too_small or (setting.maximum is not None and value > setting.maximum):
            return _problem(name, f"must be {setting.type_text}; correct it")
    return None


def _check_missing(values: Mapping[str, object], bad: frozenset[str]) -> list[Problem]:
    if values["dev_brain"]:
        return []  # the development brain brings them
    problems: list[Problem] = []
    for name, setting in SETTINGS.items():
        if setting.required and name not in bad and values[name] is None:
            text = f"is missing; pass {name}=... or set {setting.environment} ({setting.fix})"
            problems.append(_problem(name, text, missing=True))
    return problems


def _check_secrets(values: Mapping[str, object]) -> Iterator[Problem]:
    secret = values["hmac_secret"]
    if isinstance(secret, SecretStr):
        try:
            decode_hmac_secret(secret.get_secret_value())
        except ConfigError as error:
            yield _problem("hmac_secret", error.message)
    for name in ("token", "reconcile_api_key"):
        secret = values[name]
        if isinstance(secret, SecretStr):
            text = secret.get_secret_value()
            if not (text.isascii() and text.isprintable()):
                # It travels in an HTTP header.
                yield _problem(name, "holds characters other than printable ASCII; copy it again")


def _check_plaintext(values: Mapping[str, object]) -> Iterator[Problem]:
    url = values["brain_url"]
    if not isinstance(url, str) or not url.startswith("http:") or values["dev_mode"]:
        return
    if not is_loopback_host(host_of(url)):
        yield _problem(
            "brain_url",
            "is plaintext (http or ws) to a host that is not loopback, which would show the token "
            "to the network; use https, or pass dev_mode=True",
        )


def _check_ca_file(values: Mapping[str, object]) -> Iterator[Problem]:
    path = values["ca_file"]
    if not isinstance(path, Path):
        return
    if not path.is_file():  # also keeps us from waiting on a pipe
        yield _problem("ca_file", f"is not an existing file; {SETTINGS['ca_file'].fix}")
        return
    try:
        with path.open("rb") as file:
            head = file.read(_PEM_BYTES_SEARCHED)
    except OSError as error:
        yield _problem("ca_file", f"cannot be read ({error.strerror}); {SETTINGS['ca_file'].fix}")
        return
    if b"-----BEGIN " not in head:
        yield _problem("ca_file", f"is not a PEM file; {SETTINGS['ca_file'].fix}")


def _check_redaction(values: Mapping[str, object]) -> Iterator[Problem]:
    keys = cast("Sequence[str]", values[_KEYS])
    patterns = cast("Sequence[str]", values[_VALUES])
    if not keys and not patterns:
        return
    from z4j_fastapi.redaction import check_patterns  # noqa: PLC0415 - only where there are any

    for text in check_patterns(keys, patterns):
        name = _VALUES if text.startswith(_VALUES) else _KEYS
        rest = _QUOTED.sub("...", text.removeprefix(name).lstrip(": "))
        yield _problem(name, " ".join(rest.split()), redaction=True)


def _check_later_features(values: Mapping[str, object]) -> list[Problem]:
    problems: list[Problem] = []
    if values["transport"] == "longpoll":
        problems.append(_problem("transport", "longpoll is not in this version yet; use auto"))
    if values["dev_brain"]:
        problems.append(_problem("dev_brain", "is not in this version yet; leave it out"))
    return problems
