"""Bounds of a lane: when the oldest records have to go.

Records are counted exactly. Bytes are those on disk, and fall by whole segments only; segments are
therefore small against the bound, and eviction never reads a record.
"""

from __future__ import annotations

from dataclasses import dataclass

_SEGMENT_BYTES = 4 << 20
_SMALLEST_SEGMENT_BYTES = 64 << 10
_SEGMENTS_A_BOUND = 16
_CURSOR_STEPS_A_BOUND = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Bounds of one lane. None is no bound: command results are never evicted.

    Args:
        max_records: Most records that may wait.
        max_bytes: Most bytes on disk.
    """

    max_records: int | None = None
    max_bytes: int | None = None

    @property
    def segment_bytes(self) -> int:
        """Size at which a segment is full: 4 MiB, less where the bound is small."""
        if self.max_bytes is None:
            return _SEGMENT_BYTES
        share = self.max_bytes // _SEGMENTS_A_BOUND
        return max(_SMALLEST_SEGMENT_BYTES, min(_SEGMENT_BYTES, share))

    @property
    def cursor_step(self) -> int:
        """Evicted records after which the cursor is stored; a crash evicts fewer again."""
        return max(1, (self.max_records or 0) // _CURSOR_STEPS_A_BOUND)
