"""The agent's own connection to an arq Redis, and what it reads there.

Commands run on the agent's loop. A pool of the host's belongs to the host's loop, so the agent
opens its own connections, to the same place and with the same serialisers.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arq.connections import ArqRedis
from arq.constants import (
    default_queue_name,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
)
from arq.constants import (
    expires_extra_ms as default_expires_extra_ms,
)
from arq.jobs import serialize_result
from redis.asyncio import ConnectionPool
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from z4j_fastapi.engines.arq.carrier import is_stored
from z4j_fastapi.engines.arq.endpoint import Endpoint, endpoint_of_pool, endpoint_of_settings
from z4j_fastapi.engines.arq.enqueue import OWNER
from z4j_fastapi.engines.wrapping import original_of
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.routing import Subscriber

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0

#: Not in arq 0.25.
_RESULT_HAS_ID = "job_id" in inspect.signature(serialize_result).parameters


@dataclass(slots=True, kw_only=True)
class Codec:
    """How jobs are written: learnt from a pool or worker of the host's.

    Args:
        serializer, deserializer: The user's own; None for arq's default, pickle.
        expires_extra_ms: How long a job may wait beyond its due time.
        is_known: Seen on a pool or worker, not assumed.
    """

    serializer: Callable[[dict[str, Any]], bytes] | None = None
    deserializer: Callable[[bytes], dict[str, Any]] | None = None
    expires_extra_ms: int = default_expires_extra_ms
    is_known: bool = False

    def learn(self, source: Any) -> None:
        """Take over the serialisers of `source`, an `ArqRedis` or a `Worker`."""
        self.serializer = original_of(source.job_serializer)
        self.deserializer = original_of(source.job_deserializer)
        self.expires_extra_ms = source.expires_extra_ms
        self.is_known = True

    def decode(self, raw: bytes) -> Mapping[str, Any]:
        """The dict of a job or result.

        Raises:
            CommandError: `failed`: it was written by another serialiser, or its arguments are of
                classes that this process cannot import.
        """
        deserialize: Callable[[bytes], Any] = self.deserializer or pickle.loads
        try:
            found = deserialize(raw)
            job: Mapping[str, Any] | None = found if is_stored(found) else None
        except Exception as error:  # noqa: BLE001 - see below
            # A foreign serialiser and the constructors of the arguments may raise anything.
            raise self._undecodable(type(error).__name__) from None
        if job is None:
            raise self._undecodable("not a job")
        return job

    def _undecodable(self, why: str) -> CommandError:
        advice = "" if self.is_known else "; give the pool itself, which has its serialiser"
        return CommandError("failed", f"this process cannot decode what arq stored ({why}){advice}")

    def encode_cancelled(
        self, job_id: str, job: Mapping[str, Any], *, queue: str, now_ms: int
    ) -> bytes | None:
        """The result of a job that was cancelled while it waited, as a worker would write it."""
        named: dict[str, Any] = {"serializer": self.serializer}
        if _RESULT_HAS_ID:
            named["job_id"] = job_id
        return serialize_result(
            str(job.get("f", "<unknown>")),
            job.get("a", ()),
            job.get("k", {}),
            job.get("t") or 0,
            job.get("et") or now_ms,
            False,
            asyncio.CancelledError(),
            now_ms,
            now_ms,
            f"{job_id}:{job.get('f')}",
            queue,
            **named,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What Redis holds of one job.

    Args:
        result: Its stored result, still encoded.
        job: Its definition, still encoded.
        in_progress: A worker has it.
        queue: The queue whose set holds it; running jobs are in it too.
        score: When it is due, POSIX milliseconds.
    """

    result: bytes | None
    job: bytes | None
    in_progress: bool
    queue: str | None
    score: float | None

    @property
    def is_waiting(self) -> bool:
        """Queued or deferred, and no worker has it."""
        return self.queue is not None and self.job is not None and not self.in_progress

    @property
    def is_running(self) -> bool:
        """A worker has it. The key outlives a cron job by a minute; its definition does not."""
        return self.in_progress and self.job is not None


class Broker:
    """One Redis as one adapter sees it. Methods that talk to Redis belong on the agent's loop.

    Args:
        owner: The adapter, which hears of what the agent itself enqueues.
    """

    def __init__(self, owner: Subscriber) -> None:
        self._owner = owner
        self._source: Any = None
        self._client: tuple[Any, asyncio.AbstractEventLoop, int] | None = None
        self._retired: list[Any] = []
        self._is_stale = False
        self.endpoint: Endpoint | None = None
        self.codec = Codec()

    @property
    def source(self) -> Any:
        """The settings or pool in use; None while there is none."""
        return self._source

    def use(self, source: Any) -> None:
        """Talk to what `source` talks to.

        Args:
            source: `arq.connections.RedisSettings`, or an `ArqRedis` pool, which is only read.
        """
        self._source = source
        if isinstance(source, ArqRedis):
            self.endpoint = endpoint_of_pool(source)
            self.codec.learn(source)
        else:
            self.endpoint = endpoint_of_settings(source)
        # Another thread may do this: the loop that owns the client sees it at its next use.
        self._is_stale = True

    async def client(self) -> Any:
        """The agent's own `ArqRedis`, opened on first use, again on another loop or in a child.

        Raises:
            CommandError: `failed`: there is nothing to connect to.
        """
        if self._source is None:
            raise CommandError("failed", "arq: this process was given no Redis to talk to")
        loop = asyncio.get_running_loop()
        if self._client is not None:
            client, its_loop, its_pid = self._client
            if its_loop is loop and its_pid == os.getpid():
                if not self._is_stale:
                    return self._with_codec(client)
                self._retired.append(client)  # commands under way may still use it
            # Else a stopped loop's sockets, or the parent's: not ours to close.
        self._is_stale = False
        source = self._source
        client = _from_pool(source) if isinstance(source, ArqRedis) else _from_settings(source)
        client.default_queue_name = default_queue_name
        setattr(client, OWNER, self._owner)
        self._client = (client, loop, os.getpid())
        return self._with_codec(client)

    def _with_codec(self, client: Any) -> Any:
        """`client`, writing jobs as is known by now."""
        if original_of(client.job_serializer) is not self.codec.serializer:
            client.job_serializer = self.codec.serializer
        client.job_deserializer = self.codec.deserializer
        client.expires_extra_ms = self.codec.expires_extra_ms
        return client

    async def aclose(self) -> None:
        """Close the agent's own connections. Idempotent."""
        held, self._client = self._client, None
        retired, self._retired = self._retired, []
        if held is not None and held[2] == os.getpid():
            for client in (*retired, held[0]):
                await client.aclose(close_connection_pool=True)

    async def facts(self, job_id: str, queues: Iterable[str]) -> JobFacts:
        """What Redis holds of `job_id`, in one round trip.

        Args:
            job_id: arq's id.
            queues: Where to look for it.
        """
        names = list(queues)
        client = await self.client()
        async with client.pipeline(transaction=True) as pipe:
            pipe.get(result_key_prefix + job_id)
            pipe.get(job_key_prefix + job_id)
            pipe.exists(in_progress_key_prefix + job_id)
            for name in names:
                pipe.zscore(name, job_id)
            result, job, in_progress, *scores = await pipe.execute()
        held = [
            (name, score) for name, score in zip(names, scores, strict=True) if score is not None
        ]
        queue, score = held[0] if held else (None, None)
        return JobFacts(
            result=result, job=job, in_progress=bool(in_progress), queue=queue, score=score
        )

    async def running(self, job_ids: Sequence[str]) -> int:
        """How many of `job_ids` a worker has, in one round trip."""
        if not job_ids:
            return 0
        client = await self.client()
        return int(await client.exists(*(in_progress_key_prefix + one for one in job_ids)))


@asynccontextmanager
async def broker_errors(*, indeterminate: bool = False) -> AsyncGenerator[None, None]:
    """Redis trouble as a `CommandError`.

    Args:
        indeterminate: What was sent may have had its effect.
    """
    try:
        yield
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        raise CommandError(
            "failed",
            f"Redis did not carry it out ({type(error).__name__})",
            indeterminate=indeterminate,
        ) from error


def _from_settings(settings: Any) -> Any:
    """A client like `arq.create_pool` makes, without its ping and its seconds of retries."""
    arguments: dict[str, Any] = {
        "db": settings.database,
        "username": settings.username,
        "password": settings.password,
        "encoding": "utf8",
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": min(settings.conn_timeout or 1, _CONNECT_SECONDS),
    }
    for name in ("retry", "retry_on_timeout", "retry_on_error", "max_connections"):
        value = getattr(settings, name, None)  # not in arq 0.25
        if value:
            arguments[name] = value
    if settings.sentinel:
        arguments.pop("max_connections", None)
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py
            sentinels=settings.host, ssl=settings.ssl, **arguments
        )
        return sentinel.master_for(settings.sentinel_master, redis_class=ArqRedis)
    for name in ("keyfile", "certfile", "cert_reqs", "ca_certs", "ca_data", "check_hostname"):
        arguments[f"ssl_{name}"] = getattr(settings, f"ssl_{name}")
    return ArqRedis(
        host=settings.host,
        port=settings.port,
        unix_socket_path=settings.unix_socket_path,
        ssl=settings.ssl,
        **arguments,
    )


def _from_pool(pool: Any) -> Any:
    """A client to where `pool` connects, with connections of its own."""
    connections = pool.connection_pool
    arguments = dict(connections.connection_kwargs)
    arguments["decode_responses"] = False
    arguments["socket_timeout"] = _ANSWER_SECONDS
    arguments["socket_connect_timeout"] = min(
        arguments.get("socket_connect_timeout") or _CONNECT_SECONDS, _CONNECT_SECONDS
    )
    manager = getattr(connections, "sentinel_manager", None)
    if manager is not None:
        arguments.pop("connection_pool", None)  # the link back to the host's own pool
        sentinels = [one.connection_pool.connection_kwargs for one in manager.sentinels]
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py
            sentinels=[(one["host"], one["port"]) for one in sentinels],
            sentinel_kwargs=manager.sentinel_kwargs,
            **arguments,
        )
        return sentinel.master_for(connections.service_name, redis_class=ArqRedis)
    return ArqRedis(ConnectionPool(connection_class=connections.connection_class, **arguments))
