"""A taskiq user's module that web and worker share: broker, tasks, `attach_to_broker`.

`taskiq worker support.apps.taskiq_jobs:broker` runs it. Environment: `TASKIQ_JOBS_URL`,
`TASKIQ_JOBS_QUEUE`, `TASKIQ_JOBS_DIARY` (file in which tasks note what they were called with, and
a middleware the tasks whose outcome taskiq has stored).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated, Any

from support.apps import diary
from taskiq import Context, SimpleRetryMiddleware, TaskiqDepends, TaskiqMiddleware
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from z4j_fastapi import correlation
from z4j_fastapi.engines.taskiq import attach_to_broker

URL = os.environ["TASKIQ_JOBS_URL"]
DIARY = os.environ["TASKIQ_JOBS_DIARY"]
Here = Annotated[Context, TaskiqDepends()]


class Ended(TaskiqMiddleware):
    """Notes what has ended, after every other middleware heard of it."""

    def post_save(self, message: Any, result: Any) -> None:
        diary.write(DIARY, what="ended", id=message.task_id, failed=result.is_err)


# redis-py 8 gives sockets a timeout of 5 s, which ends a worker's idle BRPOP.
broker = (
    ListQueueBroker(URL, queue_name=os.environ["TASKIQ_JOBS_QUEUE"], socket_timeout=None)
    .with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600))
    .with_middlewares(SimpleRetryMiddleware(), Ended())
)
attach_to_broker(broker)


def note(context: Context, *args: object, **kwargs: object) -> None:
    message = context.message
    diary.write(DIARY, what=message.task_name, id=message.task_id, args=args, kwargs=kwargs)


@broker.task(task_name="charge")
async def charge(
    order: int, context: Here, password: str = "", card: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Succeed after a moment."""
    note(context, order, password=password, card=card)
    await asyncio.sleep(0.05)
    return {"order": order, "api_key": "result-secret-1"}


@broker.task(task_name="refuse")
async def refuse(order: int, context: Here, password: str = "") -> None:
    """Fail."""
    note(context, order, password=password)
    raise ValueError(f"order {order} was refused")  # the failing line


@broker.task(task_name="flaky", retry_on_error=True, max_retries=3)
async def flaky(context: Here) -> str:
    """Need a second attempt."""
    note(context)
    if "_retries" not in context.message.labels:
        raise RuntimeError("the first attempt")
    return "second"


@broker.task(task_name="slow", retry_on_error=True, max_retries=5)
async def slow(seconds: float = 60.0, *, context: Here) -> str:
    """Run for a while."""
    note(context, seconds)
    await asyncio.sleep(seconds)
    return "slept"


@broker.task(task_name="blocking")
def blocking(release: str) -> str:
    """Occupy a thread until a file is there."""
    while not Path(release).exists():
        time.sleep(0.02)
    return "released"


@broker.task(task_name="parent")
async def parent(context: Here) -> dict[str, Any]:
    """Enqueue a child."""
    note(context)
    here = correlation.current()
    child = await charge.kiq(77)
    return {"child": child.task_id, "request_id": here.request_id if here else None}


@broker.task(task_name="count")
async def count(number: int, context: Here) -> int:
    """Take a moment, so that a burst is still in progress when the worker dies."""
    note(context, number)
    await asyncio.sleep(0.01)
    return number
