from __future__ import annotations

import asyncio
import threading

import pytest
from support.runtime_kit import until_sync

from z4j_fastapi.runtime.loop_thread import LoopThread


class Bench:
    """A loop thread whose main waits until it is told to end."""

    def __init__(self):
        self.started = threading.Event()
        self.ending = asyncio.Event()
        self.where = None
        self.thread = LoopThread(name="z4j-test", main=self.main)

    async def main(self):
        self.where = threading.current_thread()
        self.started.set()
        await self.ending.wait()

    def start(self):
        self.thread.start()
        assert self.started.wait(5)

    def end(self):
        self.thread.call_soon(self.ending.set)
        assert self.thread.join(5)


@pytest.fixture
def bench():
    made = Bench()
    made.start()
    yield made
    made.end()


def test_main_runs_on_a_named_daemon_thread_of_its_own(bench):
    assert bench.where is not threading.current_thread()
    assert bench.where.daemon
    assert bench.where.name == "z4j-test"
    assert not bench.thread.on_thread


def test_call_when_the_loop_runs_is_made_on_its_thread(bench):
    seen = []
    assert bench.thread.call_soon(lambda what: seen.append((what, bench.thread.on_thread)), "x")
    until_sync(lambda: seen)
    assert seen == [("x", True)]


def test_coroutine_when_submitted_gives_its_value_or_its_error(bench):
    async def value():
        return 7

    async def error():
        raise KeyError("no")

    assert bench.thread.submit(value()).result(5) == 7
    with pytest.raises(KeyError):
        bench.thread.submit(error()).result(5)


def test_join_when_the_main_goes_on_gives_up_in_time(bench):
    assert bench.thread.join(0.01) is False


def test_work_when_the_loop_is_gone_is_not_taken_and_leaves_no_warning():
    bench = Bench()
    bench.start()
    bench.end()

    async def never():
        raise AssertionError

    assert bench.thread.call_soon(print) is False
    assert bench.thread.submit(never()) is None
    assert bench.thread.join(0) is True


def test_tasks_when_left_over_by_the_main_are_cancelled():
    bench = Bench()
    bench.start()
    cancelled = threading.Event()

    async def forever():
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()

    future = bench.thread.submit(forever())
    bench.end()
    assert cancelled.is_set()
    assert future.cancelled()


def test_generators_when_left_open_are_closed():
    closed = threading.Event()

    async def numbers():
        try:
            yield 1
        finally:
            closed.set()

    kept = []

    async def main():
        generator = numbers()
        kept.append(generator)
        await generator.__anext__()

    thread = LoopThread(name="z4j-test", main=main)
    thread.start()
    assert thread.join(5)
    assert closed.is_set()


def test_thread_when_the_system_has_none_left_closes_its_loop(monkeypatch):
    thread = LoopThread(name="z4j-test", main=lambda: None)

    def refuse():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(thread._thread, "start", refuse)
    with pytest.raises(RuntimeError):
        thread.start()
    assert thread._loop.is_closed()
    assert thread.call_soon(print) is False

    async def never():
        raise AssertionError

    assert thread.submit(never()) is None
