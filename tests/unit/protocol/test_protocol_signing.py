from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from support.vectors import load

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.protocol.signing import (
    decode_hmac_secret,
    purge_token,
    sign,
    verify,
    verify_purge_token,
)

KEY = bytes(range(32))


@pytest.mark.parametrize("vector", load("hmac-secrets.json"), ids=lambda v: repr(v["value"]))
def test_decode_hmac_secret_when_given_a_vector_then_agree_with_it(vector):
    if vector["usable"]:
        assert decode_hmac_secret(vector["value"]).hex() == vector["decoded_hex"]
        return
    with pytest.raises(ConfigError) as caught:
        decode_hmac_secret(vector["value"])
    assert str(caught.value).startswith("hmac_secret:")
    value = vector["value"].strip()
    if value:
        assert value not in str(caught.value)
        assert value not in repr(caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "A" * 45,  # no base64 has this length
        base64.urlsafe_b64encode(bytes(31)).decode(),
        base64.urlsafe_b64encode(bytes(32)).decode() + "==",
        "A" * 20 + " " + "A" * 23,
        "Ä" * 43,
        "=",
    ],
)
def test_decode_hmac_secret_when_unusable_then_raise_naming_the_field(text):
    with pytest.raises(ConfigError, match=r"^hmac_secret: ") as caught:
        decode_hmac_secret(text)
    assert text not in str(caught.value)


def test_decode_hmac_secret_when_longer_than_32_bytes_then_accept():
    assert decode_hmac_secret(base64.urlsafe_b64encode(bytes(40)).decode()) == bytes(40)


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
