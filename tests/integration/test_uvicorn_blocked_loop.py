"""The agent lives on a thread of its own: what the host's event loop does is no matter to it."""

from __future__ import annotations

import threading

import pytest
from support.web_app import WebApp

pytestmark = [pytest.mark.brain, pytest.mark.process, pytest.mark.timeout(120)]


def test_agent_when_the_host_blocks_its_loop_for_10_s_stays_connected_and_delivers(
    brain_project, processes, tmp_path
):
    agent = brain_project.mint_agent("web")
    log = tmp_path / "calls"
    env = agent.environ(state_dir=tmp_path / "state") | {"TEST_APP_CALLS": str(log)}
    app = WebApp(processes, env).wait_started()
    before = app.wait_online()
    app.post("/record", prefix="before", count=100)
    blocked = threading.Thread(target=app.post, args=("/block",), kwargs={"seconds": 10})
    blocked.start()

    # All of this comes about while no route can run.
    brain_project.wait_for(
        lambda project: project.count_tasks() == 100, timeout_seconds=9, what="100 rows"
    )
    command = brain_project.command(
        "cancel-task", agent.agent_id, engine="arq", task_id="t-1", wait_seconds=9
    )
    assert command["status"] == "completed"
    assert blocked.is_alive()

    blocked.join(30)
    after = app.get("/status")
    assert after["connects"] == before["connects"] == 1
    assert after["session_id"] == before["session_id"]
    assert after["buffer_events"] == 0
    app.terminate()
