"""From the outbox to the session: answers to commands first, then events in batches.

The brain handles a connection's frames strictly in order and acknowledges in order; so one
acknowledgement proves that every frame sent before it was handled, command results included
(wire-protocol 4). An empty batch is the fence that proves it when no events follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.errors import Failure, LocalProtocolError, TransportError
from z4j_fastapi.protocol.flow import FlowController
from z4j_fastapi.runtime import control_record
from z4j_fastapi.runtime.deliveries import Deliveries, Delivery
from z4j_fastapi.runtime.positions import Positions

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.outbox.base import Outbox, Record, Source
    from z4j_fastapi.runtime.session_link import SessionLink

#: After a batch the next one waits this long to fill, unless it is full already.
LINGER_SECONDS = 0.02
#: After the disk could not be read.
_REREAD_SECONDS = 0.5
_RESULTS_A_TURN = 100


@dataclass(slots=True)
class SenderTotals:
    """What left and what arrived, since the process started."""

    sent: int = 0
    acknowledged: int = 0
    last_acknowledged_at: datetime | None = None
    last_flush_at: datetime | None = None


@dataclass(slots=True)
class _Waiter:
    """Somebody who waits until the own lanes are acknowledged up to these numbers."""

    events: int
    results: int
    done: asyncio.Future[bool] = field(repr=False)


class Sender:
    """One runtime's sender; `run` is called once a session. Agent's loop only.

    Args:
        outbox: Where records wait.
        clock: Wall and monotonic time.
        counters: Losses by reason.
        logger: For `z4j_fastapi.runtime`.
        park: Called with True before the sender sleeps with nothing to send, with False when it
            wakes; while parked, whoever appends must call `wake`.
        on_sent, on_acknowledged: Metric hooks: (events) and (events, seconds since sending).
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        clock: Clock,
        counters: LossCounters,
        logger: structlog.stdlib.BoundLogger,
        park: Callable[[bool], None],
        on_sent: Callable[[int], None],
        on_acknowledged: Callable[[int, float], None],
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._counters = counters
        self._logger = logger
        self._park = park
        self._on_sent = on_sent
        self._on_acknowledged = on_acknowledged
        self._event = asyncio.Event()
        self._positions = Positions(outbox.sources)
        self._deliveries = Deliveries(
            outbox=outbox,
            positions=self._positions,
            clock=clock,
            counters=counters,
            logger=logger,
        )
        self._flow = FlowController()
        self._waiters: list[_Waiter] = []
        self._fence_due = False
        self._hold_until = float("-inf")
        self._last_batch_at = float("-inf")
        self._last_progress_at = 0.0
        self._service_seconds = 0.0
        self.totals = SenderTotals()

    def wake(self) -> None:
        """There is something to do. Agent's loop only."""
        self._event.set()

    @property
    def last_progress_at(self) -> float:
        """Monotonic time of the last acknowledgement on this session, or of its start."""
        return self._last_progress_at

    def expected_seconds(self) -> float:
        """How long the brain should need for the oldest frame in flight, by what it needed before.

        By its pace for so many events, and not less than it lately took for any frame: a brain
        that many connections keep busy takes its time for a single event, too.
        """
        oldest = self._deliveries.oldest
        if oldest is None:
            return 0.0
        pace = self._flow.events_per_second(self._clock.monotonic())
        return max(oldest.count / pace if pace else 0.0, self._service_seconds)

    async def run(self, link: SessionLink, *, max_frame_size_bytes: int) -> None:
        """Send until the session ends. Everything unacknowledged is sent again.

        Args:
            link: The live session.
            max_frame_size_bytes: The brain's limit from the handshake.
        Raises:
            TransportError: The connection is gone, or nothing was acknowledged for 30 s.
        """
        self._deliveries.restart()
        self._positions.restart()
        self._flow = FlowController(max_frame_size_bytes=max_frame_size_bytes)
        self._fence_due = True  # the first acknowledgement proves that our signature is accepted
        self._last_progress_at = self._clock.monotonic()
        self._service_seconds = 0.0
        self._last_batch_at = float("-inf")
        try:
            while True:
                self._event.clear()
                self._hold_until = float("-inf")
                sent = await self._send_results(link)
                sent = await self._send_events(link) or sent
                if self._fence_due and not self._positions.events_unsent:
                    await self._send_fence(link)
                if not sent:
                    await self._sleep()
        finally:
            self._park(False)

    # -- sending ---------------------------------------------------------------------------------

    async def _send_results(self, link: SessionLink) -> bool:
        sent = False
        for source in self._outbox.sources():
            if source.results is None:
                continue
            position = self._positions.of(source)
            if source.results.last <= position.results:
                continue
            records = source.results.read(
                position.results, max_records=_RESULTS_A_TURN, max_bytes=1 << 20
            )
            for record in records:
                position.results = record.number
                await self._send_answer(link, record)
            if not records:
                if source.results.pending > position.results - source.results.acknowledged:
                    self._hold_until = self._clock.monotonic() + _REREAD_SECONDS
                    continue
                position.results = source.results.last  # only corrupt ones were there
            sent = self._fence_due = True
        return sent

    async def _send_answer(self, link: SessionLink, record: Record) -> None:
        session = link.session
        try:
            answer = control_record.decode(record.payload)
            if answer.frame_type == control_record.ACK:
                await link.send(
                    partial(session.send_command_ack, answer.command_id, answer.claim_token)
                )
            else:
                await link.send(
                    partial(session.send_command_result, answer.command_id, answer.payload)
                )
        except (ValueError, LocalProtocolError) as error:
            # The brain would close the session on it, and the outbox would resend it for ever.
            self._counters.add(LossReason.CORRUPT)
            self._logger.error("command_answer_unusable", error=str(error)[:200])

    async def _send_events(self, link: SessionLink) -> bool:
        now = self._clock.monotonic()
        limits = self._flow.next_batch_limits(now)
        if limits is None:
            return False
        max_events, max_bytes = limits
        source = self._positions.next_source()
        if source is None:
            return False
        position = self._positions.of(source)
        waiting = source.events.last - position.events
        if waiting < max_events and now < self._last_batch_at + LINGER_SECONDS:
            return False
        suspect = self._deliveries.limit(source, position.events)
        if suspect is not None:
            max_events = min(max_events, suspect)
        records = source.events.read(position.events, max_records=max_events, max_bytes=max_bytes)
        if records:
            reached = await self._send_records(link, source, records)
        elif source.events.pending > self._deliveries.in_flight(source):
            self._hold_until = now + _REREAD_SECONDS  # the disk cannot be read just now
            reached = None
        else:
            reached = source.events.last  # only evicted or corrupt ones were there
            self._fence_due = True  # its acknowledgement tells whoever waits for them
        if reached is None:
            return False
        position.events = reached
        return True

    async def _send_records(
        self, link: SessionLink, source: Source, records: list[Record]
    ) -> int | None:
        """Send one batch; the number reached, None when acknowledgements must come first."""
        try:
            await self._send_batch(link, source, records)
        except LocalProtocolError as error:
            if len(records) > 1 or "size_bytes" not in error.details:
                raise
            # An event that is larger alone than what this brain takes in a frame.
            if self._deliveries.in_flight(source):
                self._hold_until = float("inf")  # acknowledging is cumulative: first what is before
                return None
            self._deliveries.give_up(source, records[0].number)
            self._fence_due = True  # its acknowledgement tells whoever waits for it
        return records[-1].number

    async def _send_batch(self, link: SessionLink, source: Source, records: list[Record]) -> None:
        count = len(records)
        frame_id, size = await link.send_batch([record.payload for record in records])
        self._sent(
            Delivery(
                frame_id=frame_id,
                source=source.name,
                first=records[0].number,
                last=records[-1].number,
                count=count,
                results=self._positions.results_sent(),
            ),
            size,
        )
        self._last_batch_at = self._clock.monotonic()
        self.totals.sent += count
        self.totals.last_flush_at = self._clock.now()
        self._on_sent(count)

    async def _send_fence(self, link: SessionLink) -> None:
        results = self._positions.results_sent()
        frame_id, size = await link.send_batch([])
        self._sent(Delivery(frame_id=frame_id, results=results), size)

    def _sent(self, delivery: Delivery, size_bytes: int) -> None:
        now = self._clock.monotonic()
        self._fence_due = False
        if not self._deliveries.pending:
            self._last_progress_at = now
        self._deliveries.add(delivery)
        self._flow.sent(delivery.frame_id, delivery.count, size_bytes, now)

    # -- acknowledgements ------------------------------------------------------------------------

    def acknowledged(self, frame_id: str) -> None:
        """The brain handled `frame_id` and everything before it. Unknown ids are ignored."""
        now = self._clock.monotonic()
        settled = self._flow.acked(frame_id, now)
        delivery = self._deliveries.acknowledged(frame_id)
        if settled is None or delivery is None:
            return
        # Measured from when the brain could begin with it; the slowest of late, fading.
        took = min(settled.latency_seconds, now - self._last_progress_at)
        self._service_seconds = max(took, self._service_seconds / 2)
        self._last_progress_at = now
        self.totals.last_acknowledged_at = self._clock.now()
        if delivery.count:
            self.totals.acknowledged += delivery.count
            self._on_acknowledged(delivery.count, settled.latency_seconds)
        self._tell_waiters()
        self.wake()

    def session_ended(self, error: TransportError) -> None:
        """Tell why the connection is gone: it may have been something that we sent."""
        self._deliveries.session_ended(error)

    # -- sleeping --------------------------------------------------------------------------------

    async def _sleep(self) -> None:
        """Until something is recorded or acknowledged, the linger ends, or a stall is certain."""
        now = self._clock.monotonic()
        deadline = self._flow.deadline
        positions = self._positions
        if positions.events_unsent or positions.results_unsent:
            if self._flow.next_batch_limits(now) is not None:
                look_again_at = max(self._last_batch_at + LINGER_SECONDS, self._hold_until)
                deadline = look_again_at if deadline is None else min(deadline, look_again_at)
        else:
            self._park(True)
            if positions.events_unsent or positions.results_unsent:
                return  # recorded between the look and the flag
        await self._wait(deadline)
        self._park(False)
        stalled_at = self._flow.deadline
        if stalled_at is not None and self._clock.monotonic() >= stalled_at:
            raise TransportError(
                "the brain acknowledged nothing for 30 s",
                failure=Failure.TRANSIENT,
                details={"reason": "stalled"},
            )

    async def _wait(self, deadline: float | None) -> None:
        if self._event.is_set():
            return
        if deadline is None:
            await self._event.wait()
            return
        delay = deadline - self._clock.monotonic()
        if delay <= 0:
            await asyncio.sleep(0)
            return
        timer = asyncio.get_running_loop().call_later(delay, self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()

    # -- flushing --------------------------------------------------------------------------------

    async def drained(self) -> bool:
        """Wait until everything recorded so far by this process is acknowledged.

        Returns:
            False, at once, when the outbox is closed.
        """
        own = self._own()
        if own is None:
            return False  # the outbox is closed
        waiter = _Waiter(
            events=own.events.last,
            results=own.results.last if own.results is not None else 0,
            done=asyncio.get_running_loop().create_future(),
        )
        self._waiters.append(waiter)
        self._tell_waiters()
        self.wake()
        try:
            return await waiter.done
        finally:
            self._waiters.remove(waiter)

    def _own(self) -> Source | None:
        return next((source for source in self._outbox.sources() if source.own), None)

    def _tell_waiters(self) -> None:
        own = self._own() if self._waiters else None
        if own is None:
            return
        for waiter in self._waiters:
            events_left = own.events.pending and own.events.acknowledged < waiter.events
            results_left = (
                own.results is not None
                and own.results.pending
                and own.results.acknowledged < waiter.results
            )
            if not events_left and not results_left and not waiter.done.done():
                waiter.done.set_result(True)
