"""What a runtime says of itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class RuntimeState(str, enum.Enum):
    """The life of the runtime itself; the connection is separate (config-and-cli.md 7)."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class ConnectionState(str, enum.Enum):
    """The life of the connection to the brain."""

    OFFLINE = "offline"  # not started, or stopped
    CONNECTING = "connecting"  # opening the socket
    HANDSHAKE = "handshake"  # hello sent, or no signed frame verified yet
    ONLINE = "online"  # the brain proved that it accepts our signature
    BACKOFF = "backoff"  # waiting before the next attempt
    TERMINAL = "terminal"  # the brain will not have this version; waiting an hour


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatus:
    """A snapshot of one runtime. Holds no secret.

    Args:
        state: Life of the runtime.
        connection: Life of the connection.
        enabled: False for an inert runtime (`Z4J_DISABLED`).
        worker_id, worker_role, pid: Identity in this process.
        agent_id, project_id, session_id: The brain's ids, None until a handshake; `session_id`
            only while connected.
        brain_version: As told in the handshake.
        engines: Names of the attached engines.
        recorded, sent, acknowledged: Events since the process started.
        dropped: Lost records by reason.
        buffer_events, buffer_results, buffer_bytes: What waits on disk, adopted sources included.
        buffer_oldest_age_seconds: Age of the oldest waiting record.
        directory: The outbox directory in use, None before the start.
        relocated: Why the directory is not the configured one, None when it is.
        last_error: The last connection failure in one line, None when none since it was online.
        last_error_kind: Its failure class.
        last_online_at, last_acknowledged_at: Times of the last proof of life.
        connects: Successful handshakes since the start.
        warnings: Configuration warnings.
        engine_errors: Contained failures of our hooks by place.
    """

    state: RuntimeState
    connection: ConnectionState
    enabled: bool = True
    worker_id: str = ""
    worker_role: str = ""
    pid: int = 0
    agent_id: str | None = None
    project_id: str | None = None
    session_id: str | None = None
    brain_version: str | None = None
    engines: tuple[str, ...] = ()
    recorded: int = 0
    sent: int = 0
    acknowledged: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    buffer_events: int = 0
    buffer_results: int = 0
    buffer_bytes: int = 0
    buffer_oldest_age_seconds: float = 0.0
    directory: str | None = None
    relocated: str | None = None
    last_error: str | None = None
    last_error_kind: str | None = None
    last_online_at: datetime | None = None
    last_acknowledged_at: datetime | None = None
    connects: int = 0
    warnings: tuple[str, ...] = ()
    engine_errors: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def online(self) -> bool:
        """Whether the brain is reached and accepts our signature."""
        return self.connection is ConnectionState.ONLINE
