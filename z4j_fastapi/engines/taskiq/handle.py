"""One broker as an adapter holds it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from taskiq.serializers.json_serializer import JSONSerializer

from z4j_fastapi.engines.taskiq.brokers import BrokerKind, kind_of, known_keys, main_queue
from z4j_fastapi.engines.taskiq.connection import OwnRedis, RedisClient
from z4j_fastapi.engines.taskiq.list_queue import Match
from z4j_fastapi.engines.taskiq.middleware import Z4JTaskiqMiddleware, middleware_of
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker
    from taskiq.message import TaskiqMessage

    from z4j_fastapi.engines.taskiq.runs import Run


class BrokerHandle:
    """A broker, what can be done with it, and our own way to its server.

    Args:
        broker: The user's object.
        queue: How to call the main queue in events, where the user wants another name.
    """

    def __init__(self, broker: AsyncBroker, *, queue: str | None = None) -> None:
        self.broker = broker
        self.queue = queue
        self.kind = kind_of(broker)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._own = OwnRedis(broker) if self.kind is not BrokerKind.OTHER else None

    @property
    def middleware(self) -> Z4JTaskiqMiddleware | None:
        """Our middleware on the broker, while it is there."""
        return middleware_of(self.broker)

    @property
    def server(self) -> tuple[object, ...]:
        """Equal for two Redis brokers of the same database."""
        return self._own.server if self._own is not None else (id(self.broker),)

    def redis(self) -> RedisClient:
        """Our own client, for the running loop.

        Raises:
            CommandError: `unsupported`: not a Redis list or stream broker.
        """
        if self._own is None:
            raise CommandError(
                "unsupported", f"{type(self.broker).__name__} cannot be asked for its messages"
            )
        return self._own.client()

    def broker_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop that the broker belongs to.

        Raises:
            CommandError: `refused`: none is known, or it has stopped.
        """
        middleware = self.middleware
        candidates = (self.loop, middleware.presence.loop if middleware is not None else None)
        for loop in candidates:
            if loop is not None and loop.is_running():
                return loop
        raise CommandError(
            "refused",
            f"the event loop of {type(self.broker).__name__} is not known in this process: "
            "its startup() was not called, or its loop has stopped",
        )

    def queue_keys(self) -> list[str]:
        """Redis keys of the queues known in this process, the main one first."""
        names = dict.fromkeys(known_keys(self.broker))
        middleware = self.middleware
        if middleware is not None:
            names.update(dict.fromkeys(middleware.seen_queues))
        return list(names)

    def shown(self, key: str) -> str:
        """How events call the queue of a key."""
        return self.queue if self.queue and key == main_queue(self.broker) else key

    def key_of(self, queue: str) -> str | None:
        """The key of a queue that an operator named; None when it is not known here."""
        return next((key for key in self.queue_keys() if queue in (key, self.shown(key))), None)

    def running(self, task_id: str) -> Run | None:
        """The task's run in this process, if it has one."""
        middleware = self.middleware
        return middleware.running.get(task_id) if middleware is not None else None

    def decode(self, raw: bytes) -> TaskiqMessage | None:
        """A waiting message, or None if it cannot be read: the worker would only log it, too."""
        try:
            return self.broker.formatter.loads(raw)
        except Exception:  # noqa: BLE001 - formatters and serialisers are the user's: any error
            return None

    def match(self, task_id: str) -> Match:
        """Decodes a message only if it may be this task's."""
        plain = isinstance(self.broker.serializer, JSONSerializer)
        needle = json.dumps(task_id)[1:-1].encode()

        def matching(raw: bytes) -> TaskiqMessage | None:
            if plain and needle not in raw and task_id.encode() not in raw:
                return None
            message = self.decode(raw)
            return message if message is not None and message.task_id == task_id else None

        return matching

    async def aclose(self) -> None:
        """Close our own connections. On the loop that used them."""
        if self._own is not None:
            await self._own.aclose()
