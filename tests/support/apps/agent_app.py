"""A FastAPI application with an agent, and routes through which a test makes it do things.

It prints one line of JSON when it started and one when it stopped: how long the agent's part took,
and the longest time in which its event loop could not run.

Environment: `TEST_APP_MODE` (`lifespan`, `import`: `install_z4j()` at import, `install`:
`install_z4j(app)`), `TEST_APP_CALLS` (file for the commands that were run; switches the recording
engine on), `TEST_APP_COMMAND` (what a command does).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dependency_injector import providers
from fastapi import FastAPI
from support.recording_engine import RecordingEngine

from z4j_fastapi import AgentContainer, events, get_runtime, install_z4j, z4j_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODE = os.environ.get("TEST_APP_MODE", "lifespan")
CALLS = os.environ.get("TEST_APP_CALLS")


def say(**fields: object) -> None:
    os.write(1, json.dumps({"pid": os.getpid(), **fields}).encode() + b"\n")


class LoopWatch:
    """Measures for how long the event loop could not run a task that wants to run every 2 ms."""

    def __init__(self) -> None:
        self.longest = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self._tick())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            await asyncio.sleep(0.004)
            task.cancel()

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - 0.002)
            last = now


def make_container() -> AgentContainer:
    container = AgentContainer()
    if CALLS is not None:
        engine = RecordingEngine(Path(CALLS), behaviour=os.environ.get("TEST_APP_COMMAND", "ok"))
        container.engines.override(providers.Object((engine,)))
    return container


@asynccontextmanager
async def measured(app: FastAPI) -> AsyncIterator[None]:
    """The agent's lifespan, with its entry and its exit timed."""
    agent = z4j_lifespan(container=make_container())(app)
    watch = LoopWatch()
    async with watch.running():
        begun = time.perf_counter()
        await agent.__aenter__()
        entered = time.perf_counter() - begun
    say(event="started", enter=entered, gap=watch.longest)
    yield
    watch = LoopWatch()
    async with watch.running():
        begun = time.perf_counter()
        await agent.__aexit__(None, None, None)
        left = time.perf_counter() - begun
    say(event="stopped", exit=left, gap=watch.longest)


@asynccontextmanager
async def plain(app: FastAPI) -> AsyncIterator[None]:
    say(event="started")
    yield
    say(event="stopped")


if MODE == "lifespan":
    app = FastAPI(lifespan=measured)
else:
    app = FastAPI(lifespan=plain)
    PARENT = install_z4j(app if MODE == "install" else None, container=make_container())


def record(prefix: str, count: int, size: int = 0) -> None:
    runtime: Any = get_runtime()
    ballast = ["x" * 100] * (size // 100)
    for number in range(count):
        runtime.record(
            events.task_received(
                "arq", f"{prefix}-{number}", "shop.charge", args=[number, *ballast], queue="q"
            )
        )


@app.get("/status")
async def get_status() -> dict[str, Any]:
    runtime: Any = get_runtime()
    if runtime is None:
        return {"pid": os.getpid(), "state": "none"}
    return json.loads(json.dumps(asdict(runtime.status()), default=str))


@app.post("/record")
async def post_record(prefix: str, count: int = 1, size: int = 0) -> dict[str, Any]:
    record(prefix, count, size)
    return {"pid": os.getpid()}


@app.post("/record-and-die")
async def post_record_and_die(prefix: str, count: int) -> None:
    record(prefix, count)
    os.kill(os.getpid(), signal.SIGKILL)


@app.post("/die")
async def post_die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.post("/flush")
async def post_flush(timeout: float = 20.0) -> bool:
    runtime: Any = get_runtime()
    return await runtime.aflush(timeout)


@app.post("/reconnect")
async def post_reconnect() -> None:
    runtime: Any = get_runtime()
    runtime.request_reconnect()


@app.post("/block")
async def post_block(seconds: float) -> None:
    time.sleep(seconds)


@app.post("/file-size-limit")
async def post_file_size_limit(size: int = -1) -> None:
    """As a full disk; -1 takes it away."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))


@app.post("/adopt")
def post_adopt() -> None:
    """The round that the agent makes every 30 s, now."""
    runtime: Any = get_runtime()
    runtime._outbox.adopt()


def _child(prefix: str) -> None:
    record(prefix, 1)


@app.post("/fork")
def post_fork(prefix: str, kind: str) -> dict[str, Any]:
    """A child that records one event and ends: `os` at once, `stay` when the brain has it."""
    if kind == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=_child, args=(prefix,))
        process.start()
        process.join(20)
        return {"pid": process.pid, "status": process.exitcode}
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            record(prefix, 1)
            status = 0
            if kind == "stay":
                runtime: Any = get_runtime()
                status = 0 if runtime.flush(15) else 4
        finally:
            os._exit(status)
    return {"pid": pid, "status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


@app.post("/linger")
def post_linger() -> dict[str, int]:
    """A child that does nothing, keeps what it inherited, and outlives its parent."""
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(60)
        finally:
            os._exit(0)
    return {"pid": pid}
