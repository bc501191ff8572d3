"""How an attempt ended: every row of engines.md 4.2, without arq."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from z4j_fastapi.engines.arq.job_run import (
    Body,
    Ending,
    JobRun,
    ending_of_body,
    ending_without_body,
)


def made(body: Body, **more: Any) -> JobRun:
    run = JobRun("id", 100.0)
    run.body = body
    run.timeout_seconds = 5.0
    for name, value in more.items():
        setattr(run, name, value)
    return run


def decided(run: JobRun, *, stored: Any = None, finish: bool = True, **more: Any) -> Ending:
    def decode() -> Any:
        if stored == "never":
            raise AssertionError("the stored result was read")
        return stored

    more.setdefault("retry_jobs", True)
    more.setdefault("now_monotonic", 101.0)
    return ending_of_body(run, finish=finish, stored=decode, **more)


@pytest.mark.parametrize("body", list(Body))
def test_ending_when_arq_keeps_the_job_then_it_is_retried(body: Body) -> None:
    assert decided(made(body), finish=False, stored="never") is Ending.RETRIED


@pytest.mark.parametrize("result", [None, 1, 1.5, "x", b"x", True, {"a": 1}, [1], (1,)])
def test_ending_when_a_body_returned_something_plain_then_nothing_is_decoded(
    result: object,
) -> None:
    assert decided(made(Body.RETURNED, result=result), stored="never") is Ending.SUCCEEDED


@pytest.mark.parametrize(
    ("stored", "ending"),
    [
        (None, Ending.SUCCEEDED),
        ({"s": True, "r": 1}, Ending.SUCCEEDED),
        ({"s": False, "r": "unable to serialize result"}, Ending.SUCCEEDED),
        ({"s": False, "r": RuntimeError("no repr")}, Ending.FAILED),
    ],
)
def test_ending_when_a_body_returned_an_object_then_arqs_own_view_counts(
    stored: Any, ending: Ending
) -> None:
    run = made(Body.RETURNED, result=object())
    assert decided(run, stored=stored) is ending
    assert (run.exception is not None) == (ending is Ending.FAILED)


def test_ending_when_a_body_raised_then_it_failed() -> None:
    assert decided(made(Body.RAISED), stored="never") is Ending.FAILED


def test_ending_when_a_body_was_cancelled_while_aborting_then_it_is_revoked() -> None:
    run = made(Body.CANCELLED, aborting=True)
    assert decided(run, stored="never") is Ending.REVOKED
    assert decided(run, stored="never", retry_jobs=False) is Ending.REVOKED


def test_ending_when_cancelled_and_finished_although_jobs_are_retried_then_it_timed_out() -> None:
    assert decided(made(Body.CANCELLED), stored="never") is Ending.TIMED_OUT


@pytest.mark.parametrize(
    ("stored", "now", "ending"),
    [
        ({"r": TimeoutError()}, 101.0, Ending.TIMED_OUT),
        ({"r": asyncio.TimeoutError()}, 101.0, Ending.TIMED_OUT),
        ({"r": asyncio.CancelledError()}, 106.0, Ending.FAILED),
        (None, 105.0, Ending.TIMED_OUT),
        (None, 104.9, Ending.FAILED),
    ],
)
def test_ending_when_cancelled_and_jobs_are_never_retried_then_result_or_clock_decide(
    stored: Any, now: float, ending: Ending
) -> None:
    run = made(Body.CANCELLED)
    assert decided(run, stored=stored, retry_jobs=False, now_monotonic=now) is ending


def test_ending_when_the_body_never_ran_then_the_stored_reason_counts() -> None:
    cancelled = {"s": False, "r": asyncio.CancelledError()}
    assert decided(made(Body.NOT_RUN), stored=cancelled) is Ending.REVOKED
    run = made(Body.NOT_RUN)
    assert decided(run, stored={"s": False, "r": KeyError("x")}) is Ending.FAILED
    assert isinstance(run.exception, KeyError)


def test_ending_without_body_when_the_reason_is_stored_then_it_is_told() -> None:
    error = RuntimeError("job expired")
    run = made(Body.NOT_RUN)
    assert ending_without_body(run, stored={"r": error}, max_tries=5) == (Ending.FAILED, error)
    cancelled = asyncio.CancelledError()
    assert ending_without_body(run, stored={"r": cancelled}, max_tries=5) == (
        Ending.REVOKED,
        cancelled,
    )


@pytest.mark.parametrize(
    ("more", "stored", "text"),
    [
        ({}, None, "job expired"),
        ({"message_seen": True}, None, "job could not be decoded"),
        ({"message_seen": True, "message": {}}, {"r": "?", "t": 6}, "max 5 retries exceeded"),
        ({"message_seen": True, "message": {}}, {"r": "?", "t": 5}, "ended before its body ran"),
        ({"message_seen": True, "message": {}}, None, "ended before its body ran"),
    ],
)
def test_ending_without_body_when_the_reason_cannot_be_read_then_it_is_concluded(
    more: dict[str, Any], stored: Any, text: str
) -> None:
    run = made(Body.NOT_RUN, **more)
    ending, reason = ending_without_body(run, stored=stored, max_tries=5)
    assert ending is Ending.FAILED
    assert reason == f"JobExecutionFailed: {text}"
