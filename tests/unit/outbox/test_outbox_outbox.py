from __future__ import annotations

import os
import stat
import threading
import time

import pytest
from support.outboxes import (
    FullDisk,
    ListLogger,
    StillClock,
    drain,
    kill_the_owner,
    make_outbox,
)

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox import outbox as outbox_module
from z4j_fastapi.outbox import worker_directory
from z4j_fastapi.outbox.base import OutboxDepth, RecordKind
from z4j_fastapi.outbox.lane import FileLane
from z4j_fastapi.outbox.record import MAX_PAYLOAD_BYTES
from z4j_fastapi.outbox.sync import SyncPolicy

EVENT, RESULT = RecordKind.EVENT, RecordKind.RESULT


@pytest.fixture
def base(tmp_path):
    return tmp_path / "outbox" / "fingerprint"


@pytest.fixture
def outbox(base):
    made = make_outbox(base)
    made.open()
    yield made
    made.close()


def dead(base, worker_id="dead", *, agent_tag="agent", events=(), results=()):
    """A worker directory as a killed process leaves it."""
    made = make_outbox(base, worker_id, agent_tag=agent_tag)
    made.open()
    for payload in events:
        made.append(EVENT, payload)
    for payload in results:
        made.append(RESULT, payload)
    kill_the_owner(made)
    return made.directory


def in_child(function):
    """Run `function` in a forked child; True if it returned truth there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if function() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def test_open_makes_private_directories_and_is_idempotent(base, outbox):
    outbox.open()
    assert outbox.directory == base / "worker"
    for path in (base.parent, base, outbox.directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_open_where_nothing_can_be_made_raises_with_advice(base):
    base.parent.mkdir()
    base.touch()
    with pytest.raises(OutboxError, match="Z4J_HOME"):
        make_outbox(base).open()


def test_open_in_a_directory_that_others_can_write_to_raises(base):
    base.mkdir(parents=True)
    base.chmod(0o777)
    with pytest.raises(OutboxError, match="other users can write"):
        make_outbox(base).open()


def test_directory_before_open_raises(base):
    with pytest.raises(OutboxError):
        _ = make_outbox(base).directory


@pytest.mark.parametrize("payload", [b"", b"x" * (MAX_PAYLOAD_BYTES + 1)])
def test_append_of_an_impossible_record_raises_and_writes_nothing(outbox, payload):
    with pytest.raises(OutboxError, match=str(len(payload))):
        outbox.append(EVENT, payload)
    assert outbox.depth() == OutboxDepth(events=0, results=0, bytes=0, oldest_age_seconds=0.0)


def test_append_goes_to_the_lane_of_its_kind(outbox):
    outbox.append(EVENT, b"event")
    outbox.append(RESULT, b"r" * MAX_PAYLOAD_BYTES)
    (source,) = outbox.sources()
    assert source.own
    assert source.name == "worker"
    assert drain(source.events) == [b"event"]
    assert drain(source.results) == [b"r" * MAX_PAYLOAD_BYTES]


def test_append_before_open_and_after_close_raises(base):
    made = make_outbox(base)
    with pytest.raises(OutboxError, match="closed"):
        made.append(EVENT, b"x")
    made.open()
    made.close()
    with pytest.raises(OutboxError, match="closed"):
        made.append(EVENT, b"x")
    assert made.sources() == ()
    assert made.adopt() == 0
    assert made.depth().events == 0
    with pytest.raises(OutboxError, match="closed"):  # a thread that had looked at the pid before
        made._append_event(b"x")


def test_append_that_races_with_close_raises(base, outbox):
    lanes = (outbox._append_event, outbox._append_result)
    outbox.close()
    for append in lanes:
        with pytest.raises(OutboxError, match="closed"):
            append(b"x")
    assert list(base.iterdir()) == []


def test_close_with_nothing_pending_removes_the_directory(base, outbox):
    outbox.append(EVENT, b"x")
    drain(outbox.sources()[0].events)
    outbox.close()
    outbox.close()
    assert list(base.iterdir()) == []


def test_close_with_records_leaves_them_to_the_next_start(base):
    first = make_outbox(base, "first")
    first.open()
    first.append(EVENT, b"x")
    first.close()
    second = make_outbox(base, "second")
    second.open()
    assert second.adopt() == 1
    assert drain(second.sources()[1].events) == [b"x"]
    second.close()
    assert list(base.iterdir()) == []


def test_open_again_after_close_goes_on(base, outbox):
    outbox.append(EVENT, b"x")
    outbox.close()
    outbox.open()
    assert drain(outbox.sources()[0].events) == [b"x"]  # the same name: the same directory


def test_open_that_cannot_load_what_it_found_raises_and_unlocks(base, monkeypatch):
    path = dead(base, events=[b"x"])

    def refuse(self):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(FileLane, "open", refuse)
        with pytest.raises(OutboxError, match="Input/output"):
            make_outbox(base, "dead").open()
    taken = worker_directory.take(path)
    assert taken is not None
    taken.release()


def test_adopt_takes_over_the_dead_and_leaves_the_living(base, outbox):
    living = make_outbox(base, "living")
    living.open()
    living.append(EVENT, b"theirs")
    dead(base, events=[b"e1", b"e2"], results=[b"r"])
    assert outbox.adopt() == 1
    assert outbox.adopt() == 0
    own, adopted = outbox.sources()
    assert (own.own, adopted.own, adopted.name) == (True, False, "dead")
    assert outbox.depth().events == 2
    assert outbox.depth().results == 1
    assert outbox.depth().bytes > 0
    assert drain(adopted.events) == [b"e1", b"e2"]
    assert drain(adopted.results) == [b"r"]
    outbox.release(adopted)
    outbox.release(adopted)
    assert outbox.sources() == (own,)
    assert not (base / "dead").exists()
    living.close()


def test_adopt_removes_an_empty_directory(base, outbox):
    dead(base)
    assert outbox.adopt() == 0
    assert not (base / "dead").exists()


def test_adopt_of_a_torn_tail_delivers_the_whole_records(base, outbox):
    path = dead(base, events=[b"e1", b"e2"])
    (segment,) = path.glob("events-*.seg")
    os.truncate(segment, segment.stat().st_size - 1)
    assert outbox.adopt() == 1
    assert drain(outbox.sources()[1].events) == [b"e1"]


def test_adopt_from_another_agent_delivers_events_and_leaves_results(base, outbox):
    dead(base, agent_tag="theirs", events=[b"e"], results=[b"r"])
    assert outbox.adopt() == 1
    source = outbox.sources()[1]
    assert source.results is None
    assert outbox.depth().results == 0
    assert drain(source.events) == [b"e"]
    outbox.release(source)
    assert outbox.adopt() == 0
    theirs = make_outbox(base, "next", agent_tag="theirs")
    theirs.open()
    assert theirs.adopt() == 1
    assert drain(theirs.sources()[1].results) == [b"r"]
    theirs.close()
    assert not (base / "dead").exists()


def test_adopt_that_finds_only_results_of_another_agent_leaves_their_lock_free(base, outbox):
    path = dead(base, agent_tag="theirs", results=[b"r"])
    assert outbox.adopt() == 0
    taken = worker_directory.take(path)
    assert taken is not None
    taken.release()


@pytest.mark.parametrize("tag", ["agent", "theirs"])
def test_adopt_drops_results_that_nobody_waits_for(base, tag):
    path = dead(base, agent_tag=tag, results=[b"r1", b"r2"])
    clock, counters = StillClock(), LossCounters()
    clock.advance(24 * 3600 + 60)
    outbox = make_outbox(base, clock=clock, counters=counters)
    outbox.open()
    assert outbox.adopt() == 0
    assert counters.get(LossReason.EXPIRED) == 2
    assert not path.exists()
    outbox.close()


def test_adopt_drops_own_results_that_nobody_waits_for(base):
    clock, counters = StillClock(), LossCounters()
    outbox = make_outbox(base, clock=clock, counters=counters)
    outbox.open()
    outbox.append(RESULT, b"r")
    outbox.append(EVENT, b"e")
    clock.advance(24 * 3600 + 60)
    assert outbox.depth().oldest_age_seconds == 24 * 3600 + 60
    outbox.adopt()
    assert counters.get(LossReason.EXPIRED) == 1
    assert drain(outbox.sources()[0].events) == [b"e"]
    outbox.close()


def test_adopt_takes_no_more_than_it_can_hold_open(base, outbox, monkeypatch):
    monkeypatch.setattr(outbox_module, "_MAX_ADOPTED", 2)
    for n in range(3):
        dead(base, f"dead{n}", events=[b"x"])
    assert outbox.adopt() == 2
    source = outbox.sources()[1]
    drain(source.events)
    outbox.release(source)
    assert outbox.adopt() == 1


def test_adopt_of_a_directory_that_cannot_be_read_goes_on_with_the_others(base, monkeypatch):
    logger = ListLogger()
    outbox = make_outbox(base, logger=logger)
    outbox.open()
    dead(base, "a", events=[b"x"])
    dead(base, "b", events=[b"y"])
    real = FileLane.open

    def open_(self):
        if self._state._segments._directory.name == "a":
            raise OSError(13, "Permission denied")
        real(self)

    monkeypatch.setattr(FileLane, "open", open_)
    assert outbox.adopt() == 1
    assert logger.lines[0] == (
        "warning",
        "outbox_adoption_failed",
        {"error": "Permission denied"},
    )
    assert logger.lines[1] == ("info", "outbox_adopted", {"sources": ["b"]})
    outbox.close()


def test_adopt_where_the_base_cannot_be_listed_takes_nothing(base, outbox, monkeypatch):
    def refuse(base, now):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(worker_directory, "candidates", refuse)
    assert outbox.adopt() == 0


def test_adopt_takes_a_full_disks_ring_back(base):
    disk = FullDisk()
    outbox = make_outbox(base, segment_type=disk.segment_type)
    outbox.open()
    disk.errno = 28
    assert outbox.append(EVENT, b"x")
    disk.errno = None
    assert list(outbox.directory.glob("events-*.seg")) == []
    outbox.adopt()
    assert len(list(outbox.directory.glob("events-*.seg"))) == 1
    outbox.close()


def test_close_gives_adopted_directories_back(base, outbox):
    path = dead(base, events=[b"e1", b"e2"])
    outbox.adopt()
    outbox.sources()[1].events.acknowledge(1)
    outbox.close()
    other = make_outbox(base, "other")
    other.open()
    assert other.adopt() == 1
    assert drain(other.sources()[1].events) == [b"e2"]
    other.close()
    assert not path.exists()


def test_release_of_a_source_that_is_not_drained_leaves_it_to_others(base, outbox):
    path = dead(base, events=[b"e"])
    outbox.adopt()
    outbox.release(outbox.sources()[1])
    assert path.exists()
    assert outbox.adopt() == 1


def test_worker_id_may_be_asked_for(base):
    made = make_outbox(base, lambda: "asked")  # type: ignore[arg-type]
    made.open()
    assert made.directory.name == "asked"
    made.close()


def test_always_syncs_before_append_returns(base, monkeypatch):
    calls = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: calls.append(fd) or real(fd))
    outbox = make_outbox(base, sync=SyncPolicy.ALWAYS)
    outbox.open()
    outbox.append(EVENT, b"x")
    assert len(calls) == 1
    outbox.close()


@pytest.mark.parametrize("hook", [True, False])
def test_a_forked_child_writes_to_a_directory_of_its_own(base, outbox, hook):
    outbox.append(EVENT, b"parent")

    def child():
        if hook:
            outbox.reinit_after_fork()
        before = (outbox.sources(), outbox.depth().events)
        outbox.append(EVENT, b"child")
        own = outbox.sources()[0]
        name = f"worker-{os.getpid()}"
        good = before == ((), 0) and own.name == outbox.directory.name == name
        return good and drain(own.events) == [b"child"] and (outbox.close() is None)

    assert in_child(child)
    outbox.append(EVENT, b"parent again")
    assert [entry.name for entry in base.iterdir()] == ["worker"]
    assert drain(outbox.sources()[0].events) == [b"parent", b"parent again"]


def test_a_forked_child_that_never_records_opens_nothing_and_holds_no_lock(base, outbox):
    dead(base, events=[b"x"])
    outbox.adopt()
    outbox.append(EVENT, b"parent")
    go, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        outbox.reinit_after_fork()
        outbox.reinit_after_fork()
        os.write(told[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(told[0], 1)
    kill_the_owner(outbox)  # the parent dies, the child lives on
    taken = worker_directory.take(outbox.directory)
    assert taken is not None
    taken.release()
    os.write(go[1], b"x")
    os.waitpid(pid, 0)
    for fd in (*go, *told):
        os.close(fd)


def test_a_forked_child_whose_parent_held_the_locks_does_not_hang(base, outbox):
    holding, release = threading.Event(), threading.Event()

    def hold():
        with outbox._lock, outbox._own.events._lock:
            holding.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(60)
    try:

        def child():
            return outbox.append(EVENT, b"child") and (outbox.close() is None)

        assert in_child(child)
    finally:
        release.set()
        thread.join()


def test_a_forked_child_of_a_closed_outbox_refuses(base):
    outbox = make_outbox(base)
    outbox.open()
    outbox.close()

    def child():
        try:
            outbox.append(EVENT, b"x")
        except OutboxError:
            return True
        return False

    assert in_child(child)


def test_a_child_that_cannot_open_a_directory_counts_and_tries_again_later(base, monkeypatch):
    logger, clock, counters = ListLogger(), StillClock(), LossCounters()
    outbox = make_outbox(base, logger=logger, clock=clock, counters=counters)
    outbox.open()
    parent = os.getpid()

    def refuse(base, worker_id, agent):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: parent + 1)  # as in a child
        with patch.context() as full:
            full.setattr(worker_directory, "create", refuse)
            assert not outbox.append(EVENT, b"x")
        assert not outbox.append(EVENT, b"x")
        clock.advance(1.0)
        assert outbox.append(EVENT, b"x")
        assert counters.get(LossReason.DISK) == 2
        assert logger.events == ["outbox_open_failed"]
        drain(outbox.sources()[0].events)
        outbox.close()


def test_two_threads_of_a_child_open_one_directory(base, outbox):
    def child():
        threads = [
            threading.Thread(target=outbox.append, args=(EVENT, b"%d" % n)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        good = len(drain(outbox.sources()[0].events)) == 8
        outbox.close()
        return good

    assert in_child(child)
    assert [entry.name for entry in base.iterdir()] == ["worker"]


def test_leaving_the_parent_in_two_threads_at_once_happens_once(base, outbox, monkeypatch):
    released = []
    monkeypatch.setattr(
        worker_directory.WorkerDirectory, "release", lambda self: released.append(time.monotonic())
    )
    parent = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: parent + 1)
        real = outbox._locks.setdefault(parent + 1, threading.RLock())

        class Late:
            """The other thread is faster while we wait for the lock."""

            def __enter__(self):
                real.acquire()
                if outbox._pid:
                    outbox._locks[parent + 1] = real
                    outbox._leave_parent()

            def __exit__(self, *_):
                real.release()

        outbox._locks[parent + 1] = Late()
        outbox.reinit_after_fork()
    assert len(released) == 1
