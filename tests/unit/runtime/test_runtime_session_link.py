from __future__ import annotations

import asyncio
from functools import partial

import pytest
from support.runtime_kit import StillClock, live_link, rounds, run

from z4j_fastapi.errors import TransportError


def test_frames_when_sent_side_by_side_leave_in_the_order_of_their_numbers():
    async def work():
        link = live_link(StillClock())
        connection = link.connection
        connection.gate = asyncio.Event()
        sending = [
            asyncio.ensure_future(link.send(partial(link.session.send_heartbeat, {"n": number})))
            for number in range(3)
        ]
        sending.append(asyncio.ensure_future(link.send_batch([])))
        await rounds()
        assert connection.frames == []
        connection.gate.set()
        await asyncio.gather(*sending)
        # The brain's side has checked that the numbers rise.
        assert connection.types == ["heartbeat"] * 3 + ["event_batch"]
        assert [frame["payload"] for frame in connection.of_type("heartbeat")] == [
            {"n": 0},
            {"n": 1},
            {"n": 2},
        ]

    run(work())


def test_batch_when_sent_gives_the_id_that_its_acknowledgement_will_name_and_its_size():
    async def work():
        link = live_link(StillClock())
        frame_id, size = await link.send_batch([b'{"id":"1"}', b'{"id":"2"}'])
        assert link.connection.frames[0]["id"] == frame_id
        assert link.connection.batches == [["1", "2"]]
        assert link.connection.sizes == [size]

    run(work())


def test_frame_when_the_connection_is_gone_raises_and_the_next_may_try():
    async def work():
        link = live_link(StillClock())
        link.connection.cut()
        for _ in range(2):
            with pytest.raises(TransportError):
                await link.send_batch([])

    run(work())


def test_frame_carries_the_time_at_which_it_leaves():
    async def work():
        clock = StillClock()
        link = live_link(clock)
        clock.advance(30)
        await link.send(partial(link.session.send_heartbeat, {}))
        assert link.connection.frames[0]["ts"][:19] == clock.now().isoformat()[:19]

    run(work())
