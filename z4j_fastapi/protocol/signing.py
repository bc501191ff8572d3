"""Key decoding, HMAC-SHA256 and constant-time checks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

from z4j_fastapi.errors import ConfigError

#: The key's length, and the least that is accepted.
KEY_BYTES = 32

_URLSAFE = re.compile(r"[A-Za-z0-9_-]+={0,2}", re.ASCII)


def decode_hmac_secret(text: str) -> bytes:
    """The key bytes of the `hmac_secret` setting.

    Surrounding white space and missing padding are tolerated.

    Args:
        text: URL-safe base64 of at least 32 bytes.
    Raises:
        ConfigError: Names `hmac_secret` and what is wrong, never its value.
    Spec: wire-protocol.md 2, "Signature"; vectors/hmac-secrets.json.
    """
    stripped = text.strip()
    if not stripped:
        raise ConfigError("hmac_secret: is empty; copy it from the brain's agent page")
    if not _URLSAFE.fullmatch(stripped):
        raise ConfigError(
            "hmac_secret: holds characters outside URL-safe base64 (A-Z a-z 0-9 - _); "
            "copy it unchanged from the brain's agent page"
        )
    bare = stripped.rstrip("=")
    try:
        key = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error:
        raise ConfigError(
            "hmac_secret: is not complete base64; was it cut while copying?"
        ) from None
    if len(key) < KEY_BYTES:
        raise ConfigError(
            f"hmac_secret: decodes to {len(key)} bytes, {KEY_BYTES} are needed; "
            "was it cut while copying?"
        )
    return key


def sign(key: bytes, *parts: bytes) -> str:
    """HMAC-SHA256 of the joined `parts` as 64 lower-case hex digits.

    Args:
        key: From `decode_hmac_secret`.
        parts: What is signed, in order; hashed without being copied together.
    """
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(part)
    return mac.hexdigest()


def verify(key: bytes, data: bytes, signature: object) -> bool:
    """Whether `signature` is the one of `data`, compared in constant time.

    Args:
        key: From `decode_hmac_secret`.
        data: What was signed.
        signature: As received: anything at all.
    """
    if not isinstance(signature, str):
        return False
    # Bytes, since compare_digest refuses text that is not ASCII.
    return hmac.compare_digest(
        sign(key, data).encode(), signature.encode("utf-8", "backslashreplace")
    )


def _purge_text(queue: str, depth: int) -> bytes:
    return f"purge|{queue}|{depth}".encode("utf-8", "backslashreplace")


def purge_token(key: bytes, queue: str, depth: int) -> str:
    """The token that confirms a purge of `queue` at `depth` waiting messages.

    Args:
        key: From `decode_hmac_secret`.
        queue: Queue name.
        depth: Messages waiting.
    Spec: commands.md 5; vectors/commands/purge_queue.observed_depth.json.
    """
    return sign(key, _purge_text(queue, depth))


def verify_purge_token(key: bytes, queue: str, depth: int, token: object) -> bool:
    """Whether `token` confirms a purge at this depth, compared in constant time.

    Args:
        key: From `decode_hmac_secret`.
        queue: Queue name.
        depth: Messages waiting now.
        token: As received: anything at all.
    Spec: commands.md 5.
    """
    return verify(key, _purge_text(queue, depth), token)
