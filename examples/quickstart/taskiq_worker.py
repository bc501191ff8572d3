"""The taskiq worker.

Run it: taskiq worker taskiq_worker:broker
"""

from __future__ import annotations

from taskiq_tasks import broker

from z4j_fastapi.engines.taskiq import attach_to_broker

attach_to_broker(broker)
