"""What a message's labels say: our carrier, the attempt, the queue (spec: engines.md 5.2, 5.3).

Labels are strings or numbers that users and other middlewares may write too: nothing here trusts a
type, and nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Carrier key to label. Plain strings that are added after taskiq computed `labels_types`, so they
#: stay strings; retries copy them.
CARRIER_LABELS: Mapping[str, str] = {"tp": "z4j_tp", "rid": "z4j_rid", "p": "z4j_p", "r": "z4j_r"}

SCHEDULE_LABEL = "z4j_schedule_id"
FIRE_LABEL = "z4j_fire_id"

_PRIORITIES = frozenset({"critical", "high", "normal", "low"})


def carrier_of(labels: Mapping[str, Any]) -> dict[str, object]:
    """The carrier that the enqueuing process wrote; empty when there is none."""
    return {key: labels[label] for key, label in CARRIER_LABELS.items() if label in labels}


def put_carrier(labels: dict[str, Any], carrier: Mapping[str, str]) -> None:
    """Write `carrier` in place of one that was copied from another task's labels."""
    for key, label in CARRIER_LABELS.items():
        value = carrier.get(key)
        if value is not None:
            labels[label] = value
        else:
            labels.pop(label, None)


def count(labels: Mapping[str, Any], label: str) -> int:
    """A label that counts; 0 when it is absent or not a number."""
    try:
        return max(0, int(labels.get(label, 0)))
    except (TypeError, ValueError):
        return 0


def requeues_of(labels: Mapping[str, Any]) -> int:
    """How often `Context.requeue()` put the task back; it calls no hook and counts here."""
    return count(labels, "X-Taskiq-requeue")


def queue_label(labels: Mapping[str, Any]) -> str | None:
    """The queue that the message names itself, if it does."""
    queue = labels.get("queue_name")
    return queue if isinstance(queue, str) and queue else None


def priority_of(labels: Mapping[str, Any]) -> str | None:
    """The brain's priority label; AMQP's numeric priorities are something else."""
    priority = labels.get("priority")
    return priority if isinstance(priority, str) and priority in _PRIORITIES else None


def wants_retry(labels: Mapping[str, Any], *, default: bool) -> bool:
    """Whether a retry middleware would try this message again, read as taskiq's own read it."""
    wanted = labels.get("retry_on_error")
    if wanted is None:
        return default
    return wanted.lower() == "true" if isinstance(wanted, str) else bool(wanted)
