"""What `record()` costs its caller: one and four threads, brain up and down, also paced."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from benchmarks import typical
from benchmarks.agents import running_runtime
from benchmarks.null_brain import NullBrain

EVENTS = 20_000


def saturated(runtime, data, threads: int) -> dict[str, float]:
    share = EVENTS // threads
    times: list[list[float]] = []

    def work() -> None:
        events = [typical.event(number, data) for number in range(share)]
        times.append(typical.timed(lambda number: runtime.record(events[number]), share))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return typical.percentiles([one for share_times in times for one in share_times])


def paced(runtime, count: int = 3_000) -> dict[str, float]:
    """1,000 a second: every call finds cold caches."""
    events = [typical.event(number) for number in range(count)]
    out = []
    due = time.perf_counter()
    for one in events:
        due += 0.001
        time.sleep(max(0.0, due - time.perf_counter()))
        begun = time.perf_counter()
        runtime.record(one)
        out.append(time.perf_counter() - begun)
    return typical.percentiles(out)


def run(directory: Path) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    with running_runtime(directory / "down", brain_url="http://127.0.0.1:9") as runtime:
        results["brain down, 1 thread"] = saturated(runtime, typical.DATA, 1)
        results["brain down, 1 thread, with an e-mail address"] = saturated(
            runtime, typical.WITH_EMAIL, 1
        )
        results["brain down, 4 threads"] = saturated(runtime, typical.DATA, 4)
        results["brain down, paced 1,000/s"] = paced(runtime)
    with (
        NullBrain.process() as brain,
        running_runtime(directory / "up", brain_url=brain.url, secret=brain.hmac_secret) as runtime,
    ):
        runtime.wait_online(10)
        results["brain up, 1 thread"] = saturated(runtime, typical.DATA, 1)
        results["brain up, 4 threads"] = saturated(runtime, typical.DATA, 4)
        results["brain up, paced 1,000/s"] = paced(runtime)
    return results
