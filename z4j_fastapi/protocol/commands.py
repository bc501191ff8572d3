"""Typed commands: what the brain asks for, validated (spec: commands.md).

`parse_command` turns a verified `command` frame's payload into one of the dataclasses below.
Unknown members are ignored, missing optional ones are None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.parameters import ParameterReader, json_object, text_map

#: No bulk command works on more ids than this, whatever `max` says.
BULK_LIMIT = 10_000

_DEFAULT_TIMEOUT_SECONDS = 60
_MAX_TIMEOUT_SECONDS = 3_600
_ETA_PAST_SECONDS = 60.0
_ETA_AHEAD_SECONDS = 365 * 86_400.0
_RATE = re.compile(r"0|[0-9]{1,9}(/[smh])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of any action.

    Args:
        id: Command id: the identity for at-most-once.
        action: Wire name of the action.
        engine: Engine that must carry it out; None when the frame names none.
        claim_token: `delivery_claim_token`, echoed in ack and result.
        timeout_seconds: The brain waits this long from sending, 1 to 3600.
        issued_by: User UUID, None for the brain's own commands.
    """

    id: str
    action: str
    engine: str | None = None
    claim_token: str | None = None
    timeout_seconds: int = _DEFAULT_TIMEOUT_SECONDS
    issued_by: str | None = None

    @property
    def order_key(self) -> str | None:
        """Commands with the same key run one after another; None runs beside everything."""
        return None

    @property
    def identities(self) -> tuple[str, ...]:
        """Everything that makes a redelivery the same command (commands.md 12, 2)."""
        return (self.id,)

    @property
    def target(self) -> str:
        """What the command is about, for audit and logs: a task id, queue, worker or name."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskCommand(Command):
    task_id: str

    @property
    def order_key(self) -> str | None:
        """Commands of one task run in order."""
        return f"task:{self.engine}:{self.task_id}"

    @property
    def target(self) -> str:
        """The engine's task id."""
        return self.task_id


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTask(_TaskCommand):
    """Run a task again: by reference, or with both overrides."""

    task_name: str | None = None
    override_args: tuple[object, ...] | None = None
    override_kwargs: Mapping[str, object] | None = None
    eta: float | None = None  # POSIX seconds
    priority: str | None = None

    @property
    def has_overrides(self) -> bool:
        """Whether the operator gave args and kwargs (always both)."""
        return self.override_args is not None

    def require_usable_eta(self, now_seconds: float) -> None:
        """Refuse an eta more than 60 s in the past or more than a year ahead.

        Args:
            now_seconds: Current POSIX time.
        Raises:
            CommandError: `refused`.
        Spec: commands.md 4.
        """
        if self.eta is None:
            return
        ahead = self.eta - now_seconds
        if not -_ETA_PAST_SECONDS <= ahead <= _ETA_AHEAD_SECONDS:
            raise CommandError(
                "refused", "retry_task: eta is more than 60 s past or more than a year ahead"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask(_TaskCommand):
    """Cancel a waiting or running task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueDeadLetter(_TaskCommand):
    """Put a dead letter back by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileTask(_TaskCommand):
    """Say what the engine knows about a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRetry(Command):
    """Retry several tasks by reference. Never widened: no ids, nothing to do."""

    task_ids: tuple[str, ...] = ()
    task_names: Mapping[str, str] = field(default_factory=dict[str, str])
    task_priorities: Mapping[str, str] = field(default_factory=dict[str, str])
    skipped: int = 0  # ids beyond `max` or BULK_LIMIT

    @property
    def target(self) -> str:
        """How many tasks."""
        return f"{len(self.task_ids)} tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeQueue(Command):
    """Drop the waiting messages of one queue."""

    queue: str
    confirm_token: str | None = None
    force: bool = False

    @property
    def order_key(self) -> str | None:
        """Commands of one queue run in order."""
        return f"queue:{self.queue}"

    @property
    def target(self) -> str:
        """The queue's name."""
        return self.queue


@dataclass(frozen=True, slots=True, kw_only=True)
class ListDeadLetters(Command):
    """One page of dead letters, newest first."""

    queue: str | None = None
    limit: int = 100
    cursor: str | None = None

    @property
    def target(self) -> str:
        """The queue's name; empty for all queues."""
        return self.queue or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTask(Command):
    """Enqueue a task for a schedule that an operator runs now."""

    task_name: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    queue: str | None = None
    schedule_id: str | None = None
    schedule_name: str | None = None

    @property
    def target(self) -> str:
        """The task's name."""
        return self.task_name


@dataclass(frozen=True, slots=True, kw_only=True)
class FireSchedule(SubmitTask):
    """Enqueue a task because its schedule is due; identity is also `fire_id`."""

    fire_id: str
    scheduled_for: str | None = None
    fired_at: str | None = None

    @property
    def identities(self) -> tuple[str, ...]:
        """Command id and fire id: the same fire may come under another command."""
        return (self.id, f"fire:{self.fire_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkerCommand(Command):
    worker_name: str

    @property
    def order_key(self) -> str | None:
        """Commands of one worker run in order."""
        return f"worker:{self.worker_name}"

    @property
    def target(self) -> str:
        """The worker's name."""
        return self.worker_name


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartWorker(_WorkerCommand):
    """Restart a worker's pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePool(_WorkerCommand):
    """Grow or shrink a worker's pool by `delta`, always positive; the action says which."""

    delta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeConsumer(_WorkerCommand):
    """Add or cancel consumption of a queue; the action tells which."""

    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit(Command):
    """Limit a task's rate, on one worker or on all."""

    task_name: str
    rate: str  # "0" clears; "n", "n/s", "n/m", "n/h"
    worker_name: str | None = None

    @property
    def order_key(self) -> str | None:
        """Limits of one task are set in order."""
        return f"rate:{self.task_name}"

    @property
    def target(self) -> str:
        """The task's name."""
        return self.task_name


_Common = dict[str, object]


def _retry(read: ParameterReader, common: _Common) -> Command:
    args = read.optional_list("override_args")
    kwargs = read.optional_object("override_kwargs")
    if (args is None) != (kwargs is None):
        raise CommandError(
            "invalid", "retry_task: override_args and override_kwargs go together, or neither"
        )
    if kwargs is not None and any(key.startswith("__z4j_") for key in kwargs):
        raise CommandError("refused", "retry_task: override_kwargs must not name __z4j_* keys")
    return RetryTask(
        **common,  # type: ignore[arg-type]
        task_id=read.text("task_id", 200),
        task_name=read.optional_text("task_name", 500),
        override_args=args,
        override_kwargs=kwargs,
        eta=read.optional_number("eta"),
        priority=read.informational("priority", 40),
    )


def _bulk_retry(read: ParameterReader, common: _Common) -> Command:
    filters = read.optional_object("filter") or {}
    ids = filters.get("task_ids")
    unique: dict[str, None] = {}
    if ids is not None:
        if not isinstance(ids, list):
            raise CommandError("invalid", "bulk_retry: filter.task_ids must be a list")
        for item in cast("list[object]", ids):
            if not isinstance(item, str) or not item:
                raise CommandError("invalid", "bulk_retry: filter.task_ids must hold task ids")
            unique[item] = None
    limit = min(read.integer("max", 1, None, default=BULK_LIMIT), BULK_LIMIT)
    return BulkRetry(
        **common,  # type: ignore[arg-type]
        task_ids=tuple(unique)[:limit],
        skipped=max(0, len(unique) - limit),
        task_names=text_map(filters, "task_names"),
        task_priorities=text_map(filters, "task_priorities"),
    )


def _purge(read: ParameterReader, common: _Common) -> Command:
    return PurgeQueue(
        **common,  # type: ignore[arg-type]
        queue=read.text("queue", 200),
        confirm_token=read.optional_text("confirm_token", 128),
        force=read.flag("force"),
    )


def _dead_letters(read: ParameterReader, common: _Common) -> Command:
    try:
        cursor = read.optional_text("cursor", 200)
    except CommandError:
        # The brain turns exactly these words into a 422 (commands.md 7).
        raise CommandError("invalid", "invalid dead-letter cursor") from None
    return ListDeadLetters(
        **common,  # type: ignore[arg-type]
        queue=read.optional_text("queue", 200),
        limit=read.integer("limit", 1, 200, default=100),
        cursor=cursor,
    )


def _submission(read: ParameterReader, name: str) -> dict[str, object]:
    return {
        "task_name": read.text(name, 500),
        "args": read.optional_list("args") or (),
        "kwargs": read.optional_object("kwargs") or {},
        "queue": read.optional_text("queue", 200),
        # One failed fire disables its schedule, so what is only shown never fails (commands.md 8).
        "schedule_id": read.informational("schedule_id", 200),
        "schedule_name": read.informational("schedule_name", 500),
    }


def _submit(read: ParameterReader, common: _Common) -> Command:
    return SubmitTask(**common, **_submission(read, "name"))  # type: ignore[arg-type]


def _fire(read: ParameterReader, common: _Common) -> Command:
    return FireSchedule(
        **common,  # type: ignore[arg-type]
        **_submission(read, "task_name"),  # type: ignore[arg-type]
        fire_id=read.text("fire_id", 200),
        scheduled_for=read.informational("scheduled_for", 64),
        fired_at=read.informational("fired_at", 64),
    )


def _resize(read: ParameterReader, common: _Common) -> Command:
    return ResizePool(
        **common,  # type: ignore[arg-type]
        worker_name=read.text("worker_name", 200),
        delta=read.integer("delta", 1, 100),
    )


def _consumer(read: ParameterReader, common: _Common) -> Command:
    return ChangeConsumer(
        **common,  # type: ignore[arg-type]
        worker_name=read.text("worker_name", 200),
        queue=read.text("queue", 200),
    )


def _rate(read: ParameterReader, common: _Common) -> Command:
    rate = read.text("rate", 40)
    if not _RATE.fullmatch(rate):
        raise CommandError("invalid", "rate_limit: rate must be 0, n, n/s, n/m or n/h")
    return RateLimit(
        **common,  # type: ignore[arg-type]
        task_name=read.text("task_name", 500),
        rate=rate,
        worker_name=read.optional_text("worker_name", 200),
    )


def _by_task_id(kind: type[_TaskCommand]) -> Callable[[ParameterReader, _Common], Command]:
    def build(read: ParameterReader, common: _Common) -> Command:
        return kind(**common, task_id=read.text("task_id", 200))  # type: ignore[arg-type]

    return build


def _restart(read: ParameterReader, common: _Common) -> Command:
    return RestartWorker(**common, worker_name=read.text("worker_name", 200))  # type: ignore[arg-type]


_BUILDERS: Mapping[str, Callable[[ParameterReader, _Common], Command]] = {
    "retry_task": _retry,
    "cancel_task": _by_task_id(CancelTask),
    "requeue_dead_letter": _by_task_id(RequeueDeadLetter),
    "reconcile_task": _by_task_id(ReconcileTask),
    "bulk_retry": _bulk_retry,
    "purge_queue": _purge,
    "dlq.list": _dead_letters,
    "submit_task": _submit,
    "schedule.fire": _fire,
    "restart_worker": _restart,
    "pool_grow": _resize,
    "pool_shrink": _resize,
    "add_consumer": _consumer,
    "cancel_consumer": _consumer,
    "rate_limit": _rate,
}

KNOWN_ACTIONS: Sequence[str] = tuple(_BUILDERS)


def parse_envelope(command_id: str, payload: Mapping[str, object]) -> Command:
    """The members that every command has, whatever its action and however wrong its parameters.

    Enough to acknowledge, claim and answer it. Never raises for a verified frame.

    Args:
        command_id: The frame's `id`.
        payload: The frame's payload.
    """
    action = payload.get("action")
    timeout = payload.get("timeout_seconds")
    token = payload.get("delivery_claim_token")
    issuer = payload.get("issued_by")
    return Command(
        id=command_id,
        action=action if isinstance(action, str) else "",
        claim_token=token if isinstance(token, str) else None,
        timeout_seconds=timeout
        if isinstance(timeout, int)
        and not isinstance(timeout, bool)
        and 1 <= timeout <= _MAX_TIMEOUT_SECONDS
        else _DEFAULT_TIMEOUT_SECONDS,
        issued_by=issuer if isinstance(issuer, str) else None,
    )


def parse_command(command_id: str, payload: Mapping[str, object]) -> Command:
    """Validate a verified command's payload into a typed command.

    Args:
        command_id: The frame's `id`.
        payload: The frame's payload: action, target, parameters, timeout_seconds, issued_by,
            delivery_claim_token.
    Raises:
        CommandError: `unsupported` for an unknown action, `invalid` for a wrong parameter,
            `refused` where members contradict each other.
    Spec: commands.md 1 and 12.
    """
    head = parse_envelope(command_id, payload)
    build = _BUILDERS.get(head.action)
    if build is None:
        raise CommandError(
            "unsupported", f"this agent does not know the action {head.action[:80]!r}"
        )
    parameters = json_object(payload.get("parameters"))
    if parameters is None:
        raise CommandError("invalid", f"{head.action}: parameters must be an object")
    common: _Common = {
        "id": head.id,
        "action": head.action,
        "engine": _engine_of(head.action, payload, parameters),
        "claim_token": head.claim_token,
        "timeout_seconds": head.timeout_seconds,
        "issued_by": head.issued_by,
    }
    return build(ParameterReader(head.action, parameters), common)


def _engine_of(
    action: str, payload: Mapping[str, object], parameters: Mapping[str, object]
) -> str | None:
    """The engine that target, parameters and filter agree on; None when none is named."""
    named: set[str] = set()
    for source in (payload.get("target"), parameters, parameters.get("filter")):
        engine = (json_object(source) or {}).get("engine")
        if isinstance(engine, str) and engine:
            named.add(engine)
    if len(named) > 1:
        raise CommandError(
            "refused",
            f"{action}: the frame names several engines: "
            + ", ".join(name[:40] for name in sorted(named)),
        )
    return next(iter(named), None)
