"""One open WebSocket to the brain."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from z4j_fastapi.errors import Failure, TransportError
from z4j_fastapi.transport.explain import explain_close


class WebSocketConnection:
    """Implements `transport.base.Connection` on an open connection of the library's.

    Args:
        websocket: Open; owned by this object from now on.
        close_timeout: Seconds that `close` may take.
        send_timeout: Seconds that the peer may leave our data unread before the connection counts
            as dead. The library's keepalive cannot see that: its own ping waits behind the data.
    """

    def __init__(
        self, websocket: ClientConnection, *, close_timeout: float, send_timeout: float
    ) -> None:
        self._websocket = websocket
        self._loop = asyncio.get_running_loop()
        self._close_timeout = close_timeout
        self._send_timeout = send_timeout
        self._spoken_to = False
        self._stalled = False

    async def send(self, data: bytes) -> None:
        """Hand one frame to the network; waits while the peer does not read.

        Raises:
            TransportError: The connection is gone; `failure` says why.
        """
        watchdog = self._loop.call_later(self._send_timeout, self._stall)
        try:
            await self._websocket.send(data)
        except ConnectionClosed as error:
            raise self._ended(error) from None
        finally:
            watchdog.cancel()
        if self._stalled:  # the wait ended because the socket was dropped
            raise self._stall_error()

    async def receive(self) -> bytes:
        """Wait for the next frame, whether the brain sent it as text or binary.

        Raises:
            TransportError: The connection is gone; `failure` and `close_code` say why.
        """
        try:
            data = await self._websocket.recv(decode=False)
        except ConnectionClosed as error:
            raise self._ended(error) from None
        self._spoken_to = True
        return data

    async def close(self) -> None:
        """Close within the close timeout, whatever the peer does. Idempotent, never raises.

        Cancelling it drops the connection at once.
        """
        watchdog = self._loop.call_later(self._close_timeout, self._drop)
        # Whatever comes, cancellation included, the socket does not stay open. (A good end needs
        # the drop as well: Python 3.10 counts a TLS transport that the peer closed as forgotten.)
        with contextlib.suppress(Exception):
            try:
                await self._websocket.close()
            finally:
                watchdog.cancel()
                self._drop()

    def abandon(self) -> None:
        """In a forked child: close this process's copy of the socket, silently.

        Only the descriptor goes. A close frame, a TLS goodbye or the loop's own closing would end
        the parent's session.
        """
        shared: Any = self._websocket.transport.get_extra_info("socket")
        abandon_socket(getattr(shared, "_sock", shared))

    def _drop(self) -> None:
        self._websocket.transport.abort()

    def _stall(self) -> None:
        self._stalled = True
        self._drop()

    def _ended(self, error: ConnectionClosed) -> TransportError:
        if self._stalled:
            return self._stall_error()
        return explain_close(error, handshake_done=self._spoken_to)

    def _stall_error(self) -> TransportError:
        return TransportError(
            f"the brain read nothing for {self._send_timeout:g} s; the connection was dropped",
            failure=Failure.TRANSIENT,
            details={"kind": "closed"},
        )


def abandon_socket(sock: socket.socket | None) -> None:
    """Close the descriptor behind `sock` and make the object forget it."""
    if sock is None:
        return
    descriptor = sock.detach()
    if descriptor != -1:
        with contextlib.suppress(OSError):
            socket.close(descriptor)
