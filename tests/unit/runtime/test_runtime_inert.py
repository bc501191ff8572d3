from __future__ import annotations

import inspect
import os

import pytest
from support.agents import options
from support.runtime_kit import LogLines, ScriptedEngine, run

from z4j_fastapi.events import Event, EventKind
from z4j_fastapi.framework import FastAPIFrameworkAdapter
from z4j_fastapi.runtime.agent import AgentRuntime
from z4j_fastapi.runtime.inert import InertRuntime
from z4j_fastapi.runtime.status import ConnectionState, RuntimeState
from z4j_fastapi.settings import load_settings


class Instruments:
    def __init__(self):
        self.log = LogLines()

    def logger(self, layer):
        return self.log


@pytest.fixture
def runtime(tmp_path):
    settings = load_settings(options(tmp_path, enabled=False))
    return InertRuntime(
        settings=settings,
        framework=FastAPIFrameworkAdapter(settings),
        observability=Instruments(),
    )


def test_inert_runtime_when_anything_is_called_does_nothing(runtime):
    hooks = []
    runtime.framework.on_startup(lambda: hooks.append("start"))
    runtime.start()
    runtime.record(Event(kind=EventKind.TASK_SENT, engine="arq"))
    runtime.record_event(Event(kind=EventKind.TASK_SENT, engine="arq"))
    runtime.request_reconnect()
    engine = ScriptedEngine()
    runtime.add_engine(engine)
    runtime.reinit_after_fork()
    runtime.on_stop(lambda _: hooks.append("stop"))
    runtime.stop()
    assert hooks == []
    assert engine.attached == []
    assert runtime.engines == {}
    assert runtime.state is RuntimeState.STOPPED
    assert runtime.buffer_size() == 0
    assert runtime.flush(60) is True
    assert runtime.wait_online(60) is False
    assert "disabled" in repr(runtime)


def test_inert_runtime_when_asked_on_a_loop_answers_as_well(runtime):
    async def work():
        assert await runtime.aflush(60) is True
        assert await runtime.await_online(60) is False
        await runtime.astop()
        assert await runtime.resync_schedules_now() == 0

    run(work())


def test_inert_runtime_says_that_it_is_disabled(runtime):
    status = runtime.status()
    assert status.enabled is False
    assert status.pid == os.getpid()
    assert status.connection is ConnectionState.OFFLINE
    assert runtime.supervisor_state() == {
        "state": "offline",
        "auth_error_count": 0,
        "protocol_error_count": 0,
        "connection_error_count": 0,
        "session_id": None,
    }


def test_inert_runtime_replaces_every_public_method_that_uses_a_part():
    inherited = {"astop", "aflush", "await_online", "resync_schedules_now"}
    public = {
        name
        for name, member in inspect.getmembers(AgentRuntime)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    assert {name for name in public if name not in vars(InertRuntime)} == inherited


def test_inert_runtime_when_made_logs_warnings_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("Z4J_DEV_MODE", "1")
    instruments = Instruments()
    settings = load_settings(options(tmp_path, enabled=False))
    InertRuntime(
        settings=settings,
        framework=FastAPIFrameworkAdapter(settings),
        observability=instruments,
    )
    assert instruments.log.events == ["configuration_warning"] * len(settings.warnings) + [
        "agent_disabled"
    ]
    assert settings.warnings
