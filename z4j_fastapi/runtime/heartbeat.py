"""Heartbeat, agent_status, queue depths, worker details and the task registry (wire-protocol 5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from z4j_fastapi._version import PROTOCOL_VERSION, Z4J_LINE
from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import LocalProtocolError

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.engines.base import EngineAdapter, TaskDefinition, WorkerDetails
    from z4j_fastapi.outbox.base import Outbox, OutboxDepth
    from z4j_fastapi.protocol.backoff import Streaks
    from z4j_fastapi.runtime.session_link import SessionLink

#: A stalled broker must not keep the depths of the others away.
_ENGINE_SECONDS = 5.0
#: `agent_status` is limited to 12 a minute by the brain.
_STATUS_SECONDS = 30.0
_MAX_QUEUES = 1_024
_MAX_COUNT = 10_000_000
_MAX_TASKS_A_DELTA = 500


class Heartbeat:
    """What is told to the brain at its interval. Agent's loop only.

    Args:
        outbox: For the depth.
        engines: Attached adapters by name; a live mapping.
        counters: Losses by reason.
        clock: Wall and monotonic time.
        logger: For `z4j_fastapi.runtime`.
        send_heartbeat, send_status: False switches the frame off (`Z4J_HEARTBEAT`,
            `Z4J_AGENT_STATUS_DISABLED`).
        interval_limit_seconds: Upper bound of the interval that the brain asks for.
        streaks: Consecutive failures now.
        last_flush_at, last_online_at: Times for the frames.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        engines: Mapping[str, EngineAdapter],
        counters: LossCounters,
        clock: Clock,
        logger: structlog.stdlib.BoundLogger,
        send_heartbeat: bool,
        send_status: bool,
        interval_limit_seconds: float,
        streaks: Callable[[], Streaks],
        last_flush_at: Callable[[], datetime | None],
        last_online_at: Callable[[], datetime | None],
    ) -> None:
        self._outbox = outbox
        self._engines = engines
        self._counters = counters
        self._clock = clock
        self._logger = logger
        self._send_heartbeat = send_heartbeat
        self._send_status = send_status
        self._interval_limit = interval_limit_seconds
        self._streaks = streaks
        self._last_flush_at = last_flush_at
        self._last_online_at = last_online_at
        self._health: dict[str, str] = {}
        self._complained: set[tuple[str, str]] = set()

    async def run(self, link: SessionLink, interval_seconds: float) -> None:
        """Send at every interval until cancelled.

        Args:
            link: The live session.
            interval_seconds: What the brain asked for in `hello_ack`.
        Raises:
            TransportError: The connection is gone.
        """
        interval = min(float(interval_seconds), self._interval_limit)
        sent_tasks: dict[str, dict[str, TaskDefinition]] = {}
        session_started = self._clock.monotonic()
        status_due = session_started
        watch = asyncio.ensure_future(self._watch_engines(interval))
        try:
            while True:
                await self._send_registry(link, sent_tasks)
                depth = self._outbox.depth()
                now = self._clock.monotonic()
                if self._send_heartbeat:
                    await self._send(
                        link, "heartbeat", link.session.send_heartbeat, self._heartbeat(depth)
                    )
                if self._send_status and now >= status_due:
                    status_due = now + _STATUS_SECONDS
                    status = self._status(depth, now - session_started)
                    await self._send(link, "agent_status", link.session.send_agent_status, status)
                await asyncio.sleep(interval)
        finally:
            watch.cancel()

    async def _send(
        self,
        link: SessionLink,
        frame_type: str,
        build: Callable[[Mapping[str, object], datetime], bytes],
        payload: Mapping[str, object],
    ) -> None:
        try:
            await link.send(partial(build, payload))
        except LocalProtocolError as error:
            # Too large, or an adapter's value that is no JSON: events must go on all the same.
            self._complain("frame_not_sent", frame_type, error.message)

    def _complain(self, event: str, subject: str, problem: str) -> None:
        """Once a subject: it would come again at every interval."""
        if (event, subject) not in self._complained:
            self._complained.add((event, subject))
            self._logger.warning(event, subject=subject, error=problem)

    # -- frames ----------------------------------------------------------------------------------

    def _heartbeat(self, depth: OutboxDepth) -> dict[str, object]:
        last_flush_at = self._last_flush_at()
        return {
            "buffer_size": min(depth.events + depth.results, _MAX_COUNT),
            "last_flush_at": last_flush_at.isoformat() if last_flush_at else None,
            "dropped_events": min(self._dropped(), _MAX_COUNT),
            "telemetry_loss": self._telemetry_loss(),
            "adapter_health": dict(self._health),
        }

    def _status(self, depth: OutboxDepth, session_age: float) -> dict[str, object]:
        streaks = self._streaks()
        last_online_at = self._last_online_at()
        return {
            "auth_failure_streak": streaks.auth,
            "protocol_failure_streak": streaks.protocol,
            "connection_failure_streak": streaks.connection,
            "last_successful_connect_at": last_online_at.isoformat() if last_online_at else None,
            "current_session_age_seconds": round(session_age, 3),
            "buffer_depth": min(depth.events + depth.results, _MAX_COUNT),
            "buffer_oldest_age_seconds": round(depth.oldest_age_seconds, 3),
            "agent_version": Z4J_LINE,
            "protocol_version": PROTOCOL_VERSION,
            "engines": sorted(self._engines)[:32],
            "schedulers": [],
            "telemetry_loss": self._telemetry_loss(),
        }

    def _dropped(self) -> int:
        lost = self._counters
        return sum(
            lost.get(reason)
            for reason in LossReason
            if reason not in (LossReason.SHORTENED, LossReason.ENGINE_ERROR)
        )

    def _telemetry_loss(self) -> dict[str, object]:
        lost = self._counters.get
        return {
            "buffer_id": self._counters.epoch,
            "runtime_id": self._counters.epoch,
            "capacity_evicted_frames": lost(LossReason.CAPACITY),
            "content_rejected_frames": lost(LossReason.CONTENT_REJECTED),
            "event_records": self._dropped() - lost(LossReason.EXPIRED),
            "command_results": lost(LossReason.EXPIRED),
            "other_frames": 0,
            "unclassified_frames": lost(LossReason.CORRUPT),
        }

    # -- engines ---------------------------------------------------------------------------------

    async def _watch_engines(self, interval: float) -> None:
        """Ask the engines in a task of its own: a stalled broker must not delay a heartbeat."""
        while True:
            engines = list(self._engines.values())
            await asyncio.gather(*(self._watch_engine(engine) for engine in engines))
            await asyncio.sleep(interval)

    async def _watch_engine(self, engine: EngineAdapter) -> None:
        name = engine.name
        try:
            queues = await asyncio.wait_for(engine.queues(), _ENGINE_SECONDS)
            workers = await asyncio.wait_for(engine.workers(), _ENGINE_SECONDS)
            details = {worker: _details(found) for worker, found in workers.items()}
            _put(self._health, f"{name}.queue_depths", dict(list(queues.items())[:_MAX_QUEUES]))
            _put(self._health, f"{name}.worker_details", details)
        except asyncio.TimeoutError:
            self._engine_silent(name, "timeout")
        except Exception as error:  # noqa: BLE001 - a broker's client may raise anything
            self._engine_silent(name, type(error).__name__)
        else:
            self._health[name] = "ok"

    def _engine_silent(self, name: str, problem: str) -> None:
        if self._health.get(name) != problem:
            self._logger.warning("engine_not_answering", engine=name, error=problem)
        self._health[name] = problem
        # Old depths would look like a queue that does not move.
        self._health.pop(f"{name}.queue_depths", None)
        self._health.pop(f"{name}.worker_details", None)

    async def _send_registry(
        self, link: SessionLink, sent: dict[str, dict[str, TaskDefinition]]
    ) -> None:
        for engine in list(self._engines.values()):
            try:
                known = {task.name: task for task in engine.tasks()}
            except Exception as error:  # noqa: BLE001 - an adapter's bug must not end the session
                self._complain("engine_tasks_failed", engine.name, type(error).__name__)
                continue
            before = sent.get(engine.name, {})
            added = [task for name, task in known.items() if name not in before]
            updated = [
                task for name, task in known.items() if name in before and before[name] != task
            ]
            removed = [name for name in before if name not in known]
            sent[engine.name] = known
            while added or updated or removed:
                delta: dict[str, object] = {
                    "engine": engine.name,
                    "added": [_definition(engine.name, t) for t in added[:_MAX_TASKS_A_DELTA]],
                    "updated": [_definition(engine.name, t) for t in updated[:_MAX_TASKS_A_DELTA]],
                    "removed": removed[:_MAX_TASKS_A_DELTA],
                }
                added = added[_MAX_TASKS_A_DELTA:]
                updated = updated[_MAX_TASKS_A_DELTA:]
                removed = removed[_MAX_TASKS_A_DELTA:]
                await self._send(link, "registry_delta", link.session.send_registry_delta, delta)


def _put(health: dict[str, str], key: str, value: Mapping[str, object]) -> None:
    if value:
        health[key] = json.dumps(value, separators=(",", ":"))
    else:
        health.pop(key, None)


def _details(found: WorkerDetails) -> dict[str, object]:
    stats: dict[str, object] = {}
    if found.concurrency is not None:
        stats["pool"] = {"max-concurrency": found.concurrency}
    if found.pid is not None:
        stats["pid"] = found.pid
    return {
        "stats": stats,
        "active": found.active,
        "active_queues": [{"name": queue} for queue in found.queues],
        "registered": list(found.registered),
    }


def _definition(engine: str, task: TaskDefinition) -> dict[str, object]:
    return {
        "name": task.name,
        "module": task.module,
        "engine": engine,
        "queue": task.queue,
        "signature": task.signature,
        "declared_in": task.module,
        "loaded": True,
        "tags": list(task.tags),
    }
