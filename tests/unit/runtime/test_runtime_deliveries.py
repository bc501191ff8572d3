from __future__ import annotations

import logging

import pytest

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import TransportError
from z4j_fastapi.outbox.base import RecordKind, Source
from z4j_fastapi.runtime.deliveries import Deliveries, Delivery
from z4j_fastapi.runtime.positions import Positions


class FakeLane:
    def __init__(self, last):
        self.acknowledged = 0
        self.last = last

    @property
    def pending(self):
        return self.last - self.acknowledged

    def acknowledge(self, up_to):
        self.acknowledged = max(self.acknowledged, up_to)


class FakeOutbox:
    def __init__(self, *sources):
        self.list = list(sources)
        self.released = []

    def sources(self):
        return self.list

    def release(self, source):
        self.list.remove(source)
        self.released.append(source.name)


class FakeClock:
    now_seconds = 0.0

    def monotonic(self):
        return self.now_seconds


class QuietLogger:
    def error(self, event, **fields):
        logging.getLogger("test").debug("%s %s", event, fields)


def source(name="own", *, own=True, events=10, results=0):
    return Source(name=name, own=own, events=FakeLane(events), results=FakeLane(results))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def counters():
    return LossCounters()


def ledger(outbox, clock, counters):
    return Deliveries(
        outbox=outbox,
        positions=Positions(outbox.sources),
        clock=clock,
        counters=counters,
        logger=QuietLogger(),
    )


def batch(frame_id, first, last, source_name="own", results=None):
    return Delivery(
        frame_id=frame_id,
        source=source_name,
        first=first,
        last=last,
        count=last - first + 1,
        results=results or {},
    )


def test_acknowledgement_when_in_order_moves_the_cursor_and_the_results(clock, counters):
    own = source(results=4)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    deliveries.add(batch("a", 1, 5, results={"own": 2}))
    deliveries.add(batch("b", 6, 10, results={"own": 4}))
    assert deliveries.acknowledged("a").count == 5
    assert (own.events.acknowledged, own.results.acknowledged) == (5, 2)
    assert deliveries.acknowledged("b").count == 5
    assert (own.events.acknowledged, own.results.acknowledged) == (10, 4)
    assert deliveries.pending == 0


def test_acknowledgement_when_unknown_changes_nothing(clock, counters):
    own = source()
    deliveries = ledger(FakeOutbox(own), clock, counters)
    deliveries.add(batch("a", 1, 5))
    assert deliveries.acknowledged("z") is None
    assert deliveries.pending == 1
    assert own.events.acknowledged == 0


def test_batch_when_overtaken_is_sent_again_and_later_ones_do_not_cover_it(clock, counters):
    own = source()
    outbox = FakeOutbox(own)
    positions = Positions(outbox.sources)
    positions.of(own).events = 10
    deliveries = Deliveries(
        outbox=outbox, positions=positions, clock=clock, counters=counters, logger=QuietLogger()
    )
    deliveries.add(batch("a", 1, 5))
    deliveries.add(batch("b", 6, 10))
    deliveries.acknowledged("b")
    assert own.events.acknowledged == 0
    assert positions.of(own).events == 0


def test_adopted_source_when_drained_is_released(clock, counters):
    own, adopted = source(), source("dead", own=False, events=3)
    outbox = FakeOutbox(own, adopted)
    deliveries = ledger(outbox, clock, counters)
    deliveries.add(batch("a", 1, 3, "dead"))
    deliveries.acknowledged("a")
    assert outbox.released == ["dead"]


def test_single_event_when_content_is_blamed_three_times_is_dropped_and_counted(clock, counters):
    own = source(events=2)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    for _ in range(3):
        deliveries.add(batch("a", 1, 1))
        deliveries.session_ended(TransportError("too big", close_code=1009))
    assert own.events.acknowledged == 1
    assert counters.get(LossReason.CONTENT_REJECTED) == 1


def test_single_event_when_the_brain_is_silent_is_kept_until_silence_is_long(clock, counters):
    own = source(events=1)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    silent = TransportError("stalled", details={"reason": "stalled"})
    for _ in range(9):
        deliveries.add(batch("a", 1, 1))
        deliveries.session_ended(silent)
    assert own.events.acknowledged == 0
    clock.now_seconds = 901.0
    for _ in range(3):
        deliveries.add(batch("a", 1, 1))
        deliveries.session_ended(silent)
    assert own.events.acknowledged == 1


def test_session_when_it_ends_for_another_reason_blames_nobody(clock, counters):
    own = source(events=1)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    for _ in range(20):
        deliveries.add(batch("a", 1, 1))
        deliveries.session_ended(TransportError("the brain restarts", close_code=1012))
    assert own.events.acknowledged == 0
    assert deliveries.limit(own, 0) is None


def test_batch_when_content_is_blamed_is_split_down_to_the_one_bad_event(clock, counters):
    own = source(events=8)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    bad = 6
    rounds = 0
    while own.events.acknowledged < 8:
        rounds += 1
        assert rounds < 60
        first = own.events.acknowledged + 1
        limit = deliveries.limit(own, own.events.acknowledged) or 8
        last = min(8, first + limit - 1)
        deliveries.add(batch("a", first, last))
        if first <= bad <= last:
            deliveries.session_ended(TransportError("too big", close_code=1009))
        else:
            deliveries.acknowledged("a")
    assert counters.get(LossReason.CONTENT_REJECTED) == 1
    assert RecordKind.EVENT == 1


def test_frames_behind_a_withheld_batch_do_not_cover_it_when_they_are_acknowledged(clock, counters):
    own = source(events=15, results=3)
    outbox = FakeOutbox(own)
    positions = Positions(outbox.sources)
    positions.of(own).events = 15
    deliveries = Deliveries(
        outbox=outbox, positions=positions, clock=clock, counters=counters, logger=QuietLogger()
    )
    deliveries.add(batch("a", 1, 5))
    deliveries.add(batch("b", 6, 10))
    deliveries.add(batch("c", 11, 15, results={"own": 3}))
    deliveries.acknowledged("b")  # a was withheld
    assert positions.of(own).events == 0
    deliveries.add(batch("a again", 1, 15))
    assert deliveries.in_flight(own) == 15
    assert deliveries.acknowledged("c").count == 0
    assert own.events.acknowledged == 0
    assert own.results.acknowledged == 3  # answers are settled all the same
    deliveries.acknowledged("a again")
    assert own.events.acknowledged == 15
    assert deliveries.pending == 0


def test_withheld_batch_of_one_source_leaves_those_of_another_alone(clock, counters):
    own, other = source(), source("dead", own=False)
    outbox = FakeOutbox(own, other)
    deliveries = ledger(outbox, clock, counters)
    deliveries.add(batch("a", 1, 5))
    deliveries.add(batch("b", 1, 10, "dead"))
    deliveries.acknowledged("b")
    assert (own.events.acknowledged, other.events.acknowledged) == (0, 10)
    assert outbox.released == ["dead"]


def test_batch_when_withheld_three_times_is_split(clock, counters):
    own = source(events=8)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    for number in range(3):
        assert deliveries.limit(own, 0) is None
        deliveries.add(batch(f"a{number}", 1, 8))
        deliveries.add(Delivery(frame_id=f"fence{number}", results={}))
        deliveries.acknowledged(f"fence{number}")
    assert deliveries.limit(own, 0) == 4
    assert own.events.acknowledged == 0
    deliveries.add(batch("b", 1, 8))
    deliveries.acknowledged("b")
    assert deliveries.limit(own, 8) is None


def test_acknowledgement_of_a_source_that_is_gone_changes_nothing(clock, counters):
    own, other = source(), source("dead", own=False, events=3)
    outbox = FakeOutbox(own, other)
    deliveries = ledger(outbox, clock, counters)
    deliveries.add(batch("a", 1, 3, "dead", results={"dead": 2}))
    deliveries.add(batch("b", 1, 1, "dead"))
    outbox.list.remove(other)
    deliveries.acknowledged("b")
    deliveries.add(batch("c", 1, 1, "dead"))
    deliveries.session_ended(TransportError("too big", close_code=1009))
    assert other.events.acknowledged == 0
    assert deliveries.pending == 0


def test_adopted_source_when_events_are_left_is_kept(clock, counters):
    own, other = source(), source("dead", own=False, events=5)
    outbox = FakeOutbox(own, other)
    deliveries = ledger(outbox, clock, counters)
    deliveries.add(batch("a", 1, 3, "dead"))
    deliveries.acknowledged("a")
    assert outbox.released == []


def test_adopted_source_when_answers_are_left_is_kept(clock, counters):
    own, other = source(), source("dead", own=False, events=1, results=1)
    outbox = FakeOutbox(own, other)
    deliveries = ledger(outbox, clock, counters)
    deliveries.add(batch("a", 1, 1, "dead"))
    deliveries.acknowledged("a")
    assert outbox.released == []
    deliveries.add(Delivery(frame_id="fence", results={"dead": 1}))
    deliveries.acknowledged("fence")
    assert outbox.released == ["dead"]


def test_oldest_frame_and_restart(clock, counters):
    deliveries = ledger(FakeOutbox(source()), clock, counters)
    assert deliveries.oldest is None
    deliveries.add(batch("a", 1, 5))
    deliveries.add(batch("b", 6, 10))
    assert deliveries.oldest.frame_id == "a"
    deliveries.restart()
    assert deliveries.pending == 0


def test_session_when_it_ends_with_only_fences_blames_nobody(clock, counters):
    own = source()
    deliveries = ledger(FakeOutbox(own), clock, counters)
    for _ in range(5):
        deliveries.add(Delivery(frame_id="fence", results={}))
        deliveries.session_ended(TransportError("malformed", close_code=4400))
    assert own.events.acknowledged == 0
    assert counters.get(LossReason.CONTENT_REJECTED) == 0


def test_batches_when_several_are_withheld_suspect_only_the_oldest(clock, counters):
    own = source(events=15)
    deliveries = ledger(FakeOutbox(own), clock, counters)
    for number in range(3):
        deliveries.add(batch(f"a{number}", 1, 4))
        deliveries.add(batch(f"b{number}", 5, 14))
        deliveries.add(batch(f"c{number}", 15, 15))
        deliveries.acknowledged(f"c{number}")
    assert deliveries.limit(own, 0) == 2  # half of the oldest, not of the one behind it
    assert own.events.acknowledged == 0
