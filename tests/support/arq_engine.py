"""What the arq tests share: a recording sink, attachments, workers, and a command context."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

from z4j_fastapi.clock import SystemClock
from z4j_fastapi.engines.arq.adapter import ArqEngineAdapter
from z4j_fastapi.engines.base import Attachment
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from support.valkey import ValkeyDatabase

    from z4j_fastapi.events import Event
    from z4j_fastapi.protocol.commands import PurgeQueue

TERMINAL = {"task.succeeded", "task.failed", "task.retried", "task.revoked"}


class RecordingSink:
    """Keeps what is recorded, from any thread."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    def of(self, task_id: str) -> list[Event]:
        return [event for event in self.events if event.task_id == task_id]

    def kinds(self, task_id: str) -> list[str]:
        return [event.kind.value for event in self.of(task_id)]

    def from_worker(self, task_id: str) -> list[Event]:
        """The task's events without those of its enqueue."""
        return [event for event in self.of(task_id) if event.data.get("stage") != "enqueued"]

    def worker_kinds(self, task_id: str) -> list[str]:
        return [event.kind.value for event in self.from_worker(task_id)]

    def last(self, task_id: str) -> Event:
        return self.of(task_id)[-1]

    def named(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind.value == kind]

    def terminals(self, task_id: str) -> list[str]:
        return [kind for kind in self.kinds(task_id) if kind in TERMINAL]


@contextmanager
def raising_guard(place: str) -> Iterator[None]:
    """A guard that contains nothing: a defect of ours fails the test."""
    del place
    yield


def attachment(sink: RecordingSink) -> Attachment:
    return Attachment(
        sink=sink,
        guard=raising_guard,
        logger=logging.getLogger("tests.arq"),  # type: ignore[arg-type]
        clock=SystemClock(),
    )


class FakeContext:
    """A `CommandContext` with a key, and a time that only passes by itself."""

    def __init__(self, seconds: float = 30.0) -> None:
        self._deadline = time.monotonic() + seconds
        self.depths: list[int | None] = []

    def remaining_seconds(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    async def run_blocking(self, call: Callable[..., Any], /, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, call, *args)

    @staticmethod
    def token(queue: str, depth: int) -> str:
        return hmac.new(b"k" * 32, f"purge|{queue}|{depth}".encode(), sha256).hexdigest()

    def authorize_purge(self, command: PurgeQueue, depth: int | None) -> None:
        self.depths.append(depth)
        if command.force:
            return
        if depth is None or command.confirm_token != self.token(command.queue, depth):
            raise CommandError("refused", "the depth moved")


def redis_settings(valkey: ValkeyDatabase) -> RedisSettings:
    return RedisSettings(host=valkey.host, port=valkey.port, database=valkey.index)


class Bench:
    """One adapter, its sink, a pool of the host's, and workers, on one loop."""

    def __init__(self, settings: RedisSettings, **adapter: Any) -> None:
        self.settings = settings
        self.sink = RecordingSink()
        adapter.setdefault("redis_settings", settings)
        self.adapter = ArqEngineAdapter(**adapter)
        self.pool: Any = None
        self._workers: list[tuple[Any, asyncio.Task[None] | None]] = []

    def worker(self, functions: Any = (), **options: Any) -> Any:
        options.setdefault("redis_settings", self.settings)
        options.setdefault("handle_signals", False)
        options.setdefault("poll_delay", 0.02)
        worker = Worker(functions=functions, **options)
        self._workers.append((worker, None))
        return worker

    async def burst(self, functions: Any = (), **options: Any) -> Any:
        """Run a worker until its queue is empty, and close it."""
        worker = self.worker(functions, burst=True, **options)
        await asyncio.wait_for(worker.main(), 30)
        await close(worker)
        return worker

    def start(self, functions: Any = (), **options: Any) -> Any:
        """Run a worker until the end of the test."""
        worker = self.worker(functions, **options)
        task = asyncio.get_running_loop().create_task(worker.async_run())
        self._workers[-1] = (worker, task)
        return worker

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 15
        while not condition():
            if time.monotonic() > deadline:
                kinds = [(event.kind.value, event.task_id) for event in self.sink.events]
                raise AssertionError(f"{what} did not happen; events: {kinds}")
            await asyncio.sleep(0.01)

    async def ended(self, task_id: str, kind: str) -> None:
        await self.until(lambda: kind in self.sink.kinds(task_id), f"{kind} of {task_id}")

    async def stop(self, worker: Any) -> None:
        """Close a worker as its own signal handler would, but not in the middle of a pick.

        Cancelled there, arq leaves a pipeline unclosed, and the next test would hear of it.
        """
        worker.allow_pick_jobs = False
        task = next(task for known, task in self._workers if known is worker)
        if task is not None and not task.done():
            loops = asyncio.Event()
            heart_beat = worker.heart_beat

            async def beat() -> None:
                await heart_beat()
                loops.set()
                await asyncio.sleep(60)

            worker.heart_beat = beat
            with suppress(asyncio.TimeoutError):  # arq 0.25 does not beat while all slots are taken
                await asyncio.wait_for(loops.wait(), 1)
        await close(worker)
        if task is not None:
            await asyncio.wait([task], timeout=10)
            assert task.done()

    async def aclose(self) -> None:
        try:
            for worker, _ in self._workers:
                await self.stop(worker)
        finally:
            await self.adapter.aclose()
            self.adapter.detach()
            await self.pool.aclose()


async def close(worker: Any) -> None:
    """Close a worker and its connections, which arq 0.25 leaves to the garbage collector."""
    pool = worker._pool
    await worker.close()
    if pool is not None:
        await pool.connection_pool.disconnect()


@asynccontextmanager
async def bench(valkey: ValkeyDatabase, **adapter: Any) -> AsyncIterator[Bench]:
    """An attached adapter on an empty database."""
    made = Bench(redis_settings(valkey), **adapter)
    made.pool = await create_pool(made.settings)
    await made.pool.flushdb()
    made.adapter.attach(attachment(made.sink))
    try:
        yield made
    finally:
        await made.aclose()
