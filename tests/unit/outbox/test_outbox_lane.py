"""FileLane and LaneState, which only exist together."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from support.outboxes import FullDisk, ListLogger, StillClock, drain, open_lane

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.cursor import Cursor
from z4j_fastapi.outbox.segment import SegmentReader, parse_segment_name

MANY = {"max_records": 10_000, "max_bytes": 1 << 30}


def fill(lane, count, size=100, first=1):
    payloads = [b"%08d" % n + b"x" * (size - 8) for n in range(first, first + count)]
    for payload in payloads:
        assert lane.append(payload)
    return payloads


def numbers(records):
    return [record.number for record in records]


def segments(directory):
    return sorted(p for p in directory.iterdir() if parse_segment_name(p.name))


@pytest.fixture
def counters():
    return LossCounters()


@pytest.fixture
def disk_reads(monkeypatch):
    """Counts reads of segments."""
    calls = []
    real = SegmentReader.read

    def read(self, *args, **kwargs):
        calls.append(kwargs["after"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(SegmentReader, "read", read)
    return calls


def test_append_then_read_then_acknowledge(tmp_path):
    lane = open_lane(tmp_path)
    payloads = fill(lane, 10)
    assert (lane.acknowledged, lane.last, lane.pending) == (0, 10, 10)
    records = lane.read(0, **MANY)
    assert numbers(records) == list(range(1, 11))
    assert [r.payload for r in records] == payloads
    lane.acknowledge(4)
    assert (lane.acknowledged, lane.pending) == (4, 6)
    assert numbers(lane.read(4, **MANY)) == list(range(5, 11))
    lane.acknowledge(10)
    assert lane.acknowledged == lane.last == 10
    assert (lane.pending, lane.pending_bytes, lane.oldest_age_seconds()) == (0, 0, 0.0)
    lane.close()
    lane.close()


def test_pending_bytes_shrink_with_what_is_acknowledged(tmp_path):
    lane = open_lane(tmp_path)
    fill(lane, 10)
    assert lane.pending_bytes == 10 * 117
    lane.acknowledge(4)
    assert lane.pending_bytes == 6 * 117
    lane.acknowledge(10)
    fill(lane, 1)
    assert lane.pending_bytes == 117
    lane.close()


def test_acknowledge_of_what_is_not_there_is_ignored_or_clipped(tmp_path):
    lane = open_lane(tmp_path)
    fill(lane, 3)
    lane.acknowledge(99)
    assert lane.acknowledged == 3
    lane.acknowledge(1)
    assert lane.acknowledged == 3
    lane.close()


def test_read_while_the_reader_keeps_up_never_touches_the_disk(tmp_path, disk_reads):
    lane = open_lane(tmp_path)
    for n in range(5):
        fill(lane, 20)
        assert len(lane.read(n * 20, **MANY)) == 20
    assert disk_reads == []
    lane.close()


def test_read_again_from_the_acknowledged_position_reads_from_disk(tmp_path, disk_reads):
    lane = open_lane(tmp_path)
    payloads = fill(lane, 10)
    lane.read(0, **MANY)
    assert [r.payload for r in lane.read(0, **MANY)] == payloads
    assert disk_reads == [0]
    fill(lane, 1)
    assert numbers(lane.read(10, **MANY)) == [11]
    assert disk_reads == [0]
    lane.close()


@pytest.mark.parametrize("unacknowledged", [1, 2, 9])
def test_read_of_the_last_record_again_after_catching_up_returns_it(tmp_path, unacknowledged):
    lane = open_lane(tmp_path)
    fill(lane, 10)
    lane.close()
    lane = open_lane(tmp_path)
    lane.read(0, **MANY)
    lane.acknowledge(10 - unacknowledged)
    again = lane.read(lane.acknowledged, **MANY)
    assert numbers(again) == list(range(11 - unacknowledged, 11))
    lane.close()


def test_read_of_a_sent_part_from_disk_goes_on_in_memory(tmp_path, disk_reads):
    lane = open_lane(tmp_path)
    fill(lane, 10)
    lane.read(0, max_records=5, max_bytes=1 << 20)
    assert numbers(lane.read(2, max_records=5, max_bytes=1 << 20)) == [3, 4, 5, 6, 7]
    assert numbers(lane.read(2, **MANY)) == list(range(3, 11))
    lane.close()


def test_read_behind_by_more_than_the_tail_catches_up_from_disk_then_uses_memory(
    tmp_path, disk_reads
):
    lane = open_lane(tmp_path)
    payloads = fill(lane, 6_000, size=1_000)
    assert drain(lane) == payloads
    assert disk_reads
    del disk_reads[:]
    fill(lane, 5)
    assert len(drain(lane)) == 5
    assert disk_reads == []
    lane.close()


def test_read_keeps_its_limits_across_segments(tmp_path):
    lane = open_lane(tmp_path, max_bytes=1 << 20)  # segments of 64 KiB
    fill(lane, 200, size=1_000)
    lane.close()
    lane = open_lane(tmp_path, max_bytes=1 << 20)
    assert len(segments(tmp_path)) > 2
    assert len(lane.read(0, max_records=150, max_bytes=1 << 30)) == 150
    assert len(lane.read(0, max_records=1_000, max_bytes=150_999)) == 150
    assert len(lane.read(0, max_records=1_000, max_bytes=1)) == 1
    assert lane.read(0, max_records=0, max_bytes=1) == []
    lane.close()


def test_reopen_finds_what_was_not_acknowledged(tmp_path):
    lane = open_lane(tmp_path)
    payloads = fill(lane, 10)
    lane.acknowledge(3)
    lane.close()
    lane = open_lane(tmp_path)
    assert (lane.acknowledged, lane.last) == (3, 10)
    payloads += fill(lane, 2, first=11)
    assert drain(lane) == payloads[3:]
    lane.close()


def test_reopen_with_a_lost_cursor_delivers_again(tmp_path):
    lane = open_lane(tmp_path)
    payloads = fill(lane, 10)
    lane.acknowledge(3)
    lane.close()
    (tmp_path / "events.cursor").unlink()
    lane = open_lane(tmp_path)
    assert drain(lane) == payloads
    lane.close()


def test_reopen_with_a_cursor_ahead_of_the_data_gives_no_number_twice(tmp_path):
    cursor = Cursor(tmp_path / "events.cursor")
    cursor.store(50)
    cursor.close()
    lane = open_lane(tmp_path)
    fill(lane, 2)
    assert numbers(lane.read(0, **MANY)) == [51, 52]
    lane.close()
    lane = open_lane(tmp_path)
    assert numbers(lane.read(50, **MANY)) == [51, 52]
    lane.close()


def test_acknowledged_segments_are_unlinked(tmp_path):
    lane = open_lane(tmp_path, max_bytes=1 << 20)
    fill(lane, 200, size=1_000)
    before = len(segments(tmp_path))
    lane.acknowledge(150)
    assert len(segments(tmp_path)) < before
    lane.acknowledge(200)
    assert len(segments(tmp_path)) == 1
    lane.close()


def test_segments_left_by_a_crash_behind_the_cursor_are_unlinked_at_open(tmp_path):
    lane = open_lane(tmp_path, max_bytes=1 << 20)
    fill(lane, 200, size=1_000)
    lane.close()
    cursor = Cursor(tmp_path / "events.cursor")
    cursor.store(200)
    cursor.close()
    lane = open_lane(tmp_path, max_bytes=1 << 20)
    assert segments(tmp_path) == []
    assert lane.pending == 0
    lane.close()


def test_beyond_max_records_exactly_the_oldest_go(tmp_path, counters):
    logger = ListLogger()
    lane = open_lane(tmp_path, max_records=100, counters=counters, logger=logger)
    payloads = fill(lane, 150)
    assert lane.pending == 100
    assert counters.get(LossReason.CAPACITY) == 50
    assert drain(lane) == payloads[50:]
    assert counters.get(LossReason.CORRUPT) == 0
    fill(lane, 101)
    assert logger.events == ["outbox_full", "outbox_full_over", "outbox_full"]
    lane.close()


def test_beyond_max_records_after_a_crash_evicts_the_same_again_only(tmp_path, counters):
    lane = open_lane(tmp_path, max_records=1_000)
    payloads = fill(lane, 1_555)
    lane.abandon()
    lane = open_lane(tmp_path, max_records=1_000, counters=counters)
    assert drain(lane) == payloads[555:]
    assert counters.get(LossReason.CAPACITY) <= 10
    lane.close()


def test_beyond_max_bytes_whole_old_segments_go(tmp_path, counters):
    lane = open_lane(tmp_path, max_bytes=1 << 20, counters=counters)
    payloads = fill(lane, 2_000, size=1_000)
    lost = counters.get(LossReason.CAPACITY)
    on_disk = sum(p.stat().st_size for p in segments(tmp_path))
    assert (1 << 20) - (64 << 10) - 2_000 <= on_disk <= 1 << 20
    assert abs(lane.pending_bytes - on_disk) < 2_000
    assert drain(lane) == payloads[lost:]
    lane.close()


def test_max_bytes_below_one_record_keeps_the_newest(tmp_path, counters):
    lane = open_lane(tmp_path, max_bytes=10, counters=counters)
    payloads = fill(lane, 3, size=70_000)
    assert drain(lane) == payloads[2:]
    assert counters.get(LossReason.CAPACITY) == 2
    lane.close()


def test_eviction_while_the_reader_reads_returns_nothing_evicted(tmp_path, monkeypatch):
    lane = open_lane(tmp_path, max_records=50)
    fill(lane, 50)
    lane.close()
    lane = open_lane(tmp_path, max_records=50)
    real = SegmentReader.read

    def read(self, *args, **kwargs):
        found = real(self, *args, **kwargs)
        if lane.last == 50:
            fill(lane, 20)
        return found

    monkeypatch.setattr(SegmentReader, "read", read)
    records = lane.read(0, max_records=30, max_bytes=1 << 20)
    assert numbers(records) == list(range(21, 31))
    lane.close()


def test_damage_in_the_middle_is_skipped_and_counted_once(tmp_path, counters):
    logger = ListLogger()
    lane = open_lane(tmp_path)
    fill(lane, 10)
    lane.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[117 * 3 + 50] ^= 1
    data[117 * 4 + 50] ^= 1
    path.write_bytes(data)
    lane = open_lane(tmp_path, counters=counters, logger=logger)
    assert numbers(lane.read(0, **MANY)) == [1, 2, 3, 6, 7, 8, 9, 10]
    assert numbers(lane.read(0, **MANY)) == [1, 2, 3, 6, 7, 8, 9, 10]
    assert counters.get(LossReason.CORRUPT) == 2
    assert lane.pending == 8
    lane.acknowledge(3)
    assert (lane.acknowledged, lane.pending) == (5, 5)
    lane.acknowledge(10)
    assert lane.pending == 0
    assert logger.events == ["outbox_records_damaged"]
    lane.close()


def test_a_damaged_beginning_is_passed_over_at_once(tmp_path, counters):
    lane = open_lane(tmp_path)
    fill(lane, 3)
    lane.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    lane = open_lane(tmp_path, counters=counters)
    assert numbers(lane.read(0, **MANY)) == [2, 3]
    assert (lane.acknowledged, lane.pending) == (1, 2)
    assert counters.get(LossReason.CORRUPT) == 1
    lane.close()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_segment_that_is_gone_is_counted_and_does_not_stop_the_lane(tmp_path, counters, victim):
    lane = open_lane(tmp_path, max_bytes=1 << 20)
    payloads = fill(lane, 200, size=1_000)
    lane.close()
    lane = open_lane(tmp_path, max_bytes=1 << 20, counters=counters)
    paths = segments(tmp_path)
    first = parse_segment_name(paths[victim].name)[1]
    last = parse_segment_name(paths[victim + 1].name)[1] - 1
    paths[victim].unlink()
    assert drain(lane) == payloads[: first - 1] + payloads[last:]
    assert counters.get(LossReason.CORRUPT) == last - first + 1
    assert lane.pending == 0
    lane.close()


def test_records_that_vanished_from_the_newest_segment_do_not_stay_pending(tmp_path, counters):
    lane = open_lane(tmp_path, counters=counters)
    fill(lane, 10)
    lane.read(0, **MANY)
    segments(tmp_path)[0].unlink()
    assert lane.read(0, **MANY) == []
    assert (lane.pending, counters.get(LossReason.CORRUPT)) == (0, 10)
    lane.close()


def test_a_damaged_last_record_is_cut_and_counted(tmp_path, counters):
    logger = ListLogger()
    lane = open_lane(tmp_path)
    payloads = fill(lane, 3)
    lane.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    lane = open_lane(tmp_path, counters=counters, logger=logger)
    assert drain(lane) == payloads[:2]
    assert counters.get(LossReason.CORRUPT) == 1
    assert logger.lines == [("warning", "outbox_tail_cut", {"lane": "events", "bytes": 117})]
    lane.close()


def test_a_read_that_fails_for_a_while_loses_nothing(tmp_path, counters, monkeypatch):
    logger = ListLogger()
    lane = open_lane(tmp_path)
    payloads = fill(lane, 5)
    lane.close()
    lane = open_lane(tmp_path, counters=counters, logger=logger)
    with monkeypatch.context() as patch:

        def refuse(*args, **kwargs):
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(SegmentReader, "read", refuse)
        assert lane.read(0, **MANY) == []
        assert lane.read(0, **MANY) == []
        assert lane.pending == 5
    assert drain(lane) == payloads
    assert counters.snapshot()["corrupt"] == 0
    assert logger.events == ["outbox_read_failed", "outbox_read_failed_over"]
    lane.close()


def test_a_failing_cursor_costs_a_log_line_only(tmp_path, monkeypatch):
    logger = ListLogger()
    lane = open_lane(tmp_path, logger=logger)
    fill(lane, 4)

    def refuse(self, number):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Cursor, "store", refuse)
    lane.acknowledge(1)
    lane.acknowledge(2)
    assert lane.acknowledged == 2
    assert logger.events == ["outbox_cursor_failed"]
    lane.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_disk_full_keeps_records_in_memory_and_in_order(tmp_path, counters, number):
    logger, disk, clock = ListLogger(), FullDisk(), StillClock()
    lane = open_lane(
        tmp_path, counters=counters, logger=logger, clock=clock, segment_type=disk.segment_type
    )
    payloads = fill(lane, 5)
    disk.errno = number
    payloads += fill(lane, 5, first=6)
    assert [r.payload for r in lane.read(0, **MANY)] == payloads
    assert numbers(lane.read(7, **MANY)) == [8, 9, 10]
    assert lane.pending == 10
    disk.errno = None
    payloads += fill(lane, 1, first=11)  # less than a second later: the disk is left alone
    assert sum(p.stat().st_size for p in segments(tmp_path)) == 5 * 117
    clock.advance(1.0)
    payloads += fill(lane, 1, first=12)
    assert sum(p.stat().st_size for p in segments(tmp_path)) == 12 * 117
    assert logger.events == ["outbox_disk_refused", "outbox_disk_refused_over"]
    lane.close()
    lane = open_lane(tmp_path, counters=counters)
    assert drain(lane) == payloads
    assert set(counters.snapshot().values()) == {0}
    lane.close()


def test_disk_full_for_long_drops_the_oldest_of_the_ring_and_counts(tmp_path, counters):
    disk = FullDisk()
    lane = open_lane(tmp_path, counters=counters, segment_type=disk.segment_type)
    payloads = fill(lane, 3, size=100_000)
    disk.errno = errno.ENOSPC
    payloads += fill(lane, 60, size=100_000, first=4)
    lost = counters.get(LossReason.DISK)
    assert lost == 60 - (4 << 20) // 100_000
    assert lane.pending == 63 - lost
    assert drain(lane, max_bytes=1 << 20) == payloads[:3] + payloads[3 + lost :]
    assert lane.pending == 0
    assert counters.get(LossReason.CORRUPT) == 0
    lane.close()


def test_disk_full_refuses_a_result_instead_of_dropping_older_ones(tmp_path, counters):
    disk = FullDisk()
    disk.errno = errno.ENOSPC
    lane = open_lane(tmp_path, RecordKind.RESULT, counters=counters, segment_type=disk.segment_type)
    kept = [lane.append(b"%02d" % n + bytes(500_000)) for n in range(10)]
    assert kept == [True] * 8 + [False] * 2
    assert counters.get(LossReason.DISK) == 2
    assert [p[:2] for p in drain(lane)] == [b"%02d" % n for n in range(8)]
    lane.close()


def test_disk_full_keeps_the_event_bound(tmp_path, counters):
    disk = FullDisk()
    disk.errno = errno.ENOSPC
    lane = open_lane(tmp_path, max_records=10, counters=counters, segment_type=disk.segment_type)
    payloads = fill(lane, 25)
    assert counters.get(LossReason.CAPACITY) == 15
    assert drain(lane) == payloads[15:]
    lane.close()


def test_acknowledge_while_the_disk_is_full_frees_space_and_returns_to_disk(tmp_path):
    disk = FullDisk()
    lane = open_lane(tmp_path, segment_type=disk.segment_type)
    fill(lane, 5)
    disk.errno = errno.ENOSPC
    payloads = fill(lane, 5, first=6)
    old = segments(tmp_path)
    disk.errno = None
    lane.acknowledge(5)
    assert segments(tmp_path) != old
    assert sum(p.stat().st_size for p in segments(tmp_path)) == 5 * 117
    assert drain(lane) == payloads
    lane.close()


def test_acknowledge_of_what_is_in_the_ring_empties_it(tmp_path):
    logger, disk = ListLogger(), FullDisk()
    disk.errno = errno.ENOSPC
    lane = open_lane(tmp_path, segment_type=disk.segment_type, logger=logger)
    fill(lane, 5)
    lane.acknowledge(3)
    assert numbers(lane.read(0, **MANY)) == [4, 5]
    lane.acknowledge(5)
    assert lane.pending == 0
    assert logger.events[-1] == "outbox_disk_refused_over"
    disk.errno = None
    fill(lane, 2)
    assert numbers(lane.read(5, **MANY)) == [6, 7]
    lane.close()


def test_recover_takes_a_long_ring_back_and_append_a_part_of_it(tmp_path):
    disk, clock = FullDisk(), StillClock()
    lane = open_lane(tmp_path, segment_type=disk.segment_type, clock=clock)
    disk.errno = errno.ENOSPC
    payloads = fill(lane, 100)
    disk.errno = None
    clock.advance(2.0)
    payloads += fill(lane, 1, first=101)
    assert sum(p.stat().st_size for p in segments(tmp_path)) == 64 * 117
    lane.recover()
    assert sum(p.stat().st_size for p in segments(tmp_path)) == 101 * 117
    assert drain(lane) == payloads
    lane.close()


def test_close_while_the_disk_is_full_counts_what_only_memory_had(tmp_path, counters):
    disk = FullDisk()
    lane = open_lane(tmp_path, counters=counters, segment_type=disk.segment_type)
    payloads = fill(lane, 5)
    disk.errno = errno.ENOSPC
    fill(lane, 5)
    lane.close()
    assert counters.get(LossReason.DISK) == 5
    assert (lane.last, lane.pending) == (5, 5)
    lane = open_lane(tmp_path)
    assert drain(lane) == payloads
    lane.close()


def test_expire_drops_what_is_certainly_old(tmp_path, counters):
    clock = StillClock()
    lane = open_lane(tmp_path, RecordKind.RESULT, counters=counters, clock=clock)
    fill(lane, 2)
    clock.advance(3600)
    fill(lane, 1)
    clock.advance(60)
    assert lane.oldest_age_seconds() == 3660
    assert lane.expire(7200) == 0
    assert lane.expire(3600) in {1, 2}
    clock.advance(1e6)
    lane.expire(3600)
    assert lane.pending == 0
    assert counters.get(LossReason.EXPIRED) == 3
    lane.close()


def test_age_after_reopening_is_known_from_the_file(tmp_path):
    lane = open_lane(tmp_path)
    fill(lane, 2)
    lane.close()
    clock = StillClock()
    (path,) = segments(tmp_path)
    then = clock.now().timestamp() - 5_000
    os.utime(path, (then, then))
    lane = open_lane(tmp_path, clock=clock)
    assert lane.oldest_age_seconds() == pytest.approx(5_000, abs=1)
    lane.close()


def test_append_after_close_raises(tmp_path):
    lane = open_lane(tmp_path)
    lane.close()
    with pytest.raises(OutboxError):
        lane.append(b"x")


@pytest.mark.parametrize("place", ["append", "acknowledge"])
def test_append_inside_another_call_on_the_same_thread_is_stored(tmp_path, place, monkeypatch):
    """As a signal handler or a finaliser does that runs in the middle of it."""
    lane = open_lane(tmp_path)
    fill(lane, 2)
    if place == "append":
        real = os.write

        def write(fd, data):
            monkeypatch.undo()
            assert lane.append(b"nested")
            return real(fd, data)

        monkeypatch.setattr(os, "write", write)
        lane.append(b"outer")
        expected = [b"outer", b"nested"]
    else:
        real_store = Cursor.store

        def store(self, number):
            monkeypatch.undo()
            assert lane.append(b"nested")
            real_store(self, number)

        monkeypatch.setattr(Cursor, "store", store)
        lane.acknowledge(1)
        expected = [b"nested"]
    records = lane.read(2, **MANY)
    assert [r.payload for r in records] == expected
    assert numbers(records) == list(range(3, 3 + len(expected)))
    lane.close()


@pytest.mark.parametrize("before_the_write", [True, False])
def test_append_interrupted_by_an_exception_keeps_the_lane_sound(
    tmp_path, counters, monkeypatch, before_the_write
):
    lane = open_lane(tmp_path, counters=counters)
    payloads = fill(lane, 3)
    real = os.write

    def interrupted(fd, data):
        if not before_the_write:
            real(fd, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lane.append(b"interrupted")
    if not before_the_write:
        payloads.append(b"interrupted")
    payloads += fill(lane, 2)
    assert drain(lane) == payloads
    assert lane.pending == 0
    assert counters.get(LossReason.CORRUPT) == (1 if before_the_write else 0)
    lane.close()


def test_a_number_lost_to_an_interrupt_at_the_end_does_not_stay_pending(
    tmp_path, counters, monkeypatch
):
    lane = open_lane(tmp_path, counters=counters)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("z4j_fastapi.outbox.lane_state.encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lane.append(b"interrupted")
    assert lane.read(0, **MANY) == []
    assert (lane.pending, counters.get(LossReason.CORRUPT)) == (0, 1)
    lane.close()


def test_append_from_four_threads_while_reading_keeps_every_record(tmp_path):
    lane = open_lane(tmp_path)
    done = threading.Event()
    received = []

    def write(thread):
        for n in range(2_000):
            lane.append(b"%d-%d" % (thread, n))

    def read():
        while not (done.is_set() and not lane.pending):
            received.extend(drain(lane))

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    reader = threading.Thread(target=read)
    for thread in [*writers, reader]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert len(received) == 8_000
    for thread in range(4):
        own = [p for p in received if p.startswith(b"%d-" % thread)]
        assert own == [b"%d-%d" % (thread, n) for n in range(2_000)]
    lane.close()
