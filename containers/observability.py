"""Loggers, guard, metrics and spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from z4j_fastapi.observability import Observability

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.counters import LossCounters
    from z4j_fastapi.settings import AgentSettings


def build_observability(
    *, settings: AgentSettings, counters: LossCounters, clock: Clock
) -> Observability:
    """The agent's instruments; a log level only where one was asked for."""
    return Observability.create(
        counters=counters, clock=clock, log_level=settings.explicit_log_level
    )
