"""The class-level hooks of arq (spec: engines.md 4.2).

`Hooks` wraps `ArqRedis.enqueue_job` and `Worker.run_job`, `finish_job`, `finish_failed_job`,
`main`, `close` while at least one adapter is attached, and keeps one observer a worker. All
wrappers read the process's one `hooks`, so one that stays behind in somebody else's chain of
wrappers serves whoever attaches next.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from arq.connections import ArqRedis
from arq.worker import Worker

from z4j_fastapi.engines import wrapping
from z4j_fastapi.engines.arq.carrier import current_run, outgoing
from z4j_fastapi.engines.arq.enqueue import EnqueueObserver
from z4j_fastapi.engines.arq.observer import WorkerObserver
from z4j_fastapi.engines.arq.routing import Routes, Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable


class WorkerListener(Protocol):
    """Who starts and stops the agent of a worker process; `workers.arq` brings one."""

    def prepare(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> object | None:
        """See the arguments of `Worker(...)`, perhaps change `named`; None: not ours."""
        ...

    def constructed(self, worker: Any, mark: object) -> None:
        """A worker was built from arguments for which `prepare` returned `mark`."""
        ...

    async def starting(self, worker: Any) -> None:
        """A worker is about to take jobs. May raise `ConfigError` to stop it."""
        ...

    async def closed(self, worker: Any) -> None:
        """A worker has closed: its last job has ended."""
        ...


class Hooks:
    """The hooks of one process."""

    def __init__(self) -> None:
        self.routes = Routes()
        self.enqueues = EnqueueObserver(self.routes)
        self.listener: WorkerListener | None = None
        self._lock = threading.RLock()
        self._observers: weakref.WeakKeyDictionary[Any, WorkerObserver] = (
            weakref.WeakKeyDictionary()
        )
        self._owners: weakref.WeakKeyDictionary[Any, Subscriber] = weakref.WeakKeyDictionary()
        self._wrappings: list[wrapping.Wrapping] = []
        self._life_wrappings: list[wrapping.Wrapping] = []

    def attach(self, subscriber: Subscriber) -> None:
        """Report to `subscriber` from now on; with the first one the hooks go in. Idempotent."""
        with self._lock:
            self.routes.add(subscriber)
            if not self._wrappings:
                self._wrappings = [
                    wrapping.wrap(ArqRedis, "enqueue_job", _enqueue_job),
                    wrapping.wrap(Worker, "run_job", _run_job),
                    wrapping.wrap(Worker, "finish_job", _finish_job),
                    wrapping.wrap(Worker, "finish_failed_job", _finish_failed_job),
                ]
            self._wrap_life()

    def detach(self, subscriber: Subscriber) -> None:
        """Report to `subscriber` no more; with the last one the hooks go out. Idempotent."""
        with self._lock:
            if subscriber not in self.routes.subscribers:
                return
            for observer in self.observers():
                # Its agent stops while the worker runs on, or was never closed.
                if observer.is_online and subscriber.attachment in observer.targets():
                    observer.offline(self.others(observer))
            self.routes.remove(subscriber)
            if self.routes.subscribers:
                return
            for observer in self.observers():
                observer.restore()
            self._observers.clear()
            self.enqueues.restore()
            for made in self._wrappings:
                made.unwrap()
            self._wrappings = []
            if self.listener is None:
                for made in self._life_wrappings:
                    made.unwrap()
                self._life_wrappings = []

    def watch_workers(self, listener: WorkerListener) -> None:
        """Let `listener` see every worker of this process, for the life of the process."""
        with self._lock:
            self.listener = listener
            self._wrap_life()

    def _wrap_life(self) -> None:
        if not self._life_wrappings:
            self._life_wrappings = [
                wrapping.wrap(Worker, "__init__", _init),
                wrapping.wrap(Worker, "main", _main),
                wrapping.wrap(Worker, "close", _close),
            ]

    def own(self, worker: Any, subscriber: Subscriber) -> None:
        """Send the events of `worker` to `subscriber`, whatever its queue and connection."""
        with self._lock:
            self._owners[worker] = subscriber
            observer = self._observers.get(worker)
            if observer is not None:
                observer.owner = subscriber
            self.routes.changed()

    def observe(self, worker: Any) -> WorkerObserver | None:
        """The observer of `worker`, made and put into it on first use; None without adapters."""
        guard = self.routes.guard()
        if guard is None:
            return None
        observer = self._observers.get(worker)
        if observer is not None and observer.is_instrumented:
            return observer
        with self._lock, guard("arq.instrument"):
            if observer is None:
                observer = WorkerObserver(worker, self.routes, owner=self._owners.get(worker))
                self._observers[worker] = observer
            if observer.targets():
                observer.instrument()
        return self._observers.get(worker)

    def show_online(self, worker: Any) -> None:
        """Report that `worker` takes jobs, unless that is known."""
        observer = self.observe(worker)
        if observer is not None and not observer.is_online:
            with _guarded(observer, "arq.worker_online"):
                observer.online(self.others(observer))

    def others(self, observer: WorkerObserver) -> list[WorkerObserver]:
        """The other workers of this process that are online and report to the same place."""
        sinks = {id(target.sink) for target in observer.targets()}
        return [
            one
            for one in self.observers()
            if one is not observer
            and one.is_online
            and any(id(target.sink) in sinks for target in one.targets())
        ]

    def known(self, worker: Any) -> WorkerObserver | None:
        """The observer of `worker`, if it has one."""
        return self._observers.get(worker)

    def observers(self) -> list[WorkerObserver]:
        """The observers of all workers that are alive."""
        with self._lock:
            return [one for one in self._observers.values() if one.worker is not None]


#: The hooks of this process: arq's classes exist once, so does this.
hooks = Hooks()


def _guarded(observer: WorkerObserver, place: str) -> AbstractContextManager[None]:
    targets = observer.targets()
    return targets[0].guard(place) if targets else nullcontext()


def _enqueue_job(original: Any) -> Callable[..., Any]:
    async def enqueue_job(self: Any, function: str, *args: Any, **kwargs: Any) -> Any:
        plan = hooks.enqueues.plan(self, kwargs) if hooks.routes.subscribers else None
        if plan is None:
            return await original(self, function, *args, **kwargs)
        token = outgoing.set(plan.carrier)
        try:
            job = await original(self, function, *args, **kwargs)
        finally:
            outgoing.reset(token)
        if job is not None:  # None: the id exists already, nothing was enqueued
            hooks.enqueues.report(plan, job.job_id, function, args, kwargs)
        return job

    return enqueue_job


def _run_job(original: Any) -> Callable[..., Any]:
    async def run_job(self: Any, job_id: str, *args: Any, **kwargs: Any) -> Any:
        observer = hooks.observe(self)
        run = None if observer is None else observer.run(job_id)
        if observer is not None and not observer.is_online:
            hooks.show_online(self)  # the adapter was attached while the worker ran
        if run is None:
            return await original(self, job_id, *args, **kwargs)
        token = current_run.set(run)
        try:
            return await original(self, job_id, *args, **kwargs)
        finally:
            current_run.reset(token)

    return run_job


def _finish_job(original: Any) -> Callable[..., Any]:
    async def finish_job(
        self: Any, job_id: str, finish: bool, result_data: Any, *args: Any, **kwargs: Any
    ) -> Any:
        answer = await original(self, job_id, finish, result_data, *args, **kwargs)
        run = current_run.get()
        observer = None if run is None or run.job_id != job_id else hooks.known(self)
        if run is not None and observer is not None:
            with _guarded(observer, "arq.finish_job"):
                observer.finished(run, finish=finish, result_data=result_data)
        return answer

    return finish_job


def _finish_failed_job(original: Any) -> Callable[..., Any]:
    async def finish_failed_job(
        self: Any, job_id: str, result_data: Any, *args: Any, **kwargs: Any
    ) -> Any:
        answer = await original(self, job_id, result_data, *args, **kwargs)
        run = current_run.get()
        observer = None if run is None or run.job_id != job_id else hooks.known(self)
        if run is not None and observer is not None:
            with _guarded(observer, "arq.finish_failed_job"):
                observer.finished_without_body(run, result_data=result_data)
        return answer

    return finish_failed_job


def _init(original: Any) -> Callable[..., Any]:
    # wrap() keeps the signature: arq reads the names of its settings from it.
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces one
        listener = hooks.listener
        mark = None if listener is None else listener.prepare(args, kwargs)
        original(self, *args, **kwargs)
        if listener is not None and mark is not None:
            listener.constructed(self, mark)

    return __init__


def _main(original: Any) -> Callable[..., Any]:
    async def main(self: Any, *args: Any, **kwargs: Any) -> Any:
        if hooks.listener is not None:
            await hooks.listener.starting(self)
        hooks.show_online(self)
        return await original(self, *args, **kwargs)

    return main


def _close(original: Any) -> Callable[..., Any]:
    async def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await original(self, *args, **kwargs)
        finally:
            # After the original: it cancels the running jobs, whose task.retried comes first.
            observer = hooks.known(self)
            if observer is not None:
                with _guarded(observer, "arq.worker_offline"):
                    observer.offline(hooks.others(observer))
            if hooks.listener is not None:
                await hooks.listener.closed(self)

    return close
