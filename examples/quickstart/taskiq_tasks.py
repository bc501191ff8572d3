"""The taskiq side: the broker and its tasks, imported by the app and by the worker."""

from __future__ import annotations

import os

from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(
    os.environ.get("QUICKSTART_REDIS_URL", "redis://localhost:6379/0"), queue_name="mails"
)


@broker.task(task_name="send_mail")
async def send_mail(address: str, subject: str) -> str:
    """Succeed at once."""
    return f"{subject!r} sent to {address}"


@broker.task(task_name="read_feed")
async def read_feed(url: str) -> None:
    """Fail always."""
    raise ValueError(f"{url} is not a feed")
