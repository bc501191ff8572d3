from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from support.agents import memory_container, options
from support.memory_brain import MemoryBrain

from z4j_fastapi import (
    AgentRuntime,
    ConfigError,
    EngineNotInstalledError,
    Event,
    EventKind,
    RuntimeDep,
    combine_lifespans,
    get_runtime,
    z4j_lifespan,
)
from z4j_fastapi.runtime.status import RuntimeState


def event(task_id="1"):
    return Event(kind=EventKind.TASK_SENT, engine="arq", task_id=task_id, data={"task_name": "x"})


@pytest.fixture
def container(memory_brain, tmp_path):
    return memory_container(memory_brain, tmp_path)


def test_lifespan_when_entered_runs_the_agent_and_when_left_delivers_and_stops(
    memory_brain, container
):
    app = FastAPI(lifespan=z4j_lifespan(container=container))
    with TestClient(app):
        runtime = app.state.z4j_runtime
        assert runtime.state is RuntimeState.RUNNING
        assert app.state.z4j is container
        assert get_runtime() is runtime
        assert runtime.wait_online(5)
        runtime.record(event())
    assert runtime.state is RuntimeState.STOPPED
    assert get_runtime() is None
    assert len(memory_brain.events) == 1


def test_lifespan_when_options_are_wrong_raises_every_problem_at_once(tmp_path):
    app = FastAPI(
        lifespan=z4j_lifespan(**options(tmp_path, brain_url="ftp://x", hmac_secret="short"))
    )
    with pytest.raises(ConfigError) as caught, TestClient(app):
        pass
    text = str(caught.value)
    assert "brain_url" in text
    assert "hmac_secret" in text
    assert "short" not in text.replace("too short", "")
    assert get_runtime() is None


def test_lifespan_when_an_option_is_unknown_says_so_at_the_call():
    with pytest.raises(TypeError, match=r"agent_nam.*did you mean 'agent_name'"):
        z4j_lifespan(agent_nam="x")


def test_lifespan_when_given_a_container_refuses_other_options(container):
    with pytest.raises(TypeError, match="agent_name"):
        z4j_lifespan(container=container, agent_name="x")


def test_lifespan_when_disabled_leaves_an_inert_runtime(tmp_path):
    app = FastAPI(lifespan=z4j_lifespan(enabled=False))
    with TestClient(app):
        runtime = app.state.z4j_runtime
        assert runtime.state is RuntimeState.STOPPED
        runtime.record(event())
        assert runtime.flush() is True
        assert runtime.wait_online(0.1) is False
        assert runtime.status().enabled is False
        runtime.stop()
        assert get_runtime() is None


def test_lifespan_when_disabled_by_environment_does_not_need_a_configuration(monkeypatch):
    monkeypatch.setenv("Z4J_DISABLED", " true ")
    app = FastAPI(lifespan=z4j_lifespan())
    with TestClient(app) as client:
        assert client.get("/openapi.json").status_code == 200


def test_lifespan_when_autostart_is_off_builds_but_does_not_start(memory_brain, tmp_path):
    container = memory_container(memory_brain, tmp_path, autostart=False)
    app = FastAPI(lifespan=z4j_lifespan(container=container))
    with TestClient(app):
        assert get_runtime().state is RuntimeState.STOPPED
        get_runtime().start()
        assert get_runtime().wait_online(5)
    assert get_runtime() is None


def test_lifespan_when_entered_by_hand_inside_the_users_own_works(memory_brain, container):
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        async with z4j_lifespan(container=container)(app):
            seen.append(get_runtime().state)
            yield {"mine": 1}

    with TestClient(FastAPI(lifespan=lifespan)) as client:
        assert client.app_state["mine"] == 1
    assert seen == [RuntimeState.RUNNING]


def test_inner_lifespan_when_given_runs_within_the_agent_and_its_state_passes(container):
    order = []

    @asynccontextmanager
    async def inner(app):
        order.append(("enter", app.state.z4j_runtime.state))
        yield {"pool": "p"}
        order.append(("leave", app.state.z4j_runtime.state))

    app = FastAPI(lifespan=z4j_lifespan(container=container, inner_lifespan=inner))

    @app.get("/state")
    def state(runtime: RuntimeDep):
        return runtime.state

    with TestClient(app) as client:
        assert client.app_state == {"pool": "p"}
        assert client.get("/state").json() == "running"
    assert order == [("enter", RuntimeState.RUNNING), ("leave", RuntimeState.RUNNING)]


def test_combined_lifespans_when_entered_merge_state_and_leave_in_reverse():
    order = []

    def make(name):
        @asynccontextmanager
        async def lifespan(app):
            order.append(name)
            yield {name: True, "last": name}
            order.append(f"-{name}")

        return lifespan

    with TestClient(FastAPI(lifespan=combine_lifespans(make("a"), make("b")))) as client:
        assert client.app_state == {"a": True, "b": True, "last": "b"}
    assert order == ["a", "b", "-b", "-a"]


def test_runtime_when_injected_is_the_applications_own_in_http_and_websocket(container):
    app = FastAPI(lifespan=z4j_lifespan(container=container))

    @app.get("/http")
    def http(runtime: Annotated[AgentRuntime, Depends(get_runtime)]):
        return runtime is app.state.z4j_runtime

    @app.websocket("/ws")
    async def ws(socket: WebSocket, runtime: RuntimeDep):
        await socket.accept()
        await socket.send_json(runtime is app.state.z4j_runtime)

    with TestClient(app) as client:
        assert client.get("/http").json() is True
        with client.websocket_connect("/ws") as socket:
            assert socket.receive_json() is True
        app.dependency_overrides[get_runtime] = lambda: None
        assert client.get("/http").json() is False


def test_two_apps_when_settings_differ_have_a_runtime_each(tmp_path):
    brains = MemoryBrain(), MemoryBrain()
    apps = []
    for number, brain in enumerate(brains):
        container = memory_container(brain, tmp_path, agent_name=f"app-{number}")
        app = FastAPI(lifespan=z4j_lifespan(container=container))

        @app.get("/mine")
        def mine(runtime: RuntimeDep):
            return runtime.config.agent_name

        apps.append(app)
    with TestClient(apps[0]) as first, TestClient(apps[1]) as second:
        assert first.get("/mine").json() == "app-0"
        assert second.get("/mine").json() == "app-1"
        for app in apps:
            assert app.state.z4j_runtime.wait_online(5)
        ids = {brain.hellos[0]["payload"]["worker_id"] for brain in brains}
        assert len(ids) == 2
    assert get_runtime() is None


def test_two_lifespans_when_settings_are_equal_share_one_runtime_until_the_last_leaves(tmp_path):
    given = options(tmp_path)
    one = FastAPI(lifespan=z4j_lifespan(**given))
    two = FastAPI(lifespan=z4j_lifespan(**given))
    with TestClient(one):
        runtime = one.state.z4j_runtime
        with TestClient(two):
            assert two.state.z4j_runtime is runtime
            assert two.state.z4j.runtime() is runtime
        assert runtime.state is RuntimeState.RUNNING
        assert get_runtime() is runtime
    assert runtime.state is RuntimeState.STOPPED


def test_same_app_when_started_again_and_again_has_a_running_agent_each_time(
    memory_brain, tmp_path
):
    app = FastAPI(lifespan=z4j_lifespan(**options(tmp_path)))
    seen = set()
    for _ in range(5):
        with TestClient(app):
            assert app.state.z4j_runtime.state is RuntimeState.RUNNING
            seen.add(id(app.state.z4j_runtime))
            app.state.z4j_runtime.record(event())
        assert get_runtime() is None
    container = memory_container(memory_brain, tmp_path)
    again = FastAPI(lifespan=z4j_lifespan(container=container))
    for _ in range(3):
        with TestClient(again):
            assert again.state.z4j_runtime.wait_online(5)
    assert len(memory_brain.hellos) == 3


def test_runtime_when_stopped_by_hand_is_nobodys_and_the_lifespan_still_leaves(container):
    app = FastAPI(lifespan=z4j_lifespan(container=container))

    @app.get("/runtime")
    def runtime(runtime: RuntimeDep):
        return runtime is None

    with TestClient(app) as client:
        get_runtime().stop()
        assert get_runtime() is None
        assert client.get("/runtime").json() is True


def test_lifespan_when_left_puts_the_middleware_stack_back(container):
    app = FastAPI(lifespan=z4j_lifespan(container=container))
    app.middleware_stack = before = app.build_middleware_stack()

    async def run():
        async with app.router.lifespan_context(app):
            assert app.middleware_stack is not before

    asyncio.run(run())
    assert app.middleware_stack is before


def test_handle_when_its_library_is_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("z4j_fastapi.containers.engines.find_spec", lambda name: None)
    for handle, extra in (
        ("arq_redis_settings", "arq"),
        ("taskiq_broker", "taskiq"),
        ("taskiq_brokers", "taskiq"),
        ("rq_app", "rq"),
        ("celery_app", "celery"),
        ("dramatiq_broker", "dramatiq"),
        ("huey", "huey"),
    ):
        value = [object()] if handle.endswith("s") else object()
        app = FastAPI(lifespan=z4j_lifespan(**options(tmp_path, **{handle: value})))
        with pytest.raises(EngineNotInstalledError, match=rf"z4j-fastapi\[{extra}\]"):
            with TestClient(app):
                pass
        assert get_runtime() is None


def test_handle_of_a_later_version_when_used_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("z4j_fastapi.containers.engines.find_spec", lambda name: name)
    app = FastAPI(lifespan=z4j_lifespan(**options(tmp_path, celery_app=object())))
    with pytest.raises(ConfigError, match=r"celery_app.*not in this version"), TestClient(app):
        pass


def test_schedules_when_given_say_that_they_are_for_later(tmp_path):
    app = FastAPI(lifespan=z4j_lifespan(**options(tmp_path, z4j_schedules={"a": {}})))
    with pytest.raises(ConfigError, match="z4j_schedules"), TestClient(app):
        pass


def test_engines_argument_when_it_names_one_without_a_handle_is_an_error(tmp_path):
    app = FastAPI(lifespan=z4j_lifespan(**options(tmp_path, engines=["arq"])))
    with pytest.raises(ConfigError, match="engines: no handle was given for arq"), TestClient(app):
        pass
