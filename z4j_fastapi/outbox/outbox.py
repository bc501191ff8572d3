"""The whole outbox of one process: its own worker directory, and those taken over from the dead."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from z4j_fastapi.clock import Clock
from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox import worker_directory
from z4j_fastapi.outbox.base import OutboxDepth, RecordKind, Source
from z4j_fastapi.outbox.directory import private_trouble
from z4j_fastapi.outbox.files import make_private_directory
from z4j_fastapi.outbox.lane import FileLane, LaneServices
from z4j_fastapi.outbox.record import MAX_PAYLOAD_BYTES
from z4j_fastapi.outbox.retention import Retention
from z4j_fastapi.outbox.segment import Segment
from z4j_fastapi.outbox.sync import Syncer, SyncPolicy
from z4j_fastapi.outbox.trouble import EventLogger, TroubleLog
from z4j_fastapi.outbox.worker_directory import WorkerDirectory

_RESULT_LIFETIME_SECONDS = 24 * 3600.0
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_ADOPTED = 64  # each holds open files; the rest waits for the next round, or for a sibling


class _Worker(NamedTuple):
    """A directory we hold, and what is in it."""

    directory: WorkerDirectory
    events: FileLane
    results: FileLane
    source: Source

    @property
    def lanes(self) -> tuple[FileLane, FileLane]:
        return self.events, self.results

    @property
    def drained(self) -> bool:
        return not self.events.pending and not self.results.pending


class FileOutbox:
    """Durable store of what the brain has not acknowledged. Implements `base.Outbox`.

    Each process has a directory of its own below `base`. A forked child opens another one at its
    first `append`, and never touches its parent's.

    Args:
        base: Directory of the deployment: `<outbox root>/<AgentSettings.deployment_fingerprint>`.
        worker_id: Name of this process's directory, or what gives it; asked again after a fork.
            A fixed name gets the pid of a forked child appended.
        agent_tag: `AgentSettings.agent_tag`: results in a directory with another tag are left to
            their own agent.
        max_events: Most events that wait; beyond, the oldest go.
        max_bytes: Most bytes of events on disk; as above.
        sync: When written records are forced to the disk.
        counters: Where losses are counted.
        clock: Source of time.
        logger: Where trouble is told; None for nowhere.
        segment_type: Makes segments; in tests one with a full disk.
    Spec: design.md section 4.
    """

    def __init__(
        self,
        *,
        base: Path,
        worker_id: Callable[[], str] | str,
        agent_tag: str,
        max_events: int,
        max_bytes: int,
        sync: SyncPolicy,
        counters: LossCounters,
        clock: Clock,
        logger: EventLogger | None = None,
        segment_type: type[Segment] = Segment,
    ) -> None:
        self._base = base
        self._worker_id = worker_id
        self._agent_tag = agent_tag
        self._retention = {
            RecordKind.EVENT: Retention(max_records=max_events, max_bytes=max_bytes),
            RecordKind.RESULT: Retention(),
        }
        self._sync = sync
        self._counters = counters
        self._clock = clock
        self._logger = logger
        self._segment_type = segment_type
        self._first_pid = os.getpid()
        self._pid = 0  # of the process whose directory is open; 0 when none is
        self._wanted = False  # between open() and close(), in this process or its ancestors
        # One lock a process: a fork may copy one that a thread of the parent holds.
        self._locks: dict[int, threading.RLock] = {}
        self._own: _Worker | None = None
        self._adopted: tuple[_Worker, ...] = ()
        self._append_event: Callable[[bytes], bool] = _refuse
        self._append_result: Callable[[bytes], bool] = _refuse
        self._retry_open_at = float("-inf")
        self._start_over()

    def _start_over(self) -> None:
        self._trouble = TroubleLog(self._logger)
        self._syncer = Syncer(self._sync, self._trouble)
        self._services = LaneServices(
            clock=self._clock,
            counters=self._counters,
            syncer=self._syncer,
            trouble=self._trouble,
            segment_type=self._segment_type,
        )

    @property
    def directory(self) -> Path:
        """The worker directory in use.

        Raises:
            OutboxError: None is open.
        """
        own = self._own
        if own is None:
            raise OutboxError("outbox: no directory is open")
        return own.directory.path

    def open(self) -> None:
        """Create or take the directory, lock it, cut torn tails. Idempotent.

        On a full disk nothing is opened yet: appends count their losses and try again.

        Raises:
            OutboxError: No directory can be used at all.
        """
        self._leave_parent()
        with self._lock:
            if self._own is not None:
                return
            self._start_over()
            worker_id = self._worker_id if isinstance(self._worker_id, str) else self._worker_id()
            pid = os.getpid()
            if pid != self._first_pid and isinstance(self._worker_id, str):
                worker_id = f"{worker_id}-{pid}"
            try:
                make_private_directory(self._base)
                trouble = private_trouble(self._base)
                if trouble is not None:
                    raise OutboxError(f"outbox directory {self._base}: {trouble}")
                own = self._load(
                    worker_directory.create(self._base, worker_id, self._agent_tag), own=True
                )
            except OSError as error:
                if error.errno in _DISK_FULL:
                    # The host must start all the same. As in a child, appends try again.
                    self._wanted = True
                    self._retry_open_at = self._clock.monotonic() + 1.0
                    self._trouble.begin("outbox_open_failed", error=str(error.strerror))
                    return
                raise OutboxError(
                    f"outbox directory {self._base}: cannot be used ({error.strerror}); "
                    "set Z4J_HOME to a directory of your own"
                ) from error
            self._own = own
            self._append_event = own.events.append
            self._append_result = own.results.append
            self._wanted = True
            self._pid = pid

    @property
    def _lock(self) -> threading.RLock:
        return self._locks.setdefault(os.getpid(), threading.RLock())  # setdefault is atomic

    def _load(self, directory: WorkerDirectory, *, own: bool) -> _Worker:
        try:
            lanes = {
                kind: FileLane(
                    directory.path,
                    kind,
                    retention=self._retention[kind],
                    services=self._services,
                )
                for kind in RecordKind
            }
            for lane in lanes.values():
                lane.open()
        except OSError:
            directory.release()
            raise
        events, results = lanes[RecordKind.EVENT], lanes[RecordKind.RESULT]
        ours = own or directory.agent() == self._agent_tag
        source = Source(
            name=directory.name, own=own, events=events, results=results if ours else None
        )
        return _Worker(directory, events, results, source)

    def append(self, kind: RecordKind, payload: bytes) -> bool:
        """Store one record; on return the operating system has its bytes. Any thread.

        Args:
            kind: What the record is.
            payload: 1 to `record.MAX_PAYLOAD_BYTES` bytes.
        Returns:
            False if the record was lost (counted by reason); with the disk full it goes to a
            bounded memory ring and True is returned.
        Raises:
            OutboxError: Empty or too large, or the outbox is closed. Nothing was written.
        """
        if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
            raise OutboxError(
                f"outbox: a record of {len(payload)} bytes; 1 to {MAX_PAYLOAD_BYTES} can be stored"
            )
        if os.getpid() != self._pid and not self._open_in_child():
            self._counters.add(LossReason.DISK)
            return False
        if kind is RecordKind.EVENT:
            return self._append_event(payload)
        return self._append_result(payload)

    def _open_in_child(self) -> bool:
        """First use after a fork, or after a start on a full disk. False if it cannot be now."""
        if not self._wanted:
            raise OutboxError("outbox: it is closed")
        now = self._clock.monotonic()
        if now < self._retry_open_at:
            return False
        try:
            self.open()
        except OutboxError as error:
            self._retry_open_at = now + 1.0
            self._trouble.begin("outbox_open_failed", error=error.message)
            return False
        return self._own is not None

    def sources(self) -> Sequence[Source]:
        """Our own source first, then adopted ones."""
        if self._own is None or self._pid != os.getpid():
            return ()
        return (self._own.source, *(worker.source for worker in self._adopted))

    def adopt(self) -> int:
        """Take over directories of dead siblings of this deployment.

        Also drops results that nobody waits for any more, and takes records back to a disk that
        was full. Blocking file work: call it off the loop, at start and about every 30 seconds.

        Returns:
            How many sources are new.
        """
        with self._lock:
            if self._own is None or self._pid != os.getpid():
                return 0
            held = {worker.directory.path for worker in (self._own, *self._adopted)}
            now = self._clock.now().timestamp()
            new: list[_Worker] = []
            try:
                candidates = worker_directory.candidates(self._base, now)
            except OSError as error:
                self._trouble.begin("outbox_adoption_failed", error=error.strerror)
                candidates = []
            for path in candidates:
                if len(self._adopted) + len(new) >= _MAX_ADOPTED:
                    break
                if path not in held:
                    worker = self._adopt_one(path, now)
                    if worker is not None:
                        new.append(worker)
            self._adopted = (*self._adopted, *new)
            for worker in (self._own, *self._adopted):
                worker.results.expire(_RESULT_LIFETIME_SECONDS)
                for lane in worker.lanes:
                    lane.recover()
            if new:
                self._trouble.info("outbox_adopted", sources=[w.source.name for w in new])
            return len(new)

    def _adopt_one(self, path: Path, now: float) -> _Worker | None:
        foreign = worker_directory.read_agent(path) != self._agent_tag
        if foreign and not worker_directory.has_work_for_others(
            path, now - _RESULT_LIFETIME_SECONDS
        ):
            return None  # leave its lock free for its own agent
        try:
            directory = worker_directory.take(path)
            worker = self._load(directory, own=False) if directory is not None else None
        except OSError as error:
            self._trouble.begin("outbox_adoption_failed", error=error.strerror)
            return None
        if worker is None:
            return None
        worker.results.expire(_RESULT_LIFETIME_SECONDS)
        if worker.events.pending or (worker.results.pending and not foreign):
            return worker
        self._let_go(worker)
        return None

    def release(self, source: Source) -> None:
        """Remove an adopted source whose lanes are drained.

        One that is not, or whose results are another agent's, is left to the next owner.
        """
        with self._lock:
            for worker in self._adopted:
                if worker.source is source:
                    self._adopted = tuple(w for w in self._adopted if w is not worker)
                    self._let_go(worker)

    def _let_go(self, worker: _Worker) -> None:
        for lane in worker.lanes:
            lane.close()
        if worker.drained:
            worker.directory.remove()
        else:
            worker.directory.release()

    def depth(self) -> OutboxDepth:
        """What waits now, in our own and in adopted directories. Cheap; any thread.

        Results that belong to another agent are not ours to count.
        """
        lanes: list[FileLane] = []
        events = results = 0
        own = self._own
        if own is not None and self._pid == os.getpid():
            for worker in (own, *self._adopted):
                lanes.append(worker.events)
                events += worker.events.pending
                if worker.source.results is not None:
                    lanes.append(worker.results)
                    results += worker.results.pending
        return OutboxDepth(
            events=events,
            results=results,
            bytes=sum(lane.pending_bytes for lane in lanes),
            oldest_age_seconds=max((lane.oldest_age_seconds() for lane in lanes), default=0.0),
        )

    def close(self) -> None:
        """Flush, unlock, and remove the directory if nothing is pending. Idempotent.

        What is pending is found and delivered by a sibling, or by the next start.
        """
        self._leave_parent()
        with self._lock:
            self._wanted = False
            own, self._own = self._own, None
            adopted, self._adopted = self._adopted, ()
            self._pid = 0
            self._append_event = self._append_result = _refuse
            if own is None:
                return
            self._syncer.close()
            for worker in (*adopted, own):
                self._let_go(worker)

    def reinit_after_fork(self) -> None:
        """In a forked child: close inherited descriptors; the next append opens a new directory.

        Does nothing in the process that opened the outbox. The parent's locks stay held by it
        alone, so that its directories are adopted when it dies, not when its children do.
        """
        self._leave_parent()

    def _leave_parent(self) -> None:
        if self._pid in {0, os.getpid()}:
            return
        with self._lock:
            if self._pid in {0, os.getpid()}:
                return
            own, self._own = self._own, None
            adopted, self._adopted = self._adopted, ()
            self._pid = 0
            self._append_event = self._append_result = _refuse
            self._retry_open_at = float("-inf")
            self._start_over()
            for worker in (*adopted, *((own,) if own is not None else ())):
                for lane in worker.lanes:
                    lane.abandon()
                worker.directory.release()


def _refuse(payload: bytes) -> bool:
    raise OutboxError(f"outbox: it is closed; a record of {len(payload)} bytes was refused")
