"""The segments of one lane: where new records go, where old ones lie, which are done with.

No locks and no numbers of its own: the lane calls it under its lock.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.segment import (
    Segment,
    Tail,
    parse_segment_name,
    recover,
    segment_name,
)

PREFIXES = {RecordKind.EVENT: "events", RecordKind.RESULT: "results"}


class SegmentStore:
    """A lane's segments, oldest first.

    Args:
        directory: Where they lie.
        kind: The only kind of record in them.
        segment_bytes: Size at which a segment is full.
        segment_type: Makes new segments; in tests one with a full disk.
    """

    __slots__ = (
        "_active",
        "_directory",
        "_kind",
        "_segment_bytes",
        "_segment_type",
        "_segments",
        "size",
    )

    def __init__(
        self,
        directory: Path,
        kind: RecordKind,
        *,
        segment_bytes: int,
        segment_type: type[Segment] = Segment,
    ) -> None:
        self._directory = directory
        self._kind = kind
        self._segment_bytes = segment_bytes
        self._segment_type = segment_type
        self._segments: deque[Segment] = deque()
        self._active: Segment | None = None  # the last of them, if it takes records
        self.size = 0  # bytes on disk

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def open(self) -> Tail | None:
        """Find what a former owner left, and cut a torn tail.

        Only the newest segment is read: in the others damage shows, and is skipped, when they are
        read. What is found is never appended to: new records begin a new segment.

        Returns:
            What was found at the end of the newest segment, if there is one.
        Raises:
            OSError: The directory or the newest segment cannot be read.
        """
        prefix = PREFIXES[self._kind]
        bases = sorted(
            parsed[1]
            for entry in self._directory.iterdir()
            if (parsed := parse_segment_name(entry.name)) and parsed[0] == prefix
        )
        tail = None
        for base, following in zip(bases, [*bases[1:], None], strict=False):
            path = self._directory / segment_name(prefix, base)
            if following is None:
                tail = recover(path, base, self._kind)
                last, size = tail.last, tail.size
            else:
                last, size = following - 1, path.stat().st_size
            self._segments.append(self._segment_type(path, base, last=last, size=size))
            self.size += size
        if self._segments and self._segments[-1].size == 0:
            self._segments.pop().unlink()
        return tail

    @property
    def first(self) -> Segment | None:
        """The oldest segment."""
        return self._segments[0] if self._segments else None

    @property
    def last(self) -> int:
        """Number of the newest record on disk; 0 when there is none."""
        return self._segments[-1].last if self._segments else 0

    def append(self, data: bytes, number: int) -> Segment:
        """Write one encoded record, into a new segment when the newest is full.

        Returns:
            Where it went.
        Raises:
            OSError: The disk refused. Nothing changed.
        """
        active = self._active
        if active is None or active.torn or active.size + len(data) > self._segment_bytes:
            active = self._roll(number)
        try:
            active.append(data, number)
        except OSError as error:
            if error.errno != errno.EFBIG or active.size == 0:
                raise
            # A limit on the size of one file (RLIMIT_FSIZE): another file may still take it.
            active = self._roll(number)
            active.append(data, number)
        self.size += len(data)
        return active

    def _roll(self, base: int) -> Segment:
        active = self._active
        if active is not None:
            active.retire()
            if active.size == 0:  # nothing was ever written: its name may be wanted again
                self._segments.pop().unlink()
        path = self._directory / segment_name(PREFIXES[self._kind], base)
        self._active = self._segment_type(path, base, last=base - 1, size=0)
        self._segments.append(self._active)
        return self._active

    def locate(self, after: int) -> Segment | None:
        """The oldest segment that has a record with a number above `after`."""
        for segment in self._segments:
            if segment.last > after:
                return segment
        return None

    def release(self, up_to: int) -> list[Segment]:
        """Take out the segments whose every record is at or below `up_to`.

        The one that is written to stays: the caller unlinks what is returned.
        """
        released: list[Segment] = []
        while (
            self._segments
            and self._segments[0].last <= up_to
            and self._segments[0] is not self._active
        ):
            segment = self._segments.popleft()
            self.size -= segment.size
            released.append(segment)
        return released

    def release_active(self, up_to: int) -> list[Segment]:
        """Take out the segment that is written to as well, to give its space back."""
        if self._active is not None and self._active.last <= up_to:
            self._active.retire()
            self._active = None
        return self.release(up_to)

    def retire(self) -> None:
        """Close what is open; nothing will be appended any more."""
        if self._active is not None:
            self._active.retire()
            self._active = None
