"""The agent's own Redis connections, made like the broker's.

A broker's pool belongs to the loop that started it, and a blocked worker may use it up; ours are
few, short-lived in their waits, and made on the loop that uses them.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker

_SECONDS = 5.0

#: What leads to the server. Newer redis-py keeps objects of its pool in the same mapping; they
#: must not be shared between pools.
_KEPT = frozenset(
    {
        "host",
        "port",
        "db",
        "path",
        "username",
        "password",
        "credential_provider",
        "protocol",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_type",
    }
)


class RedisPubSub(Protocol):
    """The subscriptions of one connection, as far as we use them."""

    async def subscribe(self, *channels: str) -> None:
        """Listen to channels."""
        ...

    async def get_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0
    ) -> dict[str, Any] | None:
        """The next message, or None after `timeout` seconds."""
        ...

    async def aclose(self) -> None:
        """Give the connection back."""
        ...


class RedisClient(Protocol):
    """The commands we use; answers are bytes (`decode_responses` is off)."""

    async def llen(self, name: str) -> int:
        """Length of a list."""
        ...

    async def lrange(self, name: str, start: int, end: int) -> list[bytes]:
        """Elements of a list, both ends included."""
        ...

    async def lrem(self, name: str, count: int, value: bytes) -> int:
        """Remove equal elements; how many were removed."""
        ...

    async def xlen(self, name: str) -> int:
        """Entries of a stream, acknowledged ones included."""
        ...

    async def xrange(
        self,
        name: str,
        min: str | bytes,  # noqa: A002 - redis-py's name
        max: str,  # noqa: A002 - redis-py's name
        count: int,
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries of a stream by id."""
        ...

    async def xinfo_groups(self, name: str) -> list[dict[str, Any]]:
        """Consumer groups of a stream."""
        ...

    async def exists(self, *names: str) -> int:
        """How many of the keys exist."""
        ...

    async def eval(self, script: str, numkeys: int, *arguments: str | bytes | int) -> Any:
        """Run a Lua script."""
        ...

    async def publish(self, channel: str, message: str) -> int:
        """Send to a channel; how many subscribers got it."""
        ...

    async def ping(self) -> bool:
        """Whether the server answers."""
        ...

    def pubsub(self) -> RedisPubSub:
        """Subscriptions on a connection of their own."""
        ...


class OwnRedis:
    """A small pool of our own to a broker's server, bound to the loop that uses it.

    Args:
        broker: A Redis broker of taskiq-redis.
    """

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None

    @property
    def server(self) -> tuple[object, ...]:
        """Equal for two brokers of the same database of the same server."""
        known = self._broker_pool().connection_kwargs
        return tuple(known.get(key) for key in ("host", "port", "path", "db"))

    def client(self) -> RedisClient:
        """A client for the running loop; made anew when the agent got another loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            redis = importlib.import_module("redis.asyncio")  # loaded by taskiq-redis already
            pool = redis.ConnectionPool(
                connection_class=self._broker_pool().connection_class, **self._settings()
            )
            self._client = redis.Redis(connection_pool=pool)
            self._loop = loop
        return cast("RedisClient", self._client)

    async def aclose(self) -> None:
        """Close the pool. On the loop that used it; on another one it is only let go."""
        client, loop = self._client, self._loop
        self._client = self._loop = None
        if client is not None and loop is asyncio.get_running_loop():
            await client.connection_pool.disconnect()

    def _broker_pool(self) -> Any:
        return cast("Any", self._broker).connection_pool

    def _settings(self) -> dict[str, Any]:
        pool = self._broker_pool()
        known: dict[str, Any] = pool.connection_kwargs
        if pool.connection_class.__module__.startswith("redis."):
            known = {
                key: value for key, value in known.items() if key in _KEPT or key.startswith("ssl_")
            }
        return {
            **known,
            "decode_responses": False,
            "socket_timeout": _SECONDS,
            "socket_connect_timeout": _SECONDS,
        }


def redis_errors() -> Sequence[type[BaseException]]:
    """What a Redis command raises when the server does not answer or refuses."""
    exceptions = importlib.import_module("redis.exceptions")
    return (exceptions.RedisError, OSError, asyncio.TimeoutError, TimeoutError)


@contextmanager
def reported(doing: str) -> Generator[None, None, None]:
    """Turn a Redis failure into a failed command that says what was being done.

    Raises:
        CommandError: `failed`.
    """
    try:
        yield
    except CommandError:
        raise
    except tuple(redis_errors()) as error:
        raise CommandError("failed", f"{doing}: {type(error).__name__}: {error}") from None
