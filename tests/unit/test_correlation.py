from __future__ import annotations

import asyncio
import sys

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from z4j_fastapi import correlation
from z4j_fastapi.correlation import Correlation, from_carrier, lineage, outgoing_carrier

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST = Correlation(traceparent=TRACEPARENT, request_id="r-1")
TASK = Correlation(task_id="t-1", root_task_id="t-0", request_id="r-1")


def test_nothing_is_current_by_itself():
    assert correlation.current() is None
    assert outgoing_carrier() == {}


def test_attached_correlation_is_current_until_it_is_detached():
    token = correlation.attach(REQUEST)
    inner = correlation.attach(None)
    assert correlation.current() is None
    correlation.detach(inner)
    assert correlation.current() is REQUEST
    correlation.detach(token)
    assert correlation.current() is None


def test_used_correlation_ends_with_its_block_also_by_an_error():
    def work():
        with correlation.use(TASK):
            assert correlation.current() is TASK
            with correlation.use(REQUEST):
                assert correlation.current() is REQUEST
            assert correlation.current() is TASK
            raise ValueError

    with pytest.raises(ValueError):
        work()
    assert correlation.current() is None


def test_tasks_of_a_loop_do_not_see_each_others():
    async def work(name):
        with correlation.use(Correlation(request_id=name)):
            await asyncio.sleep(0)
            return correlation.current().request_id

    async def main():
        return await asyncio.gather(*(work(str(number)) for number in range(5)))

    assert asyncio.run(main()) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("here", "carrier"),
    [
        (REQUEST, {"tp": TRACEPARENT, "rid": "r-1"}),
        (TASK, {"rid": "r-1", "p": "t-1", "r": "t-0"}),
        (Correlation(task_id="t-1"), {"p": "t-1", "r": "t-1"}),
        (Correlation(), {}),
        (Correlation(user_id="u", tenant_id="t"), {}),
    ],
)
def test_carrier_holds_what_is_known_as_flat_text(here, carrier):
    with correlation.use(here):
        assert outgoing_carrier() == carrier


def live_span(flags=TraceFlags.SAMPLED):
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=flags)
    return trace.use_span(NonRecordingSpan(context))


def test_traceparent_is_that_of_the_live_opentelemetry_span_where_there_is_one():
    expected = "00-00000000000000000000000000000abc-0000000000000def-01"
    with live_span():
        assert outgoing_carrier() == {"tp": expected}
        with correlation.use(REQUEST):
            assert outgoing_carrier() == {"tp": expected, "rid": "r-1"}
    with live_span(TraceFlags.DEFAULT):
        assert outgoing_carrier()["tp"].endswith("-00")
    with correlation.use(REQUEST):
        assert outgoing_carrier()["tp"] == TRACEPARENT


def test_traceparent_when_the_api_is_not_loaded_is_the_requests(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with live_span(), correlation.use(REQUEST):
        assert outgoing_carrier()["tp"] == TRACEPARENT


def test_task_body_gets_its_correlation_from_the_carrier():
    carrier = {"tp": TRACEPARENT, "rid": "r-1", "p": "t-0", "r": "t-root"}
    assert from_carrier(carrier, task_id="t-1") == Correlation(
        traceparent=TRACEPARENT, request_id="r-1", task_id="t-1", root_task_id="t-root"
    )


@pytest.mark.parametrize(
    "carrier",
    [
        None,
        {},
        {"tp": 7, "rid": ["x"], "r": None},
        {"tp": "x" * 56, "rid": "x" * 101, "r": "x" * 201},
        {"tp": "", "rid": "", "r": ""},
    ],
)
def test_carrier_when_damaged_leaves_a_task_that_is_its_own_root(carrier):
    assert from_carrier(carrier, task_id="t-1") == Correlation(task_id="t-1", root_task_id="t-1")


def test_carrier_when_handed_on_keeps_root_and_request_through_a_chain():
    with correlation.use(REQUEST):
        first = outgoing_carrier()
    with correlation.use(from_carrier(first, task_id="a")):
        second = outgoing_carrier()
    with correlation.use(from_carrier(second, task_id="b")):
        third = outgoing_carrier()
    assert second == {"tp": TRACEPARENT, "rid": "r-1", "p": "a", "r": "a"}
    assert third == {"tp": TRACEPARENT, "rid": "r-1", "p": "b", "r": "a"}


@pytest.mark.parametrize(
    ("carrier", "fields"),
    [
        (None, {}),
        ({}, {}),
        (
            {"tp": TRACEPARENT, "rid": "r-1", "p": "t-0", "r": "t-root"},
            {
                "traceparent": TRACEPARENT,
                "request_id": "r-1",
                "parent_task_id": "t-0",
                "root_task_id": "t-root",
            },
        ),
        ({"p": "t-1", "r": "t-1"}, {}),
        ({"p": 7, "r": 8, "tp": None, "rid": ""}, {}),
    ],
)
def test_lineage_names_what_is_known_but_never_the_task_itself(carrier, fields):
    assert lineage(carrier, task_id="t-1") == fields
