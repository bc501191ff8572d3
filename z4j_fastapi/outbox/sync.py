"""When written records are forced to the disk (setting `buffer_sync`).

| policy     | process killed | machine loses power                                    |
|------------|----------------|--------------------------------------------------------|
| `always`   | nothing lost   | nothing lost that `append` returned for; 0.2 ms each   |
| `interval` | nothing lost   | at most the records of about the last second           |
| `never`    | nothing lost   | what the operating system had not written by itself    |

`interval` has a daemon thread that starts with the first record and then sleeps without a deadline
until something is written: an idle process has no wake-up from it, a busy one a few a second.
It opens the files by name, so that a segment may be retired or unlinked under its hands.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from queue import Empty, SimpleQueue

from z4j_fastapi.outbox.files import sync_directory
from z4j_fastapi.outbox.segment import Segment
from z4j_fastapi.outbox.trouble import TroubleLog

_INTERVAL_SECONDS = 1.0


class SyncPolicy(str, enum.Enum):
    """How written records get to the disk."""

    INTERVAL = "interval"
    ALWAYS = "always"
    NEVER = "never"


class Syncer:
    """Forces segments to the disk as the policy says.

    Args:
        policy: When.
        trouble: Says once an episode that the disk refuses.
        interval_seconds: Distance of two syncs under `interval`.
    """

    def __init__(
        self,
        policy: SyncPolicy,
        trouble: TroubleLog,
        *,
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._policy = policy
        self._trouble = trouble
        self._interval_seconds = interval_seconds
        # A SimpleQueue, since `put` may interrupt itself: a signal handler may record an event.
        self._queue: SimpleQueue[Segment | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def wrote(self, segment: Segment) -> None:
        """A record was appended to `segment`. Any thread, without any lock of the lane held.

        With `always` it returns when the disk has it.
        """
        if self._policy is SyncPolicy.ALWAYS:
            self._sync(segment)
        elif not segment.dirty and self._policy is SyncPolicy.INTERVAL:  # once a second it is not
            segment.dirty = True
            self._queue.put(segment)
            if self._thread is None:
                self._start()

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Force what was written to the disk, and end the thread. Idempotent.

        Args:
            timeout_seconds: A disk that takes longer is left to it.
        """
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(timeout_seconds)

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closed:
                return
            thread = threading.Thread(target=self._run, name="z4j-outbox-sync", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no threads (any more): the interpreter ends; the system writes by itself
            self._thread = thread

    def _run(self) -> None:
        stopping = False
        while not stopping:
            segment = self._queue.get()  # without a deadline: nothing written, no wake-up
            dirty: set[Segment] = set()
            deadline = time.monotonic() + self._interval_seconds
            while segment is not None:
                dirty.add(segment)
                try:
                    segment = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
                except Empty:
                    break
            stopping = segment is None
            for written in dirty:
                written.dirty = False
                self._sync(written)

    def _sync(self, segment: Segment) -> None:
        try:
            fd = os.open(segment.path, os.O_RDONLY)
            try:
                # fdatasync where there is one: macOS has only fsync
                getattr(os, "fdatasync", os.fsync)(fd)
            finally:
                os.close(fd)
            if not segment.named:
                sync_directory(segment.path.parent)
                segment.named = True
        except FileNotFoundError:
            return  # acknowledged or evicted in the meantime
        except OSError as error:
            self._trouble.begin("outbox_sync_failed", error=error.strerror)
        else:
            self._trouble.end("outbox_sync_failed")
