from __future__ import annotations

import inspect

import pytest

from z4j_fastapi import errors
from z4j_fastapi.errors import (
    CommandError,
    ConfigError,
    EngineNotInstalledError,
    Failure,
    LocalProtocolError,
    OutboxError,
    ProtocolError,
    RedactionConfigError,
    RemoteProtocolError,
    TransportError,
    Z4JError,
)

CODES = {
    Z4JError: "z4j_error",
    ConfigError: "config_error",
    RedactionConfigError: "redaction_config_error",
    EngineNotInstalledError: "engine_not_installed",
    ProtocolError: "protocol_error",
    LocalProtocolError: "local_protocol_error",
    RemoteProtocolError: "remote_protocol_error",
    TransportError: "transport_error",
    OutboxError: "outbox_error",
    CommandError: "command_error",
}


def test_every_error_has_one_base_and_a_code_of_its_own():
    found = {
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, Exception)
    }
    assert found == set(CODES)
    for kind, code in CODES.items():
        assert issubclass(kind, Z4JError)
        assert kind.code == code
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("kind", [Z4JError, ConfigError, LocalProtocolError, OutboxError])
def test_error_says_its_message_and_keeps_its_details(kind):
    details = {"field": "token"}
    error = kind("token: is missing", details=details)
    assert str(error) == error.message == "token: is missing"
    assert error.details == details
    assert error.details is not details
    assert kind("x").details == {}


def test_config_error_is_what_callers_of_the_official_agent_catch():
    error = ConfigError("all", problems=["a: wrong", "b: wrong"])
    assert isinstance(error, (RuntimeError, ValueError))
    assert isinstance(error, RuntimeError)
    assert isinstance(error, ValueError)
    assert error.problems == ("a: wrong", "b: wrong")
    assert ConfigError("one").problems == ("one",)


def test_missing_engine_names_the_handle_and_the_extra():
    error = EngineNotInstalledError("arq", handle="arq_redis_settings")
    assert isinstance(error, ConfigError)
    assert "arq_redis_settings" in str(error)
    assert "pip install 'z4j-fastapi[arq]'" in str(error)
    assert error.engine == "arq"
    assert error.details == {"engine": "arq", "handle": "arq_redis_settings", "extra": "arq"}


def test_transport_error_is_transient_unless_it_says_otherwise():
    error = TransportError("gone")
    assert error.failure is Failure.TRANSIENT
    assert error.close_code is error.http_status is None
    error = TransportError("no", failure=Failure.AUTH, close_code=4401, http_status=401)
    assert (error.failure, error.close_code, error.http_status) == (Failure.AUTH, 4401, 401)


def test_command_error_puts_the_reason_before_the_message():
    error = CommandError("not_found", "no such job", indeterminate=True, result={"task_id": "1"})
    assert str(error) == error.message == "not_found: no such job"
    assert error.reason == "not_found"
    assert error.indeterminate
    assert error.result == {"task_id": "1"}
    plain = CommandError("refused", "no")
    assert not plain.indeterminate
    assert plain.result == {}
