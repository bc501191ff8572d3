from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from z4j_fastapi.clock import SystemClock
from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.observability import Observability


def test_create_when_nothing_is_said_then_no_level_is_set_and_the_guard_counts():
    counters = LossCounters()
    before = logging.getLogger("z4j_fastapi").level
    bundle = Observability.create(counters=counters, clock=SystemClock())

    with bundle.guard("place"):
        raise ValueError

    assert logging.getLogger("z4j_fastapi").level == before
    assert counters.get(LossReason.ENGINE_ERROR) == 1
    assert bundle.logger("runtime").name == "z4j_fastapi.runtime"


def test_create_when_a_level_is_given_then_sets_it_on_our_tree():
    tree = logging.getLogger("z4j_fastapi")
    before = tree.level
    try:
        Observability.create(counters=LossCounters(), clock=SystemClock(), log_level="ERROR")
        assert tree.level == logging.ERROR
    finally:
        tree.setLevel(before)


def test_create_when_given_on_error_then_tests_see_contained_errors():
    def reraise(_place, error):
        raise error

    bundle = Observability.create(counters=LossCounters(), clock=SystemClock(), on_error=reraise)

    with pytest.raises(ZeroDivisionError):
        with bundle.guard("place"):
            1 / 0  # noqa: B018 - raises


def test_reinit_after_fork_when_called_then_reaches_the_guard():
    bundle = Observability.create(counters=LossCounters(), clock=SystemClock())
    with bundle.guard("place"):
        raise ValueError

    bundle.reinit_after_fork()

    assert bundle.guard.counts() == {}


@pytest.mark.process
@pytest.mark.parametrize("sdk_missing", [False, True])
def test_bundle_when_built_then_its_use_imports_nothing_more(sdk_missing):
    """Whether or not the OpenTelemetry SDK is installed."""
    program = f"""
import sys
if {sdk_missing}:
    sys.modules["opentelemetry.sdk"] = None  # an import of it fails from now on
from z4j_fastapi.clock import SystemClock
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.observability import Observability
bundle = Observability.create(counters=LossCounters(), clock=SystemClock())
before = set(sys.modules)
with bundle.tracing.connect() as attempt:
    attempt.connected("s")
with bundle.tracing.command("retry_task", "arq") as span:
    span.finish(status="failed", seconds=1)
bundle.metrics.sent(1); bundle.metrics.acknowledged(1, 0.1)
with bundle.guard("place"):
    raise ValueError
bundle.logger("engines.arq").error("event", field="x")
print(sorted(set(sys.modules) - before))
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"
