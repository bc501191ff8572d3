"""Loggers: structlog in front, the host's `logging` behind.

Nothing is configured globally: neither structlog, which is the host's, nor a handler or level of
`logging`. A line is a standard record of `z4j_fastapi.<layer>` with the fields twice: readable in
its message, for a plain text set-up, and as attributes of the record (`extra`), for a JSON or
structlog set-up. `event` holds the stable event name.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import structlog
from structlog.typing import EventDict

from z4j_fastapi.clock import Clock

#: Root of our logger tree.
TREE = "z4j_fastapi"

#: Attributes of every record. `logging` raises when `extra` names one of them.
_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_LOG_KEYWORDS = ("exc_info", "stack_info", "stacklevel")
#: From `logging`'s view: three frames of structlog's, then whoever logs.
_STACK_LEVEL = 4
_MAX_RATE_KEYS = 1_000

# With a handler in the chain, `logging` does not print on stderr where the host configured nothing.
logging.getLogger(TREE).addHandler(logging.NullHandler())


def get_logger(layer: str) -> structlog.stdlib.BoundLogger:
    """The logger of one layer, independent of the host's structlog configuration.

    Args:
        layer: Below our tree, such as `runtime` or `engines.arq`.
    """
    proxy: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(f"{TREE}.{layer}"),
        processors=[structlog.stdlib.filter_by_level, _to_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return proxy.bind()  # a logger of its own: the lazy proxy would ask the configuration each time


def set_level(level: str | int) -> None:
    """Set the level of our tree, and of nothing else.

    Args:
        level: As for `logging`; only what the user asked for explicitly.
    """
    # Python 3.10's logging refuses a text enum's member: give it the bare text.
    logging.getLogger(TREE).setLevel(level if isinstance(level, int) else str.__str__(level))


def _to_record(
    _logger: object, _method: str, event_dict: EventDict
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for the standard logger: a template stable for each event, its values, `extra`.

    The template lets error trackers group lines by event.
    """
    keywords = {key: event_dict.pop(key) for key in _LOG_KEYWORDS if key in event_dict}
    keywords.setdefault("stacklevel", _STACK_LEVEL)
    event = str(event_dict.pop("event", ""))
    positional = cast("tuple[Any, ...]", event_dict.pop("positional_args", ()))
    fields = {_field_name(key): value for key, value in event_dict.items()}
    parts = [event if positional else event.replace("%", "%%")]
    parts += [f"{name.replace('%', '%%')}=%s" for name in fields]
    values = (_Shown(value) for value in fields.values())
    keywords["extra"] = {**fields, "event": event}
    return (" ".join(parts), *positional, *values), keywords


def _field_name(key: str) -> str:
    return f"{key}_" if key in _RECORD_ATTRIBUTES or key == "event" else key


class _Shown:
    """A value as one word of a text line; rendered only if somebody prints the line."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        value = self._value
        if not isinstance(value, str):
            return repr(value)
        # Anything else is quoted and escaped, so that no value can fake a line or a field.
        plain = value.isprintable() and not any(char in " =\"'" for char in value)
        return value if value and plain else repr(value)

    __repr__ = __str__


class RateLimit:
    """Lets one line a minute through for each key, and says how many it held back.

    Takes no lock, so it can be used after a fork; a race costs at most one more line.

    Args:
        clock: Source of monotonic time.
        seconds: At most one line in this time.
    """

    __slots__ = ("_clock", "_held_back", "_last_at_monotonic", "_seconds")

    def __init__(self, *, clock: Clock, seconds: float = 60.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._last_at_monotonic: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def allow(self, key: str) -> int | None:
        """Whether to log now.

        Args:
            key: What the line is about; a small set of constants.
        Returns:
            None to stay silent, else how many lines were held back since the last one.
        """
        now = self._clock.monotonic()
        last = self._last_at_monotonic.get(key)
        if last is not None and now - last < self._seconds:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return None
        if len(self._last_at_monotonic) >= _MAX_RATE_KEYS:
            self._last_at_monotonic.clear()
        self._last_at_monotonic[key] = now
        return self._held_back.pop(key, 0)
