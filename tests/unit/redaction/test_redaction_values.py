"""Shapes of values, names in text, and identifiers: redaction.md sections 1, 4, 7 and 9."""

from __future__ import annotations

import hashlib
import json

import pytest

from z4j_fastapi.redaction import REDACTED, Redactor, mask_url
from z4j_fastapi.redaction.cards import luhn

REDACTOR = Redactor()
redact = REDACTOR.redact


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-" + "a" * 20, "sk-ant-api03-" + "a" * 20, "sk-svcacct-" + "a" * 20, "sk-" + "a1" * 10,
        "x glpat-" + "a" * 20, "ghu_" + "a" * 36, "ghr_" + "a" * 36, "xapp-1234567890",
        "xoxe-1234567890", "xoxr-1234567890", "xoxs-1234567890", "Basic dXNlcjpwYXNzd29yZA==",
        "https://user:pass@host/", "redis://:p@h:6379/0", "postgresql+asyncpg://u:p@h/db",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----", "eyJa.b.c", "xeyJa.b.c", "EYJa.b.c",
        "postgres://a/b?x=1:2@c", "redis://x://u:p@h", "b\u0131@x.\u0131\u0130",
        "card 4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111.", "378282246310005",
        "3782 822463 10005", "5555555555554444", "6011111111111117", "3530111333300000", "4222222222222",
        "2223003122003222", "30569309025904", "6240008631401148", "12 4111 1111 1111 1111 12/29",
        "ſk_live_" + "a" * 24, "AKIAIOſFODNN7EXAMPLE",
    ],
)  # fmt: skip
def test_secret_value_when_redacted_then_the_whole_string_goes(text):
    assert redact(text) == REDACTED
    assert redact({"a": ["x", text]}) == {"a": ["x", REDACTED]}


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112", "4111 1111 1111 1112", "0.4111111111111111", "4111111111111111.5", "a4111111111111111",
        "1764000000000", "order-2026-000173", "6f1d7a2e-0c9b-4e0e-9c3d-0c0a5b1c2d3e",
        "task-6f1d7a2e-0c9b-4e0e-9c3d-0c0a5b1c2d3e", "risk-assessment-of-the-year", "https://h:8080/@user",
        "https://h:8080/a:b@c", "Basic English lesson", "token:refresh", "auth://x", "the password", "key=1",
        "tokens=5", "author: Bob", "sort_key=name", "x = y", "a:b=c", "redis://:@h", "redis://u:p", "http://h",
        "eyJ.a.b", "eyJa..b", "eyJa.b.", "-----BEGIN PUBLIC KEY-----", "9123-45-67890", "\u00e9" * 50, "",
    ],
)  # fmt: skip
def test_harmless_value_when_redacted_then_it_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("my password=hunter2 and token: abcdef", "my password=* and token: *"),
        ('{"password": "hunter2"}', '{"password": "*"}'),
        ('{"password":"hun\\"ter2","a":1}', '{"password":"*","a":1}'),
        ("{'password': 'hunter2', 'a': 1}", "{'password': '*', 'a': 1}"),
        ('{\\"password\\": \\"hunter2\\", \\"a\\": 1}', '{\\"password\\": \\"*\\", \\"a\\": 1}'),
        ("https://h/x?token=abc123&y=2", "https://h/x?token=*&y=2"),
        ("?a=1&api_key=k#f", "?a=1&api_key=*"),
        ("Authorization: Digest username=x, response=y\nHost: h", "Authorization: *\nHost: h"),
        ("Cookie: a=b; c=d\r\nx", "Cookie: *\r\nx"),
        ("auth=Basic abc next", "auth=* next"),
        ("token: Bearer short next", "token: * next"),
        ("password=hun,ter2 x", "password=* x"),
        ("secret=abc, user=bob", "secret=*, user=bob"),
        ("Password=abc;Server=x", "Password=*;Server=x"),
        ("D(password='hun\"ter2', x=1)", "D(password='*', x=1)"),
        ("password=b'raw', x", "password='*', x"),
        ("credentials: {'user': 'bob', 'pw': ['x']} rest", "credentials: * rest"),
        ("secret='unclosed to the end", "secret='*"),
        ("if token == 'abc':", "if token == '*':"),
        ("def f(password: str = 'abc')", "def f(password: str = '*')"),
        ("X-API-KEY = abc", "X-API-KEY = *"),
        ("cvv2=123 db_password=x", "cvv2=* db_password=*"),
        ("password:hunter2", "password:*"),
        ("pa\u017f\u017fword=x to\u212aen=y", "pa\u017f\u017fword=* to\u212aen=*"),
        ("é password=x", "é password=*"),
        ("password: [REDACTED] token=x", "password: [REDACTED] token=*"),
    ],
)
def test_name_and_value_in_text_when_redacted_then_only_the_value_goes(text, shown):
    assert redact(text) == shown.replace("*", REDACTED)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("name", ["password", "passwd", "pwd", "secret", "secrets", "client_secret", "clientSecret", "token", "access_token", "refresh-token", "api_key", "apikey", "x-api-key", "authorization", "auth", "credentials", "cookie", "set-cookie", "ssn", "social_security", "social_security_number", "credit_card", "credit_card_number", "card_number", "cvv", "cvc", "passphrase", "secret_key", "private_key", "aws_secret_access_key", "session_id", "session-id", "sessionId", "otp", "jwt", "cvv2", "cookies", "password_hash", "password_confirmation"])  # fmt: skip
@pytest.mark.parametrize("form", ["{}=v1 x", '"{}": "v1"', "?{}=v1", "{} = v1", "'{}':'v1'"])
def test_every_name_in_text_when_redacted_then_its_value_goes(name, form):
    for spelled in (name, name.upper()):
        assert "v1" not in redact(form.format(spelled))


def test_text_when_it_holds_very_many_secrets_then_the_whole_goes():
    assert redact("pwd=x " * 600) == REDACTED


def test_key_when_in_our_list_then_its_value_goes():
    names = ("passphrase secretKey private-key AWS_SECRET_ACCESS_KEY X-Auth-Token csrf_token session_id "
             "Cookies Proxy-Authorization creditCard cvv2 otp jwt db_password my_secret user_token some-api-key")  # fmt: skip
    assert set(redact(dict.fromkeys(names.split(), 1)).values()) == {REDACTED}
    kept = "tokens token_count author pin signature email phone"
    assert set(redact(dict.fromkeys(kept.split(), 1)).values()) == {1}


def test_key_when_it_holds_a_secret_or_nul_then_it_is_replaced():
    assert redact({"a@b.cc": 1, "n\0": 2, "s\ud800": 3}) == {
        REDACTED: 1,
        "n\ufffd": 2,
        "s\ufffd": 3,
    }


def test_keys_when_very_many_then_few_are_remembered():
    redactor = Redactor()
    for at in range(10):
        redactor.redact([{f"k{at}.{n}.{m}": 1 for n in range(900)} for m in range(2)])
    assert len(redactor._rules.known) <= 4_096


def test_luhn_when_one_digit_differs_then_it_fails():
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h:6379/0", "redis://u:***@h:6379/0"),
        ("redis://:p@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("redis://u@h", "redis://u@h"),
        ("redis://h:1", "redis://h:1"),
        ("amqp://u:p@w@h//", "amqp://u:***@h//"),
        ("redis://h/0?password=zz&db=1", "redis://h/0?password=***&db=1"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("http://h:8080/@user", "http://h:8080/@user"),
        ("postgres://u:p/w@h/db", "<unparsable URL>"),
        ("redis://u:123/abc@h", "<unparsable URL>"),
        ("redis://u:p#w@h", "<unparsable URL>"),
        ("http://[::1", "<unparsable URL>"),
        ("no url", "<unparsable URL>"),
        ("", "<unparsable URL>"),
    ],
)
def test_url_when_masked_then_the_password_is_hidden(url, shown):
    assert mask_url(url) == shown


@pytest.mark.parametrize("value", [None, 5, b"redis://u:p@h", object()])
def test_url_when_it_is_no_text_then_masking_does_not_raise(value):
    assert "p@" not in mask_url(value)


def test_message_when_it_holds_a_url_then_only_the_password_goes():
    text = "Error 111 connecting to redis://u:pw@cache.example.com:6379/0. Refused."
    assert REDACTOR.redact_text(text) == text.replace(":pw@", ":***@")
    assert REDACTOR.redact_text("mail a@b.cc at redis://u:pw@h") == REDACTED
    assert REDACTOR.redact_text("password=x failed") == "password=[REDACTED] failed"
    assert REDACTOR.redact_text("a\0b") == "a\ufffdb"


def test_message_when_limited_then_it_fits():
    for text in ("word " * 500, "x" * 3_000, "redis://u:p@h " * 300):
        assert len(REDACTOR.redact_text(text, limit=1_000).encode()) <= 1_000


@pytest.mark.parametrize(
    "text",
    ["app.tasks.send", "celery", "celery@web1", "web-1:4711", "42", "", "0" * 32,
     "6f1d7a2e-0c9b-4e0e-9c3d-0c0a5b1c2d3e", "arq:queue"],
)  # fmt: skip
def test_identifier_when_harmless_then_it_stays(text):
    assert REDACTOR.safe_identifier(text) is text


@pytest.mark.parametrize(
    "text",
    ["mail-1@example.com", "celery@web1.example.com", "sk_live_" + "a" * 24, "a\0", "\ud800"],
)
def test_identifier_when_the_brain_would_redact_it_then_it_is_a_stable_token(text):
    token = "id-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    assert REDACTOR.safe_identifier(text) == token
    assert Redactor().safe_identifier(text) == token
    assert REDACTOR.safe_identifier(token) == token


def test_identifiers_in_an_event_when_secret_then_they_are_tokens():
    data = {
        "task_name": "a@b.cc", "queue": "q@example.com", "worker": "celery@web1.example.com",
        "parent_task_id": "mail-1@example.com", "root_task_id": "r", "args": ["a@b.cc"],
    }  # fmt: skip
    payload = json.loads(REDACTOR.render(data).payload)
    for key in ("task_name", "queue", "worker", "parent_task_id"):
        assert payload[key] == REDACTOR.safe_identifier(data[key])
    assert payload["root_task_id"] == "r"
    assert payload["args"] == [REDACTED]


def test_identifier_with_extra_patterns_when_it_matches_then_it_is_a_token():
    redactor = Redactor(extra_value_patterns=["^0{32}$"])
    assert redactor.safe_identifier("0" * 32).startswith("id-")
    assert redactor.safe_identifier("1" * 32) == "1" * 32
