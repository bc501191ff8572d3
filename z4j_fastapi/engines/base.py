"""What an engine adapter is, in the words of the runtime that uses it.

An adapter reports through `Attachment.sink` and is commanded through one coroutine method per
action; `COMMAND_METHODS` says which method carries out which action. The runtime never calls a
method whose capability token is not in `capabilities()` (`reconcile_task` has no token).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.events import EventSink
    from z4j_fastapi.protocol.commands import PurgeQueue

T = TypeVar("T")

#: `with guard("arq.enqueue_job"): ...` contains, counts and logs whatever is raised inside.
Guard = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What the runtime lends to an adapter when it is attached.

    Args:
        sink: Where events go; `sink.record` never raises and never waits.
        guard: Wrap every piece of ours that runs inside a hook of the host's.
        logger: structlog logger of `z4j_fastapi.engines.<name>`.
        clock: The container's clock.
    """

    sink: EventSink
    guard: Guard
    logger: structlog.stdlib.BoundLogger
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task that the engine can run, for `registry_delta` (wire-protocol 5)."""

    name: str
    module: str = ""
    queue: str | None = None
    signature: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDetails:
    """One worker process, for the heartbeat's `worker_details` (wire-protocol 5)."""

    pid: int | None = None
    concurrency: int | None = None
    active: int = 0
    queues: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()


class CommandContext(Protocol):
    """What a command method may ask of the dispatcher while it runs."""

    def remaining_seconds(self) -> float:
        """Seconds until the dispatcher gives up; never below 0."""
        ...

    async def run_blocking(self, call: Callable[..., T], /, *args: Any) -> T:
        """Run a blocking broker call in the agent's small thread pool."""
        ...

    def authorize_purge(self, command: PurgeQueue, depth: int | None) -> None:
        """Check the confirm token against the depth measured now (commands.md 5).

        Args:
            command: The purge being carried out.
            depth: Messages waiting at this moment; None when it cannot be measured.
        Raises:
            CommandError: `refused`: the depth moved, is unknown, is over the threshold, or there
                is neither token nor force.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOutcome:
    """A finished command. Raise `CommandError` for a failure.

    Args:
        result: JSON-safe object; redacted and capped by the dispatcher.
        error: None for success; set only together with a result worth keeping on failure.
    """

    result: Mapping[str, object] = field(default_factory=dict[str, object])
    error: str | None = None


class EngineAdapter(Protocol):
    """One engine in one process."""

    @property
    def name(self) -> str:
        """The engine's name on the wire, such as `arq`."""
        ...

    def capabilities(self) -> Sequence[str]:
        """Capability tokens that this process can honour now (commands.md 9, engines.md 11)."""
        ...

    def attach(self, attachment: Attachment) -> None:
        """Install the hooks and report to `attachment.sink` from now on. Idempotent.

        Raises:
            ConfigError: The handle cannot be used.
        """
        ...

    def detach(self) -> None:
        """Take the hooks out again where they are still ours. Idempotent, never raises."""
        ...

    def tasks(self) -> Sequence[TaskDefinition]:
        """The tasks known in this process; empty when unknown."""
        ...

    async def queues(self) -> Mapping[str, int]:
        """Waiting messages by queue, for those that can be measured. On the agent's loop."""
        ...

    async def workers(self) -> Mapping[str, WorkerDetails]:
        """Worker processes that this process knows itself to be. On the agent's loop."""
        ...

    async def aclose(self) -> None:
        """Close the agent's own broker connections. On the agent's loop, at stop."""
        ...


#: Wire action to (capability token needed or None, adapter method).
COMMAND_METHODS: Mapping[str, tuple[str | None, str]] = {
    "retry_task": ("retry_task", "retry_task"),
    "cancel_task": ("cancel_task", "cancel_task"),
    "bulk_retry": ("bulk_retry", "bulk_retry"),
    "purge_queue": ("purge_queue", "purge_queue"),
    "requeue_dead_letter": ("requeue_dead_letter", "requeue_dead_letter"),
    "dlq.list": ("list_dead_letters", "list_dead_letters"),
    "reconcile_task": (None, "reconcile_task"),
    "submit_task": ("submit_task", "submit_task"),
    "schedule.fire": ("submit_task", "schedule_fire"),
    "restart_worker": ("restart_worker", "restart_worker"),
    "pool_grow": ("pool_grow", "pool_grow"),
    "pool_shrink": ("pool_shrink", "pool_shrink"),
    "add_consumer": ("add_consumer", "add_consumer"),
    "cancel_consumer": ("cancel_consumer", "cancel_consumer"),
    "rate_limit": ("rate_limit", "rate_limit"),
}

CommandMethod = Callable[[Any, CommandContext], Awaitable[CommandOutcome]]
