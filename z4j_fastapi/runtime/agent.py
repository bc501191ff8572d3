"""AgentRuntime: the agent of one process and one configuration.

Public methods are synchronous, thread-safe and bounded; the async twins wait off the caller's loop.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from z4j_fastapi.counters import LossCounters
from z4j_fastapi.engines.base import Attachment
from z4j_fastapi.errors import ConfigError, Failure, OutboxError, TransportError
from z4j_fastapi.observability.metrics import BufferLevel
from z4j_fastapi.protocol.backoff import Backoff, Streaks
from z4j_fastapi.runtime.heartbeat import Heartbeat
from z4j_fastapi.runtime.hello import build_hello
from z4j_fastapi.runtime.identity import WorkerIdentity, new_identity, register_fork_aware
from z4j_fastapi.runtime.loop_thread import LoopThread
from z4j_fastapi.runtime.sender import Sender, SenderTotals
from z4j_fastapi.runtime.status import ConnectionState, RuntimeState, RuntimeStatus
from z4j_fastapi.runtime.supervisor import ConnectionFacts, Supervisor

if TYPE_CHECKING:
    from z4j_fastapi.clock import Clock
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.events import Event
    from z4j_fastapi.framework import FastAPIFrameworkAdapter
    from z4j_fastapi.observability import Observability
    from z4j_fastapi.outbox.base import Outbox
    from z4j_fastapi.protocol.handshake import HelloAck
    from z4j_fastapi.runtime.dispatcher import Dispatcher
    from z4j_fastapi.runtime.recorder import Recorder
    from z4j_fastapi.settings import AgentSettings
    from z4j_fastapi.transport.base import Transport

#: How often directories of dead siblings are looked for (design.md 4).
ADOPT_SECONDS = 30.0
#: Without an acknowledgement for this long, or twice the brain's own pace, a stop gives up.
_STOP_PATIENCE_SECONDS = 0.15
#: What the thread may need beyond the deadline to close files and sockets.
_STOP_MARGIN_SECONDS = 1.0
#: Whoever waits for a stop that another thread has begun gives its shutdown hooks this long.
_HOOKS_SECONDS = 5.0
_COMMAND_GRACE_SECONDS = 0.2
_ENGINE_CLOSE_SECONDS = 0.5

#: Loops of a parent process must never be closed or collected in a child: that would take their
#: descriptors out of an epoll set which the child shares with its parent.
_parents_threads: list[LoopThread] = []


class AgentRuntime:
    """Owns the agent's thread and everything that runs on it. Built by the container only.

    Args:
        settings: Validated configuration.
        clock: Wall and monotonic time.
        observability: Loggers, guard, tracing, metrics.
        counters: Losses by reason.
        outbox, recorder, transport, dispatcher: From the container.
        engines: Adapters to attach at start.
        framework: The host framework's adapter.
        default_role: Worker role where the settings name none.
        relocated: Why the outbox is not where it was wanted; None when it is.
    """

    def __init__(
        self,
        *,
        settings: AgentSettings,
        clock: Clock,
        observability: Observability,
        counters: LossCounters,
        outbox: Outbox,
        recorder: Recorder,
        transport: Transport,
        dispatcher: Dispatcher,
        engines: Iterable[EngineAdapter],
        framework: FastAPIFrameworkAdapter,
        default_role: str = "web",
        relocated: str | None = None,
    ) -> None:
        self.config = settings
        self.framework = framework
        self.engines: dict[str, EngineAdapter] = {}
        self.schedulers: dict[str, object] = {}
        self._clock = clock
        self._observability = observability
        self._logger = observability.logger("runtime")
        self._counters = counters
        self._outbox = outbox
        self._recorder = recorder
        self._transport = transport
        self._dispatcher = dispatcher
        self._given_engines = tuple(engines)
        self._default_role = default_role
        self._relocated = relocated
        self._lock = threading.RLock()
        self._state = RuntimeState.STOPPED
        self._thread: LoopThread | None = None
        self._identity: WorkerIdentity | None = None
        self._sender: Sender | None = None
        self._supervisor: Supervisor | None = None
        self._backoff: Backoff | None = None
        self._stop_asked: asyncio.Event | None = None
        self._stop_deadline = 0.0
        self._stop_requested = threading.Event()
        self._stopper: threading.Thread | None = None
        self._stopped_from_within = False
        self._online = threading.Event()
        self._pid = os.getpid()
        self._resume_in_child = False
        self._stop_listeners: list[Callable[[AgentRuntime], None]] = []
        recorder.on_fork = self._recorded_in_child
        register_fork_aware(self)

    def __repr__(self) -> str:
        return f"<AgentRuntime {self._worker_id() or 'not started'} {self._state.value}>"

    # -- life cycle ------------------------------------------------------------------------------

    @property
    def state(self) -> RuntimeState:
        """`stopped`, `starting`, `running` or `stopping`; the connection is in `status()`."""
        return self._state

    def start(self) -> None:
        """Open the outbox, attach the engines and start the agent's thread. Idempotent.

        Does file work but never waits for the network; a stop that another thread has begun is
        waited for. Any thread.

        Raises:
            ConfigError: The configuration cannot be used; nothing was started.
            OutboxError: No directory can be used at all.
        """
        self.reinit_after_fork()
        self._await_stop()
        with self._lock:
            if self._state is not RuntimeState.STOPPED:
                return
            self._state = RuntimeState.STARTING
            try:
                self._start()
            except BaseException:
                self._recorder.running = False
                self._detach_engines()
                self.engines.clear()
                self._outbox.close()
                self._thread = None
                self._state = RuntimeState.STOPPED
                raise
            self._state = RuntimeState.RUNNING
        self.framework.fire_startup()

    def _start(self) -> None:
        settings = self.config
        role = settings.worker_role or self._default_role
        self._identity = identity = new_identity(
            framework=self.framework.name, role=role, now=self._clock.now()
        )
        for warning in settings.warnings:
            self._logger.warning("configuration_warning", detail=warning)
        self._outbox.open()
        self._resume_in_child = False
        self._recorder.adopt_process()
        self._recorder.running = True
        for adapter in self._given_engines:
            self._attach(adapter)
        self._transport.preload()
        self._dispatcher.preload()
        self._online.clear()
        supervisor, sender, stop_asked = self._build(identity)
        main = partial(self._main, supervisor, sender, stop_asked)
        thread = LoopThread(name="z4j-agent", main=main)
        self._recorder.wake = partial(thread.call_soon, sender.wake)
        self._thread = thread
        thread.start()
        self._logger.info("agent_started", worker_id=identity.worker_id, role=identity.role)

    def _build(self, identity: WorkerIdentity) -> tuple[Supervisor, Sender, asyncio.Event]:
        """The parts that live as long as one start."""
        settings = self.config
        metrics = self._observability.metrics
        metrics.observe(recorded=lambda: self._recorder.recorded, level=self._buffer_level)
        self._stop_asked = stop_asked = asyncio.Event()
        self._backoff = backoff = Backoff(random.Random())  # noqa: S311 - jitter, no secret
        self._sender = sender = Sender(
            outbox=self._outbox,
            clock=self._clock,
            counters=self._counters,
            logger=self._logger,
            park=self._park,
            on_sent=metrics.sent,
            on_acknowledged=metrics.acknowledged,
        )
        self._dispatcher.bind(
            engines=self.engines,
            process=f"worker {identity.worker_id} (role {identity.role})",
            wake=sender.wake,
        )
        heartbeat = Heartbeat(
            outbox=self._outbox,
            engines=self.engines,
            counters=self._counters,
            clock=self._clock,
            logger=self._logger,
            send_heartbeat=settings.heartbeat_enabled,
            send_status=settings.agent_status_enabled,
            interval_limit_seconds=settings.heartbeat_seconds,
            streaks=self._streaks,
            last_flush_at=lambda: sender.totals.last_flush_at,
            last_online_at=lambda: self._facts().last_online_at,
        )
        self._supervisor = supervisor = Supervisor(
            transport=self._transport,
            hello=lambda: build_hello(
                settings=settings,
                identity=self._require_identity(),
                engines=self.engines,
                framework=self.framework.name,
            ),
            signing_key=settings.signing_key,
            sender=sender,
            dispatcher=self._dispatcher,
            heartbeat=heartbeat,
            backoff=backoff,
            clock=self._clock,
            logger=self._logger,
            tracing=self._observability.tracing,
            check_ack=self._check_ack,
            on_online=self._online.set,
            on_offline=self._online.clear,
            new_identity=self._take_new_identity,
        )
        return supervisor, sender, stop_asked

    def stop(self, timeout: float = 5.0) -> None:
        """Deliver what the brain still acknowledges in time, then stop. Idempotent, any thread.

        Returns as soon as nothing is pending, no connection is up or acknowledgements stop; what
        is left stays on disk for the next start. On the agent's own thread it only asks for the
        stop. While another thread's stop is under way, it waits for that one.

        Args:
            timeout: Seconds at most; 0 stops at once.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            first = self._state is RuntimeState.RUNNING
            if first:
                self._state = RuntimeState.STOPPING
                self._stopper = threading.current_thread()
                self._stop_requested.clear()
        if first:
            self.framework.fire_shutdown()
            with self._lock:
                self._detach_engines()
                self._recorder.running = False
                self._request_stop(timeout)
        self._await_stop()

    def _request_stop(self, timeout: float) -> None:
        thread, stop_asked = self._thread, self._stop_asked
        self._stop_deadline = self._clock.monotonic() + timeout
        if thread is not None and stop_asked is not None:
            self._stopped_from_within = thread.on_thread
            thread.call_soon(stop_asked.set)
        self._stopper = None
        self._stop_requested.set()

    def _await_stop(self) -> None:
        """Wait for the end of a stop that is under way, but never for ourselves."""
        thread = self._thread
        if self._state is not RuntimeState.STOPPING or thread is None or thread.on_thread:
            return
        if self._stopper is threading.current_thread():
            return  # a shutdown hook of the host's called us
        if not self._stop_requested.wait(_HOOKS_SECONDS):
            return
        left = max(0.0, self._stop_deadline - self._clock.monotonic())
        if not thread.join(left + _STOP_MARGIN_SECONDS):
            self._logger.error("agent_thread_did_not_end", worker_id=self._worker_id())
        self._stopped(thread)

    def _stopped(self, thread: LoopThread) -> None:
        with self._lock:
            if self._state is not RuntimeState.STOPPING or self._thread is not thread:
                return  # another thread that waited was faster, and may have started again
            self._thread = None
            self._online.clear()
            self._recorder.wake = _nothing
            self._state = RuntimeState.STOPPED
            listeners = list(self._stop_listeners)
        for listener in listeners:
            listener(self)
        self._logger.info("agent_stopped")

    async def astop(self, timeout: float = 5.0) -> None:
        """`stop`, awaited off the caller's loop."""
        await anyio.to_thread.run_sync(self.stop, timeout)

    def on_stop(self, listener: Callable[[AgentRuntime], None]) -> None:
        """Call `listener(runtime)` whenever the runtime has stopped."""
        if listener not in self._stop_listeners:
            self._stop_listeners.append(listener)

    # -- recording -------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Redact, render and store `event` durably. Any thread; never raises, never waits.

        After it returns a killed process loses nothing of it.
        """
        self._recorder.record(event)

    record_event = record

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the brain has acknowledged everything recorded so far.

        Args:
            timeout: Seconds at most.
        Returns:
            Whether it has.
        """
        thread, sender = self._thread, self._sender
        if thread is None or sender is None or thread.on_thread:
            return self.buffer_size() == 0
        future = thread.submit(sender.drained())
        if future is None:
            return self.buffer_size() == 0
        try:
            return future.result(timeout)
        except (FutureTimeoutError, CancelledError):  # the latter: the agent stopped meanwhile
            return False
        finally:
            future.cancel()

    async def aflush(self, timeout: float = 5.0) -> bool:
        """`flush`, awaited off the caller's loop."""
        return await anyio.to_thread.run_sync(self.flush, timeout)

    def buffer_size(self) -> int:
        """Records that wait for the brain; 0 when stopped."""
        if self._state is RuntimeState.STOPPED:
            return 0
        depth = self._outbox.depth()
        return depth.events + depth.results

    # -- connection ------------------------------------------------------------------------------

    def wait_online(self, timeout: float = 10.0) -> bool:
        """Wait until the brain is reached and accepts our signature.

        Args:
            timeout: Seconds at most.
        Returns:
            Whether it is online.
        """
        return self._online.wait(timeout)

    async def await_online(self, timeout: float = 10.0) -> bool:
        """`wait_online`, awaited off the caller's loop."""
        return await anyio.to_thread.run_sync(self.wait_online, timeout)

    def request_reconnect(self) -> None:
        """End a backoff or drop a live connection, and connect now. Any thread."""
        thread, supervisor = self._thread, self._supervisor
        if thread is not None and supervisor is not None:
            thread.call_soon(supervisor.reconnect)

    def supervisor_state(self) -> dict[str, object]:
        """The official agent's view: `state`, consecutive error counts and `session_id`."""
        streaks = self._streaks()
        facts = self._facts()
        return {
            "state": facts.state.value,
            "auth_error_count": streaks.auth,
            "protocol_error_count": streaks.protocol,
            "connection_error_count": streaks.connection,
            "session_id": facts.ack.session_id if facts.ack else None,
        }

    def status(self) -> RuntimeStatus:
        """A snapshot of everything; cheap, any thread, holds no secret."""
        facts = self._facts()
        ack = facts.ack
        identity = self._identity
        totals = self._sender.totals if self._sender else SenderTotals()
        running = self._state is not RuntimeState.STOPPED
        depth = self._outbox.depth() if running else None
        return RuntimeStatus(
            state=self._state,
            connection=facts.state if running else ConnectionState.OFFLINE,
            worker_id=self._worker_id(),
            worker_role=identity.role if identity else "",
            pid=os.getpid(),
            agent_id=ack.agent_id if ack else None,
            project_id=ack.project_id if ack else None,
            session_id=ack.session_id if ack else None,
            brain_version=ack.brain_version if ack else None,
            engines=tuple(sorted(self.engines)),
            recorded=self._recorder.recorded,
            sent=totals.sent,
            acknowledged=totals.acknowledged,
            dropped=self._counters.snapshot(),
            buffer_events=depth.events if depth else 0,
            buffer_results=depth.results if depth else 0,
            buffer_bytes=depth.bytes if depth else 0,
            buffer_oldest_age_seconds=depth.oldest_age_seconds if depth else 0.0,
            directory=self._directory() if running else None,
            relocated=self._relocated,
            last_error=facts.last_error,
            last_error_kind=facts.last_error_kind,
            last_online_at=facts.last_online_at,
            last_acknowledged_at=totals.last_acknowledged_at,
            connects=facts.connects,
            warnings=tuple(self.config.warnings),
            engine_errors=self._observability.guard.counts(),
        )

    # -- engines ---------------------------------------------------------------------------------

    def add_engine(self, adapter: EngineAdapter) -> None:
        """Attach one more engine to the running agent and tell the brain. Any thread.

        Args:
            adapter: Not attached elsewhere. One of the same name that is attached already wins.
        """
        with self._lock:
            if self.engines.get(adapter.name) is adapter:
                return
            if adapter.name in self.engines:
                self._logger.info("engine_already_attached", engine=adapter.name)
                return
            attached = self._attach(adapter)
        if attached:
            self.request_reconnect()

    def _attach(self, adapter: EngineAdapter) -> bool:
        attachment = Attachment(
            sink=self._recorder,
            guard=self._observability.guard,
            logger=self._observability.logger(f"engines.{adapter.name}"),
            clock=self._clock,
        )
        try:
            adapter.attach(attachment)
        except Exception as error:
            # An engine library may raise anything; the host starts without this engine's events.
            self._detach(adapter)  # some of its hooks may be in place
            if self.config.strict_mode or isinstance(error, ConfigError):
                raise
            self._logger.error(
                "engine_attach_failed", engine=adapter.name, error=type(error).__name__
            )
            return False
        self.engines[adapter.name] = adapter
        return True

    def _detach_engines(self) -> None:
        for adapter in list(self.engines.values()):
            self._detach(adapter)

    def _detach(self, adapter: EngineAdapter) -> None:
        with self._observability.guard(f"engines.{adapter.name}.detach"):
            adapter.detach()

    async def resync_schedules_now(self, reason: str = "command") -> int:
        """Snapshot of schedules; there are no schedulers yet, so nothing is sent.

        Returns:
            Number of schedules sent: 0.
        """
        del reason
        return 0

    # -- fork ------------------------------------------------------------------------------------

    def reinit_after_fork(self) -> None:
        """In a forked child: forget the parent's thread, locks and files. Normally automatic.

        The child gets a runtime of its own when it records its first event, or at once by
        `post_fork()`. In the process that it belongs to already, this does nothing.
        """
        if self._pid == os.getpid():
            return
        if self._thread is not None:
            _parents_threads.append(self._thread)
            self._transport.abandon_after_fork()
        was_alive = self._state in (RuntimeState.RUNNING, RuntimeState.STARTING)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._online = threading.Event()
        self._stop_requested = threading.Event()
        self._stopper = None
        self._thread = None
        self._sender = None
        self._supervisor = None
        self._backoff = None
        self._stop_asked = None
        self._identity = None
        self._state = RuntimeState.STOPPED
        self._counters.reinit_after_fork()
        self._observability.reinit_after_fork()
        self._outbox.reinit_after_fork()
        self._dispatcher.reinit_after_fork()
        self._resume_in_child = was_alive
        self._recorder.forked()

    def _recorded_in_child(self) -> None:
        """The first event in a forked child: start its own agent if the parent had one."""
        self.reinit_after_fork()
        if self._resume_in_child:
            self.start()

    # -- on the agent's thread -------------------------------------------------------------------

    async def _main(
        self, supervisor: Supervisor, sender: Sender, stop_asked: asyncio.Event
    ) -> None:
        work = [
            asyncio.ensure_future(supervisor.run()),
            asyncio.ensure_future(self._adopt_siblings(sender)),
        ]
        asked = asyncio.ensure_future(stop_asked.wait())
        try:
            done, _ = await asyncio.wait([*work, asked], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in work and not task.cancelled() and (error := task.exception()):
                    self._logger.error("agent_crashed", error=type(error).__name__, exc_info=error)
            await stop_asked.wait()
            remaining = max(0.0, self._stop_deadline - self._clock.monotonic())
            with self._observability.guard("dispatcher.close"):
                await self._dispatcher.aclose(min(_COMMAND_GRACE_SECONDS, remaining))
            await self._drain(sender)
        finally:
            asked.cancel()
            for task in work:
                task.cancel()
            await asyncio.wait(work, timeout=_STOP_MARGIN_SECONDS)
            await self._close_engines()
            self._outbox.close()
            thread = self._thread
            if self._stopped_from_within and thread is not None and thread.on_thread:
                self._stopped(thread)  # nobody may be waiting for it

    async def _drain(self, sender: Sender) -> None:
        """Wait while the brain acknowledges at its pace (performance.md, exit row)."""
        started = self._clock.monotonic()
        drained = asyncio.ensure_future(sender.drained())
        try:
            while not drained.done() and self._online.is_set():
                patience = max(_STOP_PATIENCE_SECONDS, 2 * sender.expected_seconds())
                give_up = min(self._stop_deadline, max(started, sender.last_progress_at) + patience)
                left = give_up - self._clock.monotonic()
                if left <= 0:
                    return
                await asyncio.wait({drained}, timeout=min(left, 0.05))
        finally:
            drained.cancel()

    async def _close_engines(self) -> None:
        for adapter in list(self.engines.values()):
            with self._observability.guard(f"engines.{adapter.name}.close"):
                await asyncio.wait_for(adapter.aclose(), _ENGINE_CLOSE_SECONDS)
        self.engines.clear()

    async def _adopt_siblings(self, sender: Sender) -> None:
        loop = asyncio.get_running_loop()
        with self._observability.guard("dispatcher.recover"):
            await self._dispatcher.recover()
        while True:
            with self._observability.guard("outbox.adopt"):
                adopted = await loop.run_in_executor(None, self._outbox.adopt)
                if adopted:
                    self._logger.info("outbox_adopted", directories=adopted)
                    sender.wake()
            await asyncio.sleep(ADOPT_SECONDS)

    # -- small parts -----------------------------------------------------------------------------

    def _buffer_level(self) -> BufferLevel:
        depth = self._outbox.depth()
        return BufferLevel(records=depth.events + depth.results, bytes=depth.bytes)

    def _worker_id(self) -> str:
        return self._identity.worker_id if self._identity else ""

    def _directory(self) -> str | None:
        try:
            return str(self._outbox.directory)
        except OutboxError:  # the runtime is just starting or stopping
            return None

    def _park(self, parked: bool) -> None:
        self._recorder.parked = parked

    def _take_new_identity(self) -> None:
        """Another connection took our worker_id: be somebody else instead of fighting."""
        old = self._require_identity()
        self._identity = new_identity(
            framework=self.framework.name, role=old.role, now=self._clock.now()
        )

    def _require_identity(self) -> WorkerIdentity:
        if self._identity is None:
            raise RuntimeError("the runtime was not started")
        return self._identity

    def _facts(self) -> ConnectionFacts:
        return self._supervisor.facts if self._supervisor else ConnectionFacts()

    def _streaks(self) -> Streaks:
        if self._backoff is None:
            return Streaks(auth=0, protocol=0, connection=0)
        return self._backoff.streaks

    def _check_ack(self, ack: HelloAck) -> None:
        """Ids that the settings name must be the ones that the token belongs to."""
        mismatches: Mapping[str, tuple[str | None, str]] = {
            "agent_id (Z4J_AGENT_ID)": (self.config.agent_id, ack.agent_id),
            "project_id (Z4J_PROJECT_ID)": (
                self.config.project_id if _looks_like_uuid(self.config.project_id) else None,
                ack.project_id,
            ),
        }
        for name, (configured, actual) in mismatches.items():
            if configured and configured.lower() != actual.lower():
                raise TransportError(
                    f"{name} is {configured}, but the token belongs to {actual}: "
                    "use that agent's token, or correct the id",
                    failure=Failure.AUTH,
                )


def _looks_like_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12]


def _nothing() -> None:
    """Stands in for a callback that is not set."""
