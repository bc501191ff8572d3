"""Code as users write it; mypy and pyright check it, nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, WebSocket

from z4j_fastapi import (
    AgentContainer,
    AgentRuntime,
    Event,
    EventKind,
    RuntimeDep,
    RuntimeStatus,
    combine_lifespans,
    get_runtime,
    install_z4j,
    z4j_lifespan,
)


@asynccontextmanager
async def inner(app: FastAPI) -> AsyncGenerator[dict[str, Any], None]:
    yield {"answer": 42}


@asynccontextmanager
async def around(app: FastAPI) -> AsyncGenerator[None, None]:
    async with z4j_lifespan()(app):
        yield


app = FastAPI(lifespan=z4j_lifespan(inner_lifespan=inner, agent_name="web"))
combined = FastAPI(lifespan=combine_lifespans(z4j_lifespan(), inner))
wrapped = FastAPI(lifespan=around)
own = FastAPI(lifespan=z4j_lifespan(container=AgentContainer()))


@app.get("/one")
def one(runtime: RuntimeDep) -> bool:
    return runtime.status().online


@app.get("/two")
def two(runtime: Annotated[AgentRuntime, Depends(get_runtime)]) -> int:
    return runtime.buffer_size()


@app.websocket("/three")
async def three(socket: WebSocket, runtime: RuntimeDep) -> None:
    await socket.accept()
    await runtime.aflush(1.0)


def by_hand() -> RuntimeStatus:
    runtime = install_z4j(app)
    runtime.record(Event(kind=EventKind.TASK_SENT, engine="arq", task_id="1", data={"queue": "q"}))
    runtime.flush(timeout=2.0)
    runtime.wait_online(timeout=1.0)
    status = runtime.status()
    runtime.stop()
    found = get_runtime()
    return found.status() if found is not None else status
