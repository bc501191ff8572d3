"""Tracebacks: redaction.md section 7."""

from __future__ import annotations

import json

from z4j_fastapi.redaction import REDACTED, Redactor

REDACTOR = Redactor()

TRACE = """Traceback (most recent call last):
  File "/app/tasks.py", line 12, in send
    deliver(address)
  File "/app/mail.py", line 3, in deliver
    raise ValueError(f"bad address {address}")
ValueError: bad address"""


def show(text, redactor=REDACTOR):
    return json.loads(redactor.render({"traceback": text}).payload)["traceback"]


def test_traceback_when_clean_then_it_stays():
    assert show(TRACE) == TRACE


def test_traceback_when_a_line_holds_a_secret_then_only_that_line_goes():
    assert show(TRACE + " a@b.cc\nafter") == TRACE.rpartition("\n")[0] + f"\n{REDACTED}\nafter"


def test_traceback_when_a_line_holds_a_pair_then_only_the_value_goes():
    assert show("a\n  login(password='hunter2')\nb") == "a\n  login(password='[REDACTED]')\nb"


def test_traceback_when_it_holds_a_key_then_all_lines_up_to_its_end_go():
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\nMIIdef\n-----END RSA PRIVATE KEY-----"
    assert show(f"a\n{key}\nb") == f"a\n{REDACTED}\n{REDACTED}\n{REDACTED}\n{REDACTED}\nb"


def test_traceback_when_a_key_has_no_end_then_all_that_follows_goes():
    assert (
        show("a\n-----BEGIN PRIVATE KEY-----\nMII\nb") == f"a\n{REDACTED}\n{REDACTED}\n{REDACTED}"
    )


def test_traceback_when_a_key_begins_and_ends_in_one_line_then_the_next_stays():
    line = "-----BEGIN PRIVATE KEY----- x -----END PRIVATE KEY-----"
    assert show(f"a\n{line}\nb") == f"a\n{REDACTED}\nb"


def test_traceback_when_a_match_lies_across_lines_then_the_whole_goes():
    assert show("a\nBearer\nabcdefghijklmnop\nb") == REDACTED


def test_traceback_when_too_long_then_head_and_error_stay():
    frames = "".join(f'  File "/app/f{at}.py", line {at}, in f\n    call()\n' for at in range(400))
    shown = show(f"Traceback (most recent call last):\n{frames}ValueError: the reason")
    assert len(shown) <= 8_192
    assert shown.startswith(
        'Traceback (most recent call last):\n  File "/app/f0.py", line 0, in f\n[...'
    )
    assert shown.endswith("\nValueError: the reason")
    assert len(shown) > 7_900


def test_traceback_when_over_64_kib_then_head_and_error_stay():
    shown = show("Traceback:\nfirst\n" + "    line\n" * 30_000 + "ValueError: the reason")
    assert shown.startswith("Traceback:\nfirst\n[...")
    assert shown.endswith("line\nValueError: the reason")
    assert len(shown) <= 8_192


def test_traceback_when_its_last_line_is_too_long_then_it_is_cut():
    shown = show("Traceback:\nfirst\n" + "ValueError: " + "word " * 5_000)
    assert "ValueError: word" in shown
    assert len(shown) <= 8_192


def test_traceback_when_its_lines_are_long_then_secrets_in_them_go():
    shown = show(f"a\n{'word ' * 500}a@b.cc\nb")
    assert shown == f"a\n{REDACTED}\nb"


def test_traceback_when_it_holds_nul_or_surrogates_then_they_are_replaced():
    assert show("a\0\nb\ud800") == "a\ufffd\nb\ufffd"


def test_traceback_when_nested_in_arguments_then_it_is_a_string_like_others():
    payload = json.loads(REDACTOR.render({"kwargs": {"traceback": "x\na@b.cc"}}).payload)
    assert payload == {"kwargs": {"traceback": REDACTED}}


def test_traceback_when_an_operator_pattern_names_its_key_then_it_goes():
    assert show(TRACE, Redactor(extra_key_patterns=["trace.*"])) == REDACTED


def test_traceback_when_the_event_is_too_large_then_the_error_stays():
    redactor = Redactor(max_event_bytes=1_024)
    shown = show("Traceback:\nfirst\n" + "    line\n" * 800 + "ValueError: reason", redactor)
    assert shown.endswith("ValueError: reason")
