from __future__ import annotations

import pytest
from support.brain_side import plain_json

from z4j_fastapi.runtime import control_record
from z4j_fastapi.runtime.control_record import ACK, RESULT, ControlRecord


@pytest.mark.parametrize(
    "command_id", ["c-1", 'with "quotes"', "with\nnew line", "ünïcode", "x" * 64]
)
@pytest.mark.parametrize("frame_type", [ACK, RESULT])
def test_record_when_encoded_comes_back_with_the_very_bytes_of_its_payload(frame_type, command_id):
    payload = plain_json({"b": "line\nbreak", "a": [1, {"z": 1, "y": 2}]})
    record = control_record.encode(frame_type, command_id, payload)
    assert control_record.decode(record) == ControlRecord(frame_type, command_id, payload)


def test_payload_when_a_mapping_is_rendered_canonically():
    record = control_record.encode(ACK, "c-1", {"b": 1, "a": None})
    assert control_record.decode(record).payload == b'{"a":null,"b":1}'


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"command_ack",
        b'command_ack\n"c-1"',
        b'heartbeat\n"c-1"\n{}',
        b"command_ack\nnot json\n{}",
        b"command_ack\n7\n{}",
        b'command_ack\n\xff"\n{}',
    ],
)
def test_record_when_it_is_none_of_ours_is_a_value_error(record):
    with pytest.raises(ValueError):
        control_record.decode(record)
