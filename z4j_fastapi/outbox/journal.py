"""The durable journal of command claims: what makes a command run at most once.

One SQLite database for all processes of a deployment on this host, since a redelivered command may
reach a sibling or the next start. A claim is a transaction of its own, on the disk before `claim`
returns (WAL with `synchronous=FULL`), whatever `buffer_sync` says.

A claim names its owner: a file that the claiming process keeps locked for its life. (Not the lock
of the outbox directory: that changes hands when the directory is adopted.) A claim whose owner's
file is not locked was interrupted by a crash; who finds it so becomes its owner, and is the only
one told.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import os
import re
import secrets
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from z4j_fastapi.clock import Clock
from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox.files import Descriptor, make_private_directory, open_private
from z4j_fastapi.outbox.flock import is_locked, lock_exclusively, try_lock
from z4j_fastapi.outbox.trouble import EventLogger, TroubleLog

if TYPE_CHECKING:
    import sqlite3

_KEEP_SECONDS = 7 * 24 * 3600.0
_KEEP_COMMANDS = 50_000
_PRUNE_EVERY = 500
_BUSY_SECONDS = 5.0
_DAMAGED = ".damaged"
_DATABASE = re.compile(r"commands-(\d+)\.sqlite(\.damaged)?")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS command (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    command_id TEXT NOT NULL,
    agent_tag TEXT NOT NULL,
    action TEXT NOT NULL,
    claim_token TEXT,
    owner TEXT NOT NULL,
    claimed_at REAL NOT NULL,
    result BLOB
);
CREATE TABLE IF NOT EXISTS identity (
    text TEXT PRIMARY KEY,
    command INTEGER NOT NULL REFERENCES command (id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS command_claimed_at ON command (claimed_at);
CREATE INDEX IF NOT EXISTS command_unfinished ON command (agent_tag) WHERE result IS NULL;
CREATE INDEX IF NOT EXISTS identity_command ON identity (command);
"""
_SCHEMA_VERSION = 1
_CREATE = f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
_FIND = """
SELECT command.id, owner, claim_token, action, result
FROM identity JOIN command ON command.id = identity.command
WHERE identity.text = ?
"""


class ClaimState(str, enum.Enum):
    """What a claim found."""

    NEW = "new"  # nobody had it: run it, then `finish`
    FINISHED = "finished"  # answer the stored result again
    RUNNING = "running"  # its owner lives, maybe in another process, and will answer
    INTERRUPTED = "interrupted"  # its owner died over it: answer "outcome unknown", then `finish`


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Answer to `CommandJournal.claim`.

    Args:
        state: What to do.
        claim_token: The token of the first delivery, to be echoed in acknowledgement and result.
        action: The action it was claimed for.
        result: What `finish` stored; None unless finished.
    """

    state: ClaimState
    claim_token: str | None
    action: str
    result: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A command whose process died over it, and which nobody has answered.

    Args:
        command_id: The command's id.
        identities: Everything it was claimed under.
        claim_token: The token of its first delivery.
    """

    command_id: str
    identities: tuple[str, ...]
    claim_token: str | None


class CommandJournal:
    """Claims of commands, durable and atomic across processes. Any thread; calls block for a sync.

    A forked child opens the database anew at its first call, and is another owner.

    Args:
        base: Directory of the deployment; the journal lies in its subdirectory `journal`.
        agent_tag: `AgentSettings.agent_tag`: only this agent may answer what it claimed.
        clock: Source of time.
        logger: Where trouble is told; None for nowhere.
    Spec: design.md section 6, dispatcher; commands.md section 12.
    """

    def __init__(
        self,
        base: Path,
        *,
        clock: Clock,
        agent_tag: str = "",
        logger: EventLogger | None = None,
    ) -> None:
        self._agent_tag = agent_tag
        self._directory = base / "journal"
        self._path: Path | None = None
        self._owners = self._directory / "owners"
        self._clock = clock
        self._trouble = TroubleLog(logger)
        self._locks: dict[int, threading.RLock] = {}  # one a process: forks copy held locks
        self._pid = 0
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None  # device and inode of the open database
        self._owner = ""
        self._owner_file: Descriptor | None = None
        self._suspect = False  # the database was found malformed: check it when it is next opened
        self._until_prune = 0
        self._inherited: list[sqlite3.Connection] = []

    def open(self) -> None:
        """Load SQLite and open the database now. Idempotent; `claim` does it otherwise.

        Raises:
            OutboxError: It cannot be opened.
        """
        with self._database():
            pass

    def claim(self, identities: Sequence[str], *, action: str, claim_token: str | None) -> Claim:
        """Claim a command before it is run; on return the claim is on the disk.

        Args:
            identities: Everything that makes a redelivery the same command: its id, `fire:<id>`
                and the like, at least one. Any one seen before makes it the same.
            action: The action, for the record.
            claim_token: The delivery's token.
        Raises:
            OutboxError: No claim can be stored: the command must be refused, never run.
        """
        with self._database() as connection, _transaction(connection):
            known = self._find(connection, identities)
            if known is None:
                self._insert(connection, identities, action, claim_token)
                return Claim(state=ClaimState.NEW, claim_token=claim_token, action=action)
            number, owner, stored_token, stored_action, result = known
            _name(connection, number, identities)
            state = ClaimState.FINISHED
            if result is None:
                state = ClaimState.RUNNING
                if owner != self._owner and not self._lives(owner):
                    connection.execute(
                        "UPDATE command SET owner = ? WHERE id = ?", (self._owner, number)
                    )
                    state = ClaimState.INTERRUPTED
            return Claim(state=state, claim_token=stored_token, action=stored_action, result=result)

    def finish(self, identities: Sequence[str], result: bytes) -> None:
        """Store a command's result; on return it is on the disk. The first result stays.

        Args:
            identities: As they were claimed; a command that was never claimed is ignored.
            result: What to answer from now on.
        Raises:
            OutboxError: It cannot be stored: a redelivery will be told that the outcome is unknown.
        """
        with self._database() as connection, _transaction(connection):
            known = self._find(connection, identities)
            if known is not None:
                connection.execute(
                    "UPDATE command SET result = ? WHERE id = ? AND result IS NULL",
                    (result, known[0]),
                )

    def preload(self) -> None:
        """Load SQLite, on the caller's thread; nothing is opened."""
        importlib.import_module("sqlite3")

    def interrupted(self) -> list[Interrupted]:
        """This agent's commands whose process died over them; each is told to one caller only.

        The brain does not send a command again over a WebSocket, so somebody must answer these.

        Raises:
            OutboxError: The database cannot be read.
        """
        if not self._directory.is_dir():
            return []
        found: list[Interrupted] = []
        with self._database() as connection, _transaction(connection):
            rows = connection.execute(
                "SELECT id, owner, claim_token, command_id FROM command "
                "WHERE result IS NULL AND agent_tag = ?",
                (self._agent_tag,),
            ).fetchall()
            for number, owner, claim_token, command_id in rows:
                if owner == self._owner or self._lives(owner):
                    continue
                connection.execute(
                    "UPDATE command SET owner = ? WHERE id = ?", (self._owner, number)
                )
                names = connection.execute(
                    "SELECT text FROM identity WHERE command = ?", (number,)
                ).fetchall()
                found.append(
                    Interrupted(
                        command_id=command_id,
                        identities=tuple(name for (name,) in names),
                        claim_token=claim_token,
                    )
                )
        return found

    def close(self) -> None:
        """Close the database. Idempotent. What still runs counts as interrupted from here on."""
        self._leave_parent()
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            owner_file, self._owner_file = self._owner_file, None
            if owner_file is not None:
                with contextlib.suppress(OSError):  # left behind unlocked: the same meaning
                    (self._owners / self._owner).unlink()
                owner_file.close()

    def reinit_after_fork(self) -> None:
        """In a forked child: let go of the parent's database and owner file."""
        self._leave_parent()

    @property
    def _lock(self) -> threading.RLock:
        return self._locks.setdefault(os.getpid(), threading.RLock())  # setdefault is atomic

    def _leave_parent(self) -> None:
        pid = os.getpid()
        if self._pid in {0, pid}:
            return
        with self._lock:
            if self._pid in {0, pid}:
                return
            if self._connection is not None:
                # Never closed in a child: SQLite forbids any use of a connection across a fork.
                self._inherited.append(self._connection)
                self._connection = None
            if self._owner_file is not None:
                self._owner_file.close()
                self._owner_file = None
            self._pid = 0

    @contextmanager
    def _database(self) -> Generator[sqlite3.Connection, None, None]:
        """The open database, with every trouble turned into `OutboxError`."""
        import sqlite3  # noqa: PLC0415 - 3 ms that only processes with commands have to pay

        self._leave_parent()
        with self._lock:
            try:
                if self._connection is not None and not self._is_current():
                    self._connection.close()
                    self._connection = None
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except (OSError, sqlite3.Error) as error:
                if _is_damage(error) and self._connection is not None:
                    self._suspect = True  # looked into, and set aside, when it is next opened
                    self._connection.close()
                    self._connection = None
                raise OutboxError(f"command journal {self._directory}: {error}") from error

    def _is_current(self) -> bool:
        """Whether the open file still has its name: a sibling may have set it aside as damaged."""
        return self._path is not None and _file_identity(self._path) == self._identity

    def _open(self) -> sqlite3.Connection:
        import sqlite3  # noqa: PLC0415 - loaded by the caller

        make_private_directory(self._owners)
        guard = open_private(self._directory / "lock", os.O_RDWR | os.O_CREAT)
        try:
            lock_exclusively(guard)  # one process at a time decides what is dead or damaged
            if self._owner_file is None:
                self._become_owner()
            try:
                return self._connect(self._newest())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside(self._newest(), error)
                return self._connect(self._newest())
        finally:
            guard.close()

    def _become_owner(self) -> None:
        for entry in self._owners.iterdir():
            if not is_locked(entry):
                entry.unlink(missing_ok=True)  # dead; a claim that names it is interrupted
        self._owner = secrets.token_hex(12)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._owner_file = open_private(self._owners / self._owner, flags)
        self._pid = os.getpid()
        try_lock(self._owner_file)

    def _newest(self) -> Path:
        """The database in use. Each that is set aside is followed by one with a new name.

        A process that still has the old one open deletes its log by name when it closes it.
        """
        newest, damaged = 0, 0
        for entry in self._directory.iterdir():
            if match := _DATABASE.fullmatch(entry.name):
                if match[2]:
                    damaged = max(damaged, int(match[1]))
                else:
                    newest = max(newest, int(match[1]))
        return self._directory / f"commands-{max(newest, damaged + 1)}.sqlite"

    def _connect(self, path: Path) -> sqlite3.Connection:
        import sqlite3  # noqa: PLC0415 - loaded by the caller

        # Made by us for its mode, which the log files inherit; never opened by us once it exists:
        # closing any descriptor of a file drops the locks that SQLite holds on it.
        with contextlib.suppress(FileExistsError):
            open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL).close()
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            if connection.execute("PRAGMA user_version").fetchone() != (_SCHEMA_VERSION,):
                connection.executescript(_CREATE)  # one transaction, so one sync
            if self._suspect:
                _check(connection)
        except BaseException:
            connection.close()
            raise
        self._path = path
        self._identity = _file_identity(path)
        self._suspect = False
        return connection

    def _set_aside(self, path: Path, error: Exception) -> None:
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(
                    path.with_name(f"{path.name}{_DAMAGED}{suffix}")
                )
        self._trouble.warning(
            "command_journal_damaged",
            path=str(path),
            moved_to=path.name + _DAMAGED,
            error=str(error),
        )
        self._suspect = False

    def _find(
        self, connection: sqlite3.Connection, identities: Sequence[str]
    ) -> tuple[int, str, str | None, str, bytes | None] | None:
        """The command that has one of the identities; of several, one that is finished."""
        found: tuple[int, str, str | None, str, bytes | None] | None = None
        for identity in identities:
            row = connection.execute(_FIND, (identity,)).fetchone()
            if row is not None and (found is None or found[4] is None):
                found = row
        return found

    def _insert(
        self,
        connection: sqlite3.Connection,
        identities: Sequence[str],
        action: str,
        claim_token: str | None,
    ) -> None:
        now = self._clock.now().timestamp()
        self._until_prune -= 1
        if self._until_prune < 0:
            self._until_prune = _PRUNE_EVERY
            _prune(connection, now)
        number = connection.execute(
            "INSERT INTO command (command_id, agent_tag, action, claim_token, owner, claimed_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (identities[0], self._agent_tag, action, claim_token, self._owner, now),
        ).lastrowid
        _name(connection, number, identities)

    def _lives(self, owner: str) -> bool:
        return is_locked(self._owners / owner)


def _name(connection: sqlite3.Connection, number: int | None, identities: Sequence[str]) -> None:
    """Let each of the identities stand for the command; one that stands for another stays so."""
    connection.executemany(
        "INSERT OR IGNORE INTO identity (text, command) VALUES (?, ?)",
        [(identity, number) for identity in identities],
    )


def _prune(connection: sqlite3.Connection, now: float) -> None:
    """Forget what is older than 7 days, and finished commands beyond the newest 50,000."""
    doomed = (
        "SELECT id FROM command WHERE claimed_at < ? OR (result IS NOT NULL AND id <= "
        "(SELECT id FROM command ORDER BY id DESC LIMIT 1 OFFSET ?))"
    )
    values = (now - _KEEP_SECONDS, _KEEP_COMMANDS)
    connection.execute(f"DELETE FROM identity WHERE command IN ({doomed})", values)  # noqa: S608 - constants
    connection.execute(f"DELETE FROM command WHERE id IN ({doomed})", values)  # noqa: S608 - constants


def _check(connection: sqlite3.Connection) -> None:
    import sqlite3  # noqa: PLC0415 - loaded by the caller

    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != ("ok",):
        raise sqlite3.DatabaseError(verdict[0])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is no sound database; its subclasses say other things."""
    return type(error).__name__ == "DatabaseError"


def _file_identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
