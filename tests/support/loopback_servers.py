"""Small servers on loopback for the transport's tests: WebSocket, raw TCP, CONNECT proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from websockets.asyncio.server import ServerConnection, serve

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
LOOPBACK = "127.0.0.1"

RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(work: Coroutine[Any, Any, T], *, seconds: float = 20.0) -> T:
    """Run `work` on a new loop, with a deadline."""
    return asyncio.run(asyncio.wait_for(work, seconds))


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait until `condition()` is true, looking often."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


@dataclass
class WebSocketServer:
    """What arrived at a server, and where it listens."""

    port: int = 0
    frames: list[bytes | str] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    extensions: list[Any] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # set when the test is done

    @property
    def url(self) -> str:
        return f"ws://{LOOPBACK}:{self.port}/ws/agent"


async def echo(server: WebSocketServer, connection: ServerConnection) -> None:
    """Answer every frame with itself."""
    async for frame in connection:
        server.frames.append(frame)
        await connection.send(frame)


async def deaf(server: WebSocketServer, connection: ServerConnection) -> None:
    """Accept, then read nothing and answer no ping: the peer's buffers fill up."""
    connection.transport.pause_reading()
    await server.over.wait()
    connection.transport.abort()


@contextlib.asynccontextmanager
async def websocket_server(
    handler: Callable[[WebSocketServer, ServerConnection], Awaitable[None]] = echo,
    *,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[WebSocketServer]:
    """A WebSocket server that records what it was asked for."""
    record = WebSocketServer()

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        record.headers.append(connection.request.headers)
        record.paths.append(connection.request.path)
        record.extensions.append(connection.protocol.extensions)
        await handler(record, connection)

    async with serve(handle, LOOPBACK, 0, ssl=tls, close_timeout=0.2, **options) as server:
        record.port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield record
        finally:
            record.over.set()


@contextlib.asynccontextmanager
async def raw_server(
    handler: RawHandler, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A TCP server; yields its port, and drops every connection at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
        except asyncio.CancelledError:  # asyncio's streams would log a cancelled handler
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, LOOPBACK, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=5)


async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Take everything, answer nothing, until the peer leaves."""
    while await reader.read(65536):
        pass


def answering(response: bytes) -> RawHandler:
    """A server that reads one HTTP head, sends `response` and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return handle


@dataclass
class ConnectProxy:
    """What a CONNECT proxy was asked for."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)


@contextlib.asynccontextmanager
async def connect_proxy(
    *, credentials: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ConnectProxy]:
    """A proxy that tunnels to loopback ports, whatever host was asked for.

    Args:
        credentials: What `Proxy-Authorization` must be, such as `Basic ...`.
        tls: For an https:// proxy.
    """
    record = ConnectProxy()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        record.requests.append(head)
        wanted = f"proxy-authorization: {credentials}\r\n".lower().encode()
        if credentials is not None and wanted not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            await writer.drain()
            return
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        far_reader, far_writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            ways = [
                asyncio.ensure_future(_pump(reader, far_writer)),
                asyncio.ensure_future(_pump(far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        finally:
            far_writer.transport.abort()

    async with raw_server(handle, tls=tls) as port:
        record.port = port
        yield record


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
