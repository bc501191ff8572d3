from __future__ import annotations

import pytest
from support.agents import options
from support.runtime_kit import ScriptedEngine

from z4j_fastapi import AgentContainer
from z4j_fastapi.containers import is_disabled, join_runtime, with_options, worker_container
from z4j_fastapi.containers.building import override


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name, value in options(tmp_path).items():
        if name != "buffer_path":
            monkeypatch.setenv(f"Z4J_{name.upper()}", value)


def test_override_gives_the_value_on_one_instance_only():
    container, other = AgentContainer(), AgentContainer()
    override(container.default_role, "task")
    assert container.default_role() == "task"
    assert other.default_role() == "web"


def test_options_when_none_count_as_not_given(tmp_path, environment, monkeypatch):
    monkeypatch.setenv("Z4J_AGENT_NAME", "from the environment")
    container = with_options(options(tmp_path, agent_name=None, environment="staging"))
    assert container.settings().agent_name == "from the environment"
    assert container.settings().environment == "staging"
    assert with_options({"agent_name": "given"}).settings().agent_name == "given"


def test_worker_container_has_the_workers_engines_and_role(environment):
    engine = ScriptedEngine()
    container = worker_container(adapters=[engine], worker_role="task")
    assert list(container.engines()) == [engine]
    assert container.default_role() == "task"
    assert container.runtime()._default_role == "task"


def test_container_when_it_joins_a_runtime_gives_it_and_brings_its_engines():
    class Runtime:
        def __init__(self):
            self.added = []

        def add_engine(self, adapter):
            self.added.append(adapter)

    runtime, engine, container = Runtime(), ScriptedEngine(), AgentContainer()
    override(container.engines, (engine,))
    join_runtime(container, runtime)
    assert runtime.added == [engine]
    assert container.runtime() is runtime


@pytest.mark.parametrize(("given", "disabled"), [({"enabled": False}, True), ({}, False)])
def test_disabled_is_what_the_settings_say(tmp_path, given, disabled):
    assert is_disabled(with_options(options(tmp_path, **given)).settings()) is disabled
