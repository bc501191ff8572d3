"""HMAC-SHA256 signatures and constant-time checks. The key is what the settings decoded."""

from __future__ import annotations

import hashlib
import hmac


def sign(key: bytes, *parts: bytes) -> str:
    """HMAC-SHA256 of the joined `parts` as 64 lower-case hex digits.

    Args:
        key: The decoded `hmac_secret`, 32 bytes or more.
        parts: What is signed, in order; hashed without being copied together.
    """
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(part)
    return mac.hexdigest()


def verify(key: bytes, data: bytes, signature: object) -> bool:
    """Whether `signature` is the one of `data`, compared in constant time.

    Args:
        key: The decoded `hmac_secret`, 32 bytes or more.
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
        key: The decoded `hmac_secret`, 32 bytes or more.
        queue: Queue name.
        depth: Messages waiting.
    Spec: commands.md 5; vectors/commands/purge_queue.observed_depth.json.
    """
    return sign(key, _purge_text(queue, depth))


def verify_purge_token(key: bytes, queue: str, depth: int, token: object) -> bool:
    """Whether `token` confirms a purge at this depth, compared in constant time.

    Args:
        key: The decoded `hmac_secret`, 32 bytes or more.
        queue: Queue name.
        depth: Messages waiting now.
        token: As received: anything at all.
    Spec: commands.md 5.
    """
    return verify(key, _purge_text(queue, depth), token)
