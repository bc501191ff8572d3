"""`attach_to_broker` as users write it: real `taskiq worker` processes under the real brain."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.processes import REPOSITORY, ChildProcess, ProcessFamily, wait_until
from support.taskiq_lab import make_broker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.brain import BrainProject
    from support.valkey import ValkeyDatabase

pytestmark = [
    pytest.mark.brain,
    pytest.mark.valkey,
    pytest.mark.process,
    pytest.mark.timeout(180),
]

QUEUE = "lab"


@pytest.fixture
def agent(brain_project: BrainProject) -> Any:
    return brain_project.mint_agent("taskiq-worker")


@pytest.fixture
def start_worker(
    agent: Any, valkey: ValkeyDatabase, processes: ProcessFamily, tmp_path: Path
) -> Callable[..., ChildProcess]:
    def start(*options: str, **env: str) -> ChildProcess:
        return processes.python(
            "worker",
            *("-m", "taskiq", "worker", "support.taskiq_app:broker", *options),
            env={
                **agent.environ(state_dir=tmp_path / "state"),
                "TASKIQ_APP_URL": valkey.url,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY)]),
                **env,
            },
        )

    return start


def send(url: str, name: str, *args: Any, **kwargs: Any) -> str:
    """Enqueue from a process without an agent."""

    async def scenario() -> str:
        broker = make_broker("ListQueueBroker", url, QUEUE)
        await broker.startup()
        try:
            return (await broker.find_task(name).kiq(*args, **kwargs)).task_id
        finally:
            await broker.shutdown()

    return asyncio.run(scenario())


def test_worker_when_two_processes_run_then_both_are_shown_and_rows_are_complete(
    brain_project: BrainProject, agent: Any, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker("-w", "2")
    sessions = brain_project.wait_online(agent.agent_id, processes=2)
    assert {session["role"] for session in sessions} == {"task"}

    good = send(valkey.url, "ok", 7, password="hunter2")
    bad = send(valkey.url, "boom", 3)
    row = brain_project.wait_task("taskiq", good, state="success")
    failed = brain_project.wait_task("taskiq", bad, state="failure")

    assert (row["name"], row["queue"], row["args"]) == ("ok", QUEUE, [7])
    assert row["kwargs"] == {"password": "[REDACTED]"}
    assert row["result"] == {"number": 7, "password": "[REDACTED]"}
    assert row["runtime_ms"] >= 40
    assert failed["exception"] == "ValueError: boom-3"
    assert "Traceback" in failed["traceback"]
    names = brain_project.wait_for(
        lambda project: (
            found
            if len(found := {each["name"] for each in project.workers("taskiq")}) == 2
            else None
        ),
        what="two workers",
    )
    assert row["worker_name"] in names

    # The brain keeps a worker's row "online" after `worker.offline`; its session tells the end.
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: not worker.running, timeout_seconds=15, what="the workers' end")
    brain_project.wait_for(
        lambda project: not project.agent_workers(agent.agent_id, state="online") or None,
        what="no session left",
    )


def test_commands_when_the_operator_acts_then_the_worker_carries_them_out(
    brain_project: BrainProject, agent: Any, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    start_worker("-w", "2", "--max-async-tasks", "1")
    brain_project.wait_online(agent.agent_id, processes=2)
    running = send(valkey.url, "slow", 60.0)
    brain_project.wait_task("taskiq", running, state="started")
    failed = send(valkey.url, "boom", 1)
    brain_project.wait_task("taskiq", failed, state="failure")

    # Either process may get it; one of them runs the task.
    cancelled = brain_project.command(
        "cancel-task", agent.agent_id, engine="taskiq", task_id=running
    )
    retried = brain_project.command(
        "retry-task",
        agent.agent_id,
        engine="taskiq",
        task_id=failed,
        override_args=[2],
        override_kwargs={},
    )

    assert (cancelled["status"], cancelled["result"]["terminated"]) == ("completed", True)
    assert brain_project.wait_task("taskiq", running, state="revoked")["name"] == "slow"
    assert retried["status"] == "completed"
    again = brain_project.wait_task("taskiq", retried["result"]["new_task_id"], state="failure")
    assert again["exception"] == "ValueError: boom-2"
    assert again["parent_task_id"] == failed


def test_worker_when_told_to_stop_then_the_last_outcome_arrives_and_it_ends_in_time(
    brain_project: BrainProject, agent: Any, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker("-w", "1")
    brain_project.wait_online(agent.agent_id)
    task_id = send(valkey.url, "slow", 2.5)
    brain_project.wait_task("taskiq", task_id, state="started")

    worker.send_signal(signal.SIGTERM)

    wait_until(lambda: not worker.running, timeout_seconds=15, what="the worker's end")
    brain_project.wait_task("taskiq", task_id, state="success", timeout_seconds=10)


def test_worker_when_it_does_not_wait_for_a_running_task_then_the_row_is_closed(
    brain_project: BrainProject, agent: Any, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker("-w", "1", "--wait-tasks-timeout", "0.2")
    brain_project.wait_online(agent.agent_id)
    task_id = send(valkey.url, "slow", 60.0)
    brain_project.wait_task("taskiq", task_id, state="started")

    worker.send_signal(signal.SIGTERM)

    wait_until(lambda: not worker.running, timeout_seconds=15, what="the worker's end")
    row = brain_project.wait_task("taskiq", task_id, state="failure", timeout_seconds=10)
    assert row["exception"].startswith("WorkerStopped: ")


def test_worker_when_the_agent_is_disabled_then_it_works_without_one(
    brain_project: BrainProject, agent: Any, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    start_worker("-w", "1", Z4J_DISABLED="1")

    async def scenario() -> Any:
        broker = make_broker("ListQueueBroker", valkey.url, QUEUE)
        await broker.startup()
        try:
            sent = await broker.find_task("bump").kiq("works")
            return (await sent.wait_result(timeout=30)).return_value
        finally:
            await broker.shutdown()

    assert asyncio.run(scenario()) == "works"
    assert brain_project.agent_workers(agent.agent_id, state="online") == []


def test_worker_when_the_configuration_is_wrong_then_the_reason_is_printed(
    start_worker: Any,
) -> None:
    worker = start_worker("-w", "1", Z4J_HMAC_SECRET="far-too-little")

    worker.wait_for_output("hmac_secret", timeout_seconds=30)
    assert "far-too-little" not in worker.output()
