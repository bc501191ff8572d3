"""A disk that takes nothing more, for a whole application: it keeps running, and the loss is known.

`RLIMIT_FSIZE` in the application's process does it: every write beyond it fails with `EFBIG`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.socket_brain import SocketBrain
from support.web_app import WebApp, outbox_directories

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def fast_brain():
    brain = SocketBrain()
    brain.start()
    yield brain
    brain.close()
    assert brain.violations == []


def start(processes, brain, tmp_path, name="app"):
    env = brain.environ(tmp_path / "state")
    return WebApp(processes, env, name=name, options=("--no-access-log",)).wait_started()


def lost(status):
    return {reason: count for reason, count in status["dropped"].items() if count}


def test_disk_when_full_while_the_brain_is_up_everything_arrives(fast_brain, processes, tmp_path):
    app = start(processes, fast_brain, tmp_path)
    app.wait_online()
    app.post("/record", prefix="before", count=100)
    app.post("/file-size-limit", size=0)
    for number in range(10):
        app.post("/record", prefix=f"full-{number}", count=100)
    assert app.post("/flush")
    app.post("/file-size-limit")
    app.post("/record", prefix="after", count=100)
    assert app.post("/flush")
    assert len(fast_brain.task_ids()) == 1200
    assert set(fast_brain.task_ids().values()) == {1}
    assert lost(app.get("/status")) == {}
    app.terminate()
    assert outbox_directories(tmp_path / "state") == []


def test_disk_when_full_while_no_brain_is_there_counts_exactly_what_it_loses_and_recovers(
    fast_brain, processes, tmp_path
):
    fast_brain.stop_listening()
    app = start(processes, fast_brain, tmp_path)
    app.post("/record", prefix="before", count=100)
    app.post("/file-size-limit", size=0)
    app.post("/record", prefix="full", count=2000, size=4000)  # about 8 MiB; 4 are kept in memory
    full = app.get("/status")
    assert full["recorded"] == 2100
    assert set(lost(full)) == {"disk"}
    assert full["buffer_events"] == 2100 - full["dropped"]["disk"]
    assert 500 < full["dropped"]["disk"] < 1500

    app.post("/file-size-limit")
    app.post("/adopt")  # the round that the agent makes every 30 s
    app.post("/record", prefix="after", count=100)
    assert lost(app.get("/status")) == {"disk": full["dropped"]["disk"]}
    # What was only in memory is on the disk now: it outlives the process.
    app.post_last("/die")
    app.process.wait(timeout_seconds=20)

    fast_brain.start()
    survivor = start(processes, fast_brain, tmp_path, "next")
    kept = 2200 - full["dropped"]["disk"]
    fast_brain.wait_for(lambda: len(fast_brain.task_ids()) >= kept, "what was kept", 60)
    arrived = fast_brain.task_ids()
    assert sum(arrived.values()) == kept
    assert sum(task_id.startswith("before") for task_id in arrived) == 100
    assert sum(task_id.startswith("after") for task_id in arrived) == 100
    newest = {f"full-{n}" for n in range(full["dropped"]["disk"], 2000)}  # the oldest went
    assert {task_id for task_id in arrived if task_id.startswith("full")} == newest
    survivor.terminate()
    assert outbox_directories(tmp_path / "state") == []


START_ON_A_FULL_DISK = """
import json, resource, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from support.agents import memory_container
from support.memory_brain import MemoryBrain
from z4j_fastapi import Event, EventKind

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
brain = MemoryBrain()
container = memory_container(brain, Path(sys.argv[2]))
runtime = container.runtime()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
runtime.start()


def record(number):
    runtime.record(Event(kind=EventKind.TASK_SENT, engine="arq", task_id=str(number)))


for number in range(5):
    record(number)
lost = runtime.status().dropped["disk"]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
deadline = time.monotonic() + 20
while runtime.status().directory is None and time.monotonic() < deadline:
    record(99)  # what is recorded tries again, at most once a second
    time.sleep(0.1)
record(100)
flushed = runtime.flush(10)
ids = {event["task_id"] for group in brain.events.values() for event in group}
runtime.stop()
print(json.dumps([runtime.state.value, lost, flushed, "100" in ids]))
"""


def test_start_when_the_disk_is_full_starts_the_host_and_recovers(tmp_path):
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", START_ON_A_FULL_DISK, str(tests), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["stopped", 5, True, True]
