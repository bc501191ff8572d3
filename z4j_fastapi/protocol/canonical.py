"""JSON bytes exactly as the brain re-renders them.

The brain parses our bytes and renders them again with CPython's `json` before it checks the
signature, so ours must be what CPython would render: `1e16` is `1e+16`, `1.0` stays `1.0`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

from z4j_fastapi.errors import LocalProtocolError
from z4j_fastapi.protocol.violations import violation

_MAX_DEPTH = 100


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and infinities are not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        # CPython reads 1e999 as infinity, which no JSON can write again.
        raise ValueError("number out of range")
    return value


# Kept and reused: building an encoder costs as much as rendering a small event. Cycles end in a
# RecursionError, which is caught below, so the slower bookkeeping against them is off.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,
    allow_nan=False,
    sort_keys=True,
    separators=(",", ":"),
)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)


def canonical_bytes(value: object) -> bytes:
    """Render `value` as the brain would render it after parsing.

    Lone surrogates become U+FFFD, since UTF-8 cannot hold them.

    Args:
        value: JSON-safe; the keys of every object must be `str` already. (CPython sorts other keys
            before it turns them into text, so their order would not survive a parse.)
    Raises:
        LocalProtocolError: NaN, an infinity, a type that JSON lacks, or too deep nesting.
    Spec: wire-protocol.md 2, "Signature"; vectors/canonical.json.
    """
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(
            f"value cannot be rendered as canonical JSON: {type(error).__name__}"
        ) from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _without_surrogates(text)


def _without_surrogates(text: str) -> bytes:
    fixed = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    # Rendered once more: replacing may have made two keys equal or changed their order.
    return _ENCODER.encode(json.loads(fixed)).encode()


def stable_bytes(value: Mapping[str, object]) -> bytes:
    """Like `canonical_bytes`, but checked to survive the brain's parse.

    Keys that are not text would make the brain's rendering differ from ours, and it would close the
    session for a bad signature. For rare, small payloads; events are made safe where they are
    recorded.

    Args:
        value: JSON-safe, at most 100 levels deep.
    Raises:
        LocalProtocolError: As `canonical_bytes`, or a key is not text.
    """
    rendered = canonical_bytes(value if isinstance(value, dict) else dict(value))
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise LocalProtocolError(f"value is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(item, Mapping):
            members = cast("Mapping[object, object]", item)
            if not all(isinstance(key, str) for key in members):
                raise LocalProtocolError("object keys must be text")
            waiting.extend((member, depth + 1) for member in members.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend((member, depth + 1) for member in cast("Sequence[object]", item))
    return rendered


def rerender(value: object) -> bytes:
    """Render what was received, for checking its signature. Replaces nothing.

    Were surrogates replaced here, two different frames would have the same signature.

    Args:
        value: From `parse`.
    Raises:
        RemoteProtocolError: `malformed`: the brain cannot have signed this.
    """
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, RecursionError):
        raise violation(
            "malformed", "frame cannot be rendered again: lone surrogate or too deep"
        ) from None


def parse(data: bytes) -> dict[str, object]:
    """Read one JSON object. Of duplicate keys the last one counts, as for the brain.

    Args:
        data: UTF-8 JSON text.
    Raises:
        RemoteProtocolError: `malformed`: not UTF-8, not JSON, not an object, NaN or an infinity,
            a number CPython cannot hold, or too deep nesting. Nothing else is ever raised.
    Spec: wire-protocol.md 2, "Receiving".
    """
    try:
        value: object = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise violation("malformed", f"frame is not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise violation("malformed", "frame is not a JSON object")
    return cast("dict[str, object]", value)
