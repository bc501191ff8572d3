"""An enqueue in this process, as `task.sent` and `task.received` (spec: engines.md B1, 4.2)."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from arq.connections import ArqRedis

from z4j_fastapi import correlation, events
from z4j_fastapi.engines import wrapping
from z4j_fastapi.engines.arq.carrier import carrying_serializer
from z4j_fastapi.engines.arq.endpoint import Endpoint, endpoint_of_pool
from z4j_fastapi.engines.arq.observer import ENGINE

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.routing import Routes, Subscriber
    from z4j_fastapi.engines.base import Attachment

#: More of the event's data, for enqueues that the agent itself makes (a schedule's ids).
extra_data: ContextVar[Mapping[str, object] | None] = ContextVar("z4j_arq_extra", default=None)

#: Attribute of an agent's own client: the adapter that its enqueues belong to.
OWNER = "z4j_owner"

#: What `enqueue_job` keeps for itself; everything else goes to the function.
_OPTIONS = frozenset(
    name for name in inspect.signature(ArqRedis.enqueue_job).parameters if name.startswith("_")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueuePlan:
    """What is known before arq writes the job.

    Args:
        targets: Where the events go.
        queue: Name of the queue.
        at: When the enqueue began. Not when it ended: a quick worker's own events would be older
            than ours, and the brain takes the newer one for the task's state (B3).
        eta: When the job is due, if that is later.
        carrier: What goes along in the message.
    """

    targets: tuple[Attachment, ...]
    queue: str
    at: datetime
    eta: datetime | None
    carrier: Mapping[str, str]


class EnqueueObserver:
    """All enqueues of this process, through any pool.

    Args:
        routes: The attached adapters.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._pools: weakref.WeakKeyDictionary[Any, _Pool] = weakref.WeakKeyDictionary()

    def plan(self, pool: Any, options: Mapping[str, Any]) -> EnqueuePlan | None:
        """Get ready for one enqueue; None when nobody wants to hear of it. Never raises.

        Args:
            pool: The `ArqRedis` that will enqueue.
            options: Keyword arguments of `enqueue_job`, those for the function among them.
        """
        guard = self._routes.guard()
        if guard is None:
            return None
        with guard("arq.enqueue_job"):
            queue = options.get("_queue_name") or pool.default_queue_name
            targets = self._pool(pool).targets(self._routes, queue)
            if not targets:
                return None
            now = targets[0].clock.now()
            return EnqueuePlan(
                targets=targets,
                queue=queue,
                at=now,
                eta=_eta(options, now),
                carrier=correlation.outgoing_carrier(),
            )
        return None  # the guard contained an error

    def report(
        self,
        plan: EnqueuePlan,
        job_id: str,
        function: str,
        args: Sequence[object],
        options: Mapping[str, Any],
    ) -> None:
        """Report that Redis has the job. Never raises.

        Args:
            plan: What `plan` returned for this enqueue.
            job_id: The job's id.
            function: Name of the function.
            args: Its positional arguments.
            options: Keyword arguments of `enqueue_job`.
        """
        with plan.targets[0].guard("arq.enqueue_job"):
            head = (ENGINE, job_id, function)
            fields: dict[str, Any] = {
                "queue": plan.queue,
                "args": list(args),
                "kwargs": {key: value for key, value in options.items() if key not in _OPTIONS},
                "eta": plan.eta,
                "attempt": options.get("_job_try"),
                "stage": "enqueued",
                **correlation.lineage(plan.carrier, task_id=job_id),
            }
            made = (
                events.task_sent(*head, occurred_at=plan.at, **fields),
                events.task_received(*head, occurred_at=plan.at, **fields),
            )
            more = extra_data.get()
            meta = self._routes.metas.get(function)
            for event in made:
                told = event if more is None else replace(event, data={**event.data, **more})
                if meta is not None:
                    told = replace(told, meta=meta)
                for target in plan.targets:
                    target.sink.record(told)

    def restore(self) -> None:
        """Give all pools their own serialisers back, where ours is still in place."""
        for known in list(self._pools.values()):
            known.serializer.unwrap()
        self._pools.clear()

    def _pool(self, pool: Any) -> _Pool:
        known = self._pools.get(pool)
        if known is not None and known.serializer.is_on_top:
            return known
        known = _Pool(
            endpoint=endpoint_of_pool(pool),
            serializer=wrapping.wrap(pool, "job_serializer", carrying_serializer),
            owner=getattr(pool, OWNER, None),
        )
        self._pools[pool] = known
        if known.owner is None:
            for one in self._routes.subscribers:
                one.learn(pool, known.endpoint)
        return known


class _Pool:
    """One pool: its endpoint, its wrapped serialiser, and the remembered routes of its queues."""

    __slots__ = ("_remembered", "_version", "endpoint", "owner", "serializer")

    def __init__(
        self,
        *,
        endpoint: Endpoint | None,
        serializer: wrapping.Wrapping,
        owner: Subscriber | None,
    ) -> None:
        self.endpoint = endpoint
        self.owner = owner
        self.serializer = serializer
        self._version = -1
        self._remembered: dict[str, tuple[Attachment, ...]] = {}

    def targets(self, routes: Routes, queue: str) -> tuple[Attachment, ...]:
        if self._version != routes.version or len(self._remembered) > 1000:  # noqa: PLR2004 - bounded
            self._version = routes.version
            self._remembered = {}
        found = self._remembered.get(queue)
        if found is None:
            own = None if self.owner is None else self.owner.attachment
            found = (own,) if own is not None else routes.find(self.endpoint, queue)
            self._remembered[queue] = found
        return found


def _eta(options: Mapping[str, Any], now: datetime) -> datetime | None:
    """When a deferred job is due; None when at once."""
    until = options.get("_defer_until")
    if isinstance(until, datetime):
        # arq reads a naive time as local time, and so does timestamp().
        return datetime.fromtimestamp(until.timestamp(), tz=timezone.utc)
    by = options.get("_defer_by")
    if isinstance(by, (int, float)):
        by = timedelta(seconds=by)
    return now + by if isinstance(by, timedelta) and by else None
