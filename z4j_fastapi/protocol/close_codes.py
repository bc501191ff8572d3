"""What a close code, a refused upgrade or an `error` frame means for the next attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from z4j_fastapi.errors import Failure

#: Least wait after the brain said "too many".
THROTTLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What kind of trouble ended a connection.

    Args:
        failure: Decides the backoff.
        summary: One line for a person: what happened and what to look at.
        minimum_seconds: Wait at least this long.
    """

    failure: Failure
    summary: str
    minimum_seconds: float = 0.0


_CLOSE: Mapping[int, Verdict] = {
    4002: Verdict(
        failure=Failure.DISPLACED,
        summary="another connection with the same worker id took over this one",
    ),
    4003: Verdict(
        failure=Failure.AUTH, summary="the agent was revoked or its project archived meanwhile"
    ),
    4400: Verdict(
        failure=Failure.PROTOCOL,
        summary="the brain found a frame of ours malformed: a bug, please report it",
    ),
    4401: Verdict(
        failure=Failure.AUTH,
        summary="the brain does not accept the token: unknown or revoked, or the project is "
        "archived; check token",
    ),
    4408: Verdict(failure=Failure.IDLE, summary="the brain closed an idle connection"),
    4426: Verdict(
        failure=Failure.TERMINAL,
        summary="the brain does not support protocol version 2; upgrade the brain or this agent",
    ),
    4427: Verdict(
        failure=Failure.TERMINAL,
        summary="the brain does not support this agent version; upgrade the brain or this agent",
    ),
    4429: Verdict(
        failure=Failure.THROTTLED,
        summary="the brain refuses more connections: too many at once, or too many workers under "
        "one agent",
        minimum_seconds=THROTTLE_SECONDS,
    ),
}

_REFUSED_AT_HANDSHAKE = Verdict(
    failure=Failure.AUTH,
    summary="the brain does not admit this source address for the agent (close 4403)",
)
_REFUSED_FRAME = Verdict(
    failure=Failure.AUTH,
    summary="the brain refused a signed frame (close 4403): check hmac_secret, and this host's "
    "clock against the brain's",
)

_HTTP: Mapping[int, Verdict] = {
    401: Verdict(
        failure=Failure.AUTH, summary="the upgrade was refused with HTTP 401; check token"
    ),
    403: Verdict(
        failure=Failure.AUTH,
        summary="the upgrade was refused with HTTP 403; check token and any proxy in between",
    ),
    404: Verdict(
        failure=Failure.PROTOCOL,
        summary="no brain answers at this URL (HTTP 404); check brain_url, and that a proxy in "
        "between passes /ws/agent on",
    ),
    407: Verdict(
        failure=Failure.AUTH, summary="the proxy wants credentials (HTTP 407); check proxy"
    ),
    408: Verdict(failure=Failure.TRANSIENT, summary="the upgrade timed out (HTTP 408)"),
    426: Verdict(
        failure=Failure.PROTOCOL,
        summary="a proxy in between does not pass WebSocket upgrades on (HTTP 426)",
    ),
    429: Verdict(
        failure=Failure.THROTTLED,
        summary="the upgrade was refused with HTTP 429: too many connections",
        minimum_seconds=THROTTLE_SECONDS,
    ),
}

_TERMINAL_ERRORS = frozenset(
    {"scheduler_upgrade_required", "agent_incompatible", "protocol_incompatible"}
)


def classify_close(code: int | None, *, handshake_done: bool) -> Verdict:
    """What the end of an open connection means.

    Args:
        code: WebSocket close code; None when the connection broke without one.
        handshake_done: Whether `hello_ack` had come: tells the two meanings of 4403 apart.
    Spec: wire-protocol.md 1, "Close codes".
    """
    if code == 4403:  # noqa: PLR2004 - the table of the spec, in numbers
        return _REFUSED_FRAME if handshake_done else _REFUSED_AT_HANDSHAKE
    known = _CLOSE.get(code) if code is not None else None
    if known is not None:
        return known
    text = "without a close code" if code is None else f"with close code {code}"
    return Verdict(failure=Failure.TRANSIENT, summary=f"the connection ended {text}")


def classify_http(status: int) -> Verdict:
    """What an upgrade that was answered with an HTTP status means.

    Args:
        status: The response's status; the brain itself never refuses an upgrade, proxies do.
    Spec: wire-protocol.md 1.
    """
    known = _HTTP.get(status)
    if known is not None:
        return known
    if 300 <= status < 400:  # noqa: PLR2004 - status classes are numbers
        return Verdict(
            failure=Failure.PROTOCOL,
            summary=f"the upgrade was redirected (HTTP {status}), which is not followed; set "
            "brain_url to the final address",
        )
    # A success without an upgrade is as wrong as a client error; a server error may pass.
    failure = Failure.PROTOCOL if status < 500 else Failure.TRANSIENT  # noqa: PLR2004 - as above
    return Verdict(failure=failure, summary=f"the upgrade was refused with HTTP {status}")


def classify_error(code: str, *, fatal: bool) -> Verdict | None:
    """What a verified `error` frame means; None when the session goes on.

    Args:
        code: The payload's `code`; unknown ones are ignored unless fatal.
        fatal: The payload's `fatal`.
    Spec: wire-protocol.md 1.
    """
    if not fatal:
        return None
    if code in _TERMINAL_ERRORS:
        return Verdict(
            failure=Failure.TERMINAL,
            summary=f"the brain cannot work with this agent ({code}); upgrade one of them",
        )
    return Verdict(failure=Failure.TRANSIENT, summary="the brain reported a fatal error")
