"""Payment card numbers in text: 13 to 19 digits, a known prefix, and a right check digit.

Spec: redaction.md section 9.
"""

from __future__ import annotations

import re

from z4j_fastapi.redaction.lazy import LazyPattern

#: Not inside a word (hashes are full of digits) or a decimal fraction.
_DIGITS = LazyPattern(
    r"(?<![0-9A-Za-z])(?<![0-9]\.)[0-9]+(?:[ -][0-9]+)*(?![0-9A-Za-z])(?!\.[0-9])", re.ASCII
)
#: In groups as cards print them: 4-4-4-4 and longer, 4-4-5, 4-6-4, 4-6-5.
_FIRST_GROUP, _SECOND_GROUPS, _MIN_THIRD_GROUP = 4, (4, 6), 4
_MIN_DIGITS, _MAX_DIGITS = 13, 19

_BRANDS = LazyPattern(
    r"""4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})                                # Visa
    | (?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}  # MC
    | 3[47][0-9]{13}                                                      # American Express
    | (?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12,15}                        # Discover
    | 3(?:0[0-59]|[68][0-9]|9[0-9])[0-9]{11,16}                           # Diners
    | 35(?:2[89]|[3-8][0-9])[0-9]{12,15}                                  # JCB
    | 62[0-9]{14,17}                                                      # UnionPay
    | (?:50|5[6-8]|6[0-9])[0-9]{11,17}                                    # Maestro
    """,
    re.VERBOSE | re.ASCII,
)
#: One in ten digit strings passes the check: text with this many candidates has one for certain,
#: so it is taken for one without looking further. Bounds the time.
_MAX_CANDIDATES = 256

_DOUBLED = bytes(
    (2 * (byte - 48)) // 10 + (2 * (byte - 48)) % 10 if 48 <= byte <= 57 else 0  # noqa: PLR2004 - "0" to "9"
    for byte in range(256)
)


def has_card_number(text: str) -> bool:
    """Whether `text` holds a card number; linear."""
    candidates = 0
    for match in _DIGITS.finditer(text):
        if match.end() - match.start() < _MIN_DIGITS:
            continue
        groups = match.group().replace("-", " ").split(" ")
        for digits in _windows(groups):
            if _BRANDS.fullmatch(digits):
                candidates += 1
                if candidates > _MAX_CANDIDATES or luhn(digits):
                    return True
    return False


def _windows(groups: list[str]) -> list[str]:
    """The digits of each run of consecutive groups that a card may have."""
    found = [group for group in groups if _MIN_DIGITS <= len(group) <= _MAX_DIGITS]
    for start, (first, second, third) in enumerate(
        zip(groups, groups[1:], groups[2:], strict=False)
    ):
        if (
            len(first) != _FIRST_GROUP
            or len(second) not in _SECOND_GROUPS
            or len(third) < _MIN_THIRD_GROUP
        ):
            continue
        digits = first + second
        for group in groups[start + 2 : start + _MAX_DIGITS]:
            digits += group
            if len(digits) > _MAX_DIGITS:
                break
            if len(digits) >= _MIN_DIGITS:
                found.append(digits)
    return found


def luhn(digits: str) -> bool:
    """Whether the last of `digits` (ASCII) is the right check digit for the others."""
    raw = digits.encode()
    plain = raw[::-2]
    return (sum(plain) - 48 * len(plain) + sum(raw[-2::-2].translate(_DOUBLED))) % 10 == 0
