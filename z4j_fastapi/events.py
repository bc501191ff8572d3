"""Events: what happened to a task, a worker or a queue.

Adapters hand over raw values; the recorder redacts, bounds and renders them (`redaction.py`).
One constructor a kind, so that every engine fills the same keys in the same way
(spec: engines.md 2.1, wire-protocol.md 4).
"""

from __future__ import annotations

import enum
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol, TypedDict
from uuid import UUID

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from z4j_fastapi.task_meta import TaskMeta


class EventKind(str, enum.Enum):
    """The kinds of event that a 1.13 brain knows."""

    TASK_SENT = "task.sent"
    TASK_RECEIVED = "task.received"
    TASK_STARTED = "task.started"
    TASK_SUCCEEDED = "task.succeeded"
    TASK_FAILED = "task.failed"
    TASK_RETRIED = "task.retried"
    TASK_REVOKED = "task.revoked"
    TASK_REJECTED = "task.rejected"
    WORKER_ONLINE = "worker.online"
    WORKER_OFFLINE = "worker.offline"
    WORKER_HEARTBEAT = "worker.heartbeat"
    QUEUE_DEPTH_REPORT = "queue.depth_report"


class _EventIds:
    """UUID v4 values from random bytes drawn for many at once.

    One `os.urandom` call costs more than the checksum and the write of an event together
    (performance.md, "What decides the figures" 4).
    """

    _BATCH = 256

    def __init__(self) -> None:
        self._ints: list[int] = []
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A forked child must not hand out its parent's ids."""
        self._ints = []
        self._lock = threading.Lock()

    def __call__(self) -> UUID:
        try:
            value = self._ints.pop()  # atomic under the GIL: no lock on the common path
        except IndexError:
            value = self._refill()
        return UUID(int=value)

    def _refill(self) -> int:
        raw = os.urandom(16 * self._BATCH)
        clear = ~((0xF << 76) | (0x3 << 62))
        mark = (4 << 76) | (0x2 << 62)
        fresh = [
            (int.from_bytes(raw[at : at + 16], "big") & clear) | mark
            for at in range(0, len(raw), 16)
        ]
        with self._lock:
            value = fresh.pop()
            self._ints.extend(fresh)
        return value


new_event_id = _EventIds()


def utc_now() -> datetime:
    """Current time, aware, in UTC: the default `occurred_at`."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, before redaction.

    Args:
        kind: What happened.
        engine: Engine name such as `arq`; 1 to 40 characters.
        task_id: The engine's own id, at most 200 characters; empty for non-task events.
        data: Raw values; they are redacted and rendered when the event is recorded, so a later
            change of the mapping has no effect.
        occurred_at: Aware time in the engine, not of sending.
        id: Made once, the same at every delivery.
        meta: The task function's `z4j_meta` hints (`task_meta.TaskMeta`), applied when recorded.
    """

    kind: EventKind
    engine: str
    task_id: str = ""
    data: Mapping[str, object] = field(default_factory=dict[str, object])
    occurred_at: datetime = field(default_factory=utc_now)
    id: UUID = field(default_factory=new_event_id)
    meta: TaskMeta | None = field(default=None, compare=False, repr=False)


class EventSink(Protocol):
    """The one way in: what an engine adapter reports to."""

    def record(self, event: Event) -> None:
        """Redact, render and store `event` durably. Any thread; never raises, never waits."""
        ...


class TaskFields(TypedDict, total=False):
    """Keys of a task event's `data`; leave out what is unknown (engines.md 2.1)."""

    queue: str | None
    args: Sequence[object] | None
    kwargs: Mapping[str, object] | None
    worker: str | None
    attempt: int | None  # 1-based
    max_attempts: int | None
    retry_count: int | None  # attempts already done
    eta: datetime | str | None
    priority: str | None  # critical, high, normal, low
    parent_task_id: str | None
    root_task_id: str | None
    traceparent: str | None
    request_id: str | None
    stage: str | None  # "enqueued" or "worker", on task.received
    reason: str | None
    terminated: bool | None
    expired: bool | None
    tags: Sequence[str] | None
    expected_duration_ms: int | None
    deadline_ms: int | None


def _data(task_name: str, fields: Mapping[str, object]) -> dict[str, object]:
    known = {key: value for key, value in fields.items() if value is not None}
    return {"task_name": task_name, **known}


def task_sent(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """The broker accepted a task. Never creates a row: always followed by `task_received`."""
    return _event(EventKind.TASK_SENT, engine, task_id, _data(task_name, fields), occurred_at)


def task_received(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """A task is known, with queue, args and kwargs: the only kind that writes them to the row."""
    return _event(EventKind.TASK_RECEIVED, engine, task_id, _data(task_name, fields), occurred_at)


def task_started(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """The body is about to run."""
    return _event(EventKind.TASK_STARTED, engine, task_id, _data(task_name, fields), occurred_at)


def task_succeeded(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    result: object,
    runtime_ms: int | None,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """The body returned `result`; `runtime_ms` is on our own monotonic clock."""
    data = _data(task_name, fields)
    data["result"] = result
    if runtime_ms is not None:
        data["runtime_ms"] = runtime_ms
    return _event(EventKind.TASK_SUCCEEDED, engine, task_id, data, occurred_at)


def task_failed(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    exception: BaseException | str,
    traceback: str | None = None,
    runtime_ms: int | None = None,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """The task failed for good. `exception` becomes `"Type: message"`, at most 500 characters."""
    data = _data(task_name, fields)
    _put_exception(data, exception, traceback)
    if runtime_ms is not None:
        data["runtime_ms"] = runtime_ms
    return _event(EventKind.TASK_FAILED, engine, task_id, data, occurred_at)


def task_retried(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    exception: BaseException | str | None = None,
    traceback: str | None = None,
    runtime_ms: int | None = None,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """The attempt ended and the engine will try again; give `retry_count`."""
    data = _data(task_name, fields)
    if exception is not None:
        _put_exception(data, exception, traceback)
    if runtime_ms is not None:
        data["runtime_ms"] = runtime_ms
    return _event(EventKind.TASK_RETRIED, engine, task_id, data, occurred_at)


def task_revoked(
    engine: str,
    task_id: str,
    task_name: str,
    *,
    runtime_ms: int | None = None,
    occurred_at: datetime | None = None,
    **fields: Unpack[TaskFields],
) -> Event:
    """The task was cancelled, before or while it ran (`terminated`)."""
    data = _data(task_name, fields)
    if runtime_ms is not None:
        data["runtime_ms"] = runtime_ms
    return _event(EventKind.TASK_REVOKED, engine, task_id, data, occurred_at)


def worker_online(
    engine: str,
    worker: str,
    *,
    queues: Sequence[str] = (),
    concurrency: int | None = None,
    pid: int | None = None,
) -> Event:
    """A worker process began to take tasks."""
    return _event(
        EventKind.WORKER_ONLINE, engine, "", _worker_data(worker, queues, concurrency, pid), None
    )


def worker_offline(engine: str, worker: str, *, pid: int | None = None) -> Event:
    """A worker process stopped taking tasks."""
    return _event(EventKind.WORKER_OFFLINE, engine, "", _worker_data(worker, (), None, pid), None)


def _worker_data(
    worker: str, queues: Sequence[str], concurrency: int | None, pid: int | None
) -> dict[str, object]:
    data: dict[str, object] = {"worker": worker}
    if queues:
        data["queues"] = list(queues)
    if concurrency is not None:
        data["concurrency"] = concurrency
    if pid is not None:
        data["pid"] = pid
    return data


def _put_exception(
    data: dict[str, object], exception: BaseException | str, traceback: str | None
) -> None:
    if isinstance(exception, BaseException):
        name = type(exception).__name__
        try:
            text = str(exception)
        except Exception:  # noqa: BLE001 - a user's __str__ may raise anything; the type is enough
            text = "<unprintable>"
        data["exception"] = f"{name}: {text}"[:500] if text else name
        data["exception_type"] = name
    else:
        data["exception"] = exception[:500]
        head = exception.partition(":")[0].strip()
        if head.isidentifier():
            data["exception_type"] = head
    if traceback is not None:
        data["traceback"] = traceback


def _event(
    kind: EventKind,
    engine: str,
    task_id: str,
    data: dict[str, object],
    occurred_at: datetime | None,
) -> Event:
    return Event(
        kind=kind,
        engine=engine,
        task_id=task_id,
        data=data,
        occurred_at=occurred_at if occurred_at is not None else utc_now(),
    )
