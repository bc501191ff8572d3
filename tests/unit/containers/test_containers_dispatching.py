from __future__ import annotations

from support.agents import memory_container
from support.brain_side import KEY

from z4j_fastapi.events import Event, EventKind


def test_dispatcher_has_the_key_the_threshold_and_the_recorders_ids(
    memory_brain, tmp_path, monkeypatch
):
    monkeypatch.setenv("Z4J_PURGE_THRESHOLD", "77")
    container = memory_container(memory_brain, tmp_path)
    dispatcher = container.dispatcher()
    assert dispatcher._signing_key == KEY
    assert dispatcher._purge_threshold == 77
    assert dispatcher._journal is container.journal()
    assert dispatcher._outbox is container.outbox()
    recorder = container.recorder()
    shown = recorder.render(
        Event(kind=EventKind.TASK_SENT, engine="arq", task_id="job-a@example.com")
    )
    token = shown.rpartition(b'"task_id":"')[2].rstrip(b'"}').decode()
    assert dispatcher._original_task_id(token) == "job-a@example.com"


def test_dispatcher_without_a_threshold_has_none(memory_brain, tmp_path):
    assert memory_container(memory_brain, tmp_path).dispatcher()._purge_threshold is None
