"""The runtimes of this process: who uses them, and how user code finds its own.

This is the one documented piece of process-wide state. Two lifespans with the same settings share
one runtime and count as two users; different settings make a second runtime.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import anyio.to_thread
from fastapi import Depends
from starlette.requests import HTTPConnection

from z4j_fastapi.containers import (
    AgentContainer,
    is_disabled,
    join_runtime,
    worker_container,
)
from z4j_fastapi.runtime.agent import AgentRuntime
from z4j_fastapi.runtime.identity import register_fork_aware
from z4j_fastapi.runtime.status import RuntimeState

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import EngineAdapter


class _Entry:
    """One runtime and how many use it."""

    __slots__ = ("container", "key", "runtime", "users")

    def __init__(self, key: object, runtime: AgentRuntime, container: AgentContainer) -> None:
        self.key = key
        self.runtime = runtime
        self.container = container
        self.users = 0


class _Registry:
    """Started runtimes in the order of their start."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: list[_Entry] = []
        register_fork_aware(self)

    def reinit_after_fork(self) -> None:
        """In a forked child: the users are the parent's; the runtimes know of the fork."""
        self._lock = threading.RLock()
        for entry in self._entries:
            entry.users = 0

    def acquire(self, container: AgentContainer, key: object) -> RuntimeLease:
        """Start the container's runtime, or join the running one with the same key.

        Raises:
            ConfigError: Out of the container or the start; nothing is registered.
        """
        with self._lock:
            entry = self._find(key)
            if entry is None:
                runtime = container.runtime()
                entry = _Entry(key, runtime, container)
                if container.settings().autostart:
                    runtime.start()
                runtime.on_stop(self._forget)
                self._entries.append(entry)
            else:
                join_runtime(container, entry.runtime)
                if entry.container.settings().autostart:
                    entry.runtime.start()  # idempotent; needed in a forked child
            entry.users += 1
            return RuntimeLease(self, entry.runtime, entry)

    def join_current(self, adapters: Sequence[EngineAdapter]) -> RuntimeLease | None:
        """Use the runtime that this process has already, if there is one."""
        with self._lock:
            entry = self._entries[-1] if self._entries else None
            if entry is None:
                return None
            entry.runtime.start()
            for adapter in adapters:
                entry.runtime.add_engine(adapter)
            entry.users += 1
            return RuntimeLease(self, entry.runtime, entry)

    def release(self, entry: _Entry, timeout: float) -> None:
        """One user less; the last one stops the runtime."""
        with self._lock:
            entry.users -= 1
            if entry.users > 0 or entry not in self._entries:
                return
            self._entries.remove(entry)
        entry.runtime.stop(timeout)

    def current(self) -> AgentRuntime | None:
        """The runtime that started last and still runs, or was not started by choice."""
        entries = self._entries
        return entries[-1].runtime if entries else None

    def all(self) -> list[AgentRuntime]:
        """Every registered runtime."""
        with self._lock:
            return [entry.runtime for entry in self._entries]

    def _find(self, key: object) -> _Entry | None:
        for entry in self._entries:
            if entry.key == key:
                return entry
        return None

    def _forget(self, runtime: AgentRuntime) -> None:
        """A runtime that was stopped by hand is nobody's any more."""
        with self._lock:
            if runtime.state is RuntimeState.STOPPED:  # else somebody has started it again already
                self._entries = [entry for entry in self._entries if entry.runtime is not runtime]


class RuntimeLease:
    """One user's hold on a runtime. Release it once; later releases do nothing."""

    def __init__(
        self, registry: _Registry | None, runtime: AgentRuntime, entry: _Entry | None
    ) -> None:
        self._registry = registry
        self._entry = entry
        self.runtime = runtime

    def release(self, timeout: float | None = None) -> None:
        """Let go; the last user's release stops the runtime within `timeout` seconds.

        Args:
            timeout: Seconds at most; None for the setting `shutdown_timeout`.
        """
        registry, entry = self._registry, self._entry
        self._registry = self._entry = None
        if registry is None or entry is None:
            return
        if timeout is None:
            timeout = float(self.runtime.config.shutdown_timeout)
        registry.release(entry, timeout)

    async def arelease(self, timeout: float | None = None) -> None:
        """`release`, awaited off the caller's loop, even when the caller is cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.release, timeout)


_registry = _Registry()


def acquire(container: AgentContainer, *, own: bool) -> RuntimeLease:
    """Start or join the runtime of a container.

    Args:
        container: Ready to build; its settings are validated here.
        own: The user made the container himself: never shared with another.
    Raises:
        ConfigError: Every problem of the configuration at once.
    """
    settings = container.settings()
    if is_disabled(settings):
        return RuntimeLease(None, container.runtime(), None)
    key: object = ("container", id(container)) if own else settings.identity
    return _registry.acquire(container, key)


def ensure_runtime(*, adapters: Sequence[EngineAdapter], worker_role: str = "task") -> RuntimeLease:
    """The agent of this worker process: the running one, or one made from the environment.

    Does file work: off an event loop, please.

    Args:
        adapters: The worker's engines; attached to the runtime.
        worker_role: Role told to the brain unless `Z4J_WORKER_ROLE` says otherwise.
    Returns:
        A lease; release it when the worker stops. Inert where `Z4J_DISABLED` is set.
    Raises:
        ConfigError: Every problem of the environment's configuration at once.
    """
    lease = _registry.join_current(adapters)
    if lease is not None:
        return lease
    container = worker_container(adapters=adapters, worker_role=worker_role)
    return acquire(container, own=False)


_NOT_INJECTED: Any = None


# The annotation is what FastAPI goes by, and it takes no union there.
def get_runtime(connection: HTTPConnection = _NOT_INJECTED) -> AgentRuntime | None:
    """The live runtime: of the request's application, or of the process.

    Works as a plain call and as `Depends(get_runtime)` in HTTP and WebSocket routes.

    Args:
        connection: Filled in by FastAPI.
    Returns:
        The application's runtime; without a connection the one that started last. None before
        the start, after a stop and where the agent is disabled.
    """
    given = cast("HTTPConnection | None", connection)
    app: Any = given.scope.get("app") if given is not None else None
    if app is not None:
        runtime = getattr(app.state, "z4j_runtime", None)
        if isinstance(runtime, AgentRuntime):
            if runtime.state is RuntimeState.STOPPED and runtime not in _registry.all():
                return None
            return runtime
    return _registry.current()


#: `runtime: RuntimeDep` in a route's signature.
RuntimeDep = Annotated[AgentRuntime, Depends(get_runtime)]


def post_fork() -> AgentRuntime | None:
    """Start this forked child's own agent now, not at its first event.

    For the `post_fork` hooks of gunicorn and uWSGI; without it a preloaded child starts its agent
    with its lifespan or its first event.

    Returns:
        The child's runtime, None where the parent had none.
    """
    for runtime in _registry.all():
        runtime.start()
    return _registry.current()
