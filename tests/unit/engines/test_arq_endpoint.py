"""Settings, pools and workers that mean the same Redis database."""

from __future__ import annotations

import asyncio

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from z4j_fastapi.engines.arq.endpoint import (
    Endpoint,
    endpoint_of_pool,
    endpoint_of_settings,
    endpoint_of_worker,
)


async def job(ctx: object) -> None: ...


@pytest.mark.parametrize(
    ("settings", "pool", "expected"),
    [
        (
            RedisSettings(),
            ArqRedis(),
            Endpoint(hosts=(("localhost", 6379),)),
        ),
        (
            RedisSettings(host="127.0.0.1", port=7, database=3),
            ArqRedis(host="localhost", port=7, db=3),
            Endpoint(hosts=(("localhost", 7),), database=3),
        ),
        (
            RedisSettings(host="Redis.Internal", password="secret"),
            ArqRedis(host="redis.internal", password="other"),
            Endpoint(hosts=(("redis.internal", 6379),)),
        ),
        (
            RedisSettings(unix_socket_path="/run/redis.sock", database=1),
            ArqRedis(unix_socket_path="/run/redis.sock", db=1),
            Endpoint(path="/run/redis.sock", database=1),
        ),
    ],
)
def test_endpoint_when_settings_and_pool_lead_to_the_same_place_then_it_is_equal(
    settings: RedisSettings, pool: ArqRedis, expected: Endpoint
) -> None:
    assert endpoint_of_settings(settings) == endpoint_of_pool(pool) == expected
    assert "secret" not in repr(expected)


def test_endpoint_when_databases_differ_then_it_differs() -> None:
    assert endpoint_of_settings(RedisSettings()) != endpoint_of_settings(RedisSettings(database=1))


def test_endpoint_when_sentinels_are_named_then_they_and_the_master_count() -> None:
    hosts = [("b", 2), ("a", 1)]
    settings = RedisSettings(host=hosts, sentinel=True, sentinel_master="main")
    assert endpoint_of_settings(settings) == Endpoint(
        hosts=(("a", 1), ("b", 2)), database=0, master="main"
    )


def test_endpoint_when_a_pool_is_of_an_unknown_shape_then_none() -> None:
    assert endpoint_of_pool(object()) is None


def test_endpoint_when_a_worker_has_settings_or_a_pool_then_they_count() -> None:
    async def scenario() -> None:
        settings = RedisSettings(port=7)
        worker = Worker(functions=[job], redis_settings=settings, handle_signals=False)
        assert endpoint_of_worker(worker) == endpoint_of_settings(settings)
        pool = ArqRedis(port=8)
        worker = Worker(functions=[job], redis_pool=pool, handle_signals=False)
        assert endpoint_of_worker(worker) == endpoint_of_pool(pool)

    asyncio.run(scenario())
