"""Why there is no connection: one clear line and a failure class for whatever was raised."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)

from z4j_fastapi.errors import ConfigError, Failure, TransportError
from z4j_fastapi.protocol.close_codes import Verdict, classify_close, classify_http
from z4j_fastapi.transport.tls import explain_tls
from z4j_fastapi.transport.tunnel import TunnelRefusedError

_HTTP_PROXY_AUTH = 407
#: RFC 6455's codes for "none was sent": they are never on the wire.
_NO_CODE = frozenset({1005, 1006})
_MAX_REASON = 123  # bytes that a close frame can carry


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a connection was to go. Holds no credentials, so it may be shown.

    Args:
        brain: `host:port` of the brain.
        proxy: `host:port` of the proxy, None for a direct connection.
        open_timeout: Seconds that opening may take.
    """

    brain: str
    proxy: str | None
    open_timeout: float

    @property
    def first_hop(self) -> str:
        """Whom the TCP connection goes to."""
        return f"the brain at {self.brain}" if self.proxy is None else f"the proxy {self.proxy}"

    @property
    def whole(self) -> str:
        """The brain, and the proxy in between if there is one."""
        via = "" if self.proxy is None else f" through the proxy {self.proxy}"
        return f"the brain at {self.brain}{via}"

    @property
    def setting(self) -> str:
        """The setting that names the first hop."""
        return "brain_url (Z4J_BRAIN_URL)" if self.proxy is None else "proxy (Z4J_PROXY)"


def explain_dial(error: OSError, route: Route) -> TransportError:
    """Why the first hop's name or port could not be reached."""
    hop = route.first_hop
    if isinstance(error, socket.gaierror):
        reason = (error.strerror or "unknown name").lower()
        return _error(
            f"cannot resolve the name of {hop}: {reason}; check {route.setting}", kind="dns"
        )
    if isinstance(error, ConnectionRefusedError):
        return _error(
            f"{hop} refuses connections; is it running, and is the port in {route.setting} right?",
            kind="tcp",
        )
    if isinstance(error, TimeoutError) and error.errno is None:
        return _error(f"{hop} did not answer within {route.open_timeout:g} s", kind="timeout")
    return _error(f"cannot reach {hop}: {_os_reason(error)}", kind="tcp")


def explain_tunnel(error: TunnelRefusedError | OSError, route: Route) -> TransportError:
    """Why the proxy, once reached, gave no tunnel."""
    if isinstance(error, TunnelRefusedError):
        if error.status is not None:
            return _refused_by_proxy(error.status, route)
        return _no_proxy(route)
    if isinstance(error, TimeoutError):
        return _error(
            f"{route.first_hop} took the connection, but did not answer within "
            f"{route.open_timeout:g} s",
            kind="timeout",
        )
    return _error(f"{route.first_hop} closed the connection without an answer", kind="proxy")


def _refused_by_proxy(status: int, route: Route) -> TransportError:
    verdict = classify_http(status)
    text = (
        "wants other credentials; check user name and password in proxy (Z4J_PROXY)"
        if status == _HTTP_PROXY_AUTH
        else f"does not let us through to {route.brain}"
    )
    return _error(
        f"{route.first_hop} {text} (HTTP {status})",
        failure=verdict.failure,
        status=status,
        kind="proxy",
        verdict=verdict,
    )


def _no_proxy(route: Route) -> TransportError:
    return _error(
        f"{route.first_hop} does not answer as an HTTP proxy does; check {route.setting}",
        failure=Failure.PROTOCOL,
        kind="proxy",
    )


def explain_opening(error: Exception, route: Route) -> TransportError:
    """Why TLS, the proxy or the upgrade failed once the first hop was reached."""
    if isinstance(error, ConfigError):
        return _error(error.message, kind="tls")
    if isinstance(error, ssl.SSLError):
        return _error(f"TLS to {route.whole}: {explain_tls(error)}", kind="tls")
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return _error(
            f"{route.whole} took the connection, but did not finish the handshake within "
            f"{route.open_timeout:g} s",
            kind="timeout",
        )
    if isinstance(error, OSError):
        return _error(
            f"the connection to {route.whole} broke in the handshake: {_os_reason(error)}",
            kind="closed",
        )
    if isinstance(error, InvalidHandshake):
        return _explain_handshake(error, route)
    # A new kind of error of the library's: name it, since its text could hold the proxy's password.
    return _error(f"cannot connect to {route.whole}: {type(error).__name__}", kind="handshake")


def _explain_handshake(error: InvalidHandshake, route: Route) -> TransportError:
    if isinstance(error, InvalidProxyStatus):
        return _refused_by_proxy(error.response.status_code, route)
    if isinstance(error, ProxyError):
        return _no_proxy(route)
    if isinstance(error, InvalidStatus):
        return _refused(error.response.status_code, error.response.headers, route)
    if isinstance(error, InvalidMessage):
        if isinstance(error.__cause__, EOFError):
            return _error(
                f"{route.whole} closed the connection instead of answering the upgrade",
                kind="closed",
            )
        return _error(
            f"what answers for {route.whole} does not speak HTTP; check scheme and port in "
            "brain_url (Z4J_BRAIN_URL)",
            failure=Failure.PROTOCOL,
            kind="handshake",
        )
    return _error(
        f"{route.whole} answered the upgrade, but not as a WebSocket server; check brain_url "
        "(Z4J_BRAIN_URL), and that a proxy in between passes WebSockets",
        failure=Failure.PROTOCOL,
        kind="handshake",
    )


def _refused(status: int, headers: Mapping[str, str], route: Route) -> TransportError:
    verdict = classify_http(status)
    where = f" to {_location_host(headers)}" if 300 <= status < 400 else ""  # noqa: PLR2004 - a class
    return _error(
        f"{route.whole}: {verdict.summary}{' (redirect' + where + ')' if where else ''}",
        failure=verdict.failure,
        status=status,
        kind="http",
        verdict=verdict,
    )


def _location_host(headers: Mapping[str, str]) -> str:
    """Host and port of a redirect's target: enough to correct the URL, and no secret."""
    try:
        location = urlsplit(headers.get("Location", ""))
        host, port = location.hostname, location.port
    except (ValueError, LookupError):  # no URL at all, or several headers
        return "an unreadable address"
    if host is None:
        return "another path of the same host"
    shown = re.sub(r"[^\w.:-]", "?", host[:253])
    return f"{location.scheme}://{shown}" + (f":{port}" if port else "")


def explain_close(error: ConnectionClosed, *, handshake_done: bool) -> TransportError:
    """Why an open connection is over.

    Args:
        error: What the library raised.
        handshake_done: Whether the brain has said anything: tells the meanings of 4403 apart.
    """
    received, sent = error.rcvd, error.sent
    if received is None and sent is not None:
        # We closed it ourselves: the library's keepalive, or its limit for what is received.
        text = {
            1009: "the brain sent a frame that is larger than we accept; the connection was closed",
            1011: "the brain stopped answering pings; the connection was dead",
        }.get(sent.code, "the connection was closed by us")
        return _error(text, kind="closed")
    code = received.code if received is not None else None
    verdict = classify_close(None if code in _NO_CODE else code, handshake_done=handshake_done)
    reason = _printable(received.reason) if received is not None else ""
    return _error(
        f"{verdict.summary} ({reason})" if reason else verdict.summary,
        failure=verdict.failure,
        close_code=code,
        kind="closed",
        verdict=verdict,
    )


def _printable(text: str) -> str:
    """A peer's words, safe in a log line."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_REASON])


def _os_reason(error: OSError) -> str:
    if error.errno is None or error.errno not in errno.errorcode:
        # asyncio's own texts, such as "SSL handshake is taking longer": they name no address.
        return str(error) or type(error).__name__
    return os.strerror(error.errno).lower()


def _error(
    message: str,
    *,
    kind: str,
    failure: Failure = Failure.TRANSIENT,
    close_code: int | None = None,
    status: int | None = None,
    verdict: Verdict | None = None,
) -> TransportError:
    details: dict[str, object] = {"kind": kind}
    if verdict is not None and verdict.minimum_seconds:
        details["minimum_seconds"] = verdict.minimum_seconds
    return TransportError(
        message, failure=failure, close_code=close_code, http_status=status, details=details
    )
