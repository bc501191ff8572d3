"""One attempt of one job in a worker, and how it ended.

arq shows the same `CancelledError` to a body that timed out, was aborted, or is stopped by the
worker's shutdown; `ending_of_body` tells them apart from what arq decided afterwards (engines.md
4.2). Pure: no arq, no I/O.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from typing import Any


class Body(enum.Enum):
    """What the job's coroutine did."""

    NOT_RUN = "not_run"
    RUNNING = "running"
    RETURNED = "returned"
    RAISED = "raised"
    CANCELLED = "cancelled"


class Ending(enum.Enum):
    """How an attempt ended, once arq has stored it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    RETRIED = "retried"
    REVOKED = "revoked"


class JobRun:
    """What is known of the job that a worker is running. Lives as long as `Worker.run_job`.

    A plain class, since one is made a job: what stays as it was costs nothing to set up.

    Args:
        job_id: arq's id of the job.
        began_at_monotonic: When `run_job` began; a timeout lies at least its length later.
    """

    #: The worker has begun to decode the job.
    message_seen = False
    #: The decoded job dict; None when expired or undecodable.
    message: Mapping[str, Any] | None = None
    #: What the coroutine did so far.
    body = Body.NOT_RUN
    #: arq was aborting the job when its body was cancelled.
    aborting = False
    #: Its ending has been reported.
    ended = False
    task_name = ""
    attempt = 0
    max_attempts = 0
    timeout_seconds: float | None = None
    meta: Any = None
    body_at_monotonic = 0.0
    runtime_ms: int | None = None
    result: object = None
    exception: BaseException | None = None
    traceback: str | None = None

    def __init__(self, job_id: str, began_at_monotonic: float) -> None:
        self.job_id = job_id
        self.began_at_monotonic = began_at_monotonic
        #: Event fields that all events of the attempt share.
        self.fields: dict[str, Any] = {}


def ending_of_body(  # noqa: PLR0911 - one return a row of the table
    run: JobRun,
    *,
    finish: bool,
    retry_jobs: bool,
    now_monotonic: float,
    stored: Callable[[], Mapping[str, Any] | None],
) -> Ending:
    """What `Worker.finish_job` means for the attempt.

    Args:
        run: The attempt.
        finish: arq's own decision: False keeps the job for another attempt.
        retry_jobs: The worker's setting; with it a cancelled body that is finished all the same
            can only have been aborted or timed out.
        now_monotonic: Current time, same clock as `run.began_at_monotonic`.
        stored: Decodes the stored result; called only where nothing else tells.
    """
    if not finish:
        return Ending.RETRIED
    if run.body is Body.RETURNED:
        return Ending.FAILED if _refused_result(run, stored) else Ending.SUCCEEDED
    if run.body is Body.RAISED:
        return Ending.FAILED
    if run.body is Body.CANCELLED and run.aborting:
        return Ending.REVOKED
    if run.body is Body.CANCELLED and retry_jobs:
        return Ending.TIMED_OUT
    result = stored()
    exception = None if result is None else result.get("r")
    if exception is None and run.timeout_seconds is not None:
        late = now_monotonic - run.began_at_monotonic >= run.timeout_seconds
        return Ending.TIMED_OUT if late else Ending.FAILED
    # On Python 3.10 asyncio's TimeoutError is not the builtin one.
    if isinstance(exception, (TimeoutError, asyncio.TimeoutError)):
        return Ending.TIMED_OUT
    if isinstance(exception, BaseException):
        run.exception = exception
    if run.body is Body.NOT_RUN and isinstance(exception, asyncio.CancelledError):
        return Ending.REVOKED
    return Ending.FAILED


def ending_without_body(
    run: JobRun, *, stored: Mapping[str, Any] | None, max_tries: int
) -> tuple[Ending, BaseException | str]:
    """What `Worker.finish_failed_job` means: the body never ran.

    Args:
        run: The attempt.
        stored: The decoded result; None where it cannot be decoded.
        max_tries: How often arq would have tried the job.
    Returns:
        REVOKED or FAILED, and arq's reason.
    """
    reason = None if stored is None else stored.get("r")
    if isinstance(reason, asyncio.CancelledError):
        return Ending.REVOKED, reason
    if isinstance(reason, BaseException):
        return Ending.FAILED, reason
    # The serialiser could not store the reason (msgpack and the like): conclude it.
    if run.message is None:
        text = "job could not be decoded" if run.message_seen else "job expired"
        return Ending.FAILED, f"JobExecutionFailed: {text}"
    tries = None if stored is None else stored.get("t")
    if isinstance(tries, int) and tries > max_tries:
        return Ending.FAILED, f"JobExecutionFailed: max {max_tries} retries exceeded"
    return Ending.FAILED, "JobExecutionFailed: ended before its body ran"


_PLAIN = (type(None), bool, int, float, str, bytes, dict, list, tuple)


def _refused_result(run: JobRun, stored: Callable[[], Mapping[str, Any] | None]) -> bool:
    """Whether arq counts a body that returned as failed: it logs `repr(result)`, which may raise.

    Plain results cannot do that, so the usual job pays nothing for this.
    """
    if type(run.result) in _PLAIN:
        return False
    result = stored()
    if result is None or result.get("s") is not False:
        return False
    exception = result.get("r")
    if not isinstance(exception, BaseException):
        return False  # "unable to serialize result": the job itself succeeded
    run.exception = exception
    return True
