"""How far each source was sent on the current session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from z4j_fastapi.outbox.base import Source


@dataclass(slots=True)
class Position:
    """Numbers of the last event and the last result sent of one source."""

    events: int
    results: int


class Positions:
    """What of the outbox is not on the wire yet. Agent's loop only.

    Args:
        sources: The outbox's sources now, our own first.
    """

    def __init__(self, sources: Callable[[], Sequence[Source]]) -> None:
        self._sources = sources
        self._positions: dict[str, Position] = {}
        self._turn = 0

    def restart(self) -> None:
        """A new session: everything unacknowledged is to be sent again."""
        self._positions.clear()

    def of(self, source: Source) -> Position:
        """How far `source` was sent; begins behind what was acknowledged."""
        position = self._positions.get(source.name)
        if position is None:
            position = self._positions[source.name] = Position(
                events=source.events.acknowledged,
                results=source.results.acknowledged if source.results is not None else 0,
            )
        return position

    def forget(self, source: Source) -> None:
        """The source is gone, or is to be sent again from its last acknowledged record."""
        self._positions.pop(source.name, None)

    def resend_events(self, source: Source) -> None:
        """Start again behind the last acknowledged event."""
        self.of(source).events = source.events.acknowledged

    def results_sent(self) -> dict[str, int]:
        """Number of the last result sent, by source."""
        return {name: position.results for name, position in self._positions.items()}

    def next_source(self) -> Source | None:
        """A source with unsent events; taken in turn, so that no backlog starves another."""
        sources = self._sources()
        for step in range(len(sources)):
            source = sources[(self._turn + step) % len(sources)]
            if source.events.last > self.of(source).events:
                self._turn = (self._turn + step + 1) % len(sources)
                return source
        return None

    @property
    def events_unsent(self) -> bool:
        """Whether any source has events that are not on the wire."""
        return any(source.events.last > self.of(source).events for source in self._sources())

    @property
    def results_unsent(self) -> bool:
        """Whether any source has results that are not on the wire."""
        return any(
            source.results is not None and source.results.last > self.of(source).results
            for source in self._sources()
        )
