from __future__ import annotations

import hashlib
import hmac

import pytest
from support.vectors import load

from z4j_fastapi.protocol.signing import (
    purge_token,
    sign,
    verify,
    verify_purge_token,
)
from z4j_fastapi.settings import decode_hmac_secret

KEY = bytes(range(32))


def test_sign_when_given_parts_then_equal_the_hmac_of_the_whole():
    expected = hmac.new(KEY, b"abcdef", hashlib.sha256).hexdigest()
    assert sign(KEY, b"ab", b"", b"cdef") == expected
    assert verify(KEY, b"abcdef", expected)


@pytest.mark.parametrize(
    "signature",
    [None, 1, b"", "", "é" * 64, "\ud800", "A" * 64, ["x"]],
)
def test_verify_when_signature_is_something_else_then_false(signature):
    assert not verify(KEY, b"abcdef", signature)


def test_verify_when_digits_are_upper_case_then_false():
    assert not verify(KEY, b"abcdef", sign(KEY, b"abcdef").upper())


def test_purge_token_when_given_the_vector_then_equal_it():
    vector = load("commands/purge_queue.observed_depth.json")
    key = decode_hmac_secret(vector["hmac_secret"])
    parameters = vector["frames"][0]["payload"]["parameters"]
    depth = vector["request"]["body"]["observed_depth"]
    token = parameters["confirm_token"]
    assert purge_token(key, parameters["queue"], depth) == token
    assert verify_purge_token(key, parameters["queue"], depth, token)
    assert not verify_purge_token(key, parameters["queue"], depth + 1, token)
    assert not verify_purge_token(key, parameters["queue"], depth, None)
    assert not verify_purge_token(key, "\ud800", depth, "é")
