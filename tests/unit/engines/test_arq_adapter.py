"""The adapter's construction, and what it says of itself without a Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func
from support.arq_engine import FakeContext, RecordingSink, attachment

from z4j_fastapi.engines.arq.adapter import CAPABILITIES, ArqEngineAdapter
from z4j_fastapi.engines.base import COMMAND_METHODS
from z4j_fastapi.errors import CommandError, ConfigError
from z4j_fastapi.protocol.commands import CancelTask


def test_construction_when_nothing_is_given_then_it_advertises_nothing() -> None:
    adapter = ArqEngineAdapter()
    assert adapter.name == "arq"
    assert adapter.capabilities() == ()
    assert adapter.tasks() == ()
    assert adapter.known_queues() == ("arq:queue",)
    assert asyncio.run(adapter.queues()) == {}
    assert asyncio.run(adapter.workers()) == {}
    asyncio.run(adapter.aclose())
    adapter.detach()


@pytest.mark.parametrize("source", [RedisSettings(), ArqRedis()])
def test_capabilities_when_it_has_a_redis_then_every_token_has_its_method(source: Any) -> None:
    adapter = ArqEngineAdapter(redis_settings=source)
    assert adapter.capabilities() == CAPABILITIES
    for token, method in COMMAND_METHODS.values():
        if token is None or token in CAPABILITIES:
            assert asyncio.iscoroutinefunction(getattr(adapter, method))
        else:
            assert not hasattr(adapter, method)


@pytest.mark.parametrize(
    ("given", "queues"),
    [(None, ("arq:queue",)), ("one", ("one",)), (["one", "two", "one"], ("one", "two"))],
)
def test_queues_when_one_or_several_are_named_then_those_are_known(
    given: Any, queues: tuple[str, ...]
) -> None:
    adapter = ArqEngineAdapter(queue_name=given)
    assert adapter.known_queues() == queues


def test_functions_when_names_are_given_then_they_are_the_tasks() -> None:
    adapter = ArqEngineAdapter(function_names=iter(["a", "b", "a"]))
    assert [task.name for task in adapter.tasks()] == ["a", "b"]
    assert adapter.known_functions() == {"a", "b"}
    assert ArqEngineAdapter(function_names="one").known_functions() == {"one"}


async def send_mail(ctx: Any) -> None: ...


def test_functions_when_they_are_given_themselves_then_they_are_named_as_arq_does() -> None:
    given = [send_mail, func(send_mail, name="mail"), "text"]
    adapter = ArqEngineAdapter(function_names=given)
    assert adapter.known_functions() == {"send_mail", "mail", "text"}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"redis_settings": "redis://localhost"}, "arq_redis_settings"),
        ({"function_names": [1]}, "arq_function_names"),
        ({"queue_name": ["x", ""]}, "arq_queue_name"),
    ],
)
def test_construction_when_an_argument_cannot_be_used_then_the_field_is_named(
    arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        ArqEngineAdapter(**arguments)


def test_redaction_when_given_then_it_is_accepted() -> None:
    ArqEngineAdapter(redaction=object())


def test_pool_when_given_then_its_serialisers_are_used() -> None:
    def dumps(data: dict[str, Any]) -> bytes:
        return b""

    def loads(raw: bytes) -> dict[str, Any]:
        return {}

    pool = ArqRedis(job_serializer=dumps, job_deserializer=loads, expires_extra_ms=7)
    codec = ArqEngineAdapter(redis_settings=pool).broker.codec
    assert (codec.serializer, codec.deserializer, codec.expires_extra_ms) == (dumps, loads, 7)


def test_command_when_there_is_no_redis_then_it_fails_clearly() -> None:
    command = CancelTask(id="c", action="cancel_task", engine="arq", task_id="x")
    with pytest.raises(CommandError, match="no Redis"):
        asyncio.run(ArqEngineAdapter().cancel_task(command, FakeContext()))


def test_attach_when_done_twice_then_once() -> None:
    adapter, sink = ArqEngineAdapter(), RecordingSink()
    lent = attachment(sink)
    adapter.attach(lent)
    adapter.attach(lent)
    assert adapter.attachment is lent
    adapter.detach()
    adapter.detach()
    assert adapter.attachment is None
