"""Tracebacks: redacted line by line, else one address in a message hides the whole trace.

Spec: redaction.md section 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from z4j_fastapi.redaction.bounds import REDACTED, SCAN_CHARS, byte_length, cut, storable

if TYPE_CHECKING:
    from z4j_fastapi.redaction.scrub import Scrubber

_PEM_BEGIN, _PEM_END = "-----begin ", "-----end "
#: Lines kept at the head: the title and where it began. The error is at the end.
_HEAD_LINES = 2


def scrub_traceback(text: str, scrubber: Scrubber) -> str:
    """The traceback to send: at most the scrubber's limit, only lines with a secret replaced."""
    total_bytes = 0
    if len(text) > SCAN_CHARS:
        total_bytes = byte_length(text)
        text = _outer_lines(text)
    text = storable(text)
    shown = text if scrubber.uncut(text) == text else _by_line(text, scrubber)
    if max(byte_length(shown), total_bytes) > scrubber.limit_bytes:
        shown = cut_middle(shown, scrubber.limit_bytes, total_bytes=total_bytes)
    # A match across lines, here or made by the cut: the brain would redact the whole.
    return REDACTED if shown is not text and scrubber.hit(shown) else shown


def _by_line(text: str, scrubber: Scrubber) -> str:
    lines = text.split("\n")
    short = [line for line in lines if len(line) <= scrubber.short_chars]
    changes = scrubber.changes(short)
    shown: list[str] = []
    in_key = False
    for line in lines:
        if in_key:
            shown.append(REDACTED)
            in_key = _PEM_END not in line.lower()
        elif len(line) > scrubber.short_chars:
            shown.append(scrubber.uncut(line))
        else:
            shown.append(changes.get(line, line))
        if shown[-1] == REDACTED and not in_key:
            lowered = line.lower()
            begun = lowered.rfind(_PEM_BEGIN)
            in_key = begun >= 0 and lowered.find(_PEM_END, begun) < 0
    return "\n".join(shown)


def _outer_lines(text: str) -> str:
    """The first lines, and from the end what the scan can take, whole lines only."""
    head = "\n".join(text[: SCAN_CHARS // 4].split("\n", _HEAD_LINES)[:_HEAD_LINES])
    tail = text[-(SCAN_CHARS // 2) :].partition("\n")[2]
    return f"{head}\n{tail}"


def cut_middle(text: str, limit_bytes: int, *, total_bytes: int = 0) -> str:
    """`text` within `limit_bytes`: the first two lines, a marker, and as many last lines as fit."""
    total = max(byte_length(text), total_bytes)
    if total <= limit_bytes:
        return text
    lines = text.split("\n")
    head = lines[:_HEAD_LINES]
    room = limit_bytes - byte_length("\n".join(head)) - len(f"\n[...{total} more bytes truncated]")
    tail: list[str] = []
    for line in reversed(lines[_HEAD_LINES:]):
        room -= byte_length(line) + 1
        if room < 0:
            break
        tail.append(line)
    if not tail:
        # Lines as long as the limit: the last one says what went wrong.
        return cut(lines[-1], limit_bytes, total_bytes=total)
    tail.reverse()
    kept = byte_length("\n".join(head)) + byte_length("\n".join(tail))
    marker = f"[...{total - kept} more bytes truncated]"
    return "\n".join((*head, marker, *tail))
