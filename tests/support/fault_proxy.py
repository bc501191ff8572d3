"""A TCP proxy that misbehaves on demand: between an agent and the real brain, or a Valkey.

It runs on an event loop in a thread of its own. Every method is synchronous, may be called from
any thread, and has taken effect when it returns.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from support.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_CHUNK_BYTES = 65536
_QUEUED_CHUNKS = 64
_CALL_SECONDS = 10.0
# l_onoff 1, l_linger 0: closing sends a reset, as a crashed or filtering peer does.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(str, enum.Enum):
    """Which way bytes travel."""

    UP = "up"  # from the client (the agent) to the server (the brain)
    DOWN = "down"  # from the server to the client


BOTH = (Direction.UP, Direction.DOWN)


@dataclass(slots=True)
class _Fault:
    """What is done to the bytes of one direction; shared by all connections, also open ones."""

    swallow: bool = False
    delay_seconds: float = 0.0
    corrupt_chunks: int = 0
    cut_after_bytes: int | None = None


@dataclass(slots=True, eq=False)
class _Connection:
    """One client with its way to the server; `server` is None while nothing reaches it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def abort(self) -> None:
        for writer in (self.client, self.server):
            if writer is None:
                continue
            peer = writer.get_extra_info("socket")
            if peer is not None and peer.fileno() != -1:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class FaultProxy:
    """Listens on a loopback port and passes everything on to a server, until told otherwise.

    Faults last until `heal()`; they hold for connections that are open and for new ones.

    Args:
        target_port: Port of the server, which need not run yet.
        target_host: Its address.
    """

    def __init__(self, target_port: int, *, target_host: str = LOOPBACK) -> None:
        self.port = free_port()
        self._target = (target_host, target_port)
        self._faults = {direction: _Fault() for direction in BOTH}
        self._connections: set[_Connection] = set()
        self._server: asyncio.AbstractServer | None = None
        self._accepted = 0
        self._passed = dict.fromkeys(BOTH, 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fault-proxy", daemon=True
        )

    @property
    def url(self) -> str:
        """Address of the proxy, as a brain's."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self._accepted

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return self._call(lambda: len(self._connections))

    def passed_bytes(self, direction: Direction) -> int:
        """Bytes handed on in a direction so far; swallowed ones do not count."""
        return self._passed[direction]

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._await(self._listen())

    def stop(self) -> None:
        """Stop listening, reset every connection, end the thread."""
        if not self._thread.is_alive():
            return
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    # Faults

    def heal(self) -> None:
        """Pass everything again and listen again. Connections swallowed into stay as they are.

        A stream from which bytes are missing is of no use any more; `cut()` it.
        """
        for direction in BOTH:
            self._call(lambda direction=direction: self._reset(direction))
        self._await(self._listen())

    def cut(self) -> int:
        """Reset every open connection now; new ones are served. Returns how many there were."""
        return self._call(self._cut)

    def refuse(self) -> None:
        """Reset every open connection and refuse new ones (nobody listens)."""
        self._await(self._stop_listening())
        self._call(self._cut)

    def black_hole(self, *directions: Direction) -> None:
        """Accept and read everything, hand nothing on, close nothing. Both ways by default."""
        for direction in directions or BOTH:
            self._call(lambda direction=direction: self._set(direction, swallow=True))

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Hand bytes on so much later, in order, without making the stream narrower."""
        for direction in directions or BOTH:
            self._call(lambda direction=direction: self._set(direction, delay_seconds=seconds))

    def corrupt(self, direction: Direction, *, chunks: int = 1) -> None:
        """Flip one bit in the middle of each of the next so many chunks read."""
        self._call(lambda: self._set(direction, corrupt_chunks=chunks))

    def cut_after(self, count: int, direction: Direction) -> None:
        """Hand on exactly `count` more bytes in a direction, then reset all connections, once."""
        self._call(lambda: self._set(direction, cut_after_bytes=count))

    # On the loop

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, LOOPBACK, self.port, reuse_address=True
            )

    async def _stop_listening(self) -> None:
        if self._server is not None:
            # Not `wait_closed`: from Python 3.12 on it waits for the connections, too.
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def _close(self) -> None:
        await self._stop_listening()
        self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _set(self, direction: Direction, **values: object) -> None:
        for name, value in values.items():
            setattr(self._faults[direction], name, value)

    def _reset(self, direction: Direction) -> None:
        self._set(
            direction, swallow=False, delay_seconds=0.0, corrupt_chunks=0, cut_after_bytes=None
        )

    def _cut(self) -> int:
        count = len(self._connections)
        for connection in self._connections:
            connection.abort()
        return count

    async def _serve(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        self._accepted += 1
        connection = _Connection(client_writer)
        self._connections.add(connection)
        try:
            if self._faults[Direction.UP].swallow and self._faults[Direction.DOWN].swallow:
                # The server must not even see that somebody knocked.
                while await client_reader.read(_CHUNK_BYTES):
                    pass
                return
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            connection.server = server_writer
            await asyncio.gather(
                self._pump(client_reader, server_writer, Direction.UP),
                self._pump(server_reader, client_writer, Direction.DOWN),
            )
        except OSError:
            pass  # the server is not there or a side went away: the client is told below
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Read at once and write when a chunk is due, so that a delay does not slow the stream."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)
        writing = asyncio.ensure_future(self._write_when_due(queue, writer, direction))
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                fault = self._faults[direction]
                if fault.swallow:
                    continue
                if fault.corrupt_chunks:
                    fault.corrupt_chunks -= 1
                    chunk = _flip_bit(chunk)
                due = self._loop.time() + fault.delay_seconds
                # A plain `put` would hang for ever when the writing side has failed.
                putting = asyncio.ensure_future(queue.put((due, chunk)))
                await asyncio.wait({putting, writing}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    putting.cancel()
                    break
            if not writing.done():
                await queue.put((self._loop.time(), b""))  # end of stream
            await writing
        finally:
            writing.cancel()

    async def _write_when_due(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        fault = self._faults[direction]
        while True:
            due, chunk = await queue.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            if fault.swallow and chunk:
                continue
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            limit = fault.cut_after_bytes
            if limit is not None:
                chunk = chunk[:limit]
                fault.cut_after_bytes = limit - len(chunk)
            writer.write(chunk)
            self._passed[direction] += len(chunk)
            await writer.drain()
            if fault.cut_after_bytes == 0:
                fault.cut_after_bytes = None
                self._cut()
                return

    # From any thread

    def _await(self, coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)  # type: ignore[arg-type]

    def _call(self, function: Callable[[], _T]) -> _T:
        async def on_loop() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(_CALL_SECONDS)


def _flip_bit(chunk: bytes) -> bytes:
    middle = len(chunk) // 2
    return chunk[:middle] + bytes([chunk[middle] ^ 0x01]) + chunk[middle + 1 :]
