"""Several processes of one application: `uvicorn --workers` and `uvicorn --reload`."""

from __future__ import annotations

import signal

import pytest
from support.web_app import WebApp, outbox_directories

pytestmark = [pytest.mark.brain, pytest.mark.process, pytest.mark.timeout(240)]

GOOD_EXITS = {0, -signal.SIGTERM}


def nobody_is_online(project, agent):
    project.wait_for(
        lambda project: not project.agent_workers(agent.agent_id, state="online"),
        what="no process online",
    )


def test_four_workers_when_they_run_are_four_processes_of_one_agent_and_leave_together(
    brain_project, processes, tmp_path
):
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state")
    app = WebApp(processes, env, options=("--workers", "4")).wait_started(4)
    rows = brain_project.wait_online(agent.agent_id, processes=4)
    assert {row["role"] for row in rows} == {"web"}
    assert {row["pid"] for row in rows} == {line["pid"] for line in app.lines("started")}
    assert len({row["worker_id"] for row in rows}) == 4
    assert [row["name"] for row in brain_project.agents()] == ["web"]

    recorded: dict[int, int] = {}
    number = 0
    while len(recorded) < 4 and number < 200:  # until each worker had its turn
        pid = app.post("/record", prefix=f"request-{number}")["pid"]
        recorded[pid] = recorded.get(pid, 0) + 1
        number += 1
    assert len(recorded) >= 2  # the kernel need not be fair
    brain_project.wait_for(lambda project: project.count_tasks() == number, what="all rows")

    assert app.terminate(timeout_seconds=20) in GOOD_EXITS
    stopped = app.lines("stopped")
    print(f"\n4 workers: exit {[round(line['exit'] * 1e3) for line in stopped]} ms")
    assert len(stopped) == 4
    assert max(line["exit"] for line in stopped) < 5.0
    assert outbox_directories(tmp_path / "state") == []
    nobody_is_online(brain_project, agent)


def test_worker_when_it_is_killed_is_replaced_and_its_records_arrive(
    brain_project, processes, tmp_path
):
    """uvicorn starts another one, which takes over what the dead one left."""
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state")
    app = WebApp(processes, env, options=("--workers", "2")).wait_started(2)
    brain_project.wait_online(agent.agent_id, processes=2)
    app.post_last("/record-and-die", prefix="left", count=40)
    app.wait_started(3)
    rows = brain_project.wait_online(agent.agent_id, processes=2)
    living = {line["pid"] for line in app.lines("started")}
    assert {row["pid"] for row in rows} < living
    brain_project.wait_for(
        lambda project: project.count_tasks() == 40, timeout_seconds=60, what="40 rows"
    )
    assert app.terminate() in GOOD_EXITS
    assert outbox_directories(tmp_path / "state") == []


SOURCE = "from support.apps.agent_app import app  # version {number}\n"


def test_reload_when_it_happens_twenty_times_leaves_one_process_and_loses_nothing(
    brain_project, processes, tmp_path
):
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state")
    source = tmp_path / "code" / "reloaded.py"
    source.parent.mkdir()
    source.write_text(SOURCE.format(number=0))
    app = WebApp(
        processes,
        env,
        options=("--reload", "--reload-dir", str(source.parent)),
        cwd=source.parent,
        app="reloaded:app",
    ).wait_started()
    for number in range(1, 21):
        app.post("/record", prefix=f"before-{number}")
        source.write_text(SOURCE.format(number=number))
        app.wait_started(number + 1)
    last = app.lines("started")[-1]["pid"]
    app.post("/record", prefix="last")
    assert app.post("/flush")

    rows = brain_project.wait_online(agent.agent_id, processes=1)
    assert rows[0]["pid"] == last
    assert [row["name"] for row in brain_project.agents()] == ["web"]
    assert brain_project.count_tasks() == 21
    for number in range(1, 21):
        assert len(brain_project.events("arq", f"before-{number}-0")) == 1

    app.process.send_signal(signal.SIGINT)  # as Ctrl-C: the reloader ends its child
    app.process.wait(timeout_seconds=20)
    assert len(app.lines("stopped")) == 21
    assert outbox_directories(tmp_path / "state") == []
    nobody_is_online(brain_project, agent)
