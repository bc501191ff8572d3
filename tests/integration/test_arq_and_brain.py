"""arq under the real brain: FastAPI under uvicorn, the `arq` command's worker, REST commands."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from arq import create_pool
from support.arq_engine import redis_settings
from support.engine_lab import REQUEST_ID, TRACEPARENT, EngineLab
from support.processes import ProcessFamily
from support.socket_brain import SocketBrain
from support.web_app import WebApp

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

ARQ = ("-m", "arq", "support.apps.arq_jobs.WorkerSettings")
ENQUEUED = ("task.sent", "task.received")
RAN = (*ENQUEUED, "task.started")
ENDED = (0, -signal.SIGTERM)  # uvicorn sends the signal to itself once it has shut down
SECRETS = ("hunter2", "tok-1", "result-secret-1")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFamily]:
    started = ProcessFamily(tmp_path_factory.mktemp("arq-processes"))
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
) -> Callable[..., EngineLab]:
    database = valkey_server.fresh_database()
    projects: list[BrainProject] = []

    def make(name: str, *, project: BrainProject | None = None) -> EngineLab:
        if project is None:
            if not projects:
                projects.append(brain.provision_project("arq"))
            project = projects[0]
        return EngineLab(
            project,
            engine="arq",
            database=database,
            processes=family,
            directory=tmp_path_factory.mktemp("arq") / name,
            worker_command=ARQ,
        )

    return make


@pytest.fixture(scope="module")
def shop(make_lab: Callable[..., EngineLab]) -> EngineLab:
    """Web application and worker under one token. The web was first: it gets the commands."""
    lab = make_lab("shop")
    lab.start_web()
    lab.worker = lab.start_worker(ARQ_JOBS_ABORT="1", ARQ_JOBS_CRON="1")
    return lab


@pytest.fixture(scope="module")
def solo(make_lab: Callable[..., EngineLab]) -> EngineLab:
    """A worker alone: it gets the commands. It cannot abort jobs."""
    lab = make_lab("solo")
    lab.worker = lab.start_worker()
    return lab


def enqueue(lab: EngineLab, name: str, *args: Any, **options: Any) -> str:
    """Enqueue from a process without an agent: this one."""

    async def scenario() -> str:
        pool = await create_pool(redis_settings(lab.database), default_queue_name=lab.queue)
        try:
            return (await pool.enqueue_job(name, *args, **options)).job_id
        finally:
            await pool.aclose()

    return asyncio.run(scenario())


def redis(lab: EngineLab, command: str, *args: Any) -> Any:
    async def scenario() -> Any:
        pool = await create_pool(redis_settings(lab.database))
        try:
            return await pool.execute_command(command, *args)
        finally:
            await pool.aclose()

    return asyncio.run(scenario())


def worker_name(child: Any) -> str:
    return f"{socket.gethostname()}:{child.pid}"


# --- what is reported


def test_success_when_enqueued_over_http_then_row_and_events_are_complete(shop: EngineLab) -> None:
    card = {"token": "tok-1", "items": [1, 2]}
    task_id = shop.enqueue("charge", 7, password="hunter2", card=card)
    row = shop.wait(task_id, "success")
    events = shop.wait_kinds(task_id, *RAN, "task.succeeded")

    assert (row["name"], row["queue"], row["worker_name"]) == (
        "charge",
        shop.queue,
        worker_name(shop.worker),
    )
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
        web = event["kind"] in ENQUEUED and event["payload"].get("stage") != "worker"
        assert event["payload"].get("worker") == (None if web else worker_name(shop.worker))
    (call,) = shop.diary("charge", task_id)
    assert call["kwargs"] == {"password": "hunter2", "card": card}


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
    assert "z4j_fastapi" not in row["traceback"]
    assert row["worker_name"] == worker_name(shop.worker)
    assert row["runtime_ms"] is not None
    assert row["result"] is None


def test_retry_when_the_body_asks_for_it_then_it_is_counted(shop: EngineLab) -> None:
    task_id = shop.enqueue("flaky")
    row = shop.wait(task_id, "success")

    assert (row["retry_count"], row["result"]) == (1, "second")
    kinds = shop.kinds(task_id)
    assert kinds.count("task.retried") == kinds.count("task.succeeded") == 1
    by_kind = {row["kind"]: row["payload"] for row in shop.project.events("arq", task_id)}
    assert by_kind["task.retried"]["attempt"] == 1
    assert by_kind["task.succeeded"]["attempt"] == 2
    assert by_kind["task.retried"]["request_id"] == REQUEST_ID


def test_child_job_when_enqueued_by_a_job_then_has_parent_root_and_request(
    shop: EngineLab,
) -> None:
    parent = shop.enqueue("parent")
    row = shop.wait(parent, "success")
    assert row["result"]["request_id"] == REQUEST_ID
    child = shop.wait(row["result"]["child"], "success")

    assert (row["parent_task_id"], row["root_task_id"]) == (None, None)
    assert (child["parent_task_id"], child["root_task_id"]) == (parent, parent)
    events = shop.wait_kinds(child["task_id"], *RAN, "task.succeeded")
    assert {event["payload"]["traceparent"] for event in events} == {TRACEPARENT}
    assert {event["payload"]["request_id"] for event in events} == {REQUEST_ID}


@pytest.mark.parametrize(
    ("name", "options", "exception"),
    [
        ("nowhere", {}, "JobExecutionFailed: function 'nowhere' not found"),
        ("charge", {"_expires": 0.001}, "JobExecutionFailed: job expired"),
        ("hopeless", {}, "JobExecutionFailed: max 2 retries exceeded"),
        ("stuck", {}, "TimeoutError: the job ran longer than 0.3 s"),
    ],
)
def test_job_when_it_ends_without_a_word_of_its_own_then_row_says_why(
    shop: EngineLab, name: str, options: dict[str, Any], exception: str
) -> None:
    task_id = shop.enqueue(name, *([1] if name in ("nowhere", "charge") else []), options=options)
    row = shop.wait(task_id, "failure")

    assert (row["name"], row["queue"], row["exception"]) == (name, shop.queue, exception)
    if name != "charge":  # of an expired job nothing is left; its enqueue may be told too late
        assert row["args"] == ([1] if name == "nowhere" else [])
    kinds = shop.kinds(task_id)
    assert kinds.count("task.failed") == 1
    assert "task.succeeded" not in kinds
    assert "task.revoked" not in kinds
    if name == "stuck":
        assert 200 <= row["runtime_ms"] < 5_000
        assert row["traceback"].startswith("Traceback (most recent call last):\n")
        assert "await asyncio.sleep(60)" in row["traceback"]
    if name == "hopeless":
        assert len(shop.diary("hopeless", task_id)) == 2


def test_cron_job_when_it_runs_then_has_a_row_like_any_other(shop: EngineLab) -> None:
    row = shop.project.wait_for(
        lambda project: next(iter(project.tasks(name="cron:tick", state="success")), None),
        what="the cron job's row",
    )
    assert row["queue"] == shop.queue
    assert row["worker_name"] == worker_name(shop.worker)
    shop.wait_kinds(row["task_id"], *RAN, "task.succeeded")  # arq's worker enqueues it itself


def test_pages_when_the_worker_reports_then_queue_worker_and_tasks_are_there(
    solo: EngineLab,
) -> None:
    waiting = [enqueue(solo, "charge", n, _defer_by=3600) for n in range(2)]
    running = enqueue(solo, "slow", 5.0)
    solo.wait(running, "started")

    def depth(project: BrainProject) -> Any:
        rows = [row for row in project.queue_depths() if row["name"] == solo.queue]
        return rows[0] if rows and rows[0]["pending_count"] == 2 else None

    assert solo.project.wait_for(depth, what="the queue's depth")["engine"] == "arq"

    def shown(project: BrainProject) -> Any:
        rows = [r for r in project.workers("arq") if r["name"] == worker_name(solo.worker)]
        return rows[0] if rows and rows[0]["concurrency"] else None

    row = solo.project.wait_for(shown, what="the worker's details")
    assert (row["state"], row["concurrency"], row["pid"]) == ("online", 10, solo.worker.pid)
    assert row["queues"] == [solo.queue]
    for task_id in waiting:
        assert solo.task_command("cancel-task", task_id)["status"] == "completed"


# --- commands


def test_cancel_when_the_job_runs_then_it_is_aborted_and_revoked(shop: EngineLab) -> None:
    task_id = shop.enqueue("slow")
    shop.wait(task_id, "started")
    row = shop.task_command("cancel-task", task_id)

    assert (row["status"], row["result"]) == (
        "completed",
        {"task_id": task_id, "terminated": True},
    )
    assert shop.wait(task_id, "revoked")["exception"] is None
    events = shop.wait_kinds(task_id, *RAN, "task.revoked")
    (revoked,) = (event["payload"] for event in events if event["kind"] == "task.revoked")
    assert revoked["terminated"] is True
    assert revoked["worker"] == worker_name(shop.worker)
    assert shop.diary("ended", task_id)


def test_cancel_when_the_worker_may_not_abort_then_it_is_refused_and_the_job_goes_on(
    solo: EngineLab,
) -> None:
    task_id = enqueue(solo, "slow", 2.0)
    solo.wait(task_id, "started")
    row = solo.task_command("cancel-task", task_id)

    assert row["status"] == "failed"
    assert row["error"].startswith("refused: ")
    assert "allow_abort_jobs" in row["error"]
    assert solo.wait(task_id, "success")["result"] == "slept"


def test_cancel_when_the_web_asks_a_worker_that_may_not_abort_then_it_is_not_confirmed(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("deaf")
    lab.start_web()
    lab.start_worker()
    task_id = lab.enqueue("slow", 12.0)
    lab.wait(task_id, "started")
    row = lab.task_command("cancel-task", task_id)

    assert row["status"] == "failed"
    assert row["error"].startswith("timeout: ")
    assert "allow_abort_jobs" in row["error"]
    assert row["result"]["indeterminate"] is True
    assert lab.wait(task_id, "success")["result"] == "slept"
    # Nothing is left that would abort a later job with the same id.
    assert redis(lab, "ZSCORE", "arq:abort", task_id) is None


def test_cancel_when_no_worker_runs_then_a_waiting_job_is_revoked(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("closed")
    lab.start_web()
    task_id = lab.enqueue("charge", 1, password="hunter2")
    shown = lab.project.wait_for(lambda project: project.task("arq", task_id), what="the row")
    assert (shown["state"], shown["queue"], shown["args"]) == ("received", lab.queue, [1])
    row = lab.task_command("cancel-task", task_id)

    assert (row["status"], row["result"]["removed"]) == ("completed", True)
    revoked = lab.wait(task_id, "revoked")
    assert (revoked["name"], revoked["args"]) == ("charge", [1])
    lab.wait_kinds(task_id, *ENQUEUED, "task.revoked")
    lab.start_worker()
    later = lab.enqueue("charge", 2)
    lab.wait(later, "success")
    assert lab.diary("charge", task_id) == []
    again = lab.task_command("cancel-task", task_id)
    assert (again["status"], again["result"]["noop"]) == ("completed", True)


def test_cancel_when_the_worker_gets_the_command_then_a_waiting_job_is_revoked(
    solo: EngineLab,
) -> None:
    task_id = enqueue(solo, "charge", 3, _defer_by=3600)
    row = solo.task_command("cancel-task", task_id)
    assert (row["status"], row["result"]["removed"]) == ("completed", True)
    # Its enqueue was in a process without an agent: this is all that the brain ever hears of it.
    assert solo.wait(task_id, "revoked")["name"] == "charge"
    unknown = solo.task_command("cancel-task", "nobody-knows-it")
    assert unknown["status"] == "failed"
    assert unknown["error"].startswith("not_found: ")


@pytest.mark.parametrize("where", ["shop", "solo"])
def test_bulk_retry_when_by_reference_then_the_original_arguments_run_again(
    where: str, request: pytest.FixtureRequest
) -> None:
    lab: EngineLab = request.getfixturevalue(where)
    secret = {"password": "hunter2", "card": {"token": "tok-1"}}
    if where == "shop":
        failed = lab.enqueue("refuse", 9, **secret)
    else:
        failed = enqueue(lab, "refuse", 9, **secret)
    lab.wait(failed, "failure")
    row = lab.project.bulk_retry(lab.agent.agent_id, "arq", [failed])

    assert row["status"] == "completed", row["error"]
    assert (row["result"]["succeeded"], row["result"]["failed"]) == (1, 0)
    retried = row["result"]["new_task_ids"][failed]
    again = lab.wait(retried, "failure")
    assert again["kwargs"] == {"password": "[REDACTED]", "card": {"token": "[REDACTED]"}}
    assert (again["parent_task_id"], again["root_task_id"]) == (failed, failed)
    (call,) = lab.diary("refuse", retried)
    assert (call["args"], call["kwargs"]) == ([9], secret)


def test_retry_when_overrides_are_given_then_exactly_those_run(shop: EngineLab) -> None:
    failed = shop.enqueue("refuse", 10, password="hunter2")
    shop.wait(failed, "failure")
    row = shop.task_command(
        "retry-task", failed, override_args=[11], override_kwargs={"note": "by hand"}
    )

    assert row["status"] == "completed", row["error"]
    retried = row["result"]["new_task_id"]
    assert row["result"] == {
        "new_task_id": retried,
        "original_task_id": failed,
        "task_name": "refuse",
    }
    again = shop.wait(retried, "failure")
    assert again["exception"] == "ValueError: order 11 was refused"
    assert again["parent_task_id"] == failed
    (call,) = shop.diary("refuse", retried)
    assert (call["args"], call["kwargs"]) == ([11], {"note": "by hand"})
    with pytest.raises(BrainApiError) as refusal:
        shop.task_command("retry-task", failed)
    assert refusal.value.status == 409  # the brain's own rule for every engine but two


def test_dead_letters_when_a_job_failed_then_it_is_listed_and_can_be_requeued(
    shop: EngineLab,
) -> None:
    failed = shop.enqueue("refuse", 12, password="hunter2")
    shop.wait(failed, "failure")

    def entries() -> list[dict[str, Any]]:
        page = shop.project.rest.get(
            f"/projects/{shop.project.slug}/dead-letters",
            {"engine": "arq", "queue": shop.queue, "agent_id": shop.agent.agent_id, "limit": 200},
        )
        assert page["engine"] == "arq"
        return [entry for entry in page["entries"] if entry["task_id"] == failed]

    (entry,) = entries()
    assert (entry["task_name"], entry["queue"]) == ("refuse", shop.queue)
    assert "order 12 was refused" in entry["error_excerpt"]
    assert entry["failed_at"] is not None
    row = shop.task_command("requeue-dead-letter", failed)
    assert (row["status"], row["result"]["requeued"]) == ("completed", True)
    shop.wait(row["result"]["new_task_id"], "failure")
    assert shop.diary("refuse", row["result"]["new_task_id"])[0]["kwargs"] == {
        "password": "hunter2"
    }
    assert entries() == []


def test_purge_when_the_depth_is_the_one_seen_then_waiting_jobs_go_and_the_running_one_stays(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("purge")
    lab.start_worker(ARQ_JOBS_ABORT="1")
    running = enqueue(lab, "slow", 60.0)
    lab.wait(running, "started")
    waiting = [enqueue(lab, "charge", number, _defer_by=3600) for number in range(3)]

    wrong = lab.command("purge-queue", queue=lab.queue, observed_depth=4)
    assert wrong["status"] == "failed"
    assert wrong["error"].startswith("refused: ")
    assert redis(lab, "ZCARD", lab.queue) == 4
    right = lab.command("purge-queue", queue=lab.queue, observed_depth=3)
    assert right["status"] == "completed", right["error"]
    assert right["result"] == {
        "queue": lab.queue,
        "depth_before": 3,
        "purged": 3,
        "force": False,
    }
    for task_id in waiting:
        assert lab.wait(task_id, "revoked")["name"] == "charge"
    assert lab.project.task("arq", running)["state"] == "started"
    assert lab.task_command("cancel-task", running)["result"]["terminated"] is True


def test_durable_bulk_retry_when_sealed_then_each_task_is_answered_for_itself(
    shop: EngineLab,
) -> None:
    failed = shop.enqueue("refuse", 13)
    gone = shop.enqueue("refuse", 14)
    for task_id in (failed, gone):
        shop.wait(task_id, "failure")
    redis(shop, "DEL", f"arq:result:{gone}")
    request = shop.project.durable_bulk_retry(
        shop.agent.agent_id, {"engine": "arq", "task_ids": [failed, gone]}
    )
    path = f"/projects/{shop.project.slug}/bulk-retry-requests/{request['id']}"

    def ended(project: BrainProject) -> Any:
        row = project.rest.get(path)
        return row if row["status"] in ("succeeded", "partial", "failed") else None

    row = shop.project.wait_for(ended, what="the durable request's end")
    assert row["status"] == "partial", row
    bulk = [
        each
        for each in shop.project.commands()
        if each["action"] == "bulk_retry"
        and set(each["payload"]["filter"]["task_ids"]) & {failed, gone}
    ]
    by_id = {each["payload"]["filter"]["task_ids"][0]: each for each in bulk}
    assert by_id[failed]["status"] == "completed"
    assert by_id[gone]["status"] == "failed"
    assert by_id[gone]["error"].startswith("not_found: ")
    shop.wait(by_id[failed]["result"]["new_task_ids"][failed], "failure")


def test_schedule_when_run_now_then_its_job_is_enqueued_and_runs(shop: EngineLab) -> None:
    base = f"/projects/{shop.project.slug}/schedules"
    schedule = shop.project.rest.post(
        base,
        {
            "name": "nightly",
            "engine": "arq",
            "scheduler": "z4j-scheduler",
            "task_name": "charge",
            "kind": "cron",
            "expression": "0 3 * * *",
            "args": [99],
            "kwargs": {},
            "queue": shop.queue,
        },
    )
    before = {row["id"] for row in shop.project.commands()}
    shop.project.rest.post(f"{base}/{schedule['id']}/trigger", {})
    (command,) = (row for row in shop.project.commands() if row["id"] not in before)
    row = shop.project.wait_command(command["id"])

    assert (row["action"], row["status"]) == ("submit_task", "completed"), row
    assert row["result"]["queue"] == shop.queue
    done = shop.wait(row["result"]["task_id"], "success")
    assert (done["name"], done["args"]) == ("charge", [99])


# --- processes


@pytest.mark.parametrize("kind", ["task", "thread"])
def test_worker_inside_the_web_process_when_it_runs_then_it_shares_the_agent(
    make_lab: Callable[..., EngineLab], kind: str
) -> None:
    lab = make_lab(f"inner-{kind}")
    web = lab.start_web(ARQ_WEB_INNER_WORKER=kind)
    task_id = lab.enqueue("charge", 1)
    row = lab.wait(task_id, "success")

    assert row["worker_name"] == worker_name(web.process)
    lab.wait_kinds(task_id, *RAN, "task.succeeded")
    (session,) = lab.sessions()
    assert session["role"] == "web"
    assert web.get("/status")["recorded"] == 6  # worker.online, two at enqueue, three of the run
    begun = time.monotonic()
    assert web.terminate() in ENDED
    assert time.monotonic() - begun < 10
    lab.project.wait_for(
        lambda _: not lab.sessions(),
        what="nobody online",
    )


def test_worker_when_killed_in_a_burst_then_every_recorded_event_arrives_once(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("burst")
    lab.start_web()
    ids = lab.post("/burst?function=count&number=80")
    worker = lab.start_worker(online=None)
    lab.wait_diary(
        lambda lines: sum(line["what"] == "ended" for line in lines) >= 15, what="15 ended jobs"
    )
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(timeout_seconds=10)
    before = lab.diary()
    started = {line["id"] for line in before if line["what"] == "count"}
    ended = {line["id"] for line in before if line["what"] == "ended"}
    assert 15 <= len(ended) < 80, "the worker was not killed in mid-burst"
    # arq gives those that it had taken another attempt only after minutes.
    held = redis(lab, "KEYS", "arq:in-progress:*")
    taken = started | {key.decode().rpartition(":")[2] for key in held}

    lab.start_worker()
    rest = set(ids) - taken
    lab.wait_diary(
        lambda lines: rest <= {line["id"] for line in lines if line["what"] == "ended"},
        what="the rest of the burst",
    )

    def shown(project: BrainProject) -> Any:
        rows = {row["task_id"] for row in project.tasks(name="count", state="success")}
        return rows if ended | rest <= rows else None

    lab.project.wait_for(shown, what="a row of every job that ended")
    for task_id in ids:
        kinds = lab.kinds(task_id)
        assert kinds.count("task.sent") == 1
        if task_id in started | rest:
            assert kinds.count("task.started") == 1, (task_id, kinds)
        if task_id in ended | rest:
            assert kinds.count("task.succeeded") == 1, (task_id, kinds)


def test_worker_when_told_to_stop_then_the_interrupted_job_is_shown_as_retried(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("stopping")
    worker = lab.start_worker()
    task_id = enqueue(lab, "slow", 60.0)
    lab.wait(task_id, "started")
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout_seconds=15) == 0
    assert time.monotonic() - begun < 10
    row = lab.wait(task_id, "retry")
    assert row["retry_count"] == 1
    lab.project.wait_for(
        lambda _: not lab.sessions(),
        what="nobody online",
    )


def test_worker_when_its_token_is_wrong_then_it_works_on_and_says_so_once(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("wrong-token")
    worker = lab.start_worker(online=None, ARQ_JOBS_LOG="1", Z4J_TOKEN="not-the-token-of-anybody")
    task_id = enqueue(lab, "charge", 1)
    lab.wait_diary(
        lambda lines: any(line["what"] == "ended" and line["id"] == task_id for line in lines),
        what="the job's end",
    )
    worker.wait_for_output("check token")
    lines = [line for line in worker.output().splitlines() if "brain_unreachable" in line]
    assert len(lines) == 1
    assert "not-the-token-of-anybody" not in worker.output()
    assert worker.running


def test_worker_when_the_configuration_is_missing_then_it_ends_and_names_every_variable(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("unconfigured")
    nothing = dict.fromkeys(("Z4J_BRAIN_URL", "Z4J_TOKEN", "Z4J_HMAC_SECRET", "Z4J_PROJECT_ID"), "")
    worker = lab.start_worker(online=None, **nothing)

    assert worker.wait(timeout_seconds=20) != 0
    assert "ConfigError" in worker.output()
    for name in nothing:
        assert f"({name}): is missing" in worker.output()


def test_agent_when_disabled_then_web_and_worker_run_without_it(
    make_lab: Callable[..., EngineLab],
) -> None:
    lab = make_lab("disabled")
    lab.start_web(online=False, Z4J_DISABLED="1")
    lab.start_worker(online=None, Z4J_DISABLED="1")
    task_id = lab.enqueue("charge", 1)
    lab.wait_diary(
        lambda lines: any(line["what"] == "ended" and line["id"] == task_id for line in lines),
        what="the job's end",
    )
    assert lab.project.task("arq", task_id) is None
    assert lab.project.agent(lab.agent.agent_id)["state"] == "unknown"


@pytest.mark.parametrize("apart", ["queues", "databases"])
def test_two_applications_in_one_process_when_both_work_then_no_event_crosses_over(
    brain: RealBrain,
    valkey_server: ValkeyServer,
    family: ProcessFamily,
    tmp_path: Path,
    apart: str,
) -> None:
    projects = [brain.provision_project("two"), brain.provision_project("two")]
    database = valkey_server.fresh_database()
    apps = []
    for number, project in enumerate(projects):
        agent = project.mint_agent("web")
        own = database if apart == "queues" else valkey_server.fresh_database()
        apps.append(
            {
                "options": {
                    "brain_url": agent.brain_url,
                    "token": agent.token,
                    "hmac_secret": agent.hmac_secret,
                    "project_id": agent.project_slug,
                    "buffer_path": str(tmp_path / "outbox"),
                },
                "url": own.url,
                "queue": f"two-{number}" if apart == "queues" else "two",
            }
        )
    web = WebApp(
        family,
        {"TWO_APPS": json.dumps(apps)},
        name=f"two-{apart}",
        app="support.apps.arq_two_apps:app",
    ).wait_started()
    posted = [
        [web.post(f"/{number}/work", owner=f"app-{number}") for _ in range(5)]
        for number in range(2)
    ]

    for number, project in enumerate(projects):
        for task_id in posted[number]:
            row = project.wait_task("arq", task_id, state="success")
            child = project.wait_task("arq", row["result"], state="success")
            assert (row["args"], child["args"]) == ([f"app-{number}"], [f"app-{number}"])
            assert child["parent_task_id"] == task_id
        assert project.count_tasks() == 10
        assert len(project.agent_workers(state="online")) == 1
    assert web.terminate() in ENDED


# --- what only a brain of our own can show: the order of the wire, and rare commands


@pytest.fixture
def socket_brain() -> Iterator[SocketBrain]:
    brain = SocketBrain()
    brain.start()
    yield brain
    brain.close()
    assert brain.violations == []


def on_the_wire(brain: SocketBrain, task_id: str) -> list[str]:
    """Kinds in the order in which they arrived, each event once."""
    return [event["kind"] for event in brain.events.values() if event["task_id"] == task_id]


def test_events_when_jobs_end_in_every_way_then_each_kind_comes_once_and_in_order(
    make_lab: Callable[..., EngineLab], socket_brain: SocketBrain, tmp_path: Path
) -> None:
    lab = make_lab("wire")
    worker = lab.start_worker(
        online=None, ARQ_JOBS_ABORT="1", **socket_brain.environ(tmp_path / "state")
    )
    received, started = "task.received", "task.started"
    expected = {
        enqueue(lab, "charge", 1): [received, started, "task.succeeded"],
        enqueue(lab, "refuse", 2): [received, started, "task.failed"],
        enqueue(lab, "flaky"): [
            *(received, started, "task.retried"),
            *(received, started, "task.succeeded"),
        ],
        enqueue(lab, "hopeless"): [
            *(received, started, "task.retried") * 2,
            *(received, "task.failed"),
        ],
        enqueue(lab, "stuck"): [received, started, "task.failed"],
        enqueue(lab, "nowhere"): [received, "task.failed"],
        enqueue(lab, "charge", 3, _expires=0.001): ["task.failed"],
    }
    running = enqueue(lab, "slow", 60.0)
    parent = enqueue(lab, "parent")
    expected[parent] = [received, started, "task.succeeded"]
    socket_brain.wait_for(
        lambda: (
            on_the_wire(socket_brain, running) == [received, started]
            and all(on_the_wire(socket_brain, one) == kinds for one, kinds in expected.items())
        ),
        "the end of all jobs",
    )
    (child,) = {
        event["task_id"]
        for event in socket_brain.events.values()
        if event["data"].get("parent_task_id") == parent
    }
    socket_brain.wait_for(
        lambda: on_the_wire(socket_brain, child)[-1] == "task.succeeded", "the child's end"
    )
    assert sorted(on_the_wire(socket_brain, child)) == sorted([*RAN, received, "task.succeeded"])

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout_seconds=15) == 0
    kinds = [event["kind"] for event in socket_brain.events.values()]
    assert kinds[0] == "worker.online"
    assert kinds[-2:] == ["task.retried", "worker.offline"]
    assert on_the_wire(socket_brain, running) == [received, started, "task.retried"]
    assert {kinds.count("worker.online"), kinds.count("worker.offline")} == {1}


def test_reconcile_when_the_brain_probes_then_the_worker_answers_from_redis(
    make_lab: Callable[..., EngineLab], socket_brain: SocketBrain, tmp_path: Path
) -> None:
    # The real brain probes only tasks that are older than 900 s.
    lab = make_lab("probed")
    lab.start_worker(online=None, **socket_brain.environ(tmp_path / "state"))
    ids = {
        "success": enqueue(lab, "charge", 1),
        "failure": enqueue(lab, "refuse", 2),
        "started": enqueue(lab, "slow", 60.0),
        "pending": enqueue(lab, "charge", 3, _defer_by=3600),
        "unknown": "nobody-knows-it",
    }
    socket_brain.wait_for(
        lambda: (
            on_the_wire(socket_brain, ids["success"])[-1:] == ["task.succeeded"]
            and on_the_wire(socket_brain, ids["failure"])[-1:] == ["task.failed"]
            and on_the_wire(socket_brain, ids["started"])[-1:] == ["task.started"]
        ),
        "the jobs",
    )
    for state, task_id in ids.items():
        command_id = str(uuid.uuid4())
        socket_brain.command(
            command_id,
            "reconcile_task",
            {"task_id": task_id, "engine": "arq"},
            target={"type": "task", "id": task_id, "engine": "arq"},
        )
        socket_brain.wait_for(lambda one=command_id: socket_brain.results(one), state)
        (answer,) = socket_brain.results(command_id)
        assert (answer["status"], answer["result"]["engine_state"]) == ("success", state)
        if state == "failure":
            assert answer["result"]["exception"] == "ValueError: order 2 was refused"
        assert (answer["result"]["finished_at"] is not None) == (state in ("success", "failure"))


def test_fire_when_it_is_delivered_twice_then_one_job_runs_and_both_answers_are_equal(
    make_lab: Callable[..., EngineLab], socket_brain: SocketBrain, tmp_path: Path
) -> None:
    # The brain's scheduler is a package of its own, which the test environment has not.
    lab = make_lab("fired")
    lab.start_worker(online=None, **socket_brain.environ(tmp_path / "state"))
    socket_brain.wait_for(socket_brain.open_sessions, "the worker")
    command_id, fire_id, schedule_id = (str(uuid.uuid4()) for _ in range(3))
    parameters = {
        "schedule_id": schedule_id,
        "schedule_name": "tick",
        "task_name": "charge",
        "engine": "arq",
        "queue": lab.queue,
        "args": [5],
        "kwargs": {"password": "hunter2"},
        "fire_id": fire_id,
        "schedule_fire_id": str(uuid.uuid4()),
        "scheduled_for": "2026-11-24T13:56:30+00:00",
        "fired_at": "2026-11-24T13:56:31.924996+00:00",
    }
    for number in (1, 2):
        socket_brain.command(
            command_id,
            "schedule.fire",
            parameters,
            target={"type": "schedule", "id": schedule_id, "engine": "arq"},
            delivery_claim_token="the-token-of-this-fire",
        )
        socket_brain.wait_for(
            lambda wanted=number: len(socket_brain.results(command_id)) == wanted, "an answer"
        )
    first, second = socket_brain.results(command_id)
    assert (first["status"], first["delivery_claim_token"]) == (
        "success",
        "the-token-of-this-fire",
    )
    assert second == first
    job_id = first["result"]["task_id"]
    expected = ["task.received", "task.started", "task.succeeded"]
    socket_brain.wait_for(
        lambda: on_the_wire(socket_brain, job_id)[-1:] == ["task.succeeded"], "the job's end"
    )
    ran = [kind for kind in on_the_wire(socket_brain, job_id) if kind != "task.sent"]
    assert sorted(ran) == sorted([*expected, "task.received"])
    sent = [one for one in socket_brain.events.values() if one["kind"] == "task.sent"]
    assert [(one["task_id"], one["data"]["fire_id"]) for one in sent] == [(job_id, fire_id)]
    (call,) = lab.diary("charge")
    assert (call["args"], call["kwargs"]) == ([5], {"password": "hunter2"})
