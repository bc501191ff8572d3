"""Advisory locks on open files: `flock` where there is one.

The lock belongs to the open file, so a forked child shares it: it is free when every copy of the
descriptor is closed. Where there is no `flock` (Windows) nothing can be locked, and nothing that is
another process's is ever taken to be free.
"""

from __future__ import annotations

import os
from pathlib import Path

from z4j_fastapi.outbox.files import Descriptor, open_private

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AVAILABLE = fcntl is not None


def try_lock(file: Descriptor) -> bool:
    """Take the exclusive lock of an open file if it is free.

    Returns:
        False where it is held, and on a file system without locks.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lock_exclusively(file: Descriptor) -> None:
    """Wait for the exclusive lock of an open file.

    Raises:
        OSError: The file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file.fd, fcntl.LOCK_EX)


def is_locked(path: Path) -> bool:
    """Whether any process holds the lock of the file `path`. False when the file is gone.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        file = open_private(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not AVAILABLE or not try_lock(file)
    finally:
        file.close()
