"""The walk over one event: a bounded, JSON-safe copy, and the strings that must still be looked at.

The common types are handled in the two loops, everything else in `objects.py`. Strings are only
collected; one look at all of them together follows (`scrub.py`).

Spec: redaction.md sections 2 and 5.
"""

# Values of any type are this module's business, so their types are unknown here.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnnecessaryCast=false

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from z4j_fastapi.redaction.bounds import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_WIDTH,
    OMITTED,
    REDACTED,
    more_items,
)
from z4j_fastapi.redaction.objects import Repr, Unordered, number, plain
from z4j_fastapi.redaction.rendering import FLOAT_END, MAX_INT, MIN_FLOAT, MIN_INT, render_text
from z4j_fastapi.redaction.tracebacks import scrub_traceback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from z4j_fastapi.redaction.names import KeyRules
    from z4j_fastapi.redaction.scrub import Scrubber

#: Compared with first: cheaper than the exact bounds.
_SMALL = 1_000_000_000
#: Bytes kept of what an unknown object says of itself.
_MAX_REPR_BYTES = 1_024
#: The depth of an event's data: the containers in it count from each value on.
_ABOVE = -1
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Walk:
    """One walk.

    Args:
        scrubber: For long strings, which are done at once.
        rules: Verdicts on keys.

    Attributes:
        texts: Short strings of the copy, not yet looked at.
        exact: Whether all numbers lie where orjson writes what CPython writes.
        changed: Whether a long string came out different.
    """

    __slots__ = (
        "_ancestors",
        "_collect",
        "_known",
        "_nodes",
        "_rules",
        "_scrubber",
        "_short",
        "changed",
        "exact",
        "texts",
    )

    def __init__(self, scrubber: Scrubber, rules: KeyRules) -> None:
        self._scrubber = scrubber
        self._rules = rules
        self._known = rules.known
        self._short = scrubber.short_chars
        self._ancestors: set[int] = set()
        self._nodes = 0
        self.texts: list[str] = []
        self._collect = self.texts.append
        self.exact = True
        self.changed = False

    def data(self, data: Mapping[str, object]) -> dict[str, Any]:
        """The copy of an event's data; each value is bounded for itself.

        Args:
            data: Flat keys to raw values. `traceback` is treated line by line.
        """
        traceback: object = data.get("traceback")
        if type(traceback) is not str:
            copied: dict[str, Any] = self._mapping(dict(data), _ABOVE)
            return copied
        shown = scrub_traceback(traceback, self._scrubber)
        rest = dict(data)
        del rest["traceback"]
        copy: dict[str, Any] = self._mapping(rest, _ABOVE)
        key, secret = self._judge("traceback")
        copy[key] = REDACTED if secret else shown
        return copy

    def value(self, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - a dispatch table, by how common
        """The copy of any value.

        Args:
            value: Anything.
            depth: Containers around it.
        """
        cls = type(value)
        if cls is dict:
            return self._mapping(value, depth)
        if cls is list or cls is tuple:
            return self._sequence(value, depth)
        if value is None or cls is bool:
            return value
        if cls is float:
            exact = MIN_FLOAT <= value < FLOAT_END or value == 0 or -FLOAT_END < value <= -MIN_FLOAT
            return value if exact else self._number(value)
        if cls is int:
            return value if MIN_INT <= value <= MAX_INT else self._number(value)
        if cls is str:
            return self._string(value)
        return self._other(value, depth)

    def _string(self, text: str) -> str:
        if len(text) <= self._short:
            self.texts.append(text)
            return text
        shown = self._scrubber.text(text)
        if shown is not text:
            self.changed = True
        return shown

    def _number(self, value: float) -> Any:
        shown = number(value)
        if type(shown) is not str:
            self.exact = False
        return shown

    def _mapping(self, source: dict[Any, Any], depth: int, *, bounded: bool = False) -> Any:
        identity = id(source)
        ancestors = self._ancestors
        if identity in ancestors:
            return REDACTED
        # Also a snapshot: another thread may change the dict meanwhile.
        copy = source.copy() if len(source) <= MAX_WIDTH or bounded else _bounded(source)
        self._nodes += len(copy)
        if depth >= MAX_DEPTH or self._nodes > MAX_NODES:
            return OMITTED
        known = self._known
        odd = [key for key in copy if type(key) is not str or known.get(key, True)]
        ancestors.add(identity)
        depth += 1
        if odd:
            copy = self._judged(copy, odd, depth)
        short, collect = self._short, self._collect
        for key, value in copy.items():
            cls = type(value)
            if cls is str and len(value) <= short:
                collect(value)
            elif cls is not int or not -_SMALL < value < _SMALL:
                copy[key] = self.value(value, depth)
        ancestors.discard(identity)
        return copy

    def _judged(self, copy: dict[Any, Any], odd: list[Any], depth: int) -> dict[str, Any]:
        """The members of a dict with keys as they may leave, and secret values blanked.

        Args:
            copy: Our own copy of the dict; may be changed.
            odd: Its keys that are not known to be harmless.
            depth: Containers around the values.
        """
        known = self._known
        for key in odd:
            if type(key) is not str or key not in known:
                break
            copy[key] = self._blank(copy[key], depth)
        else:
            return copy
        judged: dict[str, Any] = {}
        for key, value in copy.items():
            secret = known.get(key) if type(key) is str else None
            if secret is None:
                key, secret = self._judge(key)  # noqa: PLW2901 - the key as it may leave
            judged[key] = self._blank(value, depth) if secret else value
        return judged

    def _sequence(
        self, source: list[Any] | tuple[Any, ...], depth: int, *, bounded: bool = False
    ) -> Any:
        identity = id(source)
        ancestors = self._ancestors
        if identity in ancestors:
            return REDACTED
        copy = list(source) if len(source) <= MAX_WIDTH or bounded else _head(source)
        self._nodes += len(copy)
        if depth >= MAX_DEPTH or self._nodes > MAX_NODES:
            return OMITTED
        ancestors.add(identity)
        depth += 1
        short, collect = self._short, self._collect
        for at, value in enumerate(copy):
            cls = type(value)
            if cls is str and len(value) <= short:
                collect(value)
            elif cls is not int or not -_SMALL < value < _SMALL:
                copy[at] = self.value(value, depth)
        ancestors.discard(identity)
        return copy

    def _other(self, value: Any, depth: int) -> Any:
        """The copy of an object that is no plain JSON type."""
        scrubber = self._scrubber
        if type(value) in (bytes, bytearray):
            # The text form has escapes, which glue a letter to what follows and hide a boundary.
            head = bytes(value[: scrubber.limit_bytes]).decode("latin-1")
            if scrubber.uncut(head) is REDACTED:
                return REDACTED
        reduced: Any = plain(value, limit_bytes=scrubber.limit_bytes)
        kind = type(reduced)
        if kind is Repr:
            return scrubber.within(str.__str__(reduced), _MAX_REPR_BYTES)
        if kind not in (dict, list, Unordered):
            return self.value(reduced, depth)
        ancestors = self._ancestors
        identity = id(value)
        if identity in ancestors:
            return REDACTED
        ancestors.add(identity)
        copy: Any
        if kind is dict:
            copy = self._mapping(reduced, depth, bounded=True)
        else:
            copy = self._sequence(reduced, depth, bounded=True)
        if kind is Unordered and copy != OMITTED:
            copy.sort(key=render_text)
        ancestors.discard(identity)
        return copy

    def _blank(self, value: Any, depth: int) -> Any:
        """A value under a secret key: the shape of dicts and lists, every leaf redacted."""
        cls = type(value)
        if cls is not dict and cls is not list and cls is not tuple:
            return REDACTED
        identity = id(value)
        if identity in self._ancestors:
            return REDACTED
        members: Any = _bounded(value) if cls is dict else _head(value)
        self._nodes += len(members)
        if depth >= MAX_DEPTH or self._nodes > MAX_NODES:
            return OMITTED
        self._ancestors.add(identity)
        blank: Any
        if cls is dict:
            blank = {
                self._judge(key)[0]: self._blank(member, depth + 1)
                for key, member in members.items()
            }
        else:
            blank = [self._blank(member, depth + 1) for member in members]
        self._ancestors.discard(identity)
        return blank

    def _judge(self, key: Any) -> tuple[str, bool]:
        """What to write for a key that is not known, and whether its value is secret."""
        return self._rules.judge(key if type(key) is str else self._key_text(key))

    def _key_text(self, key: Any) -> str:
        """A key that is no exact `str`, as text."""
        cls = type(key)
        if key is None or cls is bool:
            return str(key)
        reduced: Any = key if cls is int or cls is float else plain(key, limit_bytes=1_024)
        kind = type(reduced)
        if kind is str or kind is Repr:
            return str.__str__(reduced)
        if kind is int or kind is float:
            return str(number(reduced))
        copy = self.value(reduced)  # tuples and the like: redacted first, then as text
        return copy if type(copy) is str else render_text(copy)


def _bounded(source: dict[Any, Any]) -> dict[Any, Any]:
    """A copy of a dict with at most so many members, however another thread changes it."""
    size = len(source)
    if size <= MAX_WIDTH:
        return source.copy()
    for _ in range(3):
        try:
            copy = dict(islice(source.items(), MAX_WIDTH))
        except RuntimeError:  # changed size while it was copied: look again
            continue
        copy[more_items(size - MAX_WIDTH)] = None
        return copy
    return {OMITTED: None}


def _head(source: list[Any] | tuple[Any, ...]) -> list[Any]:
    """The members of a list or tuple, bounded."""
    members = list(source[:MAX_WIDTH])
    if len(source) > MAX_WIDTH:
        members.append(more_items(len(source) - MAX_WIDTH))
    return members


def replace_strings(copy: Any, changes: dict[str, str]) -> Any:  # noqa: C901 - two loops, flat for speed
    """Put the scrubbed strings into the copy, in place.

    Args:
        copy: What `Walk.value` returned.
        changes: String to what takes its place.
    """
    cls = type(copy)
    if cls is str:
        return changes.get(copy, copy)
    if cls is dict:
        for key, value in copy.items():
            kind = type(value)
            if kind is str:
                if value in changes:
                    copy[key] = changes[value]
            elif kind is dict or kind is list:
                replace_strings(value, changes)
    elif cls is list:
        for at, value in enumerate(copy):
            kind = type(value)
            if kind is str:
                if value in changes:
                    copy[at] = changes[value]
            elif kind is dict or kind is list:
                replace_strings(value, changes)
    return copy
