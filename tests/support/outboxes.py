"""Outboxes for tests: small bounds, a clock that stands still, and what a test wants to see."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from z4j_fastapi.clock import Clock
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.outbox.base import Lane, RecordKind
from z4j_fastapi.outbox.lane import FileLane, LaneServices
from z4j_fastapi.outbox.outbox import FileOutbox
from z4j_fastapi.outbox.retention import Retention
from z4j_fastapi.outbox.segment import Segment
from z4j_fastapi.outbox.sync import Syncer, SyncPolicy
from z4j_fastapi.outbox.trouble import TroubleLog


class StillClock:
    """Time that passes when it is told to; begins at the real wall-clock time."""

    def __init__(self) -> None:
        self._wall = datetime.now(timezone.utc)
        self._monotonic = 1_000_000.0

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall += timedelta(seconds=seconds)
        self._monotonic += seconds


class ListLogger:
    """Keeps log lines as (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, /, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, /, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    @property
    def events(self) -> list[str]:
        return [event for _, event, _ in self.lines]


class SmallSegments(Retention):
    """Bounds with segments of 8 KiB, so that a few records fill several."""

    __slots__ = ()

    @property
    def segment_bytes(self) -> int:
        return 8192


class FullDisk:
    """A switch, and segments that obey it: `errno` is what every append raises while it is set."""

    def __init__(self) -> None:
        self.errno: int | None = None
        switch = self

        class FullSegment(Segment):
            __slots__ = ()

            def append(self, data: bytes, number: int) -> None:
                if switch.errno is not None:
                    raise OSError(switch.errno, "refused by the test")
                super().append(data, number)

        self.segment_type = FullSegment


def open_lane(
    directory: Path,
    kind: RecordKind = RecordKind.EVENT,
    *,
    max_records: int | None = None,
    max_bytes: int | None = None,
    counters: LossCounters | None = None,
    clock: Clock | None = None,
    logger: ListLogger | None = None,
    segment_type: type[Segment] = Segment,
    retention_type: type[Retention] = Retention,
) -> FileLane:
    """A lane that never syncs, opened in `directory`."""
    trouble = TroubleLog(logger)
    lane = FileLane(
        directory,
        kind,
        retention=retention_type(max_records=max_records, max_bytes=max_bytes),
        services=LaneServices(
            clock=clock or StillClock(),
            counters=counters or LossCounters(),
            syncer=Syncer(SyncPolicy.NEVER, trouble),
            trouble=trouble,
            segment_type=segment_type,
        ),
    )
    lane.open()
    return lane


def make_outbox(
    base: Path,
    worker_id: str = "worker",
    *,
    agent_tag: str = "agent",
    counters: LossCounters | None = None,
    clock: Clock | None = None,
    logger: ListLogger | None = None,
    max_events: int = 100_000,
    sync: SyncPolicy = SyncPolicy.NEVER,
    segment_type: type[Segment] = Segment,
) -> FileOutbox:
    """An outbox below `base`, not yet open."""
    return FileOutbox(
        base=base,
        worker_id=worker_id,
        agent_tag=agent_tag,
        max_events=max_events,
        max_bytes=256 << 20,
        sync=sync,
        counters=counters or LossCounters(),
        clock=clock or StillClock(),
        logger=logger,
        segment_type=segment_type,
    )


def drain(lane: Lane, *, max_records: int = 500, max_bytes: int = 1 << 20) -> list[bytes]:
    """Read and acknowledge everything; the payloads in order."""
    payloads: list[bytes] = []
    while records := lane.read(lane.acknowledged, max_records=max_records, max_bytes=max_bytes):
        payloads += [record.payload for record in records]
        lane.acknowledge(records[-1].number)
    return payloads


def kill_the_owner(outbox: FileOutbox) -> None:
    """Leave everything as a killed process does: nothing flushed or removed, the lock free."""
    own = outbox._own
    assert own is not None
    own.directory.release()
    for lane in own.lanes:
        lane.abandon()
