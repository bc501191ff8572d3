"""Cancelling a running body without ever losing the message it came from.

`Receiver.callback` catches a `CancelledError` only while it runs the body (and resolves its
dependencies); anywhere else, in another middleware's hook or while the result is stored, the same
exception would leave the message neither answered nor acknowledged. So the suspended coroutine is
looked at first: taskiq 0.11 to 0.13 all have `run_task` with `start_time` set before the guarded
part and `execution_time` after it. A receiver that looks different is never interrupted.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Collection
from typing import Any

from z4j_fastapi.engines.taskiq.runs import Outcome, Run

#: How long to wait for the body to be entered, in steps: nothing tells us when another
#: middleware's hook is over.
_ENTRY_SECONDS = 1.0
_ENTRY_STEP_SECONDS = 0.02


class Interruption(str, enum.Enum):
    """What came of the wish to interrupt a task in one process."""

    ABSENT = "absent"  # not running here
    SYNCHRONOUS = "synchronous"  # runs in a thread or process pool: cannot be interrupted
    BUSY = "busy"  # never seen inside the body: not touched
    REQUESTED = "requested"  # cancelled, but it has not ended yet
    REVOKED = "revoked"  # cancelled and ended
    FINISHED = "finished"  # ended in another way before the cancellation took effect


def body_is_running(task: asyncio.Task[Any]) -> bool:
    """Whether the receiver's task is suspended where it catches a cancellation."""
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        code = getattr(coroutine, "cr_code", None)
        if code is not None and code.co_name == "run_task":
            frame = coroutine.cr_frame
            names: Collection[str] = frame.f_locals if frame is not None else ()
            return "start_time" in names and "execution_time" not in names
        coroutine = getattr(coroutine, "cr_await", None)
    return False


async def interrupt(run: Run, *, timeout_seconds: float) -> Interruption:
    """Cancel a run's body and wait for its end. On the loop that runs it.

    The task is not tried again: `retry_on_error` is switched off in this message. taskiq catches
    the cancellation, stores an error result and acknowledges; the worker goes on.

    Args:
        run: A run of this process.
        timeout_seconds: How long to wait for the end before `REQUESTED` is the answer.
    Spec: engines.md 5.4.
    """
    if not run.is_interruptible or run.task is None:
        return Interruption.SYNCHRONOUS
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + min(_ENTRY_SECONDS, timeout_seconds)
    while run.outcome is None and not body_is_running(run.task):
        if loop.time() >= give_up_at:
            return Interruption.BUSY
        await asyncio.sleep(_ENTRY_STEP_SECONDS)
    if run.outcome is not None:
        return _ended(run.outcome)
    ended: asyncio.Future[Outcome] = loop.create_future()

    def end(outcome: Outcome) -> None:
        if not ended.done():
            ended.set_result(outcome)

    run.on_end.append(end)
    run.message.labels["retry_on_error"] = False
    run.cancel_requested = True
    run.task.cancel()
    done, _ = await asyncio.wait({ended}, timeout=timeout_seconds)
    return _ended(ended.result()) if done else Interruption.REQUESTED


def _ended(outcome: Outcome) -> Interruption:
    return Interruption.REVOKED if outcome is Outcome.REVOKED else Interruption.FINISHED
