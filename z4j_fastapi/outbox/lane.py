"""One ordered stream of records: segments on disk, a cursor, and the newest records in memory.

    acknowledged        reader                 on disk         last
         |-----------------|---------------------|---------------|
         segments ...............................  overflow ring    (only while the disk refuses)
                           memory tail ...........                  (only while the reader keeps up)

Appends come from any thread, reads and acknowledgements from the agent's loop thread, the rest from
whoever does file work for it. One short lock; never held across a sync or a read from disk, nor
while logging.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from z4j_fastapi.clock import Clock
from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox.ages import AgeMarks
from z4j_fastapi.outbox.base import Record, RecordKind
from z4j_fastapi.outbox.cursor import Cursor
from z4j_fastapi.outbox.gaps import Gaps
from z4j_fastapi.outbox.overflow import OverflowRing
from z4j_fastapi.outbox.record import encode
from z4j_fastapi.outbox.retention import Retention
from z4j_fastapi.outbox.segment import Found, Segment, SegmentReader
from z4j_fastapi.outbox.store import PREFIXES, SegmentStore
from z4j_fastapi.outbox.sync import Syncer
from z4j_fastapi.outbox.tail import MemoryTail
from z4j_fastapi.outbox.trouble import TroubleLog

_UNREADABLE = {errno.ENOENT, errno.EIO}  # gone for good
_OVER: dict[str, object] = {}  # marks the end of an episode among the notices
_RING_FLUSH = 64  # records that one append takes back to disk: the lock stays short


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneServices:
    """What all lanes of an outbox share.

    Args:
        clock: Source of time.
        counters: Where losses are counted.
        syncer: Forces segments to the disk.
        trouble: Logs, once an episode.
        segment_type: Makes segments; in tests one with a full disk.
    """

    clock: Clock
    counters: LossCounters
    syncer: Syncer
    trouble: TroubleLog
    segment_type: type[Segment] = Segment


@dataclass(slots=True)
class _Aftermath:
    """What is left to do once the lock is free."""

    doomed: list[Segment]
    notices: list[tuple[str, dict[str, object]]]


class FileLane:
    """A lane in a worker directory. Implements `base.Lane`.

    Args:
        directory: The worker directory, locked by this process.
        kind: What the lane holds.
        retention: Its bounds.
        services: Collaborators.
    """

    def __init__(
        self, directory: Path, kind: RecordKind, *, retention: Retention, services: LaneServices
    ) -> None:
        self._kind = kind
        self._retention = retention
        self._max_records = retention.max_records
        self._max_bytes = retention.max_bytes
        self._clock = services.clock
        self._monotonic = services.clock.monotonic
        self._counters = services.counters
        self._syncer = services.syncer
        self._trouble = services.trouble
        self._segments = SegmentStore(
            directory,
            kind,
            segment_bytes=retention.segment_bytes,
            segment_type=services.segment_type,
        )
        self._cursor = Cursor(directory / f"{PREFIXES[kind]}.cursor")
        self._reader = SegmentReader(kind)
        self._gaps = Gaps()
        self._ages = AgeMarks()
        self._ring = OverflowRing(keep_oldest=kind is RecordKind.RESULT)
        self._tail = MemoryTail(0)
        # Re-entrant, since a signal handler or a finaliser that interrupts `append` may record an
        # event on the same thread: `_busy` then sends it to `_nested` instead of into half a state.
        self._lock = threading.RLock()
        self._busy = False
        self._closed = False
        self._nested: list[bytes] = []
        self._acknowledged = 0
        self._last = 0
        self._written: Segment | None = None
        self._evicted = 0  # since the cursor was last stored
        self._doomed: list[Segment] = []
        self._notices: list[tuple[str, dict[str, object]]] = []
        self._episodes: set[str] = set()

    def open(self) -> None:
        """Find what a former owner of the directory left.

        Raises:
            OSError: It cannot be read.
        """
        tail = self._segments.open()
        if tail is not None and tail.removed_bytes:
            self._notice("outbox_tail_cut", bytes=tail.removed_bytes)
            if tail.damaged:
                self._counters.add(LossReason.CORRUPT)  # at least one; what it was is unknown
        first = self._segments.first
        with self._exclusive():
            self._acknowledged = max(self._cursor.load() or 0, first.base - 1 if first else 0)
            self._last = max(self._segments.last, self._acknowledged)
            self._mark_ages()
            self._tail.restart(self._last)
            if self._last > self._acknowledged:
                self._tail.drop()
            self._advance(self._acknowledged)
            self._retain()
        self._settle()

    def _mark_ages(self) -> None:
        """A segment was last written when its last record was."""
        offset = self._monotonic() - self._clock.now().timestamp()
        for segment in self._segments:
            self._ages.note(segment.last, segment.path.stat().st_mtime + offset)
        self._ages.due = float("-inf")

    @property
    def acknowledged(self) -> int:
        """Number up to which the brain has everything."""
        return self._acknowledged

    @property
    def last(self) -> int:
        """Number of the newest record; equals `acknowledged` when nothing is pending."""
        return self._last

    @property
    def pending(self) -> int:
        """Records not yet acknowledged, known gaps left out. Any thread."""
        return max(0, self._last - self._acknowledged - self._gaps.count)

    @property
    def pending_bytes(self) -> int:
        """Bytes of those records, about: of the oldest segment, its share. Any thread."""
        with self._exclusive():
            if not self.pending:
                return 0
            size = self._segments.size + self._ring.size
            first = self._segments.first
            if first is not None and self._acknowledged >= first.base:
                done = self._acknowledged - first.base + 1
                size -= first.size * done // max(done, first.last - first.base + 1)
            return size

    def oldest_age_seconds(self) -> float:
        """How long the oldest pending record has waited, about; 0.0 without any. Any thread."""
        with self._exclusive():
            self._ages.forget(self._acknowledged)
            written = self._ages.oldest() if self.pending else None
        return 0.0 if written is None else max(0.0, self._monotonic() - written)

    def append(self, payload: bytes) -> bool:
        """Store one record; on return the operating system has its bytes. Any thread.

        Args:
            payload: 1 to `record.MAX_PAYLOAD_BYTES` bytes.
        Returns:
            False if it was lost, and counted. True also when it is in memory because the disk
            is full.
        Raises:
            OutboxError: The lane is closed.
        """
        checksum = crc32(payload)
        aftermath = None
        with self._lock:
            if self._busy:
                self._nested.append(payload)
                return True
            if self._closed:
                raise OutboxError("outbox: it is closed")
            self._busy = True
            self._written = None
            try:
                stored = self._store(payload, checksum)
                if self._nested:
                    self._store_nested()
                written = self._written
                if self._doomed or self._notices:
                    aftermath = self._take_aftermath()
            except BaseException:
                # KeyboardInterrupt: the record may be on disk and not in the tail. Read from disk.
                self._tail.drop()
                raise
            finally:
                self._busy = False
        if written is not None:
            self._syncer.wrote(written)
        if aftermath is not None:
            self._clear_up(aftermath)
        return stored

    def _store(self, payload: bytes, checksum: int) -> bool:
        if self._ring:
            if self._ring.retry_due(self._monotonic()):
                self._flush_ring(_RING_FLUSH)
            if self._ring:
                return self._overflow(payload)
        # Taken before the write, so that no interrupt can make two records share a number.
        number = self._last = self._last + 1
        try:
            self._written = self._segments.append(
                encode(self._kind, number, payload, checksum), number
            )
        except OSError as error:
            self._last = number - 1
            self._ring.postpone(self._monotonic())
            self._notice("outbox_disk_refused", error=error.strerror, errno=error.errno)
            return self._overflow(payload)
        if self._tail.active:
            self._tail.push(number, payload)
        now = self._monotonic()
        if now >= self._ages.due:
            self._ages.note(number, now)
        if self._max_records is not None:
            self._retain()
        return True

    def _store_nested(self) -> None:
        while self._nested:
            payload = self._nested.pop(0)
            self._store(payload, crc32(payload))

    def _overflow(self, payload: bytes) -> bool:
        """Keep a record in memory, behind all others."""
        number = self._last + 1
        dropped = self._ring.push(number, payload)
        if dropped is None:
            self._counters.add(LossReason.DISK)
            return False
        self._last = number
        self._tail.drop()  # everything in it is on disk, and the ring is read behind that
        if dropped:
            self._counters.add(LossReason.DISK, self._gaps.add(dropped[0], dropped[-1]))
            self._advance(self._acknowledged)
        now = self._monotonic()
        if now >= self._ages.due:
            self._ages.note(number, now)
        self._retain()
        return True

    def _flush_ring(self, limit: int) -> None:
        """Take records from the ring to the disk, oldest first, until that refuses again."""
        while self._ring and limit > 0:
            number, payload = self._ring.first
            try:
                data = encode(self._kind, number, payload, crc32(payload))
                self._written = self._segments.append(data, number)
            except OSError:
                self._ring.postpone(self._monotonic())
                return
            self._ring.pop()
            limit -= 1
        if not self._ring:
            self._episode_over("outbox_disk_refused")

    def _retain(self) -> None:
        """Evict what is beyond the bounds, oldest first."""
        waiting = self._last - self._acknowledged
        if self._max_records is not None and waiting > self._max_records:
            excess = self._retention.excess_records(self.pending)
            if excess:
                self._evict(self._acknowledged + excess, LossReason.CAPACITY)
        if self._max_bytes is None:
            return
        while self._segments.size > self._max_bytes:
            first = self._segments.first
            if first is None or first.last >= self._segments.last:
                break
            self._evict(first.last, LossReason.CAPACITY)

    def _evict(self, up_to: int, reason: LossReason) -> None:
        before = self.pending
        self._advance(up_to)
        lost = before - self.pending
        if not lost:
            return
        self._counters.add(reason, lost)
        if reason is LossReason.CAPACITY:
            self._notice("outbox_full")
        self._evicted += lost
        if self._evicted >= self._retention.cursor_step:
            self._store_cursor()

    def _advance(self, position: int) -> None:
        """Be done with everything up to `position`."""
        position = self._gaps.pass_over(position)
        self._acknowledged = position
        self._ring.discard(position)
        self._doomed += self._segments.release(position)
        self._ages.forget(position)

    def _store_cursor(self) -> None:
        self._evicted = 0
        try:
            self._cursor.store(self._acknowledged)
        except OSError as error:  # costs a second delivery after a crash, nothing else
            self._notice("outbox_cursor_failed", error=error.strerror)

    def read(self, after: int, *, max_records: int, max_bytes: int) -> list[Record]:
        """Records with a number above `after`, in order, from memory or disk.

        Args:
            after: Number of the last record already taken.
            max_records: At most this many.
            max_bytes: Payload bytes at most; the first record is returned whatever its size.
        """
        records: list[Record] = []
        position, more = after, True
        while more and len(records) < max_records:
            position, found, more = self._read_on(
                position,
                max_records=max_records - len(records),
                max_bytes=max_bytes,
                at_least_one=not records,
            )
            records += found
            max_bytes -= sum(len(record.payload) for record in found)
        with self._exclusive():
            if position >= self._last and not self._ring:
                self._tail.restart(position)  # caught up: from here on, memory
            if records and records[0].number <= self._acknowledged:  # evicted in the meantime
                records = [record for record in records if record.number > self._acknowledged]
        self._settle()
        return records

    def _read_on(
        self, position: int, *, max_records: int, max_bytes: int, at_least_one: bool
    ) -> tuple[int, list[Record], bool]:
        """Read from one segment, or from memory.

        Returns:
            The position reached, the records, and whether there may be more behind them that fit.
        """
        taken: list[tuple[int, bytes]] = []
        size = last = 0
        with self._exclusive():
            position = max(position, self._acknowledged)
            tail = self._tail
            segment = None if tail.covers(position) else self._segments.locate(position)
            if segment is not None:
                size, last = segment.size, segment.last
            elif tail.active or self._ring:
                take = self._ring.peek if self._ring else tail.take
                taken = take(
                    position,
                    max_records=max_records,
                    max_bytes=max_bytes,
                    at_least_one=at_least_one,
                )
            else:
                self._note_missing(position + 1, self._last)
                position = max(position, self._last)
        if segment is None:
            records = [Record(number, payload) for number, payload in taken]
            return (records[-1].number if records else position), records, False
        try:
            found = self._reader.read(
                segment.path,
                size,
                after=position,
                max_records=max_records,
                max_bytes=max_bytes,
                at_least_one=at_least_one,
            )
        except OSError as error:
            if error.errno not in _UNREADABLE:  # out of descriptors, say: try again later
                self._trouble.begin("outbox_read_failed", error=error.strerror)
                return position, [], False
            found = Found([], exhausted=True)
        self._trouble.end("outbox_read_failed")
        with self._exclusive():
            for record in found.records:
                if record.number > position + 1:
                    self._note_missing(position + 1, record.number - 1)
                position = record.number
            if found.exhausted:
                self._note_missing(position + 1, last)
                position = max(position, last)
        return position, found.records, found.exhausted

    def _note_missing(self, first: int, last: int) -> None:
        """Count records that should lie on disk and do not."""
        lost = self._gaps.add(max(first, self._acknowledged + 1), last)
        if lost:
            self._counters.add(LossReason.CORRUPT, lost)
            self._notice("outbox_records_damaged", first=first)
            self._advance(self._acknowledged)

    def acknowledge(self, up_to: int) -> None:
        """Forget everything up to and including `up_to`, durably.

        A crash may bring back what was acknowledged last; it never loses what was not.

        Args:
            up_to: Number of a record; what is not there (any more) is ignored.
        """
        with self._exclusive():
            if up_to > self._acknowledged:
                self._advance(min(up_to, self._last))
                self._store_cursor()
                if not self.pending:
                    self._episode_over("outbox_full")
            if self._ring:
                self._doomed += self._segments.release_active(self._acknowledged)
        self._settle()
        if self._ring:
            self.recover()

    def recover(self) -> None:
        """Try to take the overflow ring back to disk now."""
        with self._exclusive():
            self._flush_ring(len(self._ring))
        self._settle()

    def expire(self, older_than_seconds: float) -> int:
        """Drop records that have waited too long; returns how many.

        Args:
            older_than_seconds: Age from which a record is worth nothing to anybody.
        """
        with self._exclusive():
            before = self.pending
            up_to = self._ages.written_before(self._monotonic() - older_than_seconds)
            if up_to > self._acknowledged:
                self._evict(up_to, LossReason.EXPIRED)
                self._store_cursor()
            dropped = before - self.pending
        self._settle()
        return dropped

    def close(self) -> None:
        """Write what can be written, and close the files. Idempotent."""
        with self._exclusive():
            self._closed = True
            self._flush_ring(len(self._ring))
            if self._ring:
                self._counters.add(LossReason.DISK, len(self._ring))
                self._last = self._ring.first[0] - 1
                while self._ring:
                    self._ring.pop()
            self._segments.retire()
        self._settle()
        self.abandon()

    def abandon(self) -> None:
        """Close the files and touch nothing else: what a forked child does with inherited ones."""
        self._segments.retire()
        self._reader.close()
        self._cursor.close()

    @contextmanager
    def _exclusive(self) -> Generator[None, None, None]:
        with self._lock:
            interrupted, self._busy = self._busy, True
            try:
                yield
                if not interrupted:
                    self._store_nested()
            finally:
                self._busy = interrupted

    def _notice(self, event: str, **fields: object) -> None:
        """Log the beginning of an episode, once the lock is free."""
        if event not in self._episodes:
            self._episodes.add(event)
            self._notices.append((event, fields))

    def _episode_over(self, event: str) -> None:
        if event in self._episodes:
            self._episodes.discard(event)
            self._notices.append((event, _OVER))

    def _take_aftermath(self) -> _Aftermath:
        doomed, self._doomed = self._doomed, []
        notices, self._notices = self._notices, []
        return _Aftermath(doomed, notices)

    def _settle(self) -> None:
        """Do what had to wait for the lock to be free."""
        if self._doomed or self._notices:
            with self._lock:
                aftermath = self._take_aftermath()
            self._clear_up(aftermath)

    def _clear_up(self, aftermath: _Aftermath) -> None:
        for segment in aftermath.doomed:
            segment.unlink()
        for event, fields in aftermath.notices:
            if fields is _OVER:
                self._trouble.info(event + "_over", lane=PREFIXES[self._kind])
            else:
                self._trouble.warning(event, lane=PREFIXES[self._kind], **fields)
