from __future__ import annotations

from zlib import crc32

import pytest

from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.record import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    encode,
    is_cut,
    resynchronise,
    scan,
)

EVENT = RecordKind.EVENT


def encoded(number: int, payload: bytes, kind: RecordKind = EVENT) -> bytes:
    return encode(kind, number, payload, crc32(payload))


def test_encode_lays_out_length_checksum_type_number_payload():
    data = encoded(7, b"abc")
    assert HEADER_BYTES == 17
    assert data[:4] == b"\x03\x00\x00\x00"
    assert data[8:9] == b"\x01"
    assert data[9:17] == b"\x07" + bytes(7)
    assert data[17:] == b"abc"
    assert int.from_bytes(data[4:8], "little") == crc32(data[:4] + data[8:17], crc32(b"abc"))


def test_scan_returns_what_was_encoded():
    data = encoded(1, b"a") + encoded(2, b"bb") + encoded(5, b"c" * 300)
    assert [(n, p) for n, p, _ in scan(data, kind=EVENT)] == [
        (1, b"a"),
        (2, b"bb"),
        (5, b"c" * 300),
    ]
    assert [end for _, _, end in scan(data, kind=EVENT)][-1] == len(data)


@pytest.mark.parametrize("cut", range(HEADER_BYTES + 5))
def test_scan_of_a_record_cut_anywhere_stops_before_it_and_calls_it_cut(cut):
    whole, last = encoded(1, b"first"), encoded(2, b"12345")
    data = whole + last[:cut]
    assert [n for n, _, _ in scan(data, kind=EVENT)] == [1]
    assert is_cut(data, len(whole)) is (cut > 0)


def test_scan_stops_at_every_flipped_bit():
    first, second = encoded(1, b"payload"), encoded(2, b"next")
    for bit in range(8 * len(first)):
        damaged = bytearray(first)
        damaged[bit // 8] ^= 1 << bit % 8
        assert list(scan(bytes(damaged) + second, kind=EVENT)) == []


def test_scan_stops_at_a_record_of_another_kind():
    assert list(scan(encoded(1, b"a", RecordKind.RESULT), kind=EVENT)) == []


@pytest.mark.parametrize("length", [0, MAX_PAYLOAD_BYTES + 1])
def test_is_cut_with_an_impossible_length_says_damaged(length):
    assert not is_cut(length.to_bytes(4, "little") + bytes(20), 0)


def test_is_cut_of_a_whole_record_with_a_wrong_checksum_says_damaged():
    data = bytearray(encoded(1, b"abc"))
    data[-1] ^= 1
    assert not is_cut(bytes(data), 0)


def test_resynchronise_after_damage_finds_the_next_record():
    first, second, third = (encoded(n, b"x" * n) for n in (1, 2, 3))
    data = bytearray(first + second + third)
    data[len(first)] ^= 0xFF
    found = resynchronise(bytes(data), len(first), kind=EVENT, above=1)
    assert found == len(first) + len(second)


def test_resynchronise_passes_over_records_with_old_numbers():
    data = b"?" * 40 + encoded(3, b"stale") + encoded(9, b"good")
    found = resynchronise(data, 0, kind=EVENT, above=5)
    assert found == 40 + len(encoded(3, b"stale"))


def test_resynchronise_where_nothing_follows_finds_none():
    assert resynchronise(bytes(5000), 0, kind=EVENT, above=0) is None
    assert resynchronise(b"", 0, kind=EVENT, above=0) is None
