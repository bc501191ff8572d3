from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import datetime, timezone

import pytest
from support.runtime_kit import (
    LogLines,
    MemoryOutbox,
    MixedClock,
    ScriptedEngine,
    cancel,
    live_link,
    run,
    until,
)

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.engines.base import TaskDefinition, WorkerDetails
from z4j_fastapi.errors import TransportError
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.protocol import frames
from z4j_fastapi.protocol.backoff import Streaks
from z4j_fastapi.runtime.heartbeat import Heartbeat

AT = datetime(2026, 11, 24, 6, 0, tzinfo=timezone.utc)


class Bench:
    def __init__(self, *engines, **switches):
        self.clock = MixedClock()
        self.outbox = MemoryOutbox()
        self.counters = LossCounters()
        self.log = LogLines()
        self.engines = {engine.name: engine for engine in engines}
        self.last_flush_at = self.last_online_at = None
        given = {
            "send_heartbeat": True,
            "send_status": True,
            "interval_limit_seconds": 0.005,
        } | switches
        self.heartbeat = Heartbeat(
            outbox=self.outbox,
            engines=self.engines,
            counters=self.counters,
            clock=self.clock,
            logger=self.log,
            streaks=lambda: Streaks(auth=1, protocol=2, connection=3),
            last_flush_at=lambda: self.last_flush_at,
            last_online_at=lambda: self.last_online_at,
            **given,
        )
        self.link = self.task = None

    @asynccontextmanager
    async def running(self, interval=10, **options):
        self.link = live_link(self.clock, **options)
        self.task = asyncio.ensure_future(self.heartbeat.run(self.link, interval))
        try:
            yield
        finally:
            await cancel(self.task)

    def frames(self, frame_type):
        return [frame["payload"] for frame in self.link.connection.of_type(frame_type)]

    async def next(self, frame_type="heartbeat"):
        """The payload of the next frame of a type."""
        seen = len(self.frames(frame_type))
        await until(lambda: len(self.frames(frame_type)) > seen, f"one more {frame_type}")
        return self.frames(frame_type)[-1]

    async def health(self, condition):
        """The health in the first heartbeat for which the condition holds."""
        while True:
            health = (await self.next())["adapter_health"]
            if condition(health):
                return health


def conforms(payload, shape, *, whole=True):
    annotations = shape.__annotations__
    assert set(payload) <= set(annotations), set(payload) - set(annotations)
    if whole:
        assert set(payload) == set(annotations)
    for name, value in payload.items():
        expected = annotations[name].__forward_arg__
        kind = type(value).__name__
        if expected.startswith(("dict", "TelemetryLoss")):
            assert kind == "dict", name
        elif expected.startswith("list"):
            assert kind == "list", name
        elif expected == "float":
            assert kind in ("float", "int"), name
        else:
            assert kind.replace("NoneType", "None") in expected.split(" | "), name


def test_heartbeat_has_the_shape_of_the_protocol():
    async def work():
        bench = Bench()
        bench.last_flush_at = AT
        for reason in LossReason:
            bench.counters.add(reason, 2)
        for kind, count in ((RecordKind.EVENT, 3), (RecordKind.RESULT, 2)):
            for _ in range(count):
                bench.outbox.append(kind, b"{}")
        async with bench.running():
            sent = await bench.next()
        conforms(sent, frames.HeartbeatPayload)
        conforms(sent["telemetry_loss"], frames.TelemetryLoss, whole=False)
        assert sent["buffer_size"] == 5
        assert sent["last_flush_at"] == AT.isoformat()
        assert sent["dropped_events"] == 2 * (len(LossReason) - 2)
        loss = sent["telemetry_loss"]
        assert loss["buffer_id"] == loss["runtime_id"] == bench.counters.epoch
        assert loss["capacity_evicted_frames"] == loss["content_rejected_frames"] == 2
        assert loss["command_results"] == 2
        assert loss["event_records"] == sent["dropped_events"] - 2

    run(work())


def test_heartbeat_when_nothing_happened_says_so():
    async def work():
        bench = Bench()
        async with bench.running():
            sent = await bench.next()
        assert sent["last_flush_at"] is None
        assert sent["buffer_size"] == sent["dropped_events"] == 0
        assert sent["adapter_health"] == {}

    run(work())


def test_figures_when_beyond_the_brains_bounds_are_capped():
    async def work():
        bench = Bench()
        bench.counters.add(LossReason.CAPACITY, 20_000_000)
        async with bench.running():
            sent = await bench.next()
        assert sent["dropped_events"] == 10_000_000
        assert sent["telemetry_loss"]["capacity_evicted_frames"] == 20_000_000

    run(work())


def test_status_has_the_shape_of_the_protocol_and_comes_at_most_twice_a_minute():
    async def work():
        bench = Bench(ScriptedEngine("taskiq"), ScriptedEngine("arq"))
        bench.last_online_at = AT
        bench.outbox.append(RecordKind.EVENT, b"{}")
        async with bench.running():
            for _ in range(4):
                await bench.next()
            assert len(bench.frames("agent_status")) == 1
            bench.clock.advance(29)
            for _ in range(2):
                await bench.next()
            assert len(bench.frames("agent_status")) == 1
            bench.clock.advance(1)
            sent = await bench.next("agent_status")
        conforms(sent, frames.AgentStatusPayload)
        assert sent["engines"] == ["arq", "taskiq"]
        assert sent["auth_failure_streak"] == 1
        assert sent["protocol_failure_streak"] == 2
        assert sent["connection_failure_streak"] == 3
        assert sent["last_successful_connect_at"] == AT.isoformat()
        assert sent["buffer_depth"] == 1
        assert sent["buffer_oldest_age_seconds"] == 1.5
        assert 30 <= sent["current_session_age_seconds"] < 60
        assert bench.frames("agent_status")[0]["current_session_age_seconds"] < 1

    run(work())


@pytest.mark.parametrize(
    ("switch", "silent", "spoken"),
    [
        ("send_heartbeat", "heartbeat", "agent_status"),
        ("send_status", "agent_status", "heartbeat"),
    ],
)
def test_frame_when_switched_off_is_not_sent(switch, silent, spoken):
    async def work():
        engine = ScriptedEngine()
        engine.known_tasks = [TaskDefinition(name="a")]
        bench = Bench(engine, **{switch: False})
        async with bench.running():
            await bench.next(spoken)
            bench.clock.advance(60)
            await bench.next(spoken)
        assert bench.frames(silent) == []
        assert len(bench.frames("registry_delta")) == 1

    run(work())


@pytest.mark.parametrize(("brain", "limit", "used"), [(10, 2.0, 2.0), (1, 300.0, 1.0)])
def test_interval_is_the_brains_up_to_our_own(monkeypatch, brain, limit, used):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        raise asyncio.CancelledError

    async def work():
        bench = Bench(interval_limit_seconds=limit)
        with monkeypatch.context() as patch:
            patch.setattr("z4j_fastapi.runtime.heartbeat.asyncio.sleep", sleep)
            with pytest.raises(asyncio.CancelledError):
                await bench.heartbeat.run(live_link(bench.clock), brain)
        assert slept[0] == used

    run(work())


def test_depths_and_workers_are_told_as_json_text():
    async def work():
        engine = ScriptedEngine()
        engine.depths = {"arq:queue": 3, "ü": 0}
        engine.found_workers = {
            "host:1": WorkerDetails(
                pid=1, concurrency=10, active=2, queues=("arq:queue",), registered=("a", "b")
            ),
            "host:2": WorkerDetails(),
        }
        bench = Bench(engine)
        async with bench.running():
            health = await bench.health(lambda health: health)
        assert all(type(value) is str for value in health.values())
        assert health["arq"] == "ok"
        assert json.loads(health["arq.queue_depths"]) == {"arq:queue": 3, "ü": 0}
        assert json.loads(health["arq.worker_details"]) == {
            "host:1": {
                "stats": {"pool": {"max-concurrency": 10}, "pid": 1},
                "active": 2,
                "active_queues": [{"name": "arq:queue"}],
                "registered": ["a", "b"],
            },
            "host:2": {"stats": {}, "active": 0, "active_queues": [], "registered": []},
        }

    run(work())


def test_depths_when_there_are_very_many_queues_are_bounded_and_vanish_when_there_are_none():
    async def work():
        engine = ScriptedEngine()
        engine.depths = {f"q{number}": number for number in range(2000)}
        bench = Bench(engine)
        async with bench.running():
            health = await bench.health(lambda health: "arq.queue_depths" in health)
            assert len(json.loads(health["arq.queue_depths"])) == 1024
            engine.depths = {}
            health = await bench.health(lambda health: "arq.queue_depths" not in health)
            assert health == {"arq": "ok"}

    run(work())


class Stalled(ScriptedEngine):
    async def queues(self):
        await asyncio.sleep(600)


class Raising(ScriptedEngine):
    async def queues(self):
        raise ConnectionError("the broker is away")


class Lying(ScriptedEngine):
    async def workers(self):
        return {"w": "not details"}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [(Stalled, "timeout"), (Raising, "ConnectionError"), (Lying, "AttributeError")],
)
def test_engine_when_it_does_not_answer_delays_neither_the_heartbeat_nor_the_others(
    kind, problem, monkeypatch
):
    monkeypatch.setattr("z4j_fastapi.runtime.heartbeat._ENGINE_SECONDS", 0.02)

    async def work():
        good = ScriptedEngine("taskiq")
        good.depths = {"q": 1}
        bench = Bench(kind("arq"), good)
        async with bench.running():
            await bench.next()
            health = await bench.health(
                lambda health: "taskiq.queue_depths" in health and health.get("arq") == problem
            )
            assert "arq.queue_depths" not in health
            for _ in range(3):
                await bench.next()
        assert bench.log.fields("engine_not_answering") == [{"engine": "arq", "error": problem}]

    run(work())


def test_engine_when_it_falls_silent_takes_its_old_depths_along_and_may_come_back():
    async def work():
        engine = ScriptedEngine()
        engine.depths = {"q": 7}
        engine.found_workers = {"w": WorkerDetails()}
        bench = Bench(engine)
        queues = engine.queues
        async with bench.running():
            await bench.health(lambda health: "arq.worker_details" in health)
            engine.queues = Raising("arq").queues
            health = await bench.health(lambda health: health["arq"] != "ok")
            assert health == {"arq": "ConnectionError"}
            engine.queues = queues
            health = await bench.health(lambda health: health["arq"] == "ok")
            assert json.loads(health["arq.queue_depths"]) == {"q": 7}

    run(work())


# -- the registry


def names(tasks):
    return [task["name"] for task in tasks]


def test_tasks_when_they_come_change_and_go_are_told_as_differences():
    async def work():
        engine = ScriptedEngine()
        engine.known_tasks = [
            TaskDefinition(
                name="a", module="shop.jobs", queue="q", signature="(x: int)", tags=("billing",)
            ),
            TaskDefinition(name="b"),
        ]
        bench = Bench(engine)
        async with bench.running():
            first = await bench.next("registry_delta")
            conforms(first, frames.RegistryDeltaPayload)
            for task in first["added"]:
                conforms(task, frames.TaskDefinitionPayload)
            assert first["added"][0] == {
                "name": "a",
                "module": "shop.jobs",
                "engine": "arq",
                "queue": "q",
                "signature": "(x: int)",
                "declared_in": "shop.jobs",
                "loaded": True,
                "tags": ["billing"],
            }
            assert names(first["added"]) == ["a", "b"]
            assert first["updated"] == first["removed"] == []
            assert first["engine"] == "arq"
            engine.known_tasks = [TaskDefinition(name="b", queue="other"), TaskDefinition(name="c")]
            second = await bench.next("registry_delta")
            assert names(second["added"]) == ["c"]
            assert names(second["updated"]) == ["b"]
            assert second["removed"] == ["a"]
            for _ in range(3):
                await bench.next()
            assert len(bench.frames("registry_delta")) == 2
        assert bench.link.connection.types[0] == "registry_delta"

    run(work())


def test_tasks_are_told_again_on_a_new_session():
    async def work():
        engine = ScriptedEngine()
        engine.known_tasks = [TaskDefinition(name="a")]
        bench = Bench(engine)
        for _ in range(2):
            async with bench.running():
                assert names((await bench.next("registry_delta"))["added"]) == ["a"]

    run(work())


def test_tasks_when_there_are_very_many_come_in_pieces():
    async def work():
        engine = ScriptedEngine()
        engine.known_tasks = [TaskDefinition(name=f"t{number}") for number in range(1100)]
        bench = Bench(engine)
        async with bench.running():
            await bench.next()
            pieces = bench.frames("registry_delta")
            assert [len(piece["added"]) for piece in pieces] == [500, 500, 100]
            engine.known_tasks = []
            await bench.next("registry_delta")
            await bench.next()
            pieces = bench.frames("registry_delta")[3:]
            assert [len(piece["removed"]) for piece in pieces] == [500, 500, 100]

    run(work())


def test_engine_when_it_cannot_tell_its_tasks_costs_neither_session_nor_heartbeat():
    class Broken(ScriptedEngine):
        def tasks(self):
            raise KeyError("registry")

    async def work():
        good = ScriptedEngine("taskiq")
        good.known_tasks = [TaskDefinition(name="a")]
        bench = Bench(Broken("arq"), good)
        async with bench.running():
            for _ in range(3):
                await bench.next()
            assert not bench.task.done()
            assert [delta["engine"] for delta in bench.frames("registry_delta")] == ["taskiq"]
        assert bench.log.fields("engine_tasks_failed") == [{"subject": "arq", "error": "KeyError"}]

    run(work())


def test_frame_when_too_large_for_the_brain_is_left_out_and_logged_once():
    async def work():
        engine = ScriptedEngine()
        engine.known_tasks = [TaskDefinition(name="a", signature="x" * 5000)]
        bench = Bench(engine)
        async with bench.running(max_frame_size_bytes=4096):
            for _ in range(2):
                await bench.next()
            engine.known_tasks = [TaskDefinition(name="a", signature="y" * 5000)]
            for _ in range(2):
                await bench.next()
            assert bench.frames("registry_delta") == []
            assert not bench.task.done()
        assert [line["subject"] for line in bench.log.fields("frame_not_sent")] == [
            "registry_delta"
        ]

    run(work())


def test_connection_when_it_breaks_ends_the_run_and_the_watch():
    async def work():
        bench = Bench(Stalled("arq"))
        others = asyncio.all_tasks()
        async with bench.running():
            await bench.next()
            bench.link.connection.cut()
            with pytest.raises(TransportError):
                await bench.task
            await until(lambda: asyncio.all_tasks() == others, "the end of the watch", seconds=2)

    run(work())
