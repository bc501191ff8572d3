"""Where everything of ours lies on this host: the state directory, and how it is relocated.

One function for the runtime, `doctor`, `status` and `restart`, so that all look at the same place.
Nothing here lists, deletes or changes the mode of what is not ours: the brain may use the same
directory. No caching: each caller that must agree with another passes the result on.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox.files import make_private_directory

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_ANY_ACCESS_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDirectory:
    """A directory that can be used.

    Args:
        path: Absolute, symbolic links resolved; it exists.
        relocated: It is not the one that was asked for.
        reason: Why it was relocated, or what is doubtful about it; None when all is well.
        durable: The next start will find the same directory. False only for the last resort, a
            fresh temporary directory: a backlog left there is not found again.
        warning: One line to log, naming both paths and what to do; None when all is well.
    """

    path: Path
    relocated: bool = False
    reason: str | None = None
    durable: bool = True
    warning: str | None = None


def state_directory(home: str | None = None) -> StateDirectory:
    """Find or make the state directory.

    Args:
        home: Instead of `$Z4J_HOME`; None or empty for that, and `~/.z4j` where it is not set.
    Returns:
        The wanted directory, or `$TMPDIR/z4j-{uid}` where that cannot be used safely.
    Raises:
        OutboxError: Not even a temporary directory can be made.
    Spec: config-and-cli.md section 4.
    """
    text = home or os.environ.get("Z4J_HOME") or "~/.z4j"
    try:
        wanted = Path(text).expanduser().absolute().resolve()
    except (RuntimeError, OSError):
        return _relocate(text, "there is no home directory")
    trouble = _unusable(wanted)
    if trouble is not None:
        return _relocate(str(wanted), trouble)
    if os.name == "posix" and stat.S_IMODE(wanted.stat().st_mode) & _ANY_ACCESS_OF_OTHERS:
        reason = "other users can read it"
        warning = f"state directory {wanted}: {reason}; run: chmod 700 {wanted}"
        return StateDirectory(path=wanted, reason=reason, warning=warning)
    return StateDirectory(path=wanted)


def outbox_root(
    state: StateDirectory, buffer_path: str | os.PathLike[str] | None
) -> StateDirectory:
    """The directory that holds the outboxes of all deployments.

    Args:
        state: What `state_directory` returned.
        buffer_path: The setting. The official agent has a file there, so a name that ends in
            `.sqlite` or `.db` stands for the directory around it; None for the default.
    Returns:
        The wanted directory, or `<state>/outbox` where it cannot be written to.
    Raises:
        OutboxError: That cannot be made either.
    Spec: config-and-cli.md sections 2 and 4.
    """
    default = state.path / "outbox"
    reason = None
    warning = None
    if buffer_path is not None:
        given = Path(buffer_path)
        try:
            given = given.expanduser().absolute()
        except RuntimeError:
            reason = "there is no home directory"
        else:
            wanted = given.parent if given.suffix in {".sqlite", ".db"} else given
            reason = _unwritable(wanted)
            if reason is None:
                return StateDirectory(path=wanted)
        warning = f"buffer_path {given}: {reason}; using {default} instead"
    trouble = _unwritable(default)
    if trouble is not None:
        raise OutboxError(f"outbox directory {default}: {trouble}; set Z4J_HOME to another place")
    return StateDirectory(
        path=default,
        relocated=reason is not None or state.relocated,
        reason=reason or state.reason,
        durable=state.durable,
        warning=warning,
    )


def private_trouble(path: Path) -> str | None:
    """What makes an existing directory unfit to hold our files; None when nothing does.

    It must be a real directory of our own user that nobody else can write to.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory"
    if os.name == "posix":
        if status.st_uid != os.geteuid():
            return "it belongs to another user"
        if status.st_mode & _WRITABLE_BY_OTHERS:
            return "other users can write to it"
    return None


def _unusable(path: Path) -> str | None:
    trouble = _unwritable(path)
    return private_trouble(path) or trouble if path.exists() else trouble


def _unwritable(path: Path) -> str | None:
    """Why no file can be made in `path`, which is made if it is missing."""
    try:
        make_private_directory(path)
        # A real file: permission bits say nothing about read-only mounts, quotas or root.
        fd, probe = tempfile.mkstemp(prefix=".z4j-probe-", dir=path)
    except OSError as error:
        return f"it cannot be written to ({error.strerror})"
    os.close(fd)
    with contextlib.suppress(OSError):  # written it was, and that was the question
        Path(probe).unlink()
    return None


def _relocate(wanted: str, reason: str) -> StateDirectory:
    parent = Path(tempfile.gettempdir())
    path = parent / f"z4j-{_account()}"
    durable = True
    try:
        if not _claim_temporary(path):
            path = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=parent))
            durable = False
    except OSError as error:
        raise OutboxError(
            f"state directory {wanted}: {reason}, and {parent} cannot be used either "
            f"({error.strerror}); set Z4J_HOME to a directory of your own"
        ) from None
    warning = f"state directory {wanted}: {reason}; using {path} instead, set Z4J_HOME to change it"
    if not durable:
        warning += (
            f" ({parent / f'z4j-{_account()}'} is not safe to use: every start gets another "
            "directory, and what is undelivered at exit is not found again)"
        )
    return StateDirectory(
        path=path.resolve(), relocated=True, reason=reason, durable=durable, warning=warning
    )


def _claim_temporary(path: Path) -> bool:
    """Make `path`, or see that it is ours and private; False if somebody may have planted it."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return False
        if os.name != "posix":
            return True
        if status.st_uid != os.geteuid() or status.st_mode & _ANY_ACCESS_OF_OTHERS:
            return False
        return _unwritable(path) is None
    path.chmod(0o700)
    return True


def _account() -> str:
    if os.name == "posix":
        return str(os.geteuid())
    return re.sub(r"[^A-Za-z0-9._-]", "_", getpass.getuser())[:32]
