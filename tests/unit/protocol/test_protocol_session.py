from __future__ import annotations

import itertools
import json

import pytest
from support.brain_side import KEY, NOW, BrainSide

from z4j_fastapi.errors import LocalProtocolError, RemoteProtocolError
from z4j_fastapi.protocol.handshake import Hello
from z4j_fastapi.protocol.results import command_result_payload
from z4j_fastapi.protocol.session import (
    TRANSITIONS,
    AgentSession,
    BatchAcked,
    CommandReceived,
    PeerError,
    SessionInput,
    SessionState,
    UnknownFrame,
    Welcomed,
)

HELLO = Hello(worker_id="w", worker_role="web", worker_pid=1, worker_started_at=NOW)
RESULT = command_result_payload(claim_token="t", result={})


def session_in(state, **brain_arguments):
    brain = BrainSide(**brain_arguments)
    numbers = itertools.count(1)
    session = AgentSession(key=KEY, hello=HELLO, ids=lambda: f"id_{next(numbers)}")
    if state is SessionState.NEW:
        return session, brain
    brain.read(session.hello_frame(NOW))
    if state is SessionState.AWAITING_ACK:
        return session, brain
    session.receive(brain.hello_ack(), NOW)
    if state is SessionState.CLOSED:
        session.close()
    assert session.state is state
    return session, brain


SENDERS = {
    "batch": lambda session: session.send_batch([b"{}"], NOW),
    "ack": lambda session: session.send_command_ack("c", "t", NOW),
    "result": lambda session: session.send_command_result("c", RESULT, NOW),
    "heartbeat": lambda session: session.send_heartbeat({}, NOW),
    "status": lambda session: session.send_agent_status({}, NOW),
    "registry": lambda session: session.send_registry_delta({}, NOW),
    "error": lambda session: session.send_error({}, NOW),
}


def violate(session, brain):
    with pytest.raises(RemoteProtocolError):
        session.receive(b"nonsense", NOW)


#: What a user of the session can do, and which inputs it stands for.
ACTIONS = {
    SessionInput.HELLO: lambda session, brain: session.hello_frame(NOW),
    SessionInput.CLOSE: lambda session, brain: session.close(),
    SessionInput.SEND: lambda session, brain: session.send_heartbeat({}, NOW),
    SessionInput.VIOLATION: violate,
    SessionInput.WELCOME: lambda session, brain: session.receive(brain.hello_ack(), NOW),
    SessionInput.RECEIVE: lambda session, brain: session.receive(brain.frame("new", {}), NOW),
}


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("event", [SessionInput.HELLO, SessionInput.CLOSE, SessionInput.SEND])
def test_session_when_we_act_in_any_state_then_follow_the_table(state, event):
    session, brain = session_in(state)
    target = TRANSITIONS.get((state, event))
    if target is None:
        with pytest.raises(LocalProtocolError, match=state.value):
            ACTIONS[event](session, brain)
        assert session.state is state
    else:
        ACTIONS[event](session, brain)
        assert session.state is target


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize(
    "event", [SessionInput.RECEIVE, SessionInput.WELCOME, SessionInput.VIOLATION]
)
def test_session_when_a_frame_comes_in_any_state_then_follow_the_table(state, event):
    session, brain = session_in(state)
    if state in (SessionState.NEW, SessionState.CLOSED):
        assert (state, event) not in TRANSITIONS
        with pytest.raises(LocalProtocolError):
            session.receive(brain.hello_ack(), NOW)
        assert session.state is state
    elif event is SessionInput.RECEIVE and state is SessionState.AWAITING_ACK:
        # Any frame but hello_ack breaks the handshake.
        with pytest.raises(RemoteProtocolError) as caught:
            ACTIONS[event](session, brain)
        assert caught.value.details["reason"] == "handshake"
        assert session.state is SessionState.CLOSED
    elif event is SessionInput.WELCOME and state is SessionState.LIVE:
        # Unsigned, so it can be nobody's but a stranger's.
        assert (state, event) not in TRANSITIONS
        with pytest.raises(RemoteProtocolError) as caught:
            ACTIONS[event](session, brain)
        assert caught.value.details["reason"] == "signature"
        assert session.state is SessionState.CLOSED
    else:
        ACTIONS[event](session, brain)
        assert session.state is TRANSITIONS[state, event]


def test_transitions_when_closed_then_there_is_no_way_back():
    for (state, _), target in TRANSITIONS.items():
        assert state is not SessionState.CLOSED or target is SessionState.CLOSED


@pytest.mark.parametrize("name", SENDERS)
@pytest.mark.parametrize(
    "state", [SessionState.NEW, SessionState.AWAITING_ACK, SessionState.CLOSED]
)
def test_send_when_not_live_then_refuse_and_change_nothing(name, state):
    session, _ = session_in(state)
    with pytest.raises(LocalProtocolError, match="cannot send"):
        SENDERS[name](session)
    assert session.state is state


def test_receive_when_hello_ack_then_welcomed_and_ack_is_known():
    session, brain = session_in(SessionState.AWAITING_ACK)
    assert session.ack is None
    (event,) = session.receive(brain.hello_ack(), NOW)
    assert event == Welcomed(ack=session.ack)
    assert session.ack.session_id == brain.session_id


def test_send_when_live_then_the_brain_accepts_every_type_in_order():
    session, brain = session_in(SessionState.LIVE)
    frame_id, wire = session.send_batch([b'{"a":1}', b'{"b":2}'], NOW)
    frames = [
        brain.read(wire),
        brain.read(session.send_command_ack("c1", "token", NOW)),
        brain.read(session.send_command_ack("c2", None, NOW)),
        brain.read(session.send_command_result("c1", RESULT, NOW)),
        brain.read(session.send_heartbeat({"buffer_size": 0}, NOW)),
        brain.read(session.send_agent_status({"buffer_depth": 0}, NOW)),
        brain.read(session.send_registry_delta({"engine": "arq"}, NOW)),
        brain.read(session.send_error({"code": "x", "message": "é", "fatal": False}, NOW)),
        brain.read(session.send_batch([], NOW)[1]),
    ]
    assert [(frame["type"], frame["payload"]) for frame in frames] == [
        ("event_batch", {"events": [{"a": 1}, {"b": 2}]}),
        ("command_ack", {"delivery_claim_token": "token"}),
        ("command_ack", {"delivery_claim_token": None}),
        ("command_result", json.loads(RESULT)),
        ("heartbeat", {"buffer_size": 0}),
        ("agent_status", {"buffer_depth": 0}),
        ("registry_delta", {"engine": "arq"}),
        ("error", {"code": "x", "message": "é", "fatal": False}),
        ("event_batch", {"events": []}),
    ]
    assert frames[0]["id"] == frame_id
    assert [frame["id"] for frame in frames[1:4]] == ["c1", "c2", "c1"]
    assert [frame["seq"] for frame in frames] == list(range(1, 10))


def test_receive_when_live_then_typed_values():
    session, brain = session_in(SessionState.LIVE)
    assert session.receive(brain.ack_batch("b1", 2), NOW) == [
        BatchAcked(frame_id="b1", received=2, accepted=2, rejected=0)
    ]
    assert session.receive(brain.frame("command", {"action": "x"}, id="c1"), NOW) == [
        CommandReceived(command_id="c1", payload={"action": "x"})
    ]
    error = {"code": "x", "message": "m", "fatal": True}
    assert session.receive(brain.frame("error", error), NOW) == [PeerError(**error)]
    assert session.receive(brain.frame("tea", {}), NOW) == [UnknownFrame(type="tea")]
    assert session.state is SessionState.LIVE


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda brain: b"\xff", "malformed"),
        (lambda brain: brain.frame("command", {}, v=1), "version"),
        (lambda brain: brain.frame("command", {}).replace(b"command", b"Command"), "signature"),
        (lambda brain: brain.frame("command", {}, ts="2026-11-24T05:00:00Z"), "clock"),
        (lambda brain: brain.frame("command", {}, seq=0), "replay"),
        (lambda brain: brain.frame("event_batch_ack", {}), "malformed"),
    ],
)
def test_receive_when_the_frame_must_not_be_acted_upon_then_closed(make, reason):
    session, brain = session_in(SessionState.LIVE)
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive(make(brain), NOW)
    assert caught.value.details["reason"] == reason
    assert session.state is SessionState.CLOSED
    with pytest.raises(LocalProtocolError):
        session.receive(brain.frame("command", {}), NOW)


def test_send_when_over_the_brains_frame_size_then_refuse_and_go_on():
    session, brain = session_in(SessionState.LIVE, max_frame_size_bytes=5_000)
    with pytest.raises(LocalProtocolError) as caught:
        session.send_batch([b'{"a":"' + b"x" * 5_000 + b'"}'], NOW)
    assert caught.value.details["limit_bytes"] == 5_000
    assert brain.read(session.send_batch([b"{}"], NOW)[1])["seq"] == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.send_heartbeat({1: 2}, NOW),
        lambda session: session.send_heartbeat({"a": {1}}, NOW),
        lambda session: session.send_command_result("c", b'{"status":"ok"}', NOW),
        lambda session: session.send_command_result("", RESULT, NOW),
        lambda session: session.send_command_ack("x" * 65, None, NOW),
        lambda session: session.send_batch([b"{}"] * 5_001, NOW),
        lambda session: session.send_batch([], NOW.replace(tzinfo=None)),
    ],
)
def test_send_when_arguments_are_wrong_then_refuse_and_use_up_no_number(call):
    session, brain = session_in(SessionState.LIVE)
    with pytest.raises(LocalProtocolError):
        call(session)
    assert session.state is SessionState.LIVE
    assert brain.read(session.send_heartbeat({}, NOW))["seq"] == 1


def test_hello_frame_when_it_cannot_be_rendered_then_still_new():
    bad = Hello(
        worker_id="w",
        worker_role="web",
        worker_pid=1,
        worker_started_at=NOW,
        host={"x": object()},
    )
    session = AgentSession(key=KEY, hello=bad)
    with pytest.raises(LocalProtocolError):
        session.hello_frame(NOW)
    assert session.state is SessionState.NEW


def test_session_when_default_factories_then_uuid_ids_and_fresh_nonces():
    brain = BrainSide()
    session = AgentSession(key=KEY, hello=HELLO)
    assert len(brain.read(session.hello_frame(NOW))["id"]) == 36
    session.receive(brain.hello_ack(), NOW)
    frames = [brain.read(session.send_heartbeat({}, NOW)) for _ in range(3)]
    assert len({frame["nonce"] for frame in frames}) == 3
    assert len({frame["id"] for frame in frames}) == 3


def test_session_when_printed_then_the_key_does_not_show():
    session, _ = session_in(SessionState.LIVE)
    assert repr(KEY) not in repr(session)
    assert KEY.hex() not in repr(session)
