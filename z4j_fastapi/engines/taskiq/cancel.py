"""Cancelling a task, wherever it is: waiting, running here, or running in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from z4j_fastapi.engines.base import CommandContext, CommandOutcome
from z4j_fastapi.engines.taskiq import list_queue, relay, stream_queue
from z4j_fastapi.engines.taskiq.brokers import BrokerKind
from z4j_fastapi.engines.taskiq.connection import reported
from z4j_fastapi.engines.taskiq.handle import BrokerHandle
from z4j_fastapi.engines.taskiq.interrupt import Interruption, interrupt
from z4j_fastapi.engines.taskiq.labels import carrier_of
from z4j_fastapi.engines.taskiq.list_queue import SCAN_LIMIT
from z4j_fastapi.engines.taskiq.reporting import revoked_event
from z4j_fastapi.engines.taskiq.submission import on_loop
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from taskiq.message import TaskiqMessage

#: Longest wait for a cancelled body to end, and what is left of the command's time for the answer.
_CONFIRM_SECONDS = 20.0
_MARGIN_SECONDS = 1.0


async def cancel(
    handles: Sequence[BrokerHandle], task_id: str, context: CommandContext
) -> CommandOutcome:
    """Cancel a task and say what became of it.

    Raises:
        CommandError: `not_found`; `unsupported` for a synchronous body; `timeout`, indeterminate,
            when a running body was cancelled and has not ended.
    Spec: engines.md 5.4, commands.md 5.
    """
    for handle in handles:
        if handle.running(task_id) is not None:
            return await _cancel_here(handle, task_id, context)
    for handle in handles:
        if handle.kind is not BrokerKind.OTHER and await _remove_waiting(handle, task_id):
            return CommandOutcome(result={"task_id": task_id, "removed": True})
    state = await ask_workers(
        handles, task_id, question="cancel", timeout_seconds=_confirm_seconds(context)
    )
    if state == Interruption.ABSENT:
        for handle in handles:  # it may have begun here meanwhile
            if handle.running(task_id) is not None:
                return await _cancel_here(handle, task_id, context)
    return _answer(task_id, Interruption(state))


async def ask_workers(
    handles: Sequence[BrokerHandle], task_id: str, *, question: str, timeout_seconds: float
) -> str:
    """Ask the workers of every Redis broker; the first answer other than `absent` counts."""
    give_up_at = asyncio.get_running_loop().time() + timeout_seconds
    for handle in handles:
        if handle.kind is BrokerKind.OTHER:
            continue
        left = give_up_at - asyncio.get_running_loop().time()
        with reported("asking the workers"):
            state = await relay.ask(
                handle.redis(),
                handle.queue_keys(),
                question=question,
                task_id=task_id,
                timeout_seconds=max(0.5, left),
            )
        if state != Interruption.ABSENT:
            return state
    return Interruption.ABSENT.value


async def _cancel_here(
    handle: BrokerHandle, task_id: str, context: CommandContext
) -> CommandOutcome:
    run = handle.running(task_id)
    if run is None or run.loop is None:
        return _answer(task_id, Interruption.FINISHED)
    seconds = _confirm_seconds(context)
    try:
        state = await on_loop(
            run.loop,
            lambda: interrupt(run, timeout_seconds=seconds),
            timeout_seconds=seconds + _MARGIN_SECONDS / 2,
        )
    except (asyncio.TimeoutError, TimeoutError):  # the loop itself is blocked
        state = Interruption.REQUESTED if run.cancel_requested else Interruption.BUSY
    return _answer(task_id, state)


async def _remove_waiting(handle: BrokerHandle, task_id: str) -> bool:
    """Take a waiting message out of its queue and report the task as revoked."""
    with reported("looking through the queue"):
        redis = handle.redis()
        match = handle.match(task_id)
        for key in handle.queue_keys():
            if handle.kind is BrokerKind.LIST:
                found = await list_queue.find(redis, key, match)
                if found is not None and await list_queue.remove(redis, key, found):
                    report_revoked(handle, found.message, key, "cancelled by an operator")
                    return True
            else:
                entry = await stream_queue.find_waiting(redis, key, match)
                if entry is not None and await stream_queue.remove(redis, key, entry):
                    report_revoked(handle, entry.message, key, "cancelled by an operator")
                    return True
    return False


def report_revoked(handle: BrokerHandle, message: TaskiqMessage, key: str, reason: str) -> None:
    """Tell everybody who listens to the broker that a waiting task is gone."""
    middleware = handle.middleware
    if middleware is not None:
        middleware.emit(
            revoked_event(
                message,
                queue=handle.shown(key),
                carrier=carrier_of(message.labels),
                reason=reason,
            ),
            middleware.meta_of_task(message.task_name),
        )


def _confirm_seconds(context: CommandContext) -> float:
    return max(0.5, min(_CONFIRM_SECONDS, context.remaining_seconds() - _MARGIN_SECONDS))


def _answer(task_id: str, state: Interruption) -> CommandOutcome:
    if state is Interruption.REVOKED:
        return CommandOutcome(result={"task_id": task_id, "terminated": True})
    if state is Interruption.FINISHED:
        return CommandOutcome(
            result={"task_id": task_id, "noop": True, "reason": "the task ended by itself"}
        )
    if state is Interruption.SYNCHRONOUS:
        raise CommandError(
            "unsupported",
            "the task is running and cannot be interrupted: its body is synchronous, or runs "
            "inside the caller's own coroutine (await_inplace)",
        )
    if state is Interruption.BUSY:
        raise CommandError(
            "refused", "the task is running, but not at a point where it can be interrupted safely"
        )
    if state is Interruption.REQUESTED:
        raise CommandError(
            "timeout",
            "the running task was cancelled but has not ended: not confirmed",
            indeterminate=True,
            result={"task_id": task_id, "requested": True},
        )
    raise CommandError(
        "not_found",
        f"no task {task_id!r} waits in a known queue (of each, the first {SCAN_LIMIT} messages "
        "were looked at) and no worker that answered runs it; it may have ended, or a worker has "
        "fetched it but not started it",
    )
