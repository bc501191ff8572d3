"""Making and joining containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dependency_injector import providers

from z4j_fastapi.containers.agent import AgentContainer

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.runtime.agent import AgentRuntime
    from z4j_fastapi.settings import AgentSettings


def with_options(options: Mapping[str, Any]) -> AgentContainer:
    """A container for these keyword arguments; those that are None count as not given."""
    container = AgentContainer()
    given = {name: value for name, value in options.items() if value is not None}
    container.overrides.override(providers.Object(given))
    return container


def worker_container(*, adapters: Sequence[EngineAdapter], worker_role: str) -> AgentContainer:
    """A container for a worker process: the environment's settings and the worker's engines.

    Args:
        adapters: The worker's engines.
        worker_role: Told to the brain unless `Z4J_WORKER_ROLE` says otherwise.
    """
    container = AgentContainer()
    container.adapters.override(providers.Object(tuple(adapters)))
    container.default_role.override(providers.Object(worker_role))
    return container


def join_runtime(container: AgentContainer, runtime: AgentRuntime) -> None:
    """Let a container use a runtime that runs already, and bring its engines along."""
    for adapter in container.engines():
        runtime.add_engine(adapter)
    container.runtime.override(providers.Object(runtime))


def is_disabled(settings: AgentSettings) -> bool:
    """Whether nothing is to be started."""
    return not settings.enabled
