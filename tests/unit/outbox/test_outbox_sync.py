from __future__ import annotations

import os
import threading

import pytest
from support.outboxes import ListLogger

from z4j_fastapi.outbox.segment import Segment
from z4j_fastapi.outbox.sync import Syncer, SyncPolicy
from z4j_fastapi.outbox.trouble import TroubleLog


class Syncs:
    """Counts `fdatasync` calls, lets tests wait for them, and may refuse them."""

    def __init__(self, monkeypatch):
        self.count = 0
        self.directories = 0
        self.error: OSError | None = None
        self._changed = threading.Condition()
        monkeypatch.setattr(os, "fdatasync", self._data)
        monkeypatch.setattr(os, "fsync", self._all)

    def _data(self, fd):
        with self._changed:
            self.count += 1
            self._changed.notify_all()
        if self.error is not None:
            raise self.error

    def _all(self, fd):
        self.directories += 1

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, timeout=30)


@pytest.fixture
def syncs(monkeypatch):
    return Syncs(monkeypatch)


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / "events-00000000000000000001.seg"
    path.write_bytes(b"data")
    return Segment(path, 1, last=0, size=4)


def test_always_syncs_before_it_returns_and_the_name_once(syncs, segment):
    syncer = Syncer(SyncPolicy.ALWAYS, TroubleLog(None))
    syncer.wrote(segment)
    syncer.wrote(segment)
    assert (syncs.count, syncs.directories) == (2, 1)
    syncer.close()


def test_never_syncs_nothing_and_starts_no_thread(syncs, segment):
    syncer = Syncer(SyncPolicy.NEVER, TroubleLog(None))
    before = threading.active_count()
    syncer.wrote(segment)
    assert threading.active_count() == before
    syncer.close()
    assert syncs.count == 0


def test_interval_without_writes_has_no_thread(syncs):
    before = threading.active_count()
    syncer = Syncer(SyncPolicy.INTERVAL, TroubleLog(None))
    assert threading.active_count() == before
    syncer.close()


def test_interval_syncs_in_the_background_once_for_many_writes(syncs, segment):
    syncer = Syncer(SyncPolicy.INTERVAL, TroubleLog(None), interval_seconds=0.05)
    for _ in range(100):
        syncer.wrote(segment)
    syncs.wait_for(1)
    assert syncs.count == 1
    syncer.wrote(segment)
    syncs.wait_for(2)
    syncer.close()


def test_close_syncs_what_is_written_without_waiting_for_the_interval(syncs, segment):
    syncer = Syncer(SyncPolicy.INTERVAL, TroubleLog(None), interval_seconds=3600)
    syncer.wrote(segment)
    syncer.close()
    assert syncs.count == 1
    syncer.close()
    syncer.wrote(segment)  # too late for a thread, and no error
    assert syncs.count == 1


def test_close_with_nothing_written_any_more_ends_the_thread(syncs, segment):
    syncer = Syncer(SyncPolicy.INTERVAL, TroubleLog(None), interval_seconds=0.01)
    syncer.wrote(segment)
    syncs.wait_for(1)
    syncer.close()
    assert "z4j-outbox-sync" not in {thread.name for thread in threading.enumerate()}


def test_a_segment_that_was_unlinked_is_no_trouble(syncs, segment):
    logger = ListLogger()
    segment.path.unlink()
    syncer = Syncer(SyncPolicy.ALWAYS, TroubleLog(logger))
    syncer.wrote(segment)
    assert (syncs.count, logger.lines) == (0, [])


def test_a_disk_that_refuses_is_told_once_and_so_is_its_recovery(syncs, segment):
    logger = ListLogger()
    syncer = Syncer(SyncPolicy.ALWAYS, TroubleLog(logger))
    syncs.error = OSError(5, "Input/output error")
    syncer.wrote(segment)
    syncer.wrote(segment)
    syncs.error = None
    syncer.wrote(segment)
    assert logger.events == ["outbox_sync_failed", "outbox_sync_failed_over"]


def test_interval_where_no_thread_can_start_goes_without(syncs, segment, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    syncer = Syncer(SyncPolicy.INTERVAL, TroubleLog(None))
    syncer.wrote(segment)
    syncer.close()
    assert syncs.count == 0
