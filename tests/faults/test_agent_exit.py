"""SIGTERM and the end of a process with the brain up, away and black-holed: quick, and nothing lost.

The figures are printed (`pytest -s`); the assertions leave a busy machine much room. The targets
are in docs/performance.md.
"""

from __future__ import annotations

import signal
import time

import pytest
from support.fault_proxy import FaultProxy
from support.processes import REPOSITORY, wait_until
from support.socket_brain import SocketBrain
from support.web_app import WebApp, outbox_directories

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

#: uvicorn raises the signal again once it is done; older ones exit with 0.
GOOD_EXITS = {0, -signal.SIGTERM}


@pytest.fixture
def fast_brain():
    brain = SocketBrain()
    brain.start()
    yield brain
    brain.close()
    assert brain.violations == []


@pytest.fixture
def proxy(fast_brain):
    proxy = FaultProxy(fast_brain.port)
    proxy.start()
    yield proxy
    proxy.stop()


def report(app, case):
    started, stopped = app.lines("started")[0], app.lines("stopped")[0]
    print(
        f"\n{case}: enter {started['enter'] * 1e3:.0f} ms (loop gap {started['gap'] * 1e3:.0f} ms), "
        f"exit {stopped['exit'] * 1e3:.0f} ms (loop gap {stopped['gap'] * 1e3:.0f} ms)"
    )
    assert started["gap"] < 1.0
    assert stopped["gap"] < 1.0
    return stopped["exit"]


@pytest.mark.parametrize("pending", [0, 200])
@pytest.mark.parametrize("brain_is", ["up", "refusing", "black hole", "black hole after online"])
def test_sigterm_when_the_brain_is_so_ends_within_the_deadline_and_loses_nothing(
    fast_brain, proxy, processes, tmp_path, brain_is, pending
):
    env = fast_brain.environ(tmp_path / "state") | {"Z4J_BRAIN_URL": proxy.url}
    if brain_is == "refusing":
        proxy.refuse()
    elif brain_is == "black hole":
        proxy.black_hole()
    app = WebApp(processes, env).wait_started()
    if brain_is in {"up", "black hole after online"}:
        app.wait_online()
        assert app.post("/flush")
    else:
        wait_until(
            lambda: app.get("/status")["connection"] in {"backoff", "connecting", "handshake"},
            timeout_seconds=10,
            what="an attempt",
        )
    if brain_is == "black hole after online":
        proxy.black_hole()
    if pending:
        app.post("/record", prefix="late", count=pending)

    assert app.terminate() in GOOD_EXITS
    assert report(app, f"brain {brain_is}, {pending} pending") < 2.0

    if brain_is == "up":
        assert len(fast_brain.task_ids()) == pending
        assert outbox_directories(tmp_path / "state") == []
        return
    assert fast_brain.task_ids() == {}
    if pending:
        fresh = fast_brain.environ(tmp_path / "state")
        WebApp(processes, fresh, name="next").wait_started()
        fast_brain.wait_for(lambda: len(fast_brain.task_ids()) == pending, "what was left")


def test_sigterm_when_the_brain_is_slow_waits_for_what_it_has_been_taking(
    fast_brain, processes, tmp_path
):
    """A brain that is busy with others is not a dead one, also when it never saw an event of ours."""
    fast_brain.seconds_a_batch = 0.4
    app = WebApp(processes, fast_brain.environ(tmp_path / "state")).wait_started()
    app.wait_online()
    app.post("/record", prefix="late", count=3)
    assert app.terminate() in GOOD_EXITS
    report(app, "slow brain up, 3 pending")
    assert len(fast_brain.task_ids()) == 3
    assert outbox_directories(tmp_path / "state") == []


@pytest.mark.brain
def test_sigterm_when_the_real_brain_is_up_delivers_what_is_pending(
    brain_project, processes, tmp_path
):
    agent = brain_project.mint_agent("web")
    app = WebApp(processes, agent.environ(state_dir=tmp_path / "state")).wait_started()
    app.wait_online()
    app.post("/record", prefix="late", count=20)
    assert app.terminate() in GOOD_EXITS
    assert report(app, "real brain up, 20 pending") < 5.0
    assert brain_project.count_tasks() == 20
    assert outbox_directories(tmp_path / "state") == []


def test_sigterm_when_the_peer_is_half_open_ends_quickly_and_the_next_start_delivers(
    fast_brain, proxy, processes, tmp_path
):
    """Our frames arrive, nothing comes back: the brain has it, and we cannot know."""
    from support.fault_proxy import Direction

    env = fast_brain.environ(tmp_path / "state") | {"Z4J_BRAIN_URL": proxy.url}
    app = WebApp(processes, env).wait_started()
    app.wait_online()
    proxy.black_hole(Direction.DOWN)
    app.post("/record", prefix="late", count=50)
    fast_brain.wait_for(lambda: fast_brain.events, "a batch")
    assert app.terminate() in GOOD_EXITS
    assert report(app, "half open, 50 pending") < 2.0
    assert len(outbox_directories(tmp_path / "state")) == 1

    proxy.heal()
    survivor = WebApp(processes, env, name="next").wait_started()
    survivor.wait_status("all delivered", lambda status: status["buffer_events"] == 0)
    fast_brain.wait_for(lambda: len(fast_brain.task_ids()) == 50, "all of them")
    assert set(fast_brain.task_ids().values()) == {1}


# -- processes without a server: the interpreter's own end


SCRIPT = """
import os, sys, time
from pathlib import Path
from dependency_injector import providers
from support.recording_engine import RecordingEngine
from z4j_fastapi import AgentContainer, events, install_z4j
container = AgentContainer()
engine = RecordingEngine(Path(os.environ["TEST_APP_CALLS"]), behaviour="block")
container.engines.override(providers.Object((engine,)))
runtime = install_z4j(container=container)
if sys.argv[1] != "offline":
    assert runtime.wait_online(20)
for number in range(20):
    runtime.record(events.task_received("arq", f"script-{number}", "shop.charge"))
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
print("leaving", flush=True)
"""


@pytest.mark.parametrize("state", ["online", "offline", "blocked"])
def test_script_when_it_just_ends_then_the_agent_stops_with_it(
    fast_brain, processes, tmp_path, state
):
    """`blocked`: a broker call of a command hangs in the agent's thread pool."""
    env = fast_brain.environ(tmp_path / "state") | {
        "TEST_APP_CALLS": str(tmp_path / "calls"),
        "PYTHONPATH": str(REPOSITORY / "tests"),
    }
    if state == "offline":
        fast_brain.stop_listening()
    leave = tmp_path / "leave"
    script = processes.python("script", "-c", SCRIPT, state, leave, env=env)
    script.wait_for_output("ready")
    if state == "blocked":
        fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"})
        wait_until((tmp_path / "calls").exists, timeout_seconds=10, what="the command's start")
    leave.touch()
    script.wait_for_output("leaving")
    begun = time.monotonic()
    assert script.wait(timeout_seconds=15) == 0
    print(
        f"\nscript {state}: {(time.monotonic() - begun) * 1e3:.0f} ms from its last line to its end"
    )
    assert "Traceback" not in script.output()

    if state == "offline":
        assert len(outbox_directories(tmp_path / "state")) == 1
        return
    assert len(fast_brain.task_ids()) == 20
    assert outbox_directories(tmp_path / "state") == []
    if state == "blocked":
        assert "outcome unknown" in fast_brain.results("c-1")[0]["error"]
