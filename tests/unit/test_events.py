from __future__ import annotations

import os
import threading
from datetime import datetime, timezone
from uuid import UUID

import pytest

from z4j_fastapi import events
from z4j_fastapi.events import Event, EventKind, new_event_id, utc_now

AT = datetime(2026, 11, 24, 6, 0, tzinfo=timezone.utc)


def test_kinds_are_those_that_the_brain_knows_without_schedules():
    assert {kind.value for kind in EventKind} == {
        "task.sent",
        "task.received",
        "task.started",
        "task.succeeded",
        "task.failed",
        "task.retried",
        "task.revoked",
        "task.rejected",
        "worker.online",
        "worker.offline",
        "worker.heartbeat",
        "queue.depth_report",
    }


def test_event_when_made_with_its_kind_alone_has_id_and_time():
    before = utc_now()
    one = Event(kind=EventKind.TASK_SENT, engine="arq")
    two = Event(kind=EventKind.TASK_SENT, engine="arq")
    assert one.id != two.id
    assert before <= one.occurred_at <= utc_now()
    assert one.occurred_at.tzinfo is timezone.utc
    assert (one.task_id, one.data, one.meta) == ("", {}, None)
    assert one.data is not two.data


def test_ids_are_random_version_4_and_all_different_across_refills_and_threads():
    made = []

    def work():
        made.extend([new_event_id() for _ in range(700)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2800
    for one in made:
        assert isinstance(one, UUID)
        assert one.version == 4
        assert UUID(str(one)) == one
        assert one.variant == UUID("00000000-0000-4000-8000-000000000000").variant


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_ids_in_a_forked_child_are_not_its_parents():
    new_event_id()  # the parent has many in stock
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        os.write(writing, b" ".join(str(new_event_id()).encode() for _ in range(300)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        child = set(pipe.read().split())
    assert os.waitpid(pid, 0)[1] == 0
    assert len(child) == 300
    assert not child & {str(new_event_id()) for _ in range(300)}


def call(name, **more):
    return getattr(events, name)("arq", "t-1", "send", **more)


@pytest.mark.parametrize(
    ("name", "kind", "needed"),
    [
        ("task_sent", "task.sent", {}),
        ("task_received", "task.received", {}),
        ("task_started", "task.started", {}),
        ("task_succeeded", "task.succeeded", {"result": None, "runtime_ms": None}),
        ("task_failed", "task.failed", {"exception": "Boom: no"}),
        ("task_retried", "task.retried", {}),
        ("task_revoked", "task.revoked", {}),
    ],
)
def test_constructor_fills_the_same_keys_for_every_engine(name, kind, needed):
    made = call(
        name, **needed, occurred_at=AT, queue="q", args=[1], attempt=2, worker=None, tags=["x"]
    )
    assert made.kind.value == kind
    assert (made.engine, made.task_id, made.occurred_at) == ("arq", "t-1", AT)
    assert made.data["task_name"] == "send"
    assert made.data["queue"] == "q"
    assert made.data["args"] == [1]
    assert made.data["attempt"] == 2
    assert made.data["tags"] == ["x"]
    assert "worker" not in made.data  # unknown is left out
    assert call(name, **needed).occurred_at >= AT.replace(year=2020)


@pytest.mark.parametrize("falsy", [0, "", [], False])
def test_field_when_falsy_but_known_is_kept(falsy):
    assert call("task_received", queue=falsy).data["queue"] == falsy


def test_success_has_its_result_also_when_it_is_none_and_its_runtime_when_known():
    data = call("task_succeeded", result=None, runtime_ms=None).data
    assert data == {"task_name": "send", "result": None}
    data = call("task_succeeded", result={"a": 1}, runtime_ms=0).data
    assert data == {"task_name": "send", "result": {"a": 1}, "runtime_ms": 0}


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("exception", "text", "kind"),
    [
        (ValueError("no such file"), "ValueError: no such file", "ValueError"),
        (ValueError(), "ValueError", "ValueError"),
        (Unprintable(), "Unprintable: <unprintable>", "Unprintable"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt"),
        ("TimeoutError: too late", "TimeoutError: too late", "TimeoutError"),
        ("TimeoutError", "TimeoutError", "TimeoutError"),
        ("it went wrong: badly", "it went wrong: badly", None),
        ("", "", None),
        (ValueError("x" * 900), "ValueError: " + "x" * 488, "ValueError"),
        ("y" * 900, "y" * 500, "y" * 900),
    ],
)
@pytest.mark.parametrize("name", ["task_failed", "task_retried"])
def test_exception_becomes_type_and_message(name, exception, text, kind):
    data = call(name, exception=exception, traceback="line 1", runtime_ms=5).data
    assert data["exception"] == text
    assert data.get("exception_type") == kind
    assert data["traceback"] == "line 1"
    assert data["runtime_ms"] == 5


def test_failure_without_traceback_and_runtime_has_neither():
    assert set(call("task_failed", exception=ValueError("x")).data) == {
        "task_name",
        "exception",
        "exception_type",
    }
    assert call("task_retried", retry_count=2).data == {"task_name": "send", "retry_count": 2}
    assert call("task_revoked", runtime_ms=3, terminated=True).data == {
        "task_name": "send",
        "runtime_ms": 3,
        "terminated": True,
    }


def test_worker_events_name_the_worker_and_no_task():
    online = events.worker_online("arq", "host:1", queues=("a", "b"), concurrency=0, pid=7)
    assert online.kind is EventKind.WORKER_ONLINE
    assert online.task_id == ""
    assert online.data == {"worker": "host:1", "queues": ["a", "b"], "concurrency": 0, "pid": 7}
    assert events.worker_online("arq", "w").data == {"worker": "w"}
    offline = events.worker_offline("arq", "w", pid=7)
    assert offline.kind is EventKind.WORKER_OFFLINE
    assert offline.data == {"worker": "w", "pid": 7}
