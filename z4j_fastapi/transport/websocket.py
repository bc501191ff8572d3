"""The WebSocket transport, on the `websockets` library.

Importing this module imports the library; do it on the caller's thread, never on the agent's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from z4j_fastapi._version import __version__
from z4j_fastapi.errors import ConfigError, Failure, TransportError
from z4j_fastapi.transport.connection import WebSocketConnection, abandon_socket
from z4j_fastapi.transport.dial import dial, resolve
from z4j_fastapi.transport.explain import Route, explain_dial, explain_opening, explain_tunnel
from z4j_fastapi.transport.tls import build_ssl_context
from z4j_fastapi.transport.tunnel import TunnelRefusedError, TunnelRequest, open_tunnel

_DEFAULT_PORTS = {"ws": 80, "wss": 443, "http": 80, "https": 443}
#: Unsent bytes that may wait in memory: the whole in-flight window, so that only a peer that does
#: not read makes `send` wait, and not the size of a batch.
_WRITE_LIMIT = (1024 * 1024, 256 * 1024)
#: Larger than any frame the brain sends (1 MiB by default); a limit all the same.
MAX_FRAME_BYTES = 4 * 1024 * 1024


class _Connect(connect):
    """Follows no redirect: another host would be handed the token (websockets 15 does that)."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _LibraryLogger(logging.Logger):
    """What the library logs, from warnings on, under our tree.

    At debug level it writes the request's headers, and so the token, into the host's log. This
    logger is in no registry, so nobody can turn that on.
    """

    def __init__(self) -> None:
        super().__init__("z4j_fastapi.transport.websockets", logging.WARNING)
        self.parent = logging.getLogger("z4j_fastapi.transport")


class WebSocketTransport:
    """Implements `transport.base.Transport`.

    Args:
        url: `ws://` or `wss://`, complete with `/ws/agent`.
        token: Gives the bearer token; asked at every connection, never kept.
        ssl_context_factory: Makes the context for `wss://`; called at the first connection, and
            again after a certificate was refused.
        proxy: `http://` or `https://` URL, with credentials if it wants some, from
            `proxies.choose_proxy`; None for a direct connection. The library's own choice is off.
        user_agent: Header of the upgrade.
        open_timeout: Seconds for name, TCP, TLS, proxy and upgrade together.
        close_timeout: Seconds that a close may take.
        ping_interval, ping_timeout: Seconds between pings, and until one counts as unanswered.
        max_size: Bytes of the largest frame that is accepted.
    Raises:
        ConfigError: URL or proxy cannot be used.
    Spec: wire-protocol.md 1, config-and-cli.md 2.3.
    """

    name = "ws"

    def __init__(
        self,
        *,
        url: str,
        token: Callable[[], str],
        ssl_context_factory: Callable[[], ssl.SSLContext] = build_ssl_context,
        proxy: str | None = None,
        user_agent: str = f"z4j-fastapi/{__version__}",
        open_timeout: float = 10.0,
        close_timeout: float = 5.0,
        ping_interval: float = 60.0,
        ping_timeout: float = 60.0,
        max_size: int = MAX_FRAME_BYTES,
    ) -> None:
        self._url = url
        self._token = token
        self._ssl_context_factory = ssl_context_factory
        self._ssl_context: ssl.SSLContext | None = None
        self._proxy = proxy
        self._user_agent = user_agent
        self._open_timeout = open_timeout
        self._close_timeout = close_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._max_size = max_size
        self._logger = _LibraryLogger()
        self._host, self._port = endpoint = _endpoint(url, "brain_url (Z4J_BRAIN_URL)")
        self._secure = url.startswith("wss:")
        self._first_hop = endpoint
        if proxy is not None:
            _check_proxy(proxy, secure=self._secure)
            self._first_hop = _endpoint(proxy, "proxy (Z4J_PROXY)")
        self._route = Route(
            brain=_label(endpoint),
            proxy=None if proxy is None else _label(self._first_hop),
            open_timeout=open_timeout,
        )
        self._dialled: socket.socket | None = None
        self._open: weakref.WeakSet[WebSocketConnection] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<WebSocketTransport to {self._route.whole}>"

    def preload(self) -> None:
        """Import the little that the standard library would import while connecting."""
        for name in ("encodings.idna", "stringprep"):
            import_module(name)

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of the parent's socket without closing the parent's session."""
        for connection in list(self._open):
            connection.abandon()
        abandon_socket(self._dialled)
        self._open = weakref.WeakSet()
        self._dialled = None

    async def connect(self) -> WebSocketConnection:
        """Open one connection. Cancellable at any point.

        Raises:
            TransportError: With the failure class that decides the backoff.
        """
        headers = {"Authorization": f"Bearer {self._checked_token()}"}
        deadline = asyncio.get_running_loop().time() + self._open_timeout
        options: dict[str, Any] = {"ssl": self._context()} if self._secure else {}
        if self._proxy is not None and self._proxy.startswith("https:"):
            options["proxy_ssl"] = self._context()
            websocket = await self._upgrade(headers, deadline, proxy=self._proxy, **options)
        else:
            self._dialled = sock = await self._reach(deadline)
            try:
                websocket = await self._upgrade(headers, deadline, sock=sock, **options)
            finally:
                self._dialled = None
        connection = WebSocketConnection(
            websocket,
            close_timeout=self._close_timeout,
            send_timeout=self._ping_interval + self._ping_timeout,
        )
        self._open.add(connection)
        return connection

    def _checked_token(self) -> str:
        token = self._token()
        if token and token.isascii() and token.isprintable() and " " not in token:
            return token
        raise TransportError(
            "token (Z4J_TOKEN) is empty or holds characters that no token has; copy it again",
            failure=Failure.AUTH,
        )

    async def _reach(self, deadline: float) -> socket.socket:
        """A socket whose other end is the brain, be it through a proxy."""
        host, port = self._first_hop
        try:
            addresses = await resolve(host, port, deadline)
            sock = await dial(addresses, deadline)
        except OSError as error:
            raise explain_dial(error, self._route) from None
        if self._proxy is None:
            return sock
        request = TunnelRequest(
            host=self._host, port=self._port, proxy=self._proxy, user_agent=self._user_agent
        )
        try:
            await open_tunnel(sock, request, deadline)
        except BaseException as error:
            sock.close()
            if isinstance(error, (TunnelRefusedError, OSError)):
                raise explain_tunnel(error, self._route) from None
            raise
        return sock

    async def _upgrade(
        self,
        headers: dict[str, str],
        deadline: float,
        *,
        proxy: str | None = None,
        **options: Any,
    ) -> ClientConnection:
        try:
            return await _Connect(
                self._url,
                additional_headers=headers,
                user_agent_header=self._user_agent,
                compression=None,  # 6 us an event for nothing on a local network
                proxy=proxy,  # None switches the library's own choice off
                open_timeout=max(deadline - asyncio.get_running_loop().time(), 0.0),
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
                close_timeout=self._close_timeout,
                max_size=self._max_size,
                write_limit=_WRITE_LIMIT,
                logger=self._logger,
                **options,
            )
        except Exception as error:  # noqa: BLE001 - library, TLS and system raise many kinds; each ends one attempt
            if isinstance(error, ssl.SSLCertVerificationError):
                self._ssl_context = None  # a renewed CA file is read at the next attempt
            if proxy is not None and isinstance(error, (socket.gaierror, ConnectionRefusedError)):
                raise explain_dial(error, self._route) from None
            raise explain_opening(error, self._route) from None

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            try:
                self._ssl_context = self._ssl_context_factory()
            except ConfigError as error:  # ca_file has changed since the settings were checked
                raise explain_opening(error, self._route) from None
        return self._ssl_context


def _check_proxy(proxy: str, *, secure: bool) -> None:
    scheme = proxy.partition(":")[0].lower()
    if scheme not in {"http", "https"}:
        raise ConfigError(
            "proxy (Z4J_PROXY, https_proxy, http_proxy): only http:// and https:// proxies can be "
            "used; give another one, or proxy=none for a direct connection"
        )
    if scheme == "https" and secure and sys.version_info < (3, 11):
        raise ConfigError(
            "proxy (Z4J_PROXY, https_proxy): an https:// proxy towards an https:// brain needs "
            "Python 3.11 or newer; use the proxy's http:// port"
        )


def _endpoint(url: str, setting: str) -> tuple[str, int]:
    """Host and port of a URL; IPv6 without brackets."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if not host or parts.scheme not in _DEFAULT_PORTS:
        raise ConfigError(f"{setting}: is not a usable URL")  # which may hold a password
    return host, port or _DEFAULT_PORTS[parts.scheme]


def _label(endpoint: tuple[str, int]) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
