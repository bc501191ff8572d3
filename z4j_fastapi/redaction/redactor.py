"""The redactor: what every event, result and message goes through before it leaves the host.

Spec: redaction.md.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from z4j_fastapi.errors import RedactionConfigError
from z4j_fastapi.redaction.bounds import OMITTED, REDACTED, storable
from z4j_fastapi.redaction.hints import apply_hints
from z4j_fastapi.redaction.names import KeyRules
from z4j_fastapi.redaction.rendering import render
from z4j_fastapi.redaction.scrub import Scrubber
from z4j_fastapi.redaction.shortening import shorten
from z4j_fastapi.redaction.urls import MASK, mask_urls
from z4j_fastapi.redaction.walk import Walk, replace_strings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from z4j_fastapi.task_meta import TaskMeta

#: The brain finds rows by these; `[REDACTED]` would throw many into one.
_IDENTIFIERS = ("task_name", "queue", "worker", "parent_task_id", "root_task_id")
_MAX_HINTED_RULES = 256
_MASKED, _STAND_IN = f":{MASK}@", f":{MASK}\ue000"
#: No pattern matches these: no need to look at what most engines use as ids.
_PLAIN_ID = re.compile("[0-9a-f]{32}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9A-Za-z]{1,7}")


class Rendered(NamedTuple):
    """An event's data, ready to be stored and sent.

    Args:
        payload: Canonical JSON.
        shortened: Whether it was cut to `max_event_bytes`, or could not be rendered as a whole.
    """

    payload: bytes
    shortened: bool


class Redactor:
    """Redacts, bounds and renders. Any thread; holds no locks; never changes its input.

    Args:
        extra_key_patterns: Regular expressions, each against a whole key, ignoring case.
        extra_value_patterns: Regular expressions, searched for in every string, ignoring case.
            They have no anchors: each costs one search of each string.
        defaults_enabled: Whether the built-in names and patterns count. False is dangerous.
        max_payload_bytes: Most bytes of one string, marker included.
        max_event_bytes: Most bytes of one rendered event.

    Raises:
        RedactionConfigError: A pattern is empty or no regular expression. `check_patterns` also
            finds the slow ones.
    """

    __slots__ = ("_hinted", "_max_event_bytes", "_plain_ids", "_rules", "_scrubber")

    def __init__(
        self,
        *,
        extra_key_patterns: Sequence[str] = (),
        extra_value_patterns: Sequence[str] = (),
        defaults_enabled: bool = True,
        max_payload_bytes: int = 8_192,
        max_event_bytes: int = 65_536,
    ) -> None:
        self._max_event_bytes = max_event_bytes
        self._plain_ids = not extra_value_patterns
        self._scrubber = Scrubber(
            limit_bytes=max_payload_bytes,
            defaults_enabled=defaults_enabled,
            extra=_compiled("redaction_extra_value_patterns", extra_value_patterns),
        )
        self._rules = KeyRules(
            self._scrubber.text,
            defaults_enabled=defaults_enabled,
            extra=_compiled("redaction_extra_key_patterns", extra_key_patterns),
        )
        self._hinted: dict[frozenset[str], KeyRules] = {}

    def render(self, data: Mapping[str, object], *, meta: TaskMeta | None = None) -> Rendered:
        """Canonical JSON of an event's data, redacted and bounded. Never raises.

        Args:
            data: Flat keys to raw values; `traceback` is treated line by line.
            meta: The task's own hints.
        """
        try:
            source, rules = data, self._rules
            if meta is not None:
                source, rules = apply_hints(data, meta), self._rules_for(meta)
            walk = Walk(self._scrubber, rules)
            copy = walk.data(source)
            changes = self._scrubber.changes(walk.texts)
            if changes or walk.changed:
                replace_strings(copy, changes)
                _keep_identifiers(copy, source)
            payload = render(copy, exact=walk.exact)
            if len(payload) <= self._max_event_bytes:
                return Rendered(payload, False)
            hit = self._scrubber.hit
            payload = shorten(copy, self._max_event_bytes, exact=walk.exact, hit=hit)
            return Rendered(payload, shortened=True)
        except Exception:  # noqa: BLE001 - the last guard: an event must not break the host's call
            return self._identity(data)

    def _identity(self, data: Mapping[str, object]) -> Rendered:
        """What is left when an event cannot be rendered: the names that lead to its row."""
        kept: dict[str, str] = {"truncated": OMITTED}
        try:
            for key in _IDENTIFIERS:
                value = data.get(key)
                if type(value) is str:
                    kept[key] = self.safe_identifier(value)
        except Exception:  # noqa: BLE001 - as in `render`
            kept = {"truncated": OMITTED}
        return Rendered(render(kept, exact=True), shortened=True)

    def _rules_for(self, meta: TaskMeta) -> KeyRules:
        """The rules on keys, with the names that a task wants hidden."""
        if not meta.redact_kwargs:
            return self._rules
        rules = self._hinted.get(meta.redact_kwargs)
        if rules is None:
            if len(self._hinted) >= _MAX_HINTED_RULES:
                self._hinted.clear()
            rules = self._hinted[meta.redact_kwargs] = self._rules.with_names(meta.redact_kwargs)
        return rules

    def redact(self, value: object) -> Any:
        """A redacted, bounded, JSON-safe copy of `value`, for command results. Never raises."""
        try:
            walk = Walk(self._scrubber, self._rules)
            copy = walk.value(value)
            changes = self._scrubber.changes(walk.texts)
            return replace_strings(copy, changes) if changes else copy
        except Exception:  # noqa: BLE001 - as in `render`
            return REDACTED

    def redact_text(self, text: str, *, limit: int | None = None) -> str:
        """A message or log line without its secrets; passwords of URLs become `***`.

        Args:
            text: Any text.
            limit: Most bytes of UTF-8, `max_payload_bytes` if not given.
        """
        text = storable(str.__str__(text))
        limit_bytes = self._scrubber.limit_bytes if limit is None else limit
        masked = mask_urls(text)
        if masked == text:
            return self._scrubber.within(text, limit_bytes)
        # A masked URL still has the shape of one with a password: look at it with another sign.
        parts = self._scrubber.within(masked.replace(_MASKED, _STAND_IN), limit_bytes)
        return parts.replace(_STAND_IN, _MASKED)

    def safe_identifier(self, text: str) -> str:
        """A task id, worker, queue or task name in a form that survives the brain's own redaction.

        Args:
            text: The engine's name for it.

        Returns:
            The text itself unless it holds a secret by any pattern or is too long; then a token,
            the same for the same text in every process. Keep the map for commands.
        Spec: redaction.md section 1.
        """
        if self._plain_ids and _PLAIN_ID.fullmatch(text) is not None:
            return text
        shown = self._scrubber.text(text)
        return text if shown == text else _token(text)


def _keep_identifiers(copy: dict[str, Any], source: Mapping[str, object]) -> None:
    """Tokens in place of identifiers that were redacted."""
    for key in _IDENTIFIERS:
        raw = source.get(key)
        if type(raw) is str and copy.get(key) not in (raw, None):
            copy[key] = _token(raw)


def _token(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"id-{digest[:32]}"


def _compiled(field: str, patterns: Sequence[str]) -> list[re.Pattern[str]]:
    compiled: list[re.Pattern[str]] = []
    for number, pattern in enumerate(patterns, 1):
        if not pattern:
            raise RedactionConfigError(f"{field}: pattern {number} is empty")
        try:
            compiled.append(re.compile(pattern, re.IGNORECASE))
        except (re.error, OverflowError, RecursionError) as error:
            raise RedactionConfigError(
                f"{field}: pattern {number} is not a regular expression: {error}"
            ) from None
    return compiled
