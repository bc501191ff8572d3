"""Canonical JSON: the bytes that CPython's `json` writes with sorted keys and no spaces.

orjson writes the same bytes ten times faster for integers from -2^63 to 2^64-1 and floats that are
0 or lie in 1e-4 <= |x| < 1e16; the walk notes whether it saw others (style.md part 7).
"""

from __future__ import annotations

import json

try:
    import orjson
except ImportError:  # an accelerator: PyPy and the newest Pythons have no wheel
    orjson = None  # type: ignore[assignment]

_ENCODE = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode

MIN_INT, MAX_INT = -(2**63), 2**64 - 1
MIN_FLOAT, FLOAT_END = 1e-4, 1e16


def render(value: object, *, exact: bool) -> bytes:
    """Canonical JSON bytes of a JSON-safe value.

    Args:
        value: Exact `dict` with `str` keys, `list`, `str`, `int`, `float`, `bool`, None; without
            lone surrogates, NaN or cycles.
        exact: Whether all numbers in it lie where orjson writes what CPython writes.
    """
    if exact and orjson is not None:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return _ENCODE(value).encode()


def render_text(value: object) -> str:
    """Canonical JSON text, by the standard library."""
    return _ENCODE(value)
