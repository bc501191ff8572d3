"""Two FastAPI applications in one process, each with its own agent, arq pool and arq worker.

Environment: `TWO_APPS`, JSON: for each application `options` (of `z4j_lifespan`), `url` (Redis) and
`queue`.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker
from fastapi import FastAPI, Request

from z4j_fastapi import RuntimeDep, z4j_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def work(ctx: dict[str, Any], owner: str) -> str:
    """Enqueue a child on the worker's own queue."""
    child = await ctx["redis"].enqueue_job("leaf", owner)
    return child.job_id


async def leaf(ctx: dict[str, Any], owner: str) -> str:
    return owner


FUNCTIONS = [func(work, name="work"), func(leaf, name="leaf")]


def make_app(options: dict[str, Any], url: str, queue: str) -> FastAPI:
    settings = RedisSettings.from_dsn(url)

    @asynccontextmanager
    async def connections(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = await create_pool(settings, default_queue_name=queue)
        worker = Worker(
            functions=FUNCTIONS,
            redis_settings=settings,
            queue_name=queue,
            handle_signals=False,
            poll_delay=0.1,
        )
        running = asyncio.create_task(worker.async_run())
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await worker.close()
        await app.state.pool.aclose()

    app = FastAPI(
        lifespan=z4j_lifespan(
            inner_lifespan=connections,
            arq_redis_settings=settings,
            arq_function_names=["work", "leaf"],
            arq_queue_name=queue,
            **options,
        )
    )

    @app.post("/work")
    async def post_work(request: Request, owner: str) -> str:
        job = await request.app.state.pool.enqueue_job("work", owner)
        return job.job_id

    @app.get("/status")
    async def get_status(runtime: RuntimeDep) -> dict[str, Any]:
        status = runtime.status()
        return {"connection": status.connection, "project": status.project_id}

    return app


apps = [make_app(**one) for one in json.loads(os.environ["TWO_APPS"])]


@asynccontextmanager
async def both(_app: FastAPI) -> AsyncIterator[None]:
    """A mounted application's lifespan is its host's business."""
    async with AsyncExitStack() as stack:
        for each in apps:
            await stack.enter_async_context(each.router.lifespan_context(each))
        print(json.dumps({"pid": os.getpid(), "event": "started"}), flush=True)
        yield


app = FastAPI(lifespan=both)
app.mount("/0", apps[0])
app.mount("/1", apps[1])


@app.get("/status")
async def get_status() -> str:
    return "up"
