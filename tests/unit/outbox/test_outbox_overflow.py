from __future__ import annotations

from z4j_fastapi.outbox.overflow import OverflowRing


def ring(*, keep_oldest: bool = False) -> OverflowRing:
    made = OverflowRing(keep_oldest=keep_oldest, max_bytes=10)
    for number, payload in ((5, b"aaaa"), (6, b"bbb")):
        assert made.push(number, payload) == []
    return made


def test_push_beyond_the_bound_drops_the_oldest():
    full = ring()
    assert full.push(7, b"cccccc") == [5]
    assert full.first == (6, b"bbb")
    assert full.size == 9


def test_push_of_one_larger_than_the_bound_keeps_it_alone():
    full = ring()
    assert full.push(7, b"c" * 99) == [5, 6]
    assert len(full) == 1


def test_push_beyond_the_bound_where_the_oldest_are_kept_is_refused():
    full = ring(keep_oldest=True)
    assert full.push(7, b"cccc") is None
    assert [number for number, _ in full.peek(0, max_records=9, max_bytes=99)] == [5, 6]


def test_push_where_the_oldest_are_kept_takes_one_of_any_size_when_empty():
    assert OverflowRing(keep_oldest=True, max_bytes=1).push(1, b"cccc") == []


def test_peek_keeps_the_limits_and_the_records():
    full = ring()
    assert full.peek(5, max_records=9, max_bytes=99) == [(6, b"bbb")]
    assert full.peek(0, max_records=1, max_bytes=99) == [(5, b"aaaa")]
    assert full.peek(0, max_records=9, max_bytes=6) == [(5, b"aaaa")]
    assert full.peek(0, max_records=9, max_bytes=1) == [(5, b"aaaa")]
    assert full.peek(0, max_records=9, max_bytes=1, at_least_one=False) == []
    assert full.peek(6, max_records=9, max_bytes=99) == []
    assert len(full) == 2


def test_discard_drops_up_to_a_number():
    full = ring()
    full.discard(5)
    assert (len(full), full.size) == (1, 3)
    full.discard(99)
    assert (len(full), full.size) == (0, 0)


def test_retry_is_due_a_second_after_the_disk_refused():
    full = ring()
    assert full.retry_due(0.0)
    full.postpone(100.0)
    assert not full.retry_due(100.9)
    assert full.retry_due(101.0)
