from __future__ import annotations

import logging
import os

import pytest
from dependency_injector import providers
from support.agents import SECRET, memory_container, options

from z4j_fastapi.containers.outbox import Storage, locate_storage
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.settings import load_settings


def located(directory, **more):
    return locate_storage(settings=load_settings(options(directory, **more)))


def test_storage_is_below_the_given_path_and_names_the_deployment_without_its_secrets(tmp_path):
    storage = located(tmp_path)
    assert storage.base.parent == tmp_path / "outbox"
    assert storage.relocated is None
    assert SECRET[:8] not in str(storage.base)
    assert located(tmp_path, project_id="other").base != storage.base
    assert located(tmp_path, token="another-token").base == storage.base  # one project, one key


def test_storage_without_a_path_is_below_the_state_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("Z4J_HOME", str(tmp_path / "state"))
    settings = load_settings(
        {name: value for name, value in options(tmp_path).items() if name != "buffer_path"}
    )
    storage = locate_storage(settings=settings)
    assert (tmp_path / "state") in storage.base.parents


@pytest.mark.skipif(
    os.geteuid() != 0, reason="a path that not even root can use is the same for all"
)
def test_storage_when_the_wanted_place_cannot_be_used_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    storage = located(tmp_path, buffer_path=str(blocked / "outbox"))
    assert storage.relocated
    assert blocked not in storage.base.parents
    assert storage.warnings


def test_warnings_are_logged_once_and_the_runtime_knows_the_reason(memory_brain, tmp_path, caplog):
    container = memory_container(memory_brain, tmp_path)
    storage = Storage(base=tmp_path / "elsewhere", relocated="no space", warnings=("moved it",))
    container.storage.override(providers.Object(storage))
    with caplog.at_level(logging.WARNING, logger="z4j_fastapi"):
        runtime = container.runtime()
        container.outbox()
    assert caplog.text.count("storage_warning") == 1
    assert runtime.status().relocated == "no space"


def test_outbox_has_the_bounds_and_the_tag_of_the_settings(memory_brain, tmp_path):
    container = memory_container(
        memory_brain, tmp_path, buffer_max_events=1234, buffer_max_bytes=2_000_000
    )
    outbox = container.outbox()
    assert outbox._agent_tag == container.settings().agent_tag
    assert outbox._retention[RecordKind.EVENT].max_records == 1234
    assert outbox._retention[RecordKind.EVENT].max_bytes == 2_000_000
    assert not (tmp_path / "outbox").exists() or not list((tmp_path / "outbox").rglob("*.cursor"))
    outbox.open()
    first = outbox.directory
    outbox.append(RecordKind.EVENT, b"{}")  # so that the directory stays
    outbox.close()
    outbox.open()
    assert outbox.directory != first  # a name of its own for every opening
    outbox.close()


def test_journal_lies_beside_the_workers_directories_and_is_made_with_the_first_command(
    memory_brain, tmp_path
):
    container = memory_container(memory_brain, tmp_path)
    journal = container.journal()
    journals = list((tmp_path / "outbox").rglob("journal"))
    assert journals == []
    journal.claim(["c-1"], action="cancel_task", claim_token=None)
    assert (container.storage().base / "journal").is_dir()
    journal.close()
