"""Logs, spans, metrics and the guard; the container builds one bundle and lends out its parts.

Importing this imports structlog and the OpenTelemetry API, so it is done on the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from z4j_fastapi.observability.guard import ErrorGuard
from z4j_fastapi.observability.log import get_logger, set_level
from z4j_fastapi.observability.metrics import Metrics
from z4j_fastapi.observability.tracing import Tracing

if TYPE_CHECKING:
    import structlog
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.counters import LossCounters


@dataclass(frozen=True, slots=True, kw_only=True)
class Observability:
    """One agent's instruments.

    Args:
        logger: Makes the logger of a layer, such as `runtime` or `engines.arq`.
        guard: Wraps every call from host code into ours.
        metrics: Measurements.
        tracing: Spans.
    """

    logger: Callable[[str], structlog.stdlib.BoundLogger]
    guard: ErrorGuard
    metrics: Metrics
    tracing: Tracing

    @classmethod
    def create(
        cls,
        *,
        counters: LossCounters,
        clock: Clock,
        log_level: str | int | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> Observability:
        """The bundle as the container wants it.

        Args:
            counters: Losses by reason.
            clock: For rate limits.
            log_level: Level of our logger tree; None leaves it to the host.
            on_error: Gets every contained error; see `ErrorGuard`.
            meter_provider: None for the process's own.
            tracer_provider: None for the process's own.
        """
        if log_level is not None:
            set_level(log_level)
        guard = ErrorGuard(
            logger=get_logger("guard"), counters=counters, clock=clock, on_error=on_error
        )
        metrics = Metrics(counters=counters, guard=guard, meter_provider=meter_provider)
        return cls(
            logger=get_logger,
            guard=guard,
            metrics=metrics,
            tracing=Tracing(metrics=metrics, tracer_provider=tracer_provider),
        )

    def reinit_after_fork(self) -> None:
        """In a forked child: counts start over, and no lock of the parent's is kept."""
        self.guard.reinit_after_fork()
        self.metrics.reinit_after_fork()
