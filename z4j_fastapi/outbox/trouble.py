"""Log lines about trouble: one when it begins and one when it is over, not one a record."""

from __future__ import annotations

import threading
from typing import Any, Protocol


class EventLogger(Protocol):
    """What of a structlog logger is used here: an event name and fields."""

    def info(self, *event: Any, **fields: Any) -> Any:
        """Something an operator may want to know."""
        ...

    def warning(self, *event: Any, **fields: Any) -> Any:
        """Something an operator should look at."""
        ...


class TroubleLog:
    """Says each kind of trouble once an episode. Any thread; never called under a lane's lock.

    Args:
        logger: Where lines go; None for nowhere.
    """

    __slots__ = ("_lock", "_logger", "_open")

    def __init__(self, logger: EventLogger | None) -> None:
        self._logger = logger
        self._lock = threading.RLock()
        self._open: set[str] = set()

    def begin(self, event: str, **fields: object) -> None:
        """Log a warning unless this trouble is known to last already."""
        with self._lock:
            if event in self._open:
                return
            self._open.add(event)
        self.warning(event, **fields)

    def end(self, event: str, **fields: object) -> None:
        """Log that trouble is over, if it had begun."""
        if event not in self._open:  # the common case, without the lock
            return
        with self._lock:
            if event not in self._open:
                return
            self._open.discard(event)
        self.info(event + "_over", **fields)

    def info(self, event: str, **fields: object) -> None:
        """Log one line."""
        if self._logger is not None:
            self._logger.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log one warning."""
        if self._logger is not None:
            self._logger.warning(event, **fields)
