"""What is known about a setting beside its Python type: source, bounds, meaning.

Each field of `AgentSettings` carries one `Setting` as metadata. Conversion, checks, error messages
and the generated documentation all read it, so a bound is written down once.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

#: Key of the `Setting` in a dataclass field's metadata.
METADATA_KEY = "z4j_setting"


class Kind(str, enum.Enum):
    """How a value is converted and how its type is described."""

    TEXT = "text"
    SECRET = "secret"  # noqa: S105 - the name of a kind, not a secret
    BRAIN_URL = "brain_url"
    PROXY_URL = "proxy_url"
    CHOICE = "choice"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    SECONDS = "seconds"
    NAMES = "names"
    PATTERNS = "patterns"
    TAGS = "tags"
    PATH = "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the settings table (config-and-cli.md section 2).

    Args:
        kind: How the value is converted.
        meaning: One or two sentences for the documentation.
        environment: Name of the variable, None for settings that are keyword arguments only.
        keyword: Whether `z4j_lifespan` and `install_z4j` take it.
        inverted: The variable says the opposite of the field (`Z4J_DISABLED`, `enabled`).
        required: An agent cannot run without it.
        minimum: Smallest number allowed.
        maximum: Largest number allowed; for texts the most characters.
        choices: Every value of a `Kind.CHOICE`.
        fix: What to do about a missing or wrong value.
    """

    kind: Kind
    meaning: str
    environment: str | None = None
    keyword: bool = True
    inverted: bool = False
    required: bool = False
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    fix: str = ""

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown. A proxy URL may hold a password."""
        return self.kind in (Kind.SECRET, Kind.PROXY_URL)

    @property
    def type_text(self) -> str:
        """The type with its bounds, as it reads after "must be"."""
        if self.kind is Kind.CHOICE:
            return f"one of {', '.join(self.choices)}"
        if self.kind in (Kind.INTEGER, Kind.SECONDS):
            noun = "a whole number" if self.kind is Kind.INTEGER else "a number of seconds"
            if self.maximum is None:
                return f"{noun}, at least {self.minimum}"
            return f"{noun} from {self.minimum} to {self.maximum}"
        if self.kind is Kind.TEXT and self.maximum is not None:
            return f"text of at most {self.maximum} characters"
        return _TYPE_TEXTS[self.kind]


_TYPE_TEXTS: Mapping[Kind, str] = {
    Kind.TEXT: "text",
    Kind.SECRET: "text",
    Kind.BRAIN_URL: "an absolute http or https URL",
    Kind.PROXY_URL: "an http or https URL, or none",
    Kind.BOOLEAN: "true or false (also 1, yes, on, 0, no, off)",
    Kind.NAMES: "a list of names (in a variable separated by commas)",
    Kind.PATTERNS: "a list of regular expressions "
    "(in a variable separated by commas, or a JSON array)",
    Kind.TAGS: "a map of text to text (in a variable k=v,k2=v2)",
    Kind.PATH: "a path",
}


def describe(
    kind: Kind,
    environment: str | None,
    meaning: str,
    *,
    keyword: bool = True,
    inverted: bool = False,
    required: bool = False,
    minimum: int | None = None,
    maximum: int | None = None,
    choices: tuple[str, ...] = (),
    fix: str = "",
) -> dict[str, Setting]:
    """The metadata of a dataclass field; arguments as for `Setting`."""
    setting = Setting(
        kind=kind,
        environment=environment,
        meaning=meaning,
        keyword=keyword,
        inverted=inverted,
        required=required,
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        fix=fix,
    )
    return {METADATA_KEY: setting}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with the configuration. Holds no value, so no secret either.

    Args:
        field: Name of the setting.
        text: What is wrong, a semicolon, and what to do about it; one line.
        environment: Name of its variable, if it has one.
        missing: A required value is absent; no problem while the agent is disabled.
        redaction: It is about a redaction pattern.
    """

    field: str
    text: str
    environment: str | None = None
    missing: bool = False
    redaction: bool = False

    def __str__(self) -> str:
        place = f"{self.field} ({self.environment})" if self.environment else self.field
        return f"{place}: {self.text}"
