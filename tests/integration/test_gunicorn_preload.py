"""`gunicorn --preload`: the application, and with it perhaps the agent, exists before the fork."""

from __future__ import annotations

import signal

import pytest
from support.processes import wait_until
from support.web_app import WebApp, outbox_directories

pytestmark = [pytest.mark.brain, pytest.mark.process, pytest.mark.timeout(120)]


def gunicorn(processes, env, tmp_path, *options):
    config = tmp_path / "gunicorn_config.py"
    config.write_text(
        "preload_app = True\nworkers = 2\nworker_class = 'uvicorn_worker.UvicornWorker'\n"
    )
    return WebApp(
        processes,
        {**env, "HOME": str(tmp_path)},  # gunicorn puts a control socket there
        command=(
            *("-m", "gunicorn", "support.apps.agent_app:app", "--bind", "127.0.0.1:{port}"),
            *("-c", str(config), "--graceful-timeout", "10", *options),
        ),
    )


def record_in_both(app):
    """Record until both workers had a turn; returns the number of events."""
    pids = set()
    for number in range(200):
        pids.add(app.post("/record", prefix=f"request-{number}")["pid"])
        if len(pids) == 2 and number >= 5:
            return number + 1
    raise AssertionError(f"only {pids} answered")


@pytest.mark.parametrize("mode", ["lifespan", "install", "import"])
def test_preloaded_workers_when_they_record_have_a_session_each_and_the_parent_keeps_its_own(
    brain_project, processes, tmp_path, mode
):
    """`lifespan`: nothing before the fork. The others: an agent runs in the parent."""
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state") | {"TEST_APP_MODE": mode}
    app = gunicorn(processes, env, tmp_path).wait_started(2)
    parent = app.process.pid
    count = record_in_both(app)
    workers = {line["pid"] for line in app.lines("started")}
    expected = workers if mode == "lifespan" else {*workers, parent}

    rows = brain_project.wait_online(agent.agent_id, processes=len(expected))
    assert {row["pid"] for row in rows} == expected
    sessions = {row["worker_id"] for row in rows}
    brain_project.wait_for(
        lambda project: project.count_tasks() == count, what=f"{count} rows", timeout_seconds=60
    )
    # Nobody displaced or closed anybody: the same sessions still.
    rows = brain_project.wait_online(agent.agent_id, processes=len(expected))
    assert {row["worker_id"] for row in rows} == sessions

    assert app.terminate(timeout_seconds=20) == 0
    assert len(app.lines("stopped")) == 2
    if mode == "import":
        # uvicorn's worker dies of the signal, which it raises again, and so without exit handlers.
        # What it leaves is empty, or goes to whoever comes next.
        WebApp(
            processes, env | {"TEST_APP_MODE": "lifespan"}, name="next"
        ).wait_started().terminate()
        assert brain_project.count_tasks() == count
    assert outbox_directories(tmp_path / "state") == []
    for trouble in ("Traceback", "Error", "SIGKILL"):
        assert trouble not in app.process.output()


def test_preloaded_worker_when_it_is_replaced_leaves_the_other_sessions_alone(
    brain_project, processes, tmp_path
):
    agent = brain_project.mint_agent("web")
    env = agent.environ(state_dir=tmp_path / "state") | {"TEST_APP_MODE": "install"}
    app = gunicorn(processes, env, tmp_path).wait_started(2)
    record_in_both(app)
    before = {
        row["pid"]: row["worker_id"]
        for row in brain_project.wait_online(agent.agent_id, processes=3)
    }
    app.post_last("/die")
    app.wait_started(3)  # gunicorn forks another one from the parent whose agent runs
    after = {}

    def replaced():
        after.clear()
        rows = brain_project.agent_workers(agent.agent_id, state="online")
        after.update({row["pid"]: row["worker_id"] for row in rows})
        return len(after) == 3 and set(after) != set(before)

    wait_until(replaced, timeout_seconds=30, what="the new worker")
    assert after[app.process.pid] == before[app.process.pid]
    common = set(before) & set(after)
    assert len(common) == 2
    assert {after[pid] for pid in common} == {before[pid] for pid in common}
    assert app.terminate(timeout_seconds=20) == 0


@pytest.mark.parametrize("kind", ["os", "stay", "multiprocessing"])
def test_forked_child_when_it_records_and_ends_its_event_arrives_and_the_parents_session_stays(
    brain_project, processes, tmp_path, kind
):
    """Children of a request: `os` ends by `os._exit`, `stay` after its own agent delivered."""
    agent = brain_project.mint_agent("web")
    app = WebApp(processes, agent.environ(state_dir=tmp_path / "state")).wait_started()
    before = app.wait_online()
    for number in range(3):
        app.post("/record", prefix=f"parent-{number}")
        child = app.post("/fork", prefix=f"child-{number}", kind=kind)
        assert child["status"] == 0
    app.post("/adopt")  # the round that the parent makes every 30 s
    app.post("/record", prefix="parent-3")
    brain_project.wait_for(
        lambda project: project.count_tasks() == 7, timeout_seconds=40, what="seven rows"
    )
    after = app.get("/status")
    assert (after["session_id"], after["connects"]) == (before["session_id"], 1)
    for number in range(3):
        assert len(brain_project.events("arq", f"child-{number}-0")) == 1
    assert app.terminate() in {0, -signal.SIGTERM}
    assert outbox_directories(tmp_path / "state") == []
