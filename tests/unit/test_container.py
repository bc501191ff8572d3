"""The container: every part can be replaced, on the instance, and nothing leaks."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from dependency_injector import providers
from support.agents import memory_container, options
from support.memory_brain import MemoryBrain

from z4j_fastapi import AgentContainer, ConfigError, Event, EventKind
from z4j_fastapi.engines.base import CommandOutcome
from z4j_fastapi.outbox.base import OutboxDepth, Record, RecordKind, Source


class FixedClock:
    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    def monotonic(self):
        return self.seconds


class ListLane:
    """The smallest lane there can be."""

    def __init__(self):
        self.records = []
        self.acknowledged = 0

    @property
    def last(self):
        return len(self.records)

    @property
    def pending(self):
        return self.last - self.acknowledged

    def read(self, after, *, max_records, max_bytes):
        return self.records[after : after + max_records]

    def acknowledge(self, up_to):
        self.acknowledged = up_to

    def append(self, payload):
        self.records.append(Record(len(self.records) + 1, payload))


class ListOutbox:
    """A fake outbox in memory."""

    directory = "memory"

    def __init__(self):
        self.source = Source(name="own", own=True, events=ListLane(), results=ListLane())
        self.opened = self.closed = 0

    def open(self):
        self.opened += 1

    def append(self, kind, payload):
        lane = self.source.events if kind is RecordKind.EVENT else self.source.results
        lane.append(payload)
        return True

    def sources(self):
        return [self.source]

    def adopt(self):
        return 0

    def release(self, source):
        raise AssertionError("there is nothing adopted")

    def depth(self):
        return OutboxDepth(
            events=self.source.events.pending,
            results=self.source.results.pending,
            bytes=0,
            oldest_age_seconds=0.0,
        )

    def close(self):
        self.closed += 1

    def reinit_after_fork(self):
        pass


class EchoEngine:
    """An engine adapter of the test's own."""

    name = "arq"

    def __init__(self):
        self.commands = []
        self.attached = None
        self.closed = False

    def capabilities(self):
        return ["cancel_task"]

    def attach(self, attachment):
        self.attached = attachment

    def detach(self):
        self.attached = None

    def tasks(self):
        return []

    async def queues(self):
        return {"q": 3}

    async def workers(self):
        return {}

    async def aclose(self):
        self.closed = True

    async def cancel_task(self, command, context):
        self.commands.append(command)
        return CommandOutcome(result={"task_id": command.task_id})


def run(container, brain):
    runtime = container.runtime()
    runtime.start()
    try:
        assert runtime.wait_online(10)
        runtime.record(
            Event(kind=EventKind.TASK_SENT, engine="arq", task_id="1", data={"task_name": "x"})
        )
        assert runtime.flush(10)
        yield runtime
    finally:
        runtime.stop()


@pytest.fixture
def started(memory_brain, tmp_path):
    """Starts a container's runtime for the length of a test."""
    running = []

    def start(prepare):
        container = memory_container(memory_brain, tmp_path)
        prepare(container)
        runner = run(container, memory_brain)
        runtime = next(runner)
        running.append(runner)
        return runtime

    yield start
    for runner in running:
        runner.close()


def test_container_when_made_without_arguments_reads_the_environment(monkeypatch, tmp_path):
    for name, value in options(tmp_path).items():
        if name != "buffer_path":
            monkeypatch.setenv(f"Z4J_{name.upper()}", value)
    container = AgentContainer()
    assert container.settings().project_id == "shop"
    assert container.settings() is container.settings()


def test_container_when_configuration_is_missing_raises_from_settings():
    with pytest.raises(ConfigError) as caught:
        AgentContainer().settings()
    for name in ("brain_url", "token", "hmac_secret", "project_id"):
        assert name in str(caught.value)


def test_outbox_when_overridden_is_the_one_that_is_used(started, memory_brain):
    outbox = ListOutbox()
    started(lambda container: container.outbox.override(providers.Object(outbox)))
    assert outbox.opened == 1
    assert len(outbox.source.events.records) == 1
    assert len(memory_brain.events) == 1


def test_engine_when_overridden_is_attached_commanded_and_closed(started, memory_brain):
    engine = EchoEngine()
    runtime = started(lambda container: container.engines.override(providers.Object([engine])))
    assert engine.attached is not None
    assert runtime.status().engines == ("arq",)
    memory_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-9"})
    memory_brain.wait_for(lambda: "c-1" in memory_brain.results())
    assert memory_brain.results()["c-1"]["status"] == "success"
    assert memory_brain.results()["c-1"]["result"] == {"task_id": "t-9"}
    assert [command.task_id for command in engine.commands] == ["t-9"]
    runtime.stop()
    assert engine.attached is None
    assert engine.closed


def test_override_when_made_on_an_instance_stays_there(memory_brain, tmp_path):
    one = memory_container(memory_brain, tmp_path)
    two = AgentContainer()
    two.overrides.override(providers.Object(options(tmp_path)))
    assert one.transport() is memory_brain.transport
    assert two.transport() is not memory_brain.transport


def test_override_when_made_in_a_with_ends_with_it(memory_brain, tmp_path):
    container = memory_container(memory_brain, tmp_path)
    other = MemoryBrain().transport
    with container.transport.override(providers.Object(other)):
        assert container.transport() is other
    assert container.transport() is memory_brain.transport


def test_clock_when_fixed_is_what_every_part_gets(memory_brain, tmp_path):
    container = memory_container(memory_brain, tmp_path)
    clock = FixedClock()
    container.clock.override(providers.Object(clock))
    assert container.dispatcher()._clock is clock
    assert container.outbox()._clock is clock
    assert container.journal()._clock is clock


def test_only_the_containers_construct_the_parts():
    import ast
    from pathlib import Path

    root = Path(__file__).resolve().parents[2] / "z4j_fastapi"
    parts = {
        "FileOutbox",
        "CommandJournal",
        "WebSocketTransport",
        "Dispatcher",
        "Recorder",
        "Redactor",
        "AgentRuntime",
        "InertRuntime",
        "SystemClock",
        "LossCounters",
    }
    offenders = []
    for path in root.rglob("*.py"):
        if "containers" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in parts:
                offenders.append(f"{path.relative_to(root)}:{node.lineno} {node.func.id}")
    assert offenders == []
