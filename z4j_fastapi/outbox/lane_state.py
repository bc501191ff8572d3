"""What a lane's lock protects: where the records are, and which are done with.

acknowledged        reader                 on disk         last
     |-----------------|---------------------|---------------|
     segments ...............................  overflow ring    (only while the disk refuses)
                       memory tail ...........                  (only while the reader keeps up)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from z4j_fastapi.clock import Clock
from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.outbox.ages import AgeMarks
from z4j_fastapi.outbox.base import Record, RecordKind
from z4j_fastapi.outbox.cursor import Cursor
from z4j_fastapi.outbox.gaps import Gaps
from z4j_fastapi.outbox.overflow import OverflowRing
from z4j_fastapi.outbox.record import encode
from z4j_fastapi.outbox.retention import Retention
from z4j_fastapi.outbox.segment import Segment
from z4j_fastapi.outbox.store import PREFIXES, SegmentStore
from z4j_fastapi.outbox.tail import MemoryTail

_EVENT_AGE_MASK = 63  # every 64th event
_RING_FLUSH = 64  # records that one append takes back to disk: the lock stays short


@dataclass(frozen=True, slots=True)
class Notice:
    """A line to log once the lock is free.

    Args:
        event: Name of the trouble.
        fields: Details.
        over: It has ended.
    """

    event: str
    fields: dict[str, object]
    over: bool = False


class Aftermath(NamedTuple):
    """What is left to do once the lock is free: files to unlink, lines to log."""

    doomed: list[Segment]
    notices: list[Notice]


class DiskPart(NamedTuple):
    """A segment that has to be read, as it was while the lock was held."""

    path: Path
    size: int
    last: int


class LaneState:
    """The state of one lane. Every call is made under the lane's lock.

    Args:
        directory: The worker directory, locked by this process.
        kind: What the lane holds.
        retention: Its bounds.
        clock: Source of time.
        counters: Where losses are counted.
        segment_type: Makes segments; in tests one with a full disk.
    """

    def __init__(
        self,
        directory: Path,
        kind: RecordKind,
        *,
        retention: Retention,
        clock: Clock,
        counters: LossCounters,
        segment_type: type[Segment] = Segment,
    ) -> None:
        self._kind = kind
        self._cursor_step = retention.cursor_step
        self._max_records = float("inf") if retention.max_records is None else retention.max_records
        self._max_bytes = float("inf") if retention.max_bytes is None else retention.max_bytes
        self._age_mask = _EVENT_AGE_MASK if kind is RecordKind.EVENT else 0
        self._clock = clock
        self._monotonic = clock.monotonic
        self._counters = counters
        self._segments = SegmentStore(
            directory, kind, segment_bytes=retention.segment_bytes, segment_type=segment_type
        )
        self._cursor = Cursor(directory / f"{PREFIXES[kind]}.cursor")
        self._gaps = Gaps()
        self._ages = AgeMarks()
        self._ring = OverflowRing(keep_oldest=kind is RecordKind.RESULT)
        self._evicted = 0  # since the cursor was last stored
        self._doomed: list[Segment] = []
        self._notices: list[Notice] = []
        self._episodes: set[str] = set()
        self.acknowledged = 0
        self.last = 0
        self.tail = MemoryTail(0)
        self.overflowing = False  # the ring holds something
        self.written: Segment | None = None  # where the last record went, if to the disk

    def open(self) -> None:
        """Find what a former owner of the directory left.

        Raises:
            OSError: It cannot be read.
        """
        cut = self._segments.open()
        if cut is not None and cut.removed_bytes:
            self._notice("outbox_tail_cut", bytes=cut.removed_bytes)
            if cut.damaged:
                self._counters.add(LossReason.CORRUPT)  # at least one; what it was is unknown
        first = self._segments.first
        self.acknowledged = max(self._cursor.load() or 0, first.base - 1 if first else 0)
        self.last = max(self._segments.last, self.acknowledged)
        offset = self._monotonic() - self._clock.now().timestamp()
        for segment in self._segments:  # last written when its last record was
            self._ages.note(segment.last, segment.path.stat().st_mtime + offset)
        self._ages.due = float("-inf")
        self.tail.restart(self.last)
        if self.last > self.acknowledged:
            self.tail.drop()
        self._advance(self.acknowledged)
        self._retain()

    @property
    def pending(self) -> int:
        """Records not yet acknowledged, known gaps left out."""
        return max(0, self.last - self.acknowledged - self._gaps.count)

    @property
    def pending_bytes(self) -> int:
        """Bytes of those records, about: of the oldest segment, its share."""
        if not self.pending:
            return 0
        size = self._segments.size + self._ring.size
        first = self._segments.first
        if first is not None and self.acknowledged >= first.base:
            done = self.acknowledged - first.base + 1
            size -= first.size * done // max(done, first.last - first.base + 1)
        return size

    def oldest_age_seconds(self) -> float:
        """How long the oldest pending record has waited, about; 0.0 without any."""
        self._ages.forget(self.acknowledged)
        written = self._ages.oldest() if self.pending else None
        return 0.0 if written is None else max(0.0, self._monotonic() - written)

    def store(self, payload: bytes, checksum: int) -> bool:
        """Store one record, on disk or in the ring.

        Args:
            payload: The record.
            checksum: `zlib.crc32(payload)`.
        Returns:
            False if it was lost, and counted.
        """
        if self.overflowing:
            if self._ring.retry_due(self._monotonic()):
                self.flush_ring(_RING_FLUSH)
            if self.overflowing:
                return self._overflow(payload)
        # Taken before the write, so that no interrupt can make two records share a number.
        number = self.last = self.last + 1
        try:
            self.written = self._segments.append(
                encode(self._kind, number, payload, checksum), number
            )
        except OSError as error:
            self.last = number - 1
            self._ring.postpone(self._monotonic())
            self._notice("outbox_disk_refused", error=error.strerror, errno=error.errno)
            return self._overflow(payload)
        if self.tail.active:
            self.tail.push(number, payload)
        # A clock costs more than the lock: look at it when a wait begins, and now and then.
        if not number & self._age_mask or number - self.acknowledged == 1:
            self._mark_age(number)
        if number - self.acknowledged > self._max_records or self._segments.size > self._max_bytes:
            self._retain()
        return True

    def _mark_age(self, number: int) -> None:
        now = self._monotonic()
        if now >= self._ages.due:
            self._ages.note(number, now)

    def _overflow(self, payload: bytes) -> bool:
        """Keep a record in memory, behind all others."""
        number = self.last + 1
        dropped = self._ring.push(number, payload)
        if dropped is None:
            self._counters.add(LossReason.DISK)
            return False
        self.last = number
        self.overflowing = True
        self.tail.drop()  # everything in it is on disk, and the ring is read behind that
        if dropped:
            self._counters.add(LossReason.DISK, self._gaps.add(dropped[0], dropped[-1]))
            self._advance(self.acknowledged)
        self._mark_age(number)
        self._retain()
        return True

    def flush_ring(self, limit: int | None = None) -> None:
        """Take records from the ring to the disk, oldest first, until that refuses again.

        Args:
            limit: At most so many; None for all.
        """
        left = len(self._ring) if limit is None else limit
        while self._ring and left > 0:
            number, payload = self._ring.first
            try:
                data = encode(self._kind, number, payload, crc32(payload))
                self.written = self._segments.append(data, number)
            except OSError:
                self._ring.postpone(self._monotonic())
                return
            self._ring.pop()
            left -= 1
        self._look_at_ring()

    def _look_at_ring(self) -> None:
        if self.overflowing and not self._ring:
            self.overflowing = False
            self._episode_over("outbox_disk_refused")

    def _retain(self) -> None:
        """Evict what is beyond the bounds, oldest first."""
        while (excess := self.pending - self._max_records) > 0:
            self._evict(self.acknowledged + int(excess), LossReason.CAPACITY)
        while self._segments.size > self._max_bytes:
            first = self._segments.first
            if first is None or first.last >= self._segments.last:
                break
            self._evict(first.last, LossReason.CAPACITY)

    def _evict(self, up_to: int, reason: LossReason) -> None:
        before = self.pending
        self._advance(up_to)
        lost = before - self.pending  # at least one: no gap begins where `acknowledged` ends
        self._counters.add(reason, lost)
        if reason is LossReason.CAPACITY:
            self._notice("outbox_full")
        self._evicted += lost
        if self._evicted >= self._cursor_step:
            self._store_cursor()

    def _advance(self, position: int) -> None:
        """Be done with everything up to `position`."""
        position = self._gaps.pass_over(position)
        self.acknowledged = position
        self._ring.discard(position)
        self._look_at_ring()
        self._doomed += self._segments.release(position)
        self._ages.forget(position)

    def _store_cursor(self) -> None:
        self._evicted = 0
        try:
            self._cursor.store(self.acknowledged)
        except OSError as error:  # costs a second delivery after a crash, nothing else
            self._notice("outbox_cursor_failed", error=error.strerror)

    def acknowledge(self, up_to: int) -> None:
        """Forget everything up to and including `up_to`."""
        if up_to > self.acknowledged:
            self._advance(min(up_to, self.last))
            self._store_cursor()
            if not self.pending:
                self._episode_over("outbox_full")
        if self.overflowing:
            self._doomed += self._segments.release_active(self.acknowledged)

    def expire(self, older_than_seconds: float) -> int:
        """Drop records that are certainly older; returns how many."""
        before = self.pending
        up_to = self._ages.written_before(self._monotonic() - older_than_seconds)
        if up_to > self.acknowledged:
            self._evict(up_to, LossReason.EXPIRED)
            self._store_cursor()
        return before - self.pending

    def locate(self, position: int) -> DiskPart | None:
        """The segment that has what comes behind `position`; None if memory has it, or nothing."""
        if self.tail.covers(position):
            return None
        segment = self._segments.locate(position)
        return None if segment is None else DiskPart(segment.path, segment.size, segment.last)

    def take_from_memory(
        self, position: int, *, max_records: int, max_bytes: int, at_least_one: bool
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """What comes behind `position`, when `locate` says that no segment has it.

        Returns:
            The position reached, and numbers with payloads.
        """
        if not self.tail.active and not self.overflowing:
            self._note_missing(position + 1, self.last)
            return max(position, self.last), []
        take = self._ring.peek if self.overflowing else self.tail.take
        taken = take(
            position, max_records=max_records, max_bytes=max_bytes, at_least_one=at_least_one
        )
        return (taken[-1][0] if taken else position), taken

    def note_read(self, records: Sequence[Record], position: int, last: int | None) -> int:
        """Count what should have been among the records read from a segment.

        Args:
            records: What was read behind `position`.
            position: Where reading began.
            last: The number that ends the segment, if it was read to its end.
        Returns:
            The position reached.
        """
        for record in records:
            if record.number > position + 1:
                self._note_missing(position + 1, record.number - 1)
            position = record.number
        if last is not None and last > position:
            self._note_missing(position + 1, last)
            position = last
        return position

    def _note_missing(self, first: int, last: int) -> None:
        """Count records that should lie on disk and do not, each once."""
        lost = self._gaps.add(max(first, self.acknowledged + 1), last)
        if lost:
            self._counters.add(LossReason.CORRUPT, lost)
            self._notice("outbox_records_damaged", first=first)
            self._advance(self.acknowledged)

    def caught_up(self, position: int) -> None:
        """The reader has reached `position`: if that is the end, memory serves it from here on."""
        if position >= self.last and not self.overflowing:
            self.tail.restart(position)

    def close(self) -> None:
        """Write what can be written, and close the files; what the disk refuses is lost."""
        self.flush_ring()
        if self.overflowing:
            self._counters.add(LossReason.DISK, len(self._ring))
            self.last = self._ring.first[0] - 1
            while self._ring:
                self._ring.pop()
            self.overflowing = False
        self.abandon()

    def abandon(self) -> None:
        """Close the files and touch nothing else."""
        self._segments.retire()
        self._cursor.close()

    def _notice(self, event: str, **fields: object) -> None:
        """Have the beginning of an episode logged."""
        if event not in self._episodes:
            self._episodes.add(event)
            self._notices.append(Notice(event, fields))

    def _episode_over(self, event: str) -> None:
        if event in self._episodes:
            self._episodes.discard(event)
            self._notices.append(Notice(event, {}, over=True))

    def take_aftermath(self) -> Aftermath | None:
        """What has to be done now that the lock becomes free; None if nothing has."""
        if not self._doomed and not self._notices:
            return None
        aftermath = Aftermath(self._doomed, self._notices)
        self._doomed, self._notices = [], []
        return aftermath
