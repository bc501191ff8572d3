"""What the running request or task is: trace context, request id, task lineage.

The ASGI wrapper sets it for a request, a worker hook for a task body; enqueue hooks read it and put
it into the message as a small carrier (spec: engines.md 2.2), so a child task's row leads back to
the request that caused it, without a change of task signatures.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Where the current code runs.

    Args:
        traceparent: W3C trace context of the request, 55 characters.
        request_id: The request's id, at most 100 characters.
        task_id: Id of the task whose body runs, None in a request.
        root_task_id: Id of the first task of the chain, None in a request.
        user_id, tenant_id: What the host application set; informational.
    """

    traceparent: str | None = None
    request_id: str | None = None
    task_id: str | None = None
    root_task_id: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None


_current: ContextVar[Correlation | None] = ContextVar("z4j_fastapi_correlation", default=None)


def current() -> Correlation | None:
    """The correlation of the running request or task, if there is one."""
    return _current.get()


def attach(correlation: Correlation | None) -> Token[Correlation | None]:
    """Make `correlation` current in this context; give the token to `detach`."""
    return _current.set(correlation)


def detach(token: Token[Correlation | None]) -> None:
    """Put back what was current before `attach`."""
    _current.reset(token)


@contextmanager
def use(correlation: Correlation | None) -> Generator[None, None, None]:
    """Make `correlation` current for the length of a `with`."""
    token = _current.set(correlation)
    try:
        yield
    finally:
        _current.reset(token)


def outgoing_carrier() -> dict[str, str]:
    """What to put into a message that is being enqueued now.

    Returns:
        `tp` traceparent, `rid` request id, `p` parent task id, `r` root task id; absent when
        unknown, so the mapping may be empty. Fits any serialiser: a flat dict of strings.
    """
    here = _current.get()
    carrier: dict[str, str] = {}
    traceparent = _otel_traceparent() or (here.traceparent if here else None)
    if traceparent:
        carrier["tp"] = traceparent
    if here is None:
        return carrier
    if here.request_id:
        carrier["rid"] = here.request_id
    if here.task_id:
        carrier["p"] = here.task_id
        carrier["r"] = here.root_task_id or here.task_id
    return carrier


def from_carrier(carrier: Mapping[str, object] | None, *, task_id: str) -> Correlation:
    """The correlation of a task body, from the message's carrier.

    Args:
        carrier: What `outgoing_carrier` wrote, perhaps damaged or None.
        task_id: Id of the task whose body will run.
    """
    found = carrier or {}

    def text(key: str, limit: int) -> str | None:
        value = found.get(key)
        return value if isinstance(value, str) and 0 < len(value) <= limit else None

    return Correlation(
        traceparent=text("tp", 55),
        request_id=text("rid", 100),
        task_id=task_id,
        root_task_id=text("r", 200) or task_id,
    )


def lineage(carrier: Mapping[str, object] | None, *, task_id: str) -> dict[str, str]:
    """Event fields from a carrier: parent_task_id, root_task_id, traceparent, request_id.

    A parent or root equal to the task's own id is left out.
    """
    found = carrier or {}
    names = (("tp", "traceparent"), ("rid", "request_id"), ("p", "parent_task_id"))
    fields = {
        name: value for key, name in names if isinstance(value := found.get(key), str) and value
    }
    if fields.get("parent_task_id") == task_id:
        del fields["parent_task_id"]
    root = found.get("r")
    if isinstance(root, str) and root and root != task_id:
        fields["root_task_id"] = root
    return fields


def _otel_traceparent() -> str | None:
    """The current OpenTelemetry span's traceparent, where the API is loaded and a span is live."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
