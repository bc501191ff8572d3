from __future__ import annotations

import threading

import pytest

from z4j_fastapi.runtime.blocking_pool import BlockingPool


@pytest.fixture
def gate():
    """Holds calls up until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def held(gate, begun):
    begun.release()
    gate.wait(30)
    return "done"


def test_submit_when_the_call_returns_or_raises_then_the_future_has_it():
    pool = BlockingPool(2, name="test")
    assert pool.submit(lambda a, b: a + b, 1, b=2).result(5) == 3
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(5)
    assert pool.submit(lambda: "still there").result(5) == "still there"
    pool.shutdown()


def test_submit_when_one_call_hangs_then_the_other_threads_go_on(gate):
    pool = BlockingPool(2, name="test")
    begun = threading.Semaphore(0)
    hanging = pool.submit(held, gate, begun)
    assert begun.acquire(timeout=5)
    assert [pool.submit(lambda n=n: n).result(5) for n in range(50)] == list(range(50))
    gate.set()
    assert hanging.result(5) == "done"
    pool.shutdown()


def test_submit_when_all_threads_are_taken_then_later_calls_wait_in_order(gate):
    pool = BlockingPool(1, name="test")
    begun = threading.Semaphore(0)
    pool.submit(held, gate, begun)
    assert begun.acquire(timeout=5)
    order: list[int] = []
    later = [pool.submit(order.append, n) for n in range(5)]
    assert order == []
    gate.set()
    for future in later:
        future.result(5)
    assert order == list(range(5))
    pool.shutdown()


def test_threads_when_calls_follow_each_other_then_one_is_enough():
    pool = BlockingPool(4, name="test-few")
    names = {pool.submit(lambda: threading.current_thread().name).result(5)}
    for _ in range(20):
        names.add(pool.submit(lambda: threading.current_thread().name).result(5))
    assert len(names) <= 2  # a thread hands its result over a moment before it is idle
    pool.shutdown()


def test_threads_when_they_run_are_daemons_so_that_the_interpreter_never_waits_for_them():
    pool = BlockingPool(1, name="test")
    assert pool.submit(lambda: threading.current_thread().daemon).result(5)
    pool.shutdown()


def test_shutdown_when_a_call_hangs_then_it_returns_at_once_and_cancels_what_waits(gate):
    pool = BlockingPool(1, name="test")
    begun = threading.Semaphore(0)
    hanging = pool.submit(held, gate, begun)
    assert begun.acquire(timeout=5)
    waiting = pool.submit(lambda: None)
    pool.shutdown()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(lambda: None)
    gate.set()
    assert hanging.result(5) == "done"


def test_shutdown_when_called_then_the_threads_end():
    pool = BlockingPool(2, name="test-ending")
    thread = pool.submit(threading.current_thread).result(5)
    pool.shutdown()
    thread.join(5)
    assert not thread.is_alive()
