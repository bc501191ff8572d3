"""Batches that the brain never acknowledges: split them until the one bad event stands alone.

Batches are acknowledged in order, so only the oldest unacknowledged batch of a connection is
suspect; those behind it were never looked at. A suspect is known by its source and first record:
its other end moves, because batch sizes follow the brain's pace.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: Deliveries without an acknowledgement before a batch is split or an event dropped.
MAX_DELIVERIES = 3


class Verdict(enum.Enum):
    """What to do with a batch that was delivered in vain."""

    RESEND = "resend"
    SPLIT = "split"  # send it again in batches of at most `PoisonTracker.limit`
    DROP = "drop"  # the one event in it: acknowledge it, count `content_rejected`


@dataclass(slots=True, kw_only=True)
class _Suspect:
    first: int  # record number the batch began with
    until: int  # last record number of the batch that first failed
    deliveries: int = 0
    limit: int | None = None  # events a batch may hold until `until` is acknowledged


class PoisonTracker:
    """Remembers, per source, the batch that failed last. Lives as long as the runtime.

    Use:

        before reading a batch   `limit(source, first)` caps its number of records
        connection lost          `unacknowledged(...)` for the oldest batch in flight, if the
                                 session was live: it had acknowledged something else (a fence
                                 counts), so that a brain in trouble is not blamed on the events
        batch acknowledged       `acknowledged(source, last)`; also after dropping an event

    Spec: wire-protocol.md 4, last paragraph.
    """

    __slots__ = ("_suspects",)

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}

    def limit(self, source: str, first: int) -> int | None:
        """Most records for a batch that begins with record `first`; None for no limit."""
        suspect = self._suspects.get(source)
        if suspect is None or first > suspect.until:
            return None
        return suspect.limit

    def unacknowledged(self, source: str, *, first: int, last: int, count: int) -> Verdict:
        """The oldest batch in flight was delivered on a live session and not acknowledged.

        Args:
            source: Name of the outbox source.
            first: Number of the batch's first record.
            last: Number of its last record.
            count: Events in it, at least 1.
        Returns:
            What to do with it on the next session.
        """
        suspect = self._suspects.get(source)
        if suspect is None or first > suspect.until:
            suspect = self._suspects[source] = _Suspect(first=first, until=last)
        elif first != suspect.first:
            # A later part of a batch that was split: a count of its own.
            suspect.first = first
            suspect.deliveries = 0
        suspect.deliveries += 1
        if suspect.deliveries < MAX_DELIVERIES:
            return Verdict.RESEND
        suspect.deliveries = 0
        if count == 1:
            return Verdict.DROP
        suspect.limit = count // 2
        return Verdict.SPLIT

    def acknowledged(self, source: str, last: int) -> None:
        """Everything of `source` up to record `last` is settled."""
        suspect = self._suspects.get(source)
        if suspect is not None and last >= suspect.until:
            del self._suspects[source]

    def forget(self, source: str) -> None:
        """The source is gone: drained and released."""
        self._suspects.pop(source, None)
