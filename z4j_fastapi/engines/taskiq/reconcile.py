"""What taskiq knows about one task.

The sources are asked in the order of a task's life (queue, running tasks, result backend), so that
one which moves on meanwhile is still met.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskiq.result_backends.dummy import DummyResultBackend

from z4j_fastapi.engines.base import CommandContext, CommandOutcome
from z4j_fastapi.engines.taskiq import list_queue, relay, stream_queue
from z4j_fastapi.engines.taskiq.brokers import BrokerKind
from z4j_fastapi.engines.taskiq.cancel import ask_workers
from z4j_fastapi.engines.taskiq.connection import reported
from z4j_fastapi.engines.taskiq.handle import BrokerHandle
from z4j_fastapi.engines.taskiq.submission import on_loop
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from taskiq.result import TaskiqResult

_ASK_SECONDS = 3.0
_RESULT_SECONDS = 5.0


async def reconcile(
    handles: Sequence[BrokerHandle], task_id: str, context: CommandContext
) -> CommandOutcome:
    """Say in which state a task is, `unknown` when no source can tell.

    Absence proves nothing: a result may have expired, a message may be on its way.

    Spec: commands.md 7.
    """
    for handle in handles:
        if handle.kind is not BrokerKind.OTHER and await _is_waiting(handle, task_id):
            return _state(task_id, "pending")
    if any(handle.running(task_id) is not None for handle in handles):
        return _state(task_id, "started")
    seconds = max(0.5, min(_ASK_SECONDS, context.remaining_seconds() / 2))
    state = await ask_workers(handles, task_id, question="find", timeout_seconds=seconds)
    if state == relay.RUNNING:
        return _state(task_id, "started")
    for handle in handles:
        result = await _result(handle, task_id)
        if result is not None:
            if not result.is_err:
                return _state(task_id, "success")
            return _state(task_id, "failure", _text_of(result.error))
    return _state(task_id, "unknown")


async def _is_waiting(handle: BrokerHandle, task_id: str) -> bool:
    with reported("looking through the queue"):
        redis = handle.redis()
        match = handle.match(task_id)
        for key in handle.queue_keys():
            if handle.kind is BrokerKind.LIST:
                if await list_queue.find(redis, key, match) is not None:
                    return True
            elif await stream_queue.find_waiting(redis, key, match) is not None:
                return True
    return False


async def _result(handle: BrokerHandle, task_id: str) -> TaskiqResult[Any] | None:
    """The stored result; None when there is none, or reading it would take it away."""
    backend = handle.broker.result_backend
    if isinstance(backend, DummyResultBackend) or not getattr(backend, "keep_results", True):
        return None

    async def read() -> TaskiqResult[Any] | None:
        if not await backend.is_result_ready(task_id):
            return None
        return await backend.get_result(task_id)

    try:
        return await on_loop(handle.broker_loop(), read, timeout_seconds=_RESULT_SECONDS)
    except (asyncio.TimeoutError, TimeoutError):
        return None
    except CommandError:  # the broker was never started here: the backend cannot be used
        return None
    except Exception as error:  # noqa: BLE001 - see below
        # Result backends are anybody's code, and one that fails is a source that cannot tell.
        raise CommandError(
            "failed", f"the result backend failed: {type(error).__name__}: {error}"
        ) from None


def _state(task_id: str, state: str, exception: str | None = None) -> CommandOutcome:
    return CommandOutcome(
        result={
            "task_id": task_id,
            "engine_state": state,
            "finished_at": None,  # taskiq's results do not say when
            "exception": exception,
        }
    )


def _text_of(error: BaseException | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"[:500]
