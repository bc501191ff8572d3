from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from dependency_injector import providers
from support.agents import memory_container
from support.brain_side import AGENT_ID, PROJECT_ID
from support.memory_brain import MemoryBrain
from support.runtime_kit import ScriptedEngine, run, until_sync

from z4j_fastapi.engines.base import CommandOutcome
from z4j_fastapi.errors import ConfigError, OutboxError, TransportError
from z4j_fastapi.events import Event, EventKind
from z4j_fastapi.runtime import agent as agent_module
from z4j_fastapi.runtime.loop_thread import LoopThread
from z4j_fastapi.runtime.status import ConnectionState, RuntimeState
from z4j_fastapi.runtime.supervisor import Supervisor


def event(task_id="t-1"):
    return Event(kind=EventKind.TASK_SENT, engine="arq", task_id=task_id, data={"task_name": "x"})


class Bench:
    """A runtime of real parts with a brain in memory."""

    def __init__(self, directory, brain=None, engines=(), **options):
        self.brain = brain or MemoryBrain()
        self.container = memory_container(self.brain, directory, **options)
        self.container.engines.override(providers.Object(list(engines)))
        self.runtime = self.container.runtime()

    def online(self):
        self.runtime.start()
        assert self.runtime.wait_online(10)
        return self.runtime


@pytest.fixture
def make(tmp_path):
    made = []

    def build(directory=tmp_path, **more):
        bench = Bench(directory, **more)
        made.append(bench)
        return bench

    yield build
    for bench in made:
        bench.brain.acknowledge = True
        bench.runtime.stop()


@pytest.fixture
def bench(make):
    return make()


def agent_threads():
    return [thread for thread in threading.enumerate() if thread.name == "z4j-agent"]


def in_threads(count, work):
    """Call `work(number)` in so many threads at the same moment; what they returned."""
    barrier = threading.Barrier(count)

    def wait_and_work(number):
        barrier.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_work, range(count)))


# -- starting and stopping


def test_runtime_when_started_and_stopped_again_and_again_does_it_once_each(bench):
    runtime = bench.runtime
    assert runtime.state is RuntimeState.STOPPED
    assert "not started" in repr(runtime)
    assert runtime.status().worker_id == ""
    hooks = []
    runtime.framework.on_startup(lambda: hooks.append("start"))
    runtime.framework.on_shutdown(lambda: hooks.append(f"stop while {runtime.state.value}"))
    stopped = []
    runtime.on_stop(stopped.append)
    runtime.on_stop(stopped.append)
    runtime.stop()
    assert hooks == stopped == []
    for _ in range(3):
        runtime.start()
        runtime.start()
        assert runtime.state is RuntimeState.RUNNING
        assert runtime.wait_online(10)
        assert len(agent_threads()) == 1
        assert repr(runtime) == f"<AgentRuntime {runtime.status().worker_id} running>"
        runtime.stop()
        runtime.stop()
        assert runtime.state is RuntimeState.STOPPED
        assert agent_threads() == []
    assert hooks == ["start", "stop while stopping"] * 3
    assert stopped == [runtime] * 3
    ids = [hello["payload"]["worker_id"] for hello in bench.brain.hellos]
    assert len(set(ids)) == 3


def test_start_when_many_threads_call_it_starts_one_agent(bench):
    in_threads(8, lambda _: bench.runtime.start())
    assert bench.runtime.wait_online(10)
    assert len(agent_threads()) == 1
    assert len(bench.brain.hellos) == 1


def test_stop_when_many_threads_call_it_returns_to_each_after_the_end(bench):
    runtime = bench.online()
    listeners = []
    runtime.on_stop(lambda _: listeners.append(1))
    bench.brain.acknowledge = False
    runtime.record(event())

    def stop(_):
        runtime.stop()
        return runtime.state, agent_threads()

    assert in_threads(6, stop) == [(RuntimeState.STOPPED, [])] * 6
    assert listeners == [1]


def test_starts_and_stops_when_mixed_by_threads_end_in_a_state_that_is_true(bench):
    def work(number):
        for _ in range(5):
            if number % 2:
                bench.runtime.start()
            else:
                bench.runtime.stop(0.1)

    in_threads(4, work)
    bench.runtime.start()
    assert bench.runtime.wait_online(10)
    assert len(agent_threads()) == 1
    bench.runtime.record(event("last"))
    assert bench.runtime.flush(10)


def test_start_while_another_thread_stops_waits_and_starts_again(bench):
    runtime = bench.online()
    bench.brain.acknowledge = False
    runtime.record(event())
    stopping = threading.Event()
    thread = threading.Thread(target=lambda: (stopping.set(), runtime.stop()))
    thread.start()
    until_sync(lambda: runtime.state is not RuntimeState.RUNNING)
    bench.brain.acknowledge = True
    runtime.start()
    assert runtime.state is RuntimeState.RUNNING
    assert runtime.wait_online(10)
    thread.join(10)
    assert runtime.state is RuntimeState.RUNNING
    assert len(bench.brain.hellos) == 2


@pytest.mark.parametrize("waiter", ["nobody", "another thread"])
def test_stop_on_the_agents_own_thread_is_carried_out(make, waiter):
    engine = ScriptedEngine()
    bench = make(engines=[engine])
    runtime = bench.online()
    stopped = []
    runtime.on_stop(stopped.append)

    async def cancel(command, context):
        runtime.stop()
        assert runtime.state is RuntimeState.STOPPING
        assert runtime.flush(5) in (True, False)  # does not wait for itself
        return CommandOutcome(result={"stopped": True})

    engine.does["cancel_task"] = cancel
    bench.brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "1"})
    if waiter == "another thread":
        until_sync(lambda: runtime.state is not RuntimeState.RUNNING)
        runtime.stop()
        assert runtime.state is RuntimeState.STOPPED
    until_sync(lambda: runtime.state is RuntimeState.STOPPED, "the end of the runtime")
    until_sync(lambda: stopped == [runtime])
    until_sync(lambda: not agent_threads())
    assert bench.brain.results()["c-1"]["status"] == "success"
    runtime.start()
    assert runtime.wait_online(10)
    assert runtime.status().engines == ("arq",)


def test_waiter_of_an_old_stop_when_it_wakes_late_leaves_a_new_start_alone(bench):
    runtime = bench.online()
    old = runtime._thread
    runtime.stop()
    runtime.start()
    runtime._state = RuntimeState.STOPPING  # somebody stops the new one at this moment
    runtime._stopped(old)
    assert runtime.state is RuntimeState.STOPPING
    runtime._state = RuntimeState.RUNNING


def test_waiter_when_the_hooks_of_a_stop_never_end_gives_up(bench, monkeypatch):
    monkeypatch.setattr(agent_module, "_HOOKS_SECONDS", 0.01)
    runtime = bench.online()
    release, entered = threading.Event(), threading.Event()
    runtime.framework.on_shutdown(lambda: (entered.set(), release.wait(10)))
    stopping = threading.Thread(target=runtime.stop)
    stopping.start()
    assert entered.wait(5)
    runtime.stop()
    runtime.start()
    assert runtime.state is RuntimeState.STOPPING
    release.set()
    stopping.join(10)
    assert runtime.state is RuntimeState.STOPPED


def test_stop_in_a_shutdown_hook_does_not_wait_for_itself(bench):
    runtime = bench.online()
    calls = []

    def hook():
        started = time.monotonic()
        runtime.stop()
        calls.append(time.monotonic() - started)

    runtime.framework.on_shutdown(hook)
    runtime.stop()
    assert len(calls) == 1
    assert calls[0] < 2
    assert runtime.state is RuntimeState.STOPPED


def test_stop_when_awaited_does_not_block_the_callers_loop(bench):
    async def work():
        bench.runtime.start()
        assert await bench.runtime.await_online(10)
        bench.runtime.record(event())
        assert await bench.runtime.aflush(10)
        await bench.runtime.astop(5)
        assert bench.runtime.state is RuntimeState.STOPPED
        assert await bench.runtime.resync_schedules_now() == 0

    run(work())


def test_stop_when_the_thread_does_not_end_returns_all_the_same(bench, monkeypatch, caplog):
    runtime = bench.online()
    monkeypatch.setattr(agent_module, "_STOP_MARGIN_SECONDS", 0.0)
    release = threading.Event()
    runtime._thread.call_soon(release.wait, 10)
    try:
        runtime.stop(0.05)
        assert runtime.state is RuntimeState.STOPPED
        assert "agent_thread_did_not_end" in caplog.text
    finally:
        release.set()
        until_sync(lambda: not agent_threads())


# -- what can go wrong at start


def test_start_when_an_engine_cannot_be_used_leaves_nothing_running(make):
    good, bad = ScriptedEngine("taskiq"), ScriptedEngine("arq")
    bad.attach_error = ConfigError("arq_redis_settings: no such host")
    bench = make(engines=[good, bad])
    runtime = bench.runtime
    with pytest.raises(ConfigError, match="arq_redis_settings"):
        runtime.start()
    assert runtime.state is RuntimeState.STOPPED
    assert runtime.engines == {}
    assert (good.detached, bad.detached) == (1, 1)
    assert agent_threads() == []
    runtime.record(event())
    assert runtime.status().dropped["not_running"] == 1
    assert runtime.status().directory is None
    bad.attach_error = None
    runtime.start()
    assert runtime.wait_online(10)
    assert runtime.status().engines == ("arq", "taskiq")


def test_engine_when_it_cannot_be_attached_is_left_out_unless_strict(make, caplog, tmp_path):
    bad = ScriptedEngine()
    bad.attach_error = AttributeError("a library of another version: hunter2")
    bench = make(engines=[bad])
    runtime = bench.online()
    assert runtime.status().engines == ()
    assert bad.detached == 1  # what it had put in place already
    assert "engine_attach_failed" in caplog.text
    assert "hunter2" not in caplog.text
    strict = make(tmp_path / "strict", engines=[bad], strict_mode=True)
    with pytest.raises(AttributeError):
        strict.runtime.start()
    assert strict.runtime.state is RuntimeState.STOPPED


def test_start_when_no_directory_can_be_used_raises(bench, monkeypatch):
    def refuse():
        raise OutboxError("outbox directory: cannot be used")

    monkeypatch.setattr(bench.container.outbox(), "open", refuse)
    with pytest.raises(OutboxError):
        bench.runtime.start()
    assert bench.runtime.state is RuntimeState.STOPPED


def test_start_when_the_system_has_no_thread_left_can_be_tried_again(bench, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(LoopThread, "start", lambda self: (self._loop.close(), refuse(self)))
        with pytest.raises(RuntimeError):
            bench.runtime.start()
    assert bench.runtime.state is RuntimeState.STOPPED
    assert bench.runtime.flush() is True
    bench.online()


def test_configuration_warnings_are_logged_at_start(make, caplog, monkeypatch):
    monkeypatch.setenv("Z4J_DEV_MODE", "1")
    bench = make()
    with caplog.at_level(logging.INFO, logger="z4j_fastapi"):
        bench.online()
    assert bench.runtime.status().warnings
    assert caplog.text.count("configuration_warning") == len(bench.runtime.status().warnings)
    assert caplog.text.count("agent_started") == 1


def test_agent_when_its_supervisor_crashes_says_so_and_can_be_stopped(bench, monkeypatch, caplog):
    async def crash(self):
        raise ZeroDivisionError

    monkeypatch.setattr(Supervisor, "run", crash)
    bench.runtime.start()
    until_sync(lambda: "agent_crashed" in caplog.text)
    bench.runtime.record(event())
    assert bench.runtime.buffer_size() == 1
    bench.runtime.stop()
    assert bench.runtime.state is RuntimeState.STOPPED


# -- recording and flushing


def test_event_when_recorded_arrives_and_is_counted(bench):
    runtime = bench.online()
    runtime.record(event("1"))
    runtime.record_event(event("2"))
    assert runtime.flush(10) is True
    assert runtime.buffer_size() == 0
    status = runtime.status()
    assert status.recorded == status.sent == status.acknowledged == 2
    assert status.last_acknowledged_at is not None
    sent = [one["task_id"] for events in bench.brain.events.values() for one in events]
    assert sorted(sent) == ["1", "2"]


def test_flush_when_nothing_is_acknowledged_gives_up_in_time(bench):
    runtime = bench.online()
    bench.brain.acknowledge = False
    runtime.record(event())
    started = time.monotonic()
    assert runtime.flush(0.05) is False
    assert time.monotonic() - started < 3
    assert runtime.buffer_size() == 1
    bench.brain.acknowledge = True
    assert (
        runtime._sender._waiters == [] or until_sync(lambda: not runtime._sender._waiters) is None
    )


def test_flush_when_the_runtime_is_stopped_has_nothing_to_wait_for(bench):
    assert bench.runtime.flush(0) is True
    bench.online()
    bench.runtime.stop()
    assert bench.runtime.flush(0) is True
    assert bench.runtime.buffer_size() == 0


def test_flush_when_the_runtime_stops_meanwhile_is_false_and_raises_nothing(bench):
    runtime = bench.online()
    bench.brain.acknowledge = False
    runtime.record(event())
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(runtime.flush(20)))
    waiting.start()
    until_sync(lambda: runtime._sender._waiters)
    runtime.stop()
    waiting.join(10)
    assert answers == [False]


def test_flushes_and_records_when_threads_call_them_during_a_stop_raise_nothing(bench):
    def work(number):
        for _ in range(20):
            if number:
                bench.runtime.record(event())
                bench.runtime.flush(0.2)
                bench.runtime.status()
                bench.runtime.supervisor_state()
                bench.runtime.buffer_size()
                bench.runtime.request_reconnect()
            else:
                bench.runtime.start()
                bench.runtime.wait_online(0.02)
                bench.runtime.stop(0.2)

    in_threads(3, work)


def test_stop_delivers_what_waits_while_the_brain_acknowledges(bench):
    runtime = bench.online()
    for number in range(300):
        runtime.record(event(str(number)))
    runtime.stop(10)
    assert len(bench.brain.events) == 300


def test_stop_when_the_brain_falls_silent_gives_up_and_the_next_start_delivers(make):
    first = make()
    runtime = first.online()
    first.brain.acknowledge = False
    runtime.record(event())
    started = time.monotonic()
    runtime.stop(20)
    assert time.monotonic() - started < 10
    assert first.brain.events  # sent, but never acknowledged
    second = make()
    second.runtime.start()
    second.brain.wait_for(lambda: second.brain.events)
    until_sync(lambda: second.runtime.buffer_size() == 0)
    assert set(second.brain.events) == set(first.brain.events)


def test_stop_when_the_brain_cannot_be_reached_is_quick_and_loses_nothing(make):
    first = make()
    first.brain.refuse = TransportError("refused")
    first.runtime.start()
    first.runtime.record(event())
    until_sync(lambda: first.runtime.status().connection is ConnectionState.BACKOFF)
    started = time.monotonic()
    first.runtime.stop(20)
    assert time.monotonic() - started < 10
    second = make()
    second.online()
    second.brain.wait_for(lambda: len(second.brain.events) == 1)


def test_stop_with_no_time_stops_at_once(bench):
    runtime = bench.online()
    bench.brain.acknowledge = False
    runtime.record(event())
    runtime.stop(0)
    assert runtime.state is RuntimeState.STOPPED


# -- the connection


def test_wait_online_when_the_brain_is_away_is_false_after_the_time(bench):
    bench.brain.refuse = TransportError("refused")
    bench.runtime.start()
    assert bench.runtime.wait_online(0.01) is False
    until_sync(lambda: bench.runtime.status().last_error == "refused")
    assert bench.runtime.supervisor_state() == {
        "state": "backoff",
        "auth_error_count": 0,
        "protocol_error_count": 0,
        "connection_error_count": 1,
        "session_id": None,
    }
    bench.brain.refuse = None
    bench.runtime.request_reconnect()
    assert bench.runtime.wait_online(10)
    state = bench.runtime.supervisor_state()
    assert state["connection_error_count"] == 0
    assert state["session_id"] == bench.brain.connections[-1].side.session_id
    assert bench.runtime.status().last_error is None


def test_reconnect_when_nothing_runs_does_nothing(bench):
    bench.runtime.request_reconnect()
    assert bench.runtime.supervisor_state()["state"] == "offline"
    assert bench.brain.hellos == []


def test_worker_when_displaced_comes_back_as_somebody_else(bench):
    runtime = bench.online()
    before = runtime.status().worker_id
    bench.brain.cut(close_code=4002)
    until_sync(lambda: runtime.status().last_error_kind == "displaced")
    runtime.request_reconnect()
    bench.brain.wait_for(lambda: len(bench.brain.hellos) == 2)
    after = bench.brain.hellos[1]["payload"]["worker_id"]
    assert after != before
    assert runtime.status().worker_id == after


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"agent_id": PROJECT_ID}, "agent_id (Z4J_AGENT_ID)"),
        ({"project_id": AGENT_ID}, "project_id (Z4J_PROJECT_ID)"),
    ],
)
def test_id_when_it_is_not_the_tokens_is_told(make, options, named):
    bench = make(**options)
    bench.runtime.start()
    until_sync(lambda: bench.runtime.status().last_error is not None)
    status = bench.runtime.status()
    assert status.last_error.startswith(f"{named} is ")
    assert status.last_error_kind == "auth"
    assert status.connection is ConnectionState.BACKOFF
    assert status.agent_id is None


@pytest.mark.parametrize(
    "options",
    [
        {"agent_id": AGENT_ID.upper(), "project_id": PROJECT_ID.upper()},
        {"project_id": "shop"},
        {"project_id": "a-b-c-d-e"},
    ],
)
def test_id_when_it_fits_or_is_a_slug_is_accepted(make, options):
    make(**options).online()


# -- status


def test_status_when_online_tells_everything_and_no_secret(make):
    bench = make(engines=[ScriptedEngine()], worker_role="scheduler")
    runtime = bench.online()
    status = runtime.status()
    side = bench.brain.connections[-1].side
    assert status.state is RuntimeState.RUNNING
    assert status.online
    assert status.enabled
    assert (status.agent_id, status.project_id) == (AGENT_ID, PROJECT_ID)
    assert status.session_id == side.session_id
    assert status.brain_version == "1.13.0"
    assert status.engines == ("arq",)
    assert status.worker_role == "scheduler"
    assert status.pid == os.getpid()
    assert status.connects == 1
    assert status.directory.startswith(str(runtime.config.buffer_path))
    assert status.relocated is None
    assert status.engine_errors == {}
    assert sum(status.dropped.values()) == 0
    secrets = [runtime.config.token, runtime.config.hmac_secret]
    for secret in secrets:
        assert secret.get_secret_value() not in repr(status)
    bench.brain.acknowledge = False
    runtime.record(event())
    status = runtime.status()
    assert (status.buffer_events, status.buffer_results) == (1, 0)
    assert status.buffer_bytes > 0
    runtime.stop()
    status = runtime.status()
    assert (status.state, status.connection) == (RuntimeState.STOPPED, ConnectionState.OFFLINE)
    assert status.session_id is status.directory is None
    assert status.buffer_events == 0


def test_status_while_the_outbox_is_being_closed_does_not_raise(bench, monkeypatch):
    outbox = bench.container.outbox()
    close = outbox.close
    seen = []

    def close_and_look():
        close()
        seen.append(bench.runtime.status())

    monkeypatch.setattr(outbox, "close", close_and_look)
    bench.online()
    bench.runtime.stop()
    assert [(status.state, status.directory) for status in seen] == [(RuntimeState.STOPPING, None)]


def test_level_of_the_buffer_is_what_the_metrics_see(bench):
    runtime = bench.online()
    bench.brain.acknowledge = False
    runtime.record(event())
    level = runtime._buffer_level()
    assert level.records == 1
    assert level.bytes > 0


# -- engines


def test_engine_when_added_later_is_attached_and_the_brain_is_told(bench):
    runtime = bench.online()
    assert bench.brain.hellos[0]["payload"]["engines"] == []
    engine = ScriptedEngine()
    runtime.add_engine(engine)
    runtime.add_engine(engine)
    assert len(engine.attached) == 1
    bench.brain.wait_for(lambda: len(bench.brain.hellos) == 2)
    assert bench.brain.hellos[1]["payload"]["engines"] == ["arq"]
    assert runtime.wait_online(10)
    bench.brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "1"})
    bench.brain.wait_for(lambda: "c-1" in bench.brain.results())
    assert bench.brain.results()["c-1"]["status"] == "success"
    other = ScriptedEngine()
    runtime.add_engine(other)
    assert other.attached == []
    assert runtime.engines == {"arq": engine}
    runtime.stop()
    assert (engine.detached, engine.closed) == (1, 1)
    assert runtime.engines == {}


def test_engine_when_it_cannot_be_added_changes_nothing(bench):
    runtime = bench.online()
    engine = ScriptedEngine()
    engine.attach_error = ValueError("no")
    runtime.add_engine(engine)
    engine.attach_error = ConfigError("no")
    with pytest.raises(ConfigError):
        runtime.add_engine(engine)
    assert runtime.engines == {}
    runtime._thread.submit(asyncio.sleep(0.05)).result(5)  # a reconnect would happen meanwhile
    assert len(bench.brain.hellos) == 1
    assert runtime.status().online


def test_engine_is_lent_what_it_needs(make):
    engine = ScriptedEngine()
    bench = make(engines=[engine])
    runtime = bench.online()
    [attachment] = engine.attached
    attachment.sink.record(event("from the engine"))
    with attachment.guard("arq.hook"):
        raise ValueError("contained")
    assert runtime.flush(10)
    assert [e[0]["task_id"] for e in bench.brain.events.values()] == ["from the engine"]
    assert runtime.status().engine_errors == {"arq.hook": 1}


def test_engine_when_it_raises_or_hangs_at_the_end_holds_nobody_up(make):
    class Bad(ScriptedEngine):
        def detach(self):
            raise ValueError

        async def aclose(self):
            await asyncio.sleep(600)

    bench = make(engines=[Bad()])
    runtime = bench.online()
    started = time.monotonic()
    runtime.stop(5)
    assert time.monotonic() - started < 5
    assert runtime.state is RuntimeState.STOPPED
    assert runtime.status().engine_errors == {
        "engines.arq.detach": 1,
        "engines.arq.close": 1,
    }


def test_command_when_the_runtime_stops_is_answered_before_it_ends(make):
    engine = ScriptedEngine()
    bench = make(engines=[engine])
    runtime = bench.online()

    async def forever(command, context):
        await asyncio.sleep(600)

    engine.does["cancel_task"] = forever
    bench.brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "1"})
    until_sync(lambda: engine.calls)
    runtime.stop(10)
    assert bench.brain.results()["c-1"]["result"] == {"indeterminate": True}


# -- fork


def in_child(work):
    """Fork, call `work` in the child, and give what it returned, as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        code = 1
        try:
            os.write(writing, str(work()).encode())
            code = 0
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said
    return said, pid


fork_test = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def marked(test):
    for mark in fork_test:
        test = mark(test)
    return test


@marked
def test_child_when_it_records_runs_an_agent_of_its_own_and_the_parents_goes_on(make):
    engine = ScriptedEngine()
    bench = make(engines=[engine])
    runtime = bench.online()
    directory = runtime.status().directory

    def child():
        assert runtime.state is RuntimeState.STOPPED
        assert runtime.status().recorded == 0
        before = len(bench.brain.hellos)
        runtime.record(event("of the child"))
        assert runtime.state is RuntimeState.RUNNING
        assert runtime.wait_online(10)
        assert runtime.flush(10)
        assert len(bench.brain.hellos) == before + 1
        assert runtime.status().directory != directory
        worker_id = bench.brain.hellos[-1]["payload"]["worker_id"]
        runtime.stop()
        return worker_id

    said, pid = in_child(child)
    assert said.split("-")[1] == str(pid)
    assert runtime.state is RuntimeState.RUNNING
    assert runtime.status().online
    runtime.record(event("of the parent"))
    assert runtime.flush(10)
    assert len(bench.brain.hellos) == 1
    assert [one[0]["task_id"] for one in bench.brain.events.values()] == ["of the parent"]


@marked
def test_child_of_a_stopped_runtime_starts_nothing_by_itself(bench):
    bench.online()
    bench.runtime.stop()

    def child():
        bench.runtime.record(event())
        assert bench.runtime.state is RuntimeState.STOPPED
        assert bench.runtime.status().dropped["not_running"] == 1
        bench.runtime.start()
        assert bench.runtime.wait_online(10)
        bench.runtime.stop()
        return bench.runtime.state.value

    assert in_child(child)[0] == "stopped"


@marked
def test_child_when_it_stops_the_parents_runtime_stops_nothing(bench):
    runtime = bench.online()

    def child():
        runtime._pid = os.getppid()  # as if the hook had been bypassed
        runtime._state = RuntimeState.RUNNING
        runtime.stop()
        return runtime.state.value

    assert in_child(child)[0] == "running"
    assert runtime.status().online


@marked
def test_child_when_a_thread_of_the_parent_held_the_locks_is_not_held_up(bench):
    runtime = bench.online()
    held, release = threading.Event(), threading.Event()

    def hold():
        with runtime._lock:
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)

    def child():
        runtime.start()
        assert runtime.wait_online(10)
        runtime.stop()
        return "done"

    assert in_child(child)[0] == "done"
    release.set()
    thread.join(10)


def test_runtime_of_a_fork_that_never_started_starts_nothing(bench):
    runtime = bench.runtime
    runtime._pid = -1  # a fork that bypassed the hook
    runtime.record(event())
    assert runtime._pid == -1  # nothing was running: there is nothing to take over
    runtime.reinit_after_fork()
    assert runtime._pid == os.getpid()
    runtime.record(event())
    assert runtime.state is RuntimeState.STOPPED
    assert runtime.status().dropped["not_running"] == 1
    runtime.start()
    assert runtime.wait_online(10)


def test_process_when_it_is_the_same_is_not_reinitialised(bench):
    runtime = bench.online()
    before = runtime.status().worker_id
    runtime.reinit_after_fork()
    assert runtime.status().worker_id == before
    assert runtime.status().online
