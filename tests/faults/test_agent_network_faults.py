"""A network that swallows, cuts and garbles, between the agent and a brain that counts."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from dependency_injector import providers
from support.fault_proxy import Direction, FaultProxy
from support.processes import wait_until
from support.socket_brain import SocketBrain

from z4j_fastapi import AgentContainer, events
from z4j_fastapi.clock import SystemClock

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


class AdvancedClock(SystemClock):
    """The real time, plus `seconds`."""

    seconds = 0.0

    def monotonic(self):
        return super().monotonic() + self.seconds


@pytest.fixture
def fast_brain():
    brain = SocketBrain()
    brain.start()
    yield brain
    brain.close()


@pytest.fixture
def proxy(fast_brain):
    proxy = FaultProxy(fast_brain.port)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def clock():
    return AdvancedClock()


@pytest.fixture
def runtime(fast_brain, proxy, tmp_path, clock):
    container = AgentContainer()
    container.overrides.override(
        providers.Object(fast_brain.options(tmp_path) | {"brain_url": proxy.url})
    )
    container.clock.override(providers.Object(clock))
    runtime = container.runtime()
    runtime.start()
    assert runtime.wait_online(20)
    yield runtime
    runtime.stop(2.0)


def event(task_id):
    return events.task_received("arq", task_id, "shop.charge", args=["x" * 200], queue="q")


@pytest.mark.parametrize("swallowed", ["both ways", "ours", "theirs"])
def test_line_when_it_swallows_is_given_up_after_30_s_without_progress_and_nothing_is_lost(
    fast_brain, proxy, runtime, clock, swallowed
):
    directions = {
        "both ways": (Direction.UP, Direction.DOWN),
        "ours": (Direction.UP,),
        "theirs": (Direction.DOWN,),
    }[swallowed]
    proxy.black_hole(*directions)
    for number in range(20):
        runtime.record(event(f"swallowed-{number}"))
    wait_until(lambda: runtime.status().sent >= 20, timeout_seconds=10, what="the sending")
    assert runtime.status().online  # nothing has been noticed, and 20 s would be no reason to

    clock.seconds = 20.0
    runtime.record(event("early"))
    wait_until(lambda: runtime.status().sent >= 21, timeout_seconds=10, what="the sending")
    assert runtime.status().online

    clock.seconds = 31.0
    runtime.record(event("late"))
    wait_until(
        lambda: "acknowledged nothing" in (runtime.status().last_error or ""),
        timeout_seconds=10,
        what="the notice",
    )
    proxy.heal()
    assert runtime.flush(20)
    expected = {f"swallowed-{number}" for number in range(20)} | {"early", "late"}
    assert fast_brain.task_ids() == Counter(expected)
    status = runtime.status()
    assert status.connects == 2
    assert not any(status.dropped.values())


def test_line_when_it_is_cut_and_garbled_again_and_again_loses_nothing(fast_brain, proxy, runtime):
    total = 3000
    done = threading.Event()

    def record():
        for number in range(total):
            runtime.record(event(f"t-{number}"))
            if number % 20 == 0:
                time.sleep(0.01)
        done.set()

    recording = threading.Thread(target=record)
    recording.start()
    faults = [
        proxy.cut,
        lambda: proxy.corrupt(Direction.UP),
        lambda: proxy.cut_after(5_000, Direction.UP),
        lambda: proxy.corrupt(Direction.DOWN),
        lambda: proxy.cut_after(100, Direction.DOWN),
        lambda: (proxy.black_hole(Direction.DOWN), proxy.cut()),
    ]
    for fault in faults * 2:
        assert runtime.wait_online(20)
        connects = runtime.status().connects
        fault()
        runtime.record(event("nudge"))  # an idle line does not notice
        if fault is faults[-1]:
            proxy.heal()
        runtime.request_reconnect()
        wait_until(
            lambda connects=connects: runtime.status().connects > connects,
            timeout_seconds=20,
            what="another session",
        )
    recording.join(30)
    assert done.is_set()
    proxy.heal()
    runtime.request_reconnect()
    assert runtime.flush(30)
    arrived = fast_brain.task_ids()
    assert arrived.pop("nudge") == len(faults) * 2
    assert arrived == Counter(f"t-{number}" for number in range(total))
    assert not any(runtime.status().dropped.values())
    again = sum(count > 1 for count in fast_brain.deliveries.values())
    print(f"\n{len(fast_brain.deliveries)} events, {again} of them sent more than once")


def test_stop_when_the_agent_waits_for_a_dead_line_is_quick(fast_brain, proxy, runtime, tmp_path):
    proxy.black_hole()
    for number in range(100):
        runtime.record(event(f"t-{number}"))
    begun = time.monotonic()
    runtime.stop()
    took = time.monotonic() - begun
    print(f"\nstop on a dead line, 100 pending: {took * 1e3:.0f} ms")
    assert took < 2.0
    proxy.heal()
    runtime.start()
    wait_until(lambda: len(fast_brain.task_ids()) == 100, timeout_seconds=20, what="all of them")
