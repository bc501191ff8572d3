from __future__ import annotations

import gc
import os
import threading
from datetime import datetime, timezone

import pytest

from z4j_fastapi.runtime import identity as identity_module
from z4j_fastapi.runtime.identity import new_identity, register_fork_aware

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=timezone.utc)


def test_identity_names_framework_process_and_start():
    made = new_identity(framework="fastapi", role="web", now=datetime.now(timezone.utc))
    framework, pid, start_ms = made.worker_id.split("-")
    assert (framework, pid) == ("fastapi", str(os.getpid()))
    assert int(start_ms) == round(made.started_at.timestamp() * 1000)
    assert (made.role, made.pid) == ("web", os.getpid())
    assert made.started_at.tzinfo is not None
    assert len(made.worker_id) <= 128


def test_identities_when_made_in_one_millisecond_by_many_threads_all_differ():
    made = []

    def work():
        for _ in range(50):
            made.append(new_identity(framework="fastapi", role="web", now=NOW).worker_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 200


class Aware:
    def __init__(self, path):
        self.path = path

    def reinit_after_fork(self):
        self.path.write_text(f"child {os.getpid()}")


def test_hook_when_it_runs_tells_everybody_who_lives_under_a_fresh_lock(tmp_path):
    living, dead = Aware(tmp_path / "living"), Aware(tmp_path / "dead")
    register_fork_aware(living)
    register_fork_aware(dead)
    del dead
    gc.collect()
    before = identity_module._lock
    identity_module._in_child()
    assert living.path.read_text() == f"child {os.getpid()}"
    assert not (tmp_path / "dead").exists()
    assert identity_module._lock is not before


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_fork_when_it_happens_tells_those_who_live_in_the_child_only(tmp_path):
    living, dead = Aware(tmp_path / "living"), Aware(tmp_path / "dead")
    register_fork_aware(living)
    register_fork_aware(dead)
    del dead
    gc.collect()
    with identity_module._lock:  # held by the parent: the child must not wait for it
        pid = os.fork()
        if pid == 0:  # pragma: no cover - the child
            try:
                new_identity(framework="fastapi", role="web", now=NOW)
                register_fork_aware(living)
            finally:
                os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert living.path.read_text() == f"child {pid}"
    assert not (tmp_path / "dead").exists()
