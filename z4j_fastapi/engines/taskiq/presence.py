"""Where a broker lives in this process: its event loop, and whether it is a worker here."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskiq.events import TaskiqEvents

from z4j_fastapi.engines.taskiq.brokers import BrokerKind, kind_of
from z4j_fastapi.engines.taskiq.relay import RelayServer
from z4j_fastapi.engines.taskiq.reporting import ENGINE
from z4j_fastapi.events import Event, worker_offline, worker_online

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import Attachment
    from z4j_fastapi.engines.taskiq.middleware import Z4JTaskiqMiddleware


class Presence:
    """Follows a broker's start and stop, announces the worker, and serves its relay.

    Args:
        middleware: The broker's middleware, whose subscribers hear of the worker.
    """

    def __init__(self, middleware: Z4JTaskiqMiddleware) -> None:
        self._middleware = middleware
        self._loop: asyncio.AbstractEventLoop | None = None
        self._online_pid: int | None = None
        self._named: tuple[int, str] = (0, "")
        self._relay: RelayServer | None = None
        #: Somebody else calls `announce_offline`, after everything else that happens at the stop.
        self.is_managed = False
        self._handlers: tuple[tuple[TaskiqEvents, Callable[[Any], Any]], ...] = (
            (TaskiqEvents.CLIENT_STARTUP, self._on_client_startup),
            (TaskiqEvents.WORKER_STARTUP, self._on_worker_startup),
            (TaskiqEvents.WORKER_SHUTDOWN, self._on_worker_shutdown),
        )

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that started the broker, or else the first one seen to use it."""
        return self._loop

    @property
    def is_worker(self) -> bool:
        """Whether this process announced itself as a worker of the broker."""
        return self._online_pid == os.getpid()

    def worker_name(self) -> str:
        """`hostname:pid` of this process."""
        pid = os.getpid()
        if self._named[0] != pid:
            self._named = (pid, f"{socket.gethostname()}:{pid}")
        return self._named[1]

    def watch(self) -> None:
        """Follow the broker's start and stop from now on."""
        events = self._middleware.broker.event_handlers
        for event, handler in self._handlers:
            if handler not in events[event]:
                events[event] = [*events[event], handler]

    def unwatch(self) -> None:
        """Follow them no more, and stop the relay.

        Lists are replaced, not changed: taskiq may be in the middle of one, and would leave out
        the handler behind ours.
        """
        events = self._middleware.broker.event_handlers
        for event, handler in self._handlers:
            events[event] = [other for other in events[event] if other != handler]
        self._online_pid = None
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.stop_threadsafe()

    def see_loop(self) -> None:
        """A hook runs: its loop is the broker's where no start was seen."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()

    def see_execution(self) -> None:
        """A task is about to run here: announce the worker if its start was missed."""
        self.see_loop()
        if not self.is_worker:
            self.announce_online()

    def announce_online(self) -> None:
        """Report the worker once and serve its relay. On the broker's loop."""
        if self.is_worker or self._middleware.subscriptions.outlet is None:
            return
        self._online_pid = os.getpid()
        self._middleware.emit(self._online_event())
        self._serve_relay()

    def announce_to(self, attachment: Attachment) -> None:
        """Tell somebody who came later that the worker is online."""
        if self.is_worker:
            attachment.sink.record(self._online_event())

    async def announce_offline(self) -> None:
        """Report the worker's end once and stop its relay. On the broker's loop."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.stop()
        if self.is_worker:
            self._online_pid = None
            self._middleware.emit(worker_offline(ENGINE, self.worker_name(), pid=os.getpid()))

    def _online_event(self) -> Event:
        queue = self._middleware.default_queue()
        queues = [queue] if queue else []
        return worker_online(ENGINE, self.worker_name(), queues=queues, pid=os.getpid())

    def _serve_relay(self) -> None:
        middleware = self._middleware
        broker = middleware.broker
        if self._relay is not None or kind_of(broker) is BrokerKind.OTHER:
            return
        attachments = middleware.subscriptions.attachments()
        self._relay = RelayServer(
            broker,
            running=middleware.running,
            worker=self.worker_name(),
            logger=attachments[0].logger,
        )
        self._relay.start()

    def _on_client_startup(self, _state: object) -> None:
        self._loop = asyncio.get_running_loop()

    def _on_worker_startup(self, _state: object) -> None:
        self._loop = asyncio.get_running_loop()
        self.announce_online()

    async def _on_worker_shutdown(self, _state: object) -> None:
        if not self.is_managed:
            await self.announce_offline()
