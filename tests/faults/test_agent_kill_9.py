"""Whole processes killed with SIGKILL: what was recorded arrives, what may have run does not again."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from support.processes import kill_hard, wait_until
from support.socket_brain import SocketBrain
from support.web_app import WebApp, outbox_directories

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture
def fast_brain():
    brain = SocketBrain()
    brain.start()
    yield brain
    brain.close()
    assert brain.violations == []


def run_app(processes, env, name="app", **more):
    return WebApp(processes, {**env, **more}, name=name).wait_started()


def calls(path):
    return path.read_text().splitlines() if path.exists() else []


def test_burst_of_5000_when_killed_at_once_arrives_whole_at_the_next_start(
    fast_brain, processes, tmp_path
):
    env = fast_brain.environ(tmp_path / "state")
    victim = run_app(processes, env)
    victim.wait_online()
    victim.post_last("/record-and-die", prefix="burst", count=5000)
    assert victim.process.wait(timeout_seconds=20) == -signal.SIGKILL

    survivor = run_app(processes, env, "next")
    fast_brain.wait_for(lambda: len(fast_brain.task_ids()) >= 5000, "5,000 events", 60)
    assert fast_brain.task_ids() == Counter(f"burst-{n}" for n in range(5000))

    survivor.terminate()
    assert outbox_directories(tmp_path / "state") == []


def test_burst_when_no_brain_was_there_and_killed_arrives_at_the_next_start(
    fast_brain, processes, tmp_path
):
    env = fast_brain.environ(tmp_path / "state")
    fast_brain.stop_listening()
    for number in range(3):
        victim = run_app(processes, env, f"victim-{number}")
        victim.post_last("/record-and-die", prefix=f"burst-{number}", count=1000)
        victim.process.wait(timeout_seconds=20)
    assert len(outbox_directories(tmp_path / "state")) == 3

    fast_brain.start()
    survivor = run_app(processes, env, "next")
    fast_brain.wait_for(lambda: len(fast_brain.task_ids()) >= 3000, "3,000 events", 60)
    assert set(fast_brain.task_ids().values()) == {1}

    survivor.terminate()
    assert outbox_directories(tmp_path / "state") == []


@pytest.mark.brain
def test_burst_when_killed_at_once_makes_every_row_in_the_real_brain(
    brain_project, processes, tmp_path
):
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state")
    victim = run_app(processes, env)
    victim.wait_online()
    victim.post_last("/record-and-die", prefix="burst", count=300)
    victim.process.wait(timeout_seconds=20)

    survivor = run_app(processes, env, "next")
    brain_project.wait_for(
        lambda project: project.count_tasks() >= 300, timeout_seconds=90, what="300 rows"
    )
    survivor.wait_status("all acknowledged", lambda status: status["buffer_events"] == 0)
    assert {row["task_id"] for row in brain_project.tasks()} == {f"burst-{n}" for n in range(300)}
    for task_id in ("burst-0", "burst-150", "burst-299"):
        assert len(brain_project.events("arq", task_id)) == 1
    survivor.terminate()
    assert outbox_directories(tmp_path / "state") == []


def test_sibling_when_the_other_process_is_killed_delivers_its_records_within_60_s(
    fast_brain, processes, tmp_path
):
    """Waits for the agent's own round, at most 30 s away."""
    env = fast_brain.environ(tmp_path / "state")
    sibling = run_app(processes, env, "sibling")
    sibling.wait_online()
    fast_brain.acknowledge = False
    victim = run_app(processes, env, "victim")
    victim.post_last("/record-and-die", prefix="left", count=500)
    victim.process.wait(timeout_seconds=20)
    fast_brain.acknowledge = True
    before = len(fast_brain.of_type("event_batch"))

    def by_the_sibling():
        return {
            event["task_id"]
            for frame in fast_brain.of_type("event_batch")[before:]
            if frame["from_pid"] == sibling.process.pid
            for event in frame["payload"]["events"]
        }

    fast_brain.wait_for(lambda: len(by_the_sibling()) == 500, "the dead one's records", 60)
    sibling.wait_status("all acknowledged", lambda status: status["buffer_events"] == 0)
    directories = outbox_directories(tmp_path / "state")
    assert len(directories) == 1  # the sibling's own
    sibling.terminate()


def test_records_when_the_process_is_killed_while_they_are_in_flight_arrive_again(
    fast_brain, processes, tmp_path
):
    """Sent but not acknowledged: the next start sends them again, with the same ids."""
    env = fast_brain.environ(tmp_path / "state")
    fast_brain.acknowledge = False
    victim = run_app(processes, env)
    victim.post("/record", prefix="flying", count=100)
    fast_brain.wait_for(lambda: fast_brain.events, "a batch")
    victim.post_last("/die")
    victim.process.wait(timeout_seconds=20)
    first = set(fast_brain.events)

    fast_brain.acknowledge = True
    survivor = run_app(processes, env, "next")
    survivor.wait_status("all acknowledged", lambda status: status["buffer_events"] == 0)
    fast_brain.wait_for(lambda: len(fast_brain.task_ids()) == 100, "all of them")
    assert fast_brain.task_ids() == Counter(f"flying-{n}" for n in range(100))
    assert all(fast_brain.deliveries[event] == 2 for event in first)
    survivor.terminate()


# -- commands


def test_command_when_it_kills_its_own_process_is_answered_by_the_next_start_and_never_run_again(
    fast_brain, processes, tmp_path
):
    log = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    victim = run_app(processes, env, TEST_APP_COMMAND="kill")
    victim.wait_online()
    fast_brain.command(
        "c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"}, delivery_claim_token="claim-1"
    )
    assert victim.process.wait(timeout_seconds=20) == -signal.SIGKILL
    assert calls(log) == ["ran t-1"]

    survivor = run_app(processes, env, "next")
    fast_brain.wait_for(lambda: fast_brain.results("c-1"), "an answer")
    answer = fast_brain.results("c-1")[0]
    assert answer["status"] == "failed"
    assert "outcome unknown" in answer["error"]
    assert answer["result"] == {"indeterminate": True}
    assert answer["delivery_claim_token"] == "claim-1"

    survivor.wait_status("online", lambda status: status["connection"] == "online")
    fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"})
    fast_brain.wait_for(lambda: len(fast_brain.results("c-1")) == 2, "the same answer again")
    assert fast_brain.results("c-1")[1]["error"] == answer["error"]
    fast_brain.command("c-2", "cancel_task", {"engine": "arq", "task_id": "t-2"})
    fast_brain.wait_for(lambda: fast_brain.results("c-2"), "a later command's answer")
    assert fast_brain.results("c-2")[0]["status"] == "success"
    assert calls(log) == ["ran t-1", "ran t-2"]
    survivor.terminate()


@pytest.mark.brain
def test_command_when_it_kills_its_process_ends_failed_in_the_real_brain(
    brain_project, processes, tmp_path
):
    log = tmp_path / "calls"
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    victim = run_app(processes, env, TEST_APP_COMMAND="kill")
    victim.wait_online()
    row = brain_project.command(
        "cancel-task", agent.agent_id, engine="arq", task_id="t-1", wait_seconds=None
    )
    victim.process.wait(timeout_seconds=20)

    survivor = run_app(processes, env, "next")
    ended = brain_project.wait_command(row["id"], timeout_seconds=40)
    assert ended["status"] == "failed"
    assert "outcome unknown" in ended["error"]
    assert ended["result"] == {"indeterminate": True}
    assert calls(log) == ["ran t-1"]
    survivor.terminate()


def test_finished_command_when_it_is_sent_again_is_answered_from_the_journal_also_by_the_next_start(
    fast_brain, processes, tmp_path
):
    log = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    first = run_app(processes, env)
    first.wait_online()
    for wanted in (1, 2):
        fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"})
        fast_brain.wait_for(
            lambda wanted=wanted: len(fast_brain.results("c-1")) == wanted, "an answer"
        )
    first.post_last("/die")
    first.process.wait(timeout_seconds=20)

    run_app(processes, env, "next").wait_online()
    before = len(fast_brain.results("c-1"))  # an answer that was not acknowledged comes again
    fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"})
    fast_brain.wait_for(lambda: len(fast_brain.results("c-1")) > before, "an answer")
    answers = fast_brain.results("c-1")
    assert {answer["status"] for answer in answers} == {"success"}
    assert {answer["result"]["pid"] for answer in answers} == {first.process.pid}
    assert calls(log) == ["ran t-1"]


def test_command_when_two_processes_get_it_runs_in_one(fast_brain, processes, tmp_path):
    log = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    for name in ("one", "two"):
        run_app(processes, env, name).wait_online()
        fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"})
        fast_brain.wait_for(
            lambda name=name: len(fast_brain.results("c-1")) == {"one": 1, "two": 2}[name],
            "an answer",
        )
    assert calls(log) == ["ran t-1"]


@pytest.mark.parametrize("behaviour", ["hang", "block"])
def test_command_when_its_time_is_up_is_answered_as_timed_out_and_holds_up_no_exit(
    fast_brain, processes, tmp_path, behaviour
):
    log = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    app = run_app(processes, env, TEST_APP_COMMAND=behaviour)
    app.wait_online()
    fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"}, timeout_seconds=2)
    fast_brain.wait_for(lambda: fast_brain.results("c-1"), "an answer")
    answer = fast_brain.results("c-1")[0]
    assert answer["status"] == "failed"
    assert answer["error"].startswith("timeout")
    assert answer["result"] == {"indeterminate": True}
    if behaviour == "hang":
        assert calls(log) == ["ran t-1", "cancelled t-1"]
    app.terminate(timeout_seconds=10)  # the blocked thread would sleep on for 25 s


def test_command_when_all_broker_calls_hang_is_answered_all_the_same(
    fast_brain, processes, tmp_path
):
    log = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    app = run_app(processes, env, TEST_APP_COMMAND="named")
    app.wait_online()
    for number in range(6):  # more than the pool has threads
        task_id = f"block-{number}"
        fast_brain.command(task_id, "cancel_task", {"engine": "arq", "task_id": task_id})
    wait_until(lambda: len(calls(log)) >= 4, timeout_seconds=10, what="four calls that hang")
    fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "ok-1"})
    fast_brain.wait_for(lambda: fast_brain.results("c-1"), "an answer", 10)
    assert fast_brain.results("c-1")[0]["status"] == "success"
    app.terminate(timeout_seconds=10)
    for number in range(6):
        assert "outcome unknown" in fast_brain.results(f"block-{number}")[0]["error"]
    assert app.lines("stopped")[0]["exit"] < 2.0


def test_command_when_the_process_stops_meanwhile_is_answered_before_it_ends(
    fast_brain, processes, tmp_path
):
    log = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    app = run_app(processes, env, TEST_APP_COMMAND="hang")
    app.wait_online()
    fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"})
    wait_until(lambda: calls(log), timeout_seconds=10, what="the command's start")
    app.terminate(timeout_seconds=10)
    answer = fast_brain.results("c-1")[0]
    assert answer["status"] == "failed"
    assert "outcome unknown" in answer["error"]
    assert outbox_directories(tmp_path / "state") == []


def test_agent_when_its_server_is_killed_leaves_nothing_that_holds_its_lock(
    fast_brain, processes, tmp_path
):
    """A forked child that outlives its parent must not keep the parent's records from others."""
    env = fast_brain.environ(tmp_path / "state")
    fast_brain.stop_listening()
    victim = run_app(processes, env)
    victim.post("/record", prefix="left", count=10)
    child = victim.post("/linger")["pid"]
    kill_hard(victim.process.pid)
    victim.process.wait(timeout_seconds=20)
    os.kill(child, 0)  # it lives, and holds copies of every descriptor of its parent's

    fast_brain.start()
    run_app(processes, env, "next")
    fast_brain.wait_for(lambda: len(fast_brain.task_ids()) == 10, "the records", 30)
    os.kill(child, 0)


def test_agent_when_its_server_is_killed_takes_its_session_along(fast_brain, processes, tmp_path):
    """A forked child that outlives its parent must not hold the parent's connection open."""
    victim = run_app(processes, fast_brain.environ(tmp_path / "state"))
    victim.wait_online()
    child = victim.post("/linger")["pid"]
    kill_hard(victim.process.pid)
    victim.process.wait(timeout_seconds=20)
    fast_brain.wait_for(lambda: fast_brain.open_sessions() == [], "the end of the session", 10)
    os.kill(child, 0)
