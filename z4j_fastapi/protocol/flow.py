"""How much may be unacknowledged: a congestion controller that counts in time.

The brain handles the frames of one connection one after another, and an event may cost it 10 ms or
10 us. So the window is about one second of *its* work, measured from its acknowledgements: a fast
brain is fed without pause, and a command result never waits behind a minute of events.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

#: Most events in one batch.
MAX_BATCH_EVENTS = 500
#: Most event bytes in flight.
MAX_IN_FLIGHT_BYTES = 1_048_576

# A window holds this many batches, so that one is handled while the next ones travel.
_PIPELINE = 3
# How fast old measurements fade, in seconds of the brain's work.
_MEMORY_SECONDS = 1.0
# Before the first measurement, and never less: half a second of work for a brain on SQLite.
_MIN_WINDOW_EVENTS = 48
_MIN_WINDOW_BYTES = 65_536
_MIN_BATCH_EVENTS = 16
_MIN_BATCH_BYTES = 16_384
# Acknowledgements that come in one gulp took no measurable time.
_SHORTEST_SECONDS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What one acknowledgement settled.

    Args:
        frame_id: The acknowledged frame.
        events: Events in it.
        latency_seconds: From sending to acknowledgement.
        withheld: Frames sent before it that the brain handled without acknowledging them: send
            their events again.
    """

    frame_id: str
    events: int
    latency_seconds: float
    withheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _InFlight:
    frame_id: str
    events: int
    size_bytes: int
    sent_at: float


class FlowController:
    """Watches one connection's batches; `now` is monotonic time in seconds throughout.

    Args:
        max_frame_size_bytes: The brain's limit; a batch takes at most half of it.
        target_seconds: Work to keep in flight.
        stall_seconds: Longest wait for progress.
    Spec: wire-protocol.md 4, design.md 5.
    """

    __slots__ = (
        "_busy_seconds",
        "_bytes",
        "_bytes_done",
        "_events",
        "_events_done",
        "_frame_bytes",
        "_frames",
        "_progress_at",
        "_stall_seconds",
        "_target_seconds",
    )

    def __init__(
        self,
        *,
        max_frame_size_bytes: int = 1_048_576,
        target_seconds: float = 1.0,
        stall_seconds: float = 30.0,
    ) -> None:
        self._frame_bytes = max(max_frame_size_bytes // 2, 1)
        self._target_seconds = target_seconds
        self._stall_seconds = stall_seconds
        self._frames: deque[_InFlight] = deque()
        self._events = 0
        self._bytes = 0
        self._progress_at = 0.0
        # Sums that fade with the brain's working time; their ratios are the rates.
        self._events_done = 0.0
        self._bytes_done = 0.0
        self._busy_seconds = 0.0

    @property
    def in_flight_events(self) -> int:
        """Events sent and not acknowledged."""
        return self._events

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the events sent and not acknowledged."""
        return self._bytes

    @property
    def in_flight_frames(self) -> int:
        """Batches sent and not acknowledged, fences included."""
        return len(self._frames)

    @property
    def stalled_since(self) -> float | None:
        """When there last was progress; None while nothing is in flight.

        Progress is an acknowledgement, or sending while nothing was in flight: a slow brain that
        works is never taken for a dead one.
        """
        return self._progress_at if self._frames else None

    @property
    def deadline(self) -> float | None:
        """When to give the connection up for lack of progress; None while nothing is in flight."""
        return self._progress_at + self._stall_seconds if self._frames else None

    def events_per_second(self, now: float) -> float | None:
        """The brain's pace; None before the first acknowledgement of events."""
        rates = self._rates(now)
        return rates[0] if rates is not None else None

    def sent(self, frame_id: str, events: int, size_bytes: int, now: float) -> None:
        """A batch was handed to the network.

        Args:
            frame_id: The id that its acknowledgement will name.
            events: How many; 0 for a fence.
            size_bytes: Their bytes together.
            now: Monotonic seconds.
        """
        if not self._frames:
            self._progress_at = now
        self._frames.append(
            _InFlight(frame_id=frame_id, events=events, size_bytes=size_bytes, sent_at=now)
        )
        self._events += events
        self._bytes += size_bytes

    def acked(self, frame_id: str, now: float) -> Acknowledgement | None:
        """The brain acknowledged a batch.

        Args:
            frame_id: As the brain names it.
            now: Monotonic seconds.
        Returns:
            What it settled; None for a frame that is not in flight, which changes nothing.
        """
        if not any(frame.frame_id == frame_id for frame in self._frames):
            return None
        withheld: list[str] = []
        handled_events = handled_bytes = 0
        while True:
            frame = self._frames.popleft()
            handled_events += frame.events
            handled_bytes += frame.size_bytes
            if frame.frame_id == frame_id:
                break
            withheld.append(frame.frame_id)
        self._events -= handled_events
        self._bytes -= handled_bytes
        if handled_events:
            # The brain began with the frame when it came, or when it was done with the one before.
            begun_at = max(self._progress_at, frame.sent_at) if not withheld else self._progress_at
            self._measure(handled_events, handled_bytes, max(now - begun_at, 0.0))
        self._progress_at = now
        return Acknowledgement(
            frame_id=frame_id,
            events=frame.events,
            latency_seconds=now - frame.sent_at,
            withheld=tuple(withheld),
        )

    def next_batch_limits(self, now: float) -> tuple[int, int] | None:
        """How large the next batch may be.

        Args:
            now: Monotonic seconds.
        Returns:
            Most events and most event bytes; None: wait for an acknowledgement. With nothing in
            flight there is always a limit. (A single event above the bytes may still go alone.)
        """
        window_events, window_bytes = self._window(now)
        batch_events = min(
            max(math.ceil(window_events / _PIPELINE), _MIN_BATCH_EVENTS), MAX_BATCH_EVENTS
        )
        batch_bytes = min(max(window_bytes // _PIPELINE, _MIN_BATCH_BYTES), self._frame_bytes)
        if not self._frames:
            return batch_events, batch_bytes
        room_events = window_events - self._events
        room_bytes = window_bytes - self._bytes
        # Half a batch or nothing: many tiny batches cost the brain twice as much an event.
        if room_events * 2 < batch_events or room_bytes * 2 < batch_bytes:
            return None
        return min(batch_events, room_events), min(batch_bytes, room_bytes)

    def reset(self) -> None:
        """A new connection: nothing is in flight. The measured pace is kept as the first guess."""
        self._frames.clear()
        self._events = 0
        self._bytes = 0

    def _measure(self, events: int, size_bytes: int, busy_seconds: float) -> None:
        fade = math.exp(-busy_seconds / _MEMORY_SECONDS)
        self._events_done = self._events_done * fade + events
        self._bytes_done = self._bytes_done * fade + size_bytes
        self._busy_seconds = self._busy_seconds * fade + busy_seconds

    def _rates(self, now: float) -> tuple[float, float] | None:
        """Events and bytes a second; lower the longer the brain sits on the oldest batch."""
        if not self._events_done:
            return None
        busy = max(self._busy_seconds, _SHORTEST_SECONDS)
        events, size_bytes = self._events_done, self._bytes_done
        if self._frames:
            expected = self._frames[0].events * busy / events
            overdue = now - self._progress_at - expected
            if overdue > 0:
                fade = math.exp(-overdue / _MEMORY_SECONDS)
                events *= fade
                size_bytes *= fade
                busy = busy * fade + overdue
        return events / busy, size_bytes / busy

    def _window(self, now: float) -> tuple[int, int]:
        rates = self._rates(now)
        if rates is None:
            return _MIN_WINDOW_EVENTS, _MIN_WINDOW_BYTES
        events = max(int(rates[0] * self._target_seconds), _MIN_WINDOW_EVENTS)
        size_bytes = max(int(rates[1] * self._target_seconds), _MIN_WINDOW_BYTES)
        return events, min(size_bytes, MAX_IN_FLIGHT_BYTES)
