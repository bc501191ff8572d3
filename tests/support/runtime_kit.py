"""What unit tests of the runtime's parts share: lanes in memory, a checked session, an engine."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager

from support.brain_side import KEY, BrainSide
from support.outboxes import StillClock

from z4j_fastapi.clock import SystemClock
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.engines.base import CommandOutcome
from z4j_fastapi.errors import OutboxError, TransportError
from z4j_fastapi.observability.metrics import Metrics
from z4j_fastapi.observability.tracing import Tracing
from z4j_fastapi.outbox.base import OutboxDepth, Record, RecordKind, Source
from z4j_fastapi.protocol.handshake import Hello
from z4j_fastapi.protocol.session import AgentSession
from z4j_fastapi.runtime.session_link import SessionLink

__all__ = ["KEY", "StillClock"]


def run(work, seconds=30.0):
    """Run a coroutine on a loop of its own, with a deadline."""

    async def bounded():
        return await asyncio.wait_for(work, seconds)

    return asyncio.run(bounded())


async def until(condition, what="the condition", seconds=10.0):
    """Wait until `condition()` is true, on the running loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        await asyncio.sleep(0.001)


def until_sync(condition, what="the condition", seconds=10.0):
    """The same for tests without a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.001)


async def rounds(count=20):
    """Let everything that is ready on the loop run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel(task):
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.done()


class MixedClock(StillClock):
    """Wall-clock time that passes by itself, monotonic time that passes when told to as well."""

    def __init__(self):
        super().__init__()
        self._real = SystemClock()
        self.ahead = 0.0

    def now(self):
        return self._real.now()

    def monotonic(self):
        return self._real.monotonic() + self.ahead

    def advance(self, seconds):
        self.ahead += seconds


class LogLines:
    """Keeps log lines as (level, event, fields)."""

    def __init__(self):
        self.lines = []

    def debug(self, event, /, **fields):
        self.lines.append(("debug", event, fields))

    def info(self, event, /, **fields):
        self.lines.append(("info", event, fields))

    def warning(self, event, /, **fields):
        self.lines.append(("warning", event, fields))

    def error(self, event, /, **fields):
        self.lines.append(("error", event, fields))

    @property
    def events(self):
        return [event for _, event, _ in self.lines]

    def fields(self, event):
        return [fields for _, known, fields in self.lines if known == event]


class Guarded:
    """A guard that contains and keeps what was raised."""

    def __init__(self):
        self.contained = []

    @contextmanager
    def __call__(self, place):
        try:
            yield
        except Exception as error:
            self.contained.append((place, error))


class MemoryLane:
    """A lane in memory. `corrupt` numbers are gaps that the first read finds.

    While `unreadable` is set the disk cannot be read: nothing is returned, and nothing is lost.
    """

    def __init__(self, payloads=()):
        self._lock = threading.Lock()
        self._records = {}
        self._gaps = set()
        self.corrupt = set()
        self.unreadable = False
        self.acknowledged = 0
        self.last = 0
        self.reads = []
        for payload in payloads:
            self.append(payload)

    @property
    def pending(self):
        gaps = sum(1 for number in self._gaps if number > self.acknowledged)
        return self.last - self.acknowledged - gaps

    def append(self, payload):
        with self._lock:
            self._records[self.last + 1] = payload
            self.last += 1

    def read(self, after, *, max_records, max_bytes):
        self.reads.append((after, max_records, max_bytes))
        if self.unreadable:
            return []
        found = []
        for number in range(max(after, self.acknowledged) + 1, self.last + 1):
            if number in self.corrupt:
                self._gaps.add(number)
                continue
            payload = self._records[number]
            if len(found) == max_records or (found and len(payload) > max_bytes):
                break
            max_bytes -= len(payload)
            found.append(Record(number, payload))
        return found

    def acknowledge(self, up_to):
        with self._lock:
            self.acknowledged = max(self.acknowledged, up_to)
            for number in [known for known in self._records if known <= up_to]:
                del self._records[number]

    def payloads(self):
        return list(self._records.values())


class MemoryOutbox:
    """An outbox in memory; `refuse` makes appends raise, `lose` makes them fail quietly."""

    def __init__(self, *others):
        self.own = Source(name="own", own=True, events=MemoryLane(), results=MemoryLane())
        self.others = list(others)
        self.released = []
        self.refuse = False
        self.lose = False
        self.closed = False

    def sources(self):
        return [] if self.closed else [self.own, *self.others]

    def append(self, kind, payload):
        if self.refuse:
            raise OutboxError("outbox: it is closed")
        if self.lose:
            return False
        lane = self.own.events if kind is RecordKind.EVENT else self.own.results
        lane.append(payload)
        return True

    def release(self, source):
        self.others.remove(source)
        self.released.append(source.name)

    def depth(self):
        return OutboxDepth(
            events=sum(source.events.pending for source in self.sources()),
            results=sum(source.results.pending for source in self.sources() if source.results),
            bytes=0,
            oldest_age_seconds=1.5,
        )


def adopted(name="dead", *, events=(), results=()):
    return Source(
        name=name,
        own=False,
        events=MemoryLane(events),
        results=None if results is None else MemoryLane(results),
    )


class CheckedConnection:
    """The agent's end of a connection whose other end checks every frame as the brain does."""

    def __init__(self, clock, *, max_frame_size_bytes=1_048_576):
        self.side = BrainSide(max_frame_size_bytes=max_frame_size_bytes)
        self.clock = clock
        self.frames = []
        self.sizes = []
        self.error = None
        self.gate = None  # an Event to wait for before a frame is taken

    async def send(self, data):
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.frames.append(self.side.read(data, self.clock.now()))
        self.sizes.append(len(data))

    def of_type(self, frame_type):
        return [frame for frame in self.frames if frame["type"] == frame_type]

    @property
    def types(self):
        return [frame["type"] for frame in self.frames]

    @property
    def batches(self):
        """Ids of the events of every batch; an empty list is a fence."""
        return [
            [event["id"] for event in frame["payload"]["events"]]
            for frame in self.of_type("event_batch")
        ]

    def cut(self, **details):
        self.error = TransportError("the connection ended", **details)


def live_link(clock, **options):
    """A session that is live, on a checked connection."""
    connection = CheckedConnection(clock, **options)
    session = AgentSession(
        key=KEY,
        hello=Hello(worker_id="w", worker_role="web", worker_pid=1, worker_started_at=clock.now()),
    )
    connection.side.read(session.hello_frame(clock.now()), clock.now())
    session.receive(connection.side.hello_ack(clock.now()), clock.now())
    return SessionLink(session=session, connection=connection, clock=clock)


def instruments():
    """Tracing that measures for nobody."""
    metrics = Metrics(counters=LossCounters(), guard=Guarded())
    return Tracing(metrics=metrics)


class ScriptedEngine:
    """An engine adapter that does what a test tells it to.

    `does` maps a method's name to a coroutine function (command, context) or to an exception.
    """

    def __init__(self, name="arq", tokens=("cancel_task", "purge_queue", "submit_task")):
        self.name = name
        self.tokens = tokens
        self.does = {}
        self.calls = []
        self.attached = []
        self.detached = 0
        self.closed = 0
        self.attach_error = None
        self.known_tasks = []
        self.depths = {}
        self.found_workers = {}

    def capabilities(self):
        return self.tokens

    def attach(self, attachment):
        self.attached.append(attachment)
        if self.attach_error is not None:
            raise self.attach_error

    def detach(self):
        self.detached += 1

    def tasks(self):
        return self.known_tasks

    async def queues(self):
        return self.depths

    async def workers(self):
        return self.found_workers

    async def aclose(self):
        self.closed += 1

    async def _carry_out(self, method, command, context):
        self.calls.append((method, command))
        action = self.does.get(method)
        if isinstance(action, BaseException):
            raise action
        if action is not None:
            return await action(command, context)
        return CommandOutcome(result={"did": method})

    async def cancel_task(self, command, context):
        return await self._carry_out("cancel_task", command, context)

    async def retry_task(self, command, context):
        return await self._carry_out("retry_task", command, context)

    async def bulk_retry(self, command, context):
        return await self._carry_out("bulk_retry", command, context)

    async def purge_queue(self, command, context):
        return await self._carry_out("purge_queue", command, context)

    async def submit_task(self, command, context):
        return await self._carry_out("submit_task", command, context)

    async def schedule_fire(self, command, context):
        return await self._carry_out("schedule_fire", command, context)

    async def reconcile_task(self, command, context):
        return await self._carry_out("reconcile_task", command, context)
