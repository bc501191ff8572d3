from __future__ import annotations

import collections
import enum
import json
import math
import types

import pytest
from support.brain_side import plain_json
from support.vectors import load

from z4j_fastapi.errors import LocalProtocolError, RemoteProtocolError
from z4j_fastapi.protocol.canonical import canonical_bytes, parse, rerender, stable_bytes


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("vector", load("canonical.json"), ids=lambda v: v["value_json"][:20])
def test_canonical_bytes_when_given_a_vector_then_equal_it(vector):
    value = json.loads(vector["value_json"])
    assert canonical_bytes(value).hex() == vector["canonical_utf8_hex"]
    assert rerender(value).hex() == vector["canonical_utf8_hex"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ({"\ud800": 1}, {"\ufffd": 1}),
        ({"\ud800": 1, "\ue000": 2}, {"\ue000": 2, "\ufffd": 1}),
        (["\ud83d\ude00"], ["\U0001f600"]),
        ({"\ud800": "\x00\\ud800", "n": 1e16}, {"\ufffd": "\x00\\ud800", "n": 1e16}),
    ],
)
def test_canonical_bytes_when_surrogates_then_replaced_and_still_sorted(value, expected):
    rendered = canonical_bytes(value)
    assert rendered == plain_json(expected)
    assert plain_json(json.loads(rendered)) == rendered


def test_canonical_bytes_when_surrogates_make_keys_equal_then_no_key_is_written_twice():
    value = {"\ud800": 1, chr(0xDFFF): 2}
    pairs = json.loads(canonical_bytes(value), object_pairs_hook=lambda pairs: pairs)
    assert [key for key, _ in pairs] == ["\ufffd"]


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        {"a": math.inf},
        {1, 2},
        b"x",
        {"a": 1, 2: 3},
        nested(200_000),
    ],
    ids=["nan", "inf", "set", "bytes", "mixed keys", "deep"],
)
def test_canonical_bytes_when_not_json_then_raise_local_error(value):
    with pytest.raises(LocalProtocolError, match="canonical JSON"):
        canonical_bytes(value)


def test_canonical_bytes_when_value_holds_itself_then_raise_local_error():
    value = []
    value.append(value)
    with pytest.raises(LocalProtocolError):
        canonical_bytes(value)


def test_stable_bytes_when_keys_are_text_then_render():
    class Colour(str, enum.Enum):
        RED = "red"

    value = {"b": [{"x": (1, 2)}], "a": None, Colour.RED: {}}
    assert stable_bytes(value) == b'{"a":null,"b":[{"x":[1,2]}],"red":{}}'
    assert stable_bytes(types.MappingProxyType({"a": 1})) == b'{"a":1}'
    assert stable_bytes(collections.OrderedDict(b=1, a=2)) == b'{"a":2,"b":1}'


@pytest.mark.parametrize("value", [{2: "a", 10: "b"}, {"a": [{True: 1}]}, {"a": ({None: 1},)}])
def test_stable_bytes_when_a_key_is_no_text_then_raise_local_error(value):
    with pytest.raises(LocalProtocolError, match="keys must be text"):
        stable_bytes(value)


def test_stable_bytes_when_nested_deeper_than_100_then_raise_local_error():
    assert stable_bytes({"a": nested(98)})
    with pytest.raises(LocalProtocolError, match="deeper"):
        stable_bytes({"a": nested(99)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":"\xed\xa0\x80"}',
        '{"a":1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"a":1}',
        b"[]",
        b'"x"',
        b"1",
        b"null",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":1}x',
        b'{"a":' + b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a":"\n"}',
    ],
)
def test_parse_when_not_one_json_object_then_raise_malformed(data):
    with pytest.raises(RemoteProtocolError) as caught:
        parse(data)
    assert caught.value.details["reason"] == "malformed"


def test_parse_when_integer_has_too_many_digits_then_nothing_but_malformed_is_raised():
    data = b'{"a":' + b"9" * 10_000 + b"}"
    reasons = []
    try:
        rerender(parse(data))  # old patch releases of CPython read it
    except RemoteProtocolError as error:
        reasons.append(error.details["reason"])
    assert reasons in ([], ["malformed"])


def test_parse_when_keys_repeat_then_last_one_counts():
    assert parse(b'{"a":1,"a":2.50}') == {"a": 2.5}


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\udfff": 1}, nested(200_000)])
def test_rerender_when_the_brain_cannot_have_signed_it_then_raise_malformed(value):
    with pytest.raises(RemoteProtocolError) as caught:
        rerender(value)
    assert caught.value.details["reason"] == "malformed"
