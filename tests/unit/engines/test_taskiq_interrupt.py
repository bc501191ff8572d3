from __future__ import annotations

import asyncio

import pytest
from support.taskiq_kit import InPlaceBroker, RecordingSink, attachment_to
from taskiq import InMemoryBroker, TaskiqMiddleware

from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter
from z4j_fastapi.engines.taskiq.interrupt import Interruption, body_is_running, interrupt
from z4j_fastapi.engines.taskiq.middleware import middleware_of


@pytest.fixture
def sink():
    return RecordingSink()


def listen(broker, sink):
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))
    return middleware_of(broker)


async def running(middleware, task_id):
    deadline = asyncio.get_running_loop().time() + 5
    while task_id not in middleware.running:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)
    return middleware.running[task_id]


def test_interrupt_when_the_body_waits_then_revoked_and_the_message_is_finished(sink):
    broker = InMemoryBroker()
    middleware = listen(broker, sink)

    @broker.task(task_name="slow")
    async def slow():
        await asyncio.sleep(60)

    async def scenario():
        sent = await slow.kiq()
        run = await running(middleware, sent.task_id)
        state = await interrupt(run, timeout_seconds=5)
        result = await sent.wait_result(timeout=5)
        return sent.task_id, state, result.is_err

    task_id, state, is_err = asyncio.run(scenario())

    assert state is Interruption.REVOKED
    assert is_err
    assert sink.kinds(task_id)[-1] == "task.revoked"
    assert middleware.running == {}


def test_interrupt_when_a_hook_of_another_middleware_waits_then_it_is_not_cut(sink):
    """A cancellation there would lose the message without a result."""
    entered, leave = asyncio.Event(), asyncio.Event()

    class Slow(TaskiqMiddleware):
        async def pre_execute(self, message):
            entered.set()
            await leave.wait()
            return message

    broker = InMemoryBroker().with_middlewares(Slow())
    middleware = listen(broker, sink)

    @broker.task(task_name="plain")
    async def plain():
        return "done"

    async def scenario():
        sent = await plain.kiq()
        await entered.wait()
        run = await running(middleware, sent.task_id)
        assert not body_is_running(run.task)
        state = await interrupt(run, timeout_seconds=0.1)
        leave.set()
        return state, (await sent.wait_result(timeout=5)).return_value

    assert asyncio.run(scenario()) == (Interruption.BUSY, "done")


def test_interrupt_when_the_body_is_over_and_an_error_hook_waits_then_it_is_not_cut(sink):
    entered, leave = asyncio.Event(), asyncio.Event()

    class SlowRetry(TaskiqMiddleware):
        async def on_error(self, message, result, exception):
            entered.set()
            await leave.wait()

    broker = InMemoryBroker().with_middlewares(SlowRetry())
    middleware = listen(broker, sink)

    @broker.task(task_name="boom")
    async def boom():
        raise ValueError("its own error")

    async def scenario():
        sent = await boom.kiq()
        await entered.wait()
        run = await running(middleware, sent.task_id)
        state = await interrupt(run, timeout_seconds=0.1)
        leave.set()
        return state, (await sent.wait_result(timeout=5)).error

    state, error = asyncio.run(scenario())
    assert state is Interruption.BUSY
    assert isinstance(error, ValueError)


def test_interrupt_when_the_body_ends_meanwhile_then_finished(sink):
    entered, leave = asyncio.Event(), asyncio.Event()

    class Slow(TaskiqMiddleware):
        async def pre_execute(self, message):
            entered.set()
            await leave.wait()
            return message

    broker = InMemoryBroker().with_middlewares(Slow())
    middleware = listen(broker, sink)

    @broker.task(task_name="plain")
    async def plain():
        return "done"

    async def scenario():
        sent = await plain.kiq()
        await entered.wait()
        run = await running(middleware, sent.task_id)
        asking = asyncio.ensure_future(interrupt(run, timeout_seconds=5))
        leave.set()
        return await asking

    assert asyncio.run(scenario()) is Interruption.FINISHED


def test_interrupt_when_the_body_swallows_it_then_requested(sink):
    broker = InMemoryBroker()
    middleware = listen(broker, sink)
    leave = asyncio.Event()

    @broker.task(task_name="deaf")
    async def deaf():
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                continue
        return "ignored it"

    async def scenario():
        sent = await deaf.kiq()
        run = await running(middleware, sent.task_id)
        state = await interrupt(run, timeout_seconds=0.1)
        leave.set()
        result = await sent.wait_result(timeout=5)
        return sent.task_id, state, result.return_value

    task_id, state, value = asyncio.run(scenario())

    assert (state, value) == (Interruption.REQUESTED, "ignored it")
    assert sink.kinds(task_id)[-1] == "task.succeeded"


def test_interrupt_when_the_body_is_synchronous_then_not_touched(sink):
    broker = InMemoryBroker()
    middleware = listen(broker, sink)

    @broker.task(task_name="sync")
    def sync():
        return "done"

    async def scenario():
        sent = await sync.kiq()
        run = await running(middleware, sent.task_id)
        state = await interrupt(run, timeout_seconds=1)
        return state, (await sent.wait_result(timeout=5)).return_value

    assert asyncio.run(scenario()) == (Interruption.SYNCHRONOUS, "done")


def test_interrupt_when_it_runs_inside_the_callers_coroutine_then_not_touched(sink):
    broker = InPlaceBroker()
    middleware = listen(broker, sink)
    states = []

    @broker.task(task_name="inside")
    async def inside():
        run = next(iter(middleware.running.values()))
        states.append(await interrupt(run, timeout_seconds=1))

    async def scenario():
        await inside.kiq()

    asyncio.run(scenario())
    assert states == [Interruption.SYNCHRONOUS]
