"""Import, start-up and shutdown, each in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server

from benchmarks.agents import SECRET
from benchmarks.null_brain import NullBrain

RUNS = 9

_IMPORT = """
import time, sys, asyncio, fastapi
before = set(sys.modules)
begun, cpu = time.perf_counter(), time.process_time()
import z4j_fastapi
print(__import__("json").dumps({
    "wall_ms": (time.perf_counter() - begun) * 1e3,
    "cpu_ms": (time.process_time() - cpu) * 1e3,
    "modules": len(set(sys.modules) - before),
}))
"""

_CYCLE = """
import asyncio, json, sys, time
import fastapi
from pathlib import Path
options = json.loads(sys.argv[1])
pending = options.pop("pending")
online = options.pop("online")
from z4j_fastapi import Event, EventKind, z4j_lifespan
before = set(sys.modules)
app = fastapi.FastAPI(lifespan=z4j_lifespan(**options))
out = {}
async def cycle(record):
    context = app.router.lifespan_context(app)
    begun = time.perf_counter()
    await context.__aenter__()
    out["enter_ms"] = (time.perf_counter() - begun) * 1e3
    out.setdefault("first_enter_ms", out["enter_ms"])
    runtime = app.state.z4j_runtime
    if online:
        assert await runtime.await_online(10), runtime.status()
        await runtime.aflush(5)
    else:
        await asyncio.sleep(0.3)
    if record:
        for number in range(100):
            runtime.record(Event(kind=EventKind.TASK_SENT, engine="arq", task_id=str(number),
                                 data={"task_name": "x"}))
    gap = 0.0
    async def tick():
        nonlocal gap
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gap, last = max(gap, now - last), now
    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    begun = time.perf_counter()
    await context.__aexit__(None, None, None)
    out["exit_ms"] = (time.perf_counter() - begun) * 1e3
    await asyncio.sleep(0.002)
    ticking.cancel()
    out["longest_loop_gap_ms"] = gap * 1e3
async def main():
    await cycle(False)
    out["modules_of_ours"] = len([n for n in sys.modules if n.startswith("z4j_fastapi")])
    out["new_modules"] = len(set(sys.modules) - before)
    await cycle(pending)
asyncio.run(main())
print(json.dumps(out))
"""


def _run(code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]}


@contextmanager
def black_hole() -> Iterator[str]:
    """Accepts connections and never says a word."""
    server = create_server(("127.0.0.1", 0))
    held = []

    def accept() -> None:
        while True:
            try:
                held.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


def run(directory: Path) -> dict[str, dict[str, float]]:
    del directory
    results = {"import z4j_fastapi after fastapi": _medians([_run(_IMPORT) for _ in range(RUNS)])}
    with NullBrain.process() as brain, black_hole() as hole:
        places = {
            "brain up": (brain.url, True, brain.hmac_secret),
            "brain refused": ("http://127.0.0.1:9", False, SECRET),
            "black hole": (hole, False, SECRET),
        }
        for place, (url, online, secret) in places.items():
            for pending in (False, True):
                rows = []
                for _ in range(RUNS):
                    with tempfile.TemporaryDirectory() as state:
                        given = {
                            "brain_url": url,
                            "token": "a-token",
                            "hmac_secret": secret,
                            "project_id": "bench",
                            "buffer_path": state,
                            "pending": pending,
                            "online": online,
                        }
                        rows.append(_run(_CYCLE, json.dumps(given)))
                label = "100 events pending" if pending else "nothing pending"
                results[f"{place}, {label}"] = _medians(rows)
    return results
