"""Which Redis database a pool, settings object or worker uses, as a comparable value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One Redis database; equal values mean the same one.

    Args:
        hosts: Host and port of the server, or of every sentinel; empty for a unix socket.
        database: Number of the database.
        path: Path of the unix socket.
        master: Name of the sentinels' master.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    database: int = 0
    path: str | None = None
    master: str | None = None


# arq's and redis-py's objects are only partly typed: Any at this edge.


def endpoint_of_settings(settings: Any) -> Endpoint:
    """The endpoint that an `arq.connections.RedisSettings` describes."""
    database = int(settings.database or 0)
    if settings.unix_socket_path:
        return Endpoint(path=str(settings.unix_socket_path), database=database)
    if settings.sentinel:
        return Endpoint(
            hosts=tuple(sorted(_host(host, port) for host, port in settings.host)),
            database=database,
            master=settings.sentinel_master,
        )
    return Endpoint(hosts=(_host(settings.host, settings.port),), database=database)


def endpoint_of_pool(pool: Any) -> Endpoint | None:
    """The endpoint that an `ArqRedis` pool is connected to; None where that cannot be told."""
    connections = getattr(pool, "connection_pool", None)
    arguments: Any = getattr(connections, "connection_kwargs", None)
    if arguments is None:
        return None
    database = int(arguments.get("db") or 0)
    sentinels = getattr(getattr(connections, "sentinel_manager", None), "sentinels", None)
    if sentinels is not None:
        found = (endpoint_of_pool(sentinel) for sentinel in sentinels)
        hosts = sorted(host for endpoint in found if endpoint for host in endpoint.hosts)
        return Endpoint(
            hosts=tuple(hosts),
            database=database,
            master=getattr(connections, "service_name", None),
        )
    path = arguments.get("path")
    if path:
        return Endpoint(path=str(path), database=database)
    return Endpoint(
        hosts=(_host(arguments.get("host") or "localhost", arguments.get("port") or 6379),),
        database=database,
    )


def endpoint_of_worker(worker: Any) -> Endpoint | None:
    """The endpoint that a `Worker` takes its jobs from."""
    if worker.redis_settings is not None:
        return endpoint_of_settings(worker.redis_settings)
    return endpoint_of_pool(worker._pool)  # noqa: SLF001 - `pool` is a cast of it


def _host(host: object, port: object) -> tuple[str, int]:
    name = str(host).lower()
    return ("localhost" if name in _LOCAL else name, int(str(port)))
