"""Sending tasks through a broker, on the loop that it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from z4j_fastapi.correlation import Correlation, use
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker

T = TypeVar("T")

#: Left for the answer to travel.
_MARGIN_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One task to send.

    Args:
        task_name: A registered name.
        args, kwargs: Of the body.
        labels: Added to the task's own.
        task_id: None lets the broker choose one.
        cause: Correlation to send it under, such as the task that is being retried.
    """

    task_name: str
    args: Sequence[object]
    kwargs: Mapping[str, object]
    labels: Mapping[str, Any]
    task_id: str | None = None
    cause: Correlation | None = None


async def on_loop(
    loop: asyncio.AbstractEventLoop,
    work: Callable[[], Coroutine[Any, Any, T]],
    *,
    timeout_seconds: float,
) -> T:
    """Run `work` on the loop of the host and wait for it, at most `timeout_seconds`.

    Raises:
        asyncio.TimeoutError: It was cancelled; how far it came is not known.
    """
    waiting: Awaitable[T]
    if loop is asyncio.get_running_loop():
        waiting = work()
    else:
        waiting = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))
    return await asyncio.wait_for(waiting, timeout_seconds)


async def submit(
    broker: AsyncBroker,
    loop: asyncio.AbstractEventLoop,
    submission: Submission,
    *,
    remaining_seconds: Callable[[], float],
) -> str:
    """Send one task and return its id.

    A connection that could not be made is tried again until the time is up, since nothing was sent;
    any other failure may have come after the message left, and is not.

    Args:
        broker: Where the task is registered.
        loop: The broker's.
        submission: What to send.
        remaining_seconds: Until the dispatcher gives up.
    Raises:
        CommandError: `not_found` for an unknown task, `failed` otherwise; indeterminate when the
            message may have been sent.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await on_loop(
                loop,
                lambda: _kick(broker, submission),
                timeout_seconds=max(0.1, remaining_seconds() - _MARGIN_SECONDS),
            )
        except (asyncio.TimeoutError, TimeoutError):
            raise CommandError(
                "timeout",
                "the broker did not take the message in time; it may arrive all the same",
                indeterminate=True,
            ) from None
        except CommandError:
            raise
        except Exception as error:  # noqa: BLE001 - brokers and middlewares are anybody's code
            if not _never_sent(error):
                # What cannot be serialised stayed here; a hook may fail after the kick.
                stayed = isinstance(error.__cause__, (TypeError, ValueError))
                raise CommandError(
                    "failed",
                    f"the broker refused the message: {_cause_text(error)}",
                    indeterminate=not stayed,
                ) from None
            if remaining_seconds() - _MARGIN_SECONDS <= pause:
                raise CommandError(
                    "failed", f"the broker cannot be reached: {_cause_text(error)}"
                ) from None
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


async def _kick(broker: AsyncBroker, submission: Submission) -> str:
    task = broker.find_task(submission.task_name)
    if task is None:
        raise CommandError(
            "not_found", f"no task named {submission.task_name!r} is registered in this process"
        )
    kicker = task.kicker().with_broker(broker)
    if submission.labels:
        kicker = kicker.with_labels(**submission.labels)
    if submission.task_id is not None:
        kicker = kicker.with_task_id(submission.task_id)
    with use(submission.cause):
        sent = await kicker.kiq(*submission.args, **submission.kwargs)
    return sent.task_id


def _never_sent(error: BaseException) -> bool:
    """Whether no connection could be made, so that the message cannot have left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return True
        # redis-py: "Error 111 connecting to host:6379. ..." and "Timeout connecting to server";
        # a connection that broke later reads "Connection closed by server." or "Error ... while".
        if type(cause).__module__.startswith("redis.") and "connecting to" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _cause_text(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"
