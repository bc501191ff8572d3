"""How to reach the brain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from z4j_fastapi._version import __version__
from z4j_fastapi.transport.proxies import choose_proxy
from z4j_fastapi.transport.tls import ssl_context_factory
from z4j_fastapi.transport.websocket import WebSocketTransport

if TYPE_CHECKING:
    from z4j_fastapi.settings import AgentSettings
    from z4j_fastapi.transport.base import Transport


def build_transport(*, settings: AgentSettings) -> Transport:
    """The WebSocket transport; nothing is connected yet."""
    url = settings.websocket_url
    return WebSocketTransport(
        url=url,
        token=settings.token.get_secret_value,
        ssl_context_factory=ssl_context_factory(settings.ca_file),
        proxy=choose_proxy(url, configured=settings.proxy_url, environ=os.environ),
        user_agent=f"z4j-fastapi/{__version__}",
    )
