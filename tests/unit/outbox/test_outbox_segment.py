from __future__ import annotations

import os
import resource
import stat
from contextlib import contextmanager
from zlib import crc32

import pytest

from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.record import HEADER_BYTES, encode
from z4j_fastapi.outbox.segment import (
    Segment,
    SegmentReader,
    parse_segment_name,
    recover,
    segment_name,
)

EVENT = RecordKind.EVENT


def record(number: int, payload: bytes) -> bytes:
    return encode(EVENT, number, payload, crc32(payload))


@pytest.fixture
def path(tmp_path):
    return tmp_path / segment_name("events", 1)


def new(path) -> Segment:
    return Segment(path, 1, last=0, size=0)


def write(path, payloads) -> Segment:
    segment = new(path)
    for number, payload in enumerate(payloads, 1):
        segment.append(record(number, payload), number)
    segment.retire()
    return segment


def read_all(path, *, size=None, after=0, max_records=10_000, max_bytes=1 << 30):
    reader = SegmentReader(EVENT)
    try:
        return reader.read(
            path,
            path.stat().st_size if size is None else size,
            after=after,
            max_records=max_records,
            max_bytes=max_bytes,
        )
    finally:
        reader.close()


@pytest.fixture
def file_size_limit():
    """RLIMIT_FSIZE for the length of a `with`: the kernel then writes short, and refuses.

    Never longer: pytest's own output may go to a file that is larger than the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


def test_segment_name_round_trips_and_others_are_none():
    assert parse_segment_name(segment_name("events", 42)) == ("events", 42)
    assert parse_segment_name("events.cursor") is None
    assert parse_segment_name("events-42.seg") is None


def test_append_creates_a_private_file_and_counts_bytes(path):
    segment = write(path, [b"a", b"bb"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert segment.size == path.stat().st_size == 2 * HEADER_BYTES + 3
    assert segment.last == 2


def test_append_truncates_whatever_had_the_name(path):
    path.write_bytes(b"remains")
    write(path, [b"a"])
    assert [r.payload for r in read_all(path).records] == [b"a"]


def test_append_cut_short_by_the_kernel_leaves_no_trace(path, file_size_limit):
    segment = new(path)
    segment.append(record(1, b"a" * 100), 1)
    with file_size_limit(segment.size + 50), pytest.raises(OSError, match="large"):
        segment.append(record(2, b"b" * 100), 2)
    assert (segment.last, segment.torn) == (1, False)
    assert path.stat().st_size == segment.size
    segment.append(record(2, b"c" * 100), 2)
    assert [r.payload[:1] for r in read_all(path).records] == [b"a", b"c"]
    segment.retire()


def test_append_after_a_short_write_that_can_be_continued_continues(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    segment = write(path, [b"a" * 50, b"b" * 50])
    assert segment.size == path.stat().st_size
    assert [r.payload for r in read_all(path).records] == [b"a" * 50, b"b" * 50]


def test_append_that_can_neither_finish_nor_take_back_is_torn(path, monkeypatch, file_size_limit):
    segment = new(path)
    segment.append(record(1, b"a"), 1)

    def refuse(fd, size):
        raise OSError(5, "refused")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with file_size_limit(segment.size + 5), pytest.raises(OSError):
        segment.append(record(2, b"b"), 2)
    assert segment.torn
    assert [r.number for r in read_all(path, size=segment.size).records] == [1]
    segment.retire()


def test_append_interrupted_behind_the_write_goes_by_the_file(path, monkeypatch):
    segment = new(path)
    segment.append(record(1, b"a"), 1)
    real = os.write

    def interrupted(fd, data):
        real(fd, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment.append(record(2, b"b"), 2)
    monkeypatch.undo()
    segment.append(record(3, b"c"), 3)
    assert [r.payload for r in read_all(path, size=segment.size).records] == [b"a", b"b", b"c"]
    segment.retire()


def test_unlink_removes_the_file_twice_without_complaint(path):
    segment = write(path, [b"a"])
    segment.unlink()
    assert not path.exists()
    segment.unlink()


def test_read_keeps_its_limits(path):
    write(path, [b"x" * 10] * 10)
    found = read_all(path, after=3, max_records=2)
    assert [r.number for r in found.records] == [4, 5]
    assert not found.exhausted
    assert [r.number for r in read_all(path, max_bytes=25).records] == [1, 2]
    assert [r.number for r in read_all(path, max_bytes=1).records] == [1]
    assert read_all(path, max_records=10).exhausted
    assert read_all(path, after=10) == ([], True)


def test_read_without_at_least_one_returns_nothing_that_is_too_large(path):
    write(path, [b"x" * 10])
    reader = SegmentReader(EVENT)
    size = path.stat().st_size
    limits = {"after": 0, "max_records": 9}
    assert reader.read(path, size, max_bytes=9, at_least_one=False, **limits) == ([], False)
    assert len(reader.read(path, size, max_bytes=10, at_least_one=False, **limits).records) == 1
    reader.close()


def test_read_goes_on_where_it_was_and_back(path):
    write(path, [b"%d" % n for n in range(1, 101)])
    reader = SegmentReader(EVENT)
    size = path.stat().st_size

    def numbers(after):
        return [
            r.number
            for r in reader.read(path, size, after=after, max_records=3, max_bytes=999).records
        ]

    assert numbers(0) == [1, 2, 3]
    assert numbers(3) == [4, 5, 6]
    assert numbers(50) == [51, 52, 53]
    assert numbers(1) == [2, 3, 4]
    reader.close()
    assert numbers(99) == [100]
    reader.close()


def test_read_looks_at_nothing_behind_the_published_size(path):
    segment = write(path, [b"a"])
    with path.open("ab") as file:
        file.write(record(2, b"not yet published"))
    assert [r.number for r in read_all(path, size=segment.size).records] == [1]


def test_read_of_records_larger_than_a_chunk(path):
    payloads = [b"a", b"b" * (700 << 10), b"c" * (1 << 20), b"d"]
    write(path, payloads)
    assert [r.payload for r in read_all(path).records] == payloads


def test_read_of_a_file_shorter_than_published_ends(path):
    segment = write(path, [b"a", b"b"])
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 1)
    found = read_all(path, size=segment.size)
    assert [r.number for r in found.records] == [1]
    assert found.exhausted


def test_read_skips_a_number_that_is_there_twice(path):
    segment = new(path)
    for number in (1, 2, 2, 3):
        segment.append(record(number, b"%d" % number), number)
    assert [r.number for r in read_all(path).records] == [1, 2, 3]
    segment.retire()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_read_with_any_flipped_bit_loses_that_record_only(path, victim):
    payloads = [b"first", b"second", b"third", b"fourth"]
    segment = write(path, payloads)
    whole = path.read_bytes()
    begin = sum(HEADER_BYTES + len(p) for p in payloads[:victim])
    expected = [p for n, p in enumerate(payloads) if n != victim]
    for bit in range(8 * begin, 8 * (begin + HEADER_BYTES + len(payloads[victim]))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert [r.payload for r in read_all(path, size=segment.size).records] == expected, bit


def test_recover_of_a_segment_cut_anywhere_keeps_every_whole_record(path):
    payloads = [b"first", b"second", b"third"]
    ends = [0]
    for payload in payloads:
        ends.append(ends[-1] + HEADER_BYTES + len(payload))
    write(path, payloads)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        count = max(n for n, end in enumerate(ends) if end <= cut)
        tail = recover(path, 1, EVENT)
        assert tail == (count, ends[count], cut - ends[count], False)
        assert path.read_bytes() == whole[: ends[count]]


def test_recover_goes_on_behind_damage_in_the_middle(path):
    write(path, [b"first", b"second", b"third"])
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 10] ^= 1
    path.write_bytes(data)
    assert recover(path, 1, EVENT) == (3, len(data), 0, False)


def test_recover_of_a_damaged_last_record_says_damaged(path):
    write(path, [b"first", b"second"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert recover(path, 1, EVENT) == (1, HEADER_BYTES + 5, HEADER_BYTES + 6, True)


def test_recover_of_a_tail_of_zeros_says_damaged(path):
    write(path, [b"first"])
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert recover(path, 1, EVENT) == (1, HEADER_BYTES + 5, 4096, True)


def test_recover_that_cannot_truncate_stops_at_the_size_all_the_same(path, monkeypatch):
    write(path, [b"first"])
    with path.open("ab") as file:
        file.write(b"torn")

    def refuse(path, size):
        raise OSError(30, "read-only")

    monkeypatch.setattr(os, "truncate", refuse)
    assert recover(path, 1, EVENT).size == HEADER_BYTES + 5
