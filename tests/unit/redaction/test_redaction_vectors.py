"""The vectors, read as redaction.md section 10 says: a floor, leaf by leaf."""

from __future__ import annotations

import json

import pytest
from support.redaction_reference import REDACTED, may_be_section_9, our_value, secret_key
from support.vectors import load

from z4j_fastapi.redaction import Redactor

CASES = load("redaction.json")
CUT = {
    "string of 8193 bytes is cut at 8192 bytes and gets the marker",
    "the limit counts UTF-8 bytes",
    "a character cut in the middle becomes U+FFFD",
    "a secret after the cut is not seen, the cut text stays",
    "a secret split by the cut leaks its head (official weakness)",
    "key longer than the size limit is cut like a value; its value is redacted because the key is over 256",
}
SECRET_IN_SCANNED_PART = {
    "a secret after the cut is not seen, the cut text stays",
    "a secret split by the cut leaks its head (official weakness)",
}


def name_of(at):
    return CASES[at].get("name", f"case {at}")


def is_cut(at):
    return at == 9 or name_of(at) in CUT


def check(source, official, ours, *, under_secret=False):
    """Every leaf of `ours` is at least as redacted as `official`, and no more without a reason."""
    if ours == "[...]":
        return
    if isinstance(official, dict):
        assert list(ours) == [key.replace("\0", "\ufffd") for key in official]
        for key in official:
            if key != REDACTED:
                check(
                    source[key],
                    official[key],
                    ours[key],
                    under_secret=under_secret or secret_key(key),
                )
        return
    if isinstance(official, list):
        assert len(ours) == len(official)
        for one, two, three in zip(source, official, ours, strict=True):
            check(one, two, three, under_secret=under_secret)
        return
    if official == REDACTED or under_secret:
        assert ours == REDACTED
    elif isinstance(official, str) and (our_value(official) or may_be_section_9(official)):
        assert ours == official or REDACTED in ours
    elif isinstance(official, str):
        assert ours == official.replace("\0", "\ufffd")
    else:
        assert ours == official
        assert type(ours) is type(official)


@pytest.mark.parametrize("at", [at for at in range(len(CASES)) if not is_cut(at)], ids=name_of)
def test_vector_when_redacted_then_it_is_at_least_the_official_result(at):
    case = CASES[at]
    ours = Redactor().redact(case["input"])
    check(case["input"], case["official_output"], ours)
    json.dumps(ours)


@pytest.mark.parametrize("at", [at for at in range(len(CASES)) if is_cut(at)], ids=name_of)
def test_cut_vector_when_redacted_then_it_fits_with_its_marker(at):
    ours = Redactor().redact(CASES[at]["input"])
    ((key, value),) = ours.items()
    if name_of(at) in SECRET_IN_SCANNED_PART or name_of(at).startswith("key longer"):
        assert value == REDACTED
    else:
        assert value.endswith(" more bytes truncated]")
        # A cut may take off at most 256 characters of a partial word.
        assert 7_600 < len(value.encode()) <= 8_192
    assert len(key.encode()) <= 8_192


def test_vectors_when_counted_then_none_was_left_out():
    assert len(CASES) == 45
    assert sum(map(is_cut, range(45))) == 7
    assert {case.get("name") for case in CASES} >= CUT


@pytest.mark.parametrize("at", range(len(CASES)), ids=name_of)
def test_vector_when_rendered_as_an_event_then_it_is_the_same_as_redacted(at):
    redactor = Redactor()
    value = CASES[at]["input"]
    payload = redactor.render({"args": [value]}).payload
    inside = json.loads(payload)["args"][0]
    alone = redactor.redact(value)
    if "inside 6" in name_of(at) or name_of(at).startswith("the 65th"):
        return  # one container deeper, so cut one container earlier
    assert inside == alone
