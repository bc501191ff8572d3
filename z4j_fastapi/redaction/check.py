"""Trying an operator's redaction patterns before they are used on every event.

Spec: redaction.md section 8.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from z4j_fastapi.redaction.names import MAX_PROBED_NAME_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

KEY_FIELD = "redaction_extra_key_patterns"
VALUE_FIELD = "redaction_extra_value_patterns"

_ONE_PATTERN_SECONDS = 0.020
_ALL_PATTERNS_SECONDS = 0.100
_MAX_VALUE_CHARS = 8_192
_MAX_UNITS = 40


def check_patterns(keys: Sequence[str], values: Sequence[str]) -> list[str]:
    """What is wrong with the extra patterns; one line a problem, each beginning with the field.

    Each pattern is compiled alone and timed on adversarial text, made from its own characters and
    growing until it is slow, so that a catastrophic one costs milliseconds here too.

    Args:
        keys: Patterns of `redaction_extra_key_patterns`.
        values: Patterns of `redaction_extra_value_patterns`.
    """
    return [
        *_check(KEY_FIELD, keys, _key_cost),
        *_check(VALUE_FIELD, values, _value_cost),
    ]


def _check(
    field: str, patterns: Sequence[str], cost: Callable[[re.Pattern[str], str], float]
) -> list[str]:
    problems: list[str] = []
    total = 0.0
    for number, pattern in enumerate(patterns, 1):
        name = f"{field}: pattern {number}"
        if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
            problems.append(f"{name} is not a string; give regular expressions as text")
            continue
        if not pattern:
            problems.append(f"{name} is empty and would match everything; remove it")
            continue
        try:
            compiled = re.compile(pattern, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError, Warning) as error:
            problems.append(f"{name} is not a regular expression: {error}")
            continue
        seconds = cost(compiled, pattern)
        total += seconds
        if seconds > _ONE_PATTERN_SECONDS:
            problems.append(
                f"{name} is too slow on adversarial text; avoid nested and adjacent repeats "
                "such as (a+)+ and .*.*"
            )
    if not problems and total > _ALL_PATTERNS_SECONDS:
        problems.append(f"{field}: together the patterns are too slow; use fewer or simpler ones")
    return problems


def _key_cost(pattern: re.Pattern[str], source: str) -> float:
    """Seconds for the worst key of 8 to 64 characters."""
    sizes = range(8, MAX_PROBED_NAME_CHARS + 1)
    return _worst(pattern.fullmatch, source, sizes)


def _value_cost(pattern: re.Pattern[str], source: str) -> float:
    """Seconds for the worst text of up to 8 KiB: small steps against exponents, then doubling."""
    sizes = [*range(8, 65), 128, 256, 512, 1_024, 2_048, 4_096, _MAX_VALUE_CHARS]
    return _worst(pattern.search, source, sizes)


def _worst(match: Callable[[str], object], source: str, sizes: Sequence[int]) -> float:
    worst = 0.0
    for unit in _units(source):
        for size in sizes:
            repeated = (unit * (size // len(unit) + 1))[: size - 1]
            for text in (repeated + "\x00", "\x00" + repeated, repeated + unit[-1]):
                seconds = _timed(match, text)
                if seconds > _ONE_PATTERN_SECONDS:  # perhaps something else ran: look again
                    seconds = min(seconds, _timed(match, text))
                worst = max(worst, seconds)
                if worst > _ONE_PATTERN_SECONDS:
                    return worst
    return worst


def _timed(match: Callable[[str], object], text: str) -> float:
    started = time.perf_counter()
    match(text)
    return time.perf_counter() - started


def _units(source: str) -> Iterator[str]:
    """What adversarial texts are made of: the pattern's own characters, singly and in pairs."""
    characters = list(dict.fromkeys("a0 " + "".join(c for c in source if c.isalnum()) + "_-.@"))
    own = [c for c in characters if c in source]
    units = dict.fromkeys(characters[:_MAX_UNITS])
    literals = re.findall(r"[\w-]{2,}", source)
    units.update(dict.fromkeys(literals[:8]))
    units.update(dict.fromkeys(a + b for a in own[:5] for b in own[:5] if a != b))
    return iter(units)
