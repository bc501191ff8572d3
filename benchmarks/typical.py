"""The typical event of docs/performance.md: task.received, 1.1 KiB, 11 data keys, 3 levels."""

from __future__ import annotations

import statistics
import time
from datetime import datetime, timezone

from z4j_fastapi.events import Event, EventKind

DATA = {
    "task_name": "shop.tasks.charge_customer",
    "queue": "arq:queue:billing",
    "args": [48211, "EUR", [1, 2, 3], {"sku": "A-1001", "quantity": 3, "price": 12.5}],
    "kwargs": {
        "customer": {
            "id": 99120,
            "name": "A. Customer",
            "address": {"street": "1 Long Street", "city": "Springfield", "zip": "12345"},
            "password": "hunter2",
        },
        "note": "please deliver before noon, the bell does not work; " * 6,
        "callback": "https://shop.example.com/hooks/charged?order=48211&attempt=1",
        "lines": [{"sku": f"B-{number}", "quantity": number} for number in range(6)],
    },
    "attempt": 1,
    "max_attempts": 5,
    "priority": "normal",
    "stage": "worker",
    "parent_task_id": "0600c95bbdba4ed28859c465030d6ae4",
    "root_task_id": "0600c95bbdba4ed28859c465030d6ae4",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
WITH_EMAIL = {**DATA, "kwargs": {**DATA["kwargs"], "contact": "somebody@example.com"}}


def event(number: int, data=DATA) -> Event:
    return Event(
        kind=EventKind.TASK_RECEIVED,
        engine="arq",
        task_id=f"task-{number:08d}",
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
