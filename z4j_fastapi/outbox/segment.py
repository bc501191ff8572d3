"""One append-only file of records, named after its lane and the number of its first record.

The writer hands each record to the operating system with one `write`. The reader works on its own
descriptor, in chunks, and goes on behind damage; it needs no lock, since bytes below the size that
the writer has published never change.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from z4j_fastapi.outbox.base import Record, RecordKind
from z4j_fastapi.outbox.files import Descriptor, open_private
from z4j_fastapi.outbox.record import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    is_cut,
    resynchronise,
    scan,
)

_CHUNK_BYTES = 256 * 1024
_NAME = re.compile(r"([a-z]+)-(\d{20})\.seg")


def segment_name(prefix: str, base: int) -> str:
    """File name of the segment of lane `prefix` whose first record has number `base`."""
    return f"{prefix}-{base:020d}.seg"


def parse_segment_name(name: str) -> tuple[str, int] | None:
    """The lane's prefix and the first number, or None for any other file."""
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None


class Segment:
    """A segment file that records may be appended to.

    Args:
        path: The file; made when the first record is appended.
        base: Its first record has this number, or a higher one.
        last: Number of its last record; `base - 1` when there is none.
        size: Bytes of whole records in it.
    """

    __slots__ = ("_descriptor", "_fd", "base", "dirty", "last", "named", "path", "size", "torn")

    def __init__(self, path: Path, base: int, *, last: int, size: int) -> None:
        self.path = path
        self.base = base
        self.last = last
        self.size = size
        self.torn = False  # bytes of a refused record are left behind `size`: append no more
        self.dirty = False  # written since the last sync began (sync.py)
        self.named = False  # its name in the directory is on the disk (sync.py)
        self._descriptor: Descriptor | None = None
        self._fd = -1

    def append(self, data: bytes, number: int) -> None:
        """Write one record behind the last one.

        Args:
            data: The encoded record.
            number: Its number.
        Raises:
            OSError: The disk refused, and `size` and `last` are as before. What a short write
                left was cut off; where that failed too, `torn` is set.
        """
        fd = self._fd
        if fd < 0:
            fd = self._create()
        try:
            written = os.write(fd, data)
            if written != len(data):
                self._finish(data, written)
            self.size += written
            self.last = number
        except OSError:
            raise
        except BaseException:
            # KeyboardInterrupt may come between any two steps: go by the file.
            self.size = os.fstat(fd).st_size
            self.last = number
            raise

    def _create(self) -> int:
        # Truncated: whatever has this name holds no record that anybody was promised.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC
        self._descriptor = open_private(self.path, flags)
        self._fd = self._descriptor.fd
        return self._fd

    def _finish(self, data: bytes, written: int) -> None:
        """Continue after a short write, or take back what it left."""
        begun = written
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            try:
                os.ftruncate(self._fd, self.size)
            except OSError:
                self.torn = True
            raise
        self.size += written - begun  # the caller adds what its own write wrote

    def retire(self) -> None:
        """No record will be appended any more. Idempotent."""
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None
            self._fd = -1

    def unlink(self) -> None:
        """Remove the file. Idempotent."""
        self.retire()
        with contextlib.suppress(OSError):  # left behind: the next open finds it acknowledged
            self.path.unlink()


class Found(NamedTuple):
    """What one read of a segment gave."""

    records: list[Record]
    exhausted: bool  # the segment holds nothing behind these records


class SegmentReader:
    """Reads one segment after the other, and remembers where it was.

    Args:
        kind: The only kind of record that the segments hold.
    """

    __slots__ = ("_descriptor", "_kind", "_number", "_offset", "_path")

    def __init__(self, kind: RecordKind) -> None:
        self._kind = kind
        self._path: Path | None = None
        self._descriptor: Descriptor | None = None
        self._offset = 0  # where the record behind `_number` begins
        self._number = 0

    def read(
        self,
        path: Path,
        size: int,
        *,
        after: int,
        max_records: int,
        max_bytes: int,
        at_least_one: bool = True,
    ) -> Found:
        """Records of one segment with a number above `after`.

        Args:
            path: The segment.
            size: Its bytes of whole records; nothing behind is looked at.
            after: Number of the last record already taken.
            max_records: At most this many, 1 and up.
            max_bytes: Payload bytes at most.
            at_least_one: Return the first record whatever its size.
        Raises:
            OSError: It cannot be read. `FileNotFoundError`: it is gone.
        """
        fd = self._seek(path, after)
        records: list[Record] = []
        budget = max_bytes
        wanted = _CHUNK_BYTES
        while self._offset < size:
            begin = self._offset
            data = os.pread(fd, min(wanted, size - begin), begin)
            for number, payload, end in scan(data, kind=self._kind):
                if number > after:  # also skips a number that is there twice
                    budget -= len(payload)
                    if budget < 0 and (records or not at_least_one):
                        return Found(records, exhausted=False)
                    records.append(Record(number, payload))
                    after = number
                self._offset = begin + end
                self._number = number
                if len(records) >= max_records:
                    return Found(records, exhausted=self._offset >= size)
            if self._offset > begin:
                wanted = _CHUNK_BYTES
            elif wanted == _CHUNK_BYTES and begin + len(data) < size and is_cut(data, 0):
                wanted = HEADER_BYTES + MAX_PAYLOAD_BYTES  # a record larger than a chunk
            else:
                self._skip_damage(fd, size)
        return Found(records, exhausted=True)

    def _seek(self, path: Path, after: int) -> int:
        if self._descriptor is None or path != self._path:
            self.close()
            self._descriptor = open_private(path, os.O_RDONLY)
            self._path = path
        elif after >= self._number:
            return self._descriptor.fd
        self._offset = 0
        self._number = 0
        return self._descriptor.fd

    def _skip_damage(self, fd: int, size: int) -> None:
        rest = os.pread(fd, size - self._offset, self._offset)
        found = resynchronise(rest, 0, kind=self._kind, above=self._number)
        self._offset = size if found is None else self._offset + found

    def close(self) -> None:
        """Give the descriptor back. Idempotent; the next read opens again."""
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None


class Tail(NamedTuple):
    """What `recover` found at the end of a segment."""

    last: int
    size: int
    removed_bytes: int
    damaged: bool  # what was removed was more than a record cut short


def recover(path: Path, base: int, kind: RecordKind) -> Tail:
    """Find a segment's last whole record and cut off what lies behind it.

    A crash in the middle of a `write` leaves part of a record: its `append` had not returned, so
    nobody was promised anything. A record that is all there with a wrong checksum is damage.

    Args:
        path: The segment.
        base: Lowest number its first record may have.
        kind: The only kind that the segment holds.
    Raises:
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    last, size = base - 1, 0
    following: int | None = 0
    while following is not None:
        for number, _, end in scan(data, following, kind=kind):
            last, size = number, end
        following = resynchronise(data, size, kind=kind, above=last) if size < len(data) else None
    removed = len(data) - size
    damaged = removed > 0 and not is_cut(data, size)
    if removed:
        with contextlib.suppress(OSError):  # nobody appends here, and readers stop at `size`
            os.truncate(path, size)
    return Tail(last, size, removed, damaged)
