"""The entry point of arq workers: `attach_to_worker_settings`.

The call only marks its target: the same module is imported by the web process, to enqueue. The
agent starts when a `Worker` of the target does, in the worker's process, and stops after the worker
has closed.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from z4j_fastapi.errors import ConfigError, EngineNotInstalledError

try:
    from arq.constants import default_queue_name
    from arq.worker import Worker

    from z4j_fastapi.engines.arq.adapter import ArqEngineAdapter
    from z4j_fastapi.engines.arq.capture import hooks
except ModuleNotFoundError as missing:
    if missing.name != "arq":
        raise
    raise EngineNotInstalledError("arq", handle="attach_to_worker_settings") from None

if TYPE_CHECKING:
    from z4j_fastapi.current import RuntimeLease

_Target = TypeVar("_Target")


def attach_to_worker_settings(
    target: _Target,
    *,
    capture: object = None,
    adapter: ArqEngineAdapter | None = None,
    queue: object = None,
    loop: object = None,
) -> _Target:
    """Give the workers of `target` an agent. Idempotent: a second call changes nothing.

    Args:
        target: A settings class, a settings dict, or an arq `Worker`.
        capture: Accepted for compatibility, without effect.
        adapter: The adapter to use; None makes one. Redis, queue and functions are taken from the
            worker where the adapter was given none.
        queue: Accepted for compatibility, without effect.
        loop: Accepted for compatibility, without effect.
    Returns:
        `target`, so that it can decorate a settings class.
    Raises:
        ConfigError: `target` is none of the three; or, for a worker that runs already, whatever
            is wrong with the configuration. For others that comes out of the worker's start.
    Spec: engines.md 3 and 4.
    """
    del capture, queue, loop
    _agents.attach(target, adapter)
    return target


attach_to_worker = attach_to_worker_settings


class _Binding:
    """One attached target: its adapter, which all its workers share."""

    __slots__ = ("adapter", "target")

    def __init__(self, target: object, adapter: ArqEngineAdapter | None) -> None:
        self.target = target
        self.adapter = adapter if adapter is not None else ArqEngineAdapter()

    def built(self, functions: object, named: Mapping[str, Any]) -> bool:
        """Whether somebody passes this target's own settings to `Worker(...)` by hand."""
        own = _settings_of(self.target)
        return (
            own is not None
            and bool(functions or named.get("cron_jobs"))
            and own.get("functions", ()) is functions
            and own.get("cron_jobs") is named.get("cron_jobs")
            and own.get("queue_name", default_queue_name)
            == named.get("queue_name", default_queue_name)
        )


class _Mark(dict[Any, Any]):
    """Stands in for a target's `ctx`, the one setting that arq hands through untouched.

    That is how a worker tells whose it is: arq passes a settings class's values to `Worker`, not
    the class. `Worker.__init__` gets the original back.
    """

    def __init__(self, original: dict[Any, Any] | None, binding: _Binding) -> None:
        super().__init__(original or {})
        self.original = original
        self.binding = binding


class _WorkerAgents:
    """The agents of this process's arq workers; a `WorkerListener` of the hooks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bindings: list[_Binding] = []
        self._workers: weakref.WeakKeyDictionary[Any, _Binding] = weakref.WeakKeyDictionary()
        self._leases: weakref.WeakKeyDictionary[Any, RuntimeLease] = weakref.WeakKeyDictionary()

    def attach(self, target: object, adapter: ArqEngineAdapter | None) -> None:
        with self._lock:
            hooks.watch_workers(self)
            if isinstance(target, Worker):
                if target in self._workers:
                    return
                self.constructed(target, _Binding(target, adapter))
                if target.main_task is not None and not target.main_task.done():
                    self._start(target)
                    hooks.show_online(target)
                return
            own = _settings_of(target)
            if own is None:
                raise ConfigError(
                    "attach_to_worker_settings: target must be a settings class, a settings dict "
                    f"or an arq Worker, not {type(target).__name__}"
                )
            if isinstance(own.get("ctx"), _Mark):
                return
            binding = _Binding(target, adapter)
            mark = _Mark(own.get("ctx"), binding)
            if isinstance(target, dict):
                target["ctx"] = mark
            else:
                setattr(target, "ctx", mark)  # noqa: B010 - a class of the user's, of any shape
            self._bindings.append(binding)

    # --- WorkerListener

    def prepare(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> object | None:
        """Whose worker is about to be built; its own `ctx` is put back."""
        mark = named.get("ctx")
        if isinstance(mark, _Mark):
            named["ctx"] = mark.original
            return mark.binding
        functions = arguments[0] if arguments else named.get("functions", ())
        return next((one for one in self._bindings if one.built(functions, named)), None)

    def constructed(self, worker: Any, mark: object) -> None:
        """Remember whose worker it is."""
        if isinstance(mark, _Binding):
            self._workers[worker] = mark

    async def starting(self, worker: Any) -> None:
        """Start or join the process's agent, off the worker's loop."""
        if worker not in self._workers:
            return
        starting = asyncio.get_running_loop().run_in_executor(None, self._start, worker)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The worker is told to stop already. close() must find the lease: wait the moment.
            await starting
            raise

    async def closed(self, worker: Any) -> None:
        """Let go of the agent; the last worker's events are recorded by now."""
        lease = self._leases.pop(worker, None)
        if lease is not None:
            await lease.arelease()

    def _start(self, worker: Any) -> None:
        # A worker needs it when it starts, not when its settings are imported: this imports the
        # container and all that belongs to an agent.
        from z4j_fastapi.current import ensure_runtime  # noqa: PLC0415 - see above

        with self._lock:
            if worker in self._leases:
                return
            adapter = self._workers[worker].adapter
            adapter.use_worker(worker)
            hooks.own(worker, adapter)
            self._leases[worker] = ensure_runtime(adapters=[adapter])


def _settings_of(target: object) -> Mapping[str, Any] | None:
    """What arq itself reads of a target: a class's own attributes, without inherited ones."""
    if isinstance(target, dict):
        return cast("dict[str, Any]", target)
    return vars(target) if isinstance(target, type) else None


_agents = _WorkerAgents()
