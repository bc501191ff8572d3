from __future__ import annotations

import heapq
import itertools

import pytest

from z4j_fastapi.protocol.flow import MAX_BATCH_EVENTS, MAX_IN_FLIGHT_BYTES, FlowController

FRAME_BYTES = 1_048_576


class Line:
    """A controller, an endless backlog and a brain that works frame by frame, on simulated time."""

    def __init__(self, *, event_bytes=1_100, per_event, per_frame=0.0, latency=0.0005):
        self.flow = FlowController(max_frame_size_bytes=FRAME_BYTES)
        self.event_bytes = event_bytes
        self.per_event = per_event
        self.per_frame = per_frame
        self.latency = latency
        self.now = 1_000.0
        self.brain_free_at = self.now
        self.acks = []
        self.numbers = itertools.count()
        self.done = 0
        self.batches = []
        self.most_events = self.most_bytes = self.most_frames = 0

    def send_all(self, backlog=10**9):
        while backlog and (limits := self.flow.next_batch_limits(self.now)) is not None:
            max_events, max_bytes = limits
            assert 1 <= max_events <= MAX_BATCH_EVENTS
            assert 1 <= max_bytes <= FRAME_BYTES // 2
            count = max(min(max_events, max_bytes // self.event_bytes, backlog), 1)
            backlog -= count
            frame_id = str(next(self.numbers))
            self.flow.sent(frame_id, count, count * self.event_bytes, self.now)
            begun = max(self.brain_free_at, self.now + self.latency)
            self.brain_free_at = begun + self.per_frame + count * self.per_event
            heapq.heappush(self.acks, (self.brain_free_at + self.latency, int(frame_id), count))
            self.batches.append(count)
            self.most_events = max(self.most_events, self.flow.in_flight_events)
            self.most_bytes = max(self.most_bytes, self.flow.in_flight_bytes)
            self.most_frames = max(self.most_frames, self.flow.in_flight_frames)

    def ack_one(self):
        at, frame_id, count = heapq.heappop(self.acks)
        self.now = max(self.now, at)
        acknowledged = self.flow.acked(str(frame_id), self.now)
        assert acknowledged.events == count
        assert acknowledged.withheld == ()
        self.done += count

    def run(self, seconds):
        until = self.now + seconds
        while self.now < until:
            self.send_all()
            self.ack_one()


def test_controller_when_the_peer_is_fast_then_pipelines_and_is_never_the_bottleneck():
    line = Line(per_event=20e-6, per_frame=200e-6)
    line.run(0.1)
    line.done = 0
    started = line.now
    line.run(2.0)
    assert line.done / (line.now - started) >= 13_000
    assert line.most_frames >= 3
    assert line.most_bytes <= MAX_IN_FLIGHT_BYTES


@pytest.mark.parametrize("event_bytes", [200, 1_100, 20_000])
def test_controller_when_the_peer_is_fast_then_the_brain_is_busy_all_the_time(event_bytes):
    line = Line(per_event=20e-6, latency=0.002, event_bytes=event_bytes)
    line.run(0.5)
    line.done = 0
    started = line.now
    line.run(1.0)
    assert line.done * line.per_event >= 0.95 * (line.now - started) or line.done >= 13_000 / 2


def test_controller_when_the_brain_needs_10_ms_an_event_then_about_100_in_flight():
    line = Line(per_event=0.010)
    line.run(5.0)
    line.most_events = 0
    line.run(60.0)
    assert 60 <= line.most_events <= 130
    assert 85 <= line.flow.events_per_second(line.now) <= 115
    assert line.done >= 0.97 * 65 / 0.010


def test_controller_when_a_frame_costs_the_brain_60_ms_then_batches_grow():
    line = Line(per_event=0.008, per_frame=0.060)
    line.run(20.0)
    assert line.batches[-1] >= 25
    assert line.most_events <= 200


def test_controller_when_the_round_trip_is_long_then_grows_until_the_brain_is_busy():
    line = Line(per_event=100e-6, latency=0.1, event_bytes=300)
    line.run(10.0)
    line.done = 0
    started = line.now
    line.run(5.0)
    # At most 1 MiB per 0.2 s can be on its way: 3,495 events of 300 bytes.
    assert line.done / (line.now - started) >= 0.8 * min(10_000, 3_495 / 0.2)


def test_controller_when_the_brain_becomes_slow_then_the_window_shrinks_at_once():
    line = Line(per_event=50e-6)
    line.run(2.0)
    line.per_event = 0.010
    line.run(15.0)
    line.most_events = 0
    line.run(20.0)
    assert line.most_events <= 130


def test_next_batch_limits_when_the_oldest_batch_is_overdue_then_stop_feeding():
    line = Line(per_event=50e-6)
    line.run(2.0)
    while line.acks:
        line.ack_one()
    line.send_all(backlog=100)
    assert line.flow.in_flight_events == 100
    assert line.flow.next_batch_limits(line.now) is not None
    assert line.flow.next_batch_limits(line.now + 20.0) is None
    assert line.flow.events_per_second(line.now + 20.0) < 10


def test_next_batch_limits_when_nothing_is_known_then_one_modest_batch_at_a_time():
    flow = FlowController()
    assert flow.events_per_second(0.0) is None
    events, size_bytes = flow.next_batch_limits(0.0)
    assert (events, size_bytes) == (16, 21_845)
    flow.sent("a", 48, 1_000, 0.0)
    assert flow.next_batch_limits(0.0) is None


def test_next_batch_limits_when_the_frame_size_is_small_then_half_of_it():
    flow = FlowController(max_frame_size_bytes=4_096)
    assert flow.next_batch_limits(0.0)[1] == 2_048


def test_next_batch_limits_when_nothing_is_in_flight_then_always_a_limit():
    line = Line(per_event=10.0)
    line.run(100.0)
    while line.acks:
        line.ack_one()
    assert line.flow.next_batch_limits(line.now + 1e6) == (16, 21_845)


def test_next_batch_limits_when_bytes_are_full_then_wait():
    flow = FlowController()
    flow.sent("a", 1, 2_000_000, 0.0)
    assert flow.next_batch_limits(0.0) is None


def test_acked_when_all_acks_come_in_one_gulp_then_the_rate_stays_finite():
    flow = FlowController()
    for frame_id in "abc":
        flow.sent(frame_id, 10, 1_000, 5.0)
    for frame_id in "abc":
        flow.acked(frame_id, 5.0)
    assert 0 < flow.events_per_second(5.0) < 1e6


def test_acked_when_the_clock_stands_or_goes_back_then_nothing_breaks():
    flow = FlowController()
    flow.sent("a", 10, 1_000, 5.0)
    assert flow.acked("a", 4.0).events == 10
    assert flow.next_batch_limits(4.0) is not None


def test_acked_when_frame_is_unknown_then_nothing_changes():
    flow = FlowController()
    flow.sent("a", 10, 1_000, 5.0)
    assert flow.acked("b", 9.0) is None
    assert flow.stalled_since == 5.0
    assert flow.in_flight_events == 10
    assert flow.acked("a", 9.0).latency_seconds == 4.0
    assert flow.acked("a", 9.0) is None


def test_acked_when_a_later_frame_comes_first_then_name_the_withheld_ones():
    flow = FlowController()
    for frame_id in "abcd":
        flow.sent(frame_id, 10, 1_000, 5.0)
    acknowledged = flow.acked("c", 6.0)
    assert acknowledged.withheld == ("a", "b")
    assert acknowledged.events == 10
    assert (flow.in_flight_frames, flow.in_flight_events, flow.in_flight_bytes) == (1, 10, 1_000)


def test_acked_when_fence_then_progress_but_no_measurement():
    flow = FlowController()
    flow.sent("fence", 0, 0, 5.0)
    assert flow.in_flight_frames == 1
    assert flow.acked("fence", 6.0).events == 0
    assert flow.events_per_second(6.0) is None


def test_deadline_when_idle_then_none():
    flow = FlowController()
    assert flow.deadline is None
    assert flow.stalled_since is None


def test_deadline_when_sent_while_idle_then_counts_from_sending():
    flow = FlowController(stall_seconds=30)
    flow.sent("a", 1, 10, 100.0)
    assert flow.stalled_since == 100.0
    assert flow.deadline == 130.0
    flow.acked("a", 101.0)
    assert flow.deadline is None
    flow.sent("b", 1, 10, 500.0)
    assert flow.deadline == 530.0


def test_deadline_when_a_slow_brain_works_then_counts_from_the_last_acknowledgement():
    flow = FlowController()
    for frame_id in "abc":
        flow.sent(frame_id, 500, 10, 100.0)
    assert flow.deadline == 130.0
    flow.acked("a", 125.0)
    assert flow.deadline == 155.0
    flow.sent("d", 1, 10, 150.0)
    assert flow.deadline == 155.0


def test_reset_when_reconnected_then_nothing_in_flight_and_the_pace_is_kept():
    line = Line(per_event=0.010)
    line.run(5.0)
    pace = line.flow.events_per_second(line.now)
    line.flow.reset()
    assert line.flow.in_flight_frames == line.flow.in_flight_events == 0
    assert line.flow.in_flight_bytes == 0
    assert line.flow.deadline is None
    assert line.flow.events_per_second(line.now) == pytest.approx(pace, rel=0.5)
