"""The entry point of taskiq workers: `attach_to_broker`.

It is called where the broker is made, in a module that web and worker processes both import, so
that at that moment nothing tells which one this is. The agent starts when the broker starts as a
worker, in each of the `taskiq worker -w N` processes, and stops with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from z4j_fastapi.errors import EngineNotInstalledError

try:
    from taskiq.abc.broker import AsyncBroker
    from taskiq.events import TaskiqEvents

    from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter
except ModuleNotFoundError as missing:
    if missing.name is None or missing.name.partition(".")[0] != "taskiq":
        raise
    raise EngineNotInstalledError("taskiq", handle="attach_to_broker") from None

if TYPE_CHECKING:
    from z4j_fastapi.current import RuntimeLease

#: `taskiq worker --shutdown-timeout` is 5 s by default, for the whole of the broker's shutdown;
#: what is not delivered by then is on disk for the next start.
_RELEASE_SECONDS = 4.0


def attach_to_broker(
    broker: AsyncBroker,
    *,
    adapter: TaskiqEngineAdapter | None = None,
    queue: str | None = None,
    redaction: object = None,
    consumer_loop: asyncio.AbstractEventLoop | None = None,
) -> TaskiqEngineAdapter:
    """Give the workers of `broker` an agent. Idempotent: a second call changes nothing.

    In a web process this alone starts nothing; there `z4j_lifespan(taskiq_brokers=[...])` does.

    Args:
        broker: The broker that the tasks are registered with.
        adapter: The adapter to use; None makes one.
        queue: How to call the broker's main queue in events, if not by its own `queue_name`.
        redaction: Accepted for compatibility, without effect.
        consumer_loop: The worker's loop; found out when the worker starts, if not given.
    Returns:
        The broker's adapter: the first call's.
    Raises:
        ConfigError: `broker` is not a taskiq broker. What is wrong with the settings comes out of
            the worker's start.
    Spec: engines.md 3 and 5.
    """
    del redaction
    return _agents.attach(broker, adapter, queue, consumer_loop)


class _WorkerAgent:
    """The agent of one broker's worker in this process."""

    def __init__(
        self,
        broker: AsyncBroker,
        adapter: TaskiqEngineAdapter,
        consumer_loop: asyncio.AbstractEventLoop | None,
        acquire: Callable[[TaskiqEngineAdapter], RuntimeLease],
    ) -> None:
        # The broker holds this object through its handlers; the other way round it would never die.
        self._broker = weakref.ref(broker)
        self.adapter = adapter
        self._consumer_loop = consumer_loop
        self._acquire = acquire
        self._lease: RuntimeLease | None = None
        self._reporting: TaskiqEngineAdapter | None = None
        self._wakes_for_signals = False

    def watch(self) -> None:
        """Be called when the broker starts and stops as a worker."""
        broker = self._broker()
        if broker is not None:
            broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self.started)
            broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self.stopping)

    async def started(self, _state: object) -> None:
        """Start or join the process's agent, off this loop, and announce the worker.

        Raises:
            ConfigError: The worker must not run without the agent that it was promised.
        """
        broker = self._broker()
        # InMemoryBroker calls this in the web process too.
        if broker is None or not broker.is_worker_process or self._lease is not None:
            return
        loop = self._consumer_loop or asyncio.get_running_loop()
        self._lease = lease = await asyncio.to_thread(self._acquire, self.adapter)
        self._wakes_for_signals = _wake_for_signals()
        reporting = _reporting_adapter(lease, self.adapter)
        reporting.add_broker(broker, loop=loop)
        await reporting.worker_started(broker)
        self._reporting = reporting
        self._go_last(broker)

    async def stopping(self, _state: object) -> None:
        """Announce the worker's end and let go of the agent.

        taskiq from 0.12 on has waited for the running tasks before it comes here
        (`--wait-tasks-timeout`).
        """
        broker, lease, reporting = self._broker(), self._lease, self._reporting
        self._lease = self._reporting = None
        if broker is not None and reporting is not None:
            await reporting.worker_stopping(broker)
        if lease is not None:
            limit = float(lease.runtime.config.shutdown_timeout)
            await lease.arelease(min(limit, _RELEASE_SECONDS))
        if self._wakes_for_signals:
            self._wakes_for_signals = False
            asyncio.get_running_loop().remove_signal_handler(signal.SIGURG)

    def _go_last(self, broker: AsyncBroker) -> None:
        """Be the last to hear of the stop: handlers of the user's may still send tasks."""
        handlers = broker.event_handlers[TaskiqEvents.WORKER_SHUTDOWN]
        others = [handler for handler in handlers if handler != self.stopping]
        broker.event_handlers[TaskiqEvents.WORKER_SHUTDOWN] = [*others, self.stopping]


class _WorkerAgents:
    """The brokers of this process that were given an agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._agents: weakref.WeakKeyDictionary[AsyncBroker, _WorkerAgent] = (
            weakref.WeakKeyDictionary()
        )

    def attach(
        self,
        broker: AsyncBroker,
        adapter: TaskiqEngineAdapter | None,
        queue: str | None,
        consumer_loop: asyncio.AbstractEventLoop | None,
    ) -> TaskiqEngineAdapter:
        with self._lock:
            known = self._agents.get(broker) if _is_broker(broker) else None
            if known is not None:
                return known.adapter
            chosen = adapter if adapter is not None else TaskiqEngineAdapter()
            chosen.add_broker(broker, queue=queue, loop=consumer_loop)
            agent = _WorkerAgent(broker, chosen, consumer_loop, self._acquire)
            self._agents[broker] = agent
        agent.watch()
        return chosen

    def _acquire(self, adapter: TaskiqEngineAdapter) -> RuntimeLease:
        # A worker needs it when it starts, not when the broker's module is imported: this imports
        # the container and all that belongs to an agent.
        from z4j_fastapi.current import ensure_runtime  # noqa: PLC0415 - see above

        with self._lock:
            brokers = list(self._agents)
        for broker in brokers:  # tasks of one broker may send tasks through another
            adapter.add_broker(broker)
        return ensure_runtime(adapters=[adapter], worker_role="task")


def _wake_for_signals() -> bool:
    """Let signals wake this loop, so that an idle worker stops when it is told to.

    taskiq 0.12 and 0.13 set an `asyncio.Event` in a plain signal handler, which an idle loop sees
    only when something else wakes it: a `ListQueueBroker` worker without messages never ends.
    asyncio's own handler for any signal makes all signals wake the loop; SIGURG is one that nobody
    sends and that is ignored by default.

    Returns:
        Whether a handler was added. Not where the loop is not the main thread's, where the host
        has arranged its own wake-up, or where signals cannot be had (Windows).
    """
    if not hasattr(signal, "SIGURG") or signal.getsignal(signal.SIGURG) != signal.SIG_DFL:
        return False
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
        earlier = signal.set_wakeup_fd(-1)
        if earlier != -1:
            signal.set_wakeup_fd(earlier)
            return False
        asyncio.get_running_loop().add_signal_handler(signal.SIGURG, _nothing)
        return True
    return False


def _nothing() -> None:
    """The wake-up is the effect."""


def _reporting_adapter(lease: RuntimeLease, adapter: TaskiqEngineAdapter) -> TaskiqEngineAdapter:
    """The adapter that the runtime listens to: one that it had already goes before ours."""
    attached = lease.runtime.engines.get(adapter.name)
    return attached if isinstance(attached, TaskiqEngineAdapter) else adapter


def _is_broker(given: object) -> bool:
    return isinstance(given, AsyncBroker)


_agents = _WorkerAgents()
