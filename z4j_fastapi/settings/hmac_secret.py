"""The HMAC secret's text form: URL-safe base64 of at least 32 bytes."""

from __future__ import annotations

import base64
import binascii
import re

from z4j_fastapi.errors import ConfigError

MIN_KEY_BYTES = 32

# RFC 4648 section 5. The standard alphabet's "+" and "/" are refused: Python's decoder would drop
# them without a word and yield another, perhaps long enough, key.
_URLSAFE = re.compile(r"[A-Za-z0-9_-]+={0,2}", re.ASCII)


def decode_hmac_secret(text: str) -> bytes:
    """The signing key that `text` stands for.

    Args:
        text: URL-safe base64; white space around it and missing padding are tolerated.

    Returns:
        The key, 32 bytes or more.

    Raises:
        ConfigError: Empty, not URL-safe base64, or too short. The message holds no part of it.

    Spec: wire-protocol.md section 2, vectors/hmac-secrets.json.
    """
    stripped = text.strip()
    if not stripped:
        raise ConfigError("is empty; copy the value that the brain shows for the project")
    key: bytes | None = None
    if _URLSAFE.fullmatch(stripped):
        body = stripped.rstrip("=")
        try:
            key = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        except binascii.Error:
            key = None
    # Raised here and not in the handler: the decoder's error must not travel along as context.
    if key is None:
        raise ConfigError(
            "is not URL-safe base64; copy the whole value that the brain shows for the project"
        )
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"decodes to {len(key)} bytes, at least {MIN_KEY_BYTES} are needed; "
            "copy the whole value that the brain shows for the project"
        )
    return key
