from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from support.brain_side import AGENT_ID, KEY, NOW, PROJECT_ID, BrainSide, plain_json
from support.vectors import load, recorded_frames

from z4j_fastapi.errors import LocalProtocolError, RemoteProtocolError
from z4j_fastapi.protocol.canonical import canonical_bytes, rerender
from z4j_fastapi.protocol.envelope import (
    ENVELOPE_BYTES,
    FrameOpener,
    FrameSealer,
    Identity,
    frame_body,
    new_id,
    new_nonce,
    parse_frame,
    parse_ts,
    render_ts,
    unsigned_frame,
)
from z4j_fastapi.protocol.signing import verify
from z4j_fastapi.settings import decode_hmac_secret

SESSION_ID = "00000000-0000-4000-8000-0000000000ff"
IDENTITY = Identity(agent_id=AGENT_ID, project_id=PROJECT_ID, session_id=SESSION_ID)


def opener_and_brain():
    return FrameOpener(key=KEY, identity=IDENTITY), BrainSide(session_id=SESSION_ID)


def reason_of(call, *args):
    with pytest.raises(RemoteProtocolError) as caught:
        call(*args)
    return caught.value.details["reason"]


def identity_of(recording):
    return Identity(
        agent_id=recording["agent_id"],
        project_id=recording["project_id"],
        session_id=recording["session_id"],
    )


@pytest.mark.parametrize(
    ("label", "recording", "raw", "frame"),
    recorded_frames(),
    ids=lambda v: v if type(v) is str else "",
)
def test_open_when_given_a_recorded_frame_then_it_verifies(label, recording, raw, frame):
    opener = FrameOpener(
        key=decode_hmac_secret(recording["hmac_secret"]), identity=identity_of(recording)
    )
    opened = opener.open(raw, parse_ts(frame["ts"]))
    assert (opened.type, opened.id, opened.payload) == (
        frame["type"],
        frame["id"],
        frame["payload"],
    )


def test_recorded_frames_when_collected_then_both_folders_are_there():
    labels = [label for label, *_ in recorded_frames()]
    assert len(labels) >= 30
    assert {label.partition("/")[0] for label in labels} == {"commands", "schedules"}


VECTORS = load("envelopes.json")


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["wire"]["type"])
def test_seal_when_given_a_vector_then_make_its_signature_and_canonical_wire(vector):
    wire = vector["wire"]
    key = bytes.fromhex(VECTORS["key_hex"])
    signed = bytes.fromhex(vector["signed_bytes_hex"])
    assert verify(key, signed, vector["hmac"])
    unsigned = {name: value for name, value in wire.items() if name != "hmac"}
    identity = identity_of(vector)
    assert (
        rerender(
            {
                **unsigned,
                "agent_id": identity.agent_id,
                "project_id": identity.project_id,
                "session_id": identity.session_id,
            }
        )
        == signed
    )
    nonces = iter([f"AAAAAAAAAAAAAAAAAAAAA{n}" for n in range(1, wire["seq"] + 1)])
    sealer = FrameSealer(key=key, identity=identity, nonces=lambda: next(nonces))
    for _ in range(wire["seq"]):
        sealed = sealer.seal(
            wire["type"], canonical_bytes(wire["payload"]), NOW, frame_id=wire["id"]
        )
    assert sealed == plain_json(wire)


def test_seal_when_refused_then_no_number_is_used_up():
    sealer, brain = FrameSealer(key=KEY, identity=IDENTITY), BrainSide(session_id=SESSION_ID)
    with pytest.raises(LocalProtocolError) as caught:
        sealer.seal("heartbeat", b'{"a":"' + b"x" * 500 + b'"}', NOW, frame_id="1", max_bytes=500)
    assert caught.value.details["size_bytes"] > caught.value.details["limit_bytes"] == 500
    for frame_id in ("", "x" * 65):
        with pytest.raises(LocalProtocolError, match="1 to 64"):
            sealer.seal("heartbeat", b"{}", NOW, frame_id=frame_id)
    with pytest.raises(LocalProtocolError, match="aware"):
        sealer.seal("heartbeat", b"{}", NOW.replace(tzinfo=None), frame_id="1")
    wire = sealer.seal("heartbeat", b"{}", NOW, frame_id="x" * 64)
    assert brain.read(wire)["seq"] == 1
    exact = sealer.seal("heartbeat", b"{}", NOW, frame_id="x" * 64, max_bytes=len(wire))
    assert brain.read(exact)["seq"] == 2


def test_seal_when_id_is_longest_and_escaped_then_overhead_is_below_the_bound():
    sealer, brain = FrameSealer(key=KEY, identity=IDENTITY), BrainSide(session_id=SESSION_ID)
    wire = sealer.seal("command_result", b"{}", NOW, frame_id='"\x01' * 32)
    assert brain.read(wire)["id"] == '"\x01' * 32
    assert len(wire) < ENVELOPE_BYTES


def test_new_id_when_called_then_a_fresh_uuid():
    assert new_id() != new_id()
    assert str(uuid.UUID(new_id())) != ""


def test_new_nonce_when_called_then_16_fresh_bytes_in_22_characters():
    nonce = new_nonce()
    assert len(nonce) == 22
    assert len(base64.urlsafe_b64decode(nonce + "==")) == 16
    assert nonce != new_nonce()


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOW, "2026-11-24T06:00:00.000000Z"),
        (
            datetime(2026, 1, 1, 1, 0, 0, 5, tzinfo=timezone(timedelta(hours=2))),
            "2025-12-31T23:00:00.000005Z",
        ),
    ],
)
def test_render_ts_when_aware_then_utc_with_microseconds(moment, text):
    assert render_ts(moment) == text
    assert parse_ts(text) == moment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T06:00:00Z", NOW),
        ("2026-11-24T06:00:00+00:00", NOW),
        ("2026-11-24T08:30:00+02:30", NOW),
        ("2026-11-24T00:30:00-0530", NOW),
        ("2026-11-24T06:00:00.5Z", NOW + timedelta(seconds=0.5)),
        ("2026-11-24T06:00:00.123456789Z", NOW + timedelta(microseconds=123456)),
    ],
)
def test_parse_ts_when_it_has_an_offset_then_read_it(text, expected):
    parsed = parse_ts(text)
    assert parsed == expected
    assert parsed.utcoffset() is not None


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        "",
        "2026-11-24T06:00:00",
        "2026-11-24",
        "2026-13-24T06:00:00Z",
        "2026-11-24T06:00:60Z",
        "0000-11-24T06:00:00Z",
        "2026-11-24T06:00:00+24:00",
        "2026-11-24T06:00:00Z\n",
        "٢٠٢٦-11-24T06:00:00Z",
        "2026-11-24T06:00:00.Z",
    ],
)
def test_parse_ts_when_not_such_a_time_then_malformed(text):
    assert reason_of(parse_ts, text) == "malformed"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "malformed"),
        (b'{"type":"x"}', "version"),
        (b'{"v":1,"type":"x"}', "version"),
        (b'{"v":3,"type":"x"}', "version"),
        (b'{"v":2.0,"type":"x"}', "version"),
        (b'{"v":"2","type":"x"}', "version"),
        (b'{"v":true,"type":"x"}', "version"),
        (b'{"v":2}', "malformed"),
        (b'{"v":2,"type":7}', "malformed"),
    ],
)
def test_parse_frame_when_not_a_frame_of_version_2_then_refuse(data, reason):
    assert reason_of(parse_frame, data) == reason


@pytest.mark.parametrize(
    "members",
    [
        {"payload": {}},
        {"id": 1, "payload": {}},
        {"id": "", "payload": {}},
        {"id": "x" * 65, "payload": {}},
        {"id": "x"},
        {"id": "x", "payload": []},
        {"id": "x", "payload": None},
    ],
)
def test_frame_body_when_id_or_payload_is_wrong_then_malformed(members):
    assert reason_of(frame_body, {"v": 2, "type": "x", **members}) == "malformed"


def test_unsigned_frame_when_rendered_then_canonical():
    frame = {"v": 2, "type": "hello", "id": "é", "ts": render_ts(NOW), "payload": {"a": 1}}
    assert unsigned_frame("hello", b'{"a":1}', NOW, frame_id="é") == plain_json(frame)


def test_open_when_a_good_frame_has_unknown_members_then_accept_it():
    opener, brain = opener_and_brain()
    opened = opener.open(brain.frame("command", {"x": 1}, zzz={"b": 1, "a": 1e16}), NOW)
    assert (opened.type, opened.payload) == ("command", {"x": 1})


@pytest.mark.parametrize("member", ["agent_id", "project_id", "session_id"])
def test_open_when_a_member_travels_that_never_does_then_refuse_as_signature(member):
    opener, brain = opener_and_brain()
    frame = json.loads(brain.frame("command", {}))
    # The signature still holds for a reader that lets its own value replace the one sent.
    frame[member] = "anything"
    assert reason_of(opener.open, json.dumps(frame).encode(), NOW) == "signature"


@pytest.mark.parametrize("signature", [..., None, "", 5, "0" * 64, "é"])
def test_open_when_signature_is_missing_or_wrong_then_refuse_before_anything_else(signature):
    opener, brain = opener_and_brain()
    frame = json.loads(brain.frame("command", {}, seq="x", nonce=5, ts="long ago", id=7))
    frame["hmac"] = signature
    if signature is ...:
        del frame["hmac"]
    assert reason_of(opener.open, json.dumps(frame).encode(), NOW) == "signature"


@pytest.mark.parametrize("other", ["agent_id", "project_id", "session_id", "key"])
def test_open_when_signed_for_somebody_else_then_refuse_as_signature(other):
    opener, brain = opener_and_brain()
    setattr(brain, other, bytes(32) if other == "key" else str(uuid.uuid4()))
    assert reason_of(opener.open, brain.frame("command", {}), NOW) == "signature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seq": "1"}, "malformed"),
        ({"seq": True}, "malformed"),
        ({"seq": 1.0}, "malformed"),
        ({"seq": ...}, "malformed"),
        ({"seq": 0}, "replay"),
        ({"nonce": ...}, "malformed"),
        ({"nonce": ""}, "malformed"),
        ({"nonce": 7}, "malformed"),
        ({"nonce": "n" * 33}, "malformed"),
        ({"ts": ...}, "malformed"),
        ({"ts": "2026-11-24T06:00:00"}, "malformed"),
        ({"ts": "2026-11-24T06:01:00.000001Z"}, "clock"),
        ({"ts": "2026-11-24T05:58:59Z", "seq": 0}, "clock"),
        ({"id": ""}, "malformed"),
        ({"payload": []}, "malformed"),
        ({"v": 3}, "version"),
        ({"type": None}, "malformed"),
    ],
)
def test_open_when_a_signed_member_is_wrong_then_refuse_and_change_nothing(changes, reason):
    opener, brain = opener_and_brain()
    assert reason_of(opener.open, brain.frame("command", {}, **changes), NOW) == reason
    assert opener.open(brain.frame("command", {}, seq=1, nonce="fresh"), NOW).type == "command"


def test_open_when_frames_are_replayed_or_reordered_then_refuse_as_replay():
    opener, brain = opener_and_brain()
    first, second, third = (brain.frame("command", {"n": n}) for n in range(3))
    assert opener.open(first, NOW).payload == {"n": 0}
    assert opener.open(third, NOW).payload == {"n": 2}
    for old in (first, second, third):
        assert reason_of(opener.open, old, NOW) == "replay"


def test_open_when_forged_frames_come_then_the_good_one_still_counts():
    opener, brain = opener_and_brain()
    good = brain.frame("command", {})
    forged = json.loads(good)
    forged["payload"] = {"x": 1}
    assert reason_of(opener.open, json.dumps(forged).encode(), NOW) == "signature"
    assert opener.open(good, NOW).payload == {}
