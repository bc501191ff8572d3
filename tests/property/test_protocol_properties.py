"""Properties of the protocol package, against a brain's side that shares no code with it."""

from __future__ import annotations

import json
import math
import random
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.brain_side import KEY, NOW, BrainSide, plain_json
from support.vectors import recorded_frames

from z4j_fastapi.errors import CommandError, Failure, RemoteProtocolError
from z4j_fastapi.protocol.backoff import Backoff
from z4j_fastapi.protocol.batch import event_batch_payload
from z4j_fastapi.protocol.canonical import canonical_bytes, parse, stable_bytes
from z4j_fastapi.protocol.commands import KNOWN_ACTIONS, Command, parse_command, parse_envelope
from z4j_fastapi.protocol.envelope import FrameOpener, Identity, parse_ts
from z4j_fastapi.protocol.flow import FlowController
from z4j_fastapi.protocol.handshake import Hello
from z4j_fastapi.protocol.results import check_result_payload, command_result_payload
from z4j_fastapi.protocol.session import AgentSession, CommandReceived, SessionState
from z4j_fastapi.settings import decode_hmac_secret

ANY_TEXT = st.text(st.characters(codec=None))  # lone surrogates included
TEXT = st.text()  # without them
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63, max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
)


def json_values(text, leaves=12):
    return st.recursive(
        SCALARS | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=leaves,
    )


def json_objects(text):
    return st.dictionaries(text, json_values(text), max_size=5)


VALUES = json_values(TEXT)
OBJECTS = json_objects(TEXT)
HELLO = Hello(worker_id="w", worker_role="web", worker_pid=1, worker_started_at=NOW)


def live():
    brain = BrainSide()
    session = AgentSession(key=KEY, hello=HELLO)
    brain.read(session.hello_frame(NOW))
    session.receive(brain.hello_ack(), NOW)
    return session, brain


def refused(session, data, now=NOW):
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive(data, now)
    assert session.state is SessionState.CLOSED
    return caught.value.details["reason"]


@given(VALUES)
def test_canonical_bytes_when_any_value_then_as_cpython_and_stable(value):
    rendered = canonical_bytes(value)
    assert rendered == plain_json(value)
    assert canonical_bytes(json.loads(rendered)) == rendered


@given(json_objects(ANY_TEXT))
def test_canonical_bytes_when_lone_surrogates_then_still_stable(value):
    for rendered in (canonical_bytes(value), stable_bytes(value)):
        assert plain_json(json.loads(rendered)) == rendered


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_parse_when_a_float_was_rendered_then_the_same_float(number):
    (back,) = parse(canonical_bytes({"x": number})).values()
    assert back == number
    assert math.copysign(1, back) == math.copysign(1, number)


@given(st.lists(OBJECTS, max_size=6))
def test_event_batch_payload_when_any_events_then_equal_to_a_plain_rendering(events):
    joined = event_batch_payload([canonical_bytes(event) for event in events])
    assert joined == plain_json({"events": events})


@given(st.lists(OBJECTS, max_size=4), st.binary(min_size=1, max_size=40))
def test_send_when_any_payload_then_wire_is_canonical_and_the_brain_accepts_it(events, extra):
    session, brain = live()
    command_id = extra.hex()[:64]
    wires = [
        session.send_batch([canonical_bytes(event) for event in events], NOW)[1],
        session.send_heartbeat({"events": events}, NOW),
        session.send_command_result(
            command_id,
            command_result_payload(claim_token=command_id, result={"events": events}),
            NOW,
        ),
    ]
    for wire in wires:
        frame = brain.read(wire)
        assert wire == plain_json(frame)
    assert json.loads(wires[0])["payload"] == {"events": events}


@given(st.lists(OBJECTS, min_size=1, max_size=4), OBJECTS)
def test_receive_when_the_brain_signed_it_then_exactly_its_payload(payloads, extra):
    session, brain = live()
    members = {f"x-{name}": value for name, value in extra.items()}
    for payload in payloads:
        (event,) = session.receive(brain.frame("command", payload, **members), NOW)
        assert isinstance(event, CommandReceived)
        assert plain_json(event.payload) == plain_json(payload)


@given(OBJECTS, st.data())
def test_receive_when_any_byte_is_changed_then_refused_or_the_same_meaning(payload, data):
    session, brain = live()
    wire = brain.frame("command", payload)
    position = data.draw(st.integers(0, len(wire) - 1))
    replacement = data.draw(st.integers(0, 255).filter(lambda byte: byte != wire[position]))
    tampered = wire[:position] + bytes([replacement]) + wire[position + 1 :]
    check_tampered(session, wire, tampered)


@given(OBJECTS, st.data())
def test_receive_when_bytes_are_cut_or_inserted_then_refused_or_the_same_meaning(payload, data):
    session, brain = live()
    wire = brain.frame("command", payload)
    start = data.draw(st.integers(0, len(wire)))
    end = data.draw(st.integers(start, min(start + 40, len(wire))))
    inserted = data.draw(st.binary(max_size=20) | st.sampled_from([b",", b'"x":1,', b"0", b" "]))
    tampered = wire[:start] + inserted + wire[end:]
    assume(tampered != wire)
    check_tampered(session, wire, tampered)


def attempt(call, *arguments):
    """(value, None) or (None, error)."""
    try:
        return call(*arguments), None
    except (RemoteProtocolError, CommandError) as error:
        return None, error


def check_tampered(session, wire, tampered):
    """A changed frame is refused, unless it says the very same (`1e5` for `1E5`, a space)."""
    events, error = attempt(session.receive, tampered, NOW)
    if error is not None:
        assert error.details["reason"] in ("malformed", "signature", "version")
        assert session.state is SessionState.CLOSED
        return
    (event,) = events
    assert isinstance(event, CommandReceived)
    assert plain_json(json.loads(tampered)) == plain_json(json.loads(wire))


@given(st.data())
def test_open_when_any_byte_of_a_recorded_frame_is_changed_then_refused(data):
    _, recording, raw, frame = data.draw(st.sampled_from(RECORDED))
    identity = Identity(**{name: recording[name] for name in IDENTITY})
    opener = FrameOpener(key=decode_hmac_secret(recording["hmac_secret"]), identity=identity)
    position = data.draw(st.integers(0, len(raw) - 1))
    replacement = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[position]))
    tampered = raw[:position] + bytes([replacement]) + raw[position + 1 :]
    now = parse_ts(frame["ts"])
    opened, error = attempt(opener.open, tampered, now)
    if error is None:
        assert plain_json(json.loads(tampered)) == plain_json(json.loads(raw))
        assert opened.payload == frame["payload"]
    else:
        # A refused frame leaves nothing behind: the true one still passes.
        assert opener.open(raw, now).payload == frame["payload"]


IDENTITY = ("agent_id", "project_id", "session_id")
RECORDED = recorded_frames()


@given(st.binary(max_size=200) | st.from_regex(rb'\{"v":2,"type":"[a-z]*".*\}', fullmatch=True))
def test_receive_when_any_bytes_come_then_nothing_but_remote_error(data):
    session, _ = live()
    refused(session, data)
    waiting = AgentSession(key=KEY, hello=HELLO)
    waiting.hello_frame(NOW)
    refused(waiting, data)


@given(json_objects(ANY_TEXT))
def test_receive_when_any_object_is_the_hello_ack_payload_then_nothing_but_remote_error(payload):
    session = AgentSession(key=KEY, hello=HELLO)
    session.hello_frame(NOW)
    frame = {"v": 2, "type": "hello_ack", "id": "x", "ts": "2026-11-24T06:00:00Z"}
    refused(session, json.dumps(frame | {"payload": payload}).encode())


@given(st.permutations(range(5)))
def test_receive_when_frames_are_reordered_then_only_rising_ones_pass(order):
    session, brain = live()
    wires = [brain.frame("command", {"n": n}) for n in range(5)]
    highest = -1
    for number in order:
        if number > highest:
            (event,) = session.receive(wires[number], NOW)
            assert event.payload == {"n": number}
            highest = number
        else:
            assert refused(session, wires[number]) == "replay"
            return


@given(st.integers(0, 4))
def test_receive_when_a_frame_is_replayed_then_refused(which):
    session, brain = live()
    wires = [brain.frame("command", {"n": n}) for n in range(5)]
    for wire in wires:
        session.receive(wire, NOW)
    assert refused(session, wires[which]) == "replay"


@given(st.integers(-600_000_000, 600_000_000))
def test_receive_when_clocks_differ_then_60_s_are_the_limit(microseconds):
    session, brain = live()
    wire = brain.frame("command", {}, NOW + timedelta(microseconds=microseconds))
    if abs(microseconds) <= 60_000_000:
        assert session.receive(wire, NOW)
    else:
        assert refused(session, wire) == "clock"


@given(OBJECTS)
def test_receive_when_a_frame_is_of_another_session_then_refused(payload):
    session, _ = live()
    _, other = live()
    assert refused(session, other.frame("command", payload)) == "signature"


@given(OBJECTS)
def test_receive_when_our_own_frame_is_reflected_then_never_taken_for_a_command(payload):
    session, _ = live()
    wire = session.send_heartbeat(payload, NOW)
    (event,) = session.receive(wire, NOW)
    assert not isinstance(event, CommandReceived)


PARAMETER_NAMES = st.sampled_from(
    [
        "task_id",
        "task_name",
        "engine",
        "override_args",
        "override_kwargs",
        "eta",
        "priority",
        "filter",
        "max",
        "queue",
        "confirm_token",
        "force",
        "limit",
        "cursor",
        "name",
        "args",
        "kwargs",
        "schedule_id",
        "schedule_name",
        "fire_id",
        "scheduled_for",
        "fired_at",
        "worker_name",
        "delta",
        "rate",
        "task_ids",
    ]
)
WILD = json_values(ANY_TEXT, leaves=6) | st.just(math.nan) | st.just(10**400) | st.just(-math.inf)
PAYLOADS = st.fixed_dictionaries(
    {
        "action": st.sampled_from(KNOWN_ACTIONS) | WILD,
        "parameters": st.dictionaries(PARAMETER_NAMES, WILD, max_size=8) | WILD,
    },
    optional={
        "target": st.dictionaries(st.sampled_from(["engine", "id"]), WILD) | WILD,
        "timeout_seconds": WILD,
        "issued_by": WILD,
        "delivery_claim_token": WILD,
    },
)


@given(ANY_TEXT, PAYLOADS)
def test_parse_command_when_the_payload_is_anything_then_nothing_but_command_error(
    command_id, payload
):
    head = parse_envelope(command_id, payload)
    assert 1 <= head.timeout_seconds <= 3600
    command, error = attempt(parse_command, command_id, payload)
    if error is not None:
        assert error.reason in ("unsupported", "invalid", "refused")
        assert len(str(error)) < 1_000
        return
    assert isinstance(command, Command)
    assert command.id in command.identities
    assert isinstance(command.target, str)
    assert command.order_key is None or isinstance(command.order_key, str)


@given(st.sampled_from(RECORDED), PARAMETER_NAMES, WILD)
def test_parse_command_when_a_recorded_parameter_is_wrong_then_nothing_but_command_error(
    recorded, name, value
):
    payload = recorded[3]["payload"]
    payload = payload | {"parameters": payload["parameters"] | {name: value}}
    _, error = attempt(parse_command, "c1", payload)
    assert error is None or error.reason in ("unsupported", "invalid", "refused")


@given(st.none() | json_objects(ANY_TEXT), st.none() | ANY_TEXT, st.none() | ANY_TEXT)
def test_command_result_payload_when_anything_then_it_passes_its_own_check(result, error, token):
    payload = command_result_payload(claim_token=token, result=result, error=error)
    check_result_payload(payload)
    assert plain_json(json.loads(payload)) == payload
    assert b"\\u0000" not in payload.replace(b"\\\\", b"") or "\x00" in (token or "")


@given(st.integers(), st.lists(st.sampled_from(Failure), max_size=30))
def test_next_delay_when_any_failures_then_within_the_bounds_of_the_spec(seed, failures):
    bounds = {
        Failure.TRANSIENT: (1, 30),
        Failure.DISPLACED: (1, 30),
        Failure.IDLE: (0, 30),
        Failure.THROTTLED: (30, 120),
        Failure.AUTH: (10, 600),
        Failure.PROTOCOL: (30, 900),
        Failure.TERMINAL: (3600, 4500),
    }
    backoff = Backoff(random.Random(seed))
    for failure in failures:
        low, high = bounds[failure]
        assert low <= backoff.next_delay(failure) <= high
    streaks = backoff.streaks
    assert streaks.auth + streaks.protocol + streaks.connection == len(failures)


@given(
    st.lists(
        st.tuples(st.floats(0, 40), st.integers(1, 5_000), st.booleans()), min_size=1, max_size=60
    )
)
def test_flow_when_driven_at_random_then_its_books_balance(steps):
    flow = FlowController()
    waiting = []
    now = 0.0
    for number, (pause, event_bytes, acknowledge) in enumerate(steps):
        now += pause
        limits = flow.next_batch_limits(now)
        if limits is not None:
            events, size_bytes = limits
            assert 1 <= events <= 500
            assert 1 <= size_bytes <= 524_288
            count = max(min(events, size_bytes // event_bytes), 1)
            flow.sent(str(number), count, count * event_bytes, now)
            waiting.append((str(number), count, count * event_bytes))
        else:
            assert waiting
        if waiting and acknowledge:
            frame_id, count, _ = waiting.pop(0)
            assert flow.acked(frame_id, now).events == count
        assert flow.in_flight_events == sum(count for _, count, _ in waiting)
        assert flow.in_flight_bytes == sum(size for _, _, size in waiting)
        assert flow.in_flight_bytes <= 1_048_576 + 5_000
        assert (flow.deadline is None) == (not waiting)
