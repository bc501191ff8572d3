from __future__ import annotations

import asyncio
import random
import threading
from functools import partial

import pytest
from support.brain_side import plain_json
from support.outboxes import StillClock
from support.runtime_kit import (
    Guarded,
    LogLines,
    MemoryOutbox,
    adopted,
    cancel,
    live_link,
    rounds,
    run,
    until,
    until_sync,
)

from z4j_fastapi.clock import SystemClock
from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import LocalProtocolError, TransportError
from z4j_fastapi.events import Event, EventKind
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.redaction import Redactor
from z4j_fastapi.runtime import control_record
from z4j_fastapi.runtime.loop_thread import LoopThread
from z4j_fastapi.runtime.recorder import Recorder
from z4j_fastapi.runtime.sender import LINGER_SECONDS, Sender


def result(command_id, status="success"):
    payload = {"delivery_claim_token": None, "error": None, "result": None, "status": status}
    return control_record.encode(control_record.RESULT, command_id, payload)


def ack(command_id, token="tok"):
    return control_record.encode(control_record.ACK, command_id, {"delivery_claim_token": token})


class Bench:
    """A sender over an outbox in memory; time stands still."""

    def __init__(self, *others, clock=None):
        self.clock = clock or StillClock()
        self.outbox = MemoryOutbox(*others)
        self.counters = LossCounters()
        self.log = LogLines()
        self.parked = False
        self.on_park = None
        self.measured = []
        self.sender = Sender(
            outbox=self.outbox,
            clock=self.clock,
            counters=self.counters,
            logger=self.log,
            park=self._park,
            on_sent=lambda count: self.measured.append(("sent", count)),
            on_acknowledged=lambda count, seconds: self.measured.append(("acked", count)),
        )
        self.link = self.task = None

    def _park(self, parked):
        self.parked = parked
        if self.on_park is not None:
            self.on_park(parked)

    @property
    def events(self):
        return self.outbox.own.events

    @property
    def results(self):
        return self.outbox.own.results

    @property
    def connection(self):
        return self.link.connection

    @property
    def batches(self):
        return self.connection.batches

    def store(self, *ids, size=0):
        for one in ids:
            payload = {"id": one} | ({"data": "x" * size} if size else {})
            self.outbox.append(RecordKind.EVENT, plain_json(payload))

    def record(self, *ids, **more):
        """As the recorder does."""
        for one in ids:
            self.store(one, **more)
            if self.parked:
                self.parked = False
                self.sender.wake()

    def answer(self, *records):
        """As the dispatcher does."""
        for record in records:
            self.outbox.append(RecordKind.RESULT, record)
            self.sender.wake()

    async def connect(self, *, frames=True, **options):
        self.link = live_link(self.clock, **options)
        size = options.get("max_frame_size_bytes", 1_048_576)
        self.task = asyncio.ensure_future(self.sender.run(self.link, max_frame_size_bytes=size))
        if frames:
            await until(lambda: self.connection.frames or self.task.done(), "a first frame")

    async def disconnect(self, error=None):
        await cancel(self.task)
        if error is not None:
            self.sender.session_ended(error)

    def acknowledge(self, index=-1):
        self.sender.acknowledged(self.connection.of_type("event_batch")[index]["id"])

    async def sent(self, *batches):
        await until(lambda: self.batches == list(batches), f"{batches} (sent: {self.batches})")

    async def settle(self):
        """Acknowledge until nothing is on the way."""
        seen = 0
        while self.events.pending or self.results.pending:
            await until(lambda seen=seen: len(self.batches) > seen, "one more batch")
            while seen < len(self.batches):
                self.acknowledge(seen)
                seen += 1
            self.clock.advance(LINGER_SECONDS)


def test_session_when_nothing_waits_begins_with_a_fence_and_parks():
    async def work():
        bench = Bench()
        await bench.connect()
        await until(lambda: bench.parked)
        assert bench.batches == [[]]
        bench.acknowledge()
        await until(lambda: bench.parked)
        await rounds()
        assert bench.batches == [[]]  # one fence is enough
        await bench.disconnect()
        assert bench.parked is False

    run(work())


def test_event_when_the_line_is_idle_leaves_at_once():
    async def work():
        bench = Bench()
        await bench.connect()
        await until(lambda: bench.parked)
        bench.record("1")
        await bench.sent([], ["1"])
        assert bench.sender.totals.sent == 1
        assert bench.sender.totals.last_flush_at == bench.clock.now()
        assert bench.measured == [("sent", 1)]
        await bench.disconnect()

    run(work())


def test_events_when_they_follow_a_batch_wait_for_company_and_leave_together():
    async def work():
        bench = Bench()
        bench.store("1")
        await bench.connect()
        bench.record("2", "3")
        await rounds(50)
        bench.record("4")
        await asyncio.sleep(2 * LINGER_SECONDS)  # the real time: the sender's clock stands still
        assert bench.batches == [["1"]]
        bench.clock.advance(LINGER_SECONDS)
        await bench.sent(["1"], ["2", "3", "4"])
        await bench.disconnect()

    run(work())


def test_events_when_they_fill_a_batch_do_not_linger():
    async def work():
        bench = Bench()
        bench.store("first")
        await bench.connect()
        bench.record(*(str(number) for number in range(16)))
        await until(lambda: len(bench.batches) == 2)
        assert len(bench.batches[1]) == 16
        await bench.disconnect()

    run(work())


def test_events_when_the_window_is_full_wait_for_an_acknowledgement():
    async def work():
        bench = Bench()
        bench.store(*(str(number) for number in range(200)))
        await bench.connect()
        await until(lambda: len(bench.batches) == 3)
        bench.clock.advance(1)
        bench.sender.wake()
        await rounds(50)
        assert len(bench.batches) == 3
        in_flight = sum(len(batch) for batch in bench.batches)
        assert in_flight <= 48
        assert not bench.parked  # nobody needs to wake it for an event
        bench.acknowledge(0)
        await until(lambda: len(bench.batches) > 3)
        await bench.disconnect()

    run(work())


def test_backlog_when_acknowledged_arrives_whole_in_order_and_once():
    async def work():
        bench = Bench()
        ids = [str(number) for number in range(1000)]
        bench.store(*ids)
        await bench.connect()
        await bench.settle()
        assert [one for batch in bench.batches for one in batch] == ids
        assert bench.sender.totals.acknowledged == bench.sender.totals.sent == 1000
        assert sum(count for what, count in bench.measured if what == "acked") == 1000
        await bench.disconnect()

    run(work())


def test_answers_when_events_wait_too_go_first():
    async def work():
        bench = Bench()
        bench.store("1")
        bench.answer(ack("c-1"), result("c-1"))
        await bench.connect()
        await bench.sent(["1"])
        assert bench.connection.types == ["command_ack", "command_result", "event_batch"]
        acked, answered = bench.connection.frames[:2]
        assert acked["id"] == answered["id"] == "c-1"
        assert acked["payload"] == {"delivery_claim_token": "tok"}
        assert answered["payload"]["status"] == "success"
        await bench.disconnect()

    run(work())


def test_answers_when_sent_are_followed_by_a_fence_whose_acknowledgement_settles_them():
    async def work():
        bench = Bench()
        await bench.connect()
        bench.acknowledge()
        await until(lambda: bench.parked)
        bench.answer(result("c-1"))
        await bench.sent([], [])
        assert bench.connection.types[-2:] == ["command_result", "event_batch"]
        assert bench.results.pending == 1
        bench.acknowledge()
        assert bench.results.pending == 0
        assert bench.sender.totals.acknowledged == 0  # a fence is no event
        await bench.disconnect()

    run(work())


def test_answers_when_sent_after_a_batch_are_not_settled_by_it():
    async def work():
        bench = Bench()
        bench.store("1")
        await bench.connect()
        bench.answer(result("c-1"))
        await bench.sent(["1"], [])
        bench.acknowledge(0)
        assert (bench.events.pending, bench.results.pending) == (0, 1)
        bench.acknowledge(1)
        assert bench.results.pending == 0
        await bench.disconnect()

    run(work())


def test_answers_when_there_are_very_many_all_go_out():
    async def work():
        bench = Bench()
        bench.answer(*(result(f"c-{number}") for number in range(250)))
        await bench.connect()
        await bench.settle()
        names = [frame["id"] for frame in bench.connection.of_type("command_result")]
        assert names == [f"c-{number}" for number in range(250)]
        await bench.disconnect()

    run(work())


def test_next_session_sends_again_what_was_not_acknowledged_and_nothing_else():
    async def work():
        bench = Bench()
        bench.store("1")
        bench.answer(result("c-1"))
        await bench.connect()
        bench.acknowledge()
        bench.clock.advance(1)
        bench.store("2")
        bench.answer(result("c-2"))
        await bench.sent(["1"], ["2"])
        lost = bench.connection.of_type("event_batch")[-1]["id"]
        await bench.disconnect()

        await bench.connect()
        await bench.sent(["2"])
        assert [f["id"] for f in bench.connection.of_type("command_result")] == ["c-2"]
        bench.sender.acknowledged(lost)  # of a session that is over
        assert bench.events.pending == 1
        bench.acknowledge()
        assert bench.events.pending == bench.results.pending == 0
        await bench.disconnect()

        await bench.connect()
        await bench.sent([])
        assert bench.connection.types == ["event_batch"]
        await bench.disconnect()

    run(work())


def test_acknowledgement_when_unknown_changes_nothing():
    async def work():
        bench = Bench()
        bench.store("1")
        await bench.connect()
        bench.sender.acknowledged("nothing of ours")
        assert bench.events.pending == 1
        assert bench.sender.totals.last_acknowledged_at is None
        bench.acknowledge()
        assert bench.sender.totals.last_acknowledged_at == bench.clock.now()
        await bench.disconnect()

    run(work())


def test_brain_when_it_acknowledges_nothing_for_30_s_is_given_up():
    async def work():
        bench = Bench()
        bench.store("1")
        await bench.connect()
        bench.clock.advance(29.9)
        bench.sender.wake()
        await rounds()
        assert not bench.task.done()
        bench.clock.advance(0.2)
        bench.sender.wake()
        with pytest.raises(TransportError, match="30 s") as caught:
            await bench.task
        assert caught.value.details == {"reason": "stalled"}

    run(work())


def test_brain_when_it_is_slow_but_makes_progress_is_never_given_up():
    async def work():
        bench = Bench()
        bench.store(*(str(number) for number in range(48)))
        await bench.connect()
        await until(lambda: len(bench.batches) == 3)
        for index in range(3):
            bench.clock.advance(29)
            bench.sender.wake()
            await rounds()
            assert not bench.task.done()
            assert bench.events.pending == 48 - 16 * index
            bench.acknowledge(index)
        bench.clock.advance(1000)
        bench.sender.wake()
        await rounds()
        assert not bench.task.done()  # nothing is in flight
        await bench.disconnect()

    run(work())


@pytest.mark.parametrize(
    "record",
    [
        b"rubbish",
        control_record.encode(control_record.RESULT, "c-0", {"status": "done"}),
        control_record.encode(control_record.ACK, "", {"delivery_claim_token": None}),
        control_record.encode(control_record.ACK, "c-0", b"[]"),
        control_record.encode(control_record.ACK, "c-0", b"not json"),
        control_record.encode(control_record.RESULT, "c-0", b"not json"),
    ],
)
def test_answer_when_unusable_is_counted_and_skipped_and_the_rest_goes_on(record):
    async def work():
        bench = Bench()
        bench.answer(record, result("c-1"))
        await bench.connect()
        await bench.sent([])
        assert bench.connection.types == ["command_result", "event_batch"]
        assert bench.counters.get(LossReason.CORRUPT) == 1
        assert bench.log.events == ["command_answer_unusable"]
        bench.acknowledge()
        assert bench.results.pending == 0
        await bench.disconnect()

    run(work())


def test_records_when_corrupt_are_passed_over():
    async def work():
        bench = Bench()
        bench.store("1", "2", "3", "4")
        bench.answer(result("c-1"), result("c-2"))
        bench.events.corrupt = {1, 3, 4}
        bench.results.corrupt = {1, 2}
        await bench.connect()
        await until(lambda: ["2"] in bench.batches)
        flushed = asyncio.ensure_future(bench.sender.drained())
        bench.clock.advance(1)
        await until(lambda: bench.batches[-1] == [], "a fence behind what cannot be read")
        bench.acknowledge(0)
        bench.acknowledge()
        assert await flushed is True
        assert bench.connection.of_type("command_result") == []
        await bench.disconnect()

    run(work())


@pytest.mark.parametrize("what", ["events", "results", "both"])
def test_records_when_the_disk_cannot_be_read_are_waited_for_not_passed_over(what):
    async def work():
        bench = Bench()
        if what != "results":
            bench.store("1", "2")
        if what != "events":
            bench.answer(result("c-1"))
        bench.events.unreadable = bench.results.unreadable = True
        await bench.connect(frames=False)
        lane = bench.results if what == "results" else bench.events
        await until(lambda: lane.reads)
        reads = len(lane.reads)
        await rounds(200)
        assert len(lane.reads) - reads <= 2  # it does not spin
        assert bench.connection.of_type("command_result") == []
        bench.events.unreadable = bench.results.unreadable = False
        bench.clock.advance(0.5)
        bench.sender.wake()
        await bench.settle()
        delivered = [one for batch in bench.batches for one in batch]
        assert delivered == (["1", "2"] if what != "results" else [])
        assert len(bench.connection.of_type("command_result")) == (what != "events")
        await bench.disconnect()

    run(work())


def test_event_when_larger_than_the_brains_frames_is_dropped_alone_and_after_those_before_it():
    async def work():
        bench = Bench()
        bench.store("1")
        bench.store("huge", size=5000)
        bench.store("2")
        await bench.connect(max_frame_size_bytes=4096)
        await bench.sent(["1"])
        bench.clock.advance(1)
        bench.sender.wake()
        reads = len(bench.events.reads)
        await rounds(200)
        assert bench.counters.get(LossReason.CONTENT_REJECTED) == 0
        assert bench.events.acknowledged == 0
        assert len(bench.events.reads) - reads <= 2
        bench.acknowledge(0)
        await bench.sent(["1"], ["2"])
        assert bench.counters.get(LossReason.CONTENT_REJECTED) == 1
        assert bench.log.fields("event_dropped") == [{"reason": "content_rejected", "record": 2}]
        bench.acknowledge(1)
        assert bench.events.pending == 0
        await bench.disconnect()

    run(work())


def test_flush_when_the_last_event_was_too_large_ends_all_the_same():
    async def work():
        bench = Bench()
        await bench.connect(max_frame_size_bytes=4096)
        bench.acknowledge()
        await until(lambda: bench.parked)
        bench.record("huge", size=5000)
        flushed = asyncio.ensure_future(bench.sender.drained())
        await bench.sent([], [])
        bench.acknowledge()
        assert await flushed is True
        await bench.disconnect()

    run(work())


def test_batch_when_the_brain_chokes_on_it_again_and_again_is_halved_on_the_next_session():
    async def work():
        bench = Bench()
        bench.store("1", "2", "3", "4")
        for _ in range(3):
            await bench.connect()
            await bench.sent(["1", "2", "3", "4"])
            await bench.disconnect(TransportError("too big", close_code=1009))
        await bench.connect()
        await bench.sent(["1", "2"])
        bench.clock.advance(LINGER_SECONDS)
        await bench.sent(["1", "2"], ["3", "4"])
        await bench.disconnect()

    run(work())


def test_adopted_sources_are_delivered_in_turn_and_released_when_empty():
    async def work():
        dead = adopted("dead", events=[b'{"id":"d1"}', b'{"id":"d2"}'], results=[result("c-9")])
        foreign = adopted("foreign", events=[b'{"id":"f1"}'], results=None)
        bench = Bench(dead, foreign)
        bench.store("1")
        await bench.connect()
        for count in (1, 2, 3):
            await until(lambda count=count: len(bench.batches) == count)
            bench.clock.advance(LINGER_SECONDS)
        assert sorted(bench.batches) == [["1"], ["d1", "d2"], ["f1"]]
        assert [f["id"] for f in bench.connection.of_type("command_result")] == ["c-9"]
        for index, batch in enumerate(list(bench.batches)):
            released = list(bench.outbox.released)
            bench.acknowledge(index)
            now_released = {"1": [], "d1": ["dead"], "f1": ["foreign"]}[batch[0]]
            assert bench.outbox.released == released + now_released
        await bench.disconnect()

    run(work())


def test_connection_when_it_breaks_ends_the_run_and_unparks():
    async def work():
        bench = Bench()
        await bench.connect()
        await until(lambda: bench.parked)
        bench.connection.cut(close_code=1006)
        bench.record("1")
        with pytest.raises(TransportError):
            await bench.task
        assert bench.parked is False
        assert bench.events.pending == 1
        assert bench.sender.totals.sent == 0

    run(work())


def test_event_when_recorded_between_the_look_and_the_flag_is_not_forgotten():
    async def work():
        bench = Bench()
        late = ["late"]

        def on_park(parked):
            if parked and late:
                bench.store(late.pop())  # its recorder saw the flag still down: nobody wakes us

        bench.on_park = on_park
        await bench.connect()
        bench.clock.advance(1)
        await bench.sent([], ["late"])
        await bench.disconnect()

    run(work())


def test_expected_time_follows_the_brains_pace():
    async def work():
        bench = Bench()
        bench.store(*(str(number) for number in range(16)))
        await bench.connect()
        assert bench.sender.expected_seconds() == 0.0  # nothing is known yet
        bench.clock.advance(1.6)
        bench.acknowledge()
        assert bench.sender.last_progress_at == bench.clock.monotonic()
        bench.record("a")
        await until(lambda: len(bench.batches) == 2)
        assert bench.sender.expected_seconds() >= 0.1
        await bench.disconnect()

    run(work())


def test_defect_of_ours_when_a_batch_cannot_be_sealed_costs_no_event():
    async def work():
        bench = Bench()
        await bench.connect()
        await until(lambda: bench.parked)
        bench.link.session.close()
        bench.record("1")
        with pytest.raises(LocalProtocolError):
            await bench.task
        assert bench.events.pending == 1
        assert bench.counters.get(LossReason.CONTENT_REJECTED) == 0

    run(work())


# -- flushing


def test_flush_when_nothing_waits_is_done_at_once():
    async def work():
        bench = Bench()
        assert await bench.sender.drained() is True

    run(work())


def test_flush_when_the_outbox_is_closed_says_so():
    async def work():
        bench = Bench()
        bench.store("1")
        waiting = asyncio.ensure_future(bench.sender.drained())
        await rounds()
        bench.outbox.closed = True
        assert await bench.sender.drained() is False
        bench.sender._tell_waiters()
        await rounds()
        assert not waiting.done()
        await cancel(waiting)

    run(work())


def test_flush_waits_for_events_and_answers_up_to_now_and_not_for_later_ones():
    async def work():
        bench = Bench()
        bench.store("1")
        await bench.connect()
        flushed = asyncio.ensure_future(bench.sender.drained())
        await rounds()
        bench.clock.advance(1)
        bench.record("2")
        bench.answer(result("c-1"))
        await bench.sent(["1"], ["2"])
        again = asyncio.ensure_future(bench.sender.drained())
        await rounds()
        assert not flushed.done()
        bench.acknowledge(0)
        assert await flushed is True
        await rounds()
        assert not again.done()
        bench.acknowledge(1)
        assert await again is True
        await bench.disconnect()

    run(work())


def test_flush_when_answers_alone_wait_waits_for_them():
    async def work():
        bench = Bench()
        bench.answer(result("c-1"))
        flushed = asyncio.ensure_future(bench.sender.drained())
        await bench.connect()
        await bench.sent([])
        assert not flushed.done()
        bench.acknowledge()
        assert await flushed is True
        await bench.disconnect()

    run(work())


def test_flush_does_not_wait_for_a_dead_siblings_backlog():
    async def work():
        bench = Bench(adopted("dead", events=[b'{"id":"d"}']))
        assert await bench.sender.drained() is True

    run(work())


def test_flush_when_given_up_leaves_nothing_behind():
    async def work():
        bench = Bench()
        bench.store("1")
        waiting = asyncio.ensure_future(bench.sender.drained())
        await rounds()
        await cancel(waiting)
        await bench.connect()
        bench.acknowledge()
        assert bench.sender._waiters == []
        await bench.disconnect()

    run(work())


# -- threads


def test_events_when_recorded_by_threads_at_any_moment_are_never_left_lying():
    """Parking and waking race in every round: an event that nobody wakes for would time out."""
    clock = SystemClock()
    outbox = MemoryOutbox()
    counters, guard = LossCounters(), Guarded()
    recorder = Recorder(redactor=Redactor(), outbox=outbox, counters=counters, guard=guard)
    recorder.running = True
    ready, end = threading.Event(), []

    def park(parked):
        recorder.parked = parked

    async def main():
        sender = Sender(
            outbox=outbox,
            clock=clock,
            counters=counters,
            logger=LogLines(),
            park=park,
            on_sent=lambda count: None,
            on_acknowledged=lambda count, seconds: None,
        )
        link = live_link(clock)
        sent = link.connection.send
        loop = asyncio.get_running_loop()

        async def send(data):
            await sent(data)
            frame = link.connection.frames[-1]
            loop.call_later(random.random() * 1e-3, sender.acknowledged, frame["id"])

        link.connection.send = send
        recorder.wake = partial(loop.call_soon_threadsafe, sender.wake)
        ending = asyncio.Event()
        end.append(partial(loop.call_soon_threadsafe, ending.set))
        running = asyncio.ensure_future(sender.run(link, max_frame_size_bytes=1 << 20))
        ready.set()
        await ending.wait()
        await cancel(running)

    thread = LoopThread(name="z4j-test", main=main)
    thread.start()
    assert ready.wait(5)
    barrier = threading.Barrier(3)

    def record(seed):
        dice = random.Random(seed)
        for _ in range(100):
            barrier.wait(10)
            for _ in range(dice.randrange(3)):
                recorder.record(Event(kind=EventKind.TASK_SENT, engine="arq", data={}))
            if seed == 0:
                until_sync(lambda: outbox.own.events.pending == 0, "everything acknowledged")

    threads = [threading.Thread(target=record, args=(seed,)) for seed in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    until_sync(lambda: outbox.own.events.pending == 0, "everything acknowledged")
    end[0]()
    assert thread.join(5)
    assert guard.contained == []
    assert recorder.recorded == outbox.own.events.acknowledged > 100
