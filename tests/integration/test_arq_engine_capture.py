"""What a real arq worker on a real Valkey makes of jobs, as events (engines.md 4.2 and 4.3)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from arq import Retry, create_pool, cron
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, job_key_prefix, retry_key_prefix
from arq.worker import Worker, func
from support.arq_engine import RecordingSink, attachment, bench, redis_settings

from z4j_fastapi import correlation
from z4j_fastapi.engines.arq.adapter import ArqEngineAdapter
from z4j_fastapi.engines.arq.capture import hooks
from z4j_fastapi.events import EventKind
from z4j_fastapi.task_meta import meta_of, z4j_meta

if TYPE_CHECKING:
    from support.valkey import ValkeyDatabase

pytestmark = [
    pytest.mark.valkey,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),
]

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NAME = f"{socket.gethostname()}:{os.getpid()}"


async def ok(ctx: dict[str, Any], number: int, *, word: str = "") -> dict[str, Any]:
    return {"number": number, "word": word}


async def boom(ctx: dict[str, Any]) -> None:
    raise ValueError("no good")


async def twice(ctx: dict[str, Any]) -> int:
    if ctx["job_try"] == 1:
        raise Retry(defer=0.01)
    return ctx["job_try"]


async def always(ctx: dict[str, Any]) -> None:
    raise Retry(defer=0)


async def slow(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(60)


async def parent(ctx: dict[str, Any]) -> str:
    job = await ctx["redis"].enqueue_job("child")
    return job.job_id


async def child(ctx: dict[str, Any]) -> Any:
    here = correlation.current()
    return [here.task_id, here.root_task_id, here.traceparent, here.request_id] if here else None


def test_success_when_a_job_returns_then_every_key_of_every_event_is_told(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            with correlation.use(
                correlation.Correlation(traceparent=TRACEPARENT, request_id="req-1")
            ):
                job = await it.pool.enqueue_job("ok", 7, word="x")
            await it.burst([ok])
            made = it.sink.of(job.job_id)
            assert [event.kind.value for event in made] == [
                "task.sent",
                "task.received",
                "task.received",
                "task.started",
                "task.succeeded",
            ]
            sent, enqueued, received, started, succeeded = made
            lineage = {"traceparent": TRACEPARENT, "request_id": "req-1"}
            common = {"task_name": "ok", "queue": "arq:queue", **lineage}
            call = {"args": [7], "kwargs": {"word": "x"}}
            run = {"worker": NAME, "attempt": 1, "max_attempts": 5}
            assert sent.data == enqueued.data == {**common, **call, "stage": "enqueued"}
            assert sent.occurred_at == enqueued.occurred_at
            assert received.data == {**common, **call, **run, "stage": "worker"}
            assert started.data == {**common, **run}
            runtime = succeeded.data["runtime_ms"]
            assert isinstance(runtime, int)
            assert runtime < 5_000
            assert succeeded.data == {
                **common,
                **run,
                "result": {"number": 7, "word": "x"},
                "runtime_ms": runtime,
            }
            times = [event.occurred_at for event in made]
            assert times == sorted(times)
            assert received.occurred_at == started.occurred_at
            assert await job.result(timeout=5) == {"number": 7, "word": "x"}

    asyncio.run(scenario())


def test_failure_when_a_job_raises_then_exception_and_traceback_of_its_own_code_are_told(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("boom")
            await it.burst([boom])
            assert it.sink.worker_kinds(job.job_id) == [
                "task.received",
                "task.started",
                "task.failed",
            ]
            data = it.sink.last(job.job_id).data
            assert data["exception"] == "ValueError: no good"
            assert data["exception_type"] == "ValueError"
            assert "in boom" in str(data["traceback"])
            assert "observer.py" not in str(data["traceback"])

    asyncio.run(scenario())


def test_wrong_arguments_when_a_job_starts_then_it_fails_with_the_type_error(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok", 1, 2, 3)
            await it.burst([ok])
            assert it.sink.terminals(job.job_id) == ["task.failed"]
            assert str(it.sink.last(job.job_id).data["exception"]).startswith("TypeError: ")

    asyncio.run(scenario())


def test_retry_when_a_job_asks_for_it_then_retried_and_two_attempts_are_told(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("twice")
            await it.burst([twice])
            assert it.sink.worker_kinds(job.job_id) == [
                "task.received",
                "task.started",
                "task.retried",
                "task.received",
                "task.started",
                "task.succeeded",
            ]
            made = it.sink.from_worker(job.job_id)
            first, second = made[:3], made[3:]
            retried = first[-1]
            assert retried.data["retry_count"] == 1
            assert retried.data["attempt"] == 1
            assert str(retried.data["exception"]).startswith("Retry: ")
            assert "traceback" not in retried.data
            assert [event.data["attempt"] for event in second] == [2, 2, 2]

    asyncio.run(scenario())


def test_tries_exceeded_when_a_job_always_retries_then_it_fails_without_a_third_body(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("always")
            await it.burst([always], max_tries=2)
            assert it.sink.terminals(job.job_id) == ["task.retried", "task.retried", "task.failed"]
            data = it.sink.last(job.job_id).data
            assert data["exception"] == "JobExecutionFailed: max 2 retries exceeded"
            assert data["task_name"] == "always"
            assert it.sink.kinds(job.job_id)[-2:] == ["task.received", "task.failed"]

    asyncio.run(scenario())


@pytest.mark.parametrize("keep_result", [0, 60])
def test_timeout_when_a_job_runs_too_long_then_it_failed_and_was_not_revoked(
    valkey: ValkeyDatabase, keep_result: int
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            await it.burst([func(slow, timeout=0.1, keep_result=keep_result)])
            assert it.sink.terminals(job.job_id) == ["task.failed"]
            data = it.sink.last(job.job_id).data
            assert data["exception"] == "TimeoutError: the job ran longer than 0.1 s"
            assert data["exception_type"] == "TimeoutError"
            assert "in slow" in str(data["traceback"])

    asyncio.run(scenario())


@pytest.mark.parametrize("keep_result", [0, 60])
def test_timeout_when_the_worker_never_retries_then_it_failed_with_the_timeout(
    valkey: ValkeyDatabase, keep_result: int
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            await it.burst([func(slow, timeout=0.1, keep_result=keep_result)], retry_jobs=False)
            assert it.sink.terminals(job.job_id) == ["task.failed"]
            assert it.sink.last(job.job_id).data["exception_type"] == "TimeoutError"

    asyncio.run(scenario())


def test_abort_when_a_job_runs_then_it_is_revoked_and_terminated(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            it.start([slow], allow_abort_jobs=True)
            await it.ended(job.job_id, "task.started")
            assert await job.abort(timeout=10, poll_delay=0.05)
            await it.ended(job.job_id, "task.revoked")
            assert it.sink.terminals(job.job_id) == ["task.revoked"]
            assert it.sink.last(job.job_id).data["terminated"] is True

    asyncio.run(scenario())


def test_abort_when_a_job_has_not_started_then_it_is_revoked_after_received(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok", 1)
            await it.pool.zadd(abort_jobs_ss, {job.job_id: 1})
            await it.burst([ok], allow_abort_jobs=True)
            assert it.sink.worker_kinds(job.job_id) == ["task.received", "task.revoked"]
            received, revoked = it.sink.from_worker(job.job_id)
            assert received.data["args"] == [1]
            assert revoked.data["terminated"] is False

    asyncio.run(scenario())


def test_expired_when_a_job_is_gone_at_its_turn_then_it_failed_and_no_argument_is_overwritten(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok", 1)
            await it.pool.delete(job_key_prefix + job.job_id)
            await it.burst([ok])
            assert it.sink.worker_kinds(job.job_id) == ["task.failed"]
            data = it.sink.last(job.job_id).data
            assert data["expired"] is True
            assert data["exception"] == "JobExecutionFailed: job expired"

    asyncio.run(scenario())


def test_undecodable_when_a_job_is_garbage_then_it_failed(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok", 1)
            await it.pool.set(job_key_prefix + job.job_id, b"garbage", ex=60)
            await it.burst([ok])
            assert it.sink.worker_kinds(job.job_id) == ["task.failed"]
            data = it.sink.last(job.job_id).data
            assert "expired" not in data
            assert data["exception_type"] == "DeserializationError"

    asyncio.run(scenario())


def test_unknown_function_when_no_worker_has_it_then_received_and_failed(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("nowhere", 1, key=2)
            await it.burst([ok])
            assert it.sink.worker_kinds(job.job_id) == ["task.received", "task.failed"]
            received, failed = it.sink.from_worker(job.job_id)
            assert (received.data["args"], received.data["kwargs"]) == ([1], {"key": 2})
            assert failed.data["exception"] == "JobExecutionFailed: function 'nowhere' not found"

    asyncio.run(scenario())


def test_shutdown_when_a_job_runs_then_retried_comes_before_worker_offline(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            worker = it.start([slow])
            await it.ended(job.job_id, "task.started")
            await it.stop(worker)
            kinds = [event.kind.value for event in it.sink.events]
            assert kinds[-2:] == ["task.retried", "worker.offline"]
            data = it.sink.last(job.job_id).data
            assert data["exception"] == "CancelledError"
            assert data["reason"] == "worker stopped"
            assert await it.pool.zscore("arq:queue", job.job_id) is not None

    asyncio.run(scenario())


def test_result_whose_repr_raises_when_arq_counts_it_failed_then_so_do_we(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("awkward")
            worker = await it.burst([awkward])
            assert worker.jobs_failed == 1
            assert it.sink.terminals(job.job_id) == ["task.failed"]
            assert it.sink.last(job.job_id).data["exception"] == "RuntimeError: no repr"

    asyncio.run(scenario())


class Awkward:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


async def awkward(ctx: dict[str, Any]) -> Awkward:
    return Awkward()


def test_lineage_when_a_job_enqueues_another_then_parent_root_and_request_flow_down(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            with correlation.use(
                correlation.Correlation(traceparent=TRACEPARENT, request_id="req-2")
            ):
                job = await it.pool.enqueue_job("parent")
            await it.burst([parent, child])
            child_id = str(it.sink.last(job.job_id).data["result"])
            for event in it.sink.of(child_id):
                assert event.data["parent_task_id"] == job.job_id
                assert event.data["root_task_id"] == job.job_id
                assert event.data["traceparent"] == TRACEPARENT
                assert event.data["request_id"] == "req-2"
            assert it.sink.last(child_id).data["result"] == [
                child_id,
                job.job_id,
                TRACEPARENT,
                "req-2",
            ]
            assert all("parent_task_id" not in event.data for event in it.sink.of(job.job_id))

    asyncio.run(scenario())


def test_carrier_when_a_job_is_tried_again_then_it_is_still_there(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            with correlation.use(correlation.Correlation(request_id="req-3")):
                job = await it.pool.enqueue_job("twice")
            await it.burst([twice])
            assert {event.data["request_id"] for event in it.sink.of(job.job_id)} == {"req-3"}

    asyncio.run(scenario())


def test_carrier_when_the_worker_has_no_adapter_then_the_job_runs_all_the_same(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            with correlation.use(correlation.Correlation(request_id="req-4")):
                job = await it.pool.enqueue_job("ok", 1)
            it.adapter.detach()
            worker = await it.burst([ok])
            assert worker.jobs_complete == 1
            assert it.sink.kinds(job.job_id) == ["task.sent", "task.received"]

    asyncio.run(scenario())


def test_carrier_when_the_serializer_is_the_users_own_then_it_travels_too(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            pool = await create_pool(
                it.settings, job_serializer=to_json, job_deserializer=json.loads
            )
            with correlation.use(correlation.Correlation(request_id="req-5")):
                job = await pool.enqueue_job("ok", 1)
            await it.burst([ok], job_serializer=to_json, job_deserializer=json.loads)
            assert it.sink.terminals(job.job_id) == ["task.succeeded"]
            assert it.sink.last(job.job_id).data["request_id"] == "req-5"
            await pool.aclose()

    asyncio.run(scenario())


def to_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, default=str).encode()


def test_cron_when_it_is_due_then_it_is_told_like_any_job(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            it.start(cron_jobs=[cron(tick, run_at_startup=True, name="cron:tick")])
            await it.until(lambda: bool(it.sink.named("task.succeeded")), "a cron job")
            done = it.sink.named("task.succeeded")[0]
            assert done.data["task_name"] == "cron:tick"
            assert done.data["result"] == "tock"
            assert it.sink.kinds(done.task_id) == [
                "task.sent",
                "task.received",
                "task.received",
                "task.started",
                "task.succeeded",
            ]

    asyncio.run(scenario())


async def tick(ctx: dict[str, Any]) -> str:
    return "tock"


def test_enqueue_when_the_id_exists_already_then_nothing_is_told(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            assert await it.pool.enqueue_job("ok", 1, _job_id="same") is not None
            assert await it.pool.enqueue_job("ok", 2, _job_id="same") is None
            assert it.sink.kinds("same") == ["task.sent", "task.received"]

    asyncio.run(scenario())


def test_enqueue_when_deferred_then_the_eta_is_told_and_options_are_not_arguments(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            await it.pool.enqueue_job("ok", 1, word="x", _job_id="later", _defer_by=60)
            event = it.sink.last("later")
            assert event.data["kwargs"] == {"word": "x"}
            assert event.data["eta"] == event.occurred_at + timedelta(seconds=60)

    asyncio.run(scenario())


def test_queues_when_a_worker_reads_another_one_then_its_events_name_it(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, queue_name=("one", "two")) as it:
            first = await it.pool.enqueue_job("ok", 1, _queue_name="one")
            second = await it.pool.enqueue_job("ok", 2, _queue_name="two")
            await it.burst([ok], queue_name="one")
            await it.burst([ok], queue_name="two")
            for job, queue in ((first, "one"), (second, "two")):
                assert {event.data["queue"] for event in it.sink.of(job.job_id)} == {queue}
                assert it.sink.terminals(job.job_id) == ["task.succeeded"]

    asyncio.run(scenario())


def test_worker_when_it_starts_and_closes_then_online_and_offline_are_told_once(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            worker = await it.burst([ok], max_jobs=3)
            await worker.close()
            online, offline = it.sink.events
            assert online.kind is EventKind.WORKER_ONLINE
            assert online.data == {
                "worker": NAME,
                "queues": ["arq:queue"],
                "concurrency": 3,
                "pid": os.getpid(),
            }
            assert offline.kind is EventKind.WORKER_OFFLINE
            assert offline.data == {"worker": NAME, "pid": os.getpid()}

    asyncio.run(scenario())


def test_attach_when_the_worker_runs_already_then_the_next_job_is_told(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            it.adapter.detach()
            worker = it.start([ok])
            first = await it.pool.enqueue_job("ok", 1)
            await it.until(lambda: worker.jobs_complete == 1, "the first job")
            it.adapter.attach(attachment(it.sink))
            second = await it.pool.enqueue_job("ok", 2)
            await it.ended(second.job_id, "task.succeeded")
            assert it.sink.of(first.job_id) == []
            assert len(it.sink.named("worker.online")) == 1

    asyncio.run(scenario())


def test_detach_when_it_is_the_last_adapter_then_everything_is_as_it_was(
    valkey: ValkeyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(hooks, "listener", None)
        names = ("enqueue_job", "run_job", "finish_job", "finish_failed_job")
        owners = (ArqRedis, Worker, Worker, Worker)
        async with bench(valkey) as it:
            it.adapter.detach()
            before = [vars(owner)[name] for owner, name in zip(owners, names, strict=True)]
            it.adapter.attach(attachment(it.sink))
            worker = it.worker([ok], burst=True, job_serializer=None)
            functions = dict(worker.functions)
            await it.pool.enqueue_job("ok", 1)
            await worker.main()
            assert worker.functions != functions
            it.adapter.detach()
            after = [vars(owner)[name] for owner, name in zip(owners, names, strict=True)]
            assert after == before
            assert worker.functions == functions
            assert worker.functions["ok"] is functions["ok"]
            assert worker.job_deserializer is None
            assert it.pool.job_serializer is None
            # Its agent is gone while it may run on: that is told.
            assert it.sink.events[-1].kind is EventKind.WORKER_OFFLINE

    asyncio.run(scenario())


def test_routes_when_two_adapters_have_their_own_databases_then_each_hears_its_own(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        other_settings = redis_settings(valkey)
        other_settings.database = (valkey.index + 1) % 16
        other_sink = RecordingSink()
        other = ArqEngineAdapter(redis_settings=other_settings)
        other_pool = await create_pool(other_settings)
        async with bench(valkey) as it:
            other.attach(attachment(other_sink))
            mine = await it.pool.enqueue_job("ok", 1)
            theirs = await other_pool.enqueue_job("ok", 2)
            await it.burst([ok])
            await it.burst([ok], redis_settings=other_settings)
            assert it.sink.terminals(mine.job_id) == ["task.succeeded"]
            assert it.sink.of(theirs.job_id) == []
            assert other_sink.terminals(theirs.job_id) == ["task.succeeded"]
            assert other_sink.of(mine.job_id) == []
            assert len(other_sink.named("worker.online")) == 1
            other.detach()
            await other_pool.aclose()

    asyncio.run(scenario())


def test_routes_when_two_adapters_share_a_sink_then_no_event_comes_twice(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            second = ArqEngineAdapter(redis_settings=it.settings)
            second.attach(attachment(it.sink))
            job = await it.pool.enqueue_job("ok", 1)
            await it.burst([ok])
            ids = [event.id for event in it.sink.events]
            assert len(ids) == len(set(ids))
            assert len(it.sink.of(job.job_id)) == 5
            second.detach()

    asyncio.run(scenario())


def test_round_trips_when_jobs_run_then_the_adapter_adds_none(valkey: ValkeyDatabase) -> None:
    # What polling and connecting take differs from run to run.
    ignored = {"zrangebyscore", "zcard", "watch", "unwatch", "exists", "zscore", "multi", "exec"}
    ignored |= {"info", "client|setinfo", "select", "hello", "ping", "dbsize", "config|resetstat"}

    async def commands(*, attached: bool) -> dict[str, int]:
        async with bench(valkey) as it:
            if not attached:
                it.adapter.detach()
            await it.pool.config_resetstat()
            for number in range(20):
                await it.pool.enqueue_job("ok", number)
            worker = it.worker([ok], burst=True, max_jobs=20)
            await worker.main()
            stats = await it.pool.info("commandstats")
            names = {name.removeprefix("cmdstat_"): value for name, value in stats.items()}
            return {name: value["calls"] for name, value in names.items() if name not in ignored}

    with_adapter = asyncio.run(commands(attached=True))
    assert with_adapter == asyncio.run(commands(attached=False))
    assert with_adapter["get"] == 20


def test_retry_key_when_a_job_is_tried_then_attempts_follow_arqs_own_count(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok", 1)
            await it.pool.set(retry_key_prefix + job.job_id, 2)
            await it.burst([ok])
            assert it.sink.last(job.job_id).data["attempt"] == 3

    asyncio.run(scenario())


@z4j_meta(redact_kwargs=("ssn",), tags=("t",))
async def careful(ctx: dict[str, Any], *, ssn: str) -> None: ...


async def careful_parent(ctx: dict[str, Any]) -> str:
    job = await ctx["redis"].enqueue_job("careful", ssn="x")
    return job.job_id


def test_meta_when_a_function_has_hints_then_every_event_that_can_know_carries_them(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            first = await it.pool.enqueue_job("careful", ssn="x")  # a name, as a web process has it
            parent_job = await it.pool.enqueue_job("careful_parent")
            await it.burst([careful, careful_parent])
            child_id = str(it.sink.last(parent_job.job_id).data["result"])
            hints = meta_of(careful, skip_parameters=1)
            assert hints is not None
            assert [event.meta for event in it.sink.of(first.job_id)] == [None, None, *[hints] * 3]
            assert [event.meta for event in it.sink.of(child_id)] == [hints] * 5
            assert all(event.meta is None for event in it.sink.of(parent_job.job_id))

    asyncio.run(scenario())


def test_meta_when_the_web_process_names_the_function_itself_then_its_enqueue_has_the_hints(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, function_names=(careful, "ok")) as it:
            job = await it.pool.enqueue_job("careful", ssn="x")
            assert [event.meta for event in it.sink.of(job.job_id)] == [
                meta_of(careful, skip_parameters=1)
            ] * 2
            assert it.adapter.known_functions() == {"careful", "ok"}

    asyncio.run(scenario())


def test_worker_when_two_run_in_one_process_then_the_name_stays_online_until_both_closed(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, queue_name=("one", "two")) as it:
            first = it.start([ok], queue_name="one", max_jobs=3)
            await it.until(lambda: len(it.sink.events) == 1, "the first worker")
            second = it.start([ok], queue_name="two", max_jobs=4)
            await it.until(lambda: len(it.sink.events) == 2, "the second worker")
            assert it.sink.events[-1].data["queues"] == ["one", "two"]
            assert it.sink.events[-1].data["concurrency"] == 7
            await it.stop(first)
            assert it.sink.named("worker.offline") == []
            await it.stop(second)
            assert len(it.sink.named("worker.offline")) == 1

    asyncio.run(scenario())
