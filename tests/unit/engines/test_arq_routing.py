"""Which adapter hears of what."""

from __future__ import annotations

from typing import Any

import pytest
from support.arq_engine import RecordingSink, attachment

from z4j_fastapi.engines.arq.endpoint import Endpoint
from z4j_fastapi.engines.arq.routing import Routes
from z4j_fastapi.engines.base import Attachment

HERE = Endpoint(hosts=(("localhost", 6379),))
THERE = Endpoint(hosts=(("localhost", 6379),), database=1)


class Logger:
    def __init__(self) -> None:
        self.warnings: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.warnings.append({"event": event, **fields})


class Adapter:
    def __init__(
        self,
        endpoint: Endpoint | None = None,
        *queues: str,
        sink: RecordingSink | None = None,
        is_attached: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.queue_names = queues
        self.logger = Logger()
        lent = attachment(sink or RecordingSink())
        self.attachment = (
            Attachment(
                sink=lent.sink,
                guard=lent.guard,
                logger=self.logger,  # type: ignore[arg-type]
                clock=lent.clock,
            )
            if is_attached
            else None
        )

    def learn(self, pool: Any, endpoint: Endpoint | None) -> None: ...


def found(routes: Routes, endpoint: Endpoint | None, queue: str) -> list[Any]:
    return [one.sink for one in routes.find(endpoint, queue)]


def sinks(*adapters: Adapter) -> list[Any]:
    return [one.attachment.sink for one in adapters if one.attachment is not None]


def with_adapters(*adapters: Adapter) -> Routes:
    routes = Routes()
    for adapter in adapters:
        routes.add(adapter)
    return routes


@pytest.mark.parametrize("endpoint", [HERE, THERE, None])
def test_find_when_there_is_one_adapter_then_it_hears_everything(
    endpoint: Endpoint | None,
) -> None:
    for only in (Adapter(), Adapter(HERE), Adapter(HERE, "mine")):
        assert found(with_adapters(only), endpoint, "other") == sinks(only)


def test_find_when_connection_and_queue_match_then_only_those_hear() -> None:
    one, two, far = Adapter(HERE, "one"), Adapter(HERE, "two"), Adapter(THERE, "one")
    routes = with_adapters(one, two, far)
    assert found(routes, HERE, "one") == sinks(one)
    assert found(routes, HERE, "two") == sinks(two)
    assert found(routes, THERE, "one") == sinks(far)


def test_find_when_two_watch_the_same_queue_then_both_hear() -> None:
    one, two = Adapter(HERE, "one"), Adapter(HERE, "one")
    assert found(with_adapters(one, two), HERE, "one") == sinks(one, two)


def test_find_when_one_named_no_queue_then_it_hears_what_nobody_named() -> None:
    named, open_to_any, far = Adapter(HERE, "one"), Adapter(HERE), Adapter(THERE)
    routes = with_adapters(named, open_to_any, far)
    assert found(routes, HERE, "one") == sinks(named)
    assert found(routes, HERE, "else") == sinks(open_to_any)


def test_find_when_only_one_has_the_connection_then_it_hears_other_queues_too() -> None:
    one, far = Adapter(HERE, "one"), Adapter(THERE, "two")
    assert found(with_adapters(one, far), HERE, "else") == sinks(one)


def test_find_when_all_share_a_sink_then_it_hears_once() -> None:
    sink = RecordingSink()
    one, two = Adapter(HERE, "one", sink=sink), Adapter(THERE, "two", sink=sink)
    routes = with_adapters(one, two)
    assert found(routes, HERE, "else") == [sink]
    assert found(routes, None, "else") == [sink]


def test_find_when_it_is_anybodys_guess_then_nobody_hears_and_it_is_said_once() -> None:
    one, two = Adapter(HERE, "one"), Adapter(HERE, "two")
    routes = with_adapters(one, two)
    assert found(routes, HERE, "else") == []
    assert found(routes, HERE, "else") == []
    assert [warning["queue"] for warning in one.logger.warnings] == ["else"]
    assert one.logger.warnings == two.logger.warnings


def test_find_when_adapters_come_and_go_then_the_version_rises() -> None:
    routes, one = Routes(), Adapter(HERE)
    versions = [routes.version]
    routes.add(one)
    versions.append(routes.version)
    routes.add(one)
    assert len(routes.subscribers) == 1
    routes.changed()
    versions.append(routes.version)
    routes.remove(one)
    routes.remove(one)
    versions.append(routes.version)
    assert versions == sorted(set(versions))
    assert routes.subscribers == ()
    assert routes.guard() is None


def test_find_when_an_adapter_is_not_attached_then_it_hears_nothing() -> None:
    routes = with_adapters(Adapter(HERE, is_attached=False))
    assert found(routes, HERE, "one") == []
    assert routes.guard() is None
