"""What the command modules know of the adapter that they work for."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.broker import Broker
    from z4j_fastapi.events import Event


class Site(Protocol):
    """One adapter, as its commands see it."""

    @property
    def broker(self) -> Broker:
        """The agent's own connection."""
        ...

    def known_queues(self) -> tuple[str, ...]:
        """Every queue that this process has heard of, the default one first; never empty."""
        ...

    def known_functions(self) -> frozenset[str]:
        """The functions that may be submitted; empty when they are not known."""
        ...

    def worker_running(self, job_id: str) -> Any:
        """The worker of this process that runs `job_id` now; None when none does."""
        ...

    def report(self, event: Event) -> None:
        """Record an event of the agent's own doing."""
        ...

    def now(self) -> datetime:
        """Current wall-clock time."""
        ...


def unix_ms(moment: datetime) -> int:
    """POSIX milliseconds, as arq counts."""
    return round(moment.timestamp() * 1000)
