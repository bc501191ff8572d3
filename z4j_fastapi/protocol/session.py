"""`AgentSession`: one connection's state machine, without any I/O.

    NEW --hello_frame--> AWAITING_ACK --hello_ack received--> LIVE --close--> CLOSED
                               `---- anything else received ----------------> CLOSED

Bytes of a received frame go in and typed values come out; intents go in and bytes come out. Illegal
use raises `LocalProtocolError` and changes nothing; what the peer must not do raises
`RemoteProtocolError` and closes the session.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from z4j_fastapi.errors import LocalProtocolError, RemoteProtocolError
from z4j_fastapi.protocol.batch import event_batch_payload
from z4j_fastapi.protocol.canonical import canonical_bytes, stable_bytes
from z4j_fastapi.protocol.envelope import FrameOpener, FrameSealer, new_id, new_nonce
from z4j_fastapi.protocol.frames import FrameType
from z4j_fastapi.protocol.handshake import Hello, HelloAck, parse_hello_ack
from z4j_fastapi.protocol.results import check_result_payload
from z4j_fastapi.protocol.session_events import (
    BatchAcked,
    CommandReceived,
    PeerError,
    SessionEvent,
    UnknownFrame,
    Welcomed,
    session_event,
)

__all__ = [
    "AgentSession",
    "BatchAcked",
    "CommandReceived",
    "PeerError",
    "SessionEvent",
    "SessionInput",
    "SessionState",
    "UnknownFrame",
    "Welcomed",
]


class SessionState(enum.Enum):
    """Where a session stands."""

    NEW = "new"
    AWAITING_ACK = "awaiting_ack"
    LIVE = "live"
    CLOSED = "closed"


class SessionInput(enum.Enum):
    """What can happen to a session."""

    HELLO = "hello"  # we open the handshake
    RECEIVE = "receive"  # a frame came in
    WELCOME = "welcome"  # ... and it was a good hello_ack
    VIOLATION = "violation"  # ... and it must not be acted upon
    SEND = "send"  # we send a signed frame
    CLOSE = "close"  # the connection is gone


_S, _I = SessionState, SessionInput

#: What is not in the table is illegal.
TRANSITIONS: Mapping[tuple[SessionState, SessionInput], SessionState] = {
    (_S.NEW, _I.HELLO): _S.AWAITING_ACK,
    (_S.NEW, _I.CLOSE): _S.CLOSED,
    (_S.AWAITING_ACK, _I.RECEIVE): _S.AWAITING_ACK,
    (_S.AWAITING_ACK, _I.WELCOME): _S.LIVE,
    (_S.AWAITING_ACK, _I.VIOLATION): _S.CLOSED,
    (_S.AWAITING_ACK, _I.CLOSE): _S.CLOSED,
    (_S.LIVE, _I.RECEIVE): _S.LIVE,
    (_S.LIVE, _I.SEND): _S.LIVE,
    (_S.LIVE, _I.VIOLATION): _S.CLOSED,
    (_S.LIVE, _I.CLOSE): _S.CLOSED,
    (_S.CLOSED, _I.CLOSE): _S.CLOSED,
}


class AgentSession:
    """The agent's side of one connection.

    Args:
        key: The decoded `hmac_secret`.
        hello: What this runtime says about itself.
        ids: Makes frame ids of 1 to 64 characters.
        nonces: Makes nonces of 22 characters.
    Spec: wire-protocol.md 2 to 6, design.md 5.
    """

    __slots__ = ("_ack", "_hello", "_ids", "_key", "_nonces", "_opener", "_sealer", "_state")

    def __init__(
        self,
        *,
        key: bytes,
        hello: Hello,
        ids: Callable[[], str] = new_id,
        nonces: Callable[[], str] = new_nonce,
    ) -> None:
        self._key = key
        self._hello = hello
        self._ids = ids
        self._nonces = nonces
        self._state = SessionState.NEW
        self._ack: HelloAck | None = None
        self._sealer: FrameSealer | None = None
        self._opener: FrameOpener | None = None

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return self._state

    @property
    def ack(self) -> HelloAck | None:
        """The brain's answer to our hello; None before it came."""
        return self._ack

    def hello_frame(self, now: datetime) -> bytes:
        """The first frame of the connection.

        Args:
            now: Aware wall-clock time.
        Raises:
            LocalProtocolError: It was sent already, or the hello cannot be rendered.
        """
        state = self._next(SessionInput.HELLO)
        wire = self._hello.frame(now, frame_id=self._ids())
        self._state = state
        return wire

    def receive(self, data: bytes, now: datetime) -> list[SessionEvent]:
        """Check one received frame and say what it means.

        Args:
            data: One whole message.
            now: Aware wall-clock time.
        Returns:
            What happened, in order; may be acted upon.
        Raises:
            RemoteProtocolError: The frame must not be acted upon (`details["reason"]`); the session
                is closed now. Whatever the bytes are, nothing else is raised for them.
            LocalProtocolError: No hello was sent, or the session is closed.
        """
        self._next(SessionInput.RECEIVE)
        try:
            if self._opener is None:
                return [self._welcome(data, now)]
            return [session_event(self._opener.open(data, now))]
        except RemoteProtocolError:
            self._state = self._next(SessionInput.VIOLATION)
            raise

    def send_batch(self, events: Sequence[bytes], now: datetime) -> tuple[str, bytes]:
        """One `event_batch` frame around stored events.

        Args:
            events: Canonical JSON bytes of one event each; none at all makes a fence.
            now: Aware wall-clock time.
        Returns:
            The frame's id, which its acknowledgement will name, and the wire bytes.
        Raises:
            LocalProtocolError: Not live, too many events, or over the brain's frame size.
        """
        frame_id = self._ids()
        wire = self._send(FrameType.EVENT_BATCH, event_batch_payload(events), now, frame_id)
        return frame_id, wire

    def send_command_ack(self, command_id: str, claim_token: str | None, now: datetime) -> bytes:
        """Say that a command was taken.

        Args:
            command_id: The command frame's id.
            claim_token: The command's `delivery_claim_token`, echoed.
            now: Aware wall-clock time.
        Raises:
            LocalProtocolError: Not live.
        """
        payload = canonical_bytes({"delivery_claim_token": claim_token})
        return self._send(FrameType.COMMAND_ACK, payload, now, command_id)

    def send_command_result(self, command_id: str, payload: bytes, now: datetime) -> bytes:
        """Answer a command.

        Args:
            command_id: The command frame's id.
            payload: Stored bytes from `results.command_result_payload`.
            now: Aware wall-clock time.
        Raises:
            LocalProtocolError: Not live, over the brain's frame size, or a payload on which the
                brain would close the connection.
        """
        check_result_payload(payload)
        return self._send(FrameType.COMMAND_RESULT, payload, now, command_id)

    def send_heartbeat(self, payload: Mapping[str, object], now: datetime) -> bytes:
        """One `heartbeat` frame; see `frames.HeartbeatPayload`.

        Raises:
            LocalProtocolError: Not live, or `payload` is not JSON-safe with text keys.
        """
        return self._send(FrameType.HEARTBEAT, stable_bytes(payload), now, self._ids())

    def send_agent_status(self, payload: Mapping[str, object], now: datetime) -> bytes:
        """One `agent_status` frame, at most 12 a minute; see `frames.AgentStatusPayload`.

        Raises:
            LocalProtocolError: Not live, or `payload` is not JSON-safe with text keys.
        """
        return self._send(FrameType.AGENT_STATUS, stable_bytes(payload), now, self._ids())

    def send_registry_delta(self, payload: Mapping[str, object], now: datetime) -> bytes:
        """One `registry_delta` frame; see `frames.RegistryDeltaPayload`.

        Raises:
            LocalProtocolError: Not live, or `payload` is not JSON-safe with text keys.
        """
        return self._send(FrameType.REGISTRY_DELTA, stable_bytes(payload), now, self._ids())

    def send_error(self, payload: Mapping[str, object], now: datetime) -> bytes:
        """One `error` frame; see `frames.ErrorPayload`.

        Raises:
            LocalProtocolError: Not live, or `payload` is not JSON-safe with text keys.
        """
        return self._send(FrameType.ERROR, stable_bytes(payload), now, self._ids())

    def close(self) -> None:
        """The connection is gone, or is to go. Idempotent."""
        self._state = self._next(SessionInput.CLOSE)

    def _next(self, event: SessionInput) -> SessionState:
        try:
            return TRANSITIONS[self._state, event]
        except KeyError:
            raise LocalProtocolError(
                f"session cannot {event.value} while it is {self._state.value}"
            ) from None

    def _welcome(self, data: bytes, now: datetime) -> SessionEvent:
        ack = parse_hello_ack(data, now)
        self._sealer = FrameSealer(key=self._key, identity=ack.identity, nonces=self._nonces)
        self._opener = FrameOpener(key=self._key, identity=ack.identity)
        self._ack = ack
        self._state = self._next(SessionInput.WELCOME)
        return Welcomed(ack=ack)

    def _send(self, frame_type: FrameType, payload: bytes, now: datetime, frame_id: str) -> bytes:
        self._next(SessionInput.SEND)
        if self._sealer is None or self._ack is None:  # pragma: no cover - never while live
            raise LocalProtocolError("session has no identity yet")
        return self._sealer.seal(
            frame_type,
            payload,
            now,
            frame_id=frame_id,
            max_bytes=self._ack.max_frame_size_bytes,
        )
