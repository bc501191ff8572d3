"""taskiq under the real brain: FastAPI under uvicorn, `taskiq worker`, REST commands."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.engine_lab import REQUEST_ID, TRACEPARENT, EngineLab
from support.processes import ProcessFamily

from z4j_fastapi.dev.rest import BrainApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.brain import BrainProject, RealBrain
    from support.valkey import ValkeyServer

pytestmark = [
    pytest.mark.brain,
    pytest.mark.valkey,
    pytest.mark.process,
    pytest.mark.timeout(180),
]

TASKIQ = ("-m", "taskiq", "worker", "support.apps.taskiq_jobs:broker")
ENQUEUED = ("task.sent", "task.received")
RAN = (*ENQUEUED, "task.started")
SECRETS = ("hunter2", "tok-1", "result-secret-1")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFamily]:
    started = ProcessFamily(tmp_path_factory.mktemp("taskiq-processes"))
    try:
        yield started
    finally:
        print(started.tails())
        started.kill_all()


@pytest.fixture(scope="module")
def make_lab(
    brain: RealBrain,
    valkey_server: ValkeyServer,
    family: ProcessFamily,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], EngineLab]:
    database = valkey_server.fresh_database()
    project = brain.provision_project("taskiq")

    def make(name: str) -> EngineLab:
        return EngineLab(
            project,
            engine="taskiq",
            database=database,
            processes=family,
            directory=tmp_path_factory.mktemp("taskiq") / name,
            worker_command=TASKIQ,
        )

    return make


@pytest.fixture(scope="module")
def shop(make_lab: Callable[[str], EngineLab]) -> EngineLab:
    """Web application and two worker processes. The web was first: it gets the commands."""
    lab = make_lab("shop")
    lab.start_web()
    lab.start_worker("-w", "2", online=2)
    return lab


@pytest.fixture(scope="module")
def solo(make_lab: Callable[[str], EngineLab]) -> EngineLab:
    """One worker process and a web application. The worker was first: it gets the commands."""
    lab = make_lab("solo")
    lab.start_worker("-w", "1")
    lab.start_web()
    return lab


def worker_names(lab: EngineLab) -> set[str]:
    sessions = lab.sessions("task")
    return {f"{socket.gethostname()}:{session['pid']}" for session in sessions}


# --- what is reported


def test_success_when_enqueued_over_http_then_row_and_events_are_complete(shop: EngineLab) -> None:
    card = {"token": "tok-1", "items": [1, 2]}
    task_id = shop.enqueue("charge", 7, password="hunter2", card=card)
    row = shop.wait(task_id, "success")
    events = shop.wait_kinds(task_id, *RAN, "task.succeeded")

    assert (row["name"], row["queue"]) == ("charge", shop.queue)
    assert row["worker_name"] in worker_names(shop)
    assert row["args"] == [7]
    assert row["kwargs"] == {
        "password": "[REDACTED]",
        "card": {"token": "[REDACTED]", "items": [1, 2]},
    }
    assert row["result"] == {"order": 7, "api_key": "[REDACTED]"}
    assert 50 <= row["runtime_ms"] < 5_000
    assert (row["exception"], row["traceback"], row["retry_count"]) == (None, None, 0)
    assert row["received_at"] <= row["started_at"] <= row["finished_at"]
    for event in events:
        assert event["payload"]["traceparent"] == TRACEPARENT
        assert event["payload"]["request_id"] == REQUEST_ID
        assert event["payload"]["task_name"] == "charge"
        assert event["payload"]["queue"] == shop.queue
        assert not any(secret in str(event) for secret in SECRETS)
    (call,) = shop.diary("charge", task_id)
    assert call["kwargs"] == {"password": "hunter2", "card": card}


def test_workers_when_two_processes_run_then_both_are_shown_under_one_agent(
    shop: EngineLab,
) -> None:
    assert len(worker_names(shop)) == 2
    sessions = shop.sessions()
    assert sorted(session["role"] for session in sessions) == ["task", "task", "web"]

    def shown(project: BrainProject) -> Any:
        rows = [row for row in project.workers("taskiq") if row["name"] in worker_names(shop)]
        return rows if len(rows) == 2 and all(row["pid"] for row in rows) else None

    for row in shop.project.wait_for(shown, what="both workers' details"):
        assert row["name"].endswith(f":{row['pid']}")
        assert row["queues"] == [shop.queue]
        assert row["state"] == "online"


def test_failure_when_the_body_raises_then_the_traceback_ends_with_the_failing_line(
    shop: EngineLab,
) -> None:
    task_id = shop.enqueue("refuse", 8, password="hunter2")
    row = shop.wait(task_id, "failure")
    shop.wait_kinds(task_id, *RAN, "task.failed")

    assert row["exception"] == "ValueError: order 8 was refused"
    lines = row["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: order 8 was refused"
    assert "# the failing line" in row["traceback"]
    assert row["worker_name"] in worker_names(shop)
    assert row["runtime_ms"] is not None


def test_retry_when_the_middleware_tries_again_then_it_is_counted(solo: EngineLab) -> None:
    # One worker: where a second one ends the new attempt at once, the brain may hear of its success
    # before it hears of the retry, and then does not count it any more.
    task_id = solo.enqueue("flaky")
    row = solo.wait(task_id, "success")

    assert (row["retry_count"], row["result"]) == (1, "second")
    by_kind = {row["kind"]: row["payload"] for row in solo.project.events("taskiq", task_id)}
    assert by_kind["task.retried"]["exception"] == "RuntimeError: the first attempt"
    assert by_kind["task.retried"]["attempt"] == 1
    assert by_kind["task.succeeded"]["attempt"] == 2
    assert by_kind["task.succeeded"]["request_id"] == REQUEST_ID
    assert len(solo.diary("flaky", task_id)) == 2


def test_retry_when_another_worker_takes_it_then_every_event_is_kept(shop: EngineLab) -> None:
    ids = [shop.enqueue("flaky") for _ in range(5)]
    for task_id in ids:
        shop.wait(task_id, "success")
        shop.project.wait_for(
            lambda _, one=task_id: "task.retried" in shop.kinds(one), what="the retry"
        )
        kinds = shop.kinds(task_id)
        assert kinds.count("task.retried") == kinds.count("task.succeeded") == 1
        assert "task.failed" not in kinds


def test_child_task_when_sent_by_a_task_then_has_parent_root_and_request(shop: EngineLab) -> None:
    parent = shop.enqueue("parent")
    row = shop.wait(parent, "success")
    assert row["result"]["request_id"] == REQUEST_ID
    child = shop.wait(row["result"]["child"], "success")

    assert (child["parent_task_id"], child["root_task_id"]) == (parent, parent)
    events = shop.wait_kinds(child["task_id"], *RAN, "task.succeeded")
    assert {event["payload"]["traceparent"] for event in events} == {TRACEPARENT}
    assert {event["payload"]["request_id"] for event in events} == {REQUEST_ID}


# --- commands


def test_cancel_when_the_web_gets_the_command_then_the_worker_ends_the_running_task(
    shop: EngineLab,
) -> None:
    task_id = shop.enqueue("slow")
    shop.wait(task_id, "started")
    row = shop.task_command("cancel-task", task_id)

    assert (row["status"], row["result"]) == (
        "completed",
        {"task_id": task_id, "terminated": True},
    )
    shop.wait(task_id, "revoked")
    events = shop.wait_kinds(task_id, *RAN, "task.revoked")
    (revoked,) = (event["payload"] for event in events if event["kind"] == "task.revoked")
    assert revoked["worker"] in worker_names(shop)
    later = shop.enqueue("charge", 1)  # the worker goes on
    shop.wait(later, "success")
    assert len(shop.diary("slow", task_id)) == 1  # although it is retried on errors


def test_cancel_when_the_body_is_synchronous_then_it_is_refused_and_goes_on(
    shop: EngineLab, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    task_id = shop.enqueue("blocking", str(release))
    shop.wait(task_id, "started")
    row = shop.task_command("cancel-task", task_id)
    release.touch()

    assert row["status"] == "failed"
    assert row["error"].startswith("unsupported: ")
    assert shop.wait(task_id, "success")["result"] == "released"


def test_retry_when_overrides_are_given_then_exactly_those_run(shop: EngineLab) -> None:
    failed = shop.enqueue("refuse", 10, password="hunter2")
    shop.wait(failed, "failure")
    row = shop.task_command(
        "retry-task", failed, override_args=[11], override_kwargs={"password": "another"}
    )

    assert row["status"] == "completed", row["error"]
    retried = row["result"]["new_task_id"]
    again = shop.wait(retried, "failure")
    assert again["exception"] == "ValueError: order 11 was refused"
    assert again["kwargs"] == {"password": "[REDACTED]"}
    assert again["parent_task_id"] == failed
    (call,) = shop.diary("refuse", retried)
    assert (call["args"], call["kwargs"]) == ([11], {"password": "another"})


def test_bulk_retry_when_asked_for_then_the_brain_knows_that_it_cannot_be_done(
    shop: EngineLab,
) -> None:
    failed = shop.enqueue("refuse", 12)
    shop.wait(failed, "failure")
    with pytest.raises(BrainApiError) as refusal:
        shop.project.bulk_retry(shop.agent.agent_id, "taskiq", [failed])
    assert refusal.value.status == 422


def test_waiting_tasks_when_no_worker_runs_then_depth_cancel_and_purge_work(
    make_lab: Callable[[str], EngineLab],
) -> None:
    lab = make_lab("closed")
    lab.start_web()
    first, *rest = [lab.enqueue("charge", number, password="hunter2") for number in range(4)]
    lab.project.wait_for(lambda project: project.task("taskiq", rest[-1]), what="the rows")

    row = lab.task_command("cancel-task", first)
    assert (row["status"], row["result"]["removed"]) == ("completed", True), row
    assert lab.wait(first, "revoked")["args"] == [0]
    lab.wait_kinds(first, *ENQUEUED, "task.revoked")

    def depth(project: BrainProject) -> Any:
        rows = [row for row in project.queue_depths() if row["name"] == lab.queue]
        return rows[0] if rows and rows[0]["pending_count"] == 3 else None

    assert lab.project.wait_for(depth, what="the queue's depth")["engine"] == "taskiq"

    wrong = lab.command("purge-queue", queue=lab.queue, observed_depth=4)
    assert wrong["status"] == "failed"
    assert wrong["error"].startswith("refused: ")
    right = lab.command("purge-queue", queue=lab.queue, observed_depth=3)
    assert right["status"] == "completed", right["error"]
    assert (right["result"]["depth_before"], right["result"]["purged"]) == (3, 3)
    for task_id in rest:
        lab.wait(task_id, "revoked")
    lab.start_worker("-w", "1")
    later = lab.enqueue("charge", 9)
    lab.wait(later, "success")
    assert [line["id"] for line in lab.diary("charge")] == [later]


def test_cancel_when_the_worker_gets_the_command_then_it_ends_its_own_task(
    solo: EngineLab,
) -> None:
    task_id = solo.enqueue("slow")
    solo.wait(task_id, "started")
    row = solo.task_command("cancel-task", task_id)

    assert (row["status"], row["result"]["terminated"]) == ("completed", True)
    solo.wait(task_id, "revoked")
    unknown = solo.task_command("cancel-task", "nobody-knows-it")
    assert unknown["status"] == "failed"
    assert unknown["error"].startswith("not_found: ")
    later = solo.enqueue("charge", 1)
    solo.wait(later, "success")


# --- processes


def test_worker_when_killed_in_a_burst_then_every_recorded_event_arrives_once(
    make_lab: Callable[[str], EngineLab],
) -> None:
    lab = make_lab("burst")
    lab.start_web()
    ids = lab.post("/burst?number=80")
    options = ("-w", "1", "--max-async-tasks", "5", "--max-prefetch", "1")
    worker = lab.start_worker(*options, online=None)
    lines = lab.wait_diary(
        lambda lines: sum(line["what"] == "ended" for line in lines) >= 15, what="15 ended tasks"
    )
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(timeout_seconds=10)
    lines = lab.diary()
    started = {line["id"] for line in lines if line["what"] == "count"}
    ended = {line["id"] for line in lines if line["what"] == "ended"}
    assert 15 <= len(ended) < 80, "the worker was not killed in mid-burst"

    # What the worker had taken from the list is lost, as always with this broker.
    lab.start_worker(*options)
    last = lab.enqueue("charge", 1)
    lab.wait(last, "success")

    def shown(project: BrainProject) -> Any:
        rows = {row["task_id"] for row in project.tasks(name="count", state="success")}
        return rows if ended <= rows else None

    lab.project.wait_for(shown, what="a row of every task that ended")
    for task_id in ids:
        kinds = lab.kinds(task_id)
        assert kinds.count("task.sent") == 1
        assert kinds.count("task.started") <= 1
        assert kinds.count("task.succeeded") <= 1
        if task_id in started:
            assert kinds.count("task.started") == 1, (task_id, kinds)
        if task_id in ended:
            assert kinds.count("task.succeeded") == 1, (task_id, kinds)


def test_worker_when_its_token_is_wrong_then_it_works_on_and_says_so_once(
    make_lab: Callable[[str], EngineLab],
) -> None:
    lab = make_lab("wrong-token")
    lab.start_web()
    worker = lab.start_worker("-w", "1", online=None, Z4J_TOKEN="not-the-token-of-anybody")
    task_id = lab.enqueue("charge", 1)
    lab.wait_diary(
        lambda lines: any(line["what"] == "ended" and line["id"] == task_id for line in lines),
        what="the task's end",
    )
    worker.wait_for_output("check token")
    lines = [line for line in worker.output().splitlines() if "brain_unreachable" in line]
    assert len(lines) == 1
    assert "not-the-token-of-anybody" not in worker.output()
    assert worker.running


def test_worker_when_the_configuration_is_missing_then_every_variable_is_named(
    make_lab: Callable[[str], EngineLab],
) -> None:
    lab = make_lab("unconfigured")
    nothing = dict.fromkeys(("Z4J_BRAIN_URL", "Z4J_TOKEN", "Z4J_HMAC_SECRET", "Z4J_PROJECT_ID"), "")
    worker = lab.start_worker("-w", "1", online=None, **nothing)

    worker.wait_for_output("ConfigError")
    for name in nothing:
        worker.wait_for_output(f"({name}): is missing")


def test_worker_when_told_to_stop_then_it_ends_in_time_and_nothing_is_missing(
    make_lab: Callable[[str], EngineLab],
) -> None:
    lab = make_lab("stopping")
    lab.start_web()
    worker = lab.start_worker("-w", "2", online=2)
    task_id = lab.enqueue("slow", 1.0)
    lab.wait(task_id, "started")
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)

    worker.wait(timeout_seconds=20)
    assert time.monotonic() - begun < 12
    assert lab.wait(task_id, "success", timeout_seconds=5)["result"] == "slept"
    lab.project.wait_online(lab.agent.agent_id, processes=1)


def test_agent_when_disabled_then_web_and_worker_run_without_it(
    make_lab: Callable[[str], EngineLab],
) -> None:
    lab = make_lab("disabled")
    lab.start_web(online=False, Z4J_DISABLED="1")
    lab.start_worker("-w", "1", online=None, Z4J_DISABLED="1")
    task_id = lab.enqueue("charge", 1)
    lab.wait_diary(
        lambda lines: any(line["what"] == "ended" and line["id"] == task_id for line in lines),
        what="the task's end",
    )
    assert lab.project.task("taskiq", task_id) is None
    assert lab.project.agent(lab.agent.agent_id)["state"] == "unknown"
