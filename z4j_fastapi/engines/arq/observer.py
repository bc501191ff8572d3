"""What one arq `Worker` does, as events (spec: engines.md 4.2).

The observer changes that worker object only: its functions become copies with a wrapped coroutine
(other workers may share the originals), and its job deserialiser shows it each job's dict.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import socket
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from z4j_fastapi import correlation, events
from z4j_fastapi.engines import wrapping
from z4j_fastapi.engines.arq.carrier import (
    carrier_in,
    current_run,
    is_stored,
    observing_deserializer,
)
from z4j_fastapi.engines.arq.endpoint import Endpoint, endpoint_of_worker
from z4j_fastapi.engines.arq.job_run import (
    Body,
    Ending,
    JobRun,
    ending_of_body,
    ending_without_body,
)

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.routing import Routes, Subscriber
    from z4j_fastapi.engines.base import Attachment
    from z4j_fastapi.events import Event

ENGINE = "arq"
UNKNOWN = "<unknown>"  # arq's own name for the function of a job that it could not read


class WorkerObserver:
    """One worker of this process.

    Args:
        worker: The `arq.worker.Worker`; any, since arq is typed only in part. Held weakly.
        routes: The attached adapters.
        owner: The adapter that was given to `attach_to_worker_settings` for this worker.
    """

    def __init__(self, worker: Any, routes: Routes, *, owner: Subscriber | None) -> None:
        self._worker: Callable[[], Any] = weakref.ref(worker)
        self._routes = routes
        self.owner = owner
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.queue: str = worker.queue_name
        self.endpoint: Endpoint | None = endpoint_of_worker(worker)
        self.is_online = False
        self._remembered: tuple[int, tuple[Attachment, ...]] = (-1, ())
        self._copies: dict[str, tuple[Any, Any]] = {}
        self._deserializer: wrapping.Wrapping | None = None

    @property
    def is_instrumented(self) -> bool:
        """Whether our copies are in the worker."""
        return self._deserializer is not None

    @property
    def worker(self) -> Any:
        """The worker, or None when it is gone."""
        return self._worker()

    def targets(self) -> tuple[Attachment, ...]:
        """Where this worker's events go now."""
        version, found = self._remembered
        if version == self._routes.version:
            return found
        version = self._routes.version
        own = None if self.owner is None else self.owner.attachment
        found = (own,) if own is not None else self._routes.find(self.endpoint, self.queue)
        self._remembered = (version, found)
        return found

    def instrument(self) -> None:
        """Put our copies and our deserialiser into the worker. Idempotent."""
        worker = self.worker
        if self._deserializer is None:
            self._deserializer = wrapping.wrap(worker, "job_deserializer", observing_deserializer)
        for name, function in list(worker.functions.items()):
            known = self._copies.get(name)
            if known is not None and known[1] is function:
                continue
            ours = copy.copy(function)
            wrapping.wrap(ours, "coroutine", self._watching(name, ours))
            worker.functions[name] = ours
            self._copies[name] = (function, ours)

    def restore(self) -> None:
        """Take out what `instrument` put in, where it is still ours. Idempotent."""
        worker = self.worker
        if worker is None:
            return
        for name, (function, ours) in self._copies.items():
            if worker.functions.get(name) is ours:
                worker.functions[name] = function
        self._copies.clear()
        if self._deserializer is not None:
            self._deserializer.unwrap()
            self._deserializer = None

    # --- the worker itself

    def online(self, others: Sequence[WorkerObserver] = ()) -> None:
        """Report that the worker takes jobs. Once until `offline`.

        Args:
            others: The workers of the same name, which is the process's, that are online.
        """
        targets = self.targets()
        worker = self.worker
        if self.is_online or not targets or worker is None:
            return
        self.is_online = True
        event = events.worker_online(
            ENGINE,
            self.name,
            queues=tuple(dict.fromkeys(one.queue for one in (*others, self))),
            concurrency=sum(concurrency_of(one.worker) or 0 for one in (*others, self)) or None,
            pid=os.getpid(),
        )
        for target in targets:
            target.sink.record(event)

    def offline(self, others: Sequence[WorkerObserver] = ()) -> None:
        """Report that the worker takes no more jobs. Once after `online`.

        Args:
            others: The workers of the same name that are still online: then it says nothing.
        """
        if not self.is_online:
            return
        self.is_online = False
        if others:
            return
        event = events.worker_offline(ENGINE, self.name, pid=os.getpid())
        for target in self.targets():
            target.sink.record(event)

    # --- its jobs

    def run(self, job_id: str) -> JobRun | None:
        """A new attempt of a job; None when nobody wants to hear of it."""
        targets = self.targets()
        if not targets:
            return None
        return JobRun(job_id, targets[0].clock.monotonic())

    def _watching(self, name: str, function: Any) -> Callable[[Any], Callable[..., Any]]:
        """Makes the wrapper around one function's coroutine."""
        observer = self
        worker = self.worker
        max_tries: int = worker.max_tries if function.max_tries is None else function.max_tries
        timeout_seconds: float | None = (
            worker.job_timeout_s if function.timeout_s is None else function.timeout_s
        )
        del worker  # the wrapper must not keep it alive

        def make(original: Any) -> Callable[..., Any]:
            meta = observer._routes.learn_meta(name, original)

            async def coroutine(ctx: Any, *args: Any, **kwargs: Any) -> Any:
                run = current_run.get()
                targets = observer.targets()
                if not targets or run is None or run.body is not Body.NOT_RUN:
                    return await original(ctx, *args, **kwargs)
                guard = targets[0].guard
                with guard("arq.job_started"):
                    run.task_name = name
                    run.meta = meta
                    run.attempt = ctx["job_try"]
                    run.timeout_seconds = timeout_seconds
                    run.max_attempts = max_tries
                    observer._started(run, ctx.get("score"), args, kwargs)
                # Whatever happened above: from here on the body's outcome counts.
                run.body = Body.RUNNING
                run.body_at_monotonic = targets[0].clock.monotonic()
                token = correlation.attach(
                    correlation.from_carrier(carrier_in(run.message), task_id=run.job_id)
                )
                try:
                    result = await original(ctx, *args, **kwargs)
                except (Exception, asyncio.CancelledError) as error:
                    with guard("arq.job_raised"):
                        observer._raised(run, error, targets[0].clock.monotonic())
                    raise
                finally:
                    correlation.detach(token)
                run.runtime_ms = _milliseconds(targets[0].clock.monotonic() - run.body_at_monotonic)
                run.result = result
                run.body = Body.RETURNED
                return result

            return coroutine

        return make

    def _started(
        self,
        run: JobRun,
        score: object,
        args: Sequence[object],
        kwargs: Mapping[str, object],
    ) -> None:
        targets = self.targets()
        run.fields = {
            "queue": self.queue,
            "worker": self.name,
            "attempt": run.attempt,
            "max_attempts": run.max_attempts,
            **correlation.lineage(carrier_in(run.message), task_id=run.job_id),
        }
        now = targets[0].clock.now()
        received = events.task_received(
            ENGINE,
            run.job_id,
            run.task_name,
            occurred_at=now,
            args=list(args),
            kwargs=kwargs,
            stage="worker",
            retry_count=run.attempt - 1 or None,
            eta=_due(score, run.message),
            **run.fields,
        )
        started = events.task_started(
            ENGINE, run.job_id, run.task_name, occurred_at=now, **run.fields
        )
        _record(targets, run.meta, received, started)

    def _raised(self, run: JobRun, error: BaseException, now_monotonic: float) -> None:
        run.runtime_ms = _milliseconds(now_monotonic - run.body_at_monotonic)
        run.exception = error
        if isinstance(error, asyncio.CancelledError):
            run.body = Body.CANCELLED
            run.aborting = run.job_id in self.worker.aborting_tasks
            run.traceback = "".join(traceback.format_tb(_without_ours(error)))
        else:
            run.body = Body.RAISED
            if type(error).__module__ != "arq.worker":  # Retry and its like say it all themselves
                run.traceback = "".join(
                    traceback.format_exception(type(error), error, _without_ours(error))
                )

    def finished(self, run: JobRun, *, finish: bool, result_data: bytes | None) -> None:
        """Report an attempt's ending, after `Worker.finish_job` has stored it. Once an attempt.

        Args:
            run: The attempt.
            finish: False when the job stays for another attempt.
            result_data: The stored result; None when none is kept.
        """
        targets = self.targets()
        if run.ended or not targets:
            return
        run.ended = True
        clock = targets[0].clock
        ending = ending_of_body(
            run,
            finish=finish,
            retry_jobs=self.worker.retry_jobs,
            now_monotonic=clock.monotonic(),
            stored=lambda: self._decode(result_data),
        )
        now = clock.now()
        before = () if run.body is not Body.NOT_RUN else self._unseen(run, now)
        _record(targets, run.meta, *before, self._terminal(run, ending, now))

    def finished_without_body(self, run: JobRun, *, result_data: bytes | None) -> None:
        """Report a job that ended before its body ran, after arq has stored that.

        Args:
            run: The attempt.
            result_data: arq's result, which holds the reason; None when it cannot be serialised.
        """
        targets = self.targets()
        if run.ended or not targets:
            return
        run.ended = True
        now = targets[0].clock.now()
        seen = self._unseen(run, now)
        ending, reason = ending_without_body(
            run, stored=self._decode(result_data), max_tries=run.max_attempts
        )
        if ending is Ending.REVOKED:
            event = events.task_revoked(
                ENGINE,
                run.job_id,
                run.task_name,
                occurred_at=now,
                reason="aborted before it started",
                terminated=False,
                **run.fields,
            )
        else:
            event = events.task_failed(
                ENGINE,
                run.job_id,
                run.task_name,
                occurred_at=now,
                exception=reason,
                expired=True if not run.message_seen else None,
                **run.fields,
            )
        _record(targets, run.meta, *seen, event)

    def _unseen(self, run: JobRun, now: datetime) -> tuple[Event, ...]:
        """The received event of a job whose body never began; none where its arguments are lost."""
        worker = self.worker
        message = run.message
        run.task_name = UNKNOWN if message is None else str(message.get("f", UNKNOWN))
        function = worker.functions.get(run.task_name)
        tries = getattr(function, "max_tries", None)
        run.max_attempts = worker.max_tries if tries is None else tries
        run.meta = self._routes.metas.get(run.task_name)
        run.fields = {
            "queue": self.queue,
            "worker": self.name,
            "max_attempts": run.max_attempts,
            **correlation.lineage(carrier_in(message), task_id=run.job_id),
        }
        if message is None:
            # A received event without arguments would wipe those that the brain has (B2).
            return ()
        received = events.task_received(
            ENGINE,
            run.job_id,
            run.task_name,
            occurred_at=now,
            args=list(message.get("a", ())),
            kwargs=message.get("k", {}),
            stage="worker",
            **run.fields,
        )
        return (received,)

    def _terminal(self, run: JobRun, ending: Ending, now: datetime) -> Event:
        head = (ENGINE, run.job_id, run.task_name)
        if ending is Ending.SUCCEEDED:
            return events.task_succeeded(
                *head,
                result=run.result,
                runtime_ms=run.runtime_ms,
                occurred_at=now,
                **run.fields,
            )
        if ending is Ending.RETRIED:
            return events.task_retried(
                *head,
                exception=run.exception,
                traceback=run.traceback,
                runtime_ms=run.runtime_ms,
                occurred_at=now,
                retry_count=run.attempt or None,
                eta=_retry_due(run.exception, now),
                reason="worker stopped" if run.body is Body.CANCELLED else None,
                **run.fields,
            )
        if ending is Ending.REVOKED:
            return events.task_revoked(
                *head,
                runtime_ms=run.runtime_ms,
                occurred_at=now,
                reason="aborted",
                terminated=run.body is not Body.NOT_RUN,
                **run.fields,
            )
        exception: BaseException | str = run.exception or "JobExecutionFailed: job failed"
        trace = run.traceback
        if ending is Ending.TIMED_OUT:
            exception = f"TimeoutError: the job ran longer than {run.timeout_seconds:g} s"
            trace = f"Traceback (most recent call last):\n{trace or ''}{exception}\n"
        return events.task_failed(
            *head,
            exception=exception,
            traceback=trace,
            runtime_ms=run.runtime_ms,
            occurred_at=now,
            **run.fields,
        )

    def _decode(self, result_data: bytes | None) -> Mapping[str, Any] | None:
        """The dict of a result that this very worker serialised a moment ago."""
        if result_data is None:
            return None
        deserialize = wrapping.original_of(self.worker.job_deserializer) or pickle.loads
        try:
            result = deserialize(result_data)
        except Exception:  # noqa: BLE001 - a user's classes and serialisers may raise anything
            return None  # the caller concludes without it
        return result if is_stored(result) else None


def concurrency_of(worker: Any) -> int | None:
    """How many jobs the worker runs side by side; None where this arq does not say."""
    found = getattr(worker, "max_jobs", None)
    if found is None:  # arq 0.25
        found = getattr(worker.sem, "_bound_value", None)
    return found if isinstance(found, int) else None


def _record(targets: tuple[Attachment, ...], meta: Any, *made: Event) -> None:
    for event in made:
        if meta is not None:
            event = replace(event, meta=meta)  # noqa: PLW2901 - the same event, with its hints
        for target in targets:
            target.sink.record(event)


def _due(score: object, message: Mapping[str, Any] | None) -> datetime | None:
    """When the attempt was due, where that was later than it was enqueued."""
    enqueued = None if message is None else message.get("et")
    if isinstance(score, int) and isinstance(enqueued, int) and score > enqueued:
        return datetime.fromtimestamp(score / 1000, tz=timezone.utc)
    return None


def _retry_due(error: BaseException | None, now: datetime) -> datetime | None:
    """When arq tries again, where the job raised `Retry(defer=...)`."""
    defer_ms = getattr(error, "defer_score", None)
    return now + timedelta(milliseconds=defer_ms) if isinstance(defer_ms, int) else None


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _without_ours(error: BaseException) -> Any:
    """The traceback from the user's function on."""
    trace = error.__traceback__
    return trace.tb_next if trace is not None and trace.tb_next is not None else trace
