from __future__ import annotations

import os

import pytest

from z4j_fastapi.errors import ConfigError, RedactionConfigError
from z4j_fastapi.settings import AgentSettings, load_settings

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
GOOD = {
    "brain_url": "https://brain.example.com",
    "token": "agent-token",
    "hmac_secret": KEY,
    "project_id": "default",
}


def problems_of(overrides, environ=None):
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides, environ=environ or {})
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    return caught.value


def test_load_when_nothing_is_given_then_names_every_missing_setting():
    error = problems_of({})
    assert [line.split(":")[0] for line in error.problems] == [
        "brain_url (Z4J_BRAIN_URL)",
        "token (Z4J_TOKEN)",
        "hmac_secret (Z4J_HMAC_SECRET)",
        "project_id (Z4J_PROJECT_ID)",
    ]
    assert all("is missing" in line for line in error.problems)
    assert error.details["fields"] == ["brain_url", "hmac_secret", "project_id", "token"]


def test_load_when_everything_is_wrong_then_one_error_lists_all_in_order():
    error = problems_of(
        {
            "brain_url": "http://brain.example.com",
            "token": "hunter2\n",
            "hmac_secret": "c2hvcnQ=",
            "project_id": "x" * 64,
            "transport": "longpoll",
            "tags": 5,
            "engines": [b"hunter2"],
            "heartbeat_seconds": True,
            "buffer_max_bytes": "abc",
            "ca_file": "/nowhere/ca.pem",
            "proxy": "socks5://u:hunter2@p",
        },
        environ={"Z4J_LOG_LEVEL": "hunter2", "Z4J_AUTOSTART": "maybe", "Z4J_SHUTDOWN_TIMEOUT": "x"},
    )
    assert [line.split(" ")[0].rstrip(":") for line in error.problems] == [
        "brain_url",
        "hmac_secret",
        "project_id",
        "transport",
        "tags",
        "engines",
        "heartbeat_seconds",
        "buffer_max_bytes",
        "log_level",
        "autostart",
        "shutdown_timeout",
        "ca_file",
        "proxy",
    ]
    for line in error.problems:
        assert line in str(error)
        assert "\n" not in line
    assert "hunter2" not in str(error)
    assert "c2hvcnQ" not in str(error)


def test_load_when_one_problem_then_message_is_one_line():
    error = problems_of({**GOOD, "token": ""})
    assert str(error).startswith("z4j configuration: token (Z4J_TOKEN): is missing; ")
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["token", "reconcile_api_key"])
@pytest.mark.parametrize("value", ["hun\nter2", "hun\x00ter2", "hünter2", "hun\x7fter2"])
def test_load_when_secret_cannot_go_into_a_header_then_problem(name, value):
    [problem] = problems_of({**GOOD, name: value}).problems
    assert problem.startswith(f"{name} (")
    assert "printable ASCII" in problem
    assert "ter2" not in problem


def test_load_when_secret_has_spaces_around_then_stripped():
    assert load_settings({**GOOD, "token": " t \n"}, environ={}).token.get_secret_value() == "t"


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_load_when_plaintext_to_another_host_then_problem_unless_dev_mode(scheme):
    url = f"{scheme}://brain.example.com:7700"
    [problem] = problems_of({**GOOD, "brain_url": url}).problems
    assert "plaintext" in problem
    assert "dev_mode=True" in problem
    settings = load_settings({**GOOD, "brain_url": url, "dev_mode": True}, environ={})
    assert settings.websocket_url == "ws://brain.example.com:7700/ws/agent"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.9.9.9", "[::1]"])
def test_load_when_plaintext_to_loopback_then_allowed(host):
    load_settings({**GOOD, "brain_url": f"http://{host}:7700"}, environ={})


def test_load_when_dev_mode_in_the_environment_then_ignored_with_one_warning():
    overrides = {**GOOD, "brain_url": "http://brain.example.com"}
    problems_of(overrides, {"Z4J_DEV_MODE": "1"})
    settings = load_settings(GOOD, environ={"Z4J_DEV_MODE": "1"})
    assert settings.dev_mode is False
    [warning] = settings.warnings
    assert warning.startswith("Z4J_DEV_MODE is ignored")


@pytest.mark.parametrize("name", ["brain_url", "Z4J_BRAIN_URL"])
def test_load_when_url_has_white_space_around_then_stripped(name):
    rest = {key: value for key, value in GOOD.items() if key != "brain_url"}
    if name == "brain_url":
        settings = load_settings({**rest, name: " https://h \n"}, environ={})
    else:
        settings = load_settings(rest, environ={name: " https://h \n"})
    assert settings.brain_url == "https://h/"


def test_load_when_ca_file_is_unusable_then_problem(tmp_path):
    (tmp_path / "no.pem").write_text("hunter2")
    os.mkfifo(tmp_path / "pipe")
    for path, text in [
        (tmp_path / "absent", "not an existing file"),
        (tmp_path, "not an existing file"),
        (tmp_path / "pipe", "not an existing file"),
        (tmp_path / "no.pem", "not a PEM file"),
    ]:
        [problem] = problems_of({**GOOD, "ca_file": path}).problems
        assert text in problem


def test_load_when_home_is_in_a_path_then_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    assert load_settings({**GOOD, "ca_file": "~/ca.pem"}, environ={}).ca_file == tmp_path / "ca.pem"


def test_load_when_home_of_a_path_is_unknown_then_problem_of_ca_file_only():
    # The outbox expands its own path and moves elsewhere where that fails.
    user = "~no-such-user-z4j/x"
    [problem] = problems_of({**GOOD, "buffer_path": user, "ca_file": user}).problems
    assert problem.startswith("ca_file (Z4J_CA_FILE): begins with ~")


def test_load_when_feature_of_a_later_version_then_problem():
    error = problems_of({**GOOD, "transport": "longpoll", "dev_brain": True})
    assert all("not in this version yet" in line for line in error.problems)
    assert len(error.problems) == 2


def test_load_when_dev_brain_then_missing_values_are_not_asked_for():
    [problem] = problems_of({}, {"Z4J_DEV_BRAIN": "1"}).problems
    assert problem.startswith("dev_brain (Z4J_DEV_BRAIN): is not in this version yet")
    assert load_settings(GOOD, environ={"Z4J_DEV_BRAIN": "0"}).dev_brain is False


def test_load_when_name_is_unknown_then_type_error():
    with pytest.raises(TypeError, match="'tokn'; did you mean 'token'"):
        load_settings({"tokn": "hunter2"}, environ={})


def test_load_when_environ_is_not_given_then_reads_the_process(monkeypatch):
    monkeypatch.setenv("Z4J_PROJECT_ID", "from-process")
    rest = {key: value for key, value in GOOD.items() if key != "project_id"}
    assert load_settings(rest).project_id == "from-process"


def test_load_when_a_dotenv_file_lies_around_then_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("Z4J_AGENT_NAME=x\nZ4J_TOKEN=y\n")
    assert load_settings(GOOD, environ={}).agent_name is None


@pytest.mark.parametrize("route", ["keyword", "environment"])
def test_load_when_disabled_and_nothing_given_then_inert_settings(route):
    overrides, environ = (
        ({"enabled": False}, {}) if route == "keyword" else ({}, {"Z4J_DISABLED": "1"})
    )
    settings = load_settings(overrides, environ=environ)
    assert settings.enabled is False
    assert settings.warnings == ()
    assert settings.brain_url == ""
    assert settings.project_id == ""
    assert settings.token.get_secret_value() == ""
    for name in ("websocket_url", "signing_key", "deployment_fingerprint"):
        with pytest.raises(ConfigError):
            getattr(settings, name)
    assert settings.identity


def test_load_when_disabled_then_problems_are_warnings_and_defaults_replace_them():
    settings = load_settings(
        {"enabled": False, "brain_url": "http://u:hunter2@h", "heartbeat_seconds": 0},
        environ={"Z4J_HMAC_SECRET": "hunter2", "Z4J_AGENT_NAME": "x" * 65},
    )
    assert [warning.split(" ")[0] for warning in settings.warnings] == [
        "brain_url",
        "hmac_secret",
        "agent_name",
        "heartbeat_seconds",
    ]
    assert all(warning.endswith("(the agent is disabled)") for warning in settings.warnings)
    assert "hunter2" not in repr(settings.warnings)
    assert settings.heartbeat_seconds == 10
    assert settings.brain_url == ""
    assert settings.agent_name is None
    assert settings.hmac_secret.get_secret_value() == ""


def test_load_when_disabled_is_neither_yes_nor_no_then_problem():
    [problem] = problems_of(GOOD, {"Z4J_DISABLED": "maybe"}).problems
    assert problem.startswith("enabled (Z4J_DISABLED): must be true or false")


def test_load_when_enabled_is_a_keyword_then_wins_over_the_variable():
    assert load_settings({**GOOD, "enabled": True}, environ={"Z4J_DISABLED": "1"}).enabled is True


def test_load_when_values_are_unwise_then_warns():
    settings = load_settings(
        {**GOOD, "redaction_defaults_enabled": False, "max_payload_bytes": 8193}, environ={}
    )
    assert len(settings.warnings) == 2
    assert "OFF" in settings.warnings[0]
    assert "max_payload_bytes" in settings.warnings[1]


def test_load_when_near_miss_then_one_warning_in_the_settings():
    [warning] = load_settings(GOOD, environ={"Z4J_TOKN": "hunter2"}).warnings
    assert "did you mean Z4J_TOKEN" in warning
    assert "hunter2" not in warning


def test_load_when_a_redaction_pattern_is_bad_then_its_own_error():
    error = problems_of({**GOOD, "redaction_extra_value_patterns": ["ok", "(", ""]})
    assert type(error) is RedactionConfigError
    assert error.code == "redaction_config_error"
    assert len(error.problems) == 2
    for line in error.problems:
        assert line.startswith(
            "redaction_extra_value_patterns (Z4J_REDACTION_EXTRA_VALUE_PATTERNS): "
        )


def test_load_when_redaction_and_other_problems_then_one_plain_error():
    error = problems_of({**GOOD, "token": "", "redaction_extra_key_patterns": ["("]})
    assert type(error) is ConfigError
    assert [line.split(" ")[0] for line in error.problems] == [
        "token",
        "redaction_extra_key_patterns",
    ]


def test_load_when_called_then_result_is_the_same_type_and_equal():
    first = load_settings(GOOD, environ={})
    assert isinstance(first, AgentSettings)
    assert first == load_settings({}, environ={f"Z4J_{k.upper()}": v for k, v in GOOD.items()})
