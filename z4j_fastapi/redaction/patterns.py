"""Value patterns: shapes that mean a secret wherever they occur in a string.

A pattern is run only where its anchor was found: a literal that every match holds, searched for in
the folded text (lower case, digits as 0). Most strings hold none, so the common cost is a few
substring searches over all strings of an event at once. The searches run on `str`: `in` on
`bytes` raises and clears an exception inside CPython each time, 0.9 us.

Every pattern is linear in the text: no adjacent or nested unbounded repeats, and where a run has to
be scanned, each run once.

Spec: redaction.md sections 4, 8 and 9; performance.md, "What decides the figures" 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from z4j_fastapi.redaction.cards import has_card_number
from z4j_fastapi.redaction.lazy import LazyPattern
from z4j_fastapi.redaction.names import CASE_FOLDS
from z4j_fastapi.redaction.urls import has_url_password

_FOLD = bytes(
    byte + 32 if 65 <= byte <= 90 else 48 if 48 <= byte <= 57 else byte  # noqa: PLR2004 - A-Z, 0-9
    for byte in range(256)
)

Check = Callable[[str], object]


class Shape(NamedTuple):
    """One value pattern.

    Args:
        name: For tests and failure messages.
        anchor: Literal in folded text that every match holds.
        check: Truthy if the text, as it came, holds a match.
        gate: One rare character of the anchor: looking for it costs a tenth of looking for the
            anchor.
        official: Whether the brain's own list has it.
    """

    name: str
    anchor: str
    check: Check
    gate: str = ""
    official: bool = True


def _search(pattern: str) -> Check:
    lazy = LazyPattern(pattern, re.IGNORECASE)
    return lambda text: lazy.search(text)  # noqa: PLW0108 - `lazy.search` compiles


_JWT_RUN = LazyPattern(r"[A-Za-z0-9_.\-]+", re.IGNORECASE)


def _has_jwt(text: str) -> bool:
    """`eyJ` and more, a dot, one or more, a dot, one or more: by the dots, once over each run."""
    for run in _JWT_RUN.findall(text):
        if run.count(".") < 2:  # noqa: PLR2004 - a token has three parts
            continue
        parts = fold(run).split(".")
        for head, claims, signature in zip(parts, parts[1:], parts[2:], strict=False):
            if claims and signature and "eyj" in head[:-1]:
                return True
    return False


_GITHUB = _search(r"gh[opsru]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82}")
_AWS = _search(r"(?:AKIA|ASIA)[0-9A-Z]{16}")
_STRIPE = _search(r"[spr]k_(?:live|test)_[A-Za-z0-9]{24}|whsec_[A-Za-z0-9]{24}")
_PEM = _search(
    r"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|PGP|ENCRYPTED|PRIVATE) (?:PRIVATE )?KEY"
    r"|PGP PRIVATE KEY BLOCK)-----"
)
_SSN = _search(r"-(?<=\b\d{3}-)\d\d-\d{4}\b")
_EMAIL = _search(r"@(?<=[A-Za-z0-9._%+\-]@)[A-Za-z0-9.\-]+\.[A-Za-z]{2}")
_TWILIO = _search(r"\bSK[0-9a-f]{32}\b")
_AI = _search(r"(?<![A-Za-z0-9])sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_\-]{20}")


def _has_underscore_key(text: str) -> bool:
    return bool(_STRIPE(text) or _GITHUB(text))


def _has_sk(text: str) -> bool:
    return bool(_AI(text) or _TWILIO(text))


SSN = Shape("US SSN", "-00-0000", _SSN)
_SSN_ANY_DIGITS = Shape("US SSN", "-", _SSN)

#: Searched with `in`, in this order.
SHAPES = (
    Shape("e-mail", "@", _EMAIL),
    Shape("URL with password", "@", has_url_password),
    Shape("JWT", "eyj", _has_jwt, "j"),
    Shape("bearer", "bearer", _search(r"Bearer\s+[A-Za-z0-9._\-]{16}")),
    Shape("basic", "basic", _search(r"\bBasic\s+[A-Za-z0-9+/_=\-]{16}"), "", False),
    Shape(
        "Slack hook",
        "hooks.slack.com/",
        _search(r"https://hooks\.slack\.com/services/T[^\s/]*/B[^\s/]*/[^\s/]"),
    ),
    Shape("AWS key id", "akia", _AWS, "k"),
    Shape("AWS key id", "asia", _AWS),
    Shape("Google", "aiza", _search(r"AIza[0-9A-Za-z_\-]{35}"), "z"),
    Shape("SendGrid", "sg.", _search(r"SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}")),
    Shape("PEM", "-----begin ", _PEM),
    SSN,
    Shape("GitLab", "glpat-", _search(r"glpat-[A-Za-z0-9_\-]{20}"), "", False),
    Shape("card number", "0000000000000", has_card_number, "", False),
    *(
        Shape("card number", anchor, has_card_number, "", False)
        for anchor in (
            "0000 0000 0000",
            "0000-0000-0000",
            "0000 000000 0000",
            "0000-000000-0000",
        )
    ),
)

_SEARCHES = tuple((shape.gate, shape.anchor, shape) for shape in SHAPES)

#: Searched with a regex on the folded text: families that share a rare first letter, so that one
#: search, which begins with a literal, does the work of several.
UNDERSCORE = Shape("Stripe, GitHub", "_", _has_underscore_key)
SLACK = Shape("Slack", "x", _search(r"(?:xox[bpaers]|xapp)-[0-9A-Za-z\-]{10}"))
SK = Shape("Twilio, OpenAI, Anthropic", "sk", _has_sk)
_FAMILIES = (
    (
        "_",
        re.compile(r"_(?:(?<=whsec_)|(?<=gh[opsru]_)|(?<=k_live_)|(?<=k_test_)|(?<=github_pat_))"),
        UNDERSCORE,
    ),
    ("x", re.compile(r"x(?:ox[abeprs]-|app-)"), SLACK),
    ("k", re.compile(r"sk(?:-|[0a-f]{32})"), SK),
)


def fold(text: str) -> str:
    """`text` in lower case with digits as 0, for anchors. Only ASCII counts.

    Args:
        text: Without lone surrogates. The other characters of non-ASCII text come out as bytes
            above 127, which are in no anchor, except those that case-insensitive matching takes
            for ASCII letters.
    Raises:
        UnicodeEncodeError: `text` holds a lone surrogate.
    """
    if not text.isascii():
        for character, letter in CASE_FOLDS.items():
            if character in text:
                text = text.replace(character, letter)
    return text.encode().translate(_FOLD).decode("latin-1")


def suspects(folded: str, *, ascii_only: bool = True) -> list[Shape]:
    """The shapes whose anchor is in `folded`: only they can match.

    Args:
        folded: From `fold`.
        ascii_only: Whether the text before was pure ASCII. If not, digits of other scripts, which
            folding does not know, make a social security number possible wherever a dash is.
    """
    found = [shape for gate, anchor, shape in _SEARCHES if gate in folded and anchor in folded]
    for gate, family, shape in _FAMILIES:
        if gate in folded and family.search(folded) is not None:
            found.append(shape)
    if not ascii_only and folded.count("-") > 1:
        found.append(_SSN_ANY_DIGITS)
    return found
