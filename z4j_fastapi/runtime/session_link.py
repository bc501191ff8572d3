"""One live session on one connection: frames leave in the order of their sequence numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from z4j_fastapi.protocol.session import AgentSession

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.transport.base import Connection


class SessionLink:
    """Builds and sends frames one at a time.

    A frame takes its sequence number when it is built, so building and sending must not be
    interleaved with another frame's.
    """

    def __init__(self, *, session: AgentSession, connection: Connection, clock: Clock) -> None:
        self.session = session
        self.connection = connection
        self._clock = clock
        self._turn = asyncio.Lock()

    async def send(self, build: Callable[[datetime], bytes]) -> None:
        """Build a frame with the current time and send it.

        Raises:
            TransportError: The connection is gone.
        """
        async with self._turn:
            await self.connection.send(build(self._clock.now()))

    async def send_batch(self, events: list[bytes]) -> tuple[str, int]:
        """Send one `event_batch`; returns its frame id and size in bytes. Empty: a fence."""
        async with self._turn:
            frame_id, data = self.session.send_batch(events, self._clock.now())
            await self.connection.send(data)
            return frame_id, len(data)
