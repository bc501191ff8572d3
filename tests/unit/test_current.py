from __future__ import annotations

import os
import threading

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from support.agents import memory_container, options
from support.memory_brain import MemoryBrain
from support.runtime_kit import ScriptedEngine, run

from z4j_fastapi import ConfigError, get_runtime, post_fork
from z4j_fastapi.containers import with_options
from z4j_fastapi.containers.building import override
from z4j_fastapi.current import acquire, ensure_runtime
from z4j_fastapi.runtime.inert import InertRuntime
from z4j_fastapi.runtime.status import RuntimeState


@pytest.fixture
def container(memory_brain, tmp_path):
    return memory_container(memory_brain, tmp_path)


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name, value in options(tmp_path).items():
        monkeypatch.setenv(f"Z4J_{name.upper()}", value)
    monkeypatch.delenv("Z4J_BUFFER_PATH")


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    runtime = get_runtime()
    if runtime is not None:
        runtime.stop()
        raise AssertionError("a runtime was left")


def connection(app):
    return HTTPConnection({"type": "http", "app": app, "headers": []})


# -- leases


def test_lease_starts_the_runtime_and_the_last_release_stops_it(container):
    first = acquire(container, own=True)
    second = acquire(container, own=True)
    assert second.runtime is first.runtime
    assert first.runtime.state is RuntimeState.RUNNING
    first.release()
    first.release()  # a second time does nothing
    assert first.runtime.state is RuntimeState.RUNNING
    assert get_runtime() is first.runtime
    second.release()
    assert first.runtime.state is RuntimeState.STOPPED
    assert get_runtime() is None


def test_lease_when_released_on_a_loop_is_released_off_it(container):
    async def work():
        lease = acquire(container, own=True)
        await lease.arelease()
        assert lease.runtime.state is RuntimeState.STOPPED

    run(work())


@pytest.mark.parametrize(("given", "used"), [(None, 1.5), (0.25, 0.25)])
def test_lease_stops_within_the_setting_or_the_time_given(
    memory_brain, tmp_path, monkeypatch, given, used
):
    container = memory_container(memory_brain, tmp_path, shutdown_timeout=1.5)
    lease = acquire(container, own=True)
    stop, times = lease.runtime.stop, []
    monkeypatch.setattr(lease.runtime, "stop", lambda timeout: (times.append(timeout), stop(0)))
    lease.release(given)
    assert times == [used]


def test_containers_with_equal_settings_share_a_runtime_and_bring_their_engines(tmp_path):
    first = acquire(with_options(options(tmp_path)), own=False)
    container = with_options(options(tmp_path))
    engine = ScriptedEngine()
    override(container.adapters, (engine,))
    second = acquire(container, own=False)
    assert second.runtime is first.runtime
    assert container.runtime() is first.runtime
    assert first.runtime.engines == {"arq": engine}
    second.release()
    first.release()


def test_containers_of_the_users_are_never_shared(tmp_path):
    leases = [acquire(memory_container(MemoryBrain(), tmp_path), own=True) for _ in range(2)]
    assert leases[0].runtime is not leases[1].runtime
    assert get_runtime() is leases[1].runtime
    leases[1].release()
    assert get_runtime() is leases[0].runtime
    leases[0].release()


def test_configuration_when_wrong_registers_nothing(tmp_path):
    with pytest.raises(ConfigError):
        acquire(with_options(options(tmp_path, token="")), own=False)
    engine = ScriptedEngine()
    engine.attach_error = ConfigError("no")
    container = memory_container(MemoryBrain(), tmp_path)
    override(container.engines, (engine,))
    with pytest.raises(ConfigError):
        acquire(container, own=True)
    assert get_runtime() is None


def test_runtime_when_not_started_by_choice_is_current_and_starts_when_asked(
    memory_brain, tmp_path
):
    container = memory_container(memory_brain, tmp_path, autostart=False)
    lease = acquire(container, own=True)
    assert get_runtime() is lease.runtime
    assert lease.runtime.state is RuntimeState.STOPPED
    second = acquire(container, own=True)
    assert lease.runtime.state is RuntimeState.STOPPED
    second.release()
    lease.release()


def test_runtime_when_stopped_by_hand_is_forgotten_and_its_lease_can_still_be_released(container):
    lease = acquire(container, own=True)
    lease.runtime.stop()
    assert get_runtime() is None
    again = acquire(container, own=True)
    assert again.runtime.state is RuntimeState.RUNNING
    lease.release()  # of an entry that is gone
    assert again.runtime.state is RuntimeState.RUNNING
    again.release()


def test_runtime_when_acquired_again_while_it_stops_is_not_forgotten(container):
    lease = acquire(container, own=True)
    taken = []
    again = threading.Thread(target=lambda: taken.append(acquire(container, own=True)))
    lease.runtime.framework.on_shutdown(lambda: None if again.is_alive() else again.start())
    lease.release()
    again.join(20)
    assert get_runtime() is lease.runtime
    assert lease.runtime.state is RuntimeState.RUNNING
    taken[0].release()


def test_disabled_agent_gives_an_inert_lease_that_nobody_finds():
    lease = acquire(with_options({"enabled": False}), own=False)
    assert isinstance(lease.runtime, InertRuntime)
    assert get_runtime() is None
    lease.release()


# -- workers


def test_worker_joins_the_runtime_that_is_there(container):
    web = acquire(container, own=True)
    engine = ScriptedEngine()
    worker = ensure_runtime(adapters=[engine])
    assert worker.runtime is web.runtime
    assert web.runtime.engines == {"arq": engine}
    web.release()
    assert worker.runtime.state is RuntimeState.RUNNING
    worker.release()
    assert worker.runtime.state is RuntimeState.STOPPED


def test_worker_starts_a_runtime_that_was_not_started_by_choice(memory_brain, tmp_path):
    web = acquire(memory_container(memory_brain, tmp_path, autostart=False), own=True)
    worker = ensure_runtime(adapters=[])
    assert worker.runtime.state is RuntimeState.RUNNING
    worker.release()
    web.release()


def test_worker_without_one_makes_it_from_the_environment(environment):
    engine = ScriptedEngine()
    lease = ensure_runtime(adapters=[engine], worker_role="scheduler")
    assert get_runtime() is lease.runtime
    assert lease.runtime.status().worker_role == "scheduler"
    assert lease.runtime.engines == {"arq": engine}
    lease.release()


def test_worker_without_configuration_says_what_is_missing():
    with pytest.raises(ConfigError, match="brain_url"):
        ensure_runtime(adapters=[])


# -- finding the runtime


def test_runtime_of_a_request_is_that_of_its_application(memory_brain, tmp_path):
    app, other = FastAPI(), FastAPI()
    first = acquire(memory_container(memory_brain, tmp_path), own=True)
    second = acquire(memory_container(MemoryBrain(), tmp_path), own=True)
    app.state.z4j_runtime = first.runtime
    assert get_runtime(connection(app)) is first.runtime
    assert get_runtime(connection(other)) is second.runtime  # the one that started last
    assert get_runtime(HTTPConnection({"type": "http", "headers": []})) is second.runtime
    app.state.z4j_runtime = None
    assert get_runtime(connection(app)) is second.runtime
    first.release()
    second.release()


def test_runtime_of_a_request_when_it_was_stopped_is_none(container):
    app = FastAPI()
    lease = acquire(container, own=True)
    app.state.z4j_runtime = lease.runtime
    lease.release()
    assert get_runtime(connection(app)) is None


# -- fork


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_child_when_told_starts_its_own_agent_and_counts_its_own_users(container):
    lease = acquire(container, own=True)
    assert lease.runtime.wait_online(10)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        code = 1
        try:
            runtime = post_fork()
            assert runtime is lease.runtime
            assert runtime.wait_online(10)
            own = acquire(container, own=True)
            own.release()  # the parent's users do not count here
            assert runtime.state is RuntimeState.STOPPED
            code = 0
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, said
    assert lease.runtime.status().online
    lease.release()
