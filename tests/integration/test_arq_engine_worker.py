"""Whole worker processes under the arq command line, and workers inside another process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from arq import create_pool
from support.arq_engine import bench, redis_settings
from support.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import ProcessFamily
    from support.valkey import ValkeyDatabase

pytestmark = [
    pytest.mark.valkey,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),
]

# A runtime of the test's own: writes events as lines instead of sending them.
WORKER = """
import asyncio, contextlib, json, logging, sys, types
from arq.connections import RedisSettings
from z4j_fastapi.clock import SystemClock
from z4j_fastapi.engines.arq import ArqEngineAdapter, attach_to_worker_settings
from z4j_fastapi.engines.base import Attachment

OUT = {out!r}

def write(kind, task_id="", **data):
    with open(OUT, "a") as file:
        file.write(json.dumps([kind, task_id, data], default=str) + "\\n")

class Sink:
    def record(self, event):
        write(event.kind.value, event.task_id, **event.data)

class Lease:
    async def arelease(self):
        write("released")

@contextlib.contextmanager
def guard(place):
    yield

def ensure_runtime(*, adapters, worker_role="task"):
    write("started", role=worker_role, capabilities=list(adapters[0].capabilities()))
    for adapter in adapters:
        adapter.attach(Attachment(
            sink=Sink(), guard=guard, logger=logging.getLogger("x"), clock=SystemClock()))
    return Lease()

fake = types.ModuleType("z4j_fastapi.current")
fake.ensure_runtime = ensure_runtime
sys.modules["z4j_fastapi.current"] = fake

async def ok(ctx, number):
    return number

async def slow(ctx):
    await asyncio.sleep(60)

class WorkerSettings:
    functions = [ok, slow]
    redis_settings = RedisSettings(host={host!r}, port={port}, database={database})
    poll_delay = 0.05

attach_to_worker_settings(WorkerSettings, adapter=ArqEngineAdapter())
"""


def lines(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    if not path.exists():
        return []
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_when_a_job_runs_then_its_retry_and_offline_are_recorded_before_the_release(
    valkey: ValkeyDatabase, processes: ProcessFamily, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "events"
    (tmp_path / "worker_module.py").write_text(
        WORKER.format(out=str(out), host=valkey.host, port=valkey.port, database=valkey.index)
    )

    async def enqueue() -> list[str]:
        pool = await create_pool(redis_settings(valkey))
        jobs = [await pool.enqueue_job("ok", 7), await pool.enqueue_job("slow")]
        await pool.aclose()
        return [job.job_id for job in jobs]

    quick, slow = asyncio.run(enqueue())
    child = processes.python(
        "worker",
        *("-W", "ignore", "-m", "arq", "worker_module.WorkerSettings"),
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )

    def kinds(task_id: str) -> list[str]:
        return [kind for kind, its_id, _ in lines(out) if its_id == task_id]

    wait_until(
        lambda: "task.started" in kinds(slow) and "task.succeeded" in kinds(quick),
        timeout_seconds=30,
        what="both jobs",
    )
    os.kill(child.pid, number)
    wait_until(lambda: not child.running, timeout_seconds=15, what="the worker's end")
    told = lines(out)
    assert [kind for kind, _, _ in told[:2]] == ["started", "worker.online"]
    assert told[0][2]["role"] == "task"
    assert "cancel_task" in told[0][2]["capabilities"]
    assert [kind for kind, _, _ in told[-3:]] == ["task.retried", "worker.offline", "released"]
    assert kinds(slow) == ["task.received", "task.started", "task.retried"]
    assert kinds(quick) == ["task.received", "task.started", "task.succeeded"]
    assert told[1][2]["worker"].endswith(f":{child.pid}")


def test_worker_when_it_runs_in_a_thread_of_the_web_process_then_it_shares_its_adapter(
    valkey: ValkeyDatabase,
) -> None:
    from arq.worker import Worker, func

    async def ok(ctx: dict[str, Any]) -> str:
        return threading.current_thread().name

    async def scenario() -> None:
        async with bench(valkey) as it:
            job = await it.pool.enqueue_job("ok")

            def work() -> None:
                loop = asyncio.new_event_loop()
                asyncio.set_event_loop(loop)
                Worker(
                    functions=[func(ok, name="ok")],
                    redis_settings=it.settings,
                    handle_signals=False,
                    burst=True,
                    poll_delay=0.02,
                ).run()
                asyncio.set_event_loop(None)
                loop.close()

            thread = threading.Thread(target=work, name="the-worker")
            thread.start()
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
            assert it.sink.last(job.job_id).data["result"] == "the-worker"
            assert [event.kind.value for event in it.sink.events] == [
                "task.sent",
                "task.received",
                "worker.online",
                "task.received",
                "task.started",
                "task.succeeded",
                "worker.offline",
            ]

    asyncio.run(scenario())
