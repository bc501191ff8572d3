"""How long to wait before the next connection attempt, by class of failure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from z4j_fastapi.errors import Failure

#: Where the bounds leave no room, this much of the wait is added as room for jitter.
_SPREAD = 1.25
_MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    first_seconds: float
    cap_seconds: float


_TRANSIENT = _Curve(first_seconds=1.0, cap_seconds=30.0)
_CURVES: Mapping[Failure, _Curve] = {
    Failure.TRANSIENT: _TRANSIENT,
    Failure.IDLE: _TRANSIENT,
    Failure.DISPLACED: _TRANSIENT,
    Failure.THROTTLED: _Curve(first_seconds=30.0, cap_seconds=120.0),
    Failure.AUTH: _Curve(first_seconds=10.0, cap_seconds=600.0),
    Failure.PROTOCOL: _Curve(first_seconds=30.0, cap_seconds=900.0),
    Failure.TERMINAL: _Curve(first_seconds=3_600.0, cap_seconds=3_600.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaks:
    """Failures since the last progress, as `agent_status` reports them."""

    auth: int
    protocol: int
    connection: int


class Backoff:
    """Counts failures by class and turns them into delays with full jitter.

    The n-th failure of a class waits between the class's first delay and `first * 2**n`, at most
    its cap, any value as likely as another: a fleet that lost its brain does not come back at once.

        transient, displaced    1 s to 30 s
        idle                    at once, then as transient
        throttled               30 s to 2 min
        auth                    10 s to 10 min
        protocol                30 s to 15 min
        terminal                1 h

    A frame of the brain's that failed its checks counts as transient: whoever can inject bytes must
    not be able to keep the agent away for long.

    Args:
        rng: Source of the jitter; seeded by tests.
    Spec: wire-protocol.md 1 and 2, "Receiving".
    """

    __slots__ = ("_counts", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._counts: dict[Failure, int] = dict.fromkeys(Failure, 0)

    @property
    def streaks(self) -> Streaks:
        """Failures by group since the last `reset`."""
        counts = self._counts
        return Streaks(
            auth=counts[Failure.AUTH],
            protocol=counts[Failure.PROTOCOL] + counts[Failure.TERMINAL],
            connection=counts[Failure.TRANSIENT]
            + counts[Failure.IDLE]
            + counts[Failure.DISPLACED]
            + counts[Failure.THROTTLED],
        )

    def next_delay(self, failure: Failure, *, minimum_seconds: float = 0.0) -> float:
        """Count one failure and say how long to wait.

        Args:
            failure: Its class.
            minimum_seconds: Wait at least this long, such as a `Retry-After` or
                `Verdict.minimum_seconds`.
        Returns:
            Seconds.
        """
        self._counts[failure] += 1
        streak = self._counts[failure]
        if failure is Failure.IDLE:
            if streak == 1:
                return minimum_seconds
            streak -= 1
        curve = _CURVES[failure]
        low = max(curve.first_seconds, minimum_seconds)
        grown = curve.first_seconds * 2.0 ** min(streak, _MAX_DOUBLINGS)
        return self._rng.uniform(low, max(min(grown, curve.cap_seconds), low * _SPREAD))

    def reset(self) -> None:
        """Start over: a session proved itself.

        Call it when an `event_batch` was acknowledged (an empty one will do) or a command verified,
        not after the handshake: with a wrong `hmac_secret` every handshake succeeds and every
        signed frame is refused.
        """
        self._counts = dict.fromkeys(Failure, 0)
