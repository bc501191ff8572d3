from __future__ import annotations

import os
import stat

import pytest

from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox import worker_directory
from z4j_fastapi.outbox.worker_directory import (
    candidates,
    create,
    has_work_for_others,
    read_agent,
    take,
    worker_directory_name,
)

LATER = 4_000_000_000.0


def names(base):
    return sorted(entry.name for entry in base.iterdir())


@pytest.mark.parametrize(
    ("worker_id", "name"),
    [
        ("host-1.example_2", "host-1.example_2"),
        ("a/b c:é", "a_b_c__"),
        ("..", "worker"),
        ("", "worker"),
        (".hidden", "hidden"),
        ("x" * 200, "x" * 80),
    ],
)
def test_worker_directory_name_is_safe(worker_id, name):
    assert worker_directory_name(worker_id) == name


def test_create_makes_a_private_locked_directory(tmp_path):
    made = create(tmp_path, "w", "tag")
    assert made.path == tmp_path / "w"
    assert made.name == "w"
    assert made.agent() == "tag"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert names(made.path) == ["lock", "meta.json"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in made.path.iterdir()} == {0o600}
    assert take(made.path) is None
    made.release()
    made.release()


def test_create_under_the_name_of_a_live_worker_takes_another_name(tmp_path):
    first = create(tmp_path, "w", "tag")
    second = create(tmp_path, "w", "tag")
    assert second.name.startswith("w.")
    first.release()
    second.release()


def test_create_under_the_name_of_a_dead_worker_takes_it_over(tmp_path):
    create(tmp_path, "w", "tag").release()
    again = create(tmp_path, "w", "tag")
    assert again.name == "w"
    again.release()


def test_create_under_the_name_of_another_agents_dead_worker_leaves_it(tmp_path):
    create(tmp_path, "w", "theirs").release()
    ours = create(tmp_path, "w", "ours")
    assert ours.name != "w"
    taken = take(tmp_path / "w")
    assert taken is not None
    taken.release()
    ours.release()


def test_create_that_loses_the_race_for_a_name_takes_another(tmp_path, monkeypatch):
    real = worker_directory.os.write

    def write(fd, data):  # a sibling creates the same name just before ours is renamed
        if not (tmp_path / "w").exists():
            (tmp_path / "w").mkdir()
            (tmp_path / "w" / "lock").touch()
        return real(fd, data)

    monkeypatch.setattr(worker_directory.os, "write", write)
    made = create(tmp_path, "w", "tag")
    assert made.name.startswith("w.")
    assert names(tmp_path) == ["w", made.name]
    made.release()


def test_create_where_no_name_is_left_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_directory.secrets, "token_hex", lambda size: "00")
    (tmp_path / "w").mkdir()
    (tmp_path / "w.00").mkdir()
    holders = [take(tmp_path / name) for name in ("w", "w.00")]
    with pytest.raises(OutboxError, match="worker w"):
        create(tmp_path, "w", "tag")
    for holder in holders:
        holder.release()


def test_create_on_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    def refuse(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker_directory.os, "write", refuse)
    with pytest.raises(OSError, match="No space"):
        create(tmp_path, "w", "tag")
    assert names(tmp_path) == []


def test_remove_deletes_the_directory(tmp_path):
    made = create(tmp_path, "w", "tag")
    (made.path / "events-00000000000000000001.seg").touch()
    (made.path / "events.cursor").touch()
    assert made.remove()
    assert names(tmp_path) == []


def test_remove_of_a_directory_with_files_of_others_leaves_all_of_it(tmp_path):
    made = create(tmp_path, "w", "tag")
    (made.path / "spool").touch()
    assert not made.remove()
    assert names(tmp_path / "w") == ["lock", "meta.json", "spool"]
    taken = take(tmp_path / "w")
    assert taken is not None
    taken.release()


def test_remove_of_what_is_gone_already_says_no(tmp_path):
    made = create(tmp_path, "w", "tag")
    for path in made.path.iterdir():
        path.unlink()
    made.path.rmdir()
    assert not made.remove()


def test_take_of_a_lock_that_lost_its_name_lets_go(tmp_path, monkeypatch):
    """The owner removed the directory between our opening of the lock file and our lock."""
    made = create(tmp_path, "w", "tag")
    real = worker_directory.try_lock

    def try_lock(lock):
        made.remove()
        return real(lock)

    monkeypatch.setattr(worker_directory, "try_lock", try_lock)
    assert take(tmp_path / "w") is None


def test_take_of_a_lock_that_was_replaced_lets_go(tmp_path, monkeypatch):
    create(tmp_path, "w", "tag").release()
    real = worker_directory.try_lock

    def try_lock(lock):
        (tmp_path / "w" / "lock").rename(tmp_path / "w" / "old")
        (tmp_path / "w" / "lock").touch()
        return real(lock)

    monkeypatch.setattr(worker_directory, "try_lock", try_lock)
    assert take(tmp_path / "w") is None


def test_take_of_no_directory_is_none(tmp_path):
    (tmp_path / "file").touch()
    assert take(tmp_path / "missing") is None
    assert take(tmp_path / "file") is None


def test_candidates_are_worker_directories_only(tmp_path):
    create(tmp_path, "w", "tag").release()
    (tmp_path / "journal").mkdir()
    (tmp_path / ".other").mkdir()
    (tmp_path / ".other" / "lock").touch()
    (tmp_path / "file").touch()
    assert [path.name for path in candidates(tmp_path, LATER)] == ["w"]


def test_candidates_removes_old_remains_and_spares_what_is_being_made(tmp_path):
    def remains(name, age):
        path = tmp_path / name
        path.mkdir()
        (path / "lock").touch()
        os.utime(path, (LATER - age, LATER - age))

    remains(".z4j-old", 3700)
    remains(".z4j-new", 10)
    remains(".z4j-locked", 3700)
    lock = take(tmp_path / ".z4j-locked")
    assert candidates(tmp_path, LATER) == []
    assert names(tmp_path) == [".z4j-locked", ".z4j-new"]
    lock.release()


@pytest.mark.parametrize("meta", [None, b"", b"[]", b"{}", b'{"agent": 5}', b"\xff"])
def test_read_agent_that_cannot_be_told_is_none(tmp_path, meta):
    if meta is not None:
        (tmp_path / "meta.json").write_bytes(meta)
    assert read_agent(tmp_path) is None


def test_has_work_for_others_looks_for_events_and_old_results(tmp_path):
    assert has_work_for_others(tmp_path, LATER)  # nothing at all: it can be removed
    result = tmp_path / "results-00000000000000000001.seg"
    result.touch()
    os.utime(result, (LATER, LATER))
    assert not has_work_for_others(tmp_path, LATER - 1)
    assert has_work_for_others(tmp_path, LATER + 1)
    (tmp_path / "events-00000000000000000001.seg").touch()
    assert has_work_for_others(tmp_path, 0.0)
    assert not has_work_for_others(tmp_path / "gone", 0.0)
