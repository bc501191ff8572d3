from __future__ import annotations

import time
from datetime import datetime, timezone

from z4j_fastapi.clock import SystemClock


def test_system_clock_gives_the_systems_times():
    clock = SystemClock()
    before, monotonic_before = datetime.now(timezone.utc), time.monotonic()
    now, monotonic = clock.now(), clock.monotonic()
    assert before <= now <= datetime.now(timezone.utc)
    assert now.utcoffset().total_seconds() == 0
    assert monotonic_before <= monotonic <= time.monotonic()
