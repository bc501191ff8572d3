from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.settings import decode_hmac_secret

VECTORS = json.loads(
    (Path(__file__).resolve().parents[2] / "vectors" / "hmac-secrets.json").read_text()
)
USABLE = [
    (vector["value"], bytes.fromhex(vector["decoded_hex"]))
    for vector in VECTORS
    if vector["usable"]
]
UNUSABLE = [vector["value"] for vector in VECTORS if not vector["usable"]]


def test_vectors_when_read_then_hold_both_kinds():
    assert len(USABLE) == 4
    assert len(UNUSABLE) == 6


@pytest.mark.parametrize(("text", "key"), USABLE)
def test_decode_when_usable_then_gives_the_key(text, key):
    assert decode_hmac_secret(text) == key


@pytest.mark.parametrize("text", UNUSABLE)
def test_decode_when_unusable_then_raises_and_shows_nothing_of_it(text):
    with pytest.raises(ConfigError) as caught:
        decode_hmac_secret(text)
    if text.strip():
        assert text.strip() not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("size", [31, 32, 33, 64])
def test_decode_when_at_the_bound_then_32_bytes_are_enough(size):
    text = base64.urlsafe_b64encode(bytes(size)).decode()
    if size < 32:
        with pytest.raises(ConfigError, match="decodes to 31 bytes"):
            decode_hmac_secret(text)
    else:
        assert decode_hmac_secret(text) == bytes(size)


@pytest.mark.parametrize(
    "text", ["A" * 45, "A" * 20 + "=" + "A" * 22, "A" * 43 + "===", "\uff21" + "A" * 42]
)
def test_decode_when_not_base64_at_all_then_says_so(text):
    with pytest.raises(ConfigError, match="not URL-safe base64"):
        decode_hmac_secret(text)
