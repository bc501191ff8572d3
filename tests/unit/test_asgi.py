from __future__ import annotations

import asyncio

import pytest

from z4j_fastapi import correlation
from z4j_fastapi.asgi import CorrelationMiddleware
from z4j_fastapi.correlation import Correlation

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def call(scope, error=None):
    """What is current inside the application."""
    seen = []

    async def app(given_scope, receive, send):
        assert given_scope is scope
        assert (receive, send) == ("receive", "send")
        seen.append(correlation.current())
        if error is not None:
            raise error

    async def main():
        before = Correlation(task_id="outside")
        with correlation.use(before):
            try:
                await CorrelationMiddleware(app)(scope, "receive", "send")
            finally:
                assert correlation.current() is before

    asyncio.run(main())
    return seen[0]


def request(*headers, kind="http"):
    return call({"type": kind, "headers": list(headers)})


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_request_with_both_headers_has_both_ids(kind):
    here = request((b"traceparent", TRACEPARENT), (b"x-request-id", b"r-1"), kind=kind)
    assert here.traceparent == TRACEPARENT.decode()
    assert here.request_id == "r-1"
    assert here.task_id is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_request_without_an_id_gets_one_of_its_own(kind):
    one, two = request(kind=kind), request(kind=kind)
    assert one.request_id != two.request_id
    assert 1 <= len(one.request_id) <= 100
    assert one.traceparent is None


def test_request_without_a_list_of_headers_is_served():
    assert call({"type": "http"}).request_id


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"rubbish",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + b"0",
        TRACEPARENT + b"\n",
        TRACEPARENT.replace(b"-", b"_"),
        b"\xff" * 55,
    ],
)
def test_traceparent_when_malformed_is_left_out(value):
    assert request((b"traceparent", value)).traceparent is None


@pytest.mark.parametrize("value", [b"", b"with space", b"x" * 101, b"new\nline", b"\xc3\xbc"])
def test_request_id_when_unusable_is_replaced(value):
    assert request((b"x-request-id", value)).request_id.encode() != value


@pytest.mark.parametrize("value", [b"x", b"x" * 100, b'!"#~'])
def test_request_id_when_printable_is_kept(value):
    assert request((b"x-request-id", value)).request_id.encode() == value


def test_lifespan_scope_passes_through_without_a_correlation():
    assert call({"type": "lifespan"}) == Correlation(task_id="outside")


def test_correlation_when_the_application_raises_is_put_back():
    with pytest.raises(ValueError):
        call({"type": "http"}, error=ValueError())
