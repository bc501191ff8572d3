from __future__ import annotations

import pytest

from z4j_fastapi.errors import RemoteProtocolError
from z4j_fastapi.protocol.envelope import Frame
from z4j_fastapi.protocol.session_events import (
    BatchAcked,
    CommandReceived,
    PeerError,
    UnknownFrame,
    session_event,
)


def event(frame_type, payload):
    return session_event(Frame(type=frame_type, id="f1", payload=payload))


def test_session_event_when_command_then_id_and_payload():
    assert event("command", {"action": "x"}) == CommandReceived(
        command_id="f1", payload={"action": "x"}
    )


def test_session_event_when_batch_ack_then_counts():
    payload = {"acked_id": "b1", "received": 3, "accepted": 2, "rejected": 1}
    assert event("event_batch_ack", payload) == BatchAcked(
        frame_id="b1", received=3, accepted=2, rejected=1
    )


@pytest.mark.parametrize("strange", [None, True, -1, "3", 1.5])
def test_session_event_when_counts_are_strange_then_zero(strange):
    payload = {"acked_id": "b1", "received": strange, "accepted": strange}
    assert event("event_batch_ack", payload) == BatchAcked(
        frame_id="b1", received=0, accepted=0, rejected=0
    )


@pytest.mark.parametrize("acked_id", [None, 5, ["b1"]])
def test_session_event_when_ack_names_no_frame_then_malformed(acked_id):
    with pytest.raises(RemoteProtocolError) as caught:
        event("event_batch_ack", {"acked_id": acked_id})
    assert caught.value.details["reason"] == "malformed"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            {"code": "a", "message": "b", "fatal": True},
            PeerError(code="a", message="b", fatal=True),
        ),
        ({}, PeerError(code="", message="", fatal=False)),
        ({"code": 5, "message": None, "fatal": 1}, PeerError(code="", message="", fatal=False)),
        (
            {"code": "c" * 600, "message": "m" * 600},
            PeerError(code="c" * 500, message="m" * 500, fatal=False),
        ),
    ],
)
def test_session_event_when_error_then_bounded_texts(payload, expected):
    assert event("error", payload) == expected


@pytest.mark.parametrize("frame_type", ["tea_break", "hello_ack", "heartbeat", ""])
def test_session_event_when_type_is_not_for_an_agent_then_unknown(frame_type):
    assert event(frame_type, {}) == UnknownFrame(type=frame_type)
