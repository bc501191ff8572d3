"""The outbox against a model: whatever happens in whatever order, nothing is lost uncounted."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.outboxes import FullDisk, SmallSegments, StillClock, drain, open_lane

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.segment import parse_segment_name

MAX_RECORDS = 40
BIG = {"max_records": 10_000, "max_bytes": 1 << 30}


class LaneModel(RuleBasedStateMachine):
    """A lane of few records and small segments; the model is the list of what must be there."""

    kind = RecordKind.EVENT
    max_records: int | None = MAX_RECORDS

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="z4j-model-"))
        self.counters = LossCounters()
        self.disk = FullDisk()
        self.clock = StillClock()
        self.pending: list[tuple[int, bytes]] = []  # what the lane must still deliver
        self.unsaved = 0  # so many at the end of it are in memory only
        self.evicted = 0
        self.acknowledged = 0
        self.position = 0  # of the reader
        self.written = 0
        self.open()

    def open(self):
        self.lane = open_lane(
            self.directory,
            self.kind,
            max_records=self.max_records,
            retention_type=SmallSegments,
            counters=self.counters,
            clock=self.clock,
            segment_type=self.disk.segment_type,
        )
        self.position = self.lane.acknowledged

    def teardown(self):
        self.lane.close()
        shutil.rmtree(self.directory)

    @rule(size=st.integers(1, 3_000) | st.just(9_000), count=st.integers(1, 12))
    def append(self, size, count):
        for _ in range(count):
            self.written += 1
            payload = (b"%d:" % self.written).ljust(size, b"x")
            assert self.lane.append(payload)
            self.pending.append((self.lane.last, payload))
            self.unsaved += 1 if self.lane._state.overflowing else -self.unsaved
            if self.max_records is not None and len(self.pending) > self.max_records:
                self.evicted += 1
                del self.pending[0]
                self.unsaved = min(self.unsaved, len(self.pending))

    @rule(max_records=st.integers(1, 30), max_bytes=st.integers(1, 100_000))
    def read(self, max_records, max_bytes):
        records = self.lane.read(self.position, max_records=max_records, max_bytes=max_bytes)
        expected = []
        for number, payload in self.pending:
            if number <= self.position:
                continue
            total = sum(len(p) for _, p in expected) + len(payload)
            if len(expected) == max_records or (expected and total > max_bytes):
                break
            expected.append((number, payload))
        assert [r.number for r in records] == [number for number, _ in expected]
        assert all(r.payload == payload for r, (_, payload) in zip(records, expected, strict=True))
        if records:
            self.position = records[-1].number

    @rule()
    def reconnect(self):
        """What was in flight is read again."""
        self.position = self.lane.acknowledged

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share):
        taken = [number for number, _ in self.pending if number <= self.position]
        if taken:
            up_to = taken[min(len(taken) - 1, int(share * len(taken)))]
            if 0.5 < share < 0.75:  # the edges are where it goes wrong
                up_to = taken[-2:][0]
            self.lane.acknowledge(up_to)
            self.pending = [(n, p) for n, p in self.pending if n > up_to]
            self.unsaved = min(self.unsaved, len(self.pending))
            if not self.lane._state.overflowing:
                self.unsaved = 0

    @rule()
    def close_and_open(self):
        self.lane.close()
        if self.disk.errno is not None and self.unsaved:
            del self.pending[len(self.pending) - self.unsaved :]
        self.unsaved = 0
        self.open()

    @rule(torn=st.integers(0, 60), lose_cursor=st.booleans())
    def crash_and_open(self, torn, lose_cursor):
        """Killed, maybe in the middle of a write, maybe with the cursor gone."""
        self.lane.abandon()
        if self.unsaved:
            del self.pending[len(self.pending) - self.unsaved :]
        self.unsaved = 0
        names = sorted(p for p in self.directory.iterdir() if parse_segment_name(p.name))
        if names and torn:
            with names[-1].open("ab") as file:
                file.write((5_000).to_bytes(4, "little") + os.urandom(torn))
        cursor = self.directory / "events.cursor"
        if lose_cursor:
            cursor.unlink(missing_ok=True)
        capacity = self.counters.get(LossReason.CAPACITY)
        self.open()
        found = self.lane.read(0, **BIG)
        have = [(r.number, r.payload) for r in found]
        # Nothing that must be there is missing; older ones may come again.
        kept = have[len(have) - len(self.pending) :]
        assert [number for number, _ in kept] == [number for number, _ in self.pending]
        assert all(mine == theirs for mine, theirs in zip(kept, self.pending, strict=True))
        again = self.counters.get(LossReason.CAPACITY) - capacity
        assert lose_cursor or again <= 1 + MAX_RECORDS // 100
        self.evicted += again
        self.pending = have
        self.position = self.lane.acknowledged

    @precondition(lambda self: self.disk.errno is None)
    @rule(number=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG]))
    def disk_full(self, number):
        self.disk.errno = number

    @precondition(lambda self: self.disk.errno is not None)
    @rule(recover=st.booleans())
    def disk_free(self, recover):
        self.disk.errno = None
        self.clock.advance(2.0)
        if recover:
            self.lane.recover()
            self.unsaved = 0

    @invariant()
    def counts_agree(self):
        assert self.lane.pending == len(self.pending)
        assert self.lane.last >= self.lane.acknowledged
        assert (self.lane.last == self.lane.acknowledged) == (not self.pending)
        assert self.counters.get(LossReason.CAPACITY) == self.evicted
        assert self.counters.get(LossReason.CORRUPT) == 0
        if not self.pending:
            assert self.lane.pending_bytes == 0


class TestEventLane(LaneModel.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class _UnboundedModel(LaneModel):
    max_records = None


class TestUnboundedLane(_UnboundedModel.TestCase):
    settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


@settings(deadline=None, max_examples=60)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=15),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=6),
    cut=st.none() | st.integers(0, 10**6),
)
def test_any_damage_to_a_segment_loses_only_what_it_hits_and_counts_it(payloads, flips, cut):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lane = open_lane(directory)
        for payload in payloads:
            lane.append(payload)
        lane.abandon()
        (path,) = directory.glob("events-*.seg")
        data = bytearray(path.read_bytes())
        hit = set()
        ends = [0]
        for payload in payloads:
            ends.append(ends[-1] + 17 + len(payload))
        for at, mask in flips:
            data[at % len(data)] ^= mask
        whole = path.read_bytes()
        hit = {
            n
            for n in range(len(payloads))
            if data[ends[n] : ends[n + 1]] != whole[ends[n] : ends[n + 1]]
        }
        if cut is not None:
            del data[cut % (len(data) + 1) :]
            hit |= {n for n in range(len(payloads)) if ends[n + 1] > len(data)}
        path.write_bytes(data)
        counters = LossCounters()
        lane = open_lane(directory, counters=counters)
        assert drain(lane) == [p for n, p in enumerate(payloads) if n not in hit]
        assert lane.pending == 0
        survivors = [n for n in range(len(payloads)) if n not in hit]
        in_the_middle = [n for n in hit if survivors and n < survivors[-1]]
        # Behind the last survivor the end is cut off: there, at most one is known of.
        counted = counters.get(LossReason.CORRUPT)
        assert len(in_the_middle) <= counted <= len(in_the_middle) + 1
        lane.close()
