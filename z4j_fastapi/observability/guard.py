"""The guard around every call that comes from host code into ours. The host comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.observability.log import RateLimit

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock

#: Places are constants of ours; should one ever be built from data, memory stays bounded.
_MAX_PLACES = 1_000


class ErrorGuard:
    """Contains, counts and logs what our code raises inside the host's calls.

    `with guard("arq.enqueue_job"): ...`. An `Exception` ends there; `KeyboardInterrupt`,
    `SystemExit` and cancellation are the host's business and pass. When nothing is raised it costs
    one and a half times what `contextlib.nullcontext` does (measured on 3.12).

    Args:
        logger: Gets one line a minute for each place.
        counters: Counts `LossReason.ENGINE_ERROR`.
        clock: For the minute.
        on_error: Called last with place and error. What it raises reaches the host: tests inject
            one that raises, production has none.
    Spec: style.md 2, host safety.
    """

    __slots__ = ("_contexts", "_counters", "_counts", "_limit", "_lock", "_logger", "_on_error")

    def __init__(
        self,
        *,
        logger: structlog.stdlib.BoundLogger,
        counters: LossCounters,
        clock: Clock,
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self._logger = logger
        self._counters = counters
        self._limit = RateLimit(clock=clock)
        self._on_error = on_error
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._contexts: dict[str, _Guarded] = {}

    def __call__(self, place: str) -> _Guarded:
        """A context manager for `place`; one object a place, used by all threads at once.

        Args:
            place: Constant, dotted: layer and function.
        """
        try:
            return self._contexts[place]
        except KeyError:  # once a place
            return self._new_context(place)

    def counts(self) -> dict[str, int]:
        """How many errors were contained, by place."""
        with self._lock:
            return dict(self._counts)

    def reinit_after_fork(self) -> None:
        """Start over in a forked child: the parent reports its own errors."""
        self._lock = threading.Lock()
        self._counts = {}

    def _new_context(self, place: str) -> _Guarded:
        context = _Guarded(self, place)
        if len(self._contexts) < _MAX_PLACES:
            self._contexts[place] = context
        return context

    def contain(self, place: str, error: Exception) -> None:
        """Count and log one contained error. Raises only what `on_error` raises.

        Args:
            place: Where it was raised.
            error: What was raised.
        """
        try:
            with self._lock:
                if place in self._counts or len(self._counts) < _MAX_PLACES:
                    self._counts[place] = self._counts.get(place, 0) + 1
            self._counters.add(LossReason.ENGINE_ERROR)
            held_back = self._limit.allow(place)
            if held_back is not None:
                # Neither its text nor a traceback: both may hold the host's data.
                self._logger.warning(
                    "error_contained",
                    place=place,
                    error=type(error).__name__,
                    raised_in=_origin(error),
                    held_back=held_back,
                )
        except Exception:  # noqa: BLE001, S110 - a logging handler of the host's may raise; the guard itself never does
            pass
        if self._on_error is not None:
            self._on_error(place, error)


def _origin(error: Exception) -> str:
    """File and line that raised: enough to find the code, and no data."""
    step = error.__traceback__
    if step is None:
        return "unknown"
    while step.tb_next is not None:
        step = step.tb_next
    return f"{PurePath(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno}"


class _Guarded:
    """Holds no state of one `with`, so nesting and threads share it."""

    __slots__ = ("_guard", "_place")

    def __init__(self, guard: ErrorGuard, place: str) -> None:
        self._guard = guard
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        if kind is None or not isinstance(error, Exception):
            return False
        self._guard.contain(self._place, error)
        return True
