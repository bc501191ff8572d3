"""Replay protection of one direction of one session: clock skew, sequence, nonces."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

from z4j_fastapi.protocol.violations import violation

MAX_SKEW = timedelta(seconds=60)
NONCE_WINDOW = timedelta(seconds=180)
NONCE_LIMIT = 4_096


class ReplayGuard:
    """Remembers what was accepted. Ask it only about frames whose signature holds."""

    __slots__ = ("_last_seq", "_recent", "_seen")

    def __init__(self) -> None:
        self._last_seq = 0
        self._seen: set[str] = set()
        self._recent: deque[tuple[datetime, str]] = deque()

    @property
    def last_seq(self) -> int:
        """Sequence number of the last accepted frame; 0 before the first."""
        return self._last_seq

    def __len__(self) -> int:
        """How many nonces are remembered; at most `NONCE_LIMIT`."""
        return len(self._recent)

    def accept(self, *, seq: int, nonce: str, ts: datetime, now: datetime) -> None:
        """Let a frame pass once. A refused one changes nothing.

        Args:
            seq: The frame's number; must rise strictly.
            nonce: Must not have been seen in the last 180 s.
            ts: The frame's aware time; at most 60 s from `now`.
            now: Aware wall-clock time.
        Raises:
            RemoteProtocolError: `clock` or `replay`.
        Spec: wire-protocol.md 2, "Receiving".
        """
        skew = abs(now - ts)
        if skew > MAX_SKEW:
            raise violation(
                "clock",
                f"frame is {skew.total_seconds():.0f} s away from this host's clock; "
                "60 s are allowed",
            )
        if seq <= self._last_seq:
            raise violation("replay", "frame's seq does not rise: replayed or reordered")
        self._forget(now)
        if nonce in self._seen:
            raise violation("replay", "frame's nonce was used before")
        self._last_seq = seq
        self._seen.add(nonce)
        self._recent.append((now, nonce))
        if len(self._recent) > NONCE_LIMIT:
            # The rising seq still refuses a replay of a frame whose nonce is forgotten.
            self._seen.discard(self._recent.popleft()[1])

    def _forget(self, now: datetime) -> None:
        while self._recent and now - self._recent[0][0] > NONCE_WINDOW:
            self._seen.discard(self._recent.popleft()[1])
