"""What tests of the taskiq engine share: a recording sink, an attachment, a command context."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from taskiq import InMemoryBroker

from z4j_fastapi.clock import SystemClock
from z4j_fastapi.engines.base import Attachment
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from z4j_fastapi.events import Event
    from z4j_fastapi.protocol.commands import PurgeQueue


class RecordingSink:
    """Keeps every event; tests wait for what they expect."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = threading.Condition()

    def record(self, event: Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def kinds(self, task_id: str | None = None) -> list[str]:
        return [event.kind.value for event in self.of(task_id)]

    def of(self, task_id: str | None = None) -> list[Event]:
        return [event for event in self.events if task_id is None or event.task_id == task_id]

    def one(self, kind: str, task_id: str | None = None, **data: object) -> Event:
        """The only event of a kind (and with these data)."""
        found = [
            event
            for event in self.of(task_id)
            if event.kind.value == kind
            and all(event.data.get(key) == value for key, value in data.items())
        ]
        assert len(found) == 1, (kind, self.kinds(task_id))
        return found[0]


class InPlaceBroker(InMemoryBroker):
    """Runs a task inside `kick`, as `InMemoryBroker(await_inplace=True)`, which 0.11.1 lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.await_inplace = True

    async def kick(self, message: Any) -> None:
        if self.find_task(message.task_name) is None:
            raise LookupError(message.task_name)
        await self.receiver.callback(message=message.message)


@contextmanager
def strict_guard(place: str) -> Iterator[None]:
    """Hides nothing: a mistake of ours fails the test."""
    del place
    yield


class CountingGuard:
    """Contains errors like the real guard, and remembers where."""

    def __init__(self) -> None:
        self.places: list[str] = []

    @contextmanager
    def __call__(self, place: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.places.append(place)


def attachment_to(
    sink: RecordingSink, *, guard: Any = strict_guard, clock: Any = None
) -> Attachment:
    return Attachment(
        sink=sink,
        guard=guard,
        logger=structlog.stdlib.get_logger("z4j_fastapi.engines.taskiq"),
        clock=clock or SystemClock(),
    )


class Context:
    """A command context with a deadline; `depths` are what purges were authorized for."""

    def __init__(self, seconds: float = 15.0, *, refuse_purge: bool = False) -> None:
        self._deadline = time.monotonic() + seconds
        self._refuse = refuse_purge
        self.depths: list[int | None] = []

    def remaining_seconds(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    async def run_blocking(self, call: Callable[..., Any], /, *args: Any) -> Any:
        return call(*args)

    def authorize_purge(self, command: PurgeQueue, depth: int | None) -> None:
        del command
        self.depths.append(depth)
        if self._refuse:
            raise CommandError("refused", "the depth moved")
