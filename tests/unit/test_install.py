from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.agents import memory_container, options

from z4j_fastapi import ConfigError, get_runtime, install_z4j, post_fork
from z4j_fastapi.extension import get_runtime as aliased_get_runtime
from z4j_fastapi.runtime.status import RuntimeState


@pytest.fixture
def container(memory_brain, tmp_path):
    return memory_container(memory_brain, tmp_path)


def test_install_when_bare_starts_at_once_and_stops_by_hand(tmp_path):
    runtime = install_z4j(**options(tmp_path))
    try:
        assert runtime.state is RuntimeState.RUNNING
        assert get_runtime() is runtime
        assert aliased_get_runtime() is runtime
    finally:
        runtime.stop()
    assert runtime.state is RuntimeState.STOPPED
    assert get_runtime() is None
    runtime.stop()


def test_install_when_called_twice_with_equal_settings_joins(tmp_path):
    first = install_z4j(**options(tmp_path))
    second = install_z4j(**options(tmp_path))
    assert second is first
    first.stop()
    assert get_runtime() is None


def test_install_when_options_are_wrong_raises_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="token"):
        install_z4j(**options(tmp_path, token=""))
    with pytest.raises(TypeError, match="did you mean"):
        install_z4j(brain_ur="x")
    assert get_runtime() is None


def test_install_when_disabled_returns_an_inert_runtime():
    runtime = install_z4j(enabled=False)
    assert runtime.state is RuntimeState.STOPPED
    assert runtime.buffer_size() == 0
    runtime.stop()
    assert get_runtime() is None


def test_install_when_given_an_app_stops_with_it_and_starts_again_with_it(memory_brain, container):
    app = FastAPI()
    runtime = install_z4j(app, container=container)
    assert app.state.z4j_runtime is runtime
    assert app.state.z4j is container

    class Passing:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)

    app.add_middleware(Passing)  # must still be possible
    for _ in range(3):
        with TestClient(app) as client:
            assert app.state.z4j_runtime.state is RuntimeState.RUNNING
            assert client.get("/openapi.json").status_code == 200
        assert runtime.state is RuntimeState.STOPPED
        assert get_runtime() is None


def test_post_fork_when_not_forked_and_nothing_runs_is_none():
    assert post_fork() is None


def test_post_fork_when_not_forked_leaves_the_runtime_alone(container):
    runtime = install_z4j(container=container)
    try:
        assert post_fork() is runtime
    finally:
        runtime.stop()
