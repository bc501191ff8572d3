from __future__ import annotations

import math

import pytest

from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.parameters import ParameterReader, json_object, text_map


def read(value):
    return ParameterReader("act", {"x": value})


@pytest.mark.parametrize(
    ("method", "arguments", "value", "expected"),
    [
        ("text", (3,), "abc", "abc"),
        ("optional_text", (3,), "abc", "abc"),
        ("optional_text", (3,), "", None),
        ("optional_text", (3,), None, None),
        ("informational", (3,), "abcd", "abc"),
        ("informational", (3,), "", None),
        ("informational", (3,), 5, None),
        ("integer", (1, 3), 3, 3),
        ("integer", (1, None), 10**30, 10**30),
        ("integer", (1, 3, 2), None, 2),
        ("flag", (), True, True),
        ("flag", (), None, False),
        ("optional_number", (), 5, 5.0),
        ("optional_number", (), -1.5, -1.5),
        ("optional_number", (), None, None),
        ("optional_list", (), [1], (1,)),
        ("optional_list", (), [], ()),
        ("optional_list", (), None, None),
        ("optional_object", (), {"a": 1}, {"a": 1}),
        ("optional_object", (), {}, {}),
        ("optional_object", (), None, None),
    ],
)
def test_reader_when_the_value_fits_then_return_it(method, arguments, value, expected):
    assert getattr(read(value), method)("x", *arguments) == expected


@pytest.mark.parametrize(
    ("method", "arguments", "value"),
    [
        ("text", (3,), ""),
        ("text", (3,), "abcd"),
        ("text", (3,), None),
        ("text", (3,), 5),
        ("optional_text", (3,), "abcd"),
        ("optional_text", (3,), 0),
        ("optional_text", (3,), False),
        ("integer", (1, 3), 0),
        ("integer", (1, 3), 4),
        ("integer", (1, 3), True),
        ("integer", (1, 3), 2.0),
        ("integer", (1, 3), None),
        ("integer", (1, None), 0),
        ("flag", (), 1),
        ("flag", (), "true"),
        ("optional_number", (), True),
        ("optional_number", (), "5"),
        ("optional_number", (), 10**400),
        ("optional_number", (), math.nan),
        ("optional_number", (), math.inf),
        ("optional_list", (), {}),
        ("optional_list", (), "ab"),
        ("optional_object", (), []),
    ],
)
def test_reader_when_the_value_does_not_fit_then_raise_naming_it(method, arguments, value):
    with pytest.raises(CommandError, match=r"^invalid: act: parameter 'x' must be") as caught:
        getattr(read(value), method)("x", *arguments)
    assert caught.value.reason == "invalid"


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_json_object_when_something_else_then_none(value):
    assert json_object(value) is None


def test_text_map_when_values_are_mixed_then_keep_the_texts():
    assert text_map({"m": {"a": "b", "c": 5, "d": None}}, "m") == {"a": "b"}
    assert text_map({"m": []}, "m") == {}
    assert text_map({}, "m") == {}
