from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.observability.guard import ErrorGuard
from z4j_fastapi.observability.log import get_logger


class FakeClock:
    seconds = 1000.0

    def monotonic(self):
        return self.seconds


def _guard(**options):
    counters = LossCounters()
    clock = FakeClock()
    guard = ErrorGuard(logger=get_logger("guard"), counters=counters, clock=clock, **options)
    return guard, counters, clock


def test_guard_when_nothing_is_raised_then_counts_nothing():
    guard, counters, _ = _guard()

    with guard("arq.enqueue"):
        pass

    assert guard.counts() == {}
    assert counters.get(LossReason.ENGINE_ERROR) == 0


def test_guard_when_an_error_is_raised_then_contains_and_counts_it_by_place():
    guard, counters, _ = _guard()

    for place in ("arq.enqueue", "arq.enqueue", "record"):
        with guard(place):
            raise ValueError("secret argument")

    assert guard.counts() == {"arq.enqueue": 2, "record": 1}
    assert counters.get(LossReason.ENGINE_ERROR) == 3


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit]
)
def test_guard_when_the_error_is_the_hosts_business_then_lets_it_pass(error):
    guard, counters, _ = _guard()

    with pytest.raises(error):
        with guard("place"):
            raise error

    assert guard.counts() == {}
    assert counters.get(LossReason.ENGINE_ERROR) == 0


@pytest.mark.parametrize("error", [StopIteration, RecursionError, MemoryError])
def test_guard_when_the_error_is_unusual_then_contains_it_all_the_same(error):
    guard, _, _ = _guard()

    with guard("place"):
        raise error

    assert guard.counts() == {"place": 1}


def test_guard_when_errors_repeat_then_logs_once_a_minute_without_their_text(caplog):
    guard, _, clock = _guard()

    def fail(times):
        for _ in range(times):
            with guard("arq.enqueue"):
                raise ValueError("secret argument")

    with caplog.at_level(logging.DEBUG, logger="z4j_fastapi"):
        fail(3)
        clock.seconds += 61
        fail(1)

    first, second = caplog.records
    assert (first.event, first.place, first.error) == (
        "error_contained",
        "arq.enqueue",
        "ValueError",
    )
    assert first.raised_in.startswith("test_observability_guard.py:")
    assert (first.held_back, second.held_back) == (0, 2)
    assert "secret argument" not in caplog.text


def test_guard_when_nested_at_one_place_then_each_level_stands_alone():
    guard, _, _ = _guard()
    reached = []

    with guard("place"):
        with guard("place"):
            raise ValueError
        reached.append("between")
        raise KeyError

    assert reached == ["between"]
    assert guard.counts() == {"place": 2}


def test_guard_when_the_hosts_log_handler_raises_then_nothing_reaches_the_host():
    class Broken(logging.Handler):
        def handle(self, record):
            raise RuntimeError("the host's handler")

    guard, counters, _ = _guard()
    handler = Broken()
    tree = logging.getLogger("z4j_fastapi")
    tree.addHandler(handler)
    try:
        with guard("place"):
            raise ValueError
    finally:
        tree.removeHandler(handler)

    assert counters.get(LossReason.ENGINE_ERROR) == 1


def test_guard_when_given_on_error_then_it_hears_of_it_and_may_raise():
    heard = []

    def reraise(place, error):
        heard.append(place)
        raise error

    guard, _, _ = _guard(on_error=reraise)

    with pytest.raises(ValueError, match="seen by the test"):
        with guard("place"):
            raise ValueError("seen by the test")

    assert heard == ["place"]
    assert guard.counts() == {"place": 1}


def test_guard_when_asked_for_a_place_again_then_gives_the_same_object():
    guard, _, _ = _guard()

    assert guard("place") is guard("place")


def test_guard_when_places_are_without_number_then_memory_stays_bounded():
    guard, counters, _ = _guard()
    for number in range(3000):
        with guard(f"place.{number}"):
            raise ValueError

    assert len(guard.counts()) == len(guard._contexts) == 1000
    assert counters.get(LossReason.ENGINE_ERROR) == 3000


def test_guard_when_used_by_many_threads_then_loses_no_count():
    guard, counters, _ = _guard()

    def work():
        for _ in range(500):
            with guard("place"):
                raise ValueError

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert guard.counts() == {"place": 4000}
    assert counters.get(LossReason.ENGINE_ERROR) == 4000


def test_reinit_after_fork_when_the_parent_held_the_lock_then_the_child_counts_from_zero():
    guard, _, _ = _guard()
    with guard("place"):
        raise ValueError
    guard._lock.acquire()  # as another thread may have at the moment of the fork

    guard.reinit_after_fork()

    with guard("place"):
        raise ValueError
    assert guard.counts() == {"place": 1}
