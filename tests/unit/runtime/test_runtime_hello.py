from __future__ import annotations

from datetime import datetime, timezone

import pytest
from support.agents import options
from support.runtime_kit import ScriptedEngine

from z4j_fastapi._version import __version__
from z4j_fastapi.protocol.frames import HelloPayload
from z4j_fastapi.runtime.hello import build_hello
from z4j_fastapi.runtime.identity import WorkerIdentity
from z4j_fastapi.settings import load_settings

STARTED = datetime(2026, 11, 24, 6, 0, tzinfo=timezone.utc)
IDENTITY = WorkerIdentity(worker_id="fastapi-7-1", role="task", pid=7, started_at=STARTED)


def payload(directory, engines=(), **settings):
    hello = build_hello(
        settings=load_settings(options(directory, **settings)),
        identity=IDENTITY,
        engines={engine.name: engine for engine in engines},
        framework="fastapi",
    )
    return hello.payload()


def test_hello_says_who_we_are_and_which_line_we_implement(tmp_path):
    made = payload(tmp_path)
    assert set(made) == set(HelloPayload.__annotations__)
    assert made["agent_version"] == "1.13.0"
    assert made["protocol_version"] == "2"
    assert made["framework"] == "fastapi"
    assert (made["worker_id"], made["worker_role"], made["worker_pid"]) == (
        "fastapi-7-1",
        "task",
        7,
    )
    assert made["worker_started_at"].startswith("2026-11-24T06:00:00")
    assert made["runtime_features"] == ["retry_by_reference"]
    assert made["engines"] == made["schedulers"] == []
    assert made["host"]["package"] == f"z4j-fastapi {__version__}"
    assert made["host"]["environment"] == "production"
    assert "name" not in made["host"]
    assert "tags" not in made["host"]


def test_hello_names_engines_and_their_tokens_in_order(tmp_path):
    made = payload(
        tmp_path,
        [ScriptedEngine("taskiq", ("b", "a")), ScriptedEngine("arq", ("submit_task",))],
    )
    assert made["engines"] == ["arq", "taskiq"]
    assert made["capabilities"] == {"arq": ["submit_task"], "taskiq": ["a", "b"]}


def test_hello_carries_label_environment_and_tags(tmp_path):
    made = payload(tmp_path, agent_name="shop-web", environment="staging", tags={"team": "a"})
    assert made["host"]["name"] == "shop-web"
    assert made["host"]["environment"] == "staging"
    assert made["host"]["tags"] == {"team": "a"}


@pytest.mark.parametrize("secret", ["token", "hmac_secret"])
def test_hello_holds_no_secret(tmp_path, secret):
    assert options(tmp_path)[secret] not in repr(payload(tmp_path))
