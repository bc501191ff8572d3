"""A runtime for a benchmark: everything real."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dependency_injector import providers

from z4j_fastapi import AgentContainer, AgentRuntime

SECRET = base64.urlsafe_b64encode(bytes(range(32))).decode()


def options(directory: Path, *, brain_url: str, secret: str = SECRET) -> dict[str, object]:
    return {
        "brain_url": brain_url,
        "token": "a-token",
        "hmac_secret": secret,
        "project_id": "bench",
        "buffer_path": str(directory),
        "buffer_max_events": 5_000_000,
        "buffer_max_bytes": 8 * 1024**3,
    }


@contextmanager
def running_runtime(directory: Path, **given: str) -> Iterator[AgentRuntime]:
    container = AgentContainer()
    container.overrides.override(providers.Object(options(directory, **given)))
    runtime = container.runtime()
    runtime.start()
    try:
        yield runtime
    finally:
        runtime.stop()
