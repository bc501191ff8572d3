"""An arq user's module: functions, worker settings, `attach_to_worker_settings`.

`arq support.apps.arq_jobs.WorkerSettings` runs it. Environment: `ARQ_JOBS_URL`, `ARQ_JOBS_QUEUE`,
`ARQ_JOBS_DIARY` (file in which functions note what they were really called with, and in which
`after_job_end` notes the jobs whose end arq has stored), `ARQ_JOBS_ABORT=1` (`allow_abort_jobs`),
`ARQ_JOBS_CRON=1` (a cron job), `ARQ_JOBS_LOG=1` (logging is configured, as hosts do).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from arq import Retry, cron, func
from arq.connections import RedisSettings
from arq.constants import default_queue_name
from support.apps import diary

from z4j_fastapi import correlation
from z4j_fastapi.engines.arq import ArqEngineAdapter, attach_to_worker_settings

if "ARQ_JOBS_LOG" in os.environ:
    logging.basicConfig()

REDIS = RedisSettings.from_dsn(os.environ["ARQ_JOBS_URL"])
QUEUE = os.environ.get("ARQ_JOBS_QUEUE", default_queue_name)


def note(what: str, ctx: dict[str, Any], *args: object, **kwargs: object) -> None:
    path = os.environ["ARQ_JOBS_DIARY"]
    diary.write(path, what=what, id=ctx["job_id"], attempt=ctx["job_try"], args=args, kwargs=kwargs)


async def charge(ctx: dict[str, Any], order: int, **details: Any) -> dict[str, Any]:
    """Succeed after a moment."""
    note("charge", ctx, order, **details)
    await asyncio.sleep(0.05)
    return {"order": order, "api_key": "result-secret-1"}


async def refuse(ctx: dict[str, Any], order: int, **details: Any) -> str:
    """Fail until somebody sets the key `mended`."""
    note("refuse", ctx, order, **details)
    if await ctx["redis"].exists("mended"):
        return "mended"
    raise ValueError(f"order {order} was refused")  # the failing line


async def flaky(ctx: dict[str, Any]) -> str:
    """Need a second attempt."""
    note("flaky", ctx)
    if ctx["job_try"] == 1:
        raise Retry(defer=0.1)
    return "second"


async def hopeless(ctx: dict[str, Any]) -> None:
    """Ask for more attempts than it may have."""
    note("hopeless", ctx)
    raise Retry(defer=0.05)


async def slow(ctx: dict[str, Any], seconds: float = 60.0) -> str:
    """Run for a while."""
    note("slow", ctx, seconds)
    await asyncio.sleep(seconds)
    return "slept"


async def stuck(ctx: dict[str, Any]) -> None:
    """Run longer than it may."""
    note("stuck", ctx)
    await asyncio.sleep(60)


async def parent(ctx: dict[str, Any]) -> dict[str, Any]:
    """Enqueue a child."""
    here = correlation.current()
    child = await ctx["redis"].enqueue_job("charge", 77, _queue_name=QUEUE)
    return {"child": child.job_id, "request_id": here.request_id if here else None}


async def count(ctx: dict[str, Any], number: int) -> int:
    """Take a moment, so that a burst is still in progress when the worker dies."""
    note("count", ctx, number)
    await asyncio.sleep(0.01)
    return number


async def tick(ctx: dict[str, Any]) -> int:
    """The cron job."""
    note("tick", ctx)
    return int(time.time())


async def after_job_end(ctx: dict[str, Any]) -> None:
    """The end of the job is in Redis."""
    note("ended", ctx)


FUNCTIONS = [
    charge,
    refuse,
    flaky,
    func(hopeless, max_tries=2),
    slow,
    func(stuck, timeout=0.3),
    parent,
    count,
]


class WorkerSettings:
    """What the arq command reads."""

    functions = FUNCTIONS
    cron_jobs = [cron(tick, run_at_startup=True)] if "ARQ_JOBS_CRON" in os.environ else None
    redis_settings = REDIS
    queue_name = QUEUE
    allow_abort_jobs = "ARQ_JOBS_ABORT" in os.environ
    after_job_end = after_job_end
    poll_delay = 0.1
    max_tries = 5


attach_to_worker_settings(WorkerSettings, adapter=ArqEngineAdapter())
