"""How much of a value leaves the host: limits, markers, and cutting of one string.

Spec: redaction.md sections 2 and 5.
"""

from __future__ import annotations

import re

REDACTED = "[REDACTED]"
#: Stands for whatever lies too deep, or behind the node budget.
OMITTED = "[...]"

#: Containers inside each other, the scrubbed value itself included.
MAX_DEPTH = 32
#: Members of one container.
MAX_WIDTH = 1_000
#: Members of all containers of one event together.
MAX_NODES = 20_000
#: Characters of one string that are looked at; what lies behind is dropped unseen.
SCAN_CHARS = 65_536
#: Characters that a cut may take off to get rid of half a word (which may be half a secret).
_WORD_CHARS = 256

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def more_items(count: int) -> str:
    """The member that stands for `count` left-out members of a container."""
    return f"[...{count} more items]"


def storable(text: str) -> str:
    """`text` with NUL characters and lone surrogates replaced by U+FFFD.

    PostgreSQL has no NUL in text and nothing can encode a lone surrogate.
    """
    return _UNSTORABLE.sub("\ufffd", text)


def byte_length(text: str) -> int:
    """Bytes of `text` in UTF-8; lone surrogates count three, as their replacement does."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def scan_head(text: str) -> str:
    """The part of `text` that is looked at, without a partial last word."""
    if len(text) <= SCAN_CHARS:
        return text
    return _drop_partial_word(text[:SCAN_CHARS], text[SCAN_CHARS])


def cut(text: str, limit_bytes: int, *, total_bytes: int = 0) -> str:
    """Shorten `text` so that it fits, marker included.

    Args:
        text: Storable text.
        limit_bytes: Most bytes of the result in UTF-8.
        total_bytes: Bytes that the text had before an earlier cut, 0 if there was none.

    Returns:
        The text itself if it fits and nothing was cut before, else its head, cut at a character
        and without a partial last word, and the marker with the number of bytes dropped.
    """
    size = byte_length(text)
    total = max(size, total_bytes)
    if total <= limit_bytes:
        return text
    room = limit_bytes - len(_truncated(total))
    if room <= 0:
        return _fit(text, limit_bytes)
    if size > room:
        head = _fit(text, room)
        head = _drop_partial_word(head, text[len(head)])
    else:
        head = text
    return head + _truncated(total - byte_length(head))


def _truncated(dropped_bytes: int) -> str:
    return f"[...{dropped_bytes} more bytes truncated]"


def _fit(text: str, limit_bytes: int) -> str:
    """The longest head of `text` that has at most `limit_bytes` bytes."""
    raw = text[:limit_bytes].encode("utf-8", "replace")[:limit_bytes]
    return raw.decode("utf-8", "ignore")


def _drop_partial_word(head: str, following: str) -> str:
    """`head` without its last word if `following`, the next character, goes on with it."""
    if not head or following.isspace() or head[-1].isspace():
        return head
    most = min(_WORD_CHARS, (len(head) + 1) // 2)  # of a short head, something must be left
    words = head[-most:].rsplit(None, 1)
    return head[: -len(words[1])] if len(words) == 2 else head[:-most]  # noqa: PLR2004 - head and last word
