"""Making and joining containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dependency_injector import providers

from z4j_fastapi.containers.agent import AgentContainer

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.runtime.agent import AgentRuntime
    from z4j_fastapi.settings import AgentSettings


def override(provider: providers.Provider[Any], value: object) -> None:
    """Let a provider give `value` from now on.

    Args:
        provider: Of one container's instance, never of the class.
        value: What it gives.
    """
    # The library types `override` loosely.
    cast("Any", provider).override(providers.Object(value))


def with_options(options: Mapping[str, Any]) -> AgentContainer:
    """A container for these keyword arguments; those that are None count as not given."""
    container = AgentContainer()
    given = {name: value for name, value in options.items() if value is not None}
    override(container.overrides, given)
    return container


def worker_container(*, adapters: Sequence[EngineAdapter], worker_role: str) -> AgentContainer:
    """A container for a worker process: the environment's settings and the worker's engines.

    Args:
        adapters: The worker's engines.
        worker_role: Told to the brain unless `Z4J_WORKER_ROLE` says otherwise.
    """
    container = AgentContainer()
    override(container.adapters, tuple(adapters))
    override(container.default_role, worker_role)
    return container


def join_runtime(container: AgentContainer, runtime: AgentRuntime) -> None:
    """Let a container use a runtime that runs already, and bring its engines along."""
    for adapter in container.engines():
        runtime.add_engine(adapter)
    override(container.runtime, runtime)


def is_disabled(settings: AgentSettings) -> bool:
    """Whether nothing is to be started."""
    return not settings.enabled
