"""Typed payloads of every frame type (wire-protocol.md 3 to 6).

Only wire payloads are dicts with known keys; between our own functions values are dataclasses.
"""

from __future__ import annotations

import enum
from typing import Literal, TypedDict


class FrameType(str, enum.Enum):
    """The frame types of protocol version 2. A brain closes (1011) on any other."""

    HELLO = "hello"
    HELLO_ACK = "hello_ack"
    EVENT_BATCH = "event_batch"
    EVENT_BATCH_ACK = "event_batch_ack"
    HEARTBEAT = "heartbeat"
    AGENT_STATUS = "agent_status"
    REGISTRY_DELTA = "registry_delta"
    COMMAND = "command"
    COMMAND_ACK = "command_ack"
    COMMAND_RESULT = "command_result"
    ERROR = "error"


class HelloPayload(TypedDict):
    """Agent to brain, unsigned, the first frame of a connection."""

    protocol_version: str
    agent_version: str  # at most 40
    framework: str
    engines: list[str]  # at most 64
    schedulers: list[str]  # at most 64
    capabilities: dict[str, list[str]]  # adapter name to sorted tokens
    host: dict[str, object]  # `name` is the display label
    worker_id: str  # at most 128, unique per runtime
    worker_role: str  # web, task, scheduler, beat, other; at most 32
    worker_pid: int
    worker_started_at: str  # ISO 8601
    runtime_features: list[str]


class HelloAckPayload(TypedDict):
    """Brain to agent, unsigned."""

    protocol_version: str
    brain_version: str
    agent_id: str  # UUID
    project_id: str  # UUID, not the slug
    session_id: str  # UUID
    heartbeat_interval_seconds: int  # 1 to 3600
    max_frame_size_bytes: int


class EventPayload(TypedDict, total=False):
    """One event of a batch; `project_id` and `agent_id` are ignored by the brain."""

    id: str
    engine: str
    task_id: str
    kind: str
    occurred_at: str
    data: dict[str, object]


class EventBatchPayload(TypedDict):
    """Agent to brain. Without events it is acknowledged too: a fence."""

    events: list[EventPayload]


class EventBatchAckPayload(TypedDict):
    """Brain to agent: only now may the batch be forgotten."""

    acked_id: str  # the batch frame's id
    received: int
    accepted: int
    rejected: int  # duplicates included; not an error


class TelemetryLoss(TypedDict, total=False):
    """Cumulative losses; integers 0 to 2**53 - 1."""

    buffer_id: str  # 1 to 64, required
    runtime_id: str  # 1 to 64, required
    capacity_evicted_frames: int
    content_rejected_frames: int
    event_records: int
    command_results: int
    other_frames: int
    unclassified_frames: int
    adapter_events: dict[str, int]  # at most 32 names, reset with runtime_id


class HeartbeatPayload(TypedDict, total=False):
    """Agent to brain, every heartbeat interval."""

    buffer_size: int  # 0 to 10,000,000
    last_flush_at: str | None
    dropped_events: int  # 0 to 10,000,000
    telemetry_loss: TelemetryLoss | None
    adapter_health: dict[str, str]  # at most 256 keys; `{engine}.queue_depths` is JSON text


class AgentStatusPayload(TypedDict, total=False):
    """Agent to brain, at most 12 a minute."""

    auth_failure_streak: int
    protocol_failure_streak: int
    connection_failure_streak: int
    last_successful_connect_at: str | None
    current_session_age_seconds: float
    buffer_depth: int
    buffer_oldest_age_seconds: float
    agent_version: str
    protocol_version: str
    engines: list[str]
    schedulers: list[str]  # at most 32
    telemetry_loss: TelemetryLoss | None


class TaskDefinitionPayload(TypedDict, total=False):
    """One task of a registry delta."""

    name: str
    module: str
    engine: str
    queue: str | None
    signature: str | None
    declared_in: str | None
    loaded: bool
    tags: list[str]


class RegistryDeltaPayload(TypedDict):
    """Agent to brain: which tasks an engine knows."""

    engine: str
    added: list[TaskDefinitionPayload]
    updated: list[TaskDefinitionPayload]
    removed: list[str]


class CommandTarget(TypedDict, total=False):
    """What a command is about. Ids are taken from `parameters`, never by splitting `id`."""

    type: str
    id: str | None
    engine: str
    scheduler: str


class CommandPayload(TypedDict):
    """Brain to agent; the frame's id is the command id."""

    action: str
    target: CommandTarget
    parameters: dict[str, object]
    timeout_seconds: int  # 1 to 3600
    issued_by: str | None
    delivery_claim_token: str | None


class CommandAckPayload(TypedDict):
    """Agent to brain, same id as the command, before anything that can wait."""

    delivery_claim_token: str | None


class CommandResultPayload(TypedDict):
    """Agent to brain, same id as the command. Any other status makes the brain close (1011)."""

    status: Literal["success", "failed"]
    result: dict[str, object] | None
    error: str | None  # at most 8,192; the brain keeps the first 1,024
    delivery_claim_token: str | None


class ErrorPayload(TypedDict):
    """Either way, signed."""

    code: str
    message: str
    fatal: bool
