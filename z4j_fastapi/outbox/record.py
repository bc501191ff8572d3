"""How one record lies in a segment, and how to find the next whole one after damage. Pure.

    [u32 length][u32 crc32][u8 type][u64 number][payload]        little-endian

`length` counts the payload only. The checksum covers the payload, then length, type and number, in
this order: so its expensive part is ready before the lane's lock is taken and a number is given.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from zlib import crc32

from z4j_fastapi.outbox.base import RecordKind

#: Larger payloads are refused: no frame the brain takes could carry one.
MAX_PAYLOAD_BYTES = 1 << 20

_HEADER = struct.Struct("<IIBQ")
_CHECKED = struct.Struct("<IBQ")
HEADER_BYTES = _HEADER.size

# Type, then a number below 2^48. Rendered JSON holds no NUL, so payloads offer no false starts.
_LANDMARK = re.compile(rb"[\x01\x02].{6}\x00\x00", re.DOTALL)
_LANDMARK_OFFSET = 8


def encode(kind: RecordKind, number: int, payload: bytes, payload_checksum: int) -> bytes:
    """Bytes of one record.

    Args:
        kind: What the record is.
        number: Its running number within the lane, 1 and up.
        payload: 1 to `MAX_PAYLOAD_BYTES` bytes.
        payload_checksum: `zlib.crc32(payload)`.
    Spec: design.md section 4, Segment.
    """
    length = len(payload)
    checksum = crc32(_CHECKED.pack(length, kind, number), payload_checksum)
    return _HEADER.pack(length, checksum, kind, number) + payload


def scan(data: bytes, offset: int = 0, *, kind: RecordKind) -> Iterator[tuple[int, bytes, int]]:
    """Walk over consecutive whole records and stop at the first that is cut or damaged.

    Args:
        data: Bytes of a segment.
        offset: Where a record begins.
        kind: The only kind that this segment holds.
    Yields:
        Number, payload, and the offset behind the record.
    """
    unpack, pack = _HEADER.unpack_from, _CHECKED.pack
    size = len(data)
    while offset + HEADER_BYTES < size:
        length, checksum, found_kind, number = unpack(data, offset)
        start = offset + HEADER_BYTES
        offset = start + length
        if offset > size or length == 0 or found_kind != kind:
            return
        payload = data[start:offset]
        if crc32(pack(length, kind, number), crc32(payload)) != checksum:
            return
        yield number, payload, offset


def is_cut(data: bytes, offset: int) -> bool:
    """Whether what lies at `offset` could be the beginning of a record that goes on behind `data`.

    False at the very end of `data`, and for a record that is all there: one that `scan` refused
    is then damaged.
    """
    remaining = len(data) - offset
    if remaining <= HEADER_BYTES:
        return remaining > 0
    length: int = _HEADER.unpack_from(data, offset)[0]
    return 0 < length <= MAX_PAYLOAD_BYTES and HEADER_BYTES + length > remaining


def resynchronise(data: bytes, offset: int, *, kind: RecordKind, above: int) -> int | None:
    """Find the next whole valid record behind a damaged one.

    Args:
        data: The segment's bytes to its end.
        offset: Where the damaged record begins.
        kind: The only kind that this segment holds.
        above: Number of the last good record; a find must have a higher one.
    Returns:
        Offset of the record, or None if none follows.
    """
    search_from = offset + 1 + _LANDMARK_OFFSET
    while match := _LANDMARK.search(data, search_from):
        candidate = match.start() - _LANDMARK_OFFSET
        for number, _, _ in scan(data, candidate, kind=kind):
            if number > above:
                return candidate
            break
        search_from = match.start() + 1
    return None
