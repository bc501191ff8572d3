from __future__ import annotations

import gc
import logging

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import CommandError, Failure
from z4j_fastapi.observability.guard import ErrorGuard
from z4j_fastapi.observability.log import get_logger
from z4j_fastapi.observability.metrics import (
    BufferLevel,
    Metrics,
    action_label,
    engine_label,
    outcome_label,
)
from z4j_fastapi.protocol.commands import KNOWN_ACTIONS


class FakeClock:
    def monotonic(self):
        return 0.0


class Collected:
    """One in-memory SDK, and what it collects as (name, labels) to value."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])

    def agent(self):
        counters = LossCounters()
        guard = ErrorGuard(logger=get_logger("guard"), counters=LossCounters(), clock=FakeClock())
        made = Metrics(counters=counters, guard=guard, meter_provider=self.provider)
        return made, counters, guard

    def points(self):
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "z4j_fastapi"
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = point.value if hasattr(point, "value") else (point.count, point.sum)
                        found[metric.name, tuple(sorted(point.attributes.items()))] = value
        return found

    def value(self, name, **labels):
        return self.points().get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def sdk():
    made = Collected()
    yield made
    made.provider.shutdown()


def test_metrics_when_batches_flow_then_are_collected(sdk):
    metrics, _, _ = sdk.agent()

    metrics.sent(500)
    metrics.sent(3)
    metrics.acknowledged(500, 0.25)

    assert sdk.value("z4j.agent.events.sent") == 503
    points = sdk.points()
    assert points["z4j.agent.events.acknowledged", ()] == 500
    assert points["z4j.agent.ack.latency", ()] == (1, 250.0)


def test_metrics_when_an_agent_is_observed_then_reads_its_own_figures(sdk):
    metrics, _, _ = sdk.agent()
    recorded = [7]
    metrics.observe(recorded=lambda: recorded[0], level=lambda: BufferLevel(records=3, bytes=4096))

    assert sdk.value("z4j.agent.events.recorded") == 7
    recorded[0] = 9
    points = sdk.points()
    assert points["z4j.agent.events.recorded", ()] == 9
    assert points["z4j.agent.buffer.depth", ()] == 3
    assert points["z4j.agent.buffer.size", ()] == 4096


def test_metrics_when_events_are_lost_then_are_counted_by_reason(sdk):
    _metrics, counters, _ = sdk.agent()
    counters.add(LossReason.CAPACITY, 12)

    lost = {key[1]: value for key, value in sdk.points().items() if key[0].endswith(".dropped")}

    assert lost[(("reason", "capacity"),)] == 12
    assert set(lost) == {(("reason", reason.value),) for reason in LossReason}


def test_metrics_when_two_agents_live_in_one_process_then_add_up_without_a_complaint(sdk, caplog):
    with caplog.at_level(logging.WARNING):
        for depth in (1, 2):
            metrics, _, _ = agent = sdk.agent()
            metrics.observe(
                recorded=lambda: 10,
                level=lambda depth=depth: BufferLevel(records=depth, bytes=depth),
            )
            setattr(sdk, f"kept_{depth}", agent)
        points = sdk.points()

    assert points["z4j.agent.events.recorded", ()] == 20
    assert points["z4j.agent.buffer.depth", ()] == 3
    assert caplog.records == []  # the SDK warns of instruments that are made twice


def test_metrics_when_an_agent_is_gone_then_counters_do_not_go_down(sdk):
    metrics, counters, guard = sdk.agent()
    metrics.observe(recorded=lambda: 10, level=lambda: BufferLevel(records=5, bytes=5))
    counters.add(LossReason.DISK, 2)
    assert sdk.value("z4j.agent.events.recorded") == 10

    del metrics, counters, guard
    gc.collect()

    points = sdk.points()
    assert points["z4j.agent.events.recorded", ()] == 10
    assert points["z4j.agent.events.dropped", (("reason", "disk"),)] == 2
    assert points["z4j.agent.buffer.depth", ()] == 0
    assert sdk.value("z4j.agent.events.recorded") == 10  # folded in once, not at every collection


def test_metrics_when_an_agents_figures_raise_then_are_contained(sdk):
    metrics, _, guard = sdk.agent()

    def closed():
        raise RuntimeError("closed")

    metrics.observe(recorded=closed, level=closed)

    points = sdk.points()
    assert points["z4j.agent.events.recorded", ()] == 0
    assert points["z4j.agent.buffer.depth", ()] == 0
    assert set(guard.counts()) == {"metrics.recorded", "metrics.level"}


def test_metrics_when_connects_end_then_counts_outcomes_and_reconnects(sdk):
    metrics, _, _ = sdk.agent()
    for outcome in ("transient", "connected", "auth", "connected", "connected", "made up"):
        metrics.connect_ended(outcome)

    points = sdk.points()
    assert points["z4j.agent.reconnects", ()] == 2
    connects = {k[1]: v for k, v in points.items() if k[0] == "z4j.agent.connects"}
    assert connects == {
        (("outcome", "auth"),): 1,
        (("outcome", "connected"),): 3,
        (("outcome", "transient"),): 1,
        (("outcome", "other"),): 1,
    }


def test_metrics_when_commands_end_then_labels_come_from_fixed_sets(sdk):
    metrics, _, _ = sdk.agent()
    metrics.command_finished(action="retry_task", engine="arq", outcome="success", seconds=0.5)
    for number in range(50):
        metrics.command_finished(
            action=f"x{number}", engine=f"y{number}", outcome=f"z{number}", seconds=1
        )

    durations = {k[1]: v for k, v in sdk.points().items() if k[0] == "z4j.agent.command.duration"}
    assert durations == {
        (("action", "retry_task"), ("engine", "arq"), ("outcome", "success")): (1, 500.0),
        (("action", "other"), ("engine", "other"), ("outcome", "other")): (50, 50_000.0),
    }


def test_labels_when_known_then_stay_as_they_are():
    assert [action_label(action) for action in KNOWN_ACTIONS] == list(KNOWN_ACTIONS)
    assert engine_label(None) == "none"
    assert CommandError.__doc__ is not None
    for reason in ("unsupported", "engine_not_loaded", "not_found", "refused", "timeout"):
        assert f"`{reason}`" in CommandError.__doc__
        assert outcome_label(reason) == reason
    for kind in Failure:
        assert kind.value


def test_reinit_after_fork_when_called_then_forgets_the_parents_sums(sdk):
    metrics, _, _ = sdk.agent()
    metrics.observe(recorded=lambda: 10, level=lambda: BufferLevel(records=0, bytes=0))
    sdk.points()
    metrics._instruments._lock.acquire()  # as a collector may have at the moment of the fork

    metrics.reinit_after_fork()
    metrics.observe(recorded=lambda: 0, level=lambda: BufferLevel(records=0, bytes=0))

    assert sdk.value("z4j.agent.events.recorded") == 0


def test_metrics_when_there_is_no_sdk_then_every_call_is_silent():
    guard = ErrorGuard(logger=get_logger("guard"), counters=LossCounters(), clock=FakeClock())
    first, second = (Metrics(counters=LossCounters(), guard=guard) for _ in range(2))

    first.sent(1)
    first.acknowledged(1, 0.1)
    first.connect_ended("connected")
    first.command_finished(action="a", engine=None, outcome="success", seconds=1)

    assert first._instruments is second._instruments  # the API keeps every meter it gives out
    assert guard.counts() == {}
