"""CONNECT through an http:// proxy, on a socket of our own.

The library can do this too, but up to version 16 it loses the socket when a proxy takes the
connection and never answers: one descriptor more at every reconnect. It still does it for https://
proxies, whose TLS cannot be done on a bare socket.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_MAX_HEAD_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


class TunnelRefusedError(Exception):
    """The proxy answered, but not with a tunnel.

    Args:
        status: The answer's HTTP status; None when it was no HTTP answer at all.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRequest:
    """What to ask the proxy for.

    Args:
        host: Where the tunnel ends; IPv6 without brackets.
        port: 1 to 65535.
        proxy: The proxy's URL; its user name and password become basic credentials.
        user_agent: Header value.
    """

    host: str
    port: int
    proxy: str
    user_agent: str

    def __repr__(self) -> str:
        return f"<TunnelRequest to {self.host}:{self.port}>"

    def to_bytes(self) -> bytes:
        """The request as it is sent. Holds the credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [
            f"CONNECT {host}:{self.port} HTTP/1.1",
            f"Host: {host}:{self.port}",
            f"User-Agent: {self.user_agent}",
        ]
        parts = urlsplit(self.proxy)
        if parts.username is not None:
            userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(
                f"Proxy-Authorization: Basic {base64.b64encode(userinfo.encode()).decode()}"
            )
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def open_tunnel(sock: socket.socket, request: TunnelRequest, deadline: float) -> None:
    """Make `sock`, which is connected to a proxy, reach to the request's host.

    Args:
        sock: Non-blocking. Stays the caller's, also after a failure.
        request: Where to, and the credentials.
        deadline: On the loop's clock.
    Raises:
        TunnelRefusedError: The proxy does not want to, or is no proxy.
        OSError: It broke off; `TimeoutError` when it did not answer.
    """
    exchange = asyncio.ensure_future(_exchange(sock, request.to_bytes()))
    try:
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait({exchange}, timeout=max(left, 0.0))
        if not exchange.done():
            raise TimeoutError("timed out")
    finally:
        if not exchange.done():
            exchange.cancel()
            await asyncio.wait({exchange})  # the loop must let go of the descriptor
    head = exchange.result()
    status = _STATUS_LINE.match(head)
    if status is None:
        raise TunnelRefusedError(None)
    if not status[1].startswith(b"2"):
        raise TunnelRefusedError(int(status[1]))


async def _exchange(sock: socket.socket, request: bytes) -> bytes:
    """Send the request and read the answer's head; a tunnel has no body, and we speak first."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > _MAX_HEAD_BYTES:
            raise TunnelRefusedError(None)
        data = await loop.sock_recv(sock, 4096)
        if not data:
            raise ConnectionResetError("closed")
        head += data
    return head
