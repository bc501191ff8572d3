"""`install_z4j()`: for applications and scripts that cannot use a lifespan."""

from __future__ import annotations

import atexit
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from z4j_fastapi.current import RuntimeLease, post_fork
from z4j_fastapi.lifespan import check_options

if TYPE_CHECKING:
    from fastapi import FastAPI

    from z4j_fastapi.containers import AgentContainer
    from z4j_fastapi.runtime.agent import AgentRuntime

__all__ = ["install_z4j", "post_fork"]


def install_z4j(
    app: FastAPI | None = None, *, container: AgentContainer | None = None, **options: Any
) -> AgentRuntime:
    """Start the agent at once.

    Args:
        app: Where given, the agent also stops with the application's lifespan, starts again with
            the next one, and sees its requests; middleware can still be added afterwards.
        container: Your own container; then no other option may be given.
        **options: As for `z4j_lifespan`.
    Returns:
        The runtime; an inert one, in state `stopped`, where the agent is disabled. Stop it with
        `runtime.stop()`; the end of the process stops it as well.
    Raises:
        ConfigError: Every problem of the configuration at once; nothing was started.
        TypeError: An unknown option.
    Spec: config-and-cli.md section 7.
    """
    check_options(options, container=container, caller="install_z4j")
    from z4j_fastapi.application import build_and_acquire  # noqa: PLC0415 - loads the container

    built, lease = build_and_acquire(container, options)
    atexit.register(lease.release)
    lease.runtime.on_stop(lambda _: atexit.unregister(lease.release))
    if app is not None:
        app.state.z4j = built
        app.state.z4j_runtime = lease.runtime
        _stop_with(app, built, lease)
    return lease.runtime


def _stop_with(app: FastAPI, container: AgentContainer, lease: RuntimeLease) -> None:
    """Wrap the application's lifespan: it publishes while it runs and stops the agent after.

    The middleware stack is wrapped only when the lifespan starts: with a stack in place the user's
    later `app.add_middleware` would raise.
    """
    from z4j_fastapi.application import publish  # noqa: PLC0415
    from z4j_fastapi.current import acquire  # noqa: PLC0415

    held: list[RuntimeLease] = [lease]
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: Any) -> AsyncGenerator[Any, None]:
        # The install's own lease serves the first lifespan; a later one, or one in a forked
        # child, takes a new hold, which starts the runtime again.
        current = held.pop() if held else acquire(container, own=True)
        current.runtime.start()
        undo = publish(app, container, current)
        try:
            async with inner(application) as state:
                yield state
        finally:
            undo()
            await current.arelease()

    app.router.lifespan_context = lifespan
