"""Frames that are on the wire, and what their acknowledgement, or its absence, means."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.protocol.poison import PoisonTracker, Verdict

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.errors import TransportError
    from z4j_fastapi.outbox.base import Outbox, Source
    from z4j_fastapi.runtime.positions import Positions

#: Close codes that say "I did not like what you sent" (too big, malformed, internal error).
_CONTENT_CLOSE_CODES = frozenset({1003, 1007, 1009, 1011, 4400})
#: A brain with database trouble withholds acknowledgements too. Silence alone costs an event its
#: place only after this long.
_SILENCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One `event_batch` on the wire; a fence has no events.

    Args:
        frame_id: What the acknowledgement will name.
        source: Name of the outbox source; empty for a fence.
        first, last: Record numbers.
        count: Events in it.
        results: Number of the last result sent before it, by source.
    """

    frame_id: str
    source: str = ""
    first: int = 0
    last: int = 0
    count: int = 0
    results: dict[str, int]


class Deliveries:
    """The ledger of one runtime's unacknowledged frames. Agent's loop only.

    Args:
        outbox: Records are acknowledged there.
        positions: Set back where records must be sent again.
        clock: For the age of a suspicion.
        counters: Events that the brain will never have are counted.
        logger: And logged.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        positions: Positions,
        clock: Clock,
        counters: LossCounters,
        logger: structlog.stdlib.BoundLogger,
    ) -> None:
        self._outbox = outbox
        self._positions = positions
        self._clock = clock
        self._counters = counters
        self._logger = logger
        self._pending: deque[Delivery] = deque()
        self._poison = PoisonTracker()
        self._suspected_since: dict[str, float] = {}

    @property
    def pending(self) -> int:
        """Frames on the wire."""
        return len(self._pending)

    @property
    def oldest(self) -> Delivery | None:
        """The frame that must be acknowledged next."""
        return self._pending[0] if self._pending else None

    def add(self, delivery: Delivery) -> None:
        """A frame was handed to the network."""
        self._pending.append(delivery)

    def restart(self) -> None:
        """A new session: nothing is on the wire."""
        self._pending.clear()

    def limit(self, source: Source, after: int) -> int | None:
        """Most records for the next batch of a source, while one of its batches is suspect."""
        return self._poison.limit(source.name, after + 1)

    def acknowledged(self, frame_id: str) -> Delivery | None:
        """The brain handled this frame, and so every frame before it.

        Batches before it that it did not acknowledge are sent again, or given up.

        Returns:
            The acknowledged frame, None when it is not on the wire.
        """
        if not any(delivery.frame_id == frame_id for delivery in self._pending):
            return None
        sources = {source.name: source for source in self._outbox.sources()}
        withheld: set[str] = set()
        while True:
            delivery = self._pending.popleft()
            if delivery.frame_id == frame_id:
                break
            if delivery.count and delivery.source not in withheld:
                withheld.add(delivery.source)
                self._suspect(delivery, sources.get(delivery.source), proof=False)
        self._settle(delivery, sources, withheld)
        if withheld:
            self._send_again(withheld, sources)
        self._release_drained(sources)
        return delivery

    def in_flight(self, source: Source) -> int:
        """Events of a source that are on the wire."""
        return sum(delivery.count for delivery in self._pending if delivery.source == source.name)

    def give_up(self, source: Source, number: int) -> None:
        """Drop an event that the brain will never have, with nothing of its source before it."""
        source.events.acknowledge(number)
        self._poison.acknowledged(source.name, number)
        self._suspected_since.pop(source.name, None)
        self._counters.add(LossReason.CONTENT_REJECTED)
        self._logger.error("event_dropped", reason=LossReason.CONTENT_REJECTED.value, record=number)

    def session_ended(self, error: TransportError) -> None:
        """Suspect the oldest batch when the brain choked on what we sent, or fell silent."""
        head = next((delivery for delivery in self._pending if delivery.count), None)
        proof = error.close_code in _CONTENT_CLOSE_CODES
        if head is not None and (proof or error.details.get("reason") == "stalled"):
            sources = {source.name: source for source in self._outbox.sources()}
            self._suspect(head, sources.get(head.source), proof=proof)
        self._pending.clear()

    def _send_again(self, withheld: set[str], sources: dict[str, Source]) -> None:
        for name in withheld:
            if (source := sources.get(name)) is not None:
                self._positions.resend_events(source)
        # What is still on the wire behind a withheld batch must not cover it when it is
        # acknowledged, since that is cumulative: it is sent again as well.
        self._pending = deque(
            replace(later, source="", count=0) if later.source in withheld else later
            for later in self._pending
        )

    def _settle(self, delivery: Delivery, sources: dict[str, Source], withheld: set[str]) -> None:
        source = sources.get(delivery.source)
        # Acknowledgements are cumulative in a lane: one behind a withheld batch must wait.
        if delivery.count and source is not None and delivery.source not in withheld:
            source.events.acknowledge(delivery.last)
            self._poison.acknowledged(delivery.source, delivery.last)
            self._suspected_since.pop(delivery.source, None)
        for name, number in delivery.results.items():
            answered = sources.get(name)
            if (
                answered is not None
                and answered.results is not None
                and number > answered.results.acknowledged
            ):
                answered.results.acknowledge(number)

    def _suspect(self, delivery: Delivery, source: Source | None, *, proof: bool) -> None:
        now = self._clock.monotonic()
        since = self._suspected_since.setdefault(delivery.source, now)
        verdict = self._poison.unacknowledged(
            delivery.source, first=delivery.first, last=delivery.last, count=delivery.count
        )
        if verdict is not Verdict.DROP or source is None:
            return
        if not proof and now - since < _SILENCE_SECONDS:
            return
        self.give_up(source, delivery.last)

    def _release_drained(self, sources: dict[str, Source]) -> None:
        for source in sources.values():
            if source.own or source.events.pending:
                continue
            if source.results is not None and source.results.pending:
                continue
            self._positions.forget(source)
            self._poison.forget(source.name)
            self._suspected_since.pop(source.name, None)
            self._outbox.release(source)
