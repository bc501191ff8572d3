from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from z4j_fastapi.errors import Failure, RemoteProtocolError, TransportError
from z4j_fastapi.observability.tracing import Tracing


class FakeMetrics:
    def __init__(self):
        self.connects = []
        self.commands = []

    def connect_ended(self, outcome):
        self.connects.append(outcome)

    def command_finished(self, **what):
        self.commands.append(what)


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def metrics():
    return FakeMetrics()


@pytest.fixture
def provider(spans):
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(spans))
    yield made
    made.shutdown()


@pytest.fixture
def tracing(provider, metrics):
    return Tracing(metrics=metrics, tracer_provider=provider)


def _only(spans):
    (span,) = spans.get_finished_spans()
    return span


def test_connect_when_it_succeeds_then_is_a_span_with_the_session(tracing, spans, metrics):
    with tracing.connect() as attempt:
        attempt.connected("3f0c")

    span = _only(spans)
    assert span.name == "z4j.connect"
    assert dict(span.attributes) == {"z4j.session_id": "3f0c", "z4j.connect.outcome": "connected"}
    assert span.status.is_ok
    assert metrics.connects == ["connected"]


def test_connect_when_the_transport_fails_then_the_span_says_why(tracing, spans, metrics):
    error = TransportError("x" * 1000, failure=Failure.AUTH, close_code=4401, http_status=401)
    with pytest.raises(TransportError):
        with tracing.connect():
            raise error

    span = _only(spans)
    assert dict(span.attributes) == {
        "z4j.failure": "auth",
        "z4j.close_code": 4401,
        "http.response.status_code": 401,
        "z4j.connect.outcome": "auth",
    }
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "x" * 300
    assert metrics.connects == ["auth"]


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (RemoteProtocolError("bad frame"), "bad frame"),
        (ValueError("user's data"), "ValueError"),
    ],
)
def test_connect_when_something_else_fails_then_shows_only_our_own_words(
    tracing, spans, metrics, error, description
):
    with pytest.raises(type(error)):
        with tracing.connect():
            raise error

    span = _only(spans)
    assert span.status.description == description
    assert span.events == ()  # no exception event: it would hold text and traceback
    assert metrics.connects == ["transient"]


def test_connect_when_cancelled_or_left_then_counts_as_cancelled(tracing, spans, metrics):
    with pytest.raises(asyncio.CancelledError):
        with tracing.connect():
            raise asyncio.CancelledError
    with tracing.connect():
        pass

    assert metrics.connects == ["cancelled", "cancelled"]
    assert all(span.status.is_ok for span in spans.get_finished_spans())


def test_command_when_finished_then_span_and_duration_agree(tracing, spans, metrics):
    with tracing.command("retry_task", "arq") as span:
        span.finish(status="success", seconds=1.5)
    with tracing.command("cancel_task", None) as span:
        span.finish(status="timeout", seconds=2.0)

    good, bad = spans.get_finished_spans()
    assert good.name == bad.name == "z4j.command"
    assert dict(good.attributes) == {
        "z4j.command.action": "retry_task",
        "z4j.engine": "arq",
        "z4j.command.outcome": "success",
    }
    assert bad.status.description == "timeout"
    assert metrics.commands == [
        {"action": "retry_task", "engine": "arq", "outcome": "success", "seconds": 1.5},
        {"action": "cancel_task", "engine": None, "outcome": "timeout", "seconds": 2.0},
    ]


def test_command_when_words_are_unknown_then_attributes_are_bounded(tracing, spans):
    with tracing.command("x" * 5000, "y" * 5000) as span:
        span.finish(status="z" * 5000, seconds=0)

    assert set(_only(spans).attributes.values()) == {"other"}


def test_spans_when_opened_inside_a_request_then_are_roots_and_current(tracing, spans, provider):
    with provider.get_tracer("host").start_as_current_span("request") as request:
        with tracing.command("retry_task", "arq") as span:
            inside = trace.get_current_span().get_span_context().span_id
            span.finish(status="success", seconds=0)
        assert trace.get_current_span() is request

    command = next(s for s in spans.get_finished_spans() if s.name == "z4j.command")
    assert command.parent is None
    assert command.context.span_id == inside
    assert command.context.trace_id != request.get_span_context().trace_id


def test_spans_when_there_is_no_sdk_then_nothing_is_recorded_but_metrics_are(metrics):
    tracing = Tracing(metrics=metrics)

    with tracing.connect() as attempt:
        attempt.connected("s")
        assert not trace.get_current_span().is_recording()
    with tracing.command("retry_task", "arq") as span:
        span.finish(status="success", seconds=1)

    assert metrics.connects == ["connected"]
    assert len(metrics.commands) == 1
