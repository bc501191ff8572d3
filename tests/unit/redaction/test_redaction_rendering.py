"""Canonical bytes, with and without orjson (style.md part 7)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from z4j_fastapi.redaction import Redactor, rendering


def canonical(value):
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


NUMBERS = [0, -1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 0.0, -0.0, 1.0, 1e-4, 1.5e-4,
           9.999e-5, 1e-5, 1e-7, 5e-324, 9999999999999998.0, 1e16, 1.5e300, -1e-5, -1e16, 0.1, 1 / 3]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_number_when_rendered_then_the_bytes_are_those_of_the_standard_library(number):
    for value in (number, [number], {"a": number}, [{"b": [number, "é"]}]):
        assert Redactor().render({"args": value}).payload == canonical({"args": value})


@pytest.mark.parametrize("with_orjson", [True, False])
def test_text_when_rendered_then_the_bytes_are_those_of_the_standard_library(
    with_orjson, monkeypatch
):
    if not with_orjson:
        monkeypatch.setattr(rendering, "orjson", None)
    value = {chr(at): "x" + chr(at) for at in (*range(1, 0x250), 0x2028, 0xE000, 0xFFFF, 0x1F600)}
    value |= {"\U0001f600": 1, "\uffff": 2, "b": None, "a": True}
    shown = json.loads(Redactor().render({"kwargs": value}).payload)["kwargs"]
    assert shown == value
    assert Redactor().render({"kwargs": value}).payload == canonical({"kwargs": value})


def test_orjson_when_absent_then_the_package_works():
    code = (
        "import sys; sys.modules['orjson'] = None\n"
        "from z4j_fastapi.redaction import Redactor\n"
        "print(Redactor().render({'b': 'é', 'a': 1}).payload.decode('utf-8'))"
    )
    result = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert result.stdout.strip() == '{"a":1,"b":"é"}'


def test_import_when_done_then_nothing_heavy_is_loaded():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import z4j_fastapi.redaction, z4j_fastapi.task_meta\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(result.stdout.split())
    # (Python 3.10's own `uuid` brings `threading`, by way of `platform` and `subprocess`.)
    assert loaded.isdisjoint(
        {"asyncio", "socket", "ssl", "pathlib", "logging", "pydantic", "fastapi"}
    )


def test_input_when_rendered_then_it_is_not_changed():
    data = {
        "args": [{"password": "x", "l": [1, "a@b.cc", (2,)]}],
        "kwargs": {"token": [1]},
        "traceback": "a@b.cc",
    }
    before = repr(data)
    Redactor().render(data)
    Redactor().redact(data)
    assert repr(data) == before
