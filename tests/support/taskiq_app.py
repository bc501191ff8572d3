"""A user's module that web and worker share: broker, tasks, `attach_to_broker`, nothing else."""

from __future__ import annotations

import os

from support.taskiq_lab import make_broker

from z4j_fastapi.engines.taskiq import attach_to_broker

broker = make_broker(
    os.environ.get("TASKIQ_APP_KIND", "ListQueueBroker"),
    os.environ["TASKIQ_APP_URL"],
    os.environ.get("TASKIQ_APP_QUEUE", "lab"),
)
attach_to_broker(broker)
