"""The typical event of docs/performance.md: task.received, 1.1 KiB, 11 data keys, 3 levels."""

from __future__ import annotations

import statistics
import time
from datetime import datetime, timezone

from z4j_fastapi.events import Event, EventKind

DATA = {
    "task_name": "app.tasks.billing.charge_customer",
    "queue": "billing",
    "stage": "enqueued",
    "attempt": 1,
    "args": [
        42817,
        "order-2026-000173",
        {"sku": "KX-2210-BLK", "quantity": 3, "unit_price": 12.5, "gift": False},
    ],
    "kwargs": {
        "customer_id": 918273,
        "currency": "EUR",
        "api_key": "k-8841-internal",
        "callback": "https://hooks.example.com/v2/payments/918273/notify?attempt=1",
        "retry": {"count": 1, "backoff": "exponential", "limit": 5},
        "labels": ["priority", "eu-west", "subscription-renewal"],
        "note": "Customer asked for the invoice to be sent by post, please do not forget the "
        "purchase order number on it",
        "locale": "de-AT",
        "description": "Renewal of the yearly plan for two seats, with the additional storage",
        "address": "Lindengasse 14, second staircase, door 22, the bell is broken so please "
        "knock; deliver between nine and noon only",
    },
    "parent_task_id": "6f1d7a2e-0c9b-4e0e-9c3d-0c0a5b1c2d3e",
    "root_task_id": "0a5b1c2d-7a2e-4e0e-8c3d-6f1d0c9b9c3d",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "request_id": "01JD3Z6J6Q4R9S7T8V0W1X2Y3Z",
    "eta": "2026-11-24T16:05:00.123456+00:00",
}
WITH_EMAIL = {**DATA, "kwargs": {**DATA["kwargs"], "notify": "anna.huber@example.org"}}


def event(number: int, data=DATA) -> Event:
    return Event(
        kind=EventKind.TASK_RECEIVED,
        engine="arq",
        task_id=f"{number:032x}",  # arq and taskiq use 32 hex digits
        data=data,
        occurred_at=datetime.now(timezone.utc),
    )


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_us": round(statistics.median(ordered) * 1e6, 1),
        "p99_us": round(ordered[int(len(ordered) * 0.99)] * 1e6, 1),
    }


def timed(call, count: int) -> list[float]:
    clock = time.perf_counter
    out = []
    for number in range(count):
        begun = clock()
        call(number)
        out.append(clock() - begun)
    return out
