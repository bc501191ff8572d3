"""What a task's `z4j_meta` asks of an event's data, before the walk.

Spec: redaction.md section 7 (end).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from z4j_fastapi.redaction.bounds import MAX_WIDTH, REDACTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from z4j_fastapi.task_meta import TaskMeta


def apply_hints(data: Mapping[str, object], meta: TaskMeta) -> dict[str, object]:
    """A shallow copy of `data` as `meta` wants it; the input is not changed."""
    hinted = dict(data)
    if meta.redact_kwargs or meta.keep_kwargs is not None:
        if hinted.get("args") is not None:
            hinted["args"] = _positional(hinted["args"], meta)
        if hinted.get("kwargs") is not None:
            hinted["kwargs"] = _keywords(hinted["kwargs"], meta)
    if meta.redact_result and "result" in hinted:
        hinted["result"] = REDACTED
    for key, value in (
        ("tags", list(meta.tags) or None),
        ("priority", meta.priority),
        ("expected_duration_ms", meta.expected_duration_ms),
        ("deadline_ms", meta.deadline_ms),
    ):
        if value is not None and hinted.get(key) is None:
            hinted[key] = value
    return hinted


def _hidden(name: str | None, meta: TaskMeta) -> bool:
    """Whether the argument of this parameter must not leave; None is an unknown parameter."""
    if meta.keep_kwargs is not None and name not in meta.keep_kwargs:
        return True
    return name in meta.redact_kwargs


def _positional(args: object, meta: TaskMeta) -> object:
    if not issubclass(type(args), (list, tuple)):
        return REDACTED  # nothing to judge by name
    given = cast("list[Any] | tuple[Any, ...]", args)
    names = meta.parameters
    judged: list[object] = [
        REDACTED if _hidden(names[at] if at < len(names) else meta.variadic, meta) else value
        for at, value in enumerate(given[:MAX_WIDTH])
    ]
    judged.extend([REDACTED] * (len(given) - MAX_WIDTH))
    return judged


def _keywords(kwargs: object, meta: TaskMeta) -> object:
    if not issubclass(type(kwargs), dict):
        return REDACTED
    given = cast("dict[Any, Any]", kwargs)
    return {
        key: REDACTED if _hidden(key if type(key) is str else None, meta) else value
        for key, value in islice(list(given.items()), MAX_WIDTH)
    }
