from __future__ import annotations

import sys
import types

import pytest
from arq.connections import RedisSettings
from support.agents import options
from support.runtime_kit import ScriptedEngine
from taskiq import InMemoryBroker

from z4j_fastapi.containers.engines import build_engines
from z4j_fastapi.errors import ConfigError, EngineNotInstalledError
from z4j_fastapi.settings import load_settings


@pytest.fixture
def build(tmp_path):
    def make(overrides=None, adapters=(), host_loop=None, **settings):
        return build_engines(
            settings=load_settings(options(tmp_path, **settings)),
            overrides=overrides or {},
            adapters=adapters,
            host_loop=host_loop,
        )

    return make


def test_no_handle_no_engine(build):
    assert list(build()) == []
    assert list(build({"arq_redis_settings": None, "taskiq_broker": None})) == []
    assert list(build({"taskiq_brokers": []})) == []


def test_arq_handle_makes_the_arq_engine_with_its_names_and_queue(build):
    [adapter] = build(
        {
            "arq_redis_settings": RedisSettings(),
            "arq_function_names": ["send"],
            "arq_queue_name": "q",
        }
    )
    assert adapter.name == "arq"
    assert [task.name for task in adapter.tasks()] == ["send"]


@pytest.mark.parametrize(
    "handles",
    [
        lambda a, b: ({"taskiq_broker": a}, [a]),
        lambda a, b: ({"taskiq_brokers": [a, b]}, [a, b]),
        lambda a, b: ({"taskiq_broker": a, "taskiq_brokers": (b, a)}, [a, b]),
    ],
)
def test_taskiq_handles_make_one_engine_with_every_broker_once(build, monkeypatch, handles):
    given = []

    class Adapter(ScriptedEngine):
        def __init__(self, *, brokers, broker_loop):
            super().__init__("taskiq")
            given.extend([*brokers, broker_loop])

    monkeypatch.setattr("z4j_fastapi.engines.taskiq.TaskiqEngineAdapter", Adapter, raising=False)
    overrides, expected = handles(InMemoryBroker(), InMemoryBroker())
    [adapter] = build(overrides, host_loop="the host's loop")
    assert adapter.name == "taskiq"
    assert given == [*expected, "the host's loop"]


def test_taskiq_brokers_when_it_is_one_broker_says_which_keyword_to_use(build):
    with pytest.raises(ConfigError, match=r"taskiq_brokers: must be an iterable.*taskiq_broker"):
        build({"taskiq_brokers": object()})


def test_both_handles_make_both_engines(build):
    made = build({"arq_redis_settings": RedisSettings(), "taskiq_broker": InMemoryBroker()})
    assert [adapter.name for adapter in made] == ["arq", "taskiq"]


def test_adapter_made_elsewhere_wins_over_a_handle_of_its_engine(build):
    mine = ScriptedEngine("arq")
    assert list(build({"arq_redis_settings": RedisSettings()}, [mine])) == [mine]


def test_engines_setting_from_the_environment_restricts_and_ignores_the_rest(build, monkeypatch):
    monkeypatch.setenv("Z4J_ENGINES", "taskiq,celery")
    arq, taskiq = ScriptedEngine("arq"), ScriptedEngine("taskiq")
    assert list(build(adapters=[arq, taskiq])) == [taskiq]
    assert list(build(adapters=[arq])) == []


def test_engines_argument_must_name_what_was_given(build):
    arq, taskiq = ScriptedEngine("arq"), ScriptedEngine("taskiq")
    assert list(build(adapters=[arq, taskiq], engines=["arq"])) == [arq]
    with pytest.raises(ConfigError, match="engines: no handle was given for celery, rq"):
        build(adapters=[arq], engines=["rq", "arq", "celery"])


@pytest.mark.parametrize(
    ("handle", "engine"),
    [("celery_app", "celery"), ("rq_app", "rq"), ("dramatiq_broker", "dramatiq"), ("huey", "huey")],
)
def test_handle_of_a_later_engine_says_so_where_its_library_is_there(
    build, monkeypatch, handle, engine
):
    module = types.ModuleType(engine)
    monkeypatch.setitem(sys.modules, engine, module)  # without a spec, as some shims are
    with pytest.raises(ConfigError, match=f"^{handle}: engine '{engine}' is not in this version"):
        build({handle: object()})
    monkeypatch.setitem(sys.modules, engine, None)
    monkeypatch.setattr("z4j_fastapi.containers.engines.find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalledError, match=rf"z4j-fastapi\[{engine}\]"):
        build({handle: object()})


def test_handle_whose_library_is_missing_names_the_handle_that_was_used(build, monkeypatch):
    monkeypatch.setattr("z4j_fastapi.containers.engines.find_spec", lambda name: None)
    for handle, value in (
        ("arq_redis_settings", object()),
        ("taskiq_broker", object()),
        ("taskiq_brokers", [object()]),
    ):
        with pytest.raises(EngineNotInstalledError, match=f"^{handle}: "):
            build({handle: value})
