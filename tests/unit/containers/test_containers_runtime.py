from __future__ import annotations

import pytest
from support.agents import memory_container, options

from z4j_fastapi import AgentContainer
from z4j_fastapi.containers import with_options
from z4j_fastapi.containers.building import override
from z4j_fastapi.errors import ConfigError
from z4j_fastapi.runtime.agent import AgentRuntime
from z4j_fastapi.runtime.inert import InertRuntime


def test_runtime_is_one_of_the_containers_parts(memory_brain, tmp_path):
    container = memory_container(memory_brain, tmp_path)
    runtime = container.runtime()
    assert type(runtime) is AgentRuntime
    assert runtime is container.runtime()
    assert runtime.config is container.settings()
    assert runtime.framework is container.framework()
    assert runtime._outbox is container.outbox()
    assert runtime._recorder is container.recorder()
    assert runtime._dispatcher is container.dispatcher()
    assert runtime._transport is memory_brain.transport
    assert list(container.schedulers()) == []


def test_framework_has_the_settings_and_the_agents_guard(memory_brain, tmp_path):
    container = memory_container(memory_brain, tmp_path)
    framework = container.framework()
    assert framework.discover_config() is container.settings()

    def fail():
        raise ValueError

    framework.on_startup(fail)
    framework.fire_startup()
    assert container.observability().guard.counts() == {"framework.startup": 1}


def test_disabled_runtime_builds_none_of_the_parts():
    container = with_options({"enabled": False})
    parts = ("outbox", "journal", "storage", "transport", "engines", "recorder", "dispatcher")

    def never():
        raise AssertionError("built a part of a disabled agent")

    for part in parts:
        getattr(container, part).override(never)
    assert isinstance(container.runtime(), InertRuntime)


def test_engine_when_wrong_is_found_before_a_file_is_touched(tmp_path):
    container = with_options(options(tmp_path, taskiq_brokers=7))
    with pytest.raises(ConfigError, match="taskiq_brokers"):
        container.runtime()
    assert list(tmp_path.iterdir()) == []


def test_containers_share_nothing(memory_brain, tmp_path):
    one, two = (memory_container(memory_brain, tmp_path) for _ in range(2))
    for part in ("runtime", "outbox", "counters", "observability", "recorder", "redactor"):
        assert getattr(one, part)() is not getattr(two, part)()
    override(one.default_role, "task")
    assert AgentContainer().default_role() == "web"
