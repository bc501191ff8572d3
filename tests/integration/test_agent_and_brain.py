"""The agent against the real brain, without engines."""

from __future__ import annotations

import time

import pytest
from support.agents import agent_container
from support.processes import wait_until

from z4j_fastapi import events
from z4j_fastapi.runtime.status import ConnectionState

pytestmark = [pytest.mark.brain, pytest.mark.timeout(180)]


@pytest.fixture
def start(tmp_path):
    """Starts runtimes from credentials; stops them all afterwards."""
    started = []

    def make(credentials, **options):
        container = agent_container(credentials, tmp_path, **options)
        runtime = container.runtime()
        runtime.start()
        started.append(runtime)
        return runtime

    yield make
    for runtime in started:
        runtime.stop(1.0)


def one_task(task_id, name="shop.charge"):
    common = {"queue": "billing", "worker": "host-1:77"}
    return [
        events.task_received(
            "arq", task_id, name, args=[7], kwargs={"password": "hunter2", "n": 1}, **common
        ),
        events.task_started("arq", task_id, name, attempt=1, **common),
        events.task_succeeded("arq", task_id, name, result={"ok": True}, runtime_ms=12, **common),
    ]


def test_events_when_recorded_make_a_complete_row(brain_project, start):
    agent = brain_project.mint_agent("web")
    runtime = start(agent, agent_name="shop-web", tags={"team": "pay"})
    for event in one_task("t-1"):
        runtime.record(event)
    assert runtime.flush(20)
    row = brain_project.wait_task("arq", "t-1", state="success")
    assert row["name"] == "shop.charge"
    assert row["queue"] == "billing"
    assert row["worker_name"] == "host-1:77"
    assert row["runtime_ms"] == 12
    assert row["args"] == [7]
    assert row["kwargs"] == {"n": 1, "password": "[REDACTED]"}
    assert row["result"] == {"ok": True}


def test_hello_when_accepted_shows_worker_role_and_name(brain_project, start):
    agent = brain_project.mint_agent("web")
    runtime = start(agent, worker_role="web", agent_name="shop-web")
    assert runtime.wait_online(10)
    status = runtime.status()
    assert status.agent_id == agent.agent_id
    assert status.brain_version == "1.13.0"
    workers = brain_project.wait_online(agent.agent_id)
    assert [worker["role"] for worker in workers] == ["web"]
    assert runtime.flush(5)


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        ({"token": "not-the-token"}, "auth", "token"),
        ({"hmac_secret": "A" * 43}, "auth", "hmac_secret"),
        ({"brain_url": "http://127.0.0.1:9"}, "transient", "127.0.0.1:9"),
    ],
)
def test_wrong_setting_when_met_is_named_in_one_clear_message(
    brain_project, start, change, kind, named, caplog
):
    agent = brain_project.mint_agent("web")
    runtime = start(agent, **change)
    wait_until(
        lambda: runtime.status().last_error is not None, timeout_seconds=20, what="a failure"
    )
    status = runtime.status()
    assert status.last_error_kind == kind
    assert named in status.last_error
    assert status.connection is ConnectionState.BACKOFF
    assert not runtime.wait_online(0.1)
    lines = [record for record in caplog.records if "brain_unreachable" in record.getMessage()]
    assert len(lines) == 1
    assert "not-the-token" not in caplog.text


def test_agent_when_revoked_meanwhile_says_so(brain_project, start):
    agent = brain_project.mint_agent("web")
    runtime = start(agent)
    assert runtime.wait_online(10)
    brain_project.revoke_agent(agent.agent_id)
    wait_until(
        lambda: runtime.status().last_error_kind == "auth",
        timeout_seconds=20,
        what="the revocation",
    )


def test_command_when_no_engine_is_there_is_answered_with_the_reason(brain_project, start):
    agent = brain_project.mint_agent("web")
    runtime = start(agent)
    assert runtime.wait_online(10)
    with pytest.raises(Exception, match=r"422|engine"):
        brain_project.command("cancel-task", agent.agent_id, engine="arq", task_id="1")
    row = brain_project.command(
        "purge-queue", agent.agent_id, queue="billing", force=True, wait_seconds=20
    )
    assert row["status"] == "failed"
    assert row["error"].startswith("unsupported")


def test_stop_when_events_are_pending_delivers_them(brain_project, start):
    agent = brain_project.mint_agent("web")
    runtime = start(agent)
    assert runtime.wait_online(10)
    for event in one_task("t-stop"):
        runtime.record(event)
    runtime.stop()
    assert brain_project.wait_task("arq", "t-stop", state="success")


def test_outage_when_it_ends_everything_arrives_once(outage_brain, outage_project, start):
    agent = outage_project.mint_agent("web")
    runtime = start(agent)
    assert runtime.wait_online(10)
    for number in range(50):
        runtime.record(one_task(f"t-{number}")[0])
        runtime.record(one_task(f"t-{number}")[2])
    outage_brain.stop()
    deadline = time.monotonic() + 6
    number = 50
    while time.monotonic() < deadline:
        runtime.record(one_task(f"t-{number}")[0])
        runtime.record(one_task(f"t-{number}")[2])
        number += 1
        time.sleep(0.05)
    assert runtime.status().buffer_events > 0
    outage_brain.start()
    runtime.request_reconnect()
    assert runtime.flush(60)
    assert outage_project.count_tasks(state="success") == number
    for task_id in ("t-0", f"t-{number // 2}", f"t-{number - 1}"):
        kinds = [row["kind"] for row in outage_project.events("arq", task_id)]
        assert sorted(kinds) == ["task.received", "task.succeeded"]
    assert not any(runtime.status().dropped.values())
