"""The one middleware of ours on a broker: what taskiq's hooks tell, as events.

However many adapters (of one runtime or of several) report a broker, it has one middleware; each
event is built once and goes to every distinct sink. taskiq calls `post_send`, `post_execute` and
`on_error` forwards before 0.12 and backwards from 0.12 on: nothing here depends on the order.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from taskiq.abc.middleware import TaskiqMiddleware
from taskiq.exceptions import NoResultError

from z4j_fastapi import correlation
from z4j_fastapi.engines.taskiq.labels import (
    carrier_of,
    count,
    put_carrier,
    queue_label,
    requeues_of,
)
from z4j_fastapi.engines.taskiq.outlet import Outlet, Subscriptions
from z4j_fastapi.engines.taskiq.presence import Presence
from z4j_fastapi.engines.taskiq.reporting import (
    enqueued_events,
    execution_events,
    fields_of,
    outcome_event,
)
from z4j_fastapi.engines.taskiq.runs import Outcome, Run, current_run
from z4j_fastapi.task_meta import meta_of

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker
    from taskiq.message import TaskiqMessage
    from taskiq.result import TaskiqResult

    from z4j_fastapi.events import Event
    from z4j_fastapi.task_meta import TaskMeta

#: Kicks that never came back (the broker refused them) must not pile up.
_MAX_SENDING = 4096
_MAX_SEEN_QUEUES = 100

_STOPPED = "WorkerStopped: the worker process stopped before the task ended"


class Z4JTaskiqMiddleware(TaskiqMiddleware):
    """Captures enqueue and execution of every task of one broker.

    Added by `TaskiqEngineAdapter.attach`; a user who wants it at another place in the list adds
    `Z4JTaskiqMiddleware()` to the broker himself, and the adapter finds it. Without an attached
    adapter it does nothing.

    Spec: engines.md 5.2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions = Subscriptions()
        self.presence = Presence(self)
        self.running: dict[str, Run] = {}
        self.seen_queues: dict[str, None] = {}
        self.queue_name: str | None = None
        self.is_ours_to_remove = False
        self._sending: dict[str, datetime] = {}

    # -- enqueuing process ---------------------------------------------------------------------

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Put the carrier into the labels, or notice that the running task is being retried."""
        outlet = self.subscriptions.outlet
        if outlet is not None:
            with outlet.guard("taskiq.pre_send"):
                self._before_send(message, outlet)
        return message

    def post_send(self, message: TaskiqMessage) -> None:
        """Report a message that the broker took."""
        outlet = self.subscriptions.outlet
        if outlet is not None:
            with outlet.guard("taskiq.post_send"):
                self._after_send(message)

    def _before_send(self, message: TaskiqMessage, outlet: Outlet) -> None:
        self.presence.see_loop()
        labels = message.labels
        run = current_run.get()
        if run is not None and run.task_id == message.task_id:
            run.was_resent = True
            return
        if count(labels, "_retries"):  # a retry that went through a schedule source
            return
        put_carrier(labels, correlation.outgoing_carrier())
        # The time is taken before the kick: a worker may start, and even end, the task before
        # `post_send` is called here, and a later time would set its row back.
        self._sending[message.task_id] = outlet.clock.now()
        if len(self._sending) > _MAX_SENDING:
            del self._sending[next(iter(self._sending))]

    def _after_send(self, message: TaskiqMessage) -> None:
        occurred_at = self._sending.pop(message.task_id, None)
        if occurred_at is None:  # a retry
            return
        queue = queue_label(message.labels)
        if queue is not None and len(self.seen_queues) < _MAX_SEEN_QUEUES:
            self.seen_queues[queue] = None
        meta = self.meta_of_task(message.task_name)
        fields = fields_of(
            message,
            queue=queue or self.default_queue(),
            carrier=carrier_of(message.labels),
            meta=meta,
        )
        for event in enqueued_events(message, fields, occurred_at):
            self.emit(event, meta)

    # -- executing process ---------------------------------------------------------------------

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Report that the body is about to run, and make its correlation current."""
        outlet = self.subscriptions.outlet
        if outlet is not None:
            with outlet.guard("taskiq.pre_execute"):
                self._before_execute(message, outlet)
        return message

    def on_error(
        self,
        message: TaskiqMessage,
        result: TaskiqResult[Any],  # noqa: ARG002 - taskiq's signature
        exception: BaseException,
    ) -> None:
        """Keep the exception: other middlewares may replace it in the result."""
        outlet = self.subscriptions.outlet
        if outlet is not None:
            with outlet.guard("taskiq.on_error"):
                run = current_run.get()
                if run is not None and run.task_id == message.task_id:
                    run.exception = exception
                    run.ended_at_monotonic = outlet.clock.monotonic()

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Report the outcome, exactly once, and put the context back."""
        outlet = self.subscriptions.outlet
        run = current_run.get()
        if run is not None and run.task_id != message.task_id:
            run = None
        try:
            if outlet is not None:
                with outlet.guard("taskiq.post_execute"):
                    # No run: the adapter was attached in the middle of it.
                    late = run or self._run_of(message, carrier_of(message.labels))
                    self._after_execute(late, message, result, outlet)
        finally:
            if run is not None:
                self._leave(run)

    def _before_execute(self, message: TaskiqMessage, outlet: Outlet) -> None:
        self.presence.see_execution()
        now = outlet.clock.now()
        carrier = carrier_of(message.labels)
        run = self._run_of(message, carrier)
        run.loop = asyncio.get_running_loop()
        run.task = asyncio.current_task()
        here = correlation.from_carrier(carrier, task_id=run.task_id)
        run.run_token = current_run.set(run)
        run.correlation_token = correlation.attach(here)
        self.running[run.task_id] = run
        if run.task is not None:
            run.watch = functools.partial(self._abandoned, run)
            run.task.add_done_callback(run.watch)
        for event in execution_events(run, now):
            self.emit(event, run.meta)
        run.started_at_monotonic = outlet.clock.monotonic()

    def _after_execute(
        self, run: Run, message: TaskiqMessage, result: TaskiqResult[Any], outlet: Outlet
    ) -> None:
        if run.outcome is not None:
            return
        run.outcome = _outcome(run, message, result)
        error: BaseException | str | None = run.exception or result.error
        self._report_end(run, error, result.return_value, outlet)

    def _report_end(
        self, run: Run, error: BaseException | str | None, value: object, outlet: Outlet
    ) -> None:
        ended_at = run.ended_at_monotonic
        if ended_at is None:
            ended_at = outlet.clock.monotonic()
        runtime_ms = None
        if run.started_at_monotonic is not None:
            runtime_ms = max(0, round((ended_at - run.started_at_monotonic) * 1000))
        event = outcome_event(
            run, error=error, result=value, runtime_ms=runtime_ms, occurred_at=outlet.clock.now()
        )
        self.emit(event, run.meta)

    def _abandoned(self, run: Run, task: asyncio.Task[object]) -> None:
        """The receiver's task ended without `post_execute`: some hook after ours raised."""
        outlet = self.subscriptions.outlet
        if outlet is None or run.outcome is not None:
            self._forget(run)
            return
        with outlet.guard("taskiq.abandoned"):
            error = run.exception
            if error is None:
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
            run.outcome = Outcome.RETRIED if run.was_resent else Outcome.FAILED
            self._report_end(run, error or "the receiver gave the task up", None, outlet)
        self._forget(run)

    def report_unfinished(self, outcome: Outcome) -> None:
        """End the runs that are still open: this worker's loop stops and will not resume them.

        Args:
            outcome: `FAILED` where the message is gone, `RETRIED` where it will be delivered again.
        """
        outlet = self.subscriptions.outlet
        if outlet is None:
            return
        for run in list(self.running.values()):
            if run.outcome is None:
                with outlet.guard("taskiq.unfinished"):
                    run.outcome = outcome
                    self._report_end(run, _STOPPED, None, outlet)

    def _leave(self, run: Run) -> None:
        """Undo what `pre_execute` did to this context and to the receiver's task."""
        task = run.task
        if task is not None:
            if run.watch is not None:
                task.remove_done_callback(run.watch)
            uncancel = getattr(task, "uncancel", None)  # Python 3.11
            if run.cancel_requested and uncancel is not None:
                uncancel()  # the request was consumed with the body
        self._forget(run)
        try:
            if run.correlation_token is not None:
                correlation.detach(run.correlation_token)
            if run.run_token is not None:
                current_run.reset(run.run_token)
        except ValueError:
            # A receiver that calls the two hooks in different contexts: there is nothing of ours
            # in this one.
            return

    def _forget(self, run: Run) -> None:
        if self.running.get(run.task_id) is run:
            del self.running[run.task_id]
        if run.outcome is not None:
            for tell in run.on_end:
                tell(run.outcome)
            run.on_end.clear()

    # -- shared --------------------------------------------------------------------------------

    def emit(self, event: Event, meta: TaskMeta | None = None) -> None:
        """Hand an event to every sink, unless the task's own `z4j_meta` leaves it out."""
        if meta is not None:
            if not meta.should_record(event.task_id, event.kind):
                return
            event = replace(event, meta=meta)
        for sink in self.subscriptions.sinks:
            sink.record(event)

    def meta_of_task(self, task_name: str) -> TaskMeta | None:
        """The `z4j_meta` of a registered task, if it has one."""
        task = self.broker.find_task(task_name)
        return meta_of(task.original_func) if task is not None else None

    def default_queue(self) -> str | None:
        """The queue of a message that names none."""
        if self.queue_name is not None:
            return self.queue_name
        name = getattr(self.broker, "queue_name", None)
        return name if isinstance(name, str) and name else None

    def _run_of(self, message: TaskiqMessage, carrier: Mapping[str, object]) -> Run:
        task = self.broker.find_task(message.task_name)
        function = task.original_func if task is not None else None
        meta = meta_of(function) if function is not None else None
        requeues = requeues_of(message.labels)
        attempt = count(message.labels, "_retries") + requeues + 1
        fields = fields_of(
            message,
            queue=queue_label(message.labels) or self.default_queue(),
            carrier=carrier,
            meta=meta,
            middlewares=self.broker.middlewares,
        )
        fields["worker"] = self.presence.worker_name()
        fields["attempt"] = attempt
        return Run(
            message=message,
            fields=fields,
            attempt=attempt,
            requeues=requeues,
            meta=meta,
            function=function,
            in_place=getattr(self.broker, "await_inplace", False),
        )


def _outcome(run: Run, message: TaskiqMessage, result: TaskiqResult[Any]) -> Outcome:
    if not result.is_err:
        return Outcome.SUCCEEDED
    error = run.exception or result.error
    replaced = isinstance(result.error, NoResultError) and not isinstance(error, NoResultError)
    if run.was_resent or replaced or requeues_of(message.labels) > run.requeues:
        return Outcome.RETRIED
    if run.cancel_requested and isinstance(error, asyncio.CancelledError):
        return Outcome.REVOKED
    return Outcome.FAILED


def middleware_of(broker: AsyncBroker) -> Z4JTaskiqMiddleware | None:
    """Our middleware on `broker`, if it is there."""
    for middleware in broker.middlewares:
        if isinstance(middleware, Z4JTaskiqMiddleware) and middleware.broker is broker:
            return middleware
    return None


def install(broker: AsyncBroker) -> Z4JTaskiqMiddleware:
    """Our middleware on `broker`, put first if it is not there yet.

    The list is replaced, not changed: taskiq may be half-way through it, and would call another
    middleware twice if something were inserted before it.
    """
    found = middleware_of(broker)
    if found is None:
        found = Z4JTaskiqMiddleware()
        found.set_broker(broker)
        found.is_ours_to_remove = True
        broker.middlewares = [found, *broker.middlewares]
    return found


def uninstall(middleware: Z4JTaskiqMiddleware) -> None:
    """Take our middleware off its broker again, unless the user put it there."""
    if not middleware.is_ours_to_remove:
        return
    broker = middleware.broker
    broker.middlewares = [other for other in broker.middlewares if other is not middleware]
