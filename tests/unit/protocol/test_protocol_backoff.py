from __future__ import annotations

import random

import pytest

from z4j_fastapi.errors import Failure
from z4j_fastapi.protocol.backoff import Backoff, Streaks


class Edge(random.Random):
    """Draws the lower or upper end."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def uniform(self, a, b):
        return (a, b)[self.end]


def delays(failure, count, end):
    backoff = Backoff(Edge(end))
    return [backoff.next_delay(failure) for _ in range(count)]


@pytest.mark.parametrize(
    ("failure", "lowest", "highest"),
    [
        (Failure.TRANSIENT, 1, [2, 4, 8, 16, 30, 30]),
        (Failure.DISPLACED, 1, [2, 4, 8, 16, 30, 30]),
        (Failure.THROTTLED, 30, [60, 120, 120]),
        (Failure.AUTH, 10, [20, 40, 80, 160, 320, 600, 600]),
        (Failure.PROTOCOL, 30, [60, 120, 240, 480, 900, 900]),
        (Failure.TERMINAL, 3600, [4500, 4500]),
    ],
)
def test_next_delay_when_failures_repeat_then_range_grows_to_the_cap(failure, lowest, highest):
    assert delays(failure, len(highest), 1) == highest
    assert delays(failure, len(highest), 0) == [lowest] * len(highest)


def test_next_delay_when_idle_then_at_once_and_afterwards_as_transient():
    assert delays(Failure.IDLE, 4, 1) == [0, 2, 4, 8]
    assert delays(Failure.IDLE, 3, 0) == [0, 1, 1]


def test_next_delay_when_failing_for_ever_then_stays_at_the_cap():
    backoff = Backoff(random.Random(1))
    assert all(1 <= backoff.next_delay(Failure.TRANSIENT) <= 30 for _ in range(5_000))


def test_next_delay_when_seeded_differently_then_spread_over_the_whole_range():
    firsts = [Backoff(random.Random(seed)).next_delay(Failure.TRANSIENT) for seed in range(200)]
    assert min(firsts) < 1.1
    assert max(firsts) > 1.9


def test_next_delay_when_a_minimum_is_given_then_never_below_and_still_jittered():
    low, high = Backoff(Edge(0)), Backoff(Edge(1))
    assert low.next_delay(Failure.TRANSIENT, minimum_seconds=100) == 100
    assert high.next_delay(Failure.TRANSIENT, minimum_seconds=100) == 125
    assert low.next_delay(Failure.IDLE, minimum_seconds=3) == 3


def test_next_delay_when_classes_alternate_then_each_counts_for_itself():
    backoff = Backoff(Edge(1))
    assert backoff.next_delay(Failure.AUTH) == 20
    assert backoff.next_delay(Failure.TRANSIENT) == 2
    assert backoff.next_delay(Failure.AUTH) == 40


def test_streaks_when_failures_come_then_grouped_and_reset():
    backoff = Backoff(random.Random(1))
    for failure in Failure:
        backoff.next_delay(failure)
    assert backoff.streaks == Streaks(auth=1, protocol=2, connection=4)
    backoff.reset()
    assert backoff.streaks == Streaks(auth=0, protocol=0, connection=0)
    assert backoff.next_delay(Failure.IDLE) == 0
