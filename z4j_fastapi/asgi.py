"""Pure ASGI wrapper that fills `correlation` for every request (style.md 6, engines.md 10)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

from z4j_fastapi import correlation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,100}")


class CorrelationMiddleware:
    """Gives every HTTP and WebSocket request a `Correlation`.

    A request id comes from `x-request-id` where it is 1 to 100 printable characters, else it is
    made; the trace context comes from `traceparent`. Neither request nor response is changed.

    Args:
        app: The application behind.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one ASGI call with the correlation set."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        token = correlation.attach(_correlation_of(scope))
        try:
            await self.app(scope, receive, send)
        finally:
            correlation.detach(token)


def _correlation_of(scope: Scope) -> correlation.Correlation:
    traceparent: str | None = None
    request_id: str | None = None
    for name, value in scope.get("headers", ()):
        if name == b"traceparent" and _TRACEPARENT.fullmatch(value):
            traceparent = value.decode("ascii")
        elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id = value.decode("ascii")
    return correlation.Correlation(traceparent=traceparent, request_id=request_id or uuid4().hex)
