from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from support.agents import memory_container, options
from support.runtime_kit import run

from z4j_fastapi import application, correlation, get_runtime
from z4j_fastapi.application import build_and_acquire, publish, run_agent
from z4j_fastapi.asgi import CorrelationMiddleware
from z4j_fastapi.runtime.status import RuntimeState


class Lease:
    runtime = "the runtime"


def test_published_application_has_state_and_correlation_until_it_is_undone():
    app = FastAPI()
    app.state.z4j = "before"
    undo = publish(app, "the container", Lease())
    assert (app.state.z4j, app.state.z4j_runtime) == ("the container", "the runtime")
    assert isinstance(app.middleware_stack, CorrelationMiddleware)
    undo()
    assert app.state.z4j == "before"
    assert app.state.z4j_runtime is None
    assert app.middleware_stack is not None
    assert not isinstance(app.middleware_stack, CorrelationMiddleware)


def test_publication_when_somebody_wrapped_the_stack_since_leaves_theirs_in_place():
    app = FastAPI()
    undo = publish(app, None, Lease())
    app.middleware_stack = theirs = object()
    undo()
    assert app.middleware_stack is theirs


def test_publications_when_nested_come_off_one_by_one():
    app = FastAPI()
    outer = publish(app, "outer", Lease())
    inner = publish(app, "inner", Lease())
    inner()
    assert app.state.z4j == "outer"
    assert isinstance(app.middleware_stack, CorrelationMiddleware)
    outer()
    assert not isinstance(app.middleware_stack, CorrelationMiddleware)


def test_request_sees_its_correlation_while_the_agent_runs(memory_brain, tmp_path):
    app = FastAPI()
    seen = []

    @app.get("/")
    async def root():
        seen.append(correlation.current())

    async def ask():
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"x-request-id", b"r-1")],
        }

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            pass

        await app(scope, receive, send)

    async def work():
        container = memory_container(memory_brain, tmp_path)
        async with run_agent(app, container=container, options={}):
            await ask()
        await ask()

    run(work())
    assert seen[0].request_id == "r-1"
    assert seen[1] is None


def test_agent_when_the_stack_cannot_be_built_is_let_go(memory_brain, tmp_path, monkeypatch):
    app = FastAPI()
    container = memory_container(memory_brain, tmp_path)

    def fail():
        raise ValueError("a middleware of the user's")

    monkeypatch.setattr(app, "build_middleware_stack", fail)

    async def work():
        async with run_agent(app, container=container, options={}):
            raise AssertionError

    with pytest.raises(ValueError, match="middleware"):
        run(work())
    assert container.runtime().state is RuntimeState.STOPPED
    assert get_runtime() is None


def test_agent_when_the_application_fails_is_stopped(memory_brain, tmp_path):
    app = FastAPI()
    container = memory_container(memory_brain, tmp_path)

    async def work():
        async with run_agent(app, container=container, options={}):
            raise ValueError("of the application")

    with pytest.raises(ValueError, match="of the application"):
        run(work())
    assert container.runtime().state is RuntimeState.STOPPED
    assert app.state.z4j is None


def test_building_and_starting_do_not_happen_on_the_hosts_loop(memory_brain, tmp_path, monkeypatch):
    container = memory_container(memory_brain, tmp_path)
    on_loop = []
    build = application.build_and_acquire

    def look(*args):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            on_loop.append(False)
        else:
            on_loop.append(True)
        return build(*args)

    monkeypatch.setattr(application, "build_and_acquire", look)

    async def work():
        loop = asyncio.get_running_loop()
        async with run_agent(FastAPI(), container=container, options={}):
            assert container.host_loop() is loop

    run(work())
    assert on_loop == [False]


def test_host_loop_outside_asyncio_is_none():
    assert application._running_loop() is None


def test_container_of_the_users_is_used_as_it_is_and_options_make_one(memory_brain, tmp_path):
    own = memory_container(memory_brain, tmp_path, autostart=False)
    built, lease = build_and_acquire(own, {})
    assert built is own
    lease.release()
    built, lease = build_and_acquire(None, options(tmp_path, autostart=False, agent_name="a"))
    assert built.settings().agent_name == "a"
    lease.release()
    assert get_runtime() is None
