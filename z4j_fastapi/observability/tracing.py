"""OpenTelemetry spans, through the API alone: no-op without an SDK.

    z4j.connect   one attempt, from the name look-up to `hello_ack`
    z4j.command   one command, from the claim to its outcome

Each is the root of a trace of its own: the agent's thread must not continue the trace of whatever
request happened to start it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from z4j_fastapi._version import __version__
from z4j_fastapi.errors import TransportError, Z4JError
from z4j_fastapi.observability.metrics import (
    SCOPE,
    Metrics,
    action_label,
    engine_label,
    outcome_label,
)

_MAX_DESCRIPTION = 300


class ConnectSpan:
    """A connection attempt that is under way."""

    __slots__ = ("_span", "session_id")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.session_id: str | None = None

    def connected(self, session_id: str) -> None:
        """The brain has answered the hello.

        Args:
            session_id: From `hello_ack`.
        """
        self.session_id = session_id
        self._span.set_attribute("z4j.session_id", session_id[:64])


class CommandSpan:
    """A command that is being carried out."""

    __slots__ = ("_action", "_engine", "_metrics", "_span")

    def __init__(self, span: Span, *, metrics: Metrics, action: str, engine: str | None) -> None:
        self._span = span
        self._metrics = metrics
        self._action = action
        self._engine = engine

    def finish(self, *, status: str, seconds: float) -> None:
        """How it ended.

        Args:
            status: `success`, `failed`, `stopped` or the reason of a `CommandError`.
            seconds: How long it ran.
        """
        outcome = outcome_label(status)
        self._span.set_attribute("z4j.command.outcome", outcome)
        if status != "success":
            self._span.set_status(Status(StatusCode.ERROR, outcome))
        self._metrics.command_finished(
            action=self._action, engine=self._engine, outcome=status, seconds=seconds
        )


class Tracing:
    """Opens the spans, and counts what they time. The agent's loop.

    Build it on the caller's thread: the API loads its context implementation at first use.

    Args:
        metrics: Gets connection outcomes and command durations.
        tracer_provider: None for the process's own, also one that is set later.
    Spec: design.md section 9.
    """

    def __init__(self, *, metrics: Metrics, tracer_provider: TracerProvider | None = None) -> None:
        self._metrics = metrics
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        otel_context.detach(otel_context.attach(Context()))

    @contextmanager
    def connect(self) -> Generator[ConnectSpan, None, None]:
        """Around one attempt. Left without `connected()` and without an error it was cancelled."""
        outcome = "cancelled"
        with self._root("z4j.connect") as span:
            attempt = ConnectSpan(span)
            try:
                yield attempt
                if attempt.session_id is not None:
                    outcome = "connected"
            except Z4JError as error:
                outcome = "transient"
                if isinstance(error, TransportError):
                    outcome = error.failure.value
                    self._describe(span, error)
                # Our own messages hold no secrets; other people's exceptions are not shown.
                span.set_status(Status(StatusCode.ERROR, error.message[:_MAX_DESCRIPTION]))
                raise
            except Exception as error:
                outcome = "transient"
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
            finally:
                span.set_attribute("z4j.connect.outcome", outcome)
                self._metrics.connect_ended(outcome)

    @contextmanager
    def command(self, action: str, engine: str | None) -> Generator[CommandSpan, None, None]:
        """Around one command; call `finish` on what is given.

        Args:
            action: Wire name.
            engine: Engine named by the command, None when it names none.
        """
        with self._root("z4j.command") as span:
            span.set_attribute("z4j.command.action", action_label(action))
            span.set_attribute("z4j.engine", engine_label(engine))
            yield CommandSpan(span, metrics=self._metrics, action=action, engine=engine)

    def _root(self, name: str) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(
            name,
            context=Context(),
            kind=SpanKind.CLIENT if name == "z4j.connect" else SpanKind.CONSUMER,
            # Exceptions would be recorded with their text and traceback: the host's data.
            record_exception=False,
            set_status_on_exception=False,
        )

    @staticmethod
    def _describe(span: Span, error: TransportError) -> None:
        span.set_attribute("z4j.failure", error.failure.value)
        if error.close_code is not None:
            span.set_attribute("z4j.close_code", error.close_code)
        if error.http_status is not None:
            span.set_attribute("http.response.status_code", error.http_status)
