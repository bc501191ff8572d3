"""Agent CPU per delivered event, sustained rate, drain, idle delay, command round trips.

The recording process is the agent's own, the null brain's is another; CPU is the agent process's.
"""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

from benchmarks import typical
from benchmarks.agents import running_runtime
from benchmarks.null_brain import NullBrain

MANY = 100_000


def _wait(brain: NullBrain, events: int, seconds: float = 120.0) -> dict[str, float]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stats = brain.ask("stats")
        if stats["events"] >= events:
            return stats
        time.sleep(0.02)
    raise RuntimeError(f"only {stats['events']} of {events} events arrived")


def sustained(brain: NullBrain, directory: Path) -> dict[str, float]:
    """Record and deliver at once, as fast as it goes."""
    with running_runtime(directory, brain_url=brain.url, secret=brain.hmac_secret) as runtime:
        runtime.wait_online(10)
        brain.ask("reset")
        begun, cpu = time.perf_counter(), time.process_time()
        for number in range(MANY // 2):
            runtime.record(typical.event(number))
        _wait(brain, MANY // 2)
        seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    return {
        "events_per_second": round(MANY // 2 / seconds),
        "cpu_us_per_event_recording_included": round(used / (MANY // 2) * 1e6, 1),
    }


def drain(brain: NullBrain, directory: Path) -> dict[str, float]:
    """100,000 stored events, then the brain comes back."""
    with running_runtime(directory, brain_url="http://127.0.0.1:9") as runtime:
        for number in range(MANY):
            runtime.record(typical.event(number))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    brain.ask("reset")
    begun, cpu = time.perf_counter(), time.process_time()
    with running_runtime(directory, brain_url=brain.url, secret=brain.hmac_secret):
        _wait(brain, MANY)
        seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 2),
        "events_per_second": round(MANY / seconds),
        "cpu_us_per_event": round(used / MANY * 1e6, 1),
        "memory_added_mib": round((after - before) / 1024, 1),
    }


def paced(
    brain: NullBrain, directory: Path, rate: int = 200, seconds: int = 10
) -> dict[str, float]:
    """A steady trickle: batches are small, every wake-up shows."""
    with running_runtime(directory, brain_url=brain.url, secret=brain.hmac_secret) as runtime:
        runtime.wait_online(10)
        brain.ask("reset")
        count = rate * seconds
        cpu = time.process_time()
        due = time.perf_counter()
        for number in range(count):
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            runtime.record(typical.event(number))
        _wait(brain, count)
        used = time.process_time() - cpu
    return {"cpu_us_per_event_recording_included": round(used / count * 1e6, 1)}


def idle_delay(brain: NullBrain, directory: Path, count: int = 200) -> dict[str, float]:
    """One event on an idle line, until the brain has it."""
    delays = []
    with running_runtime(directory, brain_url=brain.url, secret=brain.hmac_secret) as runtime:
        runtime.wait_online(10)
        for number in range(count):
            brain.ask("reset")
            time.sleep(0.03)
            begun = time.time()
            runtime.record(typical.event(number))
            delays.append(_wait(brain, 1)["first_at"] - begun)
    shown = typical.percentiles(delays)
    return {"p50_ms": round(shown["p50_us"] / 1e3, 2), "p99_ms": round(shown["p99_us"] / 1e3, 2)}


def commands(brain: NullBrain, directory: Path) -> dict[str, dict[str, float]]:
    with running_runtime(directory, brain_url=brain.url, secret=brain.hmac_secret) as runtime:
        runtime.wait_online(10)
        brain.ask("command 5")
        idle = brain.ask("command 100")
        stopping = threading.Event()

        def flow() -> None:
            number = 0
            while not stopping.wait(0.002):
                runtime.record(typical.event(number))
                number += 1

        thread = threading.Thread(target=flow)
        thread.start()
        busy = brain.ask("command 100")
        stopping.set()
        thread.join()
    return {
        "command round trip, idle": idle,
        "command round trip, 500 events/s flowing": busy,
    }


def idle(brain: NullBrain, directory: Path, seconds: int = 20) -> dict[str, float]:
    with running_runtime(directory, brain_url=brain.url, secret=brain.hmac_secret) as runtime:
        runtime.wait_online(10)
        time.sleep(1)
        before = resource.getrusage(resource.RUSAGE_SELF)
        cpu = time.process_time()
        time.sleep(seconds)
        used = time.process_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_percent": round(used / seconds * 100, 3),
        "wakeups_per_second": round((after.ru_nvcsw - before.ru_nvcsw) / seconds, 2),
    }


def run(directory: Path) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    with NullBrain.process() as brain:
        results["sustained, 1 thread recording"] = sustained(brain, directory / "a")
        results["drain of 100,000 after reconnect"] = drain(brain, directory / "b")
        results["200 events/s"] = paced(brain, directory / "c")
        results["arrival delay, idle line"] = idle_delay(brain, directory / "d")
        results |= commands(brain, directory / "e")
        results["idle, connected"] = idle(brain, directory / "f")
    return results
