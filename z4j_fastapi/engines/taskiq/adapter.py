"""taskiq in one process: one adapter for one or several brokers."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskiq.abc.broker import AsyncBroker

from z4j_fastapi.engines.base import (
    Attachment,
    CommandContext,
    CommandOutcome,
    TaskDefinition,
    WorkerDetails,
)
from z4j_fastapi.engines.taskiq import commands, list_queue, stream_queue
from z4j_fastapi.engines.taskiq.brokers import BrokerKind
from z4j_fastapi.engines.taskiq.cancel import cancel
from z4j_fastapi.engines.taskiq.connection import redis_errors
from z4j_fastapi.engines.taskiq.handle import BrokerHandle
from z4j_fastapi.engines.taskiq.middleware import install, uninstall
from z4j_fastapi.engines.taskiq.reconcile import reconcile
from z4j_fastapi.engines.taskiq.reporting import ENGINE
from z4j_fastapi.engines.taskiq.runs import Outcome
from z4j_fastapi.errors import CommandError, ConfigError
from z4j_fastapi.task_meta import meta_of

if TYPE_CHECKING:
    from z4j_fastapi.protocol.commands import (
        BulkRetry,
        CancelTask,
        FireSchedule,
        PurgeQueue,
        ReconcileTask,
        RetryTask,
        SubmitTask,
    )


class TaskiqEngineAdapter:
    """Reports the tasks of taskiq brokers and carries out commands on them.

    Args:
        brokers: The brokers of this process; the same one twice counts once.
        broker: One more, as the official adapter takes it.
        broker_loop: The loop that the brokers belong to; found out when they start, if not given.
        redaction: Accepted for the official signature; redaction is the recorder's business.
    Raises:
        ConfigError: Something given is not a taskiq broker.
    Spec: engines.md 3, 5, 11.
    """

    name = ENGINE

    def __init__(
        self,
        *,
        brokers: Iterable[object] = (),
        broker: object | None = None,
        broker_loop: asyncio.AbstractEventLoop | None = None,
        redaction: object = None,
    ) -> None:
        del redaction
        self._lock = threading.Lock()
        self._handles: tuple[BrokerHandle, ...] = ()
        self._attachment: Attachment | None = None
        given = [*brokers, *(() if broker is None else (broker,))]
        for each in given:
            self.add_broker(each, loop=broker_loop)

    # -- life ----------------------------------------------------------------------------------

    @property
    def brokers(self) -> tuple[AsyncBroker, ...]:
        """The brokers, in the order in which they came."""
        return tuple(handle.broker for handle in self._handles)

    @property
    def is_attached(self) -> bool:
        """Whether a runtime listens."""
        return self._attachment is not None

    def add_broker(
        self,
        broker: object,
        *,
        queue: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take one more broker, or more about one that is already there.

        Args:
            broker: The user's broker.
            queue: How to call its main queue in events.
            loop: The loop that it belongs to.
        Raises:
            ConfigError: Not a taskiq broker.
        """
        if not isinstance(broker, AsyncBroker):
            raise ConfigError(
                f"taskiq_brokers: {type(broker).__name__} is not a taskiq broker; "
                "give the AsyncBroker object that your tasks are registered with"
            )
        with self._lock:
            handle = next((each for each in self._handles if each.broker is broker), None)
            is_new = handle is None
            if handle is None:
                handle = BrokerHandle(broker)
                self._handles = (*self._handles, handle)
            handle.queue = queue or handle.queue
            handle.loop = loop or handle.loop
            attachment = self._attachment
        if is_new and attachment is not None:
            self._listen(handle, attachment)

    def attach(self, attachment: Attachment) -> None:
        """Put our middleware on the brokers and report to `attachment.sink`. Idempotent."""
        with self._lock:
            self._attachment = attachment
            handles = self._handles
        for handle in handles:
            self._listen(handle, attachment)

    def detach(self) -> None:
        """Stop reporting; the middleware goes with the last adapter that used it. Idempotent."""
        with self._lock:
            attachment, self._attachment = self._attachment, None
            handles = self._handles
        if attachment is None:
            return
        for handle in handles:
            middleware = handle.middleware
            if middleware is not None and middleware.subscriptions.remove(self):
                middleware.presence.unwatch()
                uninstall(middleware)

    async def worker_started(self, broker: AsyncBroker) -> None:
        """A worker process began to take this broker's tasks. On the broker's loop."""
        for handle in self._handles:
            middleware = handle.middleware
            if handle.broker is broker and middleware is not None:
                middleware.presence.is_managed = True
                middleware.presence.see_loop()
                middleware.presence.announce_online()

    async def worker_stopping(self, broker: AsyncBroker) -> None:
        """A worker process takes no more of this broker's tasks. On the broker's loop.

        Tasks that taskiq did not wait for (0.11 waits for none, later versions as long as
        `--wait-tasks-timeout` says) never go on. A list's message is gone with them; a stream's was
        not acknowledged, so another worker gets it.
        """
        for handle in self._handles:
            middleware = handle.middleware
            if handle.broker is broker and middleware is not None:
                again = handle.kind is BrokerKind.STREAM
                middleware.report_unfinished(Outcome.RETRIED if again else Outcome.FAILED)
                middleware.presence.is_managed = False
                await middleware.presence.announce_offline()

    async def aclose(self) -> None:
        """Close our own Redis connections. On the agent's loop."""
        for handle in self._handles:
            await handle.aclose()

    def _listen(self, handle: BrokerHandle, attachment: Attachment) -> None:
        middleware = install(handle.broker)
        if handle.queue is not None:
            middleware.queue_name = handle.queue
        middleware.presence.watch()
        if middleware.subscriptions.add(self, attachment):
            middleware.presence.announce_to(attachment)

    # -- what is known -------------------------------------------------------------------------

    def capabilities(self) -> Sequence[str]:
        """Capability tokens, by what the brokers can be asked for (engines.md 11)."""
        kinds = {handle.kind for handle in self._handles}
        if not kinds:
            return ()
        tokens = ["submit_task", "retry_task"]
        if kinds & {BrokerKind.LIST, BrokerKind.STREAM}:
            tokens.append("cancel_task")
        if BrokerKind.LIST in kinds:
            tokens.append("purge_queue")
        tokens.append("retry_by_reference_v1")
        return tokens

    def tasks(self) -> Sequence[TaskDefinition]:
        """The registered tasks of all brokers."""
        found: dict[str, TaskDefinition] = {}
        for handle in self._handles:
            middleware = handle.middleware
            default = middleware.default_queue() if middleware is not None else handle.queue
            for name, task in handle.broker.get_all_tasks().items():
                label = task.labels.get("queue_name")
                function = task.original_func
                meta = meta_of(function)
                found.setdefault(
                    name,
                    TaskDefinition(
                        name=name,
                        module=getattr(function, "__module__", "") or "",
                        queue=label if isinstance(label, str) and label else default,
                        signature=_signature_of(function),
                        tags=tuple(meta.tags) if meta is not None and meta.tags else (),
                    ),
                )
        return list(found.values())

    async def queues(self) -> Mapping[str, int]:
        """Waiting messages by queue, of list and stream brokers that answer."""
        by_place: dict[tuple[tuple[object, ...], str], tuple[str, int]] = {}
        for handle in self._handles:
            if handle.kind is BrokerKind.OTHER:
                continue
            for key in handle.queue_keys():
                try:
                    depth = await _depth_of(handle, key)
                except tuple(redis_errors()) as error:
                    self._log_unmeasured(key, error)
                    continue
                if depth is not None:
                    by_place[handle.server, key] = (handle.shown(key), depth)
        depths: dict[str, int] = {}
        for shown, depth in by_place.values():
            depths[shown] = depths.get(shown, 0) + depth
        return depths

    async def workers(self) -> Mapping[str, WorkerDetails]:
        """This process, if it takes tasks of one of the brokers."""
        queues: dict[str, None] = {}
        registered: dict[str, None] = {}
        active, name, pid = 0, None, None
        for handle in self._handles:
            middleware = handle.middleware
            if middleware is None or not middleware.presence.is_worker:
                continue
            name = middleware.presence.worker_name()
            pid = int(name.rpartition(":")[2])
            active += len(middleware.running)
            queue = middleware.default_queue()
            if queue is not None:
                queues[queue] = None
            registered.update(dict.fromkeys(handle.broker.get_all_tasks()))
        if name is None:
            return {}
        return {
            name: WorkerDetails(
                pid=pid, active=active, queues=tuple(queues), registered=tuple(registered)
            )
        }

    def _log_unmeasured(self, queue: str, error: BaseException) -> None:
        if self._attachment is not None:
            self._attachment.logger.debug(
                "queue_not_measured", queue=queue, error=type(error).__name__
            )

    # -- commands ------------------------------------------------------------------------------

    async def submit_task(self, command: SubmitTask, context: CommandContext) -> CommandOutcome:
        """Enqueue a task that an operator runs now."""
        return await commands.submit_task(self._handles, command, context)

    async def schedule_fire(self, command: FireSchedule, context: CommandContext) -> CommandOutcome:
        """Enqueue a task because its schedule is due."""
        return await commands.submit_task(self._handles, command, context)

    async def retry_task(self, command: RetryTask, context: CommandContext) -> CommandOutcome:
        """Run a task again with the operator's arguments."""
        return await commands.retry(self._handles, command, context)

    async def bulk_retry(self, command: BulkRetry, context: CommandContext) -> CommandOutcome:
        """Always refused, and not advertised: results hold no arguments to retry with."""
        del context
        raise CommandError(
            "unsupported",
            "taskiq keeps no arguments of finished tasks: retry one at a time with overrides",
            result={"requested": len(command.task_ids), "succeeded": 0},
        )

    async def cancel_task(self, command: CancelTask, context: CommandContext) -> CommandOutcome:
        """Cancel a waiting or a running task."""
        return await cancel(self._handles, command.task_id, context)

    async def purge_queue(self, command: PurgeQueue, context: CommandContext) -> CommandOutcome:
        """Drop the waiting messages of a list queue."""
        return await commands.purge(self._handles, command, context)

    async def reconcile_task(
        self, command: ReconcileTask, context: CommandContext
    ) -> CommandOutcome:
        """Say what taskiq knows about a task."""
        return await reconcile(self._handles, command.task_id, context)


async def _depth_of(handle: BrokerHandle, key: str) -> int | None:
    redis = handle.redis()
    if handle.kind is BrokerKind.LIST:
        return await list_queue.depth_of(redis, key)
    group: Any = getattr(handle.broker, "consumer_group_name", "")
    return await stream_queue.depth_of(redis, key, group=str(group))


def _signature_of(function: object) -> str | None:
    """Parameter names and kinds; default values are left out, since they may be secrets."""
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    return str(
        signature.replace(
            parameters=[each.replace(default=empty) for each in signature.parameters.values()]
        )
    )
