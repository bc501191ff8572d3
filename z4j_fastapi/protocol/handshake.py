"""`hello` and `hello_ack`: who we are, and what the brain made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from z4j_fastapi.errors import LocalProtocolError
from z4j_fastapi.protocol.canonical import canonical_bytes
from z4j_fastapi.protocol.envelope import (
    Identity,
    frame_body,
    parse_frame,
    parse_ts,
    render_ts,
    unsigned_frame,
)
from z4j_fastapi.protocol.frames import FrameType, HelloPayload
from z4j_fastapi.protocol.violations import violation

#: The protocol this package speaks, as the handshake names it.
PROTOCOL_VERSION: Final = "2"

#: The z4j line this package implements, reported as `agent_version`; our own version is in `host`.
AGENT_VERSION: Final = "1.13.0"

_MAX_NAMES = 64
_MAX_NAME = 40
_MAX_TEXT = 64
_MAX_HEARTBEAT_SECONDS = 3_600
_MIN_FRAME_BYTES = 4_096
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What this runtime says about itself.

    Args:
        worker_id: At most 128 characters; unique per runtime, also for two in one process.
        worker_role: `web`, `task`, `scheduler`, `beat` or `other`; at most 32 characters.
        worker_pid: Process id.
        worker_started_at: Aware.
        engines: Names, at most 64 of at most 40 characters.
        schedulers: Names, at most 64 of at most 40 characters.
        capabilities: Adapter name to capability tokens, in any order.
        host: Free, JSON-safe; `name` is the display label.
        framework: At most 40 characters.
        agent_version: SemVer of the z4j line we implement, at most 40 characters.
        runtime_features: Such as `retry_by_reference`.
    Raises:
        LocalProtocolError: A bound is exceeded.
    Spec: wire-protocol.md 3.
    """

    worker_id: str
    worker_role: str
    worker_pid: int
    worker_started_at: datetime
    engines: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    capabilities: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, "tuple[str, ...]"]
    )
    host: Mapping[str, object] = field(default_factory=dict[str, object])
    framework: str = "fastapi"
    agent_version: str = AGENT_VERSION
    runtime_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("worker_id", self.worker_id, 128),
            ("worker_role", self.worker_role, 32),
            ("framework", self.framework, 40),
            ("agent_version", self.agent_version, 40),
        ):
            if not 0 < len(value) <= limit:
                raise LocalProtocolError(f"hello: {name} must have 1 to {limit} characters")
        for name, values in (("engines", self.engines), ("schedulers", self.schedulers)):
            if len(values) > _MAX_NAMES:
                raise LocalProtocolError(f"hello: at most {_MAX_NAMES} {name}")
            if not all(0 < len(value) <= _MAX_NAME for value in values):
                raise LocalProtocolError(f"hello: names of {name} have 1 to {_MAX_NAME} characters")

    def payload(self) -> HelloPayload:
        """The frame's payload."""
        return HelloPayload(
            protocol_version=PROTOCOL_VERSION,
            agent_version=self.agent_version,
            framework=self.framework,
            engines=list(self.engines),
            schedulers=list(self.schedulers),
            capabilities={name: sorted(tokens) for name, tokens in self.capabilities.items()},
            host=dict(self.host),
            worker_id=self.worker_id,
            worker_role=self.worker_role,
            worker_pid=self.worker_pid,
            worker_started_at=render_ts(self.worker_started_at),
            runtime_features=list(self.runtime_features),
        )

    def frame(self, now: datetime, *, frame_id: str) -> bytes:
        """The wire bytes of the `hello` frame.

        Args:
            now: Aware.
            frame_id: 1 to 64 characters.
        """
        return unsigned_frame(
            FrameType.HELLO, canonical_bytes(self.payload()), now, frame_id=frame_id
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAck:
    """What the brain answered.

    Args:
        protocol_version: `2`.
        brain_version: The brain's own version.
        agent_id: UUID text.
        project_id: UUID text.
        session_id: UUID text, fresh for this connection.
        heartbeat_interval_seconds: 1 to 3600.
        max_frame_size_bytes: Longest frame the brain takes.
        clock_offset_seconds: The brain's clock minus ours, transit included. Unsigned, so never
            acted upon, only shown: it tells clock skew from a wrong secret after a 4403.
    """

    protocol_version: str
    brain_version: str
    agent_id: str
    project_id: str
    session_id: str
    heartbeat_interval_seconds: int
    max_frame_size_bytes: int
    clock_offset_seconds: float

    @property
    def identity(self) -> Identity:
        """The members that are signed with every frame."""
        return Identity(
            agent_id=self.agent_id, project_id=self.project_id, session_id=self.session_id
        )


def parse_hello_ack(data: bytes, now: datetime) -> HelloAck:
    """Read and check the brain's answer to `hello`.

    Args:
        data: The first frame received.
        now: Aware wall-clock time.
    Raises:
        RemoteProtocolError: `malformed`, `version` (another protocol), or `handshake` (another
            frame, or values that cannot be).
    Spec: wire-protocol.md 3.
    """
    parsed = parse_frame(data)
    frame = frame_body(parsed)
    if frame.type != FrameType.HELLO_ACK:
        raise violation("handshake", "the brain's first frame is not hello_ack")
    payload = frame.payload
    version = _text(payload, "protocol_version")
    if version != PROTOCOL_VERSION:
        raise violation("version", "the brain speaks another protocol version than 2")
    return HelloAck(
        protocol_version=version,
        brain_version=_text(payload, "brain_version"),
        agent_id=_uuid(payload, "agent_id"),
        project_id=_uuid(payload, "project_id"),
        session_id=_uuid(payload, "session_id"),
        heartbeat_interval_seconds=_integer(
            payload, "heartbeat_interval_seconds", 1, _MAX_HEARTBEAT_SECONDS
        ),
        max_frame_size_bytes=_integer(payload, "max_frame_size_bytes", _MIN_FRAME_BYTES, 2**40),
        clock_offset_seconds=(parse_ts(parsed.get("ts")) - now).total_seconds(),
    )


def _text(payload: Mapping[str, object], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise violation(
            "handshake", f"hello_ack: {name} is not a text of 1 to {_MAX_TEXT} characters"
        )
    return value


def _uuid(payload: Mapping[str, object], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise violation("handshake", f"hello_ack: {name} is not a UUID")
    return value


def _integer(payload: Mapping[str, object], name: str, low: int, high: int) -> int:
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise violation("handshake", f"hello_ack: {name} is not an integer from {low} to {high}")
    return value
