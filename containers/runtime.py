"""The runtime, or an inert one where the agent is disabled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from z4j_fastapi.framework import FastAPIFrameworkAdapter
from z4j_fastapi.runtime.agent import AgentRuntime
from z4j_fastapi.runtime.inert import InertRuntime

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.containers.outbox import Storage
    from z4j_fastapi.counters import LossCounters
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.observability import Observability
    from z4j_fastapi.outbox.base import Outbox
    from z4j_fastapi.runtime.dispatcher import Dispatcher
    from z4j_fastapi.runtime.recorder import Recorder
    from z4j_fastapi.settings import AgentSettings
    from z4j_fastapi.transport.base import Transport


def build_framework(
    *, settings: AgentSettings, observability: Observability
) -> FastAPIFrameworkAdapter:
    """The host framework's adapter."""
    return FastAPIFrameworkAdapter(settings, guard=observability.guard)


def build_runtime(
    *,
    settings: AgentSettings,
    clock: Clock,
    observability: Observability,
    counters: LossCounters,
    framework: FastAPIFrameworkAdapter,
    default_role: str,
    storage: Callable[[], Storage],
    outbox: Callable[[], Outbox],
    recorder: Callable[[], Recorder],
    transport: Callable[[], Transport],
    dispatcher: Callable[[], Dispatcher],
    engines: Callable[[], Sequence[EngineAdapter]],
) -> AgentRuntime:
    """The agent; an inert one, with nothing built, where the settings disable it."""
    if not settings.enabled:
        return InertRuntime(settings=settings, framework=framework, observability=observability)
    # Engines first: a wrong handle is a configuration error, found before a file is touched.
    attached = engines()
    return AgentRuntime(
        settings=settings,
        clock=clock,
        observability=observability,
        counters=counters,
        outbox=outbox(),
        recorder=recorder(),
        transport=transport(),
        dispatcher=dispatcher(),
        engines=attached,
        framework=framework,
        default_role=default_role,
        relocated=storage().relocated,
    )
