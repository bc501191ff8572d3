"""The sixth key of the job dict."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from z4j_fastapi.engines.arq.carrier import (
    carrier_in,
    carrying_serializer,
    current_run,
    is_job,
    is_stored,
    observing_deserializer,
    outgoing,
)
from z4j_fastapi.engines.arq.job_run import JobRun

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = {"t": None, "f": "ok", "a": (1,), "k": {}, "et": 1}
RESULT = {**JOB, "s": True, "r": 1}


@contextmanager
def sending(carrier: Any) -> Iterator[None]:
    token = outgoing.set(carrier)
    try:
        yield
    finally:
        outgoing.reset(token)


@contextmanager
def running() -> Iterator[JobRun]:
    run = JobRun("id", 0.0)
    token = current_run.set(run)
    try:
        yield run
    finally:
        current_run.reset(token)


def test_serializer_when_a_carrier_goes_out_then_it_is_a_sixth_key_and_the_job_is_unchanged() -> (
    None
):
    serialize = carrying_serializer(None)
    job = dict(JOB)
    with sending({"rid": "r"}):
        assert pickle.loads(serialize(job)) == {**JOB, "z4j": {"rid": "r"}}
    assert job == JOB


@pytest.mark.parametrize("carrier", [None, {}])
def test_serializer_when_there_is_no_carrier_then_the_bytes_are_arqs_own(carrier: Any) -> None:
    with sending(carrier):
        assert carrying_serializer(None)(JOB) == pickle.dumps(JOB)


def test_serializer_when_it_writes_a_result_then_the_result_is_left_alone() -> None:
    with sending({"rid": "r"}):
        assert pickle.loads(carrying_serializer(None)(RESULT)) == RESULT


def test_serializer_when_the_users_own_refuses_the_key_then_the_job_goes_out_without_it() -> None:
    calls: list[Any] = []

    def strict(data: dict[str, Any]) -> bytes:
        calls.append(data)
        if set(data) != set(JOB):
            raise ValueError("unknown key")
        return b"ok"

    serialize = carrying_serializer(strict)
    with sending({"rid": "r"}):
        assert serialize(JOB) == b"ok"
        assert serialize(JOB) == b"ok"
    assert len(calls) == 3  # it is not asked a second time


def test_serializer_when_the_arguments_cannot_be_written_then_the_users_error_comes_out() -> None:
    serialize = carrying_serializer(None)
    with sending({"rid": "r"}), pytest.raises((AttributeError, pickle.PicklingError)):
        serialize({**JOB, "a": (lambda: None,)})
    # That was no strict serialiser: the next job has its carrier.
    with sending({"rid": "r"}):
        assert "z4j" in pickle.loads(serialize(JOB))


def test_deserializer_when_a_job_runs_then_only_its_own_dict_is_seen() -> None:
    deserialize = observing_deserializer(None)
    with running() as run:
        assert deserialize(pickle.dumps(JOB)) == JOB
        deserialize(pickle.dumps({**JOB, "f": "another"}))
        assert run.message == JOB


def test_deserializer_when_no_job_runs_then_it_only_deserialises() -> None:
    assert observing_deserializer(lambda raw: {"raw": raw})(b"x") == {"raw": b"x"}


def test_deserializer_when_the_job_is_garbage_then_that_is_known_and_the_error_comes_out() -> None:
    with running() as run:
        with pytest.raises(pickle.UnpicklingError):
            observing_deserializer(None)(b"garbage")
        assert run.message_seen
        assert run.message is None


@pytest.mark.parametrize("message", [None, {}, {"z4j": None}, {"z4j": "x"}, {"z4j": [1]}])
def test_carrier_when_there_is_none_or_a_damaged_one_then_none(message: Any) -> None:
    assert carrier_in(message) is None


def test_kinds_when_a_dict_is_a_job_or_result_then_they_are_told_apart() -> None:
    assert is_job(JOB)
    assert not is_job(RESULT)
    assert is_stored(RESULT)
    assert not is_stored([])
    assert not is_stored({})
