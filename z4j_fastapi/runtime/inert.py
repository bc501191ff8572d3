"""The runtime of a disabled agent: every method does nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from z4j_fastapi.runtime.agent import AgentRuntime
from z4j_fastapi.runtime.status import ConnectionState, RuntimeState, RuntimeStatus

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.events import Event
    from z4j_fastapi.framework import FastAPIFrameworkAdapter
    from z4j_fastapi.observability import Observability
    from z4j_fastapi.settings import AgentSettings


class InertRuntime(AgentRuntime):
    """Stands in where `Z4J_DISABLED` is set or `enabled=False`, so that user code works unchanged.

    Args:
        settings: As loaded; may be incomplete.
        framework: Its startup and shutdown hooks do not run.
        observability: For the one line that says so.
    """

    def __init__(
        self,
        *,
        settings: AgentSettings,
        framework: FastAPIFrameworkAdapter,
        observability: Observability,
    ) -> None:
        # Nothing of the base's parts exists; every method that would use one is replaced below.
        self.config = settings
        self.framework = framework
        self.engines = {}
        self.schedulers = {}
        logger = observability.logger("runtime")
        for warning in settings.warnings:
            logger.warning("configuration_warning", detail=warning)
        logger.info("agent_disabled")

    def __repr__(self) -> str:
        return "<InertRuntime: the agent is disabled>"

    @property
    def state(self) -> RuntimeState:
        """Always `stopped`."""
        return RuntimeState.STOPPED

    def start(self) -> None:
        """Does nothing."""

    def stop(self, timeout: float = 5.0) -> None:
        """Does nothing."""

    def on_stop(self, listener: object) -> None:
        """Does nothing: it never stops."""

    def record(self, event: Event) -> None:
        """Drops the event: nobody asked for it."""

    record_event = record

    def flush(self, timeout: float = 5.0) -> bool:
        """True: nothing waits."""
        del timeout
        return True

    def buffer_size(self) -> int:
        """Always 0."""
        return 0

    def wait_online(self, timeout: float = 10.0) -> bool:
        """False, at once: it will never be online."""
        del timeout
        return False

    def request_reconnect(self) -> None:
        """Does nothing."""

    def supervisor_state(self) -> dict[str, object]:
        """Offline, no errors."""
        return {
            "state": ConnectionState.OFFLINE.value,
            "auth_error_count": 0,
            "protocol_error_count": 0,
            "connection_error_count": 0,
            "session_id": None,
        }

    def status(self) -> RuntimeStatus:
        """Stopped and disabled."""
        return RuntimeStatus(
            state=RuntimeState.STOPPED,
            connection=ConnectionState.OFFLINE,
            enabled=False,
            pid=os.getpid(),
            warnings=tuple(self.config.warnings),
        )

    def add_engine(self, adapter: EngineAdapter) -> None:
        """Does nothing."""

    def reinit_after_fork(self) -> None:
        """Does nothing."""
