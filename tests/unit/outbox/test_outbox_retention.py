from __future__ import annotations

import pytest

from z4j_fastapi.outbox.retention import Retention


@pytest.mark.parametrize(
    ("max_bytes", "segment_bytes"),
    [
        (None, 4 << 20),
        (256 << 20, 4 << 20),
        (16 << 20, 1 << 20),
        (1 << 20, 64 << 10),
        (1, 64 << 10),
    ],
)
def test_segment_bytes_are_small_against_the_bound(max_bytes, segment_bytes):
    assert Retention(max_bytes=max_bytes).segment_bytes == segment_bytes


@pytest.mark.parametrize(("max_records", "step"), [(None, 1), (50, 1), (100_000, 1000)])
def test_cursor_step_is_a_hundredth_of_the_bound(max_records, step):
    assert Retention(max_records=max_records).cursor_step == step
