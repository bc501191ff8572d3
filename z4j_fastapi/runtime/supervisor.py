"""Connect, run a session, classify its end, back off, again (wire-protocol 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from z4j_fastapi.errors import (
    Failure,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from z4j_fastapi.protocol.close_codes import classify_close, classify_error
from z4j_fastapi.protocol.session import (
    AgentSession,
    BatchAcked,
    CommandReceived,
    PeerError,
    UnknownFrame,
    Welcomed,
)
from z4j_fastapi.runtime.session_link import SessionLink
from z4j_fastapi.runtime.status import ConnectionState

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.observability.tracing import Tracing
    from z4j_fastapi.protocol.backoff import Backoff
    from z4j_fastapi.protocol.handshake import Hello, HelloAck
    from z4j_fastapi.runtime.dispatcher import Dispatcher
    from z4j_fastapi.runtime.heartbeat import Heartbeat
    from z4j_fastapi.runtime.sender import Sender
    from z4j_fastapi.transport.base import Connection, Transport

_HELLO_ACK_SECONDS = 10.0
#: At stop the brain has this long to answer our close; the socket goes away anyhow.
_GOODBYE_SECONDS = 0.04
_SIGNATURE_REFUSED = 4403


@dataclass(slots=True)
class ConnectionFacts:
    """What is known of the connection; read by `status()` from any thread."""

    state: ConnectionState = ConnectionState.OFFLINE
    ack: HelloAck | None = None
    connects: int = 0
    last_error: str | None = None
    last_error_kind: str | None = None
    last_online_at: datetime | None = None


_Opened = tuple[AgentSession, "Connection", "HelloAck"]


class Supervisor:
    """Keeps one session alive. Agent's loop only, except `facts`.

    Args:
        transport: How to reach the brain.
        hello: Builds what to say first; called for every session, since engines may come and go.
        signing_key: Decoded HMAC key.
        sender, dispatcher, heartbeat: What runs on a session.
        backoff: Delay by failure class.
        clock, logger, tracing: From the container.
        check_ack: Raises TransportError when the handshake's answer does not fit the settings.
        on_online, on_offline: Called when the brain has proved that it accepts our signature, and
            when such a session is over.
        new_identity: Called when another connection displaced ours (close 4002).
    """

    def __init__(
        self,
        *,
        transport: Transport,
        hello: Callable[[], Hello],
        signing_key: bytes,
        sender: Sender,
        dispatcher: Dispatcher,
        heartbeat: Heartbeat,
        backoff: Backoff,
        clock: Clock,
        logger: structlog.stdlib.BoundLogger,
        tracing: Tracing,
        check_ack: Callable[[HelloAck], None],
        on_online: Callable[[], None],
        on_offline: Callable[[], None],
        new_identity: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._hello = hello
        self._signing_key = signing_key
        self._sender = sender
        self._dispatcher = dispatcher
        self._heartbeat = heartbeat
        self._backoff = backoff
        self._clock = clock
        self._logger = logger
        self._tracing = tracing
        self._check_ack = check_ack
        self._on_online = on_online
        self._on_offline = on_offline
        self._new_identity = new_identity
        self._reconnect = asyncio.Event()
        self._trouble: str | None = None
        self.facts = ConnectionFacts()

    def reconnect(self) -> None:
        """End a backoff, or drop a live connection, and connect now."""
        self._reconnect.set()

    async def run(self) -> None:
        """Until cancelled."""
        facts = self.facts
        try:
            while True:
                error = await self._attempt()
                self._on_offline()
                facts.ack = None
                if error is None:  # asked to reconnect
                    self._backoff.reset()
                    continue
                await self._back_off(error)
        finally:
            self._on_offline()
            facts.state = ConnectionState.OFFLINE
            facts.ack = None

    async def _attempt(self) -> TransportError | None:
        self._reconnect.clear()
        try:
            await self._session()
        except TransportError as error:
            return error
        except RemoteProtocolError as error:
            # Whoever can inject bytes must not keep the agent away for long: as transient.
            return TransportError(
                f"the session was closed: {error.message}",
                failure=_failure_of(error, handshake_done=self.facts.ack is not None),
                details=error.details,
            )
        except LocalProtocolError as error:
            self._logger.error("protocol_misuse", error=error.message)
            return TransportError(error.message, failure=Failure.PROTOCOL)
        except Exception as error:
            # A bug of ours or of an adapter's. The agent must not end for it: the outbox would
            # fill until the next start.
            name = type(error).__name__
            self._logger.error("session_crashed", error=name, exc_info=error)
            return TransportError(f"the session crashed: {name}", failure=Failure.PROTOCOL)
        return None

    async def _back_off(self, error: TransportError) -> None:
        facts = self.facts
        if error.failure is Failure.DISPLACED:
            self._new_identity()
        delay = self._backoff.next_delay(error.failure)
        facts.last_error = error.message
        facts.last_error_kind = error.failure.value
        facts.state = (
            ConnectionState.TERMINAL
            if error.failure is Failure.TERMINAL
            else ConnectionState.BACKOFF
        )
        if self._trouble != error.message:
            self._trouble = error.message
            self._logger.warning(
                "brain_unreachable",
                error=error.message,
                kind=error.failure.value,
                retry_in_seconds=round(delay, 1),
            )
        try:
            await asyncio.wait_for(self._reconnect.wait(), delay)
        except asyncio.TimeoutError:
            return
        self._backoff.reset()

    # -- one session -----------------------------------------------------------------------------

    async def _session(self) -> None:
        facts = self.facts
        facts.state = ConnectionState.CONNECTING
        with self._tracing.connect() as span:
            opened = await self._open_or_reconnect()
            if opened is None:
                return
            session, connection, ack = opened
            span.connected(ack.session_id)
        facts.ack = ack
        facts.connects += 1
        try:
            await self._run_session(session, connection, ack)
        except TransportError as error:
            self._sender.session_ended(error)
            raise _explain(error, proved=self._is_online()) from None
        finally:
            await self._goodbye(connection)

    async def _open_or_reconnect(self) -> _Opened | None:
        """A connection with its handshake done; None when asked to start over meanwhile."""
        opening = asyncio.ensure_future(self._open())
        opening.add_done_callback(_look_at)
        asked = asyncio.ensure_future(self._reconnect.wait())
        taken = False
        try:
            await asyncio.wait({opening, asked}, return_when=asyncio.FIRST_COMPLETED)
            taken = opening.done()
            return opening.result() if taken else None
        finally:
            asked.cancel()
            if not taken:
                opening.cancel()
                await asyncio.wait({opening}, timeout=1.0)
                if opening.done() and not opening.cancelled() and opening.exception() is None:
                    await self._goodbye(opening.result()[1])

    async def _open(self) -> _Opened:
        connection = await self._transport.connect()
        try:
            self.facts.state = ConnectionState.HANDSHAKE
            session = AgentSession(key=self._signing_key, hello=self._hello())
            try:
                ack = await asyncio.wait_for(
                    self._shake_hands(session, connection), _HELLO_ACK_SECONDS
                )
            except asyncio.TimeoutError:
                raise TransportError(
                    f"the brain did not answer the hello within {_HELLO_ACK_SECONDS:.0f} s"
                ) from None
            self._check_ack(ack)
        except BaseException:
            await self._goodbye(connection)
            raise
        return session, connection, ack

    async def _shake_hands(self, session: AgentSession, connection: Connection) -> HelloAck:
        await connection.send(session.hello_frame(self._clock.now()))
        events = session.receive(await connection.receive(), self._clock.now())
        # A session that awaits the handshake takes nothing but a good hello_ack.
        return next(event.ack for event in events if isinstance(event, Welcomed))

    async def _run_session(
        self, session: AgentSession, connection: Connection, ack: HelloAck
    ) -> None:
        link = SessionLink(session=session, connection=connection, clock=self._clock)
        parts: list[Coroutine[Any, Any, None]] = [
            self._receive(session, connection),
            self._sender.run(link, max_frame_size_bytes=ack.max_frame_size_bytes),
            self._heartbeat.run(link, ack.heartbeat_interval_seconds),
            self._asked_to_reconnect(),
        ]
        tasks = [asyncio.ensure_future(part) for part in parts]
        for task in tasks:
            task.add_done_callback(_look_at)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0)
        # The reader knows best why a connection ended: it sees the close code.
        for task in tasks:
            if task in done and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _asked_to_reconnect(self) -> None:
        await self._reconnect.wait()

    async def _receive(self, session: AgentSession, connection: Connection) -> None:
        while True:
            data = await connection.receive()
            for event in session.receive(data, self._clock.now()):
                if isinstance(event, BatchAcked):
                    self._proved()
                    self._sender.acknowledged(event.frame_id)
                elif isinstance(event, CommandReceived):
                    self._proved()
                    self._dispatcher.take(event.command_id, event.payload)
                elif isinstance(event, PeerError):
                    self._peer_complains(event)
                elif isinstance(event, UnknownFrame):
                    self._logger.warning("frame_ignored", frame_type=event.type[:40])

    def _proved(self) -> None:
        """The brain works with us: token, secret and clocks are right.

        An `error` frame is no such proof: a brain that refuses us each time is backed off from.
        """
        facts = self.facts
        if facts.state is ConnectionState.ONLINE:
            return
        facts.state = ConnectionState.ONLINE
        facts.last_online_at = self._clock.now()
        facts.last_error = facts.last_error_kind = None
        self._backoff.reset()
        if self._trouble is not None:
            self._trouble = None
            self._logger.info("brain_reached_again")
        else:
            self._logger.info("brain_reached", connects=facts.connects)
        self._on_online()

    def _peer_complains(self, event: PeerError) -> None:
        if event.fatal:
            raise _peer_error(event)
        self._logger.warning("brain_error", code=event.code[:80], message=event.message[:300])

    def _is_online(self) -> bool:
        return self.facts.state is ConnectionState.ONLINE

    async def _goodbye(self, connection: Connection) -> None:
        """Close, shielded from our own cancellation but bounded in time."""
        closing = asyncio.ensure_future(connection.close())
        await asyncio.wait({closing}, timeout=_GOODBYE_SECONDS)
        if not closing.done():
            closing.cancel()
            await asyncio.wait({closing}, timeout=_GOODBYE_SECONDS)


def _look_at(task: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of a failure; asyncio would complain in the host's log."""
    if not task.cancelled():
        task.exception()


def _failure_of(error: RemoteProtocolError, *, handshake_done: bool) -> Failure:
    """What a protocol violation of the peer means for the backoff (wire-protocol 2 and 8).

    Another version in the handshake is the brain's; later it is anybody's who can inject bytes.
    """
    reason = error.details.get("reason")
    if reason == "version" and not handshake_done:
        return Failure.TERMINAL
    return Failure.TRANSIENT


def _peer_error(event: PeerError) -> TransportError:
    verdict = classify_error(event.code, fatal=True)
    return TransportError(
        f"the brain ended the session: {event.code[:80]}: {event.message[:300]}",
        failure=verdict.failure if verdict is not None else Failure.TRANSIENT,
    )


def _explain(error: TransportError, *, proved: bool) -> TransportError:
    """Name the likely cause where the close code alone does not."""
    if error.close_code != _SIGNATURE_REFUSED:
        if error.close_code is None:
            return error
        verdict = classify_close(error.close_code, handshake_done=True)
        return TransportError(
            verdict.summary,
            failure=verdict.failure,
            close_code=error.close_code,
            details=error.details,
        )
    cause = (
        "the clocks of this host and the brain differ by more than 60 s"
        if proved
        else "hmac_secret (Z4J_HMAC_SECRET) is not this agent's, or the clocks of this host and "
        "the brain differ by more than 60 s"
    )
    return TransportError(
        f"the brain refused our signature (close 4403): {cause}",
        failure=Failure.AUTH,
        close_code=error.close_code,
    )
