"""A FastAPI application that enqueues taskiq tasks, with the agent and the routes a test needs."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI
from support.apps.taskiq_jobs import broker, count

from z4j_fastapi import RuntimeDep, z4j_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def connections(_app: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    print(json.dumps({"pid": os.getpid(), "event": "started"}), flush=True)
    yield
    await broker.shutdown()


app = FastAPI(lifespan=z4j_lifespan(inner_lifespan=connections, taskiq_brokers=[broker]))


@app.post("/jobs/{name}", status_code=202)
async def post_job(
    name: str,
    args: Annotated[list[Any], Body()],
    kwargs: Annotated[dict[str, Any], Body()],
    options: Annotated[dict[str, Any], Body()],
) -> str:
    task = broker.find_task(name)
    sent = await task.kicker().with_labels(**options).kiq(*args, **kwargs)
    return sent.task_id


@app.post("/burst", status_code=202)
async def post_burst(number: int) -> list[str]:
    return [(await count.kiq(each)).task_id for each in range(number)]


@app.get("/status")
async def get_status(runtime: RuntimeDep) -> Any:
    if runtime is None:
        return {"state": "none"}
    return json.loads(json.dumps(asdict(runtime.status()), default=str))
