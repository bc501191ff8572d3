"""A broker with tasks that web and worker processes of a test share, as a user's module would.

`taskiq worker support.taskiq_lab:broker` runs it; the environment says where it is. Events go to a
file as JSON lines, in place of an agent.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

import taskiq_redis
from support.taskiq_kit import attachment_to
from taskiq import SimpleRetryMiddleware

from z4j_fastapi import correlation
from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter

if TYPE_CHECKING:
    from taskiq import AsyncBroker

    from z4j_fastapi.events import Event


class FileSink:
    """Appends each event to a file; readers see whole lines only."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def record(self, event: Event) -> None:
        line = json.dumps(
            {
                "kind": event.kind.value,
                "task_id": event.task_id,
                "data": dict(event.data),
                "at": event.occurred_at.isoformat(),
            },
            default=repr,
        )
        os.write(self._file, line.encode() + b"\n")


def make_broker(kind: str, url: str, queue: str, *, results: bool = True) -> AsyncBroker:
    """A Redis broker of a kind: `ListQueueBroker`, `RedisStreamBroker` or `PubSubBroker`."""
    # redis-py 8 gives sockets a timeout of 5 s, which ends a worker's idle BRPOP.
    broker: Any = getattr(taskiq_redis, kind)(url, queue_name=queue, socket_timeout=None)
    if results:
        broker = broker.with_result_backend(
            taskiq_redis.RedisAsyncResultBackend(url, result_ex_time=600)
        )
    broker = broker.with_middlewares(SimpleRetryMiddleware())
    register(broker)
    return broker


def register(broker: AsyncBroker) -> None:
    """The tasks, of the same names as in the recorded scenarios."""

    @broker.task(task_name="ok")
    async def ok(number: int, password: str = "", profile: dict[str, Any] | None = None) -> Any:
        await asyncio.sleep(0.05)
        return {"number": number, "password": password}

    @broker.task(task_name="boom")
    async def boom(number: int, password: str = "") -> None:
        raise ValueError(f"boom-{number}")

    @broker.task(task_name="flaky", retry_on_error=True, max_retries=3)
    async def flaky(mark: str) -> str:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return "second"
        raise RuntimeError("first")

    @broker.task(task_name="bump")
    async def bump(value: object = None) -> object:
        return value

    @broker.task(task_name="slow", retry_on_error=True, max_retries=5)
    async def slow(seconds: float = 30.0) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @broker.task(task_name="deaf")
    async def deaf(seconds: float = 3.0) -> str:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return "ignored it"

    @broker.task(task_name="blocking")
    def blocking(release: str) -> str:
        while not os.path.exists(release):  # noqa: PTH110
            time.sleep(0.02)
        return "released"

    @broker.task(task_name="parent")
    async def parent() -> dict[str, Any]:
        here = correlation.current()
        sent = await bump.kiq("child")
        return {"child": sent.task_id, "request_id": here.request_id if here else None}

    @broker.task(task_name="routed", queue_name="routed-queue")
    async def routed() -> None:
        return None


if "TASKIQ_LAB_URL" in os.environ:
    broker = make_broker(
        os.environ["TASKIQ_LAB_KIND"], os.environ["TASKIQ_LAB_URL"], os.environ["TASKIQ_LAB_QUEUE"]
    )
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(FileSink(os.environ["TASKIQ_LAB_EVENTS"])))  # type: ignore[arg-type]
