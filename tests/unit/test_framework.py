from __future__ import annotations

import logging

import pytest
from support.runtime_kit import Guarded

from z4j_fastapi import correlation
from z4j_fastapi.correlation import Correlation
from z4j_fastapi.framework import DiscoveryHints, FastAPIFrameworkAdapter, RequestContext

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def adapter():
    return FastAPIFrameworkAdapter("the settings")


def test_adapter_is_what_the_official_one_says_it_is(adapter):
    assert (adapter.name, adapter.default_worker_role) == ("fastapi", "web")
    assert adapter.discover_config() == "the settings"
    assert adapter.discovery_hints() == DiscoveryHints(
        app_paths=(), app_names=(), framework_name="fastapi"
    )
    assert adapter.register_admin_view(object()) is None


def test_context_is_none_outside_a_request(adapter):
    assert adapter.current_context() is None
    assert adapter.current_user() is None


def test_context_is_the_running_requests(adapter):
    here = Correlation(traceparent=TRACEPARENT, request_id="r-1", user_id="u", tenant_id="t")
    with correlation.use(here):
        assert adapter.current_context() == RequestContext(
            user_id="u",
            tenant_id="t",
            request_id="r-1",
            trace_id="0af7651916cd43dd8448eb211c80319c",
            extra={"traceparent": TRACEPARENT},
        )
        assert adapter.current_user() == "u"


@pytest.mark.parametrize(
    ("here", "request_id", "trace_id"),
    [
        (Correlation(task_id="t"), None, None),
        (Correlation(request_id="x" * 200), "x" * 100, None),
        (Correlation(traceparent="no dashes"), None, None),
        (Correlation(traceparent="00-" + "a" * 200), None, "a" * 100),
        (Correlation(traceparent="00-"), None, None),
    ],
)
def test_context_when_a_part_is_missing_damaged_or_long_is_safe(
    adapter, here, request_id, trace_id
):
    with correlation.use(here):
        context = adapter.current_context()
        assert (context.request_id, context.trace_id) == (request_id, trace_id)


def test_hooks_run_in_order_and_one_that_is_late_runs_at_once(adapter):
    calls = []

    @adapter.on_startup
    def first():
        calls.append("first")

    adapter.on_startup(lambda: calls.append("second"))
    adapter.on_shutdown(lambda: calls.append("down"))
    assert calls == []
    adapter.fire_startup()
    assert calls == ["first", "second"]
    adapter.on_startup(lambda: calls.append("late"))
    assert calls[2:] == ["late"]
    adapter.fire_shutdown()
    assert calls[3:] == ["down"]
    adapter.on_startup(lambda: calls.append("for the next start"))
    assert len(calls) == 4
    adapter.fire_startup()
    assert calls[4:] == ["first", "second", "late", "for the next start"]
    assert first() is None  # usable as a decorator


def fail():
    raise ValueError("of the user's hook")


def test_hook_when_it_raises_does_not_stop_the_rest_and_is_contained_by_the_guard():
    guard, calls = Guarded(), []
    adapter = FastAPIFrameworkAdapter(None, guard=guard)
    for register in (adapter.on_startup, adapter.on_shutdown):
        register(fail)
        register(lambda: calls.append(1))
    adapter.fire_startup()
    adapter.fire_shutdown()
    assert len(calls) == 2
    assert [place for place, _ in guard.contained] == ["framework.startup", "framework.shutdown"]


def test_hook_when_it_raises_and_nobody_gave_a_guard_is_logged(adapter, caplog):
    calls = []
    adapter.on_shutdown(fail)
    adapter.on_shutdown(lambda: calls.append(1))
    with caplog.at_level(logging.ERROR, logger="z4j_fastapi.framework"):
        adapter.fire_shutdown()
    assert calls == [1]
    assert "shutdown hook failed" in caplog.text
