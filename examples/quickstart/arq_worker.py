"""The arq side: three functions and the worker's settings.

Run it: arq arq_worker.WorkerSettings
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from arq import Retry
from arq.connections import RedisSettings

from z4j_fastapi.engines.arq import ArqEngineAdapter, attach_to_worker_settings

REDIS_SETTINGS = RedisSettings.from_dsn(
    os.environ.get("QUICKSTART_REDIS_URL", "redis://localhost:6379/0")
)
PROVIDER_UP = "quickstart:payment-provider-up"


async def send_invoice(ctx: dict[str, Any], invoice: int) -> str:
    """Succeed at once."""
    return f"invoice {invoice} sent by attempt {ctx['job_try']}"


async def charge_card(ctx: dict[str, Any], invoice: int, *, card_number: str) -> str:
    """Fail as long as the payment provider is down (POST /payment-provider/up ends that)."""
    if not await ctx["redis"].exists(PROVIDER_UP):
        raise ConnectionError("the payment provider does not answer")
    return f"invoice {invoice} charged to a card of {len(card_number)} digits"


async def sync_inventory(ctx: dict[str, Any], warehouse: str) -> str:
    """Ask arq for a second attempt, which succeeds."""
    if ctx["job_try"] == 1:
        raise Retry(defer=1)
    return f"{warehouse} in step after {ctx['job_try']} attempts"


class WorkerSettings:
    """What the arq command reads."""

    functions: ClassVar = [send_invoice, charge_card, sync_inventory]
    redis_settings = REDIS_SETTINGS
    allow_abort_jobs = True  # so that the dashboard can cancel a running job


attach_to_worker_settings(WorkerSettings, adapter=ArqEngineAdapter())
