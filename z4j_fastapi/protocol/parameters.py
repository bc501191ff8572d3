"""Reads a command's parameters: types and bounds, with errors an operator can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from z4j_fastapi.errors import CommandError


def json_object(value: object) -> dict[str, object] | None:
    """`value` if it is a JSON object, else None."""
    # The keys are text: it was parsed from JSON.
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def text_map(source: Mapping[str, object], name: str) -> dict[str, str]:
    """The texts in the object `source[name]`; what is not a text is left out."""
    members = json_object(source.get(name)) or {}
    return {key: item for key, item in members.items() if isinstance(item, str)}


class ParameterReader:
    """Takes members out of a `parameters` object, with one clear error for a wrong one.

    Every method but `informational` raises `CommandError` with reason `invalid`; nothing else is
    ever raised.

    Args:
        action: Named in errors.
        parameters: Parsed from JSON.
    """

    __slots__ = ("_action", "_parameters")

    def __init__(self, action: str, parameters: Mapping[str, object]) -> None:
        self._action = action
        self._parameters = parameters

    def _bad(self, name: str, wanted: str) -> CommandError:
        return CommandError("invalid", f"{self._action}: parameter {name!r} must be {wanted}")

    def text(self, name: str, limit: int) -> str:
        """A text that must be there, 1 to `limit` characters."""
        value = self._parameters.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise self._bad(name, f"a text of 1 to {limit} characters")
        return value

    def optional_text(self, name: str, limit: int) -> str | None:
        """A text of at most `limit` characters; None for null, absent or empty."""
        value = self._parameters.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or len(value) > limit:
            raise self._bad(name, f"a text of at most {limit} characters or null")
        return value

    def informational(self, name: str, limit: int) -> str | None:
        """A text that nothing depends on: a strange one must not make the command fail."""
        value = self._parameters.get(name)
        return value[:limit] if isinstance(value, str) and value else None

    def integer(self, name: str, low: int, high: int | None, default: int | None = None) -> int:
        """An integer of at least `low`, at most `high` where there is a limit."""
        value = self._parameters.get(name)
        if value is None and default is not None:
            return default
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < low
            or (high is not None and value > high)
        ):
            upper = "" if high is None else f" and at most {high}"
            raise self._bad(name, f"an integer of at least {low}{upper}")
        return value

    def flag(self, name: str) -> bool:
        """A boolean; False for null or absent."""
        value = self._parameters.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def optional_number(self, name: str) -> float | None:
        """A finite number; None for null or absent."""
        value = self._parameters.get(name)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # an integer above 1e308
                number = math.inf
            if math.isfinite(number):
                return number
        raise self._bad(name, "a number or null")

    def optional_list(self, name: str) -> tuple[object, ...] | None:
        """A list; None for null or absent."""
        value = self._parameters.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self._bad(name, "a list or null")
        return tuple(cast("list[object]", value))

    def optional_object(self, name: str) -> dict[str, object] | None:
        """An object; None for null or absent."""
        value = self._parameters.get(name)
        if value is None:
            return None
        members = json_object(value)
        if members is None:
            raise self._bad(name, "an object or null")
        return members
