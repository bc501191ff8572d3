"""One worker's directory: who owns it, and how it changes hands.

The owner holds an exclusive `flock` on the file `lock` for the life of its process. A free lock
means that the owner is dead, and whoever takes it owns what is there.

A directory is made under a name beginning with a dot, locked, and only then renamed, so that nobody
ever sees one without an owner. One is removed by renaming it back to such a name first; whoever
then gets the lock finds that its file has lost its name, and lets go. Where there is no `flock`
(Windows, some network file systems) nothing is ever adopted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import cast

from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.files import Descriptor, make_private_directory, open_private
from z4j_fastapi.outbox.flock import try_lock
from z4j_fastapi.outbox.segment import parse_segment_name
from z4j_fastapi.outbox.store import PREFIXES

_LOCK = "lock"
_META = "meta.json"
_OURS = {_LOCK, _META, *(f"{prefix}.cursor" for prefix in PREFIXES.values())}
_HIDDEN_PREFIX = ".z4j-"  # being made, or being removed
_HIDDEN_SECONDS = 3600.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LENGTH = 80


class WorkerDirectory:
    """A directory whose lock this process holds.

    Args:
        path: The directory.
        lock: Its locked lock file.
    """

    def __init__(self, path: Path, lock: Descriptor) -> None:
        self.path = path
        self._lock = lock

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.path.name

    def agent(self) -> str | None:
        """Tag of the agent that wrote here; None when that cannot be told."""
        return read_agent(self.path)

    def remove(self) -> bool:
        """Delete the directory and give up the lock; False if files of others keep it alive."""
        removed = False
        with contextlib.suppress(OSError):  # what cannot be removed is found empty another time
            names = sorted(entry.name for entry in self.path.iterdir())
            if all(name in _OURS or parse_segment_name(name) for name in names):
                hidden = self.path.with_name(_hidden_name())
                self.path.rename(hidden)
                removed = True
                for name in names:
                    (hidden / name).unlink()
                hidden.rmdir()
        self.release()
        return removed

    def release(self) -> None:
        """Give up the lock and leave the files to the next owner. Idempotent.

        Only closes: an explicit unlock by a forked child would take the lock from its parent.
        """
        self._lock.close()


def create(base: Path, worker_id: str, agent: str) -> WorkerDirectory:
    """Make the directory of a worker, or take the one it left behind.

    Args:
        base: Directory of the deployment.
        worker_id: Any text; reduced to what is safe in a file name.
        agent: Tag of our agent.
    Raises:
        OSError: It cannot be made.
    """
    wanted = worker_directory_name(worker_id)
    for name in (wanted, f"{wanted}.{secrets.token_hex(4)}"):
        path = base / name
        if path.exists():
            existing = take(path)
            if existing is not None and existing.agent() == agent:
                return existing
            if existing is not None:
                existing.release()
            continue
        made = _make(base, path, agent)
        if made is not None:
            return made
    raise OutboxError(f"outbox directory {base}: no directory for worker {wanted} can be made")


def _make(base: Path, path: Path, agent: str) -> WorkerDirectory | None:
    unfinished = base / _hidden_name()
    make_private_directory(unfinished)
    lock = open_private(unfinished / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    directory = WorkerDirectory(unfinished, lock)
    try:
        try_lock(lock)
        meta = open_private(unfinished / _META, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(meta.fd, json.dumps({"format": 1, "agent": agent}).encode())
        finally:
            meta.close()
        unfinished.rename(path)
    except OSError:
        directory.remove()
        if path.exists():
            return None  # somebody else was faster
        raise
    directory.path = path
    return directory


def take(path: Path) -> WorkerDirectory | None:
    """Become the owner of a directory whose owner is dead; None if that is not so.

    Raises:
        OSError: It cannot be looked at.
    """
    try:
        lock = open_private(path / _LOCK, os.O_RDWR | os.O_CREAT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if try_lock(lock) and _still_named(path / _LOCK, lock):
        return WorkerDirectory(path, lock)
    lock.close()
    return None


def candidates(base: Path, now: float) -> list[Path]:
    """Directories below `base` that may be a worker's; removes what was left half made.

    Args:
        base: Directory of the deployment.
        now: POSIX seconds.
    Raises:
        OSError: `base` cannot be read.
    """
    found: list[Path] = []
    for entry in sorted(base.iterdir()):
        if entry.name.startswith(_HIDDEN_PREFIX):
            _remove_hidden(entry, now)
        elif not entry.name.startswith(".") and (
            (entry / _META).exists() or (entry / _LOCK).exists()
        ):
            found.append(entry)
    return found


def read_agent(path: Path) -> str | None:
    """Tag of the agent that wrote in a worker directory; None when that cannot be told."""
    try:
        meta: object = json.loads((path / _META).read_bytes())
    except (OSError, ValueError):
        return None
    agent = cast("dict[str, object]", meta).get("agent") if isinstance(meta, dict) else None
    return agent if isinstance(agent, str) else None


def has_work_for_others(path: Path, expired_before: float) -> bool:
    """Whether another agent than its own has anything to do in a worker directory.

    Args:
        path: The directory.
        expired_before: POSIX seconds; results last written before are worth nothing any more.
    Returns:
        True if it holds events or expired results, or nothing at all; False also when it is gone.
    """
    try:
        segments = [
            (parsed[0], entry.stat().st_mtime)
            for entry in path.iterdir()
            if (parsed := parse_segment_name(entry.name))
        ]
    except OSError:
        return False
    results = PREFIXES[RecordKind.RESULT]
    return not segments or any(
        prefix != results or written < expired_before for prefix, written in segments
    )


def worker_directory_name(worker_id: str) -> str:
    """A worker id as the name of a directory."""
    return _UNSAFE.sub("_", worker_id).lstrip(".")[:_NAME_LENGTH] or "worker"


def _still_named(path: Path, lock: Descriptor) -> bool:
    """Whether the file we locked is the one that others will find."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) == lock.identity


def _hidden_name() -> str:
    return f"{_HIDDEN_PREFIX}{secrets.token_hex(8)}"


def _remove_hidden(path: Path, now: float) -> None:
    """Remove a directory whose maker or remover was killed half way; it holds no records."""
    with contextlib.suppress(OSError):  # somebody else's job as well as ours
        if path.stat().st_mtime + _HIDDEN_SECONDS < now:
            directory = take(path)
            if directory is not None:
                directory.remove()
