"""Counts of what was lost, by reason. Nothing is lost silently."""

from __future__ import annotations

import enum
import threading
from uuid import uuid4


class LossReason(str, enum.Enum):
    """Why a record did not, or not whole, reach the brain. A fixed set: a metric label."""

    CAPACITY = "capacity"  # evicted: the outbox is at its bound
    DISK = "disk"  # the disk refused, and the memory ring overflowed
    CORRUPT = "corrupt"  # a record on disk failed its checksum or is missing from the sequence
    CONTENT_REJECTED = "content_rejected"  # the brain never acknowledged it, alone in a batch
    SHORTENED = "shortened"  # delivered, but cut to max_event_bytes
    NOT_RUNNING = "not_running"  # recorded while no runtime ran
    INVALID = "invalid"  # could not be rendered at all
    EXPIRED = "expired"  # a command result nobody waits for any more
    ENGINE_ERROR = "engine_error"  # a hook of ours failed and was contained by the guard


class LossCounters:
    """Thread-safe counters by `LossReason`.

    `epoch` names this run of counting, as the brain needs it to add up cumulative figures.
    """

    __slots__ = ("_counts", "_lock", "epoch")

    def __init__(self) -> None:
        self.epoch = uuid4().hex
        self._lock = threading.Lock()
        self._counts: dict[LossReason, int] = dict.fromkeys(LossReason, 0)

    def add(self, reason: LossReason, count: int = 1) -> None:
        """Add `count` lost records under `reason`."""
        with self._lock:
            self._counts[reason] += count

    def get(self, reason: LossReason) -> int:
        """How many were lost for `reason` since the process started."""
        return self._counts[reason]

    def snapshot(self) -> dict[str, int]:
        """All counts by reason, zeros included."""
        with self._lock:
            return {reason.value: count for reason, count in self._counts.items()}

    def reinit_after_fork(self) -> None:
        """Start over in a forked child: the parent reports its own losses."""
        self.epoch = uuid4().hex
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(LossReason, 0)
