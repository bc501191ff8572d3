"""What the runtime needs of an outbox: append on any thread, read and acknowledge on the loop.

A *lane* is one ordered stream of records with a cursor. A *source* is one worker's directory: our
own, or a dead sibling's that was adopted. Events and command results travel in lanes of their own,
so that results can overtake events and are never evicted with them (design.md 4).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class RecordKind(enum.IntEnum):
    """What a record is; the numbers are on disk."""

    EVENT = 1
    RESULT = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One stored record. `number` rises by one a record within its lane."""

    number: int
    payload: bytes


class Lane(Protocol):
    """One ordered stream. All methods are called from the agent's loop thread only."""

    @property
    def acknowledged(self) -> int:
        """Number up to which the brain has everything; reading starts after it."""
        ...

    @property
    def last(self) -> int:
        """Number of the newest record; equals `acknowledged` when nothing is pending."""
        ...

    @property
    def pending(self) -> int:
        """Records not yet acknowledged."""
        ...

    def read(self, after: int, *, max_records: int, max_bytes: int) -> list[Record]:
        """Records with a number above `after`, in order, from memory or disk.

        Gaps (evicted or corrupt records) are skipped and were counted.

        Args:
            after: Number of the last record already taken.
            max_records: At most this many.
            max_bytes: Payload bytes at most; the first record is returned whatever its size.
        """
        ...

    def acknowledge(self, up_to: int) -> None:
        """Forget everything up to and including `up_to`, durably."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One worker's records. `results` is None where they belong to another agent's token."""

    name: str
    own: bool
    events: Lane
    results: Lane | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxDepth:
    """How much waits, in our own and in adopted directories."""

    events: int
    results: int
    bytes: int
    oldest_age_seconds: float


class Outbox(Protocol):
    """Durable store of what the brain has not acknowledged."""

    @property
    def directory(self) -> Path:
        """The worker directory in use; after `open`."""
        ...

    def open(self) -> None:
        """Create or take the directory, lock it, cut torn tails. Idempotent.

        Raises:
            OutboxError: No directory can be used at all.
        """
        ...

    def append(self, kind: RecordKind, payload: bytes) -> bool:
        """Store one record; on return the operating system has its bytes. Any thread.

        Returns:
            False if the record was lost (counted by reason); with the disk full it goes to a
            bounded memory ring and True is returned.
        Raises:
            OutboxError: Empty or too large, or the outbox is closed. Nothing was written.
        """
        ...

    def sources(self) -> Sequence[Source]:
        """Our own source first, then adopted ones."""
        ...

    def adopt(self) -> int:
        """Take over directories of dead siblings of this deployment; returns how many are new.

        Blocking file work: call it off the loop.
        """
        ...

    def release(self, source: Source) -> None:
        """Remove an adopted source whose lanes are drained."""
        ...

    def depth(self) -> OutboxDepth:
        """What waits now. Cheap; any thread."""
        ...

    def close(self) -> None:
        """Flush, unlock, and remove the directory if nothing is pending. Idempotent."""
        ...

    def reinit_after_fork(self) -> None:
        """In a forked child: close inherited descriptors; the next append opens a new directory."""
        ...
