"""A FastAPI application that enqueues arq jobs, with the agent and the routes a test needs.

Environment: that of `arq_jobs`, and `ARQ_WEB_INNER_WORKER` (`task` or `thread`: an arq worker runs
inside this process).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from arq import create_pool
from arq.worker import Worker
from fastapi import Body, FastAPI
from support.apps.arq_jobs import FUNCTIONS, QUEUE, REDIS, after_job_end

from z4j_fastapi import RuntimeDep, z4j_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INNER_WORKER = os.environ.get("ARQ_WEB_INNER_WORKER")


def make_worker() -> Worker:
    return Worker(
        functions=FUNCTIONS,
        redis_settings=REDIS,
        queue_name=QUEUE,
        handle_signals=False,
        poll_delay=0.1,
        after_job_end=after_job_end,
        allow_abort_jobs=True,
    )


@asynccontextmanager
async def worker_as_task() -> AsyncIterator[None]:
    worker = make_worker()
    running = asyncio.create_task(worker.async_run())
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker.close()


@asynccontextmanager
async def worker_in_thread() -> AsyncIterator[None]:
    loops: list[asyncio.AbstractEventLoop] = []
    ready = threading.Event()

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        worker = make_worker()
        running = asyncio.create_task(worker.async_run())
        loops_tasks.append(running)
        ready.set()
        await asyncio.gather(running, return_exceptions=True)
        await worker.close()

    loops_tasks: list[asyncio.Task[None]] = []
    thread = threading.Thread(target=lambda: asyncio.run(work()), name="arq-worker")
    thread.start()
    await asyncio.to_thread(ready.wait)
    yield
    loops[0].call_soon_threadsafe(loops_tasks[0].cancel)
    await asyncio.to_thread(thread.join)


@asynccontextmanager
async def connections(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = await create_pool(REDIS, default_queue_name=QUEUE)
    print(json.dumps({"pid": os.getpid(), "event": "started"}), flush=True)
    if INNER_WORKER is None:
        yield
    else:
        async with worker_as_task() if INNER_WORKER == "task" else worker_in_thread():
            yield
    await app.state.pool.aclose()


app = FastAPI(
    lifespan=z4j_lifespan(
        inner_lifespan=connections,
        arq_redis_settings=REDIS,
        arq_function_names=FUNCTIONS,
        arq_queue_name=QUEUE,
    )
)


@app.post("/jobs/{function}", status_code=202)
async def post_job(
    function: str,
    args: Annotated[list[Any], Body()],
    kwargs: Annotated[dict[str, Any], Body()],
    options: Annotated[dict[str, Any], Body()],
) -> str:
    job = await app.state.pool.enqueue_job(function, *args, **kwargs, **options)
    return job.job_id


@app.post("/burst", status_code=202)
async def post_burst(function: str, number: int) -> list[str]:
    jobs = [await app.state.pool.enqueue_job(function, each) for each in range(number)]
    return [job.job_id for job in jobs]


@app.get("/status")
async def get_status(runtime: RuntimeDep) -> Any:
    if runtime is None:
        return {"state": "none"}
    return json.loads(json.dumps(asdict(runtime.status()), default=str))
