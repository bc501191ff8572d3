"""How many jobs wait in a queue (spec: engines.md 4.4)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.broker import Broker

_CHUNK = 1_000

#: Workers read a queue from its lowest score on, so the jobs that run lie among the first ones;
#: looking further costs Redis more than the figure is worth.
_LOOK_AT = 10_000


async def depth_of(broker: Broker, queue: str) -> int:
    """Waiting and deferred jobs of `queue`: its set without the jobs that workers have.

    Args:
        broker: The agent's own connection.
        queue: Name of the queue.
    """
    client = await broker.client()
    total = int(await client.zcard(queue))
    now_ms = time.time() * 1000
    running = 0
    for start in range(0, min(total, _LOOK_AT), _CHUNK):
        due = await client.zrangebyscore(queue, min="-inf", max=now_ms, start=start, num=_CHUNK)
        running += await broker.running([one.decode() for one in due])
        if len(due) < _CHUNK:
            break
    return max(0, total - running)
