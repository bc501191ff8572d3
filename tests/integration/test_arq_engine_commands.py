"""Commands carried out on a real Valkey with real arq workers (engines.md 4.4, commands.md 4 to 8)."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from arq import create_pool
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
)
from arq.jobs import Job, JobStatus
from arq.worker import func
from support.arq_engine import FakeContext, attachment, bench

from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.commands import (
    BulkRetry,
    CancelTask,
    FireSchedule,
    ListDeadLetters,
    PurgeQueue,
    ReconcileTask,
    RequeueDeadLetter,
    RetryTask,
    SubmitTask,
)

if TYPE_CHECKING:
    from support.valkey import ValkeyDatabase

    from z4j_fastapi.engines.base import CommandOutcome

pytestmark = [
    pytest.mark.valkey,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),
]

RAN: list[tuple[str, Any]] = []


async def ok(ctx: dict[str, Any], *args: Any, **kwargs: Any) -> str:
    RAN.append((ctx["job_id"], (args, kwargs)))
    return "done"


async def boom(ctx: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    RAN.append((ctx["job_id"], (args, kwargs)))
    raise ValueError("no good")


async def slow(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(60)


def cancel(task_id: str) -> CancelTask:
    return CancelTask(id="c", action="cancel_task", engine="arq", task_id=task_id)


def bulk(*task_ids: str, command_id: str = "c") -> BulkRetry:
    return BulkRetry(id=command_id, action="bulk_retry", engine="arq", task_ids=task_ids)


def retry(task_id: str, **more: Any) -> RetryTask:
    return RetryTask(id="c", action="retry_task", engine="arq", task_id=task_id, **more)


def reconcile(task_id: str) -> ReconcileTask:
    return ReconcileTask(id="c", action="reconcile_task", engine="arq", task_id=task_id)


def dead_letters(**more: Any) -> ListDeadLetters:
    return ListDeadLetters(id="c", action="dlq.list", engine="arq", **more)


def purge(queue: str, **more: Any) -> PurgeQueue:
    return PurgeQueue(id="c", action="purge_queue", queue=queue, **more)


def fire(**more: Any) -> FireSchedule:
    more.setdefault("task_name", "ok")
    return FireSchedule(id="c", action="schedule.fire", engine="arq", **more)


def test_cancel_when_the_job_waits_then_it_is_gone_revoked_and_waiters_are_told(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok", 1, _defer_by=60)
            outcome = await it.adapter.cancel_task(cancel(job.job_id), FakeContext())
            assert outcome.result == {
                "task_id": job.job_id,
                "removed": True,
                "queue": "arq:queue",
            }
            assert it.sink.terminals(job.job_id) == ["task.revoked"]
            revoked = it.sink.last(job.job_id).data
            assert revoked["task_name"] == "ok"
            assert revoked["queue"] == "arq:queue"
            assert "worker" not in revoked
            with pytest.raises(asyncio.CancelledError):
                await job.result(timeout=5)
            assert (await job.result_info()).args == (1,)
            assert await it.pool.zcard("arq:queue") == 0
            assert await it.pool.zcard(abort_jobs_ss) == 0
            worker = await it.burst([ok])
            assert worker.jobs_complete == worker.jobs_failed == 0

    asyncio.run(scenario())


def test_cancel_when_a_worker_takes_jobs_meanwhile_then_each_either_runs_or_is_revoked(
    valkey: ValkeyDatabase,
) -> None:
    RAN.clear()
    count = 150

    async def scenario() -> None:
        async with bench(valkey) as it:
            jobs = [await it.pool.enqueue_job("ok", number) for number in range(count)]
            worker = it.start([ok], max_jobs=5, poll_delay=0.001)
            removed: set[str] = set()

            async def one(job_id: str) -> None:
                try:
                    outcome = await it.adapter.cancel_task(cancel(job_id), FakeContext(3.0))
                except CommandError as error:
                    assert error.reason in {"refused", "timeout"}  # noqa: PT017 - a worker had it
                else:
                    if outcome.result.get("removed"):
                        removed.add(job_id)

            for start in range(0, count, 15):
                await asyncio.gather(*(one(job.job_id) for job in reversed(jobs[start:][:15])))
            await it.until(
                lambda: len(removed) + worker.jobs_complete >= count, "every job's ending"
            )
            ran = {job_id for job_id, _ in RAN}
            assert not ran & removed
            assert ran | removed == {job.job_id for job in jobs}
            assert worker.jobs_failed == 0
            for job in jobs:
                expected = "task.revoked" if job.job_id in removed else "task.succeeded"
                await it.ended(job.job_id, expected)
                assert it.sink.terminals(job.job_id) == [expected]

    asyncio.run(scenario())


def test_cancel_when_the_job_runs_and_its_worker_may_abort_then_it_is_terminated(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            it.start([slow], allow_abort_jobs=True)
            await it.ended(job.job_id, "task.started")
            outcome = await it.adapter.cancel_task(cancel(job.job_id), FakeContext())
            assert outcome.result == {"task_id": job.job_id, "terminated": True}
            await it.ended(job.job_id, "task.revoked")
            assert it.sink.terminals(job.job_id) == ["task.revoked"]
            assert await it.pool.zcard(abort_jobs_ss) == 0

    asyncio.run(scenario())


def test_cancel_when_no_result_is_kept_then_it_says_that_it_only_asked(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            it.start([func(slow, keep_result=0)], allow_abort_jobs=True)
            await it.ended(job.job_id, "task.started")
            outcome = await it.adapter.cancel_task(cancel(job.job_id), FakeContext())
            assert outcome.result["requested"] is True
            await it.ended(job.job_id, "task.revoked")

    asyncio.run(scenario())


def test_cancel_when_the_worker_here_may_not_abort_then_it_is_refused_at_once(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            it.start([slow])
            await it.ended(job.job_id, "task.started")
            with pytest.raises(CommandError, match="allow_abort_jobs=True") as caught:
                await it.adapter.cancel_task(cancel(job.job_id), FakeContext())
            assert caught.value.reason == "refused"
            assert await it.pool.zcard(abort_jobs_ss) == 0

    asyncio.run(scenario())


def test_cancel_when_no_worker_confirms_then_it_is_a_timeout_of_unknown_outcome(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            await it.pool.set(in_progress_key_prefix + job.job_id, b"1", ex=60)  # elsewhere
            with pytest.raises(CommandError) as caught:
                await it.adapter.cancel_task(cancel(job.job_id), FakeContext(2.3))
            assert caught.value.reason == "timeout"
            assert caught.value.indeterminate

    asyncio.run(scenario())


def test_cancel_when_the_job_has_ended_or_never_was_then_noop_or_not_found(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok")
            await it.burst([ok])
            outcome = await it.adapter.cancel_task(cancel(job.job_id), FakeContext())
            assert outcome.result["noop"] is True
            assert it.sink.terminals(job.job_id) == ["task.succeeded"]
            with pytest.raises(CommandError) as caught:
                await it.adapter.cancel_task(cancel("nobody"), FakeContext())
            assert caught.value.reason == "not_found"

    asyncio.run(scenario())


def test_bulk_retry_when_results_are_kept_then_jobs_run_again_with_equal_arguments(
    valkey: ValkeyDatabase,
) -> None:
    RAN.clear()
    when = datetime(2024, 2, 29, tzinfo=timezone.utc)

    async def scenario() -> None:
        async with bench(valkey, queue_name=("arq:queue", "other")) as it:
            first = await it.pool.enqueue_job("boom", 1, {"a": (2, when)}, key={3})
            second = await it.pool.enqueue_job("boom", _queue_name="other")
            await it.burst([boom])
            await it.burst([boom], queue_name="other")
            outcome = await it.adapter.bulk_retry(
                bulk(first.job_id, second.job_id, "nobody"), FakeContext()
            )
            assert outcome.error is None
            result = outcome.result
            assert [result[key] for key in ("requested", "succeeded", "failed", "skipped")] == [
                3,
                2,
                1,
                0,
            ]
            new = result["new_task_ids"]
            assert isinstance(new, dict)
            failures = result["failures"]
            assert isinstance(failures, dict)
            assert failures["nobody"].startswith("not_found: ")
            await it.burst([ok, func(ok, name="boom")])
            assert await it.pool.zscore("other", new[second.job_id]) is not None
            ran = dict(RAN)
            assert ran[new[first.job_id]] == ran[first.job_id]
            assert ran[first.job_id] == ((1, {"a": (2, when)}), {"key": {3}})
            received = it.sink.of(new[first.job_id])[1].data
            assert received["parent_task_id"] == received["root_task_id"] == first.job_id
            assert it.sink.last(new[first.job_id]).data["parent_task_id"] == first.job_id

    asyncio.run(scenario())


def to_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, default=str).encode()


@pytest.mark.parametrize("source", ["pool", "learnt"])
def test_bulk_retry_when_the_serializer_is_the_users_own_then_arguments_are_equal_too(
    valkey: ValkeyDatabase, source: str
) -> None:
    RAN.clear()

    async def scenario() -> None:
        async with bench(valkey) as it:
            pool = await create_pool(
                it.settings, job_serializer=to_json, job_deserializer=json.loads
            )
            adapter = it.adapter
            if source == "pool":
                adapter.detach()
                adapter = type(adapter)(redis_settings=pool)
                adapter.attach(attachment(it.sink))
            job = await pool.enqueue_job("boom", [1, "é"], key={"a": None})
            options = {"job_serializer": to_json, "job_deserializer": json.loads}
            await it.burst([boom], **options)
            outcome = await adapter.bulk_retry(bulk(job.job_id), FakeContext())
            new_id = outcome.result["new_task_ids"][job.job_id]  # type: ignore[index]
            assert (await pool.get(job_key_prefix + new_id)).startswith(b"{")
            await it.burst([func(ok, name="boom")], **options)
            ran = dict(RAN)
            assert ran[new_id] == ran[job.job_id] == (([1, "é"],), {"key": {"a": None}})
            await adapter.aclose()
            adapter.detach()
            await pool.aclose()

    asyncio.run(scenario())


def test_bulk_retry_when_nothing_can_be_retried_then_it_failed_and_says_why(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            queued = await it.pool.enqueue_job("ok")
            unkept = await it.pool.enqueue_job("boom", _queue_name="other")
            await it.burst([func(boom, keep_result=0)], queue_name="other")
            expired = await it.pool.enqueue_job("ok", _queue_name="other")
            await it.pool.delete(job_key_prefix + expired.job_id)
            await it.burst([ok], queue_name="other")
            for job, reason in ((queued, "still queued"), (unkept, "keep"), (expired, "expired")):
                outcome = await it.adapter.bulk_retry(bulk(job.job_id), FakeContext())
                assert outcome.error is not None
                assert reason in outcome.error
                assert outcome.result["succeeded"] == 0
            assert await it.pool.zcard("arq:queue") == 1

    asyncio.run(scenario())


def test_bulk_retry_when_the_same_command_runs_twice_then_no_second_job_is_made(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("boom")
            await it.burst([boom])
            first = await it.adapter.bulk_retry(bulk(job.job_id), FakeContext())
            second = await it.adapter.bulk_retry(bulk(job.job_id), FakeContext())
            assert first.result["new_task_ids"] == second.result["new_task_ids"]
            assert await it.pool.zcard("arq:queue") == 1
            third = await it.adapter.bulk_retry(bulk(job.job_id, command_id="d"), FakeContext())
            assert third.result["new_task_ids"] != first.result["new_task_ids"]

    asyncio.run(scenario())


def test_bulk_retry_when_time_runs_out_then_the_rest_is_skipped(valkey: ValkeyDatabase) -> None:
    class Late(FakeContext):
        calls = 0

        def remaining_seconds(self) -> float:
            self.calls += 1
            return 10.0 if self.calls < 3 else 1.0

    async def scenario() -> None:
        async with bench(valkey) as it:
            jobs = [await it.pool.enqueue_job("boom") for _ in range(4)]
            await it.burst([boom])
            outcome = await it.adapter.bulk_retry(bulk(*(job.job_id for job in jobs)), Late())
            assert outcome.result["succeeded"] == 2
            assert outcome.result["skipped"] == 2

    asyncio.run(scenario())


def test_retry_when_overrides_are_given_then_exactly_those_run(valkey: ValkeyDatabase) -> None:
    RAN.clear()

    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("boom", 1, key=2)
            await it.burst([boom])
            outcome = await it.adapter.retry_task(
                retry(job.job_id, override_args=(), override_kwargs={}), FakeContext()
            )
            new_id = str(outcome.result["new_task_id"])
            assert outcome.result == {
                "new_task_id": new_id,
                "task_name": "boom",
                "original_task_id": job.job_id,
            }
            await it.burst([func(ok, name="boom")])
            assert dict(RAN)[new_id] == ((), {})

    asyncio.run(scenario())


def test_retry_when_the_result_is_gone_then_overrides_and_the_brains_name_suffice(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, queue_name="mine") as it:
            due = time.time() + 120
            outcome = await it.adapter.retry_task(
                retry("old", task_name="ok", override_args=(5,), override_kwargs={"a": 1}, eta=due),
                FakeContext(),
            )
            new_id = str(outcome.result["new_task_id"])
            score = await it.pool.zscore("mine", new_id)
            assert score == pytest.approx(due * 1000, abs=2)
            assert it.sink.last(new_id).data["args"] == [5]
            with pytest.raises(CommandError, match="function"):
                await it.adapter.retry_task(
                    retry("old", override_args=(), override_kwargs={}), FakeContext()
                )
            with pytest.raises(CommandError, match="arguments are gone"):
                await it.adapter.retry_task(retry("old", task_name="ok"), FakeContext())

    asyncio.run(scenario())


@pytest.mark.parametrize("offset", [-120, 400 * 86400])
def test_retry_when_the_eta_is_out_of_range_then_it_is_refused(
    valkey: ValkeyDatabase, offset: int
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            command = retry(
                "x",
                task_name="ok",
                override_args=(),
                override_kwargs={},
                eta=time.time() + offset,
            )
            with pytest.raises(CommandError) as caught:
                await it.adapter.retry_task(command, FakeContext())
            assert caught.value.reason == "refused"
            assert await it.pool.zcard("arq:queue") == 0

    asyncio.run(scenario())


def test_retry_when_the_job_is_queued_or_running_then_it_is_refused(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("slow")
            command = retry(job.job_id, override_args=(), override_kwargs={})
            with pytest.raises(CommandError, match="still queued"):
                await it.adapter.retry_task(command, FakeContext())
            it.start([slow])
            await it.ended(job.job_id, "task.started")
            with pytest.raises(CommandError, match="still running"):
                await it.adapter.retry_task(command, FakeContext())

    asyncio.run(scenario())


def test_retry_when_keyword_arguments_name_arqs_options_then_it_is_refused(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            command = retry(
                "x", task_name="ok", override_args=(), override_kwargs={"_queue_name": "evil"}
            )
            with pytest.raises(CommandError, match="refused"):
                await it.adapter.retry_task(command, FakeContext())

    asyncio.run(scenario())


def test_requeue_when_a_dead_letter_is_named_then_it_leaves_the_list(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("boom")
            good = await it.pool.enqueue_job("ok")
            await it.burst([boom, ok])
            outcome = await it.adapter.requeue_dead_letter(
                RequeueDeadLetter(
                    id="c", action="requeue_dead_letter", engine="arq", task_id=job.job_id
                ),
                FakeContext(),
            )
            assert outcome.result["requeued"] is True
            assert await it.pool.zcard("arq:queue") == 1
            listed = await it.adapter.list_dead_letters(dead_letters(), FakeContext())
            assert listed.result["entries"] == []
            with pytest.raises(CommandError, match="did not fail"):
                await it.adapter.requeue_dead_letter(
                    RequeueDeadLetter(
                        id="c", action="requeue_dead_letter", engine="arq", task_id=good.job_id
                    ),
                    FakeContext(),
                )

    asyncio.run(scenario())


def test_purge_when_the_token_fits_then_waiting_jobs_go_and_running_ones_stay(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            running = await it.pool.enqueue_job("slow")
            worker = it.start([slow], max_jobs=1)
            await it.ended(running.job_id, "task.started")
            waiting = [await it.pool.enqueue_job("slow") for _ in range(250)]
            deferred = await it.pool.enqueue_job("slow", _defer_by=300)
            assert (await it.adapter.queues())["arq:queue"] == 251
            context = FakeContext()
            with pytest.raises(CommandError, match="moved"):
                await it.adapter.purge_queue(
                    purge("arq:queue", confirm_token=context.token("arq:queue", 250)), context
                )
            outcome = await it.adapter.purge_queue(
                purge("arq:queue", confirm_token=context.token("arq:queue", 251)), context
            )
            assert context.depths == [251, 251]
            assert outcome.result == {
                "queue": "arq:queue",
                "depth_before": 251,
                "purged": 251,
                "force": False,
            }
            assert await it.pool.zrange("arq:queue", 0, -1) == [running.job_id.encode()]
            assert await it.pool.exists(job_key_prefix + running.job_id)
            assert not await it.pool.exists(job_key_prefix + deferred.job_id)
            for job in (*waiting, deferred):
                assert it.sink.terminals(job.job_id) == ["task.revoked"]
                assert it.sink.last(job.job_id).data["task_name"] == "slow"
            assert it.sink.terminals(running.job_id) == []
            assert worker.jobs_failed == 0

    asyncio.run(scenario())


def test_purge_when_a_worker_takes_jobs_meanwhile_then_no_job_both_runs_and_is_purged(
    valkey: ValkeyDatabase,
) -> None:
    RAN.clear()

    async def scenario() -> None:
        async with bench(valkey) as it:
            jobs = [await it.pool.enqueue_job("ok") for _ in range(400)]
            worker = it.start([ok], max_jobs=5, poll_delay=0.001)
            outcome = await it.adapter.purge_queue(purge("arq:queue", force=True), FakeContext())
            purged = int(str(outcome.result["purged"]))
            await it.until(lambda: worker.jobs_complete + purged >= len(jobs), "every ending")
            assert worker.jobs_failed == 0
            ran = {job_id for job_id, _ in RAN}
            revoked = {event.task_id for event in it.sink.named("task.revoked")}
            assert len(revoked) == purged
            assert not ran & revoked
            assert len(ran) + purged == len(jobs)

    asyncio.run(scenario())


def test_dead_letters_when_there_are_pages_then_they_come_newest_first_and_once(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, queue_name=("arq:queue", "other")) as it:
            failed = [await it.pool.enqueue_job("boom") for _ in range(5)]
            await it.pool.enqueue_job("ok")
            elsewhere = await it.pool.enqueue_job("boom", _queue_name="other")
            cancelled = await it.pool.enqueue_job("ok", _defer_by=60)
            await it.adapter.cancel_task(cancel(cancelled.job_id), FakeContext())
            await it.pool.set(result_key_prefix + "foreign", b"garbage", ex=60)
            worker = it.worker([boom, ok], burst=True, max_jobs=1)
            await worker.main()
            await it.burst([boom], queue_name="other")

            seen: list[str] = []
            cursor: str | None = None
            while True:
                outcome = await it.adapter.list_dead_letters(
                    dead_letters(limit=2, cursor=cursor), FakeContext()
                )
                assert set(outcome.result) == {"entries", "next_cursor", "total", "engine"}
                assert outcome.result["total"] == 6
                entries: Any = outcome.result["entries"]
                seen += [entry["task_id"] for entry in entries]
                cursor = outcome.result["next_cursor"]  # type: ignore[assignment]
                if cursor is None:
                    break
                assert len(cursor) <= 200
            assert sorted(seen) == sorted([job.job_id for job in failed] + [elsewhere.job_id])

            one = await it.adapter.list_dead_letters(dead_letters(queue="other"), FakeContext())
            (entry,) = one.result["entries"]  # type: ignore[misc]
            failed_at = datetime.fromisoformat(entry.pop("failed_at"))
            assert failed_at.tzinfo is not None
            assert entry == {
                "task_id": elsewhere.job_id,
                "task_name": "boom",
                "queue": "other",
                "error_excerpt": "ValueError: no good",
                "attempts": 1,
            }

    asyncio.run(scenario())


@pytest.mark.parametrize("cursor", ["", "x", "12.zz", "-1." + "0" * 32, "٣." + "0" * 32])
def test_dead_letters_when_the_cursor_is_not_ours_then_the_brain_is_told_so(
    valkey: ValkeyDatabase, cursor: str
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            with pytest.raises(CommandError, match="invalid dead-letter cursor"):
                await it.adapter.list_dead_letters(dead_letters(cursor=cursor), FakeContext())

    asyncio.run(scenario())


def test_reconcile_when_a_job_is_in_each_state_then_that_state_is_answered(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:

            async def state(job_id: str) -> dict[str, Any]:
                outcome: CommandOutcome = await it.adapter.reconcile_task(
                    reconcile(job_id), FakeContext()
                )
                return dict(outcome.result)

            good = await it.pool.enqueue_job("ok")
            bad = await it.pool.enqueue_job("boom")
            await it.burst([ok, boom])
            running = await it.pool.enqueue_job("slow")
            it.start([slow], max_jobs=1)
            await it.ended(running.job_id, "task.started")
            waiting = await it.pool.enqueue_job("slow")
            revoked = await it.pool.enqueue_job("ok", _defer_by=60)
            await it.adapter.cancel_task(cancel(revoked.job_id), FakeContext())

            answer = await state(good.job_id)
            assert answer["engine_state"] == "success"
            assert datetime.fromisoformat(answer["finished_at"]).tzinfo is not None
            answer = await state(bad.job_id)
            assert answer["engine_state"] == "failure"
            assert answer["exception"] == "ValueError: no good"
            assert (await state(running.job_id))["engine_state"] == "started"
            assert (await state(waiting.job_id))["engine_state"] == "pending"
            assert (await state("nobody"))["engine_state"] == "unknown"
            assert (await state(revoked.job_id))["engine_state"] == "unknown"
            assert it.sink.terminals(revoked.job_id) == ["task.revoked", "task.revoked"]

    asyncio.run(scenario())


def test_submit_when_the_function_is_known_then_it_is_enqueued_under_the_commands_id(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, function_names=("ok",), queue_name="mine") as it:
            command = SubmitTask(
                id="command-1",
                action="submit_task",
                engine="arq",
                task_name="ok",
                args=(1,),
                kwargs={"a": 2},
                schedule_id="s-1",
            )
            outcome = await it.adapter.submit_task(command, FakeContext())
            assert outcome.result == {"task_id": "command-1", "engine": "arq", "queue": "mine"}
            event = it.sink.last("command-1")
            assert event.data["schedule_id"] == "s-1"
            assert (event.data["args"], event.data["kwargs"]) == ([1], {"a": 2})
            job = Job("command-1", it.pool, _queue_name="mine")
            assert await job.status() is JobStatus.queued
            unknown = SubmitTask(
                id="command-2", action="submit_task", engine="arq", task_name="nope"
            )
            with pytest.raises(CommandError, match="nope") as caught:
                await it.adapter.submit_task(unknown, FakeContext())
            assert caught.value.reason == "refused"

    asyncio.run(scenario())


def test_fire_when_the_same_fire_comes_twice_then_one_job_is_made(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            first = await it.adapter.schedule_fire(fire(fire_id="f-1"), FakeContext())
            again = await it.adapter.schedule_fire(fire(fire_id="f-1"), FakeContext())
            assert first.result == again.result
            assert first.result["task_id"] == "z4j-fire-f-1"
            assert it.sink.kinds("z4j-fire-f-1") == ["task.sent", "task.received"]
            assert it.sink.last("z4j-fire-f-1").data["fire_id"] == "f-1"
            long = await it.adapter.schedule_fire(fire(fire_id="f" * 200), FakeContext())
            assert len(str(long.result["task_id"])) <= 200
            assert await it.pool.zcard("arq:queue") == 2

    asyncio.run(scenario())


def test_fire_when_redis_is_away_then_it_is_tried_again_until_the_time_is_over(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            broken = type(it.settings)(host=valkey.host, port=1)
            adapter = type(it.adapter)(redis_settings=broken)
            began = time.monotonic()
            with pytest.raises(CommandError) as caught:
                await adapter.schedule_fire(fire(fire_id="f"), FakeContext(4.5))
            assert caught.value.reason == "failed"
            assert caught.value.indeterminate
            assert 0.6 < time.monotonic() - began < 4.5

            # It comes back: the client is told to look at the right place in between.
            healing = type(it.adapter)(redis_settings=broken)

            async def heal() -> None:
                await asyncio.sleep(0.1)
                healing.broker.use(it.settings)

            outcome, _ = await asyncio.gather(
                healing.schedule_fire(fire(fire_id="g"), FakeContext(20)), heal()
            )
            assert outcome.result["task_id"] == "z4j-fire-g"
            await healing.aclose()

    asyncio.run(scenario())


def test_commands_when_they_run_on_another_loop_then_the_hosts_pool_is_not_used(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            adapter = type(it.adapter)(redis_settings=it.pool)
            job = await it.pool.enqueue_job("ok", 1, _defer_by=60)
            clients = len(await it.pool.client_list())

            def elsewhere() -> CommandOutcome:
                async def run() -> CommandOutcome:
                    try:
                        return await adapter.cancel_task(cancel(job.job_id), FakeContext())
                    finally:
                        await adapter.aclose()

                return asyncio.run(run())

            outcome = await asyncio.get_running_loop().run_in_executor(None, elsewhere)
            assert outcome.result["removed"] is True
            # And again on a third loop: connections of the closed one are not reused.
            other = await it.pool.enqueue_job("ok", 2, _defer_by=60)
            job = other
            outcome = await asyncio.get_running_loop().run_in_executor(None, elsewhere)
            assert outcome.result["removed"] is True
            assert len(await it.pool.client_list()) == clients

    asyncio.run(scenario())


def test_registry_when_a_worker_runs_here_then_tasks_and_workers_name_it(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey, function_names=("elsewhere",)) as it:
            job = await it.pool.enqueue_job("slow")
            it.start([slow, func(ok, name="named")], max_jobs=7, queue_name="arq:queue")
            await it.ended(job.job_id, "task.started")
            tasks = {task.name: task for task in it.adapter.tasks()}
            assert set(tasks) == {"slow", "named", "elsewhere"}
            assert tasks["named"].module == __name__
            assert tasks["named"].queue == "arq:queue"
            assert "ctx" in str(tasks["slow"].signature)
            ((name, details),) = (await it.adapter.workers()).items()
            assert name == it.sink.named("worker.online")[0].data["worker"]
            assert details.pid == os.getpid()
            assert (details.concurrency, details.active) == (7, 1)
            assert details.queues == ("arq:queue",)
            assert details.registered == ("slow", "named")

    asyncio.run(scenario())


def test_depth_when_redis_is_away_then_no_figure_is_given(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            broken = type(it.settings)(host=valkey.host, port=1)
            adapter = type(it.adapter)(redis_settings=broken)
            assert await adapter.queues() == {}
            with pytest.raises(CommandError, match="Redis did not carry it out"):
                await adapter.cancel_task(cancel("x"), FakeContext())

    asyncio.run(scenario())


def test_decoding_when_the_arguments_class_is_unknown_here_then_the_retry_fails_clearly(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> None:
        async with bench(valkey) as it:
            raw = pickle.dumps({"f": "ok", "a": (), "k": {}, "s": False})
            raw = raw.replace(b"\x8c\x01f", b"cno_such_module\nThing\n\x8c\x01f", 1)
            await it.pool.set(result_key_prefix + "odd", raw, ex=60)
            outcome = await it.adapter.bulk_retry(bulk("odd"), FakeContext())
            assert "cannot decode" in str(outcome.error)
            assert "ModuleNotFoundError" in str(outcome.error)

    asyncio.run(scenario())
