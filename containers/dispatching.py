"""The command dispatcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from z4j_fastapi.runtime.dispatcher import Dispatcher

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.observability import Observability
    from z4j_fastapi.outbox.base import Outbox
    from z4j_fastapi.outbox.journal import CommandJournal
    from z4j_fastapi.redaction import Redactor
    from z4j_fastapi.runtime.recorder import Recorder
    from z4j_fastapi.settings import AgentSettings


def build_dispatcher(
    *,
    settings: AgentSettings,
    outbox: Outbox,
    journal: CommandJournal,
    redactor: Redactor,
    clock: Clock,
    observability: Observability,
    recorder: Recorder,
) -> Dispatcher:
    """The dispatcher; engines are bound when the runtime starts."""
    return Dispatcher(
        outbox=outbox,
        journal=journal,
        redactor=redactor,
        clock=clock,
        signing_key=settings.signing_key,
        purge_threshold=settings.purge_threshold,
        logger=observability.logger("runtime"),
        tracing=observability.tracing,
        original_task_id=recorder.original_task_id,
    )
