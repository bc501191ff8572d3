"""Ports for test servers."""

from __future__ import annotations

from z4j_fastapi.dev.ports import LOOPBACK, free_port, is_listening
from z4j_fastapi.dev.waiting import wait_until

__all__ = ["LOOPBACK", "free_port", "is_listening", "wait_listening"]


def wait_listening(port: int, *, timeout_seconds: float = 20.0) -> None:
    """Wait until somebody accepts connections on a port."""
    wait_until(
        lambda: is_listening(port), timeout_seconds=timeout_seconds, what=f"listener on port {port}"
    )
