"""Events of a task's life, in the order and with the keys of engines.md 2.1."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from z4j_fastapi.correlation import lineage
from z4j_fastapi.engines.taskiq.labels import priority_of, wants_retry
from z4j_fastapi.engines.taskiq.runs import Outcome, Run
from z4j_fastapi.events import (
    Event,
    TaskFields,
    task_failed,
    task_received,
    task_retried,
    task_revoked,
    task_sent,
    task_started,
    task_succeeded,
)

if TYPE_CHECKING:
    from taskiq.message import TaskiqMessage

    from z4j_fastapi.task_meta import TaskMeta

ENGINE = "taskiq"


def fields_of(
    message: TaskiqMessage,
    *,
    queue: str | None,
    carrier: Mapping[str, object],
    meta: TaskMeta | None,
    middlewares: Sequence[object] = (),
) -> TaskFields:
    """Fields that every event of a message carries."""
    fields: dict[str, Any] = dict(lineage(carrier, task_id=message.task_id))
    if queue is not None:
        fields["queue"] = queue
    priority = priority_of(message.labels)
    if priority is not None:
        fields["priority"] = priority
    most = _max_attempts(message.labels, middlewares)
    if most is not None:
        fields["max_attempts"] = most
    if meta is not None:
        _put_meta(fields, meta)
    return fields  # type: ignore[return-value]


def enqueued_events(
    message: TaskiqMessage, fields: TaskFields, occurred_at: datetime
) -> tuple[Event, Event]:
    """`task.sent` and the `task.received` that makes the row (engines.md B1)."""
    task_id, name = message.task_id, message.task_name
    full: TaskFields = {**fields, "args": message.args, "kwargs": message.kwargs}
    received: TaskFields = {**full, "stage": "enqueued"}
    return (
        task_sent(ENGINE, task_id, name, occurred_at=occurred_at, **full),
        task_received(ENGINE, task_id, name, occurred_at=occurred_at, **received),
    )


def execution_events(run: Run, occurred_at: datetime) -> tuple[Event, Event]:
    """The worker's own `task.received` (engines.md B3), then `task.started`."""
    task_id, name = run.task_id, run.task_name
    received: TaskFields = {
        **run.fields,
        "args": run.message.args,
        "kwargs": run.message.kwargs,
        "stage": "worker",
    }
    return (
        task_received(ENGINE, task_id, name, occurred_at=occurred_at, **received),
        task_started(ENGINE, task_id, name, occurred_at=occurred_at, **run.fields),
    )


def outcome_event(
    run: Run,
    *,
    error: BaseException | str | None,
    result: object,
    runtime_ms: int | None,
    occurred_at: datetime,
) -> Event:
    """The one event that ends a run.

    Args:
        run: With its outcome set.
        error: The body's exception, not what a retry middleware put in its place.
        result: What the body returned.
        runtime_ms: None when the start was not seen.
        occurred_at: Aware time.
    """
    task_id, name = run.task_id, run.task_name
    if run.outcome is Outcome.SUCCEEDED:
        return task_succeeded(
            ENGINE,
            task_id,
            name,
            result=result,
            runtime_ms=runtime_ms,
            occurred_at=occurred_at,
            **run.fields,
        )
    if run.outcome is Outcome.REVOKED:
        revoked: TaskFields = {
            **run.fields,
            "terminated": True,
            "reason": "cancelled by an operator",
        }
        return task_revoked(
            ENGINE,
            task_id,
            name,
            runtime_ms=runtime_ms,
            occurred_at=occurred_at,
            **revoked,
        )
    exception: BaseException | str = error if error is not None else "unknown error"
    if run.outcome is Outcome.RETRIED:
        retried: TaskFields = {**run.fields, "retry_count": run.attempt}
        return task_retried(
            ENGINE,
            task_id,
            name,
            exception=exception,
            traceback=_traceback(exception),
            runtime_ms=runtime_ms,
            occurred_at=occurred_at,
            **retried,
        )
    return task_failed(
        ENGINE,
        task_id,
        name,
        exception=exception,
        traceback=_traceback(exception),
        runtime_ms=runtime_ms,
        occurred_at=occurred_at,
        **run.fields,
    )


def revoked_event(
    message: TaskiqMessage, *, queue: str, carrier: Mapping[str, object], reason: str
) -> Event:
    """A waiting message was taken out of its queue: the engine will never report it."""
    fields = fields_of(message, queue=queue, carrier=carrier, meta=None)
    fields["reason"] = reason
    fields["terminated"] = False
    return task_revoked(ENGINE, message.task_id, message.task_name, **fields)


def _traceback(exception: BaseException | str) -> str | None:
    if isinstance(exception, str) or exception.__traceback__ is None:
        return None
    return "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))


def _max_attempts(labels: Mapping[str, Any], middlewares: Sequence[object]) -> int | None:
    """How often the broker's retry middleware runs a task that keeps failing; None without one."""
    for middleware in middlewares:
        default = getattr(middleware, "default_retry_count", None)
        if isinstance(default, int):
            if not wants_retry(labels, default=getattr(middleware, "default_retry_label", False)):
                return 1
            try:
                return max(1, int(labels.get("max_retries", default)))
            except (TypeError, ValueError):
                return None
    return None


def _put_meta(fields: dict[str, Any], meta: TaskMeta) -> None:
    for name in ("tags", "priority", "expected_duration_ms", "deadline_ms"):
        value = getattr(meta, name, None)
        if value:
            fields[name] = value
