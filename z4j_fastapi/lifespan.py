"""`FastAPI(lifespan=z4j_lifespan())`: the agent lives as long as the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

    from z4j_fastapi.containers import AgentContainer

Lifespan = Callable[["FastAPI"], AbstractAsyncContextManager[Any]]


def z4j_lifespan(
    *,
    inner_lifespan: Lifespan | None = None,
    container: AgentContainer | None = None,
    **options: Any,
) -> Lifespan:
    """A lifespan that runs the agent while the application runs.

    Hand it to `FastAPI(lifespan=...)`, or enter it inside your own:
    `async with z4j_lifespan()(app): ...`.

    Args:
        inner_lifespan: Entered after the agent started and left before it stops; the state it
            yields is yielded on.
        container: Your own container; then no other option may be given.
        **options: Every setting of docs/reference/configuration.md (they win over the
            environment; None means not given) and the engine handles `arq_redis_settings`,
            `arq_function_names`, `arq_queue_name`, `taskiq_broker`, `taskiq_brokers`, ...
    Returns:
        A function from the application to an async context manager. Entering it raises
        `ConfigError` with every configuration problem at once.
    Raises:
        TypeError: At once, for an unknown option; it names the nearest known one.
    Spec: config-and-cli.md section 3.
    """
    check_options(options, container=container, caller="z4j_lifespan")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[Any, None]:
        # Loaded here: everything else of the package, once an agent is really wanted.
        from z4j_fastapi.application import run_agent  # noqa: PLC0415

        async with run_agent(app, container=container, options=options):
            if inner_lifespan is None:
                yield None
            else:
                async with inner_lifespan(app) as state:
                    yield state

    return lifespan


def combine_lifespans(
    *lifespans: Lifespan,
) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    """One lifespan out of several: entered in order, left in reverse.

    Args:
        *lifespans: Functions from the application to an async context manager.
    Returns:
        A lifespan whose state is the merged states; a later one's keys win.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any], None]:
        async with AsyncExitStack() as stack:
            merged: dict[str, Any] = {}
            for entry in lifespans:
                state = await stack.enter_async_context(entry(app))
                if state:
                    merged.update(state)
            yield merged

    return lifespan


def check_options(
    options: Mapping[str, Any], *, container: AgentContainer | None, caller: str
) -> None:
    """Refuse unknown options at the call, where the stack trace shows the line to mend.

    Raises:
        TypeError: An unknown option, or options beside a container.
    """
    # Loaded at the call: the settings bring pydantic, which importing the package does not.
    from z4j_fastapi.settings.keywords import (  # noqa: PLC0415
        LIFESPAN_HANDLES,
        SETTING_KEYWORDS,
        check_keyword_names,
    )

    check_keyword_names(options, SETTING_KEYWORDS | LIFESPAN_HANDLES, caller=caller)
    given = sorted(name for name, value in options.items() if value is not None)
    if container is not None and given:
        raise TypeError(
            f"{caller}(): with container= no other option may be given (got {', '.join(given)}); "
            "set them on the container's overrides"
        )
