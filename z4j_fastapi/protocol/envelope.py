"""The envelope of every frame: members, ids, nonces, numbers; sealing and opening.

A sealed frame's wire bytes are its canonical rendering with `hmac` in its sorted place, so nothing
is serialised twice:

    signed  {agent_id, id, nonce, payload, project_id, seq, session_id, ts, type, v}
    wire    {hmac,     id, nonce, payload,             seq,             ts, type, v}
"""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import cast

from z4j_fastapi.errors import LocalProtocolError
from z4j_fastapi.protocol.canonical import canonical_bytes, parse, rerender
from z4j_fastapi.protocol.replay import ReplayGuard
from z4j_fastapi.protocol.signing import sign, verify
from z4j_fastapi.protocol.violations import violation

#: The envelope's `v`.
ENVELOPE_VERSION = 2

#: More than any envelope of ours adds to its payload.
ENVELOPE_BYTES = 1_024

_ID_LENGTH = 64
_NONCE_LENGTH = 32
_IDENTITY_MEMBERS = ("agent_id", "project_id", "session_id")
_TS = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:(Z)|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The three members that are signed but never travel, as `hello_ack` gave them."""

    agent_id: str
    project_id: str
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A received frame that passed every check."""

    type: str
    id: str
    payload: dict[str, object]


def new_id() -> str:
    """A fresh frame id: the text of a random UUID."""
    return str(uuid.uuid4())


def new_nonce() -> str:
    """A fresh nonce: 16 random bytes as 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()


def render_ts(now: datetime) -> str:
    """`now` as the wire writes times: ISO 8601 in UTC with microseconds and `Z`.

    Args:
        now: Aware.
    Raises:
        LocalProtocolError: `now` is naive.
    """
    if now.utcoffset() is None:
        raise LocalProtocolError("frame times must be aware")
    text = now.astimezone(timezone.utc).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"


def parse_ts(value: object) -> datetime:
    """Read a time with an explicit offset or `Z`; digits beyond microseconds are cut.

    Raises:
        RemoteProtocolError: `malformed`: not such a text, naive, or no such time.
    """
    match = _TS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise violation("malformed", "frame's ts is not ISO 8601 with an offset")
    fraction = (match[7] or "")[:6].ljust(6, "0")
    offset = timedelta(0)
    if match[8] is None:
        offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
    try:
        return datetime(
            int(match[1]),
            int(match[2]),
            int(match[3]),
            int(match[4]),
            int(match[5]),
            int(match[6]),
            int(fraction),
            timezone(-offset if match[9] == "-" else offset),
        )
    except ValueError:
        raise violation("malformed", "frame's ts is no such time") from None


def parse_frame(data: bytes) -> dict[str, object]:
    """Read one frame as far as it can be judged before its signature.

    Raises:
        RemoteProtocolError: `malformed` or `version`.
    """
    frame = parse(data)
    version = frame.get("v")
    if not isinstance(version, int) or isinstance(version, bool) or version != ENVELOPE_VERSION:
        raise violation("version", "frame's v is not 2")
    if not isinstance(frame.get("type"), str):
        raise violation("malformed", "frame's type is not a text")
    return frame


def frame_body(frame: dict[str, object]) -> Frame:
    """Type, id and payload of a parsed frame.

    Raises:
        RemoteProtocolError: `malformed`: no id of 1 to 64 characters, or no payload object.
    """
    frame_id = frame.get("id")
    payload = frame.get("payload")
    if not isinstance(frame_id, str) or not 0 < len(frame_id) <= _ID_LENGTH:
        raise violation("malformed", "frame's id is not a text of 1 to 64 characters")
    if not isinstance(payload, dict):
        raise violation("malformed", "frame's payload is not an object")
    return Frame(type=str(frame["type"]), id=frame_id, payload=cast("dict[str, object]", payload))


def unsigned_frame(frame_type: str, payload: bytes, now: datetime, *, frame_id: str) -> bytes:
    """Render a `hello` or `hello_ack`.

    Args:
        frame_type: The frame's `type`.
        payload: Canonical JSON bytes of the payload object.
        now: Aware.
        frame_id: 1 to 64 characters.
    Raises:
        LocalProtocolError: Bad id, or `now` is naive.
    """
    return b'{"id":%b,"payload":%b,"ts":"%b","type":%b,"v":2}' % (
        _id_bytes(frame_id),
        payload,
        render_ts(now).encode(),
        canonical_bytes(frame_type),
    )


def _id_bytes(frame_id: str) -> bytes:
    if not 0 < len(frame_id) <= _ID_LENGTH:
        raise LocalProtocolError("frame ids have 1 to 64 characters")
    return canonical_bytes(frame_id)


class FrameSealer:
    """Signs one direction of one session: numbers from 1 on, a fresh nonce each.

    Args:
        key: The decoded `hmac_secret`.
        identity: From `hello_ack`.
        nonces: Makes nonces; injected by tests.
    """

    __slots__ = ("_agent", "_key", "_nonces", "_project", "_seq", "_session")

    def __init__(
        self, *, key: bytes, identity: Identity, nonces: Callable[[], str] = new_nonce
    ) -> None:
        self._key = key
        self._nonces = nonces
        self._seq = 0
        self._agent = canonical_bytes(identity.agent_id)
        self._project = canonical_bytes(identity.project_id)
        self._session = canonical_bytes(identity.session_id)

    def seal(
        self,
        frame_type: str,
        payload: bytes,
        now: datetime,
        *,
        frame_id: str,
        max_bytes: int | None = None,
    ) -> bytes:
        """The wire bytes of one signed frame. A refused one uses up no number.

        Args:
            frame_type: The frame's `type`.
            payload: Canonical JSON bytes of the payload object; goes out as it is.
            now: Aware.
            frame_id: 1 to 64 characters.
            max_bytes: The peer's limit for a whole frame.
        Raises:
            LocalProtocolError: Bad id, naive time, or over `max_bytes` (`details["size_bytes"]`).
        """
        seq = self._seq + 1
        head = b'"id":%b,"nonce":%b,"payload":' % (
            _id_bytes(frame_id),
            canonical_bytes(self._nonces()),
        )
        number = b',"seq":%d' % seq
        tail = b',"ts":"%b","type":%b,"v":2}' % (
            render_ts(now).encode(),
            canonical_bytes(frame_type),
        )
        signature = sign(
            self._key,
            b'{"agent_id":%b,' % self._agent,
            head,
            payload,
            b',"project_id":%b' % self._project,
            number,
            b',"session_id":%b' % self._session,
            tail,
        )
        wire = b"".join((b'{"hmac":"%b",' % signature.encode(), head, payload, number, tail))
        if max_bytes is not None and len(wire) > max_bytes:
            raise LocalProtocolError(
                f"frame of {len(wire)} bytes is over the peer's limit of {max_bytes}",
                details={"size_bytes": len(wire), "limit_bytes": max_bytes},
            )
        self._seq = seq
        return wire


class FrameOpener:
    """Checks one direction of one session.

    Args:
        key: The decoded `hmac_secret`.
        identity: From `hello_ack`.
    """

    __slots__ = ("_identity", "_key", "_replay")

    def __init__(self, *, key: bytes, identity: Identity) -> None:
        self._key = key
        self._identity = identity
        self._replay = ReplayGuard()

    def open(self, data: bytes, now: datetime) -> Frame:
        """Everything that must hold before a frame may be acted upon, in the spec's order.

        Nothing about replay state changes unless all of it holds.

        Args:
            data: The frame as received; its members may come in any order.
            now: Aware wall-clock time.
        Raises:
            RemoteProtocolError: `malformed`, `version`, `signature`, `clock` or `replay`. Whatever
                the bytes are, nothing else is raised.
        Spec: wire-protocol.md 2, "Receiving".
        """
        frame = parse_frame(data)
        signature = frame.pop("hmac", None)
        if any(member in frame for member in _IDENTITY_MEMBERS):
            # These never travel; letting ours replace them would let unsigned bytes pass.
            raise violation("signature", "frame carries members that are never sent")
        signed = rerender(
            {
                **frame,
                "agent_id": self._identity.agent_id,
                "project_id": self._identity.project_id,
                "session_id": self._identity.session_id,
            }
        )
        if not verify(self._key, signed, signature):
            raise violation(
                "signature", "frame's signature does not hold: wrong hmac_secret, or tampered with"
            )
        body = frame_body(frame)
        ts = parse_ts(frame.get("ts"))
        seq = frame.get("seq")
        nonce = frame.get("nonce")
        if not isinstance(seq, int) or isinstance(seq, bool):
            raise violation("malformed", "frame's seq is not an integer")
        if not isinstance(nonce, str) or not 0 < len(nonce) <= _NONCE_LENGTH:
            raise violation("malformed", "frame's nonce is not a text of 1 to 32 characters")
        self._replay.accept(seq=seq, nonce=nonce, ts=ts, now=now)
        return body
