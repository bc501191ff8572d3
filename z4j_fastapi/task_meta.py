"""`z4j_meta`: what a task says about how it may be reported.

Spec: redaction.md section 7 (end).
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

F = TypeVar("F", bound=Callable[..., Any])

ATTRIBUTE = "__z4j_meta__"
PRIORITIES = ("critical", "high", "normal", "low")
_FAILED = "task.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMeta:
    """Hints of one task.

    Args:
        redact_kwargs: Names whose values never leave: keyword arguments, keys at any depth in the
            arguments, and positional arguments of parameters of these names.
        keep_kwargs: If given, the only arguments that leave; they are still redacted.
        redact_result: The result never leaves.
        tags: Copied into the event.
        priority: `critical`, `high`, `normal` or `low`; copied into the event.
        expected_duration_ms: Copied into the event.
        deadline_ms: Copied into the event.
        skip: Nothing is sent about this task.
        sample_rate: Share of tasks that are reported, 0 to 1; failures always are.
        parameters: Names of the positional parameters, in order, as the caller gives arguments.
        variadic: Name of the `*args` parameter, None if there is none.
    """

    redact_kwargs: frozenset[str] = frozenset()
    keep_kwargs: frozenset[str] | None = None
    redact_result: bool = False
    tags: tuple[str, ...] = ()
    priority: str | None = None
    expected_duration_ms: int | None = None
    deadline_ms: int | None = None
    skip: bool = False
    sample_rate: float = 1.0
    parameters: tuple[str, ...] = ()
    variadic: str | None = None

    def should_record(self, task_id: str, kind: str) -> bool:
        """Whether an event of this task is reported.

        The same answer for all events of a task in every process, since it hangs on the id alone.

        Args:
            task_id: The engine's own id.
            kind: An `EventKind` or its value.
        """
        if self.skip:
            return False
        if self.sample_rate >= 1:
            return True
        name = kind.value if isinstance(kind, enum.Enum) else kind
        if name == _FAILED:
            return True
        digest = hashlib.blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.sample_rate * 2.0**64


def z4j_meta(
    *,
    redact_kwargs: Collection[str] = (),
    keep_kwargs: Collection[str] | None = None,
    redact_result: bool = False,
    tags: Sequence[str] = (),
    priority: str | None = None,
    expected_duration_ms: int | None = None,
    deadline_ms: int | None = None,
    skip: bool = False,
    sample_rate: float = 1.0,
) -> Callable[[F], F]:
    """Decorate a task function with reporting hints; the function itself is returned.

    Put it directly above the function, below the engine's own decorator.

    Args:
        redact_kwargs: Argument names whose values are replaced by `[REDACTED]`.
        keep_kwargs: If given, the values of all other arguments are replaced.
        redact_result: Replace the result.
        tags: Shown with the task.
        priority: `critical`, `high`, `normal` or `low`.
        expected_duration_ms: Shown with the task.
        deadline_ms: Shown with the task.
        skip: Report nothing about this task.
        sample_rate: Share of the tasks to report, 0 to 1; failures are always reported.

    Raises:
        ValueError: `priority` or `sample_rate` is none of the above.
        TypeError: A single string where names are wanted.
    Spec: redaction.md section 7.
    """
    for field, names in (("redact_kwargs", redact_kwargs), ("keep_kwargs", keep_kwargs)):
        if isinstance(names, str):
            raise TypeError(f"{field}: a collection of names is wanted, not one string")
    if isinstance(tags, str):
        raise TypeError("tags: a sequence of strings is wanted, not one string")
    if priority is not None and priority not in PRIORITIES:
        raise ValueError(f"priority: must be one of {', '.join(PRIORITIES)}, not {priority!r}")
    if not _is_rate(sample_rate):
        raise ValueError(f"sample_rate: must be a number from 0 to 1, not {sample_rate!r}")
    meta = TaskMeta(
        redact_kwargs=frozenset(redact_kwargs),
        keep_kwargs=None if keep_kwargs is None else frozenset(keep_kwargs),
        redact_result=redact_result,
        tags=tuple(tags),
        priority=priority,
        expected_duration_ms=expected_duration_ms,
        deadline_ms=deadline_ms,
        skip=skip,
        sample_rate=float(sample_rate),
    )

    def decorate(function: F) -> F:
        setattr(function, ATTRIBUTE, meta)
        return function

    return decorate


_resolved: WeakKeyDictionary[Any, tuple[object, int, TaskMeta]] = WeakKeyDictionary()


def meta_of(function: object, *, skip_parameters: int = 0) -> TaskMeta | None:
    """The hints of a task function, with its parameter names; None if it has none.

    An object of another package's `z4j_meta` is read by attribute names; fields that make no sense
    are left out. Never raises; cheap from the second call on.

    Args:
        function: The task's own function, not the engine's wrapper of it, unless the hints are on
            the wrapper.
        skip_parameters: Leading parameters that callers do not give, such as arq's `ctx`.
    """
    try:
        stored = getattr(function, ATTRIBUTE, None)
    except Exception:  # noqa: BLE001 - a wrapper's __getattr__ may raise anything; then no hints
        return None
    if stored is None:
        return None
    try:
        cached = _resolved.get(function)
        if cached is not None and cached[0] is stored and cached[1] == skip_parameters:
            return cached[2]
    except TypeError:  # not hashable or no weak references: resolved every time
        pass
    meta = _with_parameters(_read(stored), function, skip_parameters)
    with contextlib.suppress(TypeError):
        _resolved[function] = (stored, skip_parameters, meta)
    return meta


def _with_parameters(meta: TaskMeta, function: Any, skip: int) -> TaskMeta:
    if not meta.redact_kwargs and meta.keep_kwargs is None:
        return meta  # nothing asks for the names
    import inspect  # noqa: PLC0415 - wanted by few tasks only, and not cheap to import

    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError):
        return meta
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    return replace(
        meta,
        parameters=tuple(p.name for p in parameters if p.kind in kinds),
        variadic=variadic[0] if variadic else None,
    )


def _read(stored: Any) -> TaskMeta:
    """Somebody's `__z4j_meta__` as ours."""
    if isinstance(stored, TaskMeta):
        return stored

    def field(name: str) -> Any:
        try:
            return getattr(stored, name, None)
        except Exception:  # noqa: BLE001 - not our object; a field that raises is left out
            return None

    keep = field("keep_kwargs")
    rate = field("sample_rate")
    priority = field("priority")
    return TaskMeta(
        redact_kwargs=frozenset(_names(field("redact_kwargs"))),
        keep_kwargs=None if keep is None else frozenset(_names(keep)),
        redact_result=field("redact_result") is True,
        tags=_names(field("tags")),
        priority=priority if priority in PRIORITIES else None,
        expected_duration_ms=_milliseconds(field("expected_duration_ms")),
        deadline_ms=_milliseconds(field("deadline_ms")),
        skip=field("skip") is True,
        sample_rate=float(rate) if _is_rate(rate) else 1.0,
    )


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        return ()
    return tuple(name for name in cast("Collection[object]", value) if isinstance(name, str))


def _milliseconds(value: Any) -> int | None:
    return value if type(value) is int else None


def _is_rate(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not math.isnan(value)
        and 0 <= value <= 1
    )
