"""What becomes of one string, and of all short strings of an event at once.

Spec: redaction.md sections 4, 5 and 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from z4j_fastapi.redaction.bounds import (
    REDACTED,
    SCAN_CHARS,
    byte_length,
    cut,
    scan_head,
    storable,
)
from z4j_fastapi.redaction.pairs import may_hold_pair, redact_pairs
from z4j_fastapi.redaction.patterns import fold, suspects

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence


class Scrubber:
    """Makes strings fit to leave the host.

    Args:
        limit_bytes: Most bytes of one string in UTF-8, marker included; at least 128.
        defaults_enabled: Whether the built-in patterns count.
        extra: The operator's value patterns; they have no anchors, so each is run on each string.
    """

    __slots__ = ("_defaults", "_extra", "limit_bytes", "short_chars")

    def __init__(
        self,
        *,
        limit_bytes: int,
        defaults_enabled: bool = True,
        extra: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self.limit_bytes = min(limit_bytes, SCAN_CHARS)
        self._defaults = defaults_enabled
        self._extra = tuple(extra)
        #: A string of so many characters fits whatever they are.
        self.short_chars = self.limit_bytes // 4

    def text(self, text: str) -> str:
        """The string to send for `text`: itself, or cut, or with values replaced, or the marker.

        Args:
            text: An exact `str`, any length.
        """
        return self.within(text, self.limit_bytes)

    def within(self, text: str, limit_bytes: int) -> str:
        """The same with another limit."""
        if len(text) <= SCAN_CHARS:
            total_bytes = 0
            shown = self.uncut(text)
        else:
            total_bytes = byte_length(text)
            shown = self.uncut(scan_head(text))
        if shown is REDACTED or max(byte_length(shown), total_bytes) <= limit_bytes:
            return shown
        shown = cut(shown, limit_bytes, total_bytes=total_bytes)
        # The end that the cut made may complete a shape, such as `\b` after four digits.
        return REDACTED if self.hit(shown) else shown

    def uncut(self, text: str) -> str:
        """`text`, of at most `SCAN_CHARS` characters, without its secrets."""
        try:
            folded = fold(text)
        except UnicodeEncodeError:
            text = storable(text)
            folded = fold(text)
        if "\0" in text:
            text = storable(text)
        if self._hit(text, folded):
            return REDACTED
        if self._defaults and may_hold_pair(folded):
            return redact_pairs(text)
        return text

    def hit(self, text: str) -> bool:
        """Whether a value pattern is anywhere in `text`, which must be storable."""
        return self._hit(text, fold(text))

    def _hit(self, text: str, folded: str) -> bool:
        if self._defaults:
            for shape in suspects(folded, ascii_only=text.isascii()):
                if shape.check(text):
                    return True
        return any(pattern.search(text) for pattern in self._extra)

    def changes(self, texts: list[str]) -> dict[str, str]:
        """What has to be replaced among many short strings, each by what.

        One look at all of them together: this is what an event without secrets costs.

        Args:
            texts: Exact strings of at most `short_chars` characters each.
        """
        joined = "\0".join(texts)
        try:
            folded = fold(joined)
        except UnicodeEncodeError:
            return self._changes(texts)
        if self._extra or joined.count("\0") != len(texts) - 1:
            return self._changes(texts)
        if not self._defaults:
            return {}
        found = suspects(folded, ascii_only=joined.isascii())
        pairs = may_hold_pair(folded)
        if not found and not pairs:
            return {}
        changes: dict[str, str] = {}
        for text, part in zip(texts, folded.split("\0"), strict=True):
            for shape in found:
                if shape.anchor in part and shape.check(text):
                    changes[text] = REDACTED
                    break
            else:
                if pairs and may_hold_pair(part):
                    shown = self.text(text)
                    if shown != text:
                        changes[text] = shown
        return changes

    def _changes(self, texts: Sequence[str]) -> dict[str, str]:
        changes: dict[str, str] = {}
        for text in texts:
            shown = self.text(text)
            if shown is not text:
                changes[text] = shown
        return changes
