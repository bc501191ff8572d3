"""Somebody in the middle of agent and brain who sees every frame and may change, hold and add some.

It has the token (it hands the header on) but not the signing key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from support.ports import LOOPBACK, free_port
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")
_CALL_SECONDS = 10.0


@dataclass(eq=False)
class Line:
    """One connection of the agent's, with what came down it (from the brain), in order."""

    agent: ServerConnection
    brain: ClientConnection
    down: list[bytes] = field(default_factory=list)
    open: bool = True
    close_code: int | None = None

    def commands(self) -> list[bytes]:
        return [data for data in self.down if frame_type(data) == "command"]


class Middleman:
    """Listens on a port of its own; every method may be called from any thread.

    Args:
        brain_port: Where the brain listens.
    """

    def __init__(self, brain_port: int) -> None:
        self.port = free_port()
        self.lines: list[Line] = []
        #: From the type and bytes of the brain's frame to the frames that go on in its place.
        self.rule: Callable[[str, bytes], list[bytes]] = _pass
        self._brain_port = brain_port
        self._loop = asyncio.new_event_loop()
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="middleman", daemon=True
        )
        self._server: Any = None

    @property
    def url(self) -> str:
        """Address of the middleman, as a brain's."""
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        self._thread.start()
        self._await(self._listen())

    def stop(self) -> None:
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        """Wait until `condition()` is true; it is looked at whenever a frame came or a line ended."""
        with self._changed:
            if not self._changed.wait_for(condition, seconds):
                states = [(line.open, line.close_code, len(line.down)) for line in self.lines]
                raise AssertionError(f"{what}: not within {seconds:g} s; lines {states}")

    def inject(self, *frames: bytes) -> None:
        """Send frames to the agent on the newest line, as if the brain did."""

        async def push() -> None:
            for frame in frames:
                # Text, as the brain sends it, where it is text at all.
                try:
                    await self.lines[-1].agent.send(frame.decode())
                except UnicodeDecodeError:
                    await self.lines[-1].agent.send(frame)

        self._await(push())

    async def _listen(self) -> None:
        self._server = await serve(
            self._serve, LOOPBACK, self.port, max_size=None, compression=None, close_timeout=0.2
        )

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, agent: ServerConnection) -> None:
        assert agent.request is not None
        url = f"ws://{LOOPBACK}:{self._brain_port}{agent.request.path}"
        headers = {"Authorization": agent.request.headers["Authorization"]}
        async with connect(
            url, additional_headers=headers, max_size=None, compression=None, proxy=None
        ) as brain:
            line = Line(agent, brain)
            self.lines.append(line)
            ways = [
                asyncio.ensure_future(self._up(line)),
                asyncio.ensure_future(self._down(line)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                line.open = False
                line.close_code = agent.close_code
                with contextlib.suppress(ConnectionClosed):
                    await agent.close()
                with self._changed:
                    self._changed.notify_all()

    async def _up(self, line: Line) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in line.agent:
                await line.brain.send(data)

    async def _down(self, line: Line) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in line.brain:
                raw = data.encode() if isinstance(data, str) else data
                with self._changed:
                    line.down.append(raw)
                    self._changed.notify_all()
                for frame in self.rule(frame_type(raw), raw):
                    await line.agent.send(frame.decode())

    def _await(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)


def frame_type(data: bytes) -> str:
    """The type that a frame says it has."""
    return str(json.loads(data)["type"])


def _pass(_kind: str, data: bytes) -> list[bytes]:
    return [data]
