"""Bringing one event below `max_event_bytes`.

The longest strings are shortened first; then `args`, `kwargs` and `result` are replaced by a
marker, the largest first; at last only the names that lead to the row are kept.

Spec: redaction.md section 5.
"""

# Values of any type are this module's business, so their types are unknown here.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnnecessaryCast=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from z4j_fastapi.redaction.bounds import byte_length, cut
from z4j_fastapi.redaction.rendering import render
from z4j_fastapi.redaction.tracebacks import cut_middle

if TYPE_CHECKING:
    from collections.abc import Callable

#: Strings are not cut below this: markers would be all that is left.
_MIN_STRING_BYTES = 128
_PAYLOAD_KEYS = ("args", "kwargs", "result")
_IDENTITY_KEYS = (
    "task_name", "queue", "worker", "exception_type", "runtime_ms", "attempt", "retry_count",
    "parent_task_id", "root_task_id", "priority", "stage",
)  # fmt: skip


def shorten(
    data: dict[str, Any], limit_bytes: int, *, exact: bool, hit: Callable[[str], bool]
) -> bytes:
    """Canonical JSON of `data` in at most `limit_bytes` bytes; changes `data`.

    Args:
        data: A redacted event that renders to more.
        limit_bytes: At least 1 KiB.
        exact: As for `render`.
        hit: Whether a text holds a secret: a cut may complete one.
    """
    payload = render(data, exact=exact)
    strings: list[tuple[int, Any, Any]] = []
    _collect(data, strings)
    strings.sort(key=lambda entry: entry[0], reverse=True)
    while len(payload) > limit_bytes:
        cap = _cap([size for size, _, _ in strings], len(payload) - limit_bytes)
        if cap is None:
            break
        strings = [_capped(entry, cap, data, hit) for entry in strings]
        strings.sort(key=lambda entry: entry[0], reverse=True)
        payload = render(data, exact=exact)
    sizes = {key: len(render(data[key], exact=exact)) for key in _PAYLOAD_KEYS if key in data}
    for key in sorted(sizes, key=lambda name: -sizes[name]):
        if len(payload) <= limit_bytes:
            return payload
        data[key] = f"[...{sizes[key]} more bytes truncated]"
        payload = render(data, exact=exact)
    if len(payload) <= limit_bytes:
        return payload
    kept: dict[str, Any] = {"truncated": f"[...{len(payload)} more bytes truncated]"}
    for key in _IDENTITY_KEYS:
        value = data.get(key)
        if value is not None and len(render({**kept, key: value}, exact=exact)) <= limit_bytes:
            kept[key] = value
    return render(kept, exact=exact)


def _collect(container: Any, strings: list[tuple[int, Any, Any]]) -> None:
    """All strings over the minimum: (bytes, container, key or index)."""
    members: Any = container.items() if type(container) is dict else enumerate(container)
    for key, value in members:
        kind = type(value)
        if kind is str:
            size = byte_length(value)
            if size > _MIN_STRING_BYTES:
                strings.append((size, container, key))
        elif kind is dict or kind is list:
            _collect(value, strings)


def _cap(sizes: list[int], excess: int) -> int | None:
    """The length to which all longer strings must be cut to save `excess` bytes.

    Args:
        sizes: Bytes of the strings, longest first.
        excess: Bytes to save.

    Returns:
        None if no string is left to cut. Escapes in the rendered text only save more.
    """
    if not sizes or sizes[0] <= _MIN_STRING_BYTES:
        return None
    above = 0
    for count, size in enumerate(sizes, 1):
        above += size
        following = sizes[count] if count < len(sizes) else 0
        cap = (above - excess) // count
        if cap >= following:
            return max(cap, _MIN_STRING_BYTES)
    return _MIN_STRING_BYTES


def _capped(
    entry: tuple[int, Any, Any], cap: int, data: dict[str, Any], hit: Callable[[str], bool]
) -> tuple[int, Any, Any]:
    size, container, key = entry
    if size <= cap:
        return entry
    text: str = container[key]
    shown = cut_middle(text, cap) if container is data and key == "traceback" else cut(text, cap)
    if hit(shown):
        shown = "[REDACTED]"
    container[key] = shown
    return byte_length(shown), container, key
