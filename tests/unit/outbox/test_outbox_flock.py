from __future__ import annotations

import importlib
import os
import sys
import threading

import pytest

from z4j_fastapi.outbox import flock
from z4j_fastapi.outbox.files import open_private
from z4j_fastapi.outbox.flock import is_locked, lock_exclusively, try_lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def opened(path):
    return open_private(path, os.O_RDWR | os.O_CREAT)


def test_try_lock_of_a_held_lock_fails_until_it_is_closed(path):
    first, second = opened(path), opened(path)
    assert try_lock(first)
    assert not try_lock(second)
    assert is_locked(path)
    first.close()
    assert not is_locked(path)
    assert try_lock(second)
    second.close()


def test_is_locked_of_a_missing_file_is_false(path):
    assert not is_locked(path)


def test_lock_exclusively_waits_for_the_holder(path):
    first, second = opened(path), opened(path)
    try_lock(first)
    got = threading.Event()

    def wait():
        lock_exclusively(second)
        got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.05)
    first.close()
    assert got.wait(30)
    thread.join()
    second.close()


def test_without_flock_nothing_is_locked_and_nothing_is_free(path, monkeypatch):
    monkeypatch.setattr(flock, "fcntl", None)
    monkeypatch.setattr(flock, "AVAILABLE", False)
    file = opened(path)
    assert not try_lock(file)
    lock_exclusively(file)
    assert is_locked(path)
    file.close()


def test_on_windows_the_module_loads_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    try:
        assert not importlib.reload(flock).AVAILABLE
    finally:
        monkeypatch.undo()
        assert importlib.reload(flock).AVAILABLE
