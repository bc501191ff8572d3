from __future__ import annotations

from z4j_fastapi.outbox.tail import MemoryTail


def filled() -> MemoryTail:
    tail = MemoryTail(4)
    for number, payload in ((5, b"aaaa"), (6, b"bbb"), (8, b"cc")):
        tail.push(number, payload)
    return tail


def test_covers_from_its_floor_on():
    tail = filled()
    assert not tail.covers(3)
    assert tail.covers(4)
    assert tail.covers(7)


def test_take_removes_what_is_taken_and_raises_the_floor():
    tail = filled()
    assert tail.take(4, max_records=2, max_bytes=99) == [(5, b"aaaa"), (6, b"bbb")]
    assert tail.floor == 6
    assert tail.take(6, max_records=2, max_bytes=99) == [(8, b"cc")]
    assert tail.take(8, max_records=2, max_bytes=99) == []


def test_take_skips_what_the_reader_has():
    assert filled().take(6, max_records=9, max_bytes=99) == [(8, b"cc")]


def test_take_keeps_the_byte_limit_except_for_the_first():
    assert filled().take(4, max_records=9, max_bytes=6) == [(5, b"aaaa")]
    assert filled().take(4, max_records=9, max_bytes=1) == [(5, b"aaaa")]
    assert filled().take(4, max_records=9, max_bytes=1, at_least_one=False) == []


def test_push_beyond_the_bound_lets_go_of_everything():
    tail = MemoryTail(0, max_bytes=1000)
    tail.push(1, b"a" * 500)
    assert tail.active
    tail.push(2, b"a" * 500)
    assert not tail.active
    assert not tail.covers(2)


def test_restart_begins_behind_the_reader():
    tail = filled()
    tail.drop()
    tail.restart(9)
    assert tail.covers(9)
    tail.push(10, b"x")
    assert tail.take(9, max_records=9, max_bytes=99) == [(10, b"x")]
