from __future__ import annotations

import pytest

from z4j_fastapi.protocol.poison import MAX_DELIVERIES, PoisonTracker, Verdict


def fail(tracker, first, last, times=1, source="own"):
    return [
        tracker.unacknowledged(source, first=first, last=last, count=last - first + 1)
        for _ in range(times)
    ]


def test_unacknowledged_when_third_time_then_split_in_halves():
    tracker = PoisonTracker()
    assert tracker.limit("own", 1) is None
    assert fail(tracker, 1, 100, 3) == [Verdict.RESEND, Verdict.RESEND, Verdict.SPLIT]
    assert tracker.limit("own", 1) == 50
    assert tracker.limit("own", 51) == 50
    assert tracker.limit("own", 101) is None
    assert tracker.limit("other", 1) is None


def test_unacknowledged_when_batch_sizes_differ_between_deliveries_then_still_counted():
    tracker = PoisonTracker()
    assert fail(tracker, 1, 100) == [Verdict.RESEND]
    assert fail(tracker, 1, 37) == [Verdict.RESEND]
    assert fail(tracker, 1, 60) == [Verdict.SPLIT]
    assert tracker.limit("own", 1) == 30


def test_unacknowledged_when_a_half_fails_then_it_has_three_deliveries_of_its_own():
    tracker = PoisonTracker()
    fail(tracker, 1, 2, 3)
    assert fail(tracker, 1, 1, 3) == [Verdict.RESEND, Verdict.RESEND, Verdict.DROP]


def test_unacknowledged_when_one_event_fails_alone_three_times_then_drop():
    tracker = PoisonTracker()
    assert fail(tracker, 7, 7, 3) == [Verdict.RESEND, Verdict.RESEND, Verdict.DROP]


def test_unacknowledged_when_another_batch_fails_then_counts_start_over():
    tracker = PoisonTracker()
    fail(tracker, 1, 100, 2)
    tracker.acknowledged("own", 100)
    assert fail(tracker, 101, 200, 2) == [Verdict.RESEND, Verdict.RESEND]
    assert fail(tracker, 201, 300) == [Verdict.RESEND]
    assert fail(tracker, 1, 100, source="other") == [Verdict.RESEND]


def test_acknowledged_when_first_half_is_fine_then_second_half_is_still_suspect():
    tracker = PoisonTracker()
    fail(tracker, 1, 100, 3)
    tracker.acknowledged("own", 50)
    assert tracker.limit("own", 51) == 50
    assert fail(tracker, 51, 100, 3)[-1] is Verdict.SPLIT
    assert tracker.limit("own", 51) == 25
    tracker.acknowledged("own", 100)
    assert tracker.limit("own", 51) is None


def test_acknowledged_when_nothing_is_suspect_then_nothing_happens():
    PoisonTracker().acknowledged("own", 5)


def test_forget_when_a_source_is_gone_then_it_starts_over():
    tracker = PoisonTracker()
    fail(tracker, 1, 100, 3)
    tracker.forget("own")
    tracker.forget("own")
    assert tracker.limit("own", 1) is None


@pytest.mark.parametrize("bad", [{1}, {500}, {137, 138}, {3, 250, 499}, set(range(1, 9)), set()])
@pytest.mark.parametrize("batch", [500, 231, 1])
def test_tracker_when_some_events_are_bad_then_exactly_they_are_dropped(bad, batch):
    tracker = PoisonTracker()
    dropped, delivered, deliveries = set(), set(), 0
    at = 1
    while at <= 500:
        limit = tracker.limit("own", at)
        last = min(at + min(batch, limit or batch) - 1, 500)
        numbers = set(range(at, last + 1))
        if not numbers & bad:
            delivered |= numbers
            tracker.acknowledged("own", last)
            at = last + 1
            continue
        deliveries += 1
        verdict = tracker.unacknowledged("own", first=at, last=last, count=len(numbers))
        if verdict is Verdict.DROP:
            dropped |= numbers
            tracker.acknowledged("own", last)
            at = last + 1
    assert dropped == bad
    assert delivered == set(range(1, 501)) - bad
    assert deliveries <= MAX_DELIVERIES * 10 * max(len(bad), 1)
