"""Forks in the middle of everything: no deadlock, every event arrives once, the parent goes on."""

from __future__ import annotations

from collections import Counter

import pytest
from support.processes import REPOSITORY
from support.socket_brain import SocketBrain
from support.web_app import outbox_directories

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def fast_brain():
    brain = SocketBrain()
    brain.start()
    yield brain
    brain.close()
    assert brain.violations == []


PRELUDE = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads is what is tested
from z4j_fastapi import events, get_runtime, install_z4j, post_fork
runtime = install_z4j()
assert runtime.wait_online(20)
def record(task_id):
    runtime.record(events.task_received("arq", task_id, "shop.charge", args=["x" * 300]))
def collect(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, status
def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(9)
    return pid
"""


def run(processes, brain, tmp_path, code):
    env = brain.environ(tmp_path / "state") | {"PYTHONPATH": str(REPOSITORY / "tests")}
    script = processes.python("script", "-c", PRELUDE + code, env=env)
    assert script.wait(timeout_seconds=60) == 0
    assert "Traceback" not in script.output()
    return script


def test_forks_when_threads_record_meanwhile_lose_nothing_and_hang_nowhere(
    fast_brain, processes, tmp_path
):
    run(
        processes,
        fast_brain,
        tmp_path,
        """
stop = threading.Event()
recorded = [0, 0]
def busy(which):
    while not stop.is_set():
        record(f"parent-{which}-{recorded[which]}")
        recorded[which] += 1
        time.sleep(0.0005)
threads = [threading.Thread(target=busy, args=(which,)) for which in (0, 1)]
for thread in threads:
    thread.start()
def child(number):
    for k in range(5):
        record(f"child-{number}-{k}")
    os._exit(0)
children = []
for number in range(40):
    children.append(fork(lambda: child(number)))
    if len(children) == 4:
        for pid in children:
            collect(pid)
        children = []
for pid in children:
    collect(pid)
stop.set()
for thread in threads:
    thread.join()
runtime._outbox.adopt()  # the round that is made every 30 s
deadline = time.monotonic() + 30
while runtime.buffer_size() and time.monotonic() < deadline:
    runtime.flush(1)
    time.sleep(0.01)
assert runtime.status().connects == 1
print("recorded", *recorded)
""",
    )
    counts = (tmp_path / "script.log").read_text().split("recorded")[1].split()[:2]
    expected = Counter(
        f"parent-{which}-{number}" for which in (0, 1) for number in range(int(counts[which]))
    ) + Counter(f"child-{number}-{k}" for number in range(40) for k in range(5))
    assert fast_brain.task_ids() == expected
    assert outbox_directories(tmp_path / "state") == []


@pytest.mark.parametrize("how", ["first event", "post_fork", "start"])
def test_child_when_it_stays_has_a_session_of_its_own_and_leaves_like_any_process(
    fast_brain, processes, tmp_path, how
):
    """It ends by `sys.exit`: its exit handlers stop its agent, not its parent's."""
    begin = {
        "first event": 'record("first")',
        "post_fork": "assert post_fork() is runtime",
        "start": "runtime.start()",
    }[how]
    run(
        processes,
        fast_brain,
        tmp_path,
        f"""
record("before")
parents = runtime.status()
def child():
    {begin}
    assert runtime.wait_online(20)
    own = runtime.status()
    assert own.worker_id != parents.worker_id
    assert own.session_id != parents.session_id
    assert own.pid == os.getpid()
    assert get_runtime() is runtime
    record("in-the-child")
    sys.exit(0)
pid = os.fork()
if pid == 0:
    child()
collect(pid)
record("after")
assert runtime.flush(20)
assert runtime.status().session_id == parents.session_id
""",
    )
    expected = {"before", "in-the-child", "after"} | ({"first"} if how == "first event" else set())
    assert fast_brain.task_ids() == Counter(expected)
    assert len(fast_brain.sessions) == 2
    assert outbox_directories(tmp_path / "state") == []


def test_child_when_it_records_nothing_makes_no_session_and_no_directory(
    fast_brain, processes, tmp_path
):
    run(
        processes,
        fast_brain,
        tmp_path,
        """
before = sorted(os.listdir(runtime._outbox.directory.parent))
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    collect(pid)
assert sorted(os.listdir(runtime._outbox.directory.parent)) == before
record("after")
assert runtime.flush(20)
""",
    )
    assert len(fast_brain.sessions) == 1
    assert fast_brain.task_ids() == Counter(["after"])


def test_child_when_its_parent_forked_while_a_command_ran_leaves_it_to_the_parent(
    fast_brain, processes, tmp_path
):
    """The claim is the parent's: the child neither answers it nor counts as its dead owner."""
    code = """
import resource
from pathlib import Path
from dependency_injector import providers
from support.recording_engine import RecordingEngine
from z4j_fastapi import AgentContainer, events, install_z4j
import os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
container = AgentContainer()
engine = RecordingEngine(Path(os.environ["TEST_APP_CALLS"]), behaviour="hang")
container.engines.override(providers.Object((engine,)))
runtime = install_z4j(container=container)
print("ready", flush=True)
while not engine.calls:
    time.sleep(0.01)
pid = os.fork()
if pid == 0:
    runtime.record(events.task_received("arq", "in-the-child", "shop.charge"))
    assert runtime.wait_online(20)
    assert runtime.flush(20)
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print("collected", flush=True)
time.sleep(600)
"""
    calls = tmp_path / "calls"
    env = fast_brain.environ(tmp_path / "state") | {
        "PYTHONPATH": str(REPOSITORY / "tests"),
        "TEST_APP_CALLS": str(calls),
    }
    script = processes.python("script", "-c", code, env=env)
    script.wait_for_output("ready")
    fast_brain.wait_for(fast_brain.open_sessions, "the session")
    fast_brain.command("c-1", "cancel_task", {"engine": "arq", "task_id": "t-1"}, timeout_seconds=8)
    script.wait_for_output("collected")
    assert fast_brain.results("c-1") == []
    fast_brain.wait_for(lambda: fast_brain.results("c-1"), "the parent's answer")
    assert fast_brain.results("c-1")[0]["error"].startswith("timeout")
    assert calls.read_text().splitlines() == ["ran t-1", "cancelled t-1"]
