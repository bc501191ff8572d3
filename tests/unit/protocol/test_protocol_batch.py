from __future__ import annotations

import pytest

from z4j_fastapi.errors import LocalProtocolError
from z4j_fastapi.protocol.batch import EVENT_LIMIT, event_batch_payload


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], b'{"events":[]}'),
        ([b'{"a":1}'], b'{"events":[{"a":1}]}'),
        ([b'{"a":1}', b"{}"], b'{"events":[{"a":1},{}]}'),
    ],
)
def test_event_batch_payload_when_given_events_then_join_them(events, expected):
    assert event_batch_payload(events) == expected


def test_event_batch_payload_when_over_5000_then_refuse():
    assert event_batch_payload([b"{}"] * EVENT_LIMIT)
    with pytest.raises(LocalProtocolError, match="5000"):
        event_batch_payload([b"{}"] * (EVENT_LIMIT + 1))
