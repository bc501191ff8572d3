"""The redactor against a slow reading of the specification, and its paths against each other."""

from __future__ import annotations

import copy
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from support.redaction_reference import REDACTED, expected, official, official_value, secret_key
from support.vectors import load

from z4j_fastapi.redaction import Redactor, rendering
from z4j_fastapi.redaction.pairs import may_hold_pair, redact_pairs
from z4j_fastapi.redaction.patterns import fold, suspects

REDACTOR = Redactor()


def _strings_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield key
            yield from _strings_in(member)
    elif isinstance(value, list):
        for member in value:
            yield from _strings_in(member)


SAMPLES = sorted(
    {
        text
        for case in load("redaction.json")
        for text in _strings_in(case["input"])
        if len(text) < 200
    }
)
SAMPLES += [
    "glpat-aaaaaaaaaaaaaaaaaaaaaa", "xapp-1-A0B1C2D3", "sk-ant-api03-aaaaaaaaaaaaaaaaaaaaa",
    "redis://:p@h", "https://u:p@h/x", "Basic dXNlcjpwYXNzd29yZA==", "http://h:80/@x",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----", "postgres://a/b?x=1:2@c", "github_pat_" + "a" * 82,
    "ghr_" + "a" * 36, "٣٤٥-12-6789", "e\u017f\u212a@x.\u0131\u0130", "a\u017fia0000000000000000",
]  # fmt: skip
KEYS = [
    "password",
    "x",
    "token",
    "API-Key",
    "tokens",
    "authorization",
    "\u017fecret",
    "a@b.cc",
    "n\0",
    "db_password",
]

alphabet = st.characters(codec="utf-8") | st.sampled_from(
    "@.:/-_ =eyJskSKAIza09\"'\\\u017f\u212a\0\n"
)
small_text = st.text(alphabet, max_size=24)


@st.composite
def mutated(draw):
    """A sample with something cut out, put in or upper-cased."""
    text = draw(st.sampled_from(SAMPLES))
    kind = draw(st.integers(0, 4))
    at = draw(st.integers(0, len(text)))
    if kind == 0:
        return text
    if kind == 1:
        return text[:at] + text[at + 1 :]
    if kind == 2:
        return text[:at] + draw(small_text) + text[at:]
    if kind == 3:
        return text.upper()
    return draw(small_text) + text + draw(st.sampled_from(SAMPLES))


texts = mutated() | small_text
numbers = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 1e16, 1e-4, 9.9e-5, -0.0, 1e15]
    )
)
leaves = texts | numbers | st.booleans() | st.none()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | small_text, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(texts)
@settings(max_examples=600)
def test_string_when_scrubbed_then_it_is_what_the_slow_reading_says(text):
    want = expected(text)
    ours = REDACTOR.redact(text)
    if want is not None:
        assert ours == want
    else:
        assert ours == text.replace("\0", "\ufffd") or REDACTED in ours


def _floor(theirs, ours):
    if isinstance(theirs, dict):
        for key, member in theirs.items():
            if key == REDACTED or not isinstance(ours, dict):
                continue
            shown = key.replace("\0", "\ufffd")
            if shown in ours:
                _floor(member, ours[shown])
            else:
                assert expected(key) in (None, REDACTED)
    elif isinstance(theirs, list):
        for one, two in zip(theirs, ours, strict=True):
            _floor(one, two)
    elif theirs == REDACTED:
        assert ours == REDACTED


@given(values)
@settings(max_examples=400)
def test_structure_when_redacted_then_no_leaf_is_less_redacted_than_the_official_one(value):
    untouched = copy.deepcopy(value)
    keys = {key.replace("\0", "\ufffd") for key in _dict_keys(value)}
    ours = REDACTOR.redact(value)
    assert repr(value) == repr(untouched)
    if len(keys) == len(_dict_keys(value)):  # keys that collapse hide values from the comparison
        _floor(official(value), ours)


def _dict_keys(value):
    if isinstance(value, dict):
        return {*value, *(key for member in value.values() for key in _dict_keys(member))}
    if isinstance(value, list):
        return {key for member in value for key in _dict_keys(member)}
    return set()


@given(st.lists(texts, max_size=8))
@settings(max_examples=300)
def test_strings_when_looked_at_together_then_they_come_out_as_when_looked_at_alone(strings):
    together = REDACTOR.redact(strings)
    assert together == [REDACTOR.redact(text) for text in strings]
    # The long-string path: behind harmless text over a quarter of the limit.
    padding = "lorem ipsum " * 180
    for text, shown in zip(strings, together, strict=True):
        padded = REDACTOR.redact(padding + text)
        if shown == REDACTED and official_value(" " + text):
            assert padded == REDACTED


@given(values)
@settings(max_examples=400)
def test_event_when_rendered_then_the_bytes_are_canonical_json_with_and_without_orjson(value):
    fast = REDACTOR.render({"kwargs": value}).payload
    held, rendering.orjson = rendering.orjson, None
    try:
        slow = REDACTOR.render({"kwargs": value}).payload
    finally:
        rendering.orjson = held
    assert fast == slow
    parsed = json.loads(fast)
    assert (
        fast
        == json.dumps(
            parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    )


@given(values)
@settings(max_examples=200)
def test_event_when_redacted_again_then_nothing_changes(value):
    once = REDACTOR.redact(value)
    assert REDACTOR.redact(once) == once


names = st.sampled_from(["password", "token", "api_key", "cvv2", "x-api-key", "Set-Cookie", "ssn"])
separators = st.sampled_from(["=", ": ", "'=", '": "', " = ", '\\": \\"', "=>", ":"])


@given(st.lists(names | separators | small_text, max_size=8).map("".join))
@settings(max_examples=400)
def test_pairs_when_the_quick_look_says_no_then_there_are_none(text):
    if not may_hold_pair(fold(text)):
        assert redact_pairs(text) == text


@given(texts)
@settings(max_examples=400)
def test_shape_when_it_matches_then_its_anchor_was_found(text):
    found = suspects(fold(text), ascii_only=text.isascii())
    if official_value(text):
        assert any(shape.check(text) for shape in found)


@given(
    st.integers(0, 9_000), st.integers(128, 8_192), st.sampled_from(["a", "é", "日", "😀", "word "])
)
def test_string_when_longer_than_the_limit_then_it_fits_marker_included(size, limit, unit):
    text = (unit * size)[:size]
    shown = Redactor(max_payload_bytes=limit).redact(text)
    assert len(shown.encode()) <= limit
    if len(text.encode()) <= limit:
        assert shown == text
    else:
        head, _, rest = shown.rpartition("[...")
        assert text.startswith(head)
        dropped = int(rest.split(" ")[0])
        assert dropped == len(text.encode()) - len(head.encode())


@given(values, st.integers(1_024, 4_096))
@settings(max_examples=100)
def test_event_when_too_large_then_it_is_shortened_below_the_limit(value, limit):
    redactor = Redactor(max_event_bytes=limit)
    data = {
        "task_name": "app.t",
        "args": [value] * 20,
        "kwargs": {"text": "word " * 500},
        "result": value,
    }
    rendered = redactor.render(data)
    assert len(rendered.payload) <= limit
    assert json.loads(rendered.payload)["task_name"] == "app.t"
    assert rendered.shortened == (len(REDACTOR.render(data).payload) > limit)


@given(
    st.recursive(
        st.floats() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
    )
)
def test_number_when_not_json_then_it_is_text(value):
    def flat(member):
        return (
            [leaf for inner in member for leaf in flat(inner)]
            if isinstance(member, list)
            else [member]
        )

    for before, after in zip(flat(value), flat(REDACTOR.redact(value)), strict=True):
        if isinstance(before, float) and math.isnan(before):
            assert after == "NaN"
        elif isinstance(before, float) and math.isinf(before):
            assert after == ("Infinity" if before > 0 else "-Infinity")
        else:
            assert after == before


@given(st.sampled_from(KEYS) | small_text)
@settings(max_examples=200)
def test_key_when_the_slow_reading_says_secret_then_its_value_is_redacted(key):
    (shown,) = REDACTOR.redact({key: 1}).values()
    if secret_key(key):
        assert shown == REDACTED
