"""The protocol package alone against the real brain, over a plain WebSocket client."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from z4j_fastapi.errors import Failure
from z4j_fastapi.protocol.canonical import canonical_bytes
from z4j_fastapi.protocol.close_codes import classify_close
from z4j_fastapi.protocol.commands import CancelTask, parse_command
from z4j_fastapi.protocol.flow import FlowController
from z4j_fastapi.protocol.handshake import Hello
from z4j_fastapi.protocol.results import command_result_payload
from z4j_fastapi.protocol.session import (
    AgentSession,
    BatchAcked,
    CommandReceived,
    SessionState,
    Welcomed,
)
from z4j_fastapi.settings import decode_hmac_secret

pytestmark = pytest.mark.brain

WAIT_SECONDS = 30.0


def now():
    return datetime.now(timezone.utc)


def event_bytes(task_id, **data):
    return canonical_bytes(
        {
            "id": str(uuid.uuid4()),
            "engine": "arq",
            "task_id": task_id,
            "kind": "task.received",
            "occurred_at": now().isoformat(),
            "data": {"task_name": "shop.charge", "queue": "q"} | data,
        }
    )


class Wire:
    """One connection and its session."""

    def __init__(self, socket, session):
        self.socket = socket
        self.session = session
        self.seen = []

    def send(self, data):
        self.socket.send(data)

    def next(self, kind):
        """The next value of this kind; others are kept."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            data = self.socket.recv(timeout=deadline - time.monotonic(), decode=False)
            for event in self.session.receive(data, now()):
                self.seen.append(event)
                if isinstance(event, kind):
                    return event

    def close_code(self):
        with pytest.raises(ConnectionClosed) as caught:
            self.next(Nothing)
        return caught.value.rcvd.code


class Nothing:
    """Never comes: waiting for it reads until the connection closes."""


@contextmanager
def wire(credentials, *, secret=None, token=None):
    hello = Hello(
        worker_id=f"fastapi-{uuid.uuid4()}",
        worker_role="web",
        worker_pid=1,
        worker_started_at=now(),
        engines=("arq",),
        capabilities={"arq": ("cancel_task", "bulk_retry", "retry_by_reference_v1")},
        host={"name": "box", "python": "3"},
        runtime_features=("retry_by_reference",),
    )
    session = AgentSession(key=decode_hmac_secret(secret or credentials.hmac_secret), hello=hello)
    url = credentials.brain_url.replace("http", "ws", 1).rstrip("/") + "/ws/agent"
    headers = {"Authorization": f"Bearer {token or credentials.token}"}
    with connect(url, additional_headers=headers, compression=None, proxy=None) as socket:
        yield Wire(socket, session)


def welcomed(line):
    line.send(line.session.hello_frame(now()))
    assert line.next(Welcomed).ack.brain_version == "1.13.0"
    assert line.session.state is SessionState.LIVE


def test_session_when_the_brain_answers_then_every_frame_of_ours_is_accepted(brain_project):
    agent = brain_project.mint_agent()
    awkward = {
        "args": [1e16, 1e-07, -0.0, 1.0, 5e-324, 1.7976931348623157e308, 2**70, -(2**63)],
        "kwargs": {
            "\u00e9": "\U0001f600\u2028\x7f\ud800",
            "\uffff": 'a\\b"/\n',
            "": {"b": [], "a": {}},
        },
    }
    with wire(agent) as line:
        welcomed(line)
        session = line.session
        line.send(session.send_heartbeat({"buffer_size": 0, "adapter_health": {"a": "ok"}}, now()))
        status = {"buffer_depth": 0, "current_session_age_seconds": 0.5, "engines": ["arq"]}
        line.send(session.send_agent_status(status, now()))
        task = {"name": "shop.charge", "engine": "arq", "module": "shop", "tags": []}
        delta = {"engine": "arq", "added": [task], "updated": [], "removed": []}
        line.send(session.send_registry_delta(delta, now()))
        events = [event_bytes("t1", **awkward), event_bytes("t2")]
        frame_id, data = session.send_batch(events, now())
        line.send(data)
        assert line.next(BatchAcked) == BatchAcked(
            frame_id=frame_id, received=2, accepted=2, rejected=0
        )
        again_id, data = session.send_batch(events, now())
        line.send(data)
        assert line.next(BatchAcked) == BatchAcked(
            frame_id=again_id, received=2, accepted=0, rejected=2
        )
        fence_id, data = session.send_batch([], now())
        line.send(data)
        assert line.next(BatchAcked).frame_id == fence_id
    row = brain_project.task("arq", "t1")
    assert (row["name"], row["queue"], row["state"]) == ("shop.charge", "q", "received")


def test_session_when_a_command_comes_then_its_result_reaches_the_row(brain_project):
    agent = brain_project.mint_agent()
    with wire(agent) as line:
        welcomed(line)
        session = line.session
        line.send(session.send_batch([event_bytes("t1")], now())[1])
        line.next(BatchAcked)
        row = brain_project.command(
            "cancel-task", agent.agent_id, engine="arq", task_id="t1", wait_seconds=None
        )
        received = line.next(CommandReceived)
        assert received.command_id == row["id"]
        command = parse_command(received.command_id, received.payload)
        assert isinstance(command, CancelTask)
        assert (command.engine, command.task_id) == ("arq", "t1")
        line.send(session.send_command_ack(command.id, command.claim_token, now()))
        result = command_result_payload(
            claim_token=command.claim_token, result={"task_id": "t1", "removed": True, "x": 1e16}
        )
        line.send(session.send_command_result(command.id, result, now()))
        ended = brain_project.wait_command(row["id"])
    assert ended["status"] == "completed"
    assert ended["result"] == {"task_id": "t1", "removed": True, "x": 1e16}


def test_session_when_a_command_fails_then_the_row_says_why(brain_project):
    agent = brain_project.mint_agent()
    with wire(agent) as line:
        welcomed(line)
        row = brain_project.command(
            "cancel-task", agent.agent_id, engine="arq", task_id="t1", wait_seconds=None
        )
        command_id = line.next(CommandReceived).command_id
        result = command_result_payload(
            claim_token=None, result=None, error="not_found: no such job\x00"
        )
        line.send(line.session.send_command_result(command_id, result, now()))
        ended = brain_project.wait_command(row["id"])
    assert (ended["status"], ended["error"]) == ("failed", "not_found: no such job\ufffd")


@pytest.mark.parametrize("trouble", ["secret", "replay", "clock", "tampered"])
def test_session_when_the_brain_refuses_a_frame_then_4403_after_the_handshake(
    brain_project, trouble
):
    agent = brain_project.mint_agent()
    with wire(agent, secret="A" * 43 if trouble == "secret" else None) as line:
        welcomed(line)
        at = now() - timedelta(seconds=90) if trouble == "clock" else now()
        data = line.session.send_heartbeat({"buffer_size": 0}, at)
        if trouble == "tampered":
            data = data.replace(b'"buffer_size":0', b'"buffer_size":1')
        line.send(data)
        if trouble == "replay":
            line.send(data)
        code = line.close_code()
    verdict = classify_close(code, handshake_done=True)
    assert (code, verdict.failure) == (4403, Failure.AUTH)
    assert "hmac_secret" in verdict.summary


def test_session_when_the_token_is_unknown_then_4401(brain_project):
    agent = brain_project.mint_agent()
    with wire(agent, token=agent.token[:-4] + "AAAA") as line:
        line.send(line.session.hello_frame(now()))
        code = line.close_code()
    assert (code, classify_close(code, handshake_done=False).failure) == (4401, Failure.AUTH)


def test_session_when_the_protocol_version_is_another_then_4426(brain_project):
    agent = brain_project.mint_agent()
    with wire(agent) as line:
        hello = json.loads(line.session.hello_frame(now()))
        hello["payload"]["protocol_version"] = "3"
        line.send(json.dumps(hello).encode())
        code = line.close_code()
    assert (code, classify_close(code, handshake_done=False).failure) == (4426, Failure.TERMINAL)


def test_flow_when_the_brain_is_on_sqlite_then_about_a_second_of_work_is_in_flight(brain_project):
    agent = brain_project.mint_agent()
    total = 250
    events = [event_bytes(f"t{n}", args=["x" * 700]) for n in range(total)]
    with wire(agent) as line:
        welcomed(line)
        flow = FlowController(max_frame_size_bytes=line.session.ack.max_frame_size_bytes)
        sent = settled = most_events = 0
        started = time.monotonic()
        while settled < total:
            while sent < total and (limits := flow.next_batch_limits(time.monotonic())):
                batch = events[sent : sent + limits[0]]
                frame_id, data = line.session.send_batch(batch, now())
                line.send(data)
                flow.sent(frame_id, len(batch), sum(map(len, batch)), time.monotonic())
                sent += len(batch)
                most_events = max(most_events, flow.in_flight_events)
            acknowledged = flow.acked(line.next(BatchAcked).frame_id, time.monotonic())
            assert acknowledged.withheld == ()
            settled += acknowledged.events
        pace = total / (time.monotonic() - started)
    assert flow.deadline is None
    # However fast this machine is: never much more than a second of the pace it showed.
    assert most_events <= max(3 * pace, 100)
    assert brain_project.count_tasks() == total
