"""Joins stored events into one payload without parsing or rendering any of them again."""

from __future__ import annotations

from collections.abc import Sequence

from z4j_fastapi.errors import LocalProtocolError

#: The brain refuses longer lists; batches of ours stay far below (`flow.MAX_BATCH_EVENTS`).
EVENT_LIMIT = 5_000


def event_batch_payload(events: Sequence[bytes]) -> bytes:
    """The canonical payload of an `event_batch` frame.

    Args:
        events: Canonical JSON bytes of one event object each, at most 5,000. None at all makes a
            fence: the brain acknowledges it once everything sent before was handled.
    Raises:
        LocalProtocolError: Too many events.
    Spec: wire-protocol.md 4.
    """
    if len(events) > EVENT_LIMIT:
        raise LocalProtocolError(f"a batch holds at most {EVENT_LIMIT} events")
    return b'{"events":[%b]}' % b",".join(events)
