from __future__ import annotations

import pytest

from z4j_fastapi.errors import Failure
from z4j_fastapi.protocol.close_codes import classify_close, classify_error, classify_http


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (4400, Failure.PROTOCOL),
        (4401, Failure.AUTH),
        (4403, Failure.AUTH),
        (4408, Failure.IDLE),
        (4426, Failure.TERMINAL),
        (4427, Failure.TERMINAL),
        (4429, Failure.THROTTLED),
        (4002, Failure.DISPLACED),
        (4003, Failure.AUTH),
        (1001, Failure.TRANSIENT),
        (1006, Failure.TRANSIENT),
        (1011, Failure.TRANSIENT),
        (1012, Failure.TRANSIENT),
        (1013, Failure.TRANSIENT),
        (1000, Failure.TRANSIENT),
        (4999, Failure.TRANSIENT),
        (None, Failure.TRANSIENT),
    ],
)
@pytest.mark.parametrize("handshake_done", [True, False])
def test_classify_close_when_given_a_code_then_class_of_the_spec(code, failure, handshake_done):
    verdict = classify_close(code, handshake_done=handshake_done)
    assert verdict.failure is failure
    assert verdict.minimum_seconds == (30 if code == 4429 else 0)
    assert verdict.summary


def test_classify_close_when_4403_follows_a_handshake_then_name_secret_and_clock():
    after = classify_close(4403, handshake_done=True).summary
    assert "hmac_secret" in after
    assert "clock" in after
    before = classify_close(4403, handshake_done=False).summary
    assert "address" in before
    assert "hmac_secret" not in before


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (200, Failure.PROTOCOL),
        (301, Failure.PROTOCOL),
        (400, Failure.PROTOCOL),
        (401, Failure.AUTH),
        (403, Failure.AUTH),
        (404, Failure.PROTOCOL),
        (407, Failure.AUTH),
        (408, Failure.TRANSIENT),
        (426, Failure.PROTOCOL),
        (429, Failure.THROTTLED),
        (500, Failure.TRANSIENT),
        (502, Failure.TRANSIENT),
        (503, Failure.TRANSIENT),
        (504, Failure.TRANSIENT),
    ],
)
def test_classify_http_when_given_a_status_then_class(status, failure):
    verdict = classify_http(status)
    assert verdict.failure is failure
    assert str(status) in verdict.summary
    assert verdict.minimum_seconds == (30 if status == 429 else 0)


def test_classify_http_when_redirected_then_say_that_it_is_not_followed():
    assert "brain_url" in classify_http(307).summary


@pytest.mark.parametrize(
    ("code", "fatal", "failure"),
    [
        ("scheduler_upgrade_required", True, Failure.TERMINAL),
        ("agent_incompatible", True, Failure.TERMINAL),
        ("protocol_incompatible", True, Failure.TERMINAL),
        ("whatever", True, Failure.TRANSIENT),
        ("", True, Failure.TRANSIENT),
    ],
)
def test_classify_error_when_fatal_then_class(code, fatal, failure):
    verdict = classify_error(code, fatal=fatal)
    assert verdict is not None
    assert verdict.failure is failure


@pytest.mark.parametrize("code", ["protocol_incompatible", "whatever"])
def test_classify_error_when_not_fatal_then_session_goes_on(code):
    assert classify_error(code, fatal=False) is None
