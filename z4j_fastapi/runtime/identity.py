"""Who this process is to the brain, and what a fork does to it.

The brain tells connections of one agent apart by `worker_id`; the same id connecting again
displaces the older socket (wire-protocol 3). So the id is per runtime, also for two in one process.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

_lock = threading.Lock()
_last_ms = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """One runtime in one process.

    Args:
        worker_id: `{framework}-{pid}-{start in unix ms}`, at most 128 characters.
        role: web, task, scheduler, beat or other; at most 32 characters.
        pid: Process id.
        started_at: When this runtime was made, aware.
    """

    worker_id: str
    role: str
    pid: int
    started_at: datetime


def new_identity(*, framework: str, role: str, now: datetime) -> WorkerIdentity:
    """An identity that no other runtime of this host has.

    Args:
        framework: `fastapi`.
        role: The worker's role.
        now: The start time, aware.
    Spec: wire-protocol.md section 3.
    """
    global _last_ms  # noqa: PLW0603 - two runtimes made in one millisecond must still differ
    with _lock:
        start_ms = max(int(now.timestamp() * 1000), _last_ms + 1)
        _last_ms = start_ms
    pid = os.getpid()
    return WorkerIdentity(
        worker_id=f"{framework}-{pid}-{start_ms}",
        role=role,
        pid=pid,
        started_at=datetime.fromtimestamp(start_ms / 1000, tz=timezone.utc),
    )


class ForkAware(Protocol):
    """Something that must forget threads, locks and files in a forked child."""

    def reinit_after_fork(self) -> None:
        """Called in the child, once, before any other code of ours runs there."""
        ...


_fork_aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_hook_installed = False


def register_fork_aware(target: ForkAware) -> None:
    """Have `target.reinit_after_fork()` called in every forked child while it lives.

    One hook for the process, since `os.register_at_fork` cannot be undone; weak references.
    """
    global _hook_installed  # noqa: PLW0603 - the hook is the process's, not an object's
    with _lock:
        _fork_aware.add(target)
        if not _hook_installed:
            os.register_at_fork(after_in_child=_in_child)
            _hook_installed = True


def _in_child() -> None:
    global _lock  # noqa: PLW0603 - the parent's other threads may have held it
    _lock = threading.Lock()
    for target in list(_fork_aware):
        target.reinit_after_fork()
