"""The agent of one FastAPI application: its container, its state, its middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from z4j_fastapi.asgi import CorrelationMiddleware
from z4j_fastapi.containers import AgentContainer, override, with_options
from z4j_fastapi.current import RuntimeLease, acquire

if TYPE_CHECKING:
    from fastapi import FastAPI


@asynccontextmanager
async def run_agent(
    app: FastAPI, *, container: AgentContainer | None, options: Mapping[str, Any]
) -> AsyncGenerator[None, None]:
    """Run the agent for the length of an application's lifespan.

    Building and starting touch files and import libraries, so both happen off the host's loop.

    Args:
        app: Its `state.z4j` becomes the container, `state.z4j_runtime` the runtime.
        container: The user's own, or None to build one from `options`.
        options: Settings and engine handles by keyword.
    Raises:
        ConfigError: Every problem of the configuration at once; nothing was started.
    """
    built, lease = await anyio.to_thread.run_sync(
        build_and_acquire, container, options, _running_loop()
    )
    try:
        restore = publish(app, built, lease)
        try:
            yield
        finally:
            restore()
    finally:
        await lease.arelease()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The host's loop; None under trio, where no asyncio broker can live."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def build_and_acquire(
    container: AgentContainer | None,
    options: Mapping[str, Any],
    host_loop: asyncio.AbstractEventLoop | None = None,
) -> tuple[AgentContainer, RuntimeLease]:
    """The container to use, and a hold on its runtime."""
    own = container is not None
    built = container if container is not None else with_options(options)
    override(built.host_loop, host_loop)
    return built, acquire(built, own=own)


class publish:  # noqa: N801 - called like a function; keeps what it must put back
    """Put container, runtime and correlation into an application; call the object to undo it.

    Args:
        app: The application whose lifespan runs.
        container: For `app.state.z4j`.
        lease: Its runtime goes to `app.state.z4j_runtime`.
    """

    def __init__(self, app: FastAPI, container: AgentContainer, lease: RuntimeLease) -> None:
        self._app = app
        self._before = {name: getattr(app.state, name, None) for name in ("z4j", "z4j_runtime")}
        app.state.z4j = container
        app.state.z4j_runtime = lease.runtime
        # Middleware cannot be added once an application has started, but its built stack can be
        # wrapped; it is None where a lifespan is entered by hand (style.md 6).
        stack: Any = app.middleware_stack
        if stack is None:
            stack = app.build_middleware_stack()
        self._stack = stack
        self._wrapped = CorrelationMiddleware(stack)
        app.middleware_stack = self._wrapped

    def __call__(self) -> None:
        """Put back what was there before."""
        app = self._app
        if app.middleware_stack is self._wrapped:
            app.middleware_stack = self._stack
        for name, value in self._before.items():
            setattr(app.state, name, value)
