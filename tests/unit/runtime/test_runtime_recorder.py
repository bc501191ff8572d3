from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest
from support.brain_side import plain_json
from support.runtime_kit import Guarded, MemoryOutbox

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.events import Event, EventKind
from z4j_fastapi.redaction import Redactor
from z4j_fastapi.runtime.recorder import Recorder
from z4j_fastapi.task_meta import TaskMeta

AT = datetime(2026, 11, 24, 6, 0, 1, 5, tzinfo=timezone.utc)
EVENT_ID = UUID("00000000-0000-4000-8000-000000000001")
UNSAFE = "job-someone@example.com"


class Bench:
    def __init__(self, **redactor):
        self.outbox = MemoryOutbox()
        self.counters = LossCounters()
        self.guard = Guarded()
        self.recorder = Recorder(
            redactor=Redactor(**redactor),
            outbox=self.outbox,
            counters=self.counters,
            guard=self.guard,
        )
        self.recorder.running = True

    @property
    def stored(self):
        return self.outbox.own.events.payloads()

    def record(self, **changes):
        self.recorder.record(event(**changes))

    def last(self):
        return json.loads(self.stored[-1])


def event(**changes):
    given = {
        "kind": EventKind.TASK_RECEIVED,
        "engine": "arq",
        "task_id": "t-1",
        "data": {"task_name": "send", "args": [1, 2.5, None]},
        "occurred_at": AT,
        "id": EVENT_ID,
    }
    return Event(**(given | changes))


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": {}},
        {"data": {"z": 1, "a": {"y": 1e16, "b": [True, -0.0]}, "ö": "ü\u2028"}},
        {"task_id": ""},
        {"task_id": 'quote" and back\\slash and ü'},
        {"engine": 'my "engine"'},
        {"occurred_at": AT.replace(microsecond=0)},
        {"occurred_at": AT.astimezone(timezone(timedelta(hours=5, minutes=30)))},
    ],
)
def test_event_when_recorded_is_stored_as_cpython_would_render_it(bench, changes):
    given = event(**changes)
    bench.recorder.record(given)
    expected = {
        "data": json.loads(Redactor().render(given.data).payload),
        "engine": given.engine,
        "id": str(given.id),
        "kind": given.kind.value,
        "occurred_at": given.occurred_at.isoformat(),
        "task_id": given.task_id,
    }
    assert bench.stored == [plain_json(expected)]
    assert bench.recorder.recorded == 1
    assert bench.guard.contained == []


def test_time_when_naive_is_taken_as_utc(bench):
    bench.record(occurred_at=datetime(2026, 1, 2, 3, 4, 5))
    assert bench.last()["occurred_at"] == "2026-01-02T03:04:05+00:00"


def test_task_id_when_it_looks_like_a_secret_is_a_stable_token_that_maps_back(bench):
    bench.record(task_id=UNSAFE)
    bench.record(task_id=UNSAFE)
    shown = {json.loads(payload)["task_id"] for payload in bench.stored}
    assert len(shown) == 1
    token = shown.pop()
    assert token.startswith("id-")
    assert "example.com" not in token
    assert bench.recorder.original_task_id(token) == UNSAFE
    assert bench.recorder.original_task_id("t-1") == "t-1"


def test_task_id_when_too_long_is_a_token_of_its_own_and_maps_back(bench):
    ids = ["x" * 200, "x" * 201, "x" * 202]
    for task_id in ids:
        bench.record(task_id=task_id)
    shown = [json.loads(payload)["task_id"] for payload in bench.stored]
    assert shown[0] == ids[0]
    assert len(set(shown)) == 3
    assert all(len(one) <= 200 for one in shown)
    assert [bench.recorder.original_task_id(one) for one in shown] == ids


def test_replaced_ids_when_there_are_very_many_forget_the_least_recent(bench, monkeypatch):
    monkeypatch.setattr("z4j_fastapi.runtime.recorder._REMEMBERED_IDS", 2)
    first, second, third = (f"{name}@example.com" for name in ("a", "b", "c"))
    tokens = {}
    for task_id in (first, second, first, third):
        bench.record(task_id=task_id)
        tokens[task_id] = bench.last()["task_id"]
    assert bench.recorder.original_task_id(tokens[first]) == first
    assert bench.recorder.original_task_id(tokens[third]) == third
    assert bench.recorder.original_task_id(tokens[second]) == tokens[second]


def test_engine_name_when_too_long_is_cut_and_remembered_names_are_bounded(bench, monkeypatch):
    monkeypatch.setattr("z4j_fastapi.runtime.recorder._REMEMBERED_TEXTS", 3)
    for number in range(10):
        bench.record(engine=f"{number}" + "e" * 50)
        assert bench.last()["engine"] == f"{number}" + "e" * 39
    assert len(bench.recorder._texts) <= 3


def test_data_when_it_holds_secrets_is_redacted_before_it_is_stored(bench):
    bench.record(data={"task_name": "x", "kwargs": {"password": "hunter2-secret"}})
    assert b"hunter2-secret" not in bench.stored[0]


def test_data_when_changed_after_recording_stays_as_it_was(bench):
    data = {"task_name": "x", "args": [1]}
    bench.record(data=data)
    data["args"].append(2)
    assert bench.last()["data"]["args"] == [1]


def test_event_when_larger_than_allowed_is_shortened_and_counted():
    bench = Bench(max_event_bytes=1024)
    bench.record(data={"task_name": "x", "args": [f"text {n}" * 20 for n in range(100)]})
    assert len(bench.stored) == 1
    assert bench.counters.get(LossReason.SHORTENED) == 1
    bench.record()
    assert bench.counters.get(LossReason.SHORTENED) == 1


def test_event_when_nothing_runs_is_counted_and_not_stored(bench):
    bench.recorder.running = False
    bench.record()
    assert bench.stored == []
    assert bench.recorder.recorded == 0
    assert bench.counters.get(LossReason.NOT_RUNNING) == 1


def test_event_when_the_outbox_loses_it_is_not_called_recorded(bench):
    bench.outbox.lose = True
    bench.recorder.parked = True
    bench.recorder.wake = lambda: pytest.fail("there is nothing to send")
    bench.record()
    assert bench.recorder.recorded == 0
    assert bench.guard.contained == []


def test_event_when_the_outbox_refuses_it_is_counted_and_nothing_is_raised(bench):
    bench.outbox.refuse = True
    bench.record()
    assert bench.counters.get(LossReason.INVALID) == 1
    assert [place for place, _ in bench.guard.contained] == ["record"]
    assert bench.recorder.recorded == 0


def test_event_when_it_cannot_be_rendered_is_counted_and_nothing_is_raised(bench):
    bench.record(engine=7)
    bench.record(occurred_at="yesterday")
    assert bench.counters.get(LossReason.INVALID) == 2
    assert bench.stored == []
    assert len(bench.guard.contained) == 2


def test_event_when_its_task_is_skipped_by_hint_is_neither_stored_nor_lost(bench):
    bench.record(meta=TaskMeta(skip=True))
    bench.record(meta=TaskMeta(sample_rate=0.0))
    bench.record(kind=EventKind.TASK_STARTED, meta=TaskMeta())
    bench.record(kind=EventKind.TASK_FAILED, meta=TaskMeta(sample_rate=0.0))
    assert [json.loads(one)["kind"] for one in bench.stored] == ["task.started", "task.failed"]
    assert bench.recorder.recorded == 2
    assert sum(bench.counters.snapshot().values()) == 0


def test_hints_when_given_are_applied_to_the_data(bench):
    bench.record(
        data={"task_name": "x", "kwargs": {"colour": "red", "size": 3}},
        meta=TaskMeta(redact_kwargs=frozenset({"colour"}), tags=("billing",)),
    )
    assert bench.last()["data"]["kwargs"]["size"] == 3
    assert bench.last()["data"]["kwargs"]["colour"] == "[REDACTED]"
    assert bench.last()["data"]["tags"] == ["billing"]


def test_sender_when_parked_is_woken_once_however_many_events_follow(bench):
    woken = []
    bench.recorder.wake = lambda: woken.append(len(bench.stored))
    bench.record()
    assert woken == []
    bench.recorder.parked = True
    bench.record()
    bench.record()
    assert woken == [2]  # after its event was stored
    bench.recorder.parked = True
    bench.record()
    assert woken == [2, 4]


def test_wake_when_it_raises_does_not_reach_the_host(bench):
    def wake():
        raise RuntimeError("the loop is gone")

    bench.recorder.parked = True
    bench.recorder.wake = wake
    bench.record()
    assert len(bench.stored) == 1
    assert bench.recorder.recorded == 1
    assert bench.counters.get(LossReason.INVALID) == 0


def test_process_when_it_is_another_one_is_told_before_the_event_is_stored(bench, monkeypatch):
    recorder = bench.recorder
    forks = []

    def on_fork():
        forks.append(len(bench.stored))
        recorder.running = True
        recorder.adopt_process()

    recorder.on_fork = on_fork
    monkeypatch.setattr("z4j_fastapi.runtime.recorder.os.getpid", os.getppid)
    bench.record()
    bench.record()
    assert forks == [0]
    assert len(bench.stored) == 2


def test_recorder_when_forked_forgets_its_parent_and_asks_for_a_runtime(bench):
    recorder = bench.recorder
    bench.record()
    recorder.parked = True
    recorder.wake = lambda: pytest.fail("the parent's sender")
    recorder.forked()
    assert (recorder.running, recorder.parked, recorder.recorded) == (False, False, 0)
    asked = []
    recorder.on_fork = lambda: asked.append(1)
    bench.record()
    bench.record()
    assert asked == [1, 1]  # nobody took the process over: each event asks again
    assert bench.counters.get(LossReason.NOT_RUNNING) == 2


def test_runtime_in_a_child_when_it_cannot_start_costs_the_event_and_is_counted(bench):
    def on_fork():
        raise OSError("no directory")

    bench.recorder.forked()
    bench.recorder.on_fork = on_fork
    bench.record()
    assert bench.counters.get(LossReason.NOT_RUNNING) == 1
    assert [place for place, _ in bench.guard.contained] == ["record.fork"]


def test_events_when_recorded_by_many_threads_are_all_there_once(bench):
    def work(name):
        for number in range(200):
            bench.record(task_id=f"{name}-{number}@example.com", data={"task_name": "x"})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.stored) == bench.recorder.recorded == 1200
    assert len({json.loads(payload)["task_id"] for payload in bench.stored}) == 1200
    assert bench.guard.contained == []
