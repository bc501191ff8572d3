from __future__ import annotations

import enum
import math
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from pydantic import SecretStr

from z4j_fastapi.settings.conversion import ConversionError, EnvironmentText, convert
from z4j_fastapi.settings.fields import SETTINGS

UUID_TEXT = "0e4d0b2c-8a57-4c5e-9b1e-2f3f8a1d7c11"


class Word(str, enum.Enum):
    ARQ = "arq"


class Number(int):
    """An integer of another library."""


class Url:
    """The shape of a URL object of pydantic, httpx, yarl or Starlette."""

    scheme = "https"
    host = "h"

    def __str__(self):
        return "https://h/x"


class Hostile:
    scheme = host = "h"

    def __str__(self):
        raise RuntimeError("hunter2")

    __index__ = __fspath__ = __str__


def converted(name, value):
    return convert(SETTINGS[name], value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("heartbeat_seconds", 10, 10),
        ("heartbeat_seconds", " 10 ", 10),
        ("heartbeat_seconds", "+10", 10),
        ("heartbeat_seconds", 10.0, 10),
        ("heartbeat_seconds", Number(7), 7),
        ("heartbeat_seconds", SecretStr("7"), 7),
        ("shutdown_timeout", "2.5", 2.5),
        ("shutdown_timeout", 3, 3.0),
        ("autostart", True, True),
        ("autostart", 0, False),
        ("autostart", "no", False),
        ("autostart", " YES ", True),
        ("transport", "WS", "ws"),
        ("log_level", "info", "INFO"),
        ("project_id", " p ", "p"),
        ("project_id", UUID(UUID_TEXT), UUID_TEXT),
        ("project_id", 7, "7"),
        ("project_id", SecretStr("p"), "p"),
        ("brain_url", " https://h/x ", "https://h/x"),
        ("brain_url", urlsplit("https://h/x"), "https://h/x"),
        ("brain_url", Url(), "https://h/x"),
        ("engines", "arq, taskiq,,arq ", ("arq", "taskiq")),
        ("engines", EnvironmentText("arq,taskiq"), ("arq", "taskiq")),
        ("engines", ("arq", Word.ARQ, " rq "), ("arq", "rq")),
        ("engines", {"b", "a"}, ("a", "b")),
        ("engines", [], ()),
        ("tags", "k=v, k2 = v=2 ,bare,=x", {"k": "v", "k2": "v=2"}),
        ("tags", {"a": 1, "b": True, "c": "x"}, {"a": "1", "b": "true", "c": "x"}),
        ("tags", OrderedDict(a="x"), {"a": "x"}),
        ("tags", {"": "x", " k ": " v "}, {"k": "v"}),
        ("ca_file", "/x/ca.pem", Path("/x/ca.pem")),
        ("ca_file", PurePosixPath("/x/ca.pem"), Path("/x/ca.pem")),
        ("redaction_extra_key_patterns", ["a{1,2}", " x"], ("a{1,2}", " x")),
        ("redaction_extra_key_patterns", EnvironmentText('["a{1,2}", "b"]'), ("a{1,2}", "b")),
        ("redaction_extra_key_patterns", EnvironmentText("a, b"), ("a", "b")),
        ("redaction_extra_key_patterns", EnvironmentText("[a-z]+_pin,b"), ("[a-z]+_pin", "b")),
        ("redaction_extra_key_patterns", EnvironmentText(" [] "), ()),
    ],
)
def test_convert_when_lossless_then_gives_the_plain_type(name, value, expected):
    result = converted(name, value)
    assert result == expected
    assert not isinstance(result, (Number, EnvironmentText, Word))
    if isinstance(result, str):
        assert type(result) is str


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heartbeat_seconds", True),
        ("heartbeat_seconds", 2.5),
        ("heartbeat_seconds", "2.5"),
        ("heartbeat_seconds", "abc"),
        ("heartbeat_seconds", "9" * 5000),
        ("heartbeat_seconds", math.inf),
        ("heartbeat_seconds", math.nan),
        ("heartbeat_seconds", [1]),
        ("heartbeat_seconds", Fraction(3)),
        ("heartbeat_seconds", b"1"),
        ("shutdown_timeout", True),
        ("shutdown_timeout", "nan"),
        ("shutdown_timeout", "inf"),
        ("shutdown_timeout", "abc"),
        ("shutdown_timeout", Fraction(3)),
        ("shutdown_timeout", 10**400),
        ("autostart", "maybe"),
        ("autostart", 2),
        ("autostart", 1.0),
        ("transport", "http"),
        ("transport", 3.5),
        ("log_level", "TRACE"),
        ("project_id", True),
        ("project_id", 1.5),
        ("project_id", b"p"),
        ("project_id", "\ud800"),
        ("token", 12345),
        ("token", b"token"),
        ("token", "\udcff"),
        ("brain_url", 5),
        ("brain_url", b"http://h"),
        ("brain_url", "https://h/\ud800"),
        ("engines", 5),
        ("engines", b"arq"),
        ("engines", ["arq", 5]),
        ("engines", ["\ud800"]),
        ("tags", 5),
        ("tags", [("a", "b")]),
        ("tags", {1: "x"}),
        ("tags", {"a": None}),
        ("tags", {"a": "\ud800"}),
        ("ca_file", 5),
        ("ca_file", b"/x"),
        ("ca_file", "/x\0y"),
        ("ca_file", "/\ud800"),
        ("ca_file", "  "),
        ("redaction_extra_key_patterns", "a,b"),
        ("redaction_extra_key_patterns", EnvironmentText('["a\\d"]')),
        ("redaction_extra_key_patterns", EnvironmentText('["a"')),
        ("redaction_extra_key_patterns", EnvironmentText('["a", 5]')),
        ("redaction_extra_key_patterns", [5]),
        *((name, Hostile()) for name in SETTINGS),
    ],
)
def test_convert_when_not_lossless_then_raises_without_the_value(name, value):
    with pytest.raises(ConversionError) as caught:
        converted(name, value)
    assert caught.value.__context__ is None
    text = str(caught.value)
    assert "hunter2" not in text
    assert "; " in text or "such as" in text
    assert "\n" not in text


@pytest.mark.parametrize(("value", "expected"), [("1", False), (" TRUE ", False), ("off", True)])
def test_convert_when_variable_is_inverted_then_turns_text_round(value, expected):
    assert converted("enabled", EnvironmentText(value)) is expected


@pytest.mark.parametrize(("value", "expected"), [("1", True), (True, True), ("off", False)])
def test_convert_when_keyword_of_inverted_setting_then_is_taken_as_it_is(value, expected):
    assert converted("enabled", value) is expected


def test_convert_when_list_entry_is_wrong_then_names_its_position_only():
    with pytest.raises(ConversionError, match="entry 2 is not text"):
        converted("engines", ["arq", b"hunter2"])
