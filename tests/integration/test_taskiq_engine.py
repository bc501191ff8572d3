"""taskiq with a real Valkey and real `taskiq worker` processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.processes import REPOSITORY, ChildProcess, ProcessFamily, wait_until
from support.taskiq_kit import Context, RecordingSink, attachment_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.valkey import ValkeyDatabase

taskiq_redis = pytest.importorskip("taskiq_redis")

from support.taskiq_lab import make_broker  # noqa: E402
from taskiq.api import run_receiver_task  # noqa: E402

from z4j_fastapi import correlation  # noqa: E402
from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter  # noqa: E402
from z4j_fastapi.errors import CommandError  # noqa: E402
from z4j_fastapi.protocol.commands import (  # noqa: E402
    CancelTask,
    FireSchedule,
    PurgeQueue,
    ReconcileTask,
    RetryTask,
    SubmitTask,
)

pytestmark = [pytest.mark.valkey]

HAS_STREAMS = hasattr(taskiq_redis, "RedisStreamBroker")
needs_streams = pytest.mark.skipif(
    not HAS_STREAMS, reason="taskiq-redis 1.0.0 has no RedisStreamBroker"
)
LIST_AND_STREAM = [
    "ListQueueBroker",
    pytest.param("RedisStreamBroker", marks=needs_streams),
]
SECONDS = 20.0
QUEUE = "lab"
VECTORS = REPOSITORY / "tests" / "vectors" / "engine-events" / "taskiq.json"


class Worker:
    """A `taskiq worker` process of the lab's broker, and what it recorded."""

    def __init__(self, child: ChildProcess, events: Path) -> None:
        self.child = child
        self.path = events

    def events(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def kinds(self, task_id: str) -> list[str]:
        return [event["kind"] for event in self.events() if event["task_id"] == task_id]

    def one(self, kind: str, task_id: str) -> dict[str, Any]:
        found = [e for e in self.events() if e["kind"] == kind and e["task_id"] == task_id]
        assert len(found) == 1, (kind, self.kinds(task_id))
        return found[0]


@pytest.fixture
def start_worker(
    valkey: ValkeyDatabase, processes: ProcessFamily, tmp_path: Path
) -> Callable[..., Worker]:
    def start(kind: str = "ListQueueBroker", *options: str, name: str = "worker") -> Worker:
        events = tmp_path / f"{name}-events.jsonl"
        child = processes.python(
            name,
            *("-m", "taskiq", "worker", "support.taskiq_lab:broker", "-w", "1"),
            *("--max-async-tasks", "4", *options),
            env={
                "TASKIQ_LAB_URL": valkey.url,
                "TASKIQ_LAB_KIND": kind,
                "TASKIQ_LAB_QUEUE": QUEUE,
                "TASKIQ_LAB_EVENTS": str(events),
                "PYTHONPATH": os.pathsep.join(
                    [str(REPOSITORY / "tests"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
                ),
            },
        )
        worker = Worker(child, events)
        wait_until(
            lambda: any(e["kind"] == "worker.online" for e in worker.events()),
            timeout_seconds=SECONDS,
            what="the worker online",
        )
        return worker

    return start


@contextlib.asynccontextmanager
async def web(url: str, kind: str = "ListQueueBroker", *, results: bool = True) -> Any:
    """The enqueuing process: broker, adapter, sink."""
    broker = make_broker(kind, url, QUEUE, results=results)
    sink = RecordingSink()
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))
    await broker.startup()
    try:
        yield broker, adapter, sink
    finally:
        adapter.detach()
        await adapter.aclose()
        await broker.shutdown()


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something another process does, without blocking the loop."""
    await asyncio.get_running_loop().run_in_executor(
        None, lambda: wait_until(condition, timeout_seconds=SECONDS, what=what)
    )


async def kiq(broker: Any, name: str, *args: Any, **kwargs: Any) -> str:
    return (await broker.find_task(name).kiq(*args, **kwargs)).task_id


async def listeners(adapter: TaskiqEngineAdapter, number: int) -> None:
    """Wait until `number` workers listen to the relay."""
    redis: Any = adapter._handles[0].redis()
    deadline = asyncio.get_running_loop().time() + SECONDS
    channel = f"z4j:taskiq:{QUEUE}:control"
    while dict(await redis.pubsub_numsub(channel)).get(channel.encode(), 0) < number:
        assert asyncio.get_running_loop().time() < deadline, "nobody listens to the relay"
        await asyncio.sleep(0.02)


def cancel_of(task_id: str) -> CancelTask:
    return CancelTask(id="c1", action="cancel_task", engine="taskiq", task_id=task_id)


async def state_of(adapter: TaskiqEngineAdapter, task_id: str) -> object:
    command = ReconcileTask(id="c1", action="reconcile_task", engine="taskiq", task_id=task_id)
    return (await adapter.reconcile_task(command, Context())).result["engine_state"]


@contextlib.asynccontextmanager
async def receiver_in_this_process(broker: Any) -> Any:
    """A worker inside the process that enqueues."""
    task = asyncio.create_task(run_receiver_task(broker, sync_workers=1))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        broker.is_worker_process = False


# -- events --------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("kind", LIST_AND_STREAM)
def test_scenarios_when_run_for_real_then_ours_tells_at_least_what_the_official_one_did(
    kind: str, valkey: ValkeyDatabase, start_worker: Any, tmp_path: Path
) -> None:
    worker = start_worker(kind)
    official = json.loads(VECTORS.read_text())["scenarios"]

    async def scenario() -> tuple[dict[str, str], RecordingSink]:
        async with web(valkey.url, kind) as (broker, _, sink):
            ids = {
                "success": await kiq(broker, "ok", 7, password="x", profile={"name": "ann"}),
                "failure": await kiq(broker, "boom", 3, password="x"),
                "retry_then_success": await kiq(broker, "flaky", str(tmp_path / "mark")),
            }
            ends = {"success": "task.succeeded", "failure": "task.failed"}
            for name, task_id in ids.items():
                end = ends.get(name, "task.succeeded")
                await until(lambda end=end, i=task_id: end in worker.kinds(i), f"{name} ended")
            return ids, sink

    ids, sink = asyncio.run(scenario())

    for name, task_id in ids.items():
        ours = [
            {"kind": event.kind.value, "data": dict(event.data)} for event in sink.of(task_id)
        ] + [event for event in worker.events() if event["task_id"] == task_id]
        for theirs in official[name]["wire_events"]:
            same = [event for event in ours if event["kind"] == theirs["kind"]]
            assert same, (name, theirs["kind"])
            assert set(theirs["data"]) <= set(same[0]["data"]), (name, theirs["kind"])

    assert sink.kinds(ids["success"]) == ["task.sent", "task.received"]
    assert worker.kinds(ids["success"]) == ["task.received", "task.started", "task.succeeded"]
    assert worker.kinds(ids["failure"]) == ["task.received", "task.started", "task.failed"]
    assert worker.kinds(ids["retry_then_success"]) == [
        *("task.received", "task.started", "task.retried"),
        *("task.received", "task.started", "task.succeeded"),
    ]
    assert sink.kinds(ids["retry_then_success"]) == ["task.sent", "task.received"]
    succeeded = worker.one("task.succeeded", ids["success"])["data"]
    assert succeeded["queue"] == QUEUE
    assert succeeded["result"] == {"number": 7, "password": "x"}  # redacted when recorded
    assert 40 <= succeeded["runtime_ms"] <= 10_000
    assert "Traceback" in worker.one("task.failed", ids["failure"])["data"]["traceback"]
    assert worker.one("task.retried", ids["retry_then_success"])["data"]["retry_count"] == 1
    received = worker.one("task.received", ids["success"])["data"]
    assert received["args"] == [7]
    assert received["kwargs"] == {"password": "x", "profile": {"name": "ann"}}
    assert received["worker"] == worker.events()[0]["data"]["worker"]


@pytest.mark.process
def test_lineage_when_a_task_in_a_worker_sends_another_then_it_leads_back_to_the_request(
    valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker()

    async def scenario() -> tuple[str, dict[str, Any]]:
        async with web(valkey.url) as (broker, _, _sink):
            with correlation.use(correlation.Correlation(request_id="req-9")):
                sent = await broker.find_task("parent").kiq()
            result = await sent.wait_result(timeout=SECONDS)
            child = result.return_value["child"]
            await until(lambda: "task.succeeded" in worker.kinds(child), "the child ended")
            return sent.task_id, result.return_value

    parent, value = asyncio.run(scenario())

    assert value["request_id"] == "req-9"
    stages = [
        event["data"]
        for event in worker.events()
        if event["task_id"] == value["child"] and event["kind"] == "task.received"
    ]
    assert sorted(data["stage"] for data in stages) == ["enqueued", "worker"]
    for data in stages:
        assert data["parent_task_id"] == data["root_task_id"] == parent
        assert data["request_id"] == "req-9"


@pytest.mark.process
@pytest.mark.skipif(
    version("taskiq").startswith("0.11."), reason="taskiq 0.11 does not wait for running tasks"
)
def test_worker_when_told_to_stop_then_running_tasks_end_before_it_goes_offline(
    valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker()

    async def scenario() -> str:
        async with web(valkey.url) as (broker, _, _sink):
            # Long enough to run when the manager passes the signal on, at most 1 s later: an idle
            # taskiq worker would not notice it (`workers.taskiq` wakes the loop, this lab does not).
            task_id = await kiq(broker, "slow", 3.0)
            await until(lambda: "task.started" in worker.kinds(task_id), "started")
            return task_id

    task_id = asyncio.run(scenario())
    worker.child.send_signal(signal.SIGTERM)
    wait_until(
        lambda: worker.events()[-1]["kind"] == "worker.offline",
        timeout_seconds=SECONDS,
        what="offline",
    )

    assert worker.kinds(task_id)[-1] == "task.succeeded"


def test_pubsub_when_nobody_can_be_asked_then_events_flow_and_less_is_advertised(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[RecordingSink, str, TaskiqEngineAdapter, dict[str, int]]:
        async with web(valkey.url, "PubSubBroker") as (broker, adapter, sink):
            async with receiver_in_this_process(broker):
                redis: Any = __import__("redis.asyncio", fromlist=["Redis"]).Redis.from_url(
                    valkey.url
                )
                async with redis:
                    while not dict(await redis.pubsub_numsub(QUEUE)).get(QUEUE.encode()):
                        await asyncio.sleep(0.02)
                task_id = await kiq(broker, "bump", 1)
                await until(lambda: "task.succeeded" in sink.kinds(task_id), "ended")
            return sink, task_id, adapter, dict(await adapter.queues())

    sink, task_id, adapter, depths = asyncio.run(scenario())

    assert sink.kinds(task_id).count("task.succeeded") == 1
    assert sink.one("task.started", task_id).data["queue"] == QUEUE
    assert list(adapter.capabilities()) == ["submit_task", "retry_task", "retry_by_reference_v1"]
    assert depths == {}


# -- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LIST_AND_STREAM)
def test_cancel_when_the_task_waits_then_it_is_removed_and_revoked(
    kind: str, valkey: ValkeyDatabase
) -> None:
    async def scenario() -> tuple[Any, list[str], RecordingSink, list[Any]]:
        async with web(valkey.url, kind) as (broker, adapter, sink):
            ids = [await kiq(broker, "bump", number) for number in range(3)]
            outcome = await adapter.cancel_task(cancel_of(ids[1]), Context())
            ran: list[Any] = []
            async with receiver_in_this_process(broker):
                await until(lambda: "task.succeeded" in sink.kinds(ids[0]), "first ran")
                await until(lambda: "task.succeeded" in sink.kinds(ids[2]), "third ran")
            with pytest.raises(CommandError, match="not_found"):
                await adapter.cancel_task(cancel_of(ids[1]), Context())
            return outcome, ids, sink, ran

    outcome, ids, sink, _ = asyncio.run(scenario())

    assert outcome.result == {"task_id": ids[1], "removed": True}
    assert sink.kinds(ids[1]) == ["task.sent", "task.received", "task.revoked"]
    revoked = sink.one("task.revoked", ids[1])
    assert revoked.data["task_name"] == "bump"
    assert revoked.data["queue"] == QUEUE
    assert revoked.data["terminated"] is False


def test_cancel_when_it_waits_in_another_queue_of_the_broker_then_it_is_found(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[Any, str, RecordingSink]:
        async with web(valkey.url) as (broker, adapter, sink):
            task_id = await kiq(broker, "routed")
            return await adapter.cancel_task(cancel_of(task_id), Context()), task_id, sink

    outcome, task_id, sink = asyncio.run(scenario())

    assert outcome.result["removed"] is True
    assert sink.one("task.revoked", task_id).data["queue"] == "routed-queue"


@needs_streams
def test_cancel_when_a_stream_entry_was_delivered_then_it_is_left_alone(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[int, RecordingSink, str]:
        async with web(valkey.url, "RedisStreamBroker") as (broker, adapter, sink):
            task_id = await kiq(broker, "bump")
            redis: Any = adapter._handles[0].redis()
            await redis.xreadgroup("taskiq", "somebody", {QUEUE: ">"}, count=1)
            with pytest.raises(CommandError, match="not_found"):
                await adapter.cancel_task(cancel_of(task_id), Context())
            return await redis.xlen(QUEUE), sink, task_id

    length, sink, task_id = asyncio.run(scenario())

    assert length == 1
    assert "task.revoked" not in sink.kinds(task_id)


@needs_streams
def test_removal_when_a_worker_fetches_between_search_and_removal_then_nothing_is_deleted(
    valkey: ValkeyDatabase,
) -> None:
    from z4j_fastapi.engines.taskiq import stream_queue

    async def scenario() -> tuple[bool, int]:
        async with web(valkey.url, "RedisStreamBroker") as (broker, adapter, _):
            task_id = await kiq(broker, "bump")
            handle = adapter._handles[0]
            redis: Any = handle.redis()
            entry = await stream_queue.find_waiting(redis, QUEUE, handle.match(task_id))
            assert entry is not None
            await redis.xreadgroup("taskiq", "somebody", {QUEUE: ">"}, count=1)
            return await stream_queue.remove(redis, QUEUE, entry), await redis.xlen(QUEUE)

    assert asyncio.run(scenario()) == (False, 1)


@pytest.mark.process
@pytest.mark.parametrize("kind", LIST_AND_STREAM)
def test_cancel_when_another_process_runs_the_task_then_the_relay_confirms(
    kind: str, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker(kind)

    async def scenario() -> tuple[Any, str, Any]:
        async with web(valkey.url, kind) as (broker, adapter, _):
            task_id = await kiq(broker, "slow", 60.0)
            await until(lambda: "task.started" in worker.kinds(task_id), "started")
            await listeners(adapter, 1)
            outcome = await adapter.cancel_task(cancel_of(task_id), Context())
            after = await broker.find_task("bump").kiq("alive")
            alive = await after.wait_result(timeout=SECONDS)
            return outcome, task_id, alive.return_value

    outcome, task_id, alive = asyncio.run(scenario())

    assert outcome.result == {"task_id": task_id, "terminated": True}
    assert alive == "alive"
    # Not tried again, although the task asks for retries of any error.
    assert worker.kinds(task_id) == ["task.received", "task.started", "task.revoked"]
    assert worker.one("task.revoked", task_id)["data"]["terminated"] is True


@pytest.mark.process
def test_cancel_when_one_of_two_workers_runs_it_then_the_right_one_answers(
    valkey: ValkeyDatabase, start_worker: Any
) -> None:
    first, second = start_worker(name="first"), start_worker(name="second")

    async def scenario() -> tuple[Any, list[str]]:
        async with web(valkey.url) as (broker, adapter, _):
            ids = [await kiq(broker, "slow", 60.0) for _ in range(4)]
            for task_id in ids:
                await until(
                    lambda i=task_id: "task.started" in first.kinds(i) + second.kinds(i), "started"
                )
            await listeners(adapter, 2)
            outcomes = await asyncio.gather(
                *(adapter.cancel_task(cancel_of(task_id), Context()) for task_id in ids)
            )
            return outcomes, ids

    outcomes, ids = asyncio.run(scenario())

    for outcome, task_id in zip(outcomes, ids, strict=True):
        assert outcome.result == {"task_id": task_id, "terminated": True}
        ends = first.kinds(task_id) + second.kinds(task_id)
        assert ends.count("task.revoked") == 1


@pytest.mark.process
def test_cancel_when_the_body_is_synchronous_then_it_is_refused_and_runs_to_its_end(
    valkey: ValkeyDatabase, start_worker: Any, tmp_path: Path
) -> None:
    worker = start_worker()
    release = tmp_path / "release"

    async def scenario() -> str:
        async with web(valkey.url) as (broker, adapter, _):
            task_id = await kiq(broker, "blocking", str(release))
            await until(lambda: "task.started" in worker.kinds(task_id), "started")
            await listeners(adapter, 1)
            with pytest.raises(CommandError, match=r"unsupported: .*synchronous"):
                await adapter.cancel_task(cancel_of(task_id), Context())
            release.touch()
            await until(lambda: "task.succeeded" in worker.kinds(task_id), "ended")
            return task_id

    task_id = asyncio.run(scenario())
    assert worker.one("task.succeeded", task_id)["data"]["result"] == "released"


@pytest.mark.process
def test_cancel_when_the_body_swallows_it_then_not_confirmed_within_the_timeout(
    valkey: ValkeyDatabase, start_worker: Any
) -> None:
    worker = start_worker()

    async def scenario() -> CommandError:
        async with web(valkey.url) as (broker, adapter, _):
            task_id = await kiq(broker, "deaf", 6.0)
            await until(lambda: "task.started" in worker.kinds(task_id), "started")
            await listeners(adapter, 1)
            with pytest.raises(CommandError, match="not confirmed") as failed:
                await adapter.cancel_task(cancel_of(task_id), Context(seconds=3.0))
            return failed.value

    error = asyncio.run(scenario())

    assert error.indeterminate
    assert error.result["requested"] is True


def test_cancel_when_this_process_runs_the_task_then_terminated_without_the_relay(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[Any, str, RecordingSink, Any]:
        async with web(valkey.url) as (broker, adapter, sink):
            async with receiver_in_this_process(broker):
                task_id = await kiq(broker, "slow", 60.0)
                await until(lambda: "task.started" in sink.kinds(task_id), "started")
                outcome = await asyncio.to_thread(
                    asyncio.run, adapter.cancel_task(cancel_of(task_id), Context())
                )
                while not await broker.result_backend.is_result_ready(task_id):
                    await asyncio.sleep(0.02)  # taskiq stores it after our hook
                result = await broker.result_backend.get_result(task_id)
                second = await kiq(broker, "bump", 5)
                await until(lambda: "task.succeeded" in sink.kinds(second), "worker goes on")
            return outcome, task_id, sink, result

    outcome, task_id, sink, result = asyncio.run(scenario())

    assert outcome.result == {"task_id": task_id, "terminated": True}
    assert sink.kinds(task_id)[-1] == "task.revoked"
    assert "task.retried" not in sink.kinds(task_id)
    assert result.is_err


def test_cancel_when_nobody_knows_the_task_then_not_found(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with web(valkey.url) as (_, adapter, _sink):
            with pytest.raises(CommandError, match="not_found"):
                await adapter.cancel_task(cancel_of("nobody"), Context())

    asyncio.run(scenario())


# -- purge and depth -----------------------------------------------------------------------------


def purge_of(queue: str = QUEUE, *, force: bool = False) -> PurgeQueue:
    return PurgeQueue(id="c1", action="purge_queue", queue=queue, force=force)


def test_purge_when_authorized_then_the_list_is_empty_and_the_tasks_are_revoked(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[Any, Context, Any, RecordingSink, list[str]]:
        async with web(valkey.url) as (broker, adapter, sink):
            ids = [await kiq(broker, "bump", number) for number in range(3)]
            context = Context()
            outcome = await adapter.purge_queue(purge_of(), context)
            return outcome, context, await adapter.queues(), sink, ids

    outcome, context, depths, sink, ids = asyncio.run(scenario())

    assert outcome.result == {
        "queue": QUEUE,
        "depth_before": 3,
        "purged": 3,
        "revoked": 3,
        "force": False,
    }
    assert context.depths == [3]
    assert depths[QUEUE] == 0
    for task_id in ids:
        assert sink.one("task.revoked", task_id).data["reason"] == "purged by an operator"


def test_purge_when_refused_then_nothing_is_removed(valkey: ValkeyDatabase) -> None:
    async def scenario() -> int:
        async with web(valkey.url) as (broker, adapter, _):
            await kiq(broker, "bump")
            with pytest.raises(CommandError, match="refused"):
                await adapter.purge_queue(purge_of(), Context(refuse_purge=True))
            return (await adapter.queues())[QUEUE]

    assert asyncio.run(scenario()) == 1


def test_purge_when_the_depth_moves_after_the_check_then_refused(valkey: ValkeyDatabase) -> None:
    class Racing(Context):
        """Lets another message in, behind the check."""

        def authorize_purge(self, command: PurgeQueue, depth: int | None) -> None:
            super().authorize_purge(command, depth)
            import redis

            with redis.Redis.from_url(valkey.url) as client:
                client.lpush(QUEUE, b"one more")

    async def scenario() -> int:
        async with web(valkey.url) as (broker, adapter, _):
            await kiq(broker, "bump")
            with pytest.raises(CommandError, match="refused: the depth moved from 1 to 2"):
                await adapter.purge_queue(purge_of(), Racing())
            return (await adapter.queues())[QUEUE]

    assert asyncio.run(scenario()) == 2


def test_purge_when_nothing_waits_then_success_without_a_check(valkey: ValkeyDatabase) -> None:
    async def scenario() -> Any:
        async with web(valkey.url) as (_, adapter, _sink):
            return await adapter.purge_queue(purge_of(), Context(refuse_purge=True))

    assert asyncio.run(scenario()).result["purged"] == 0


def test_purge_when_the_queue_is_unknown_or_a_stream_then_failed(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with web(valkey.url) as (_, adapter, _sink):
            with pytest.raises(CommandError, match="not_found"):
                await adapter.purge_queue(purge_of("elsewhere", force=True), Context())
        if HAS_STREAMS:
            async with web(valkey.url, "RedisStreamBroker") as (_, adapter, _sink):
                with pytest.raises(CommandError, match="unsupported"):
                    await adapter.purge_queue(purge_of(force=True), Context())

    asyncio.run(scenario())


def test_depth_when_messages_wait_in_a_list_then_each_queue_is_counted(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> Any:
        async with web(valkey.url) as (broker, adapter, _):
            for _ in range(2):
                await kiq(broker, "bump")
            await kiq(broker, "routed")
            await broker.find_task("bump").kicker().with_labels(queue_name="seen-by-label").kiq("x")
            return dict(await adapter.queues())

    assert asyncio.run(scenario()) == {QUEUE: 2, "routed-queue": 1, "seen-by-label": 1}


@needs_streams
def test_depth_when_messages_wait_in_a_stream_then_lag_and_pending(valkey: ValkeyDatabase) -> None:
    async def scenario() -> list[Any]:
        async with web(valkey.url, "RedisStreamBroker") as (broker, adapter, _):
            seen = [(await adapter.queues()).get(QUEUE)]
            ids = [await kiq(broker, "bump") for _ in range(3)]
            seen.append((await adapter.queues()).get(QUEUE))
            redis: Any = adapter._handles[0].redis()
            fetched = await redis.xreadgroup("taskiq", "somebody", {QUEUE: ">"}, count=1)
            seen.append((await adapter.queues()).get(QUEUE))
            entries = fetched[0][1] if isinstance(fetched, list) else next(iter(fetched.values()))
            while isinstance(entries[0], list):
                entries = entries[0]
            await redis.xack(QUEUE, "taskiq", entries[0][0])
            seen.append((await adapter.queues()).get(QUEUE))
            await adapter.cancel_task(cancel_of(ids[1]), Context())
            seen.append((await adapter.queues()).get(QUEUE))
            return seen

    assert asyncio.run(scenario()) == [0, 3, 3, 2, None]


def test_queues_when_the_server_is_away_then_nothing_and_no_error() -> None:
    async def scenario() -> Any:
        broker = make_broker("ListQueueBroker", "redis://127.0.0.1:9/0", QUEUE)
        adapter = TaskiqEngineAdapter(broker=broker)
        adapter.attach(attachment_to(RecordingSink()))
        try:
            return await adapter.queues()
        finally:
            adapter.detach()
            await adapter.aclose()

    assert asyncio.run(scenario()) == {}


# -- reconcile -----------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("kind", LIST_AND_STREAM)
def test_reconcile_when_a_task_goes_its_way_then_each_state_is_told(
    kind: str, valkey: ValkeyDatabase, start_worker: Any
) -> None:
    async def scenario() -> dict[str, object]:
        async with web(valkey.url, kind) as (broker, adapter, _):
            waiting = await kiq(broker, "slow", 1.5)
            states = {"waiting": await state_of(adapter, waiting)}
            worker = await asyncio.to_thread(start_worker, kind)
            good, bad = await kiq(broker, "bump"), await kiq(broker, "boom", 1)
            await until(lambda: "task.started" in worker.kinds(waiting), "started")
            await listeners(adapter, 1)
            states["running"] = await state_of(adapter, waiting)
            for task_id in (good, bad):
                while not await broker.result_backend.is_result_ready(task_id):
                    await asyncio.sleep(0.02)
            states["good"] = await state_of(adapter, good)
            command = ReconcileTask(id="c", action="reconcile_task", engine="taskiq", task_id=bad)
            states["bad"] = dict((await adapter.reconcile_task(command, Context())).result)
            states["nobody"] = await state_of(adapter, "nobody")
            return states

    states = asyncio.run(scenario())

    assert states["waiting"] == "pending"
    assert states["running"] == "started"
    assert states["good"] == "success"
    assert states["nobody"] == "unknown"
    bad = states["bad"]
    assert isinstance(bad, dict)
    assert (bad["engine_state"], bad["finished_at"]) == ("failure", None)
    assert bad["exception"] == "ValueError: boom-1"


def test_reconcile_when_no_results_are_kept_then_unknown(valkey: ValkeyDatabase) -> None:
    async def scenario() -> object:
        async with web(valkey.url, results=False) as (_, adapter, _sink):
            return await state_of(adapter, "long-gone")

    assert asyncio.run(scenario()) == "unknown"


def test_reconcile_when_reading_takes_the_result_away_then_it_is_not_read(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[object, bool]:
        async with web(valkey.url) as (broker, adapter, sink):
            broker.result_backend.keep_results = False
            async with receiver_in_this_process(broker):
                task_id = await kiq(broker, "bump")
                await until(lambda: "task.succeeded" in sink.kinds(task_id), "ended")
                while not await broker.result_backend.is_result_ready(task_id):
                    await asyncio.sleep(0.02)
            state = await state_of(adapter, task_id)
            return state, await broker.result_backend.is_result_ready(task_id)

    assert asyncio.run(scenario()) == ("unknown", True)


# -- submit, fire, retry -------------------------------------------------------------------------


def submit_of(**fields: Any) -> SubmitTask:
    return SubmitTask(id="c1", action="submit_task", engine="taskiq", **fields)


def test_submit_when_asked_from_another_thread_then_sent_on_the_brokers_loop(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[Any, RecordingSink, Any]:
        async with web(valkey.url) as (_, adapter, sink):
            command = submit_of(task_name="bump", args=(1,), schedule_id="s-1", queue="special")
            outcome = await asyncio.to_thread(asyncio.run, adapter.submit_task(command, Context()))
            return outcome, sink, dict(await adapter.queues())

    outcome, sink, depths = asyncio.run(scenario())

    task_id = outcome.result["task_id"]
    assert outcome.result["engine"] == "taskiq"
    assert depths["special"] == 1
    assert depths[QUEUE] == 0
    received = sink.one("task.received", task_id, stage="enqueued")
    assert received.data["queue"] == "special"
    assert received.data["args"] == [1]


def test_submit_when_nobody_chose_a_queue_then_the_brokers_own(valkey: ValkeyDatabase) -> None:
    async def scenario() -> Any:
        async with web(valkey.url) as (_, adapter, _sink):
            await adapter.submit_task(submit_of(task_name="bump", queue="default"), Context())
            await adapter.submit_task(submit_of(task_name="bump", queue=QUEUE), Context())
            await adapter.submit_task(submit_of(task_name="bump"), Context())
            return dict(await adapter.queues())[QUEUE]

    assert asyncio.run(scenario()) == 3


def test_submit_when_the_task_is_unknown_then_not_found(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        async with web(valkey.url) as (_, adapter, _sink):
            with pytest.raises(CommandError, match="not_found"):
                await adapter.submit_task(submit_of(task_name="nothing"), Context())

    asyncio.run(scenario())


def test_submit_when_the_broker_never_started_here_then_refused(valkey: ValkeyDatabase) -> None:
    async def scenario() -> None:
        broker = make_broker("ListQueueBroker", valkey.url, QUEUE)
        adapter = TaskiqEngineAdapter(broker=broker)
        adapter.attach(attachment_to(RecordingSink()))
        try:
            with pytest.raises(CommandError, match="refused: the event loop"):
                await adapter.submit_task(submit_of(task_name="bump"), Context())
        finally:
            adapter.detach()

    asyncio.run(scenario())


def test_submit_when_the_server_stays_away_then_failed_and_not_indeterminate() -> None:
    async def scenario() -> CommandError:
        async with web("redis://127.0.0.1:9/0") as (_, adapter, sink):
            with pytest.raises(CommandError, match="cannot be reached") as failed:
                await adapter.submit_task(submit_of(task_name="bump"), Context(seconds=2.5))
            assert sink.events == []
            return failed.value

    assert not asyncio.run(scenario()).indeterminate


def test_fire_when_due_then_the_id_comes_from_the_fire_and_the_labels_name_it(
    valkey: ValkeyDatabase,
) -> None:
    command = FireSchedule(
        id="c1",
        action="schedule.fire",
        engine="taskiq",
        task_name="bump",
        args=("tick",),
        schedule_id="s-1",
        fire_id="f-1",
    )

    async def scenario() -> tuple[Any, Any]:
        async with web(valkey.url) as (broker, adapter, _):
            outcome = await adapter.schedule_fire(command, Context())
            redis: Any = adapter._handles[0].redis()
            message = broker.formatter.loads((await redis.lrange(QUEUE, 0, -1))[0])
            return outcome, message

    outcome, message = asyncio.run(scenario())

    assert outcome.result == {"task_id": "fire-f-1", "engine": "taskiq"}
    assert message.task_id == "fire-f-1"
    assert message.labels["z4j_schedule_id"] == "s-1"
    assert message.labels["z4j_fire_id"] == "f-1"


@needs_streams
def test_fire_when_the_broker_cannot_choose_queues_then_sent_all_the_same(
    valkey: ValkeyDatabase,
) -> None:
    async def scenario() -> tuple[Any, Any, Any]:
        async with web(valkey.url, "RedisStreamBroker") as (broker, adapter, _):
            outcome = await adapter.submit_task(
                submit_of(task_name="bump", queue="special"), Context()
            )
            redis: Any = adapter._handles[0].redis()
            where = outcome.result.get("queue")
            del broker
            return outcome, where, await redis.xlen(where)

    outcome, where, length = asyncio.run(scenario())

    assert length == 1
    if where == QUEUE:  # taskiq-redis before 1.2 ignores the label
        assert "special" in outcome.result["note"]


def test_retry_when_overrides_are_given_then_a_new_task_that_leads_back(
    valkey: ValkeyDatabase,
) -> None:
    command = RetryTask(
        id="c1",
        action="retry_task",
        engine="taskiq",
        task_id="old",
        task_name="bump",
        override_args=(5,),
        override_kwargs={},
        priority="normal",
    )

    async def scenario() -> tuple[Any, RecordingSink]:
        async with web(valkey.url) as (_, adapter, sink):
            return await adapter.retry_task(command, Context()), sink

    outcome, sink = asyncio.run(scenario())

    new_id = outcome.result["new_task_id"]
    assert outcome.result["task_name"] == "bump"
    assert outcome.result["original_task_id"] == "old"
    received = sink.one("task.received", new_id, stage="enqueued")
    assert received.data["args"] == [5]
    assert received.data["parent_task_id"] == "old"
    assert received.data["root_task_id"] == "old"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"task_name": "bump"}, "refused: taskiq keeps no arguments"),
        ({"override_args": (), "override_kwargs": {}}, "invalid: the name"),
        (
            {"task_name": "bump", "override_args": (), "override_kwargs": {}, "eta": 1.0},
            "refused: taskiq cannot delay",
        ),
    ],
)
def test_retry_when_it_cannot_be_done_honestly_then_failed(
    fields: dict[str, Any], reason: str, valkey: ValkeyDatabase
) -> None:
    command = RetryTask(id="c", action="retry_task", engine="taskiq", task_id="old", **fields)

    async def scenario() -> None:
        async with web(valkey.url) as (_, adapter, sink):
            with pytest.raises(CommandError, match=reason):
                await adapter.retry_task(command, Context())
            assert sink.events == []

    asyncio.run(scenario())
