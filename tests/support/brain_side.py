"""The brain's side of one connection, written from the specification alone.

It shares no code with `z4j_fastapi.protocol`: plain `json` and `hmac`, so that a mistake in our
rendering or signing cannot cancel itself out. Like the brain it does not sort the members it sends.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from datetime import datetime, timezone

KEY = bytes(range(32))
AGENT_ID = "00000000-0000-4000-8000-00000000000a"
PROJECT_ID = "00000000-0000-4000-8000-00000000000b"
NOW = datetime(2026, 11, 24, 6, 0, tzinfo=timezone.utc)


def plain_json(value):
    """What CPython renders, by one call."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


class BrainSide:
    """Signs frames to the agent and checks the agent's."""

    def __init__(self, *, key=KEY, session_id=None, max_frame_size_bytes=1_048_576):
        self.key = key
        self.agent_id = AGENT_ID
        self.project_id = PROJECT_ID
        self.session_id = session_id or str(uuid.uuid4())
        self.max_frame_size_bytes = max_frame_size_bytes
        self.sent = 0
        self.received = 0
        self.nonces = set()

    def signature(self, frame):
        signed = {name: value for name, value in frame.items() if name != "hmac"}
        signed |= {
            "agent_id": self.agent_id,
            "project_id": self.project_id,
            "session_id": self.session_id,
        }
        return hmac.new(self.key, plain_json(signed), hashlib.sha256).hexdigest()

    def hello_ack(self, now=NOW, **changes):
        payload = {
            "protocol_version": "2",
            "brain_version": "1.13.0",
            "agent_id": self.agent_id,
            "project_id": self.project_id,
            "session_id": self.session_id,
            "heartbeat_interval_seconds": 10,
            "max_frame_size_bytes": self.max_frame_size_bytes,
            "something_new": True,
        } | changes
        frame = {
            "v": 2,
            "type": "hello_ack",
            "id": "ack_1",
            "ts": now.isoformat(),
            "payload": {name: value for name, value in payload.items() if value is not ...},
        }
        return json.dumps(frame).encode()

    def frame(self, frame_type, payload, now=NOW, /, **changes):
        """One signed frame; `changes` replace or add members before it is signed, `...` removes."""
        self.sent += 1
        frame = {
            "v": 2,
            "id": str(uuid.uuid4()),
            "ts": now.isoformat().replace("+00:00", "Z"),
            "nonce": f"brain-nonce-{self.sent:010d}",
            "seq": self.sent,
            "type": frame_type,
            "payload": payload,
        } | changes
        frame = {name: value for name, value in frame.items() if value is not ...}
        frame["hmac"] = self.signature(frame)
        return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()

    def ack_batch(self, frame_id, count, now=NOW):
        return self.frame(
            "event_batch_ack",
            {"acked_id": frame_id, "received": count, "accepted": count, "rejected": 0},
            now,
        )

    def read(self, data, now=NOW):
        """Check an agent frame as the brain does and return it."""
        frame = json.loads(data)
        assert frame["v"] == 2
        assert 0 < len(frame["id"]) <= 64
        at = datetime.fromisoformat(frame["ts"].replace("Z", "+00:00"))
        assert at.utcoffset() is not None
        assert abs((now - at).total_seconds()) <= 60
        assert len(data) <= self.max_frame_size_bytes
        if frame["type"] == "hello":
            assert set(frame) == {"v", "type", "id", "ts", "payload"}
            return frame
        assert hmac.compare_digest(self.signature(frame), frame["hmac"])
        assert frame["seq"] > self.received
        assert len(frame["nonce"]) == 22
        assert frame["nonce"] not in self.nonces
        self.received = frame["seq"]
        self.nonces.add(frame["nonce"])
        return frame
