"""One ordered stream of records, safe to use from several threads.

Appends come from any thread, reads and acknowledgements from the agent's loop thread, the rest from
whoever does file work for it. One short lock around `LaneState`; never held across a sync or a read
from disk, nor while logging or unlinking.
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
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox.base import Record, RecordKind
from z4j_fastapi.outbox.lane_state import Aftermath, LaneState
from z4j_fastapi.outbox.retention import Retention
from z4j_fastapi.outbox.segment import Found, Segment, SegmentReader
from z4j_fastapi.outbox.store import PREFIXES
from z4j_fastapi.outbox.sync import Syncer
from z4j_fastapi.outbox.trouble import TroubleLog

_GONE_FOR_GOOD = {errno.ENOENT, errno.EIO}


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
        self._name = PREFIXES[kind]
        self._state = LaneState(
            directory,
            kind,
            retention=retention,
            clock=services.clock,
            counters=services.counters,
            segment_type=services.segment_type,
        )
        self._reader = SegmentReader(kind)
        self._syncer = services.syncer
        self._trouble = services.trouble
        # Re-entrant, since a signal handler or a finaliser that interrupts `append` may record an
        # event on the same thread: `_busy` then sends it to `_nested` instead of into half a state.
        self._lock = threading.RLock()
        self._busy = False
        self._nested: list[bytes] = []
        self._closed = False

    def open(self) -> None:
        """Find what a former owner of the directory left, and cut a torn tail.

        Raises:
            OSError: It cannot be read.
        """
        with self._exclusive() as state:
            state.open()
        self._settle()

    @property
    def acknowledged(self) -> int:
        """Number up to which the brain has everything; reading starts after it."""
        return self._state.acknowledged

    @property
    def last(self) -> int:
        """Number of the newest record; equals `acknowledged` when nothing is pending."""
        return self._state.last

    @property
    def pending(self) -> int:
        """Records not yet acknowledged, known gaps left out. Any thread."""
        return self._state.pending

    @property
    def pending_bytes(self) -> int:
        """Bytes of those records on disk and in the overflow ring, about. Any thread."""
        with self._exclusive() as state:
            return state.pending_bytes

    def oldest_age_seconds(self) -> float:
        """How long the oldest pending record has waited, about; 0.0 without any. Any thread."""
        with self._exclusive() as state:
            return state.oldest_age_seconds()

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
        state = self._state
        lock = self._lock
        lock.acquire()  # `with` costs half a microsecond more
        try:
            if self._busy:
                self._nested.append(payload)
                return True
            if self._closed:
                raise OutboxError("outbox: it is closed")
            self._busy = True
            try:
                stored = state.store(payload, checksum)
                if self._nested:
                    self._store_nested()
                written, state.written = state.written, None
                aftermath = state.take_aftermath()
            except BaseException:
                # KeyboardInterrupt: the record may be on disk and not in the tail. Read from disk.
                state.tail.drop()
                raise
            finally:
                self._busy = False
        finally:
            lock.release()
        if written is not None:
            self._syncer.wrote(written)
        if aftermath is not None:
            self._clear_up(aftermath)
        return stored

    def _store_nested(self) -> None:
        while self._nested:
            payload = self._nested.pop(0)
            self._state.store(payload, crc32(payload))

    def read(self, after: int, *, max_records: int, max_bytes: int) -> list[Record]:
        """Records with a number above `after`, in order, from memory or disk.

        Gaps (evicted or corrupt records) are skipped and counted.

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
        with self._exclusive() as state:
            state.caught_up(position)
            if records and records[0].number <= state.acknowledged:  # evicted in the meantime
                records = [record for record in records if record.number > state.acknowledged]
        self._settle()
        return records

    def _read_on(
        self, position: int, *, max_records: int, max_bytes: int, at_least_one: bool
    ) -> tuple[int, list[Record], bool]:
        """Read from one segment, or from memory.

        Returns:
            The position reached, the records, and whether there may be more behind them that fit.
        """
        with self._exclusive() as state:
            position = max(position, state.acknowledged)
            part = state.locate(position)
            if part is None:
                position, taken = state.take_from_memory(
                    position,
                    max_records=max_records,
                    max_bytes=max_bytes,
                    at_least_one=at_least_one,
                )
                return position, [Record(number, payload) for number, payload in taken], False
        try:
            found = self._reader.read(
                part.path,
                part.size,
                after=position,
                max_records=max_records,
                max_bytes=max_bytes,
                at_least_one=at_least_one,
            )
        except OSError as error:
            if error.errno not in _GONE_FOR_GOOD:  # out of descriptors, say: try again later
                self._trouble.begin("outbox_read_failed", error=error.strerror)
                return position, [], False
            found = Found([], exhausted=True)
        self._trouble.end("outbox_read_failed")
        with self._exclusive() as state:
            position = state.note_read(
                found.records, position, part.last if found.exhausted else None
            )
        return position, found.records, found.exhausted

    def acknowledge(self, up_to: int) -> None:
        """Forget everything up to and including `up_to`, durably.

        A crash may bring back what was acknowledged last; it never loses what was not.

        Args:
            up_to: Number of a record; what is not there (any more) is ignored.
        """
        with self._exclusive() as state:
            state.acknowledge(up_to)
        self._settle()
        if state.overflowing:
            self.recover()  # into the space that has just become free

    def recover(self) -> None:
        """Try now to take to the disk what it refused before."""
        with self._exclusive() as state:
            state.flush_ring()
        self._settle()

    def expire(self, older_than_seconds: float) -> int:
        """Drop records that have waited too long; returns how many.

        Args:
            older_than_seconds: Age from which a record is worth nothing to anybody.
        """
        with self._exclusive() as state:
            dropped = state.expire(older_than_seconds)
        self._settle()
        return dropped

    def close(self) -> None:
        """Write what can be written, and close the files. Idempotent."""
        with self._exclusive() as state:
            self._closed = True
            state.close()
        self._settle()
        self._reader.close()

    def abandon(self) -> None:
        """Close the files and touch nothing else: what a forked child does with inherited ones.

        Without the lock, which another thread of the parent may have held.
        """
        self._closed = True
        self._state.abandon()
        self._reader.close()

    @contextmanager
    def _exclusive(self) -> Generator[LaneState, None, None]:
        with self._lock:
            interrupted, self._busy = self._busy, True
            try:
                yield self._state
                if not interrupted and self._nested:
                    self._store_nested()
            finally:
                self._busy = interrupted

    def _settle(self) -> None:
        """Do what had to wait for the lock to be free."""
        with self._lock:
            written, self._state.written = self._state.written, None
            aftermath = self._state.take_aftermath()
        if written is not None:
            self._syncer.wrote(written)
        if aftermath is not None:
            self._clear_up(aftermath)

    def _clear_up(self, aftermath: Aftermath) -> None:
        for segment in aftermath.doomed:
            segment.unlink()
        for notice in aftermath.notices:
            if notice.over:
                self._trouble.info(notice.event + "_over", lane=self._name)
            else:
                self._trouble.warning(notice.event, lane=self._name, **notice.fields)
