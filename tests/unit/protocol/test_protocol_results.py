from __future__ import annotations

import json
import types

import pytest
from support.brain_side import plain_json

from z4j_fastapi.errors import LocalProtocolError
from z4j_fastapi.protocol.results import (
    ERROR_LIMIT,
    RESULT_LIMIT_BYTES,
    check_result_payload,
    command_result_payload,
)


def built(**arguments):
    payload = command_result_payload(**({"claim_token": None, "result": None} | arguments))
    check_result_payload(payload)
    value = json.loads(payload)
    assert plain_json(value) == payload
    return value


def test_command_result_payload_when_success_then_result_and_token():
    assert built(claim_token="t", result=types.MappingProxyType({"b": 1, "a": [None]})) == {
        "status": "success",
        "result": {"a": [None], "b": 1},
        "error": None,
        "delivery_claim_token": "t",
    }


def test_command_result_payload_when_error_then_failed_and_cut():
    value = built(error="e" * 2_000, result={"indeterminate": True})
    assert value["status"] == "failed"
    assert value["error"] == "e" * ERROR_LIMIT
    assert value["result"] == {"indeterminate": True}
    assert value["delivery_claim_token"] is None


def test_command_result_payload_when_empty_error_then_still_failed():
    assert built(error="")["status"] == "failed"


def test_command_result_payload_when_result_is_too_large_then_say_how_large():
    assert built(result={"a": "x" * (RESULT_LIMIT_BYTES - 8)})["result"]["a"]
    assert built(result={"a": "x" * RESULT_LIMIT_BYTES})["result"] == {
        "truncated": True,
        "size_bytes": RESULT_LIMIT_BYTES + 8,
    }


def test_command_result_payload_when_nul_characters_then_replaced_and_only_they():
    result = {"n\x00": ["a\x00b", "\\u0000", 1, None, {"\x01": 2.5}], "a": "\\\x00"}
    assert built(result=result, error="\x00x")["result"] == {
        "n\ufffd": ["a\ufffdb", "\\u0000", 1, None, {"\x01": 2.5}],
        "a": "\\\ufffd",
    }
    assert built(error="\x00x")["error"] == "\ufffdx"


@pytest.mark.parametrize("result", [{"a": {1}}, {1: 2}, {"a": float("nan")}])
def test_command_result_payload_when_not_json_safe_then_raise(result):
    with pytest.raises(LocalProtocolError):
        command_result_payload(claim_token=None, result=result)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"status":"success",}',
        b'{"status": "success"}',
        b'{"status":"ok"}',
        b'{"result":{}}',
        b'{"status":["success"]}',
        b'{"result":[],"status":"success"}',
        b'{"result":"x","status":"success"}',
        b'{"error":5,"status":"failed"}',
        plain_json({"status": "failed", "error": "x" * 8_193}),
        b'{"status":"success","status":"failed"}',
    ],
)
def test_check_result_payload_when_the_brain_would_choke_then_raise(payload):
    with pytest.raises(LocalProtocolError, match="stored command result"):
        check_result_payload(payload)
