"""The payload of `command_result`, redacted (commands.md 2 and 12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from z4j_fastapi.protocol.canonical import canonical_bytes, parse
from z4j_fastapi.protocol.results import command_result_payload

if TYPE_CHECKING:
    from z4j_fastapi.redaction import Redactor


def redacted_result_payload(
    *,
    redactor: Redactor,
    claim_token: str | None,
    result: Mapping[str, object] | None,
    error: str | None,
) -> bytes:
    """Canonical bytes of a `command_result` payload with its user data redacted.

    Args:
        redactor: Applied to result and error.
        claim_token: Echoed, also when None.
        result: Anything; JSON-safe after redaction.
        error: None for success; else one line, cause first.
    """
    safe: Mapping[str, object] | None = None
    if result is not None:
        redacted: object = redactor.redact(dict(result))
        # A redactor that met trouble gives a text; the brain takes nothing but an object.
        if not isinstance(redacted, dict):
            redacted = {"redacted": redacted}
        safe = cast("dict[str, object]", redacted)
    text = None
    if error is not None:
        text = redactor.redact_text(error) or "failed"
    return command_result_payload(claim_token=claim_token, result=safe, error=text)


def with_claim_token(payload: bytes, claim_token: str | None) -> bytes:
    """A stored payload for another delivery.

    Args:
        payload: Canonical bytes of a `command_result` payload.
        claim_token: The new delivery's token.
    """
    return canonical_bytes({**parse(payload), "delivery_claim_token": claim_token})
