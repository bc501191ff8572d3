"""The arq engine in one process (spec: engines.md 4)."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from arq.connections import ArqRedis, RedisSettings
from arq.constants import default_queue_name
from redis.exceptions import RedisError

from z4j_fastapi.engines.arq import cancel, dead_letters, retry
from z4j_fastapi.engines.arq.broker import Broker
from z4j_fastapi.engines.arq.capture import hooks
from z4j_fastapi.engines.arq.depth import depth_of
from z4j_fastapi.engines.arq.endpoint import endpoint_of_worker
from z4j_fastapi.engines.arq.observer import ENGINE, WorkerObserver, concurrency_of
from z4j_fastapi.engines.base import TaskDefinition, WorkerDetails
from z4j_fastapi.errors import CommandError, ConfigError

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.endpoint import Endpoint
    from z4j_fastapi.engines.base import Attachment, CommandContext, CommandOutcome
    from z4j_fastapi.events import Event
    from z4j_fastapi.protocol.commands import (
        BulkRetry,
        CancelTask,
        FireSchedule,
        ListDeadLetters,
        PurgeQueue,
        ReconcileTask,
        RequeueDeadLetter,
        RetryTask,
        SubmitTask,
    )

CAPABILITIES = (
    "submit_task",
    "cancel_task",
    "retry_task",
    "bulk_retry",
    "requeue_dead_letter",
    "list_dead_letters",
    "purge_queue",
    "retry_by_reference_v1",
)

#: Queues that were only seen in passing; bounds what a host with generated names can make of it.
_MAX_SEEN_QUEUES = 50


class ArqEngineAdapter:
    """arq, seen from a web process, a worker, or both in one.

    What is not given here is taken from the worker: `use_worker`.

    Args:
        redis_settings: `arq.connections.RedisSettings`, or an `ArqRedis` pool, whose serialisers
            and queue are then used too. The agent opens connections of its own.
        function_names: Names of the functions that may be submitted; empty when not known. The
            functions themselves (or `arq.func(...)`) do too: then their `z4j_meta` hints hold for
            what this process enqueues as well.
        queue_name: The queue, or several; None for the pool's, the worker's or `arq:queue`.
        redaction: Accepted for compatibility, without effect: the runtime's own redactor counts.
    Raises:
        ConfigError: An argument has a type that cannot be used.
    """

    name = ENGINE

    def __init__(
        self,
        *,
        redis_settings: RedisSettings | ArqRedis | None = None,
        function_names: Iterable[Any] = (),
        queue_name: str | Sequence[str] | None = None,
        redaction: object = None,
    ) -> None:
        del redaction
        source: Any = redis_settings  # users' code is not always typed
        if source is not None and not isinstance(source, (RedisSettings, ArqRedis)):
            raise ConfigError(
                "arq_redis_settings: must be arq.connections.RedisSettings or an ArqRedis pool, "
                f"not {type(source).__name__}"
            )
        self.broker = Broker(self)
        self._functions = _functions(function_names)
        self._queue_names = _names(
            "arq_queue_name", (queue_name,) if isinstance(queue_name, str) else queue_name or ()
        )
        self._was_given_queues = bool(self._queue_names)
        self._seen_queues: dict[str, None] = {}
        self._attachment: Attachment | None = None
        self._was_given_source = source is not None
        if source is not None:
            self.broker.use(source)

    # --- what the routes ask

    @property
    def attachment(self) -> Attachment | None:
        """Where events go; None while not attached."""
        return self._attachment

    @property
    def endpoint(self) -> Endpoint | None:
        """The Redis database; None when none was given."""
        return self.broker.endpoint

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues that were named, or taken from a worker."""
        return self._queue_names

    def learn(self, pool: Any, endpoint: Endpoint | None) -> None:
        """Remember how a pool of the host's writes jobs, where it leads to our database."""
        if endpoint is not None and endpoint == self.endpoint and not self.broker.codec.is_known:
            self.broker.codec.learn(pool)
            self._see(pool.default_queue_name)

    def use_worker(self, worker: Any) -> None:
        """Take from a worker what was not given: its Redis, queue, functions and serialisers.

        Args:
            worker: An `arq.worker.Worker`.
        """
        pool = worker._pool  # noqa: SLF001 - `pool` is a cast of it
        if not self._was_given_source and self.endpoint != endpoint_of_worker(worker):
            self.broker.use(worker.redis_settings if pool is None else pool)
        self.broker.codec.learn(worker if pool is None else pool)
        if not self._was_given_queues and worker.queue_name not in self._queue_names:
            self._queue_names = (*self._queue_names, worker.queue_name)
        hooks.routes.changed()

    # --- EngineAdapter

    def capabilities(self) -> Sequence[str]:
        """All of them with a Redis to talk to, none without (engines.md 11)."""
        return CAPABILITIES if self.broker.source is not None else ()

    def attach(self, attachment: Attachment) -> None:
        """Install the hooks and report to `attachment.sink` from now on. Idempotent."""
        self._attachment = attachment
        hooks.attach(self)
        for name, function in self._functions.items():
            if function is not None:
                hooks.routes.learn_meta(name, function)
        hooks.routes.changed()

    def detach(self) -> None:
        """Take the hooks out again with the last adapter of the process. Idempotent."""
        hooks.detach(self)
        self._attachment = None

    def tasks(self) -> Sequence[TaskDefinition]:
        """The functions of this process's workers, then the names that were given."""
        found: dict[str, TaskDefinition] = {}
        for observer in self._observers():
            for name, function in list(observer.worker.functions.items()):
                coroutine = inspect.unwrap(function.coroutine)
                found[name] = TaskDefinition(
                    name=name,
                    module=getattr(coroutine, "__module__", None) or "",
                    queue=observer.queue,
                    signature=_signature(coroutine),
                )
        for name in self._functions:
            found.setdefault(name, TaskDefinition(name=name))
        return tuple(found.values())

    async def queues(self) -> Mapping[str, int]:
        """Waiting and deferred jobs by queue; nothing while Redis does not answer."""
        if self.broker.source is None:
            return {}
        try:
            return {name: await depth_of(self.broker, name) for name in self.known_queues()}
        except (RedisError, OSError, CommandError) as error:
            if self._attachment is not None:
                self._attachment.logger.debug("arq.depth_unknown", error=type(error).__name__)
            return {}

    async def workers(self) -> Mapping[str, WorkerDetails]:
        """The workers that run in this process."""
        found: dict[str, WorkerDetails] = {}
        for observer in self._observers():
            worker = observer.worker
            if worker is None or not observer.is_online:
                continue
            known = found.get(observer.name)
            concurrency = concurrency_of(worker)
            found[observer.name] = WorkerDetails(
                pid=os.getpid(),
                concurrency=_sum(known.concurrency if known else None, concurrency),
                active=len(worker.job_tasks) + (known.active if known else 0),
                queues=_union(known.queues if known else (), (observer.queue,)),
                registered=_union(known.registered if known else (), tuple(worker.functions)),
            )
        return found

    async def aclose(self) -> None:
        """Close the agent's own connections."""
        await self.broker.aclose()

    # --- what the commands ask

    def known_queues(self) -> tuple[str, ...]:
        """Queues that were named, of this process's workers, or seen in use; one at least."""
        queues = dict.fromkeys(self._queue_names)
        queues.update(dict.fromkeys(observer.queue for observer in self._observers()))
        queues.update(self._seen_queues)
        return tuple(queues) or (default_queue_name,)

    def known_functions(self) -> frozenset[str]:
        """The functions that may be submitted; empty when they are not known."""
        return frozenset(task.name for task in self.tasks())

    def worker_running(self, job_id: str) -> Any:
        """The worker of this process that runs `job_id` now; None when none does."""
        for observer in self._observers():
            worker = observer.worker
            if worker is not None and job_id in worker.job_tasks:
                return worker
        return None

    def report(self, event: Event) -> None:
        """Record an event of the agent's own doing."""
        if self._attachment is not None:
            meta = hooks.routes.metas.get(str(event.data.get("task_name")))
            self._attachment.sink.record(event if meta is None else replace(event, meta=meta))

    def now(self) -> datetime:
        """Current wall-clock time."""
        if self._attachment is not None:
            return self._attachment.clock.now()
        return datetime.fromtimestamp(time.time(), tz=timezone.utc)

    # --- commands, on the agent's loop

    async def retry_task(self, command: RetryTask, context: CommandContext) -> CommandOutcome:
        """Run a job again: `retry.retry_task`."""
        return await retry.retry_task(self, command, context)

    async def bulk_retry(self, command: BulkRetry, context: CommandContext) -> CommandOutcome:
        """Run several jobs again by reference: `retry.bulk_retry`."""
        return await retry.bulk_retry(self, command, context)

    async def requeue_dead_letter(
        self, command: RequeueDeadLetter, context: CommandContext
    ) -> CommandOutcome:
        """Run a failed job again and drop its result: `retry.requeue_dead_letter`."""
        return await retry.requeue_dead_letter(self, command, context)

    async def submit_task(self, command: SubmitTask, context: CommandContext) -> CommandOutcome:
        """Enqueue a job now: `retry.submit_task`."""
        return await retry.submit_task(self, command, context)

    async def schedule_fire(self, command: FireSchedule, context: CommandContext) -> CommandOutcome:
        """Enqueue a job for a schedule that is due: `retry.schedule_fire`."""
        return await retry.schedule_fire(self, command, context)

    async def cancel_task(self, command: CancelTask, context: CommandContext) -> CommandOutcome:
        """Cancel a waiting or running job: `cancel.cancel_task`."""
        return await cancel.cancel_task(self, command, context)

    async def purge_queue(self, command: PurgeQueue, context: CommandContext) -> CommandOutcome:
        """Drop what waits in a queue: `cancel.purge_queue`."""
        return await cancel.purge_queue(self, command, context)

    async def list_dead_letters(
        self, command: ListDeadLetters, context: CommandContext
    ) -> CommandOutcome:
        """One page of failed jobs: `dead_letters.list_dead_letters`."""
        return await dead_letters.list_dead_letters(self, command, context)

    async def reconcile_task(
        self, command: ReconcileTask, context: CommandContext
    ) -> CommandOutcome:
        """What arq knows of a job: `dead_letters.reconcile_task`."""
        return await dead_letters.reconcile_task(self, command, context)

    def _observers(self) -> list[WorkerObserver]:
        """The workers of this process whose events come here."""
        mine = self._attachment
        if mine is None:
            return []
        return [
            one
            for one in hooks.observers()
            if any(target.sink is mine.sink for target in one.targets())
        ]

    def _see(self, queue: str) -> None:
        if len(self._seen_queues) < _MAX_SEEN_QUEUES:
            self._seen_queues[queue] = None


def _names(setting: str, given: Iterable[str]) -> tuple[str, ...]:
    """A tuple of names without duplicates."""
    if isinstance(given, str):
        given = (given,)
    names: tuple[Any, ...] = tuple(dict.fromkeys(given))  # users' code is not always typed
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{setting}: every name must be a text of at least one character")
    return names


def _functions(given: Iterable[Any]) -> dict[str, Any]:
    """Names, with the functions where those were given: as arq names them."""
    found: dict[str, Any] = {}
    for one in (given,) if isinstance(given, str) else given:
        function = getattr(one, "coroutine", one)  # of an arq Function or CronJob
        if callable(function):
            found[str(getattr(one, "name", None) or getattr(one, "__qualname__", ""))] = function
        else:
            found[one] = None
    _names("arq_function_names", found)
    return found


def _signature(coroutine: Any) -> str | None:
    try:
        return str(inspect.signature(coroutine))[:500]
    except (TypeError, ValueError):
        return None


def _sum(first: int | None, second: int | None) -> int | None:
    return second if first is None else first + (second or 0)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
