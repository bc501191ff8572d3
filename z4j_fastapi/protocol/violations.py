"""How the peer can break the protocol: a small fixed set of reasons, fit for a metric label."""

from __future__ import annotations

from typing import Literal

from z4j_fastapi.errors import RemoteProtocolError

Reason = Literal["signature", "replay", "clock", "malformed", "version", "handshake"]


def violation(reason: Reason, message: str) -> RemoteProtocolError:
    """The error to raise for what the peer did.

    Args:
        reason: The class of the violation; becomes `details["reason"]`.
        message: One line for a person. Never holds bytes of the peer's choosing.
    """
    return RemoteProtocolError(message, details={"reason": reason})
