from __future__ import annotations

import pytest

from z4j_fastapi.settings.environment import read_environment


def read(*, hidden=(), **environ):
    return read_environment(environ, hidden=hidden)


def test_read_when_variables_are_set_then_gives_text_by_setting():
    found = read(Z4J_TOKEN="t", Z4J_DISABLED="1", Z4J_API_KEY="k", OTHER="x")
    assert dict(found.values) == {"token": "t", "enabled": "1", "reconcile_api_key": "k"}
    assert found.warnings == ()


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_read_when_blank_then_counts_as_unset(blank):
    assert dict(read(Z4J_TOKEN=blank, Z4J_DEV_MODE=blank, Z4J_TOKN=blank).values) == {}
    assert read(Z4J_TOKEN=blank, Z4J_DEV_MODE=blank, Z4J_TOKN=blank).warnings == ()


def test_read_when_names_differ_in_case_then_the_exact_one_wins():
    assert read(z4j_token="low").values["token"] == "low"
    assert read(z4j_token="low", Z4J_TOKEN="UP").values["token"] == "UP"
    assert read(Z4J_TOKEN="UP", z4j_token="low").values["token"] == "UP"


def test_read_when_hidden_then_variable_is_not_looked_at():
    assert dict(read(hidden=["token"], Z4J_TOKEN="t").values) == {}


@pytest.mark.parametrize("variable", ["Z4J_BUFFER_PATH", "Z4J_BUFFER_DIR"])
def test_read_when_removed_buffer_variable_then_used_with_one_warning(variable):
    found = read(**{variable: "/var/z4j"})
    assert found.values["buffer_path"] == "/var/z4j"
    assert found.warnings == (f"{variable} is deprecated; pass buffer_path=... instead",)


def test_read_when_both_buffer_variables_then_the_path_wins():
    found = read(Z4J_BUFFER_DIR="/b", Z4J_BUFFER_PATH="/a")
    assert found.values["buffer_path"] == "/a"
    assert [warning.split()[0] for warning in found.warnings] == [
        "Z4J_BUFFER_PATH",
        "Z4J_BUFFER_DIR",
    ]


def test_read_when_buffer_path_is_a_keyword_then_variable_is_ignored_aloud():
    found = read(hidden=["buffer_path"], Z4J_BUFFER_PATH="/a")
    assert "buffer_path" not in found.values
    assert "ignored" in found.warnings[0]


@pytest.mark.parametrize(
    ("variable", "instead"),
    [
        ("Z4J_RUNTIME_DIR", "Z4J_HOME"),
        ("Z4J_DEV_MODE", "dev_mode="),
        ("Z4J_REDACTION_DEFAULTS_ENABLED", "redaction_defaults_enabled="),
    ],
)
def test_read_when_ignored_variable_then_one_warning_says_what_instead(variable, instead):
    found = read(**{variable: "hunter2"})
    assert dict(found.values) == {}
    [warning] = found.warnings
    assert variable in warning
    assert "ignored" in warning
    assert instead in warning
    assert "hunter2" not in warning


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("Z4J_TOKN", "Z4J_TOKEN"),
        ("Z4J_TOEKN", "Z4J_TOKEN"),
        ("Z4J_BRAIN_URI", "Z4J_BRAIN_URL"),
        ("Z4J_BRAINURL", "Z4J_BRAIN_URL"),
        ("Z4J_HMAC_SECRETS", "Z4J_HMAC_SECRET"),
        ("Z4J_PROJECTID", "Z4J_PROJECT_ID"),
        ("Z4J_HEARTBEAT_SECOND", "Z4J_HEARTBEAT_SECONDS"),
        ("Z4J_ENABLED", "Z4J_DISABLED"),
        ("z4j_tokn", "Z4J_TOKEN"),
    ],
)
def test_read_when_near_miss_then_one_warning_without_the_value(variable, meant):
    [warning] = read(**{variable: "hunter2"}).warnings
    assert f"{variable.upper()} (did you mean {meant}?)" in warning
    assert "hunter2" not in warning


def test_read_when_several_near_misses_then_still_one_warning():
    [warning] = read(Z4J_TOKN="a", Z4J_BRAIN_URI="b").warnings
    assert "Z4J_TOKN" in warning
    assert "Z4J_BRAIN_URI" in warning


@pytest.mark.parametrize(
    "variable",
    [
        "Z4J_HOST",
        "Z4J_PORT",
        "Z4J_DATABASE_URL",
        "Z4J_MAX_PAYLOAD_SIZE_BYTES",
        "Z4J_COMMAND_TIMEOUT_SECONDS",
        "Z4J_LOG_FORMAT",
        "Z4J_RQ_REDIS_URL",
        "Z4J_ORCHESTRATED",
        "Z4J_SECRET",
        "XZ4J_TOKN",
    ],
)
def test_read_when_somebody_elses_variable_then_no_warning(variable):
    found = read(**{variable: "x"})
    assert found.warnings == ()
    assert dict(found.values) == {}
