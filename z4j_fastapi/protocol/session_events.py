"""What a session makes of the frames it receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from z4j_fastapi.protocol.envelope import Frame
from z4j_fastapi.protocol.frames import FrameType
from z4j_fastapi.protocol.handshake import HelloAck
from z4j_fastapi.protocol.violations import violation

_TEXT_LIMIT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcomed:
    """The handshake is done; frames may be sent."""

    ack: HelloAck


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAcked:
    """The brain has stored a batch, or handled a fence.

    Args:
        frame_id: Id of the acknowledged `event_batch` frame.
        received: Events the brain saw.
        accepted: Events it stored.
        rejected: Duplicates and dropped events; not an error.
    """

    frame_id: str
    received: int
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceived:
    """A verified command; `commands.parse_command` reads its payload."""

    command_id: str
    payload: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerError:
    """The brain reports an error; texts are cut to 500 characters.

    `close_codes.classify_error` says what a fatal one means.
    """

    code: str
    message: str
    fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownFrame:
    """A verified frame of a type that this package does not know: ignore it with a warning."""

    type: str


SessionEvent = Welcomed | BatchAcked | CommandReceived | PeerError | UnknownFrame


def session_event(frame: Frame) -> SessionEvent:
    """The typed value of a verified frame.

    Raises:
        RemoteProtocolError: `malformed`: an acknowledgement that names no frame.
    """
    payload = frame.payload
    if frame.type == FrameType.COMMAND:
        return CommandReceived(command_id=frame.id, payload=payload)
    if frame.type == FrameType.EVENT_BATCH_ACK:
        acked_id = payload.get("acked_id")
        if not isinstance(acked_id, str):
            raise violation("malformed", "event_batch_ack: acked_id is not a text")
        return BatchAcked(
            frame_id=acked_id,
            received=_count(payload, "received"),
            accepted=_count(payload, "accepted"),
            rejected=_count(payload, "rejected"),
        )
    if frame.type == FrameType.ERROR:
        return PeerError(
            code=_short(payload, "code"),
            message=_short(payload, "message"),
            fatal=payload.get("fatal") is True,
        )
    return UnknownFrame(type=frame.type[:_TEXT_LIMIT])


def _count(payload: Mapping[str, object], name: str) -> int:
    # Only shown, never decided upon: a strange value is not worth a session.
    value = payload.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _short(payload: Mapping[str, object], name: str) -> str:
    value = payload.get(name)
    return value[:_TEXT_LIMIT] if isinstance(value, str) else ""
