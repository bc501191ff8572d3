"""What kind of broker it is and which queues it has, told without importing taskiq-redis."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker


class BrokerKind(str, enum.Enum):
    """What can be done to a broker's waiting messages."""

    LIST = "list"  # taskiq_redis.ListQueueBroker: a Redis list
    STREAM = "stream"  # taskiq_redis.RedisStreamBroker: a Redis stream with a consumer group
    OTHER = "other"  # pub/sub, in memory, AMQP, ...: nothing can be looked up


_KINDS = {"ListQueueBroker": BrokerKind.LIST, "RedisStreamBroker": BrokerKind.STREAM}


def kind_of(broker: AsyncBroker) -> BrokerKind:
    """The broker's kind, by the names of its classes: a user's subclass counts as its parent.

    The cluster and sentinel brokers of taskiq-redis are not subclasses of these two and count as
    `OTHER`; so does a look-alike without a connection pool.
    """
    for cls in type(broker).__mro__:
        if cls.__module__.partition(".")[0] == "taskiq_redis" and cls.__name__ in _KINDS:
            return _KINDS[cls.__name__] if hasattr(broker, "connection_pool") else BrokerKind.OTHER
    return BrokerKind.OTHER


def main_queue(broker: AsyncBroker) -> str | None:
    """The queue that the broker's own workers listen to; None when it names none."""
    name = getattr(broker, "queue_name", None)
    return name if isinstance(name, str) and name else None


def known_keys(broker: AsyncBroker) -> list[str]:
    """Redis keys that the broker is known to send to or to read from, its main queue first."""
    names: dict[str, None] = {}
    main = main_queue(broker)
    if main is not None:
        names[main] = None
    additional = getattr(broker, "additional_streams", None)
    if isinstance(additional, dict):
        names.update(dict.fromkeys(cast("dict[str, object]", additional)))
    for task in broker.get_all_tasks().values():
        label = task.labels.get("queue_name")
        if isinstance(label, str) and label:
            names[label] = None
    return list(names)
