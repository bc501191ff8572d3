"""Operators' patterns: redaction.md section 8."""

from __future__ import annotations

import time

import pytest

from z4j_fastapi.errors import RedactionConfigError
from z4j_fastapi.redaction import REDACTED, Redactor, check_patterns


def test_patterns_when_usable_then_there_are_no_problems():
    assert (
        check_patterns(
            ["iban", "x-.*-id", "(?s)a.b"], [r"\bACME-\d{6}\b", "(?s)x.y", r"(a)\1", "[a-f]{8}"]
        )
        == []
    )


@pytest.mark.parametrize("pattern", ["", "(", "[a", "*", "(?P<n>a)(?P<n>b)", "a{3,1}"])
def test_pattern_when_empty_or_invalid_then_the_field_and_number_are_named(pattern):
    (problem,) = check_patterns(["ok", pattern], [])
    assert problem.startswith("redaction_extra_key_patterns: pattern 2 ")
    (problem,) = check_patterns([], [pattern])
    assert problem.startswith("redaction_extra_value_patterns: pattern 1 ")


def test_pattern_when_it_is_no_text_then_it_is_a_problem():
    assert "not a string" in check_patterns([5], [])[0]


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)+$", "(a|aa)+!", "([a-z]+)*x", r"(\d+)+z", r"(\w+\s?)*$", "(x+x+)+y", "(.*a){12}", "(ab|a|b)+c", "^(([a-z])+.)+[A-Z]([a-z])+$"],
)  # fmt: skip
def test_pattern_when_catastrophic_then_it_is_refused_soon(pattern):
    started = time.thread_time()
    for problems in (check_patterns([pattern], []), check_patterns([], [pattern])):
        if pattern != "(.*a){12}" or problems:
            assert "too slow" in problems[0]
    assert time.thread_time() - started < 10


@pytest.mark.parametrize("pattern", [r"\s+$", r".*.*=x", r"[a-z]+[a-z0-9]+@", r"a.*b.*c"])
def test_value_pattern_when_quadratic_or_worse_then_it_is_refused(pattern):
    assert "too slow" in check_patterns([], [pattern])[0]


def test_problems_when_there_are_several_then_all_are_listed():
    problems = check_patterns(["(", ""], ["(a+)+$"])
    assert [problem.split(" is")[0] for problem in problems] == [
        "redaction_extra_key_patterns: pattern 1",
        "redaction_extra_key_patterns: pattern 2",
        "redaction_extra_value_patterns: pattern 1",
    ]


@pytest.mark.parametrize("pattern", ["", "("])
def test_redactor_when_a_pattern_is_unusable_then_it_is_not_made(pattern):
    with pytest.raises(RedactionConfigError, match="redaction_extra_key_patterns: pattern 1"):
        Redactor(extra_key_patterns=[pattern])
    with pytest.raises(RedactionConfigError, match="redaction_extra_value_patterns: pattern 1"):
        Redactor(extra_value_patterns=[pattern])


def test_extra_key_when_it_matches_the_whole_key_then_the_value_goes():
    redactor = Redactor(extra_key_patterns=["iban", "x-.*-id"])
    shown = redactor.redact({"IBAN": 1, "x-trace-id": 2, "my_iban": 3, "password": 4})
    assert shown == {"IBAN": REDACTED, "x-trace-id": REDACTED, "my_iban": 3, "password": REDACTED}


def test_key_over_64_characters_when_there_are_extra_keys_then_it_counts_as_secret():
    assert Redactor(extra_key_patterns=["x"]).redact({"a" * 65: 1, "a" * 64: 1}) == {
        "a" * 65: REDACTED,
        "a" * 64: 1,
    }


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"ACME-\d{6}", "id acme-123456."), ("(?s)x.y", "x\ny"), (r"(a)-\1", "a-a"), (r"\\n", "a\\n"), ('"q"', 'say "q"'), ("^é$", "é")],
)  # fmt: skip
def test_extra_value_when_it_matches_anywhere_then_the_string_goes(pattern, text):
    redactor = Redactor(extra_value_patterns=["first", pattern])
    assert redactor.redact(["other", text, {"k": text}]) == ["other", REDACTED, {"k": REDACTED}]
    assert redactor.redact({text: 1}) == {REDACTED: 1}
    assert redactor.redact("a@b.cc") == REDACTED


def test_extra_value_when_anchored_then_strings_are_matched_one_by_one():
    assert Redactor(extra_value_patterns=["^a$"]).redact(["a", "ab", "b"]) == [REDACTED, "ab", "b"]


def test_defaults_when_switched_off_then_only_extra_patterns_count():
    redactor = Redactor(
        defaults_enabled=False, extra_key_patterns=["mine"], extra_value_patterns=["zzz"]
    )
    value = {"password": "x", "a": "a@b.cc", "b": "password=x", "mine": 1, "c": "zzz"}
    assert redactor.redact(value) == {**value, "mine": REDACTED, "c": REDACTED}
    assert Redactor(defaults_enabled=False).redact(value) == value
