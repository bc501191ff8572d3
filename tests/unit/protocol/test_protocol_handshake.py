from __future__ import annotations

from datetime import timedelta

import pytest
from support.brain_side import NOW, BrainSide

from z4j_fastapi.errors import LocalProtocolError, RemoteProtocolError
from z4j_fastapi.protocol.handshake import Hello, parse_hello_ack


def hello(**changes):
    return Hello(
        **{
            "worker_id": "fastapi-1-1795500000000",
            "worker_role": "web",
            "worker_pid": 1,
            "worker_started_at": NOW,
        }
        | changes
    )


def test_hello_frame_when_rendered_then_all_members_and_no_signature():
    frame = BrainSide().read(
        hello(
            engines=("arq", "taskiq"),
            capabilities={"taskiq": ("retry_task", "cancel_task"), "arq": ()},
            host={"name": "shop"},
            runtime_features=("retry_by_reference",),
        ).frame(NOW, frame_id="h1")
    )
    assert frame["type"] == "hello"
    assert frame["id"] == "h1"
    assert frame["payload"] == {
        "protocol_version": "2",
        "agent_version": "1.13.0",
        "framework": "fastapi",
        "engines": ["arq", "taskiq"],
        "schedulers": [],
        "capabilities": {"arq": [], "taskiq": ["cancel_task", "retry_task"]},
        "host": {"name": "shop"},
        "worker_id": "fastapi-1-1795500000000",
        "worker_role": "web",
        "worker_pid": 1,
        "worker_started_at": "2026-11-24T06:00:00.000000Z",
        "runtime_features": ["retry_by_reference"],
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"worker_id": ""},
        {"worker_id": "x" * 129},
        {"worker_role": "x" * 33},
        {"framework": ""},
        {"agent_version": "x" * 41},
        {"engines": tuple(map(str, range(65)))},
        {"schedulers": tuple(map(str, range(65)))},
        {"engines": ("",)},
        {"schedulers": ("x" * 41,)},
    ],
)
def test_hello_when_a_bound_is_exceeded_then_raise_local_error(changes):
    with pytest.raises(LocalProtocolError, match=next(iter(changes))):
        hello(**changes)


def test_hello_when_at_the_bounds_then_accept():
    names = tuple(f"{n:040d}" for n in range(64))
    hello(worker_id="x" * 128, worker_role="x" * 32, engines=names, schedulers=names)


def test_parse_hello_ack_when_good_then_all_values():
    brain = BrainSide()
    ack = parse_hello_ack(brain.hello_ack(NOW + timedelta(seconds=90)), NOW)
    assert ack.protocol_version == "2"
    assert ack.brain_version == "1.13.0"
    assert ack.heartbeat_interval_seconds == 10
    assert ack.max_frame_size_bytes == 1_048_576
    assert ack.clock_offset_seconds == 90
    assert (ack.identity.agent_id, ack.identity.project_id, ack.identity.session_id) == (
        brain.agent_id,
        brain.project_id,
        brain.session_id,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brain_version", ...),
        ("brain_version", 5),
        ("brain_version", ""),
        ("brain_version", "x" * 65),
        ("protocol_version", ...),
        ("protocol_version", 2),
        ("agent_id", ...),
        ("agent_id", "shop"),
        ("agent_id", 5),
        ("project_id", "shop"),
        ("session_id", "00000000-0000-4000-8000-00000000000a\n"),
        ("heartbeat_interval_seconds", 0),
        ("heartbeat_interval_seconds", 3601),
        ("heartbeat_interval_seconds", True),
        ("heartbeat_interval_seconds", 10.0),
        ("max_frame_size_bytes", 4095),
        ("max_frame_size_bytes", ...),
    ],
)
def test_parse_hello_ack_when_a_value_cannot_be_then_refuse_as_handshake(name, value):
    with pytest.raises(RemoteProtocolError, match=name) as caught:
        parse_hello_ack(BrainSide().hello_ack(**{name: value}), NOW)
    assert caught.value.details["reason"] == "handshake"


def test_parse_hello_ack_when_another_protocol_then_refuse_as_version():
    with pytest.raises(RemoteProtocolError) as caught:
        parse_hello_ack(BrainSide().hello_ack(protocol_version="3"), NOW)
    assert caught.value.details["reason"] == "version"


def test_parse_hello_ack_when_another_frame_then_refuse_as_handshake():
    with pytest.raises(RemoteProtocolError) as caught:
        parse_hello_ack(BrainSide().frame("command", {}), NOW)
    assert caught.value.details["reason"] == "handshake"


def test_parse_hello_ack_when_bounds_are_met_then_accept():
    ack = parse_hello_ack(
        BrainSide().hello_ack(heartbeat_interval_seconds=3600, max_frame_size_bytes=4096), NOW
    )
    assert (ack.heartbeat_interval_seconds, ack.max_frame_size_bytes) == (3600, 4096)
