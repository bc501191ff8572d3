"""OpenTelemetry metrics, through the API alone: without an SDK they cost next to nothing.

What happens per event is a plain integer of its owner, read when somebody collects. Only what
happens per batch, connection or command calls an instrument. Labels come from fixed sets.

    z4j.agent.events.recorded        counter    events stored
    z4j.agent.events.sent            counter    events handed to a connection, resends included
    z4j.agent.events.acknowledged    counter    events the brain has taken over
    z4j.agent.events.dropped         counter    losses, by `reason`
    z4j.agent.ack.latency            histogram  ms from sending a batch to its acknowledgement
    z4j.agent.buffer.depth           gauge      records that wait
    z4j.agent.buffer.size            gauge      bytes that wait
    z4j.agent.connects               counter    connection attempts, by `outcome`
    z4j.agent.reconnects             counter    sessions after the first
    z4j.agent.command.duration       histogram  ms, by `action`, `engine`, `outcome`
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce

from opentelemetry import metrics as otel
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from z4j_fastapi._version import __version__
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.errors import Failure
from z4j_fastapi.protocol.commands import KNOWN_ACTIONS

Guard = Callable[[str], AbstractContextManager[None]]

#: Name of our tracer and meter.
SCOPE = "z4j_fastapi"
OTHER = "other"

_ACTIONS = frozenset(KNOWN_ACTIONS)
_ENGINES = frozenset({"arq", "taskiq", "rq", "celery", "dramatiq", "huey"})
#: How a command may end: the reasons of `CommandError`, and the ends without one.
_OUTCOMES = frozenset(
    {
        *("success", "stopped", "unsupported", "engine_not_loaded", "not_found"),
        *("refused", "timeout", "invalid", "failed"),
    }
)
_CONNECT_OUTCOMES = frozenset({"connected", "cancelled", *(kind.value for kind in Failure)})


def action_label(action: str) -> str:
    """`action` if it is a known one, else `other`."""
    return action if action in _ACTIONS else OTHER


def engine_label(engine: str | None) -> str:
    """`engine` if it is one of ours, `none`, or `other`."""
    return "none" if engine is None else engine if engine in _ENGINES else OTHER


def outcome_label(outcome: str) -> str:
    """How a command ended, `other` for an unknown word."""
    return outcome if outcome in _OUTCOMES else OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferLevel:
    """What waits in an outbox: records and their bytes."""

    records: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Events recorded, and losses by reason."""

    recorded: int
    lost: dict[str, int]

    def plus(self, other: Totals) -> Totals:
        """The sum of both."""
        reasons = {**self.lost, **other.lost}
        return Totals(
            recorded=self.recorded + other.recorded,
            lost={
                reason: self.lost.get(reason, 0) + other.lost.get(reason, 0) for reason in reasons
            },
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """What one agent lets us read."""

    recorded: Callable[[], int]
    level: Callable[[], BufferLevel]


class Metrics:
    """The measurements of one agent. Any thread.

    Several agents in one process share the instruments; their values are added up.

    Args:
        counters: Losses by reason.
        guard: Contains what an agent's own figures raise while they are collected.
        meter_provider: None for the process's own, also one that is set later.
    Spec: design.md section 9.
    """

    def __init__(
        self,
        *,
        counters: LossCounters,
        guard: Guard,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.serial = next(_serials)
        self._counters = counters
        self._guard = guard
        self._source: _Source | None = None
        self._sessions = 0
        self._instruments = _instruments_of(meter_provider)
        self._instruments.add(self)

    def observe(self, *, recorded: Callable[[], int], level: Callable[[], BufferLevel]) -> None:
        """Let collectors read an agent's own figures. Replaces what was given before.

        Both are called on the collector's thread, and only if there is an SDK.

        Args:
            recorded: Events stored since the agent was built; may never go down.
            level: What waits now; cheap.
        """
        self._source = _Source(recorded, level)

    def sent(self, events: int) -> None:
        """A batch of `events` was handed to the connection."""
        self._instruments.sent.add(events)

    def acknowledged(self, events: int, seconds: float) -> None:
        """The brain took a batch of `events` over, `seconds` after it was sent."""
        self._instruments.acknowledged.add(events)
        self._instruments.ack_latency.record(seconds * 1000)

    def connect_ended(self, outcome: str) -> None:
        """A connection attempt ended.

        Args:
            outcome: `connected`, `cancelled` or a value of `Failure`.
        """
        known = outcome if outcome in _CONNECT_OUTCOMES else OTHER
        self._instruments.connects.add(1, {"outcome": known})
        if outcome == "connected":
            self._sessions += 1
            if self._sessions > 1:
                self._instruments.reconnects.add(1)

    def command_finished(
        self, *, action: str, engine: str | None, outcome: str, seconds: float
    ) -> None:
        """A command was carried out, or not.

        Args:
            action: Wire name; an unknown one counts as `other`, as below.
            engine: Engine named by the command, None when it names none.
            outcome: `success`, `failed`, `stopped` or the reason of a `CommandError`.
            seconds: How long it ran.
        """
        self._instruments.command_duration.record(
            seconds * 1000,
            {
                "action": action_label(action),
                "engine": engine_label(engine),
                "outcome": outcome_label(outcome),
            },
        )

    def totals(self) -> Totals:
        """What has been counted so far."""
        recorded = 0
        with self._guard("metrics.recorded"):
            if self._source is not None:
                recorded = self._source.recorded()
        return Totals(recorded=recorded, lost=self._counters.snapshot())

    def level(self) -> BufferLevel:
        """What waits now; nothing where no agent is observed."""
        with self._guard("metrics.level"):
            if self._source is not None:
                return self._source.level()
        return BufferLevel(records=0, bytes=0)

    def reinit_after_fork(self) -> None:
        """Start over in a forked child: the parent reports its own figures."""
        self._sessions = 0
        self._instruments.reinit_after_fork()


class _Instruments:
    """One set of instruments for each meter, since a meter refuses two of the same name."""

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[Metrics] = weakref.WeakSet()
        self._seen: dict[int, Totals] = {}
        self._gone = Totals(recorded=0, lost={})
        events = "z4j.agent.events"
        self.sent = meter.create_counter(f"{events}.sent", "{event}", "Events sent")
        self.acknowledged = meter.create_counter(
            f"{events}.acknowledged", "{event}", "Events that the brain has taken over"
        )
        self.ack_latency = meter.create_histogram(
            "z4j.agent.ack.latency", "ms", "From sending a batch to its acknowledgement"
        )
        self.connects = meter.create_counter(
            "z4j.agent.connects", "{attempt}", "Attempts to connect to the brain"
        )
        self.reconnects = meter.create_counter(
            "z4j.agent.reconnects", "{session}", "Sessions after an agent's first"
        )
        self.command_duration = meter.create_histogram(
            "z4j.agent.command.duration", "ms", "How long commands ran"
        )
        # The SDK keeps its instruments, and so these callbacks, for as long as the process lives.
        meter.create_observable_counter(
            f"{events}.recorded", [self._observe_recorded], "{event}", "Events stored"
        )
        meter.create_observable_counter(
            f"{events}.dropped", [self._observe_dropped], "{event}", "Losses by reason"
        )
        meter.create_observable_gauge(
            "z4j.agent.buffer.depth", [self._observe_depth], "{record}", "Records that wait"
        )
        meter.create_observable_gauge(
            "z4j.agent.buffer.size", [self._observe_size], "By", "Bytes that wait"
        )

    def add(self, metrics: Metrics) -> None:
        with self._lock:
            self._live.add(metrics)

    def reinit_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._seen = {}
        self._gone = Totals(recorded=0, lost={})

    def _totals(self) -> Totals:
        """Sums over all agents this process ever had: a counter must not go down with one."""
        with self._lock:
            seen = {metrics.serial: metrics.totals() for metrics in self._live}
            for serial, last in self._seen.items():
                if serial not in seen:
                    self._gone = self._gone.plus(last)
            self._seen = seen
            return reduce(Totals.plus, seen.values(), self._gone)

    def _observe_recorded(self, _options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._totals().recorded)

    def _observe_dropped(self, _options: CallbackOptions) -> Iterable[Observation]:
        for reason, count in self._totals().lost.items():
            yield Observation(count, {"reason": reason})

    def _levels(self) -> list[BufferLevel]:
        with self._lock:
            return [metrics.level() for metrics in self._live]

    def _observe_depth(self, _options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(sum(level.records for level in self._levels()))

    def _observe_size(self, _options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(sum(level.bytes for level in self._levels()))


_serials = itertools.count(1)
_registry_lock = threading.Lock()
_by_provider: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()
_of_process: list[_Instruments] = []


def _instruments_of(provider: MeterProvider | None) -> _Instruments:
    with _registry_lock:
        if provider is None:
            # One for the process, made once: the API keeps every meter that it gives out before
            # there is an SDK.
            if not _of_process:
                _of_process.append(_Instruments(otel.get_meter(SCOPE, __version__)))
            return _of_process[0]
        found = _by_provider.get(provider)
        if found is None:
            found = _Instruments(provider.get_meter(SCOPE, __version__))
            _by_provider[provider] = found
        return found
