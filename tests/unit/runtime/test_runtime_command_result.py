from __future__ import annotations

import json

import pytest
from support.brain_side import plain_json

from z4j_fastapi.protocol.results import check_result_payload
from z4j_fastapi.redaction import Redactor
from z4j_fastapi.runtime.command_result import redacted_result_payload, with_claim_token


def payload(result, error=None, token="tok", redactor=None):
    data = redacted_result_payload(
        redactor=redactor or Redactor(), claim_token=token, result=result, error=error
    )
    check_result_payload(data)  # what the session asks of it before it is sent
    return json.loads(data)


def test_payload_of_a_success_echoes_the_token_and_is_canonical():
    data = redacted_result_payload(
        redactor=Redactor(), claim_token="tok", result={"b": 1, "a": [2.5]}, error=None
    )
    assert data == plain_json(
        {
            "status": "success",
            "result": {"b": 1, "a": [2.5]},
            "error": None,
            "delivery_claim_token": "tok",
        }
    )


def test_payload_without_result_token_or_error_says_null():
    assert payload(None, token=None) == {
        "status": "success",
        "result": None,
        "error": None,
        "delivery_claim_token": None,
    }


def test_payload_of_a_failure_redacts_the_error_and_the_result():
    made = payload(
        {"password": "hunter2", "queue": "q"},
        error="failed: cannot reach redis://worker:hunter2@cache:6379/0",
    )
    assert made["status"] == "failed"
    assert "hunter2" not in json.dumps(made)
    assert made["error"].startswith("failed: cannot reach redis://")
    assert made["result"]["queue"] == "q"


def test_error_when_empty_is_still_a_failure():
    made = payload(None, error="")
    assert made["status"] == "failed"
    assert made["error"] == "failed"


def test_error_when_long_is_cut_from_its_end():
    made = payload(None, error="cause first " + "x" * 5000)
    assert made["error"].startswith("cause first ")
    assert len(made["error"]) <= 1000


def test_result_when_huge_is_replaced_by_its_size():
    made = payload({f"key{n}": f"some text {n} " * 40 for n in range(2000)})
    assert len(json.dumps(made)) < 256 * 1024 + 1000
    assert made["status"] == "success"


def test_result_when_it_holds_strange_values_is_json_safe():
    made = payload({"at": object(), "set": {1}, 3: "number", "nan": float("nan")})
    assert made["status"] == "success"
    assert isinstance(made["result"], dict)


def test_result_when_the_redactor_fails_is_an_object_all_the_same():
    class Broken(Redactor):
        def redact(self, value):
            return "[REDACTED]"

    assert payload({"a": 1}, redactor=Broken())["result"] == {"redacted": "[REDACTED]"}


@pytest.mark.parametrize("token", ["other", None])
def test_token_when_replaced_leaves_the_rest_and_stays_canonical(token):
    stored = redacted_result_payload(
        redactor=Redactor(), claim_token="first", result={"x": 1e-7, "ü": "é"}, error="failed: no"
    )
    again = with_claim_token(stored, token)
    check_result_payload(again)
    assert json.loads(again) == json.loads(stored) | {"delivery_claim_token": token}
