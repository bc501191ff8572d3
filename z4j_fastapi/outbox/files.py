"""Private files and directories, and descriptors that know what they were opened on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Descriptor:
    """An open file. Closes the number only while it still means the same file.

    A process that daemonises closes every descriptor behind our back and opens others: the number
    may then be somebody's socket.

    Args:
        fd: The open descriptor.
    """

    __slots__ = ("fd", "identity")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.identity = _identity(fd)

    def close(self) -> None:
        """Close the file if the number is still ours. Idempotent.

        Never releases a `flock` that another process shares by inheritance: closing one of
        several copies keeps it.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0 and _identity(fd) == self.identity:
            with contextlib.suppress(OSError):  # nothing of ours depends on a close that fails
                os.close(fd)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_private(path: Path, flags: int) -> Descriptor:
    """Open a file of ours: never through a symbolic link, mode 0600 whatever the umask.

    Args:
        path: The file.
        flags: As for `os.open`; close-on-exec comes by itself.
    Raises:
        OSError: As `os.open`.
    """
    descriptor = Descriptor(os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600))
    if flags & os.O_CREAT and hasattr(os, "fchmod"):
        try:
            os.fchmod(descriptor.fd, 0o600)
        except OSError:
            descriptor.close()
            raise
    return descriptor


def make_private_directory(path: Path) -> None:
    """Make `path` and what is missing above it, each with mode 0700 whatever the umask.

    What exists is left as it is.

    Raises:
        OSError: It cannot be made, or something else than a directory is in the way.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_private_directory(path.parent)
        make_private_directory(path)
        return
    path.chmod(0o700)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut.

    Raises:
        OSError: The disk refused.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
