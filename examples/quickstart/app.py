"""The web side: a FastAPI application that enqueues for arq and for taskiq.

Run it: uvicorn app:app
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from arq import create_pool
from arq_worker import PROVIDER_UP, REDIS_SETTINGS, WorkerSettings
from fastapi import FastAPI, Request
from taskiq_tasks import broker, read_feed, send_mail

from z4j_fastapi import RuntimeDep, z4j_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def connections(app: FastAPI) -> AsyncIterator[None]:
    """The application's own start and stop, inside the agent's."""
    app.state.arq = await create_pool(REDIS_SETTINGS)
    await broker.startup()
    yield
    await broker.shutdown()
    await app.state.arq.aclose()


app = FastAPI(
    title="z4j quickstart",
    lifespan=z4j_lifespan(
        inner_lifespan=connections,
        arq_redis_settings=REDIS_SETTINGS,
        arq_function_names=[function.__name__ for function in WorkerSettings.functions],
        taskiq_brokers=[broker],
    ),
)


@app.post("/invoices/{invoice}", status_code=202)
async def post_invoice(request: Request, invoice: int) -> dict[str, str]:
    """arq: a task that succeeds."""
    job = await request.app.state.arq.enqueue_job("send_invoice", invoice)
    return {"engine": "arq", "task_id": job.job_id}


@app.post("/invoices/{invoice}/charge", status_code=202)
async def post_charge(request: Request, invoice: int) -> dict[str, str]:
    """arq: a task that fails while the payment provider is down."""
    job = await request.app.state.arq.enqueue_job(
        "charge_card", invoice, card_number="4111111111111111"
    )
    return {"engine": "arq", "task_id": job.job_id}


@app.post("/payment-provider/up")
async def post_provider_up(request: Request) -> dict[str, bool]:
    """From now on charging succeeds."""
    await request.app.state.arq.set(PROVIDER_UP, 1)
    return {"up": True}


@app.post("/warehouses/{warehouse}/sync", status_code=202)
async def post_sync(request: Request, warehouse: str) -> dict[str, str]:
    """arq: a task that needs a second attempt."""
    job = await request.app.state.arq.enqueue_job("sync_inventory", warehouse)
    return {"engine": "arq", "task_id": job.job_id}


@app.post("/mails", status_code=202)
async def post_mail(address: str = "ada@example.com") -> dict[str, str]:
    """taskiq: a task that succeeds."""
    task = await send_mail.kiq(address, subject="Welcome")
    return {"engine": "taskiq", "task_id": task.task_id}


@app.post("/feeds", status_code=202)
async def post_feed(url: str = "https://example.com/feed") -> dict[str, str]:
    """taskiq: a task that fails."""
    task = await read_feed.kiq(url)
    return {"engine": "taskiq", "task_id": task.task_id}


@app.get("/agent")
async def get_agent(runtime: RuntimeDep) -> dict[str, object]:
    """What the agent of this process says of itself."""
    status = runtime.status()
    return {
        "state": status.state,
        "connection": status.connection,
        "engines": status.engines,
        "recorded": status.recorded,
        "acknowledged": status.acknowledged,
    }
