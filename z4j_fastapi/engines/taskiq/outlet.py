"""Who listens to a broker's middleware: the attachments of one or several runtimes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.engines.base import Attachment, Guard
    from z4j_fastapi.events import EventSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """What the hooks use while anybody listens, replaced as a whole when that changes.

    Args:
        guard, clock: Those of the runtime that was attached first.
    """

    guard: Guard
    clock: Clock


class Subscriptions:
    """Attachments by owner, and the distinct sinks among them.

    Two adapters of one runtime (the lifespan's and a worker's in the same process) share a sink:
    each event is recorded there once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attachments: dict[int, Attachment] = {}
        self.outlet: Outlet | None = None
        self.sinks: tuple[EventSink, ...] = ()

    def add(self, owner: object, attachment: Attachment) -> bool:
        """Let `owner`'s attachment listen; a later one of the same owner takes its place.

        Returns:
            Whether its sink did not listen before.
        """
        with self._lock:
            is_new = all(sink is not attachment.sink for sink in self.sinks)
            self._attachments[id(owner)] = attachment
            self._publish()
            return is_new

    def remove(self, owner: object) -> bool:
        """Let `owner` listen no more; says whether nobody is left."""
        with self._lock:
            self._attachments.pop(id(owner), None)
            self._publish()
            return not self._attachments

    def attachments(self) -> tuple[Attachment, ...]:
        """Everybody who listens, the first one first."""
        return tuple(self._attachments.values())

    def _publish(self) -> None:
        sinks: list[EventSink] = []
        for attachment in self._attachments.values():
            if all(sink is not attachment.sink for sink in sinks):
                sinks.append(attachment.sink)
        first = next(iter(self._attachments.values()), None)
        self.sinks = tuple(sinks)
        self.outlet = None if first is None else Outlet(guard=first.guard, clock=first.clock)
