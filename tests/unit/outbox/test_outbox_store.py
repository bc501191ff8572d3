from __future__ import annotations

import errno
from zlib import crc32

import pytest
from support.outboxes import FullDisk

from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.record import encode
from z4j_fastapi.outbox.segment import Segment, segment_name
from z4j_fastapi.outbox.store import SegmentStore

EVENT = RecordKind.EVENT


def record(number: int, payload: bytes = b"x" * 83) -> bytes:
    return encode(EVENT, number, payload, crc32(payload))


def make(tmp_path, *, segment_type=Segment, fill=0, segment_bytes=250):
    store = SegmentStore(tmp_path, EVENT, segment_bytes=segment_bytes, segment_type=segment_type)
    store.open()
    for number in range(store.last + 1, store.last + 1 + fill):
        store.append(record(number), number)
    return store


def spans(store):
    return [(segment.base, segment.last) for segment in store]


def test_append_rolls_when_a_segment_is_full(tmp_path):
    store = make(tmp_path, fill=5)
    assert spans(store) == [(1, 2), (3, 4), (5, 5)]
    assert store.size == 500
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        segment_name("events", base) for base in (1, 3, 5)
    ]
    store.retire()
    store.retire()


def test_append_of_one_larger_than_a_segment_gets_its_own(tmp_path):
    store = make(tmp_path, fill=1)
    store.append(record(2, b"y" * 900), 2)
    store.append(record(3), 3)
    assert spans(store) == [(1, 1), (2, 2), (3, 3)]
    store.retire()


def test_open_finds_the_segments_and_never_appends_to_them(tmp_path):
    make(tmp_path, fill=3).retire()
    (tmp_path / "results-00000000000000000001.seg").write_bytes(b"another lane's")
    (tmp_path / "events.cursor").write_bytes(b"no segment")
    store = make(tmp_path)
    assert spans(store) == [(1, 2), (3, 3)]
    assert (store.last, store.size) == (3, 300)
    store.append(record(4), 4)
    assert spans(store) == [(1, 2), (3, 3), (4, 4)]
    store.retire()


def test_open_of_nothing_finds_nothing(tmp_path):
    store = make(tmp_path)
    assert (store.first, store.last, store.locate(0), store.release(9)) == (None, 0, None, [])
    assert store.release_active(9) == []


def test_open_removes_a_newest_segment_without_records(tmp_path):
    make(tmp_path, fill=2).retire()
    (tmp_path / segment_name("events", 3)).write_bytes(record(3)[:20])
    store = SegmentStore(tmp_path, EVENT, segment_bytes=250)
    tail = store.open()
    assert tail is not None
    assert tail.removed_bytes == 20
    assert spans(store) == [(1, 2)]


def test_locate_finds_the_segment_behind_a_number(tmp_path):
    store = make(tmp_path, fill=5)
    assert [store.locate(after).base for after in range(5)] == [1, 1, 3, 3, 5]
    assert store.locate(5) is None
    store.retire()


def test_release_takes_out_whole_segments_but_the_active_one(tmp_path):
    store = make(tmp_path, fill=5)
    assert [s.base for s in store.release(3)] == [1]
    assert [s.base for s in store.release(5)] == [3]
    assert spans(store) == [(5, 5)]
    assert store.size == 100
    assert store.release_active(4) == []
    assert [s.base for s in store.release_active(5)] == [5]
    assert store.size == 0


def test_append_refused_changes_nothing_and_works_later(tmp_path):
    disk = FullDisk()
    store = make(tmp_path, segment_type=disk.segment_type, fill=2)
    disk.errno = errno.ENOSPC
    with pytest.raises(OSError):
        store.append(record(3), 3)
    disk.errno = None
    store.append(record(3), 3)
    assert [s.last for s in store if s.size] == [2, 3]
    assert store.size == 300
    store.retire()


def test_append_refused_several_times_leaves_one_empty_segment(tmp_path):
    disk = FullDisk()
    store = make(tmp_path, segment_type=disk.segment_type)
    disk.errno = errno.ENOSPC
    for number in (1, 1, 2, 3):
        with pytest.raises(OSError):
            store.append(record(number), number)
    assert len(list(store)) == 1
    store.retire()


def test_append_at_the_limit_of_one_file_takes_another(tmp_path):
    class Small(Segment):
        __slots__ = ()

        def append(self, data, number):
            if self.size + len(data) > 150:
                raise OSError(errno.EFBIG, "file too large")
            super().append(data, number)

    store = make(tmp_path, segment_type=Small, fill=3)
    assert spans(store) == [(1, 1), (2, 2), (3, 3)]
    with pytest.raises(OSError):
        store.append(record(4, b"z" * 200), 4)
    store.retire()


def test_append_behind_a_torn_record_takes_another_segment(tmp_path):
    store = make(tmp_path, fill=1)
    store.first.torn = True
    store.append(record(2), 2)
    assert spans(store) == [(1, 1), (2, 2)]
    store.retire()
