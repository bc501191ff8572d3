"""Where records wait: the state directory, the outbox and the journal of commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from z4j_fastapi.outbox.directory import outbox_root, state_directory
from z4j_fastapi.outbox.journal import CommandJournal
from z4j_fastapi.outbox.outbox import FileOutbox
from z4j_fastapi.outbox.sync import SyncPolicy

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.counters import LossCounters
    from z4j_fastapi.observability import Observability
    from z4j_fastapi.outbox.base import Outbox
    from z4j_fastapi.settings import AgentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The deployment's directory on this host.

    Args:
        base: Holds one directory a worker, and the command journal.
        relocated: Why it is not where it was wanted; None when it is.
        warnings: Lines to log once.
    """

    base: Path
    relocated: str | None
    warnings: tuple[str, ...]


def locate_storage(*, settings: AgentSettings) -> Storage:
    """Find or make the deployment's directory.

    Raises:
        OutboxError: No directory can be used at all.
    Spec: config-and-cli.md section 4.
    """
    state = state_directory(None if settings.home is None else str(settings.home))
    root = outbox_root(state, settings.buffer_path)
    reason = root.reason if root.relocated else None
    return Storage(
        base=root.path / settings.deployment_fingerprint,
        relocated=reason,
        warnings=tuple(line for line in (state.warning, root.warning) if line),
    )


def build_outbox(
    *,
    settings: AgentSettings,
    storage: Storage,
    counters: LossCounters,
    clock: Clock,
    observability: Observability,
) -> Outbox:
    """The file outbox; nothing is opened yet."""
    logger = observability.logger("outbox")
    for warning in storage.warnings:
        logger.warning("storage_warning", detail=warning)
    return FileOutbox(
        base=storage.base,
        worker_id=lambda: uuid4().hex,
        agent_tag=settings.agent_tag,
        max_events=settings.buffer_max_events,
        max_bytes=settings.buffer_max_bytes,
        sync=SyncPolicy(settings.buffer_sync),
        counters=counters,
        clock=clock,
        logger=logger,
    )


def build_journal(
    *,
    settings: AgentSettings,
    storage: Storage,
    clock: Clock,
    observability: Observability,
) -> CommandJournal:
    """The journal of commands; its file is opened with the first command."""
    return CommandJournal(
        storage.base,
        agent_tag=settings.agent_tag,
        clock=clock,
        logger=observability.logger("outbox"),
    )
