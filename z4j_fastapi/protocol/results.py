"""Payloads of `command_result`: built within bounds, and checked before they are sent.

The brain closes the connection on a status it does not know, and the outbox would resend such a
result for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from z4j_fastapi.errors import LocalProtocolError, RemoteProtocolError
from z4j_fastapi.protocol.canonical import canonical_bytes, parse, stable_bytes

#: Cap of the rendered `result` object.
RESULT_LIMIT_BYTES = 256 * 1_024
#: Cap of `error`; the brain keeps the first 1,024 characters.
ERROR_LIMIT = 1_000

_WIRE_ERROR_LIMIT = 8_192


def command_result_payload(
    *,
    claim_token: str | None,
    result: Mapping[str, object] | None,
    error: str | None = None,
) -> bytes:
    """The canonical payload of a `command_result`, ready to be stored.

    A result over 256 KiB is replaced by a note of its size; NUL characters, which PostgreSQL cannot
    store, by U+FFFD.

    Args:
        claim_token: The command's `delivery_claim_token`, echoed.
        result: JSON-safe and redacted, or None.
        error: None for success; otherwise the cause, cause first, cut to 1,000 characters.
    Raises:
        LocalProtocolError: `result` is not JSON-safe.
    Spec: commands.md 2, "Results", and 12.
    """
    rendered = b"null" if result is None else stable_bytes(result)
    if b"\\u0000" in rendered:  # perhaps a NUL, perhaps only its name
        rendered = canonical_bytes(_without_nul(parse(rendered)))
    if len(rendered) > RESULT_LIMIT_BYTES:
        rendered = canonical_bytes({"truncated": True, "size_bytes": len(rendered)})
    return b'{"delivery_claim_token":%b,"error":%b,"result":%b,"status":"%b"}' % (
        canonical_bytes(claim_token),
        canonical_bytes(None if error is None else _without_nul(error[:ERROR_LIMIT])),
        rendered,
        b"success" if error is None else b"failed",
    )


def _without_nul(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return {key.replace("\x00", "\ufffd"): _without_nul(item) for key, item in members.items()}
    return value


def check_result_payload(payload: bytes) -> None:
    """Refuse a stored payload that the brain would choke on.

    Args:
        payload: What `command_result_payload` made, perhaps by another process or version.
    Raises:
        LocalProtocolError: Not canonical, another status than `success` or `failed`, a result that
            is no object, or an error text over 8,192 characters.
    """
    try:
        value = parse(payload)
    except RemoteProtocolError:
        raise LocalProtocolError("stored command result is not a JSON object") from None
    if canonical_bytes(value) != payload:
        raise LocalProtocolError("stored command result is not canonical JSON")
    error = value.get("error")
    if value.get("status") not in ("success", "failed"):
        raise LocalProtocolError("stored command result has no known status")
    if not isinstance(value.get("result"), (dict, type(None))):
        raise LocalProtocolError("stored command result is no object")
    if not isinstance(error, (str, type(None))) or len(error or "") > _WIRE_ERROR_LIMIT:
        raise LocalProtocolError("stored command result has no usable error text")
