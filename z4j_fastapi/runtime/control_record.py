"""How command acknowledgements and results lie in the outbox's results lane.

Three lines: the frame type, the command id as JSON, the payload as canonical JSON, whose bytes are
spliced into the signed frame as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from z4j_fastapi.protocol.canonical import canonical_bytes

ACK = b"command_ack"
RESULT = b"command_result"


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """One stored answer to a command."""

    frame_type: bytes
    command_id: str
    payload: bytes

    @property
    def claim_token(self) -> str | None:
        """The token of an acknowledgement.

        Raises:
            ValueError: The payload is not one of an acknowledgement.
        """
        payload: object = json.loads(self.payload)
        if not isinstance(payload, dict):
            raise ValueError("not a command_ack")  # noqa: TRY004 - a damaged record
        return cast("dict[str, str | None]", payload).get("delivery_claim_token")


def encode(frame_type: bytes, command_id: str, payload: Mapping[str, object] | bytes) -> bytes:
    """Render an answer for the outbox.

    Args:
        frame_type: `ACK` or `RESULT`.
        command_id: 1 to 64 characters.
        payload: The frame's payload, or its canonical bytes.
    """
    body = payload if isinstance(payload, bytes) else canonical_bytes(dict(payload))
    return b"%b\n%b\n%b" % (frame_type, canonical_bytes(command_id), body)


def decode(record: bytes) -> ControlRecord:
    """The stored answer.

    Raises:
        ValueError: The record is not one of ours.
    """
    frame_type, name, payload = record.split(b"\n", 2)
    command_id = json.loads(name)
    if frame_type not in (ACK, RESULT) or not isinstance(command_id, str):
        raise ValueError("unknown control record")
    return ControlRecord(frame_type, command_id, payload)
