from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest
from support.taskiq_kit import CountingGuard, InPlaceBroker, RecordingSink, attachment_to
from taskiq import Context, InMemoryBroker, SimpleRetryMiddleware, TaskiqDepends, TaskiqMiddleware
from taskiq.exceptions import SendTaskError

from z4j_fastapi import correlation
from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter
from z4j_fastapi.engines.taskiq.middleware import Z4JTaskiqMiddleware, middleware_of

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def sink():
    return RecordingSink()


@pytest.fixture
def broker():
    return InPlaceBroker()


@pytest.fixture
def adapter(broker, sink):
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))
    yield adapter
    adapter.detach()


def test_success_when_run_in_place_then_five_events_with_full_fields(broker, adapter, sink):
    @broker.task(task_name="add")
    async def add(left, *, right):
        return {"sum": left + right}

    async def scenario():
        return (await add.kiq(1, right=2)).task_id

    task_id = asyncio.run(scenario())

    assert sorted(sink.kinds(task_id)) == [
        "task.received",
        "task.received",
        "task.sent",
        "task.started",
        "task.succeeded",
    ]
    enqueued = sink.one("task.received", task_id, stage="enqueued")
    sent = sink.one("task.sent", task_id)
    received = sink.one("task.received", task_id, stage="worker")
    started = sink.one("task.started", task_id)
    succeeded = sink.one("task.succeeded", task_id)
    assert enqueued.occurred_at == sent.occurred_at <= received.occurred_at == started.occurred_at
    for event in (enqueued, sent, received):
        assert event.data["task_name"] == "add"
        assert event.data["args"] == [1]
        assert event.data["kwargs"] == {"right": 2}
    assert "worker" not in enqueued.data
    assert succeeded.data["result"] == {"sum": 3}
    assert succeeded.data["runtime_ms"] >= 0
    assert succeeded.data["attempt"] == 1
    assert started.data["worker"].count(":") == 1


def test_enqueued_events_when_the_task_ends_before_post_send_then_they_are_not_newer(
    broker, adapter, sink
):
    @broker.task(task_name="quick")
    async def quick():
        return None

    async def scenario():
        await quick.kiq()

    asyncio.run(scenario())

    assert (
        sink.one("task.received", None, stage="enqueued").occurred_at
        <= sink.one("task.started").occurred_at
    )


def test_failure_when_the_body_raises_then_type_message_and_traceback(broker, adapter, sink):
    @broker.task(task_name="boom")
    async def boom():
        raise ValueError("boom-3")

    async def scenario():
        return (await boom.kiq()).task_id

    task_id = asyncio.run(scenario())

    failed = sink.one("task.failed", task_id)
    assert failed.data["exception"] == "ValueError: boom-3"
    assert failed.data["exception_type"] == "ValueError"
    assert 'raise ValueError("boom-3")' in failed.data["traceback"]
    assert failed.data["traceback"].rstrip().endswith("ValueError: boom-3")
    assert failed.data["runtime_ms"] >= 0


def test_retry_when_simple_retry_resends_then_retried_once_and_no_second_sent(sink):
    broker = InPlaceBroker().with_middlewares(SimpleRetryMiddleware())
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))
    attempts = []

    @broker.task(task_name="flaky", retry_on_error=True, max_retries=3)
    async def flaky():
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("not yet")
        return "done"

    async def scenario():
        return (await flaky.kiq()).task_id

    task_id = asyncio.run(scenario())

    kinds = sink.kinds(task_id)
    assert kinds.count("task.sent") == 1
    assert kinds.count("task.retried") == 1
    assert kinds.count("task.succeeded") == 1
    assert "task.failed" not in kinds
    retried = sink.one("task.retried", task_id)
    assert retried.data["retry_count"] == 1
    assert retried.data["exception"] == "RuntimeError: not yet"
    assert retried.data["max_attempts"] == 3
    assert sink.one("task.succeeded", task_id).data["attempt"] == 2


def test_retry_when_results_of_attempts_are_kept_then_retried_all_the_same(sink):
    """Then nothing in the result tells of the retry; only the sending was seen."""
    broker = InPlaceBroker().with_middlewares(SimpleRetryMiddleware(no_result_on_retry=False))
    TaskiqEngineAdapter(broker=broker).attach(attachment_to(sink))

    @broker.task(task_name="never", retry_on_error=True, max_retries=2)
    async def never():
        raise RuntimeError("no")

    async def scenario():
        return (await never.kiq()).task_id

    task_id = asyncio.run(scenario())

    assert sink.kinds(task_id).count("task.retried") == 1
    assert sink.kinds(task_id).count("task.failed") == 1


def test_retry_when_attempts_are_used_up_then_the_last_one_failed(sink):
    broker = InPlaceBroker().with_middlewares(SimpleRetryMiddleware())
    TaskiqEngineAdapter(broker=broker).attach(attachment_to(sink))

    @broker.task(task_name="never", retry_on_error=True, max_retries=2)
    async def never():
        raise RuntimeError("no")

    async def scenario():
        return (await never.kiq()).task_id

    task_id = asyncio.run(scenario())

    assert sink.kinds(task_id).count("task.retried") == 1
    assert sink.one("task.failed", task_id).data["attempt"] == 2


def test_retry_when_a_middleware_replaces_the_error_only_then_retried(sink):
    from taskiq.exceptions import NoResultError

    class Scheduling(TaskiqMiddleware):
        def on_error(self, message, result, exception):
            result.error = NoResultError()

    broker = InPlaceBroker().with_middlewares(Scheduling())
    TaskiqEngineAdapter(broker=broker).attach(attachment_to(sink))

    @broker.task(task_name="later")
    async def later():
        raise KeyError("x")

    async def scenario():
        await later.kiq()

    asyncio.run(scenario())

    assert sink.one("task.retried").data["exception_type"] == "KeyError"


def test_requeue_when_the_body_puts_itself_back_then_retried_and_counted(broker, adapter, sink):
    tries = []

    @broker.task(task_name="again")
    async def again(context: Context = TaskiqDepends()):  # noqa: B008 - as taskiq users write it
        tries.append(1)
        if len(tries) == 1:
            await context.requeue()
        return "ok"

    # The test's annotations are strings of this module; taskiq resolves them here.
    async def scenario():
        return (await again.kiq()).task_id

    task_id = asyncio.run(scenario())

    assert sink.one("task.retried", task_id).data["retry_count"] == 1
    assert sink.one("task.succeeded", task_id).data["attempt"] == 2


def test_lineage_when_a_task_sends_another_then_parent_root_and_request(broker, adapter, sink):
    @broker.task(task_name="leaf")
    async def leaf():
        return None

    @broker.task(task_name="middle")
    async def middle():
        await leaf.kiq()

    @broker.task(task_name="top")
    async def top():
        await middle.kiq()

    async def scenario():
        with correlation.use(correlation.Correlation(traceparent=TRACE, request_id="req-1")):
            return (await top.kiq()).task_id

    top_id = asyncio.run(scenario())

    by_name = {
        event.data["task_name"]: event
        for event in sink.events
        if event.kind.value == "task.received" and event.data["stage"] == "worker"
    }
    assert "parent_task_id" not in by_name["top"].data
    assert by_name["middle"].data["parent_task_id"] == top_id
    assert by_name["leaf"].data["parent_task_id"] == by_name["middle"].task_id
    assert by_name["leaf"].data["root_task_id"] == top_id
    for event in by_name.values():
        assert event.data["traceparent"] == TRACE
        assert event.data["request_id"] == "req-1"


def test_correlation_when_run_in_place_then_the_callers_is_back_afterwards(broker, adapter, sink):
    seen = []

    @broker.task(task_name="look")
    async def look():
        seen.append(correlation.current())

    async def scenario():
        with correlation.use(correlation.Correlation(request_id="req-2")):
            sent = await look.kiq()
            return sent.task_id, correlation.current()

    task_id, after = asyncio.run(scenario())

    assert seen[0].task_id == task_id
    assert after == correlation.Correlation(request_id="req-2")


def test_kick_when_the_broker_refuses_then_nothing_is_reported(broker, adapter, sink):
    @broker.task(task_name="known")
    async def known():
        return None

    async def scenario():
        broker.local_task_registry.clear()
        with pytest.raises(SendTaskError):
            await known.kiq()

    asyncio.run(scenario())

    assert sink.events == []


def test_capture_when_two_runtimes_listen_then_each_gets_every_event(broker, sink):
    other = RecordingSink()
    first, second = TaskiqEngineAdapter(broker=broker), TaskiqEngineAdapter(brokers=[broker])
    first.attach(attachment_to(sink))
    second.attach(attachment_to(other))

    @broker.task(task_name="both")
    async def both():
        return None

    async def scenario():
        await both.kiq()

    asyncio.run(scenario())

    assert [e.kind for e in sink.events if e.task_id] == [e.kind for e in other.events if e.task_id]
    assert len([e for e in sink.events if e.task_id]) == 5
    assert len([m for m in broker.middlewares if isinstance(m, Z4JTaskiqMiddleware)]) == 1

    first.detach()
    before = len(sink.events)
    asyncio.run(scenario())
    assert len(sink.events) == before
    assert len([e for e in other.events if e.task_id]) == 10
    second.detach()
    assert middleware_of(broker) is None


def test_capture_when_attached_twice_with_one_sink_then_recorded_once(broker, sink):
    first, second = TaskiqEngineAdapter(broker=broker), TaskiqEngineAdapter(broker=broker)
    first.attach(attachment_to(sink))
    first.attach(attachment_to(sink))
    second.attach(attachment_to(sink))

    @broker.task(task_name="once")
    async def once():
        return None

    async def scenario():
        return (await once.kiq()).task_id

    task_id = asyncio.run(scenario())

    assert len(sink.of(task_id)) == 5
    assert sink.kinds("").count("worker.online") == 1


def test_detach_when_the_user_placed_the_middleware_then_it_stays_and_is_silent(broker, sink):
    placed = Z4JTaskiqMiddleware()
    broker.add_middlewares(placed)
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))
    assert broker.middlewares == [placed]
    adapter.detach()
    adapter.detach()

    @broker.task(task_name="silent")
    async def silent():
        return None

    async def scenario():
        await silent.kiq()

    asyncio.run(scenario())
    assert broker.middlewares == [placed]
    assert sink.events == []


def test_detach_when_handlers_were_added_then_they_are_gone(broker, sink):
    before = {event: list(handlers) for event, handlers in broker.event_handlers.items()}
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))
    adapter.detach()

    after = {event: handlers for event, handlers in broker.event_handlers.items() if handlers}
    assert after == {event: handlers for event, handlers in before.items() if handlers}


def test_post_execute_when_a_later_hook_raises_then_the_run_still_ends_failed(sink):
    class Broken(TaskiqMiddleware):
        async def on_error(self, message, result, exception):
            raise RuntimeError("retry store is down")

    broker = InMemoryBroker().with_middlewares(Broken())
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))

    @broker.task(task_name="boom")
    async def boom():
        raise ValueError("first cause")

    async def scenario():
        sent = await boom.kiq()
        await asyncio.gather(*broker._running_tasks, return_exceptions=True)
        return sent.task_id

    task_id = asyncio.run(scenario())

    # Before taskiq 0.12 our hook ran first and knows the body's own exception.
    assert sink.one("task.failed", task_id).data["exception"] in (
        "ValueError: first cause",
        "RuntimeError: retry store is down",
    )
    assert middleware_of(broker).running == {}


def test_hooks_when_our_clock_raises_then_the_task_runs_and_the_guard_counts(broker, sink):
    class BrokenClock:
        def now(self):
            raise RuntimeError("no time")

        def monotonic(self):
            raise RuntimeError("no time")

    guard = CountingGuard()
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink, guard=guard, clock=BrokenClock()))

    @broker.task(task_name="robust")
    async def robust():
        return 7

    async def scenario():
        sent = await robust.kiq()
        return (await sent.wait_result(timeout=5)).return_value

    assert asyncio.run(scenario()) == 7
    assert "taskiq.pre_send" in guard.places
    assert correlation.current() is None


def test_meta_when_it_leaves_a_kind_out_then_only_the_rest_is_recorded(
    broker, adapter, sink, monkeypatch
):
    @dataclasses.dataclass(frozen=True)
    class Meta:
        tags: tuple[str, ...] = ("billing",)
        priority: str | None = "high"
        expected_duration_ms: int | None = 250
        deadline_ms: int | None = None

        def should_record(self, task_id, kind):
            return kind.value != "task.sent"

    meta = Meta()
    monkeypatch.setattr(
        "z4j_fastapi.engines.taskiq.middleware.meta_of",
        lambda function: meta if function.__name__.startswith("marked") else None,
    )

    @broker.task(task_name="marked")
    async def marked():
        return None

    async def scenario():
        return (await marked.kiq()).task_id

    task_id = asyncio.run(scenario())

    assert "task.sent" not in sink.kinds(task_id)
    assert len(sink.of(task_id)) == 4
    for event in sink.of(task_id):
        assert event.meta is meta
        assert event.data["tags"] == ("billing",)
        assert event.data["priority"] == "high"
        assert event.data["expected_duration_ms"] == 250


def test_worker_events_when_an_in_memory_broker_starts_and_stops_then_online_and_offline(
    broker, adapter, sink
):
    async def scenario():
        await broker.startup()
        await broker.shutdown()

    asyncio.run(scenario())

    online, offline = sink.events
    assert (online.kind.value, offline.kind.value) == ("worker.online", "worker.offline")
    assert online.data["worker"] == offline.data["worker"]
    assert online.data["pid"] == int(online.data["worker"].rpartition(":")[2])


def test_middleware_when_shared_by_two_brokers_then_each_gets_its_own(sink):
    shared = Z4JTaskiqMiddleware()
    first, second = InPlaceBroker(), InPlaceBroker()
    first.add_middlewares(shared)
    second.add_middlewares(shared)
    adapter = TaskiqEngineAdapter(brokers=[first, second])
    adapter.attach(attachment_to(sink))

    assert middleware_of(first) is not middleware_of(second)
    assert middleware_of(second) is shared


def test_sending_when_kicks_never_come_back_then_memory_stays_bounded(broker, adapter):
    middleware = middleware_of(broker)

    async def scenario():
        for number in range(5000):
            middleware.pre_send(
                SimpleNamespace(task_id=f"t{number}", task_name="x", labels={}, args=[], kwargs={})
            )

    asyncio.run(scenario())
    assert len(middleware._sending) == 4096
