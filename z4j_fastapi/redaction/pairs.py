"""`name=value` inside text: only the value is replaced, the rest of the text stays.

Taken are `name=value`, `name: value`, `"name": "value"` (also escaped, as JSON inside JSON, and in
Python's quotes) and `?name=value`. After a header's name and a colon everything up to the end of
the line is the value; a value in brackets goes up to the closing one.

Spec: redaction.md section 9.
"""

from __future__ import annotations

import re
from functools import lru_cache

from z4j_fastapi.redaction.bounds import REDACTED
from z4j_fastapi.redaction.lazy import LazyPattern
from z4j_fastapi.redaction.names import is_secret_name, normal_form

#: How the names of `names.py` end: four characters, or three.
_ENDS_4 = (
    "word|sswd|tion|hash|rets|cret|oken|auth|ials|okie|kies|rity|mber|card|rase|onid|n_id|n-id"
    "|ikey|_key|-key|ekey|tkey|skey"
)
_ENDS_3 = "pwd|ssn|cvv|cvc|vv2|otp|jwt"
#: What may stand between a name and its separator; each of a fixed length, for looking back.
_BETWEEN = ("", r"[\"' \t]", r"(?:\\[\"']|[\"'][ \t]|[ \t][ \t])")


def _separators(separator: str, ends_3: str) -> str:
    """A pattern that begins with the separator, hence fast, and looks back for a name."""
    behind = "|".join(
        f"(?<=(?:{ends}){between}{separator})" for ends in (_ENDS_4, ends_3) for between in _BETWEEN
    )
    # The last character alone tells most of them apart, much faster.
    last = f"(?<=[dnhstyervcp02\"' \\t]{separator})"
    return f"{separator}{last}(?:{behind})"


_EITHER = LazyPattern(_separators("[=:]", _ENDS_3), re.IGNORECASE)
#: For folded text, where digits are 0. Every event needs them: compiled here.
_EQUALS, _COLON = (re.compile(_separators(sign, _ENDS_3.replace("2", "0"))) for sign in "=:")

#: The name before a separator, read backwards.
_BACKWARDS = LazyPattern(r"""(?P<quote>[ \t]{0,2}["']?\\*)(?P<name>[\w-]+)""")
_SEPARATOR = LazyPattern(
    r""":[ \t]{0,4}(?:str|bytes|Optional\[str\]|str\ \|\ None|SecretStr)[ \t]{0,4}=(?!=)
      | =>|==?|:=|:""",
    re.VERBOSE,
)
_SPACE = LazyPattern(r"[ \t]{0,8}")
#: Text with more secrets than this is redacted as a whole: bounds the time.
_MAX_PAIRS = 500
_MAX_NAME_CHARS = 64
_HEADERS = frozenset({"authorization", "proxyauthorization", "cookie", "setcookie"})
#: Names whose `name:value` without a space is taken too; others, such as `token:refresh`, are
#: what people call cache keys and scopes.
_UNSPACED = ("password", "passwd", "pwd", "passphrase", "secret", "apikey")

_OPENING_QUOTE = LazyPattern(r"""(?:[rbu]{1,2}(?=["']))?(\\*["'])""", re.IGNORECASE)
_IN_QUOTES = {
    '"': LazyPattern(r'(?:[^"\\]|\\.)*', re.DOTALL),
    "'": LazyPattern(r"(?:[^'\\]|\\.)*", re.DOTALL),
}
_SCHEME_WORD = LazyPattern(r"(?:bearer|basic|token|digest|apikey|negotiate)[ \t]+", re.IGNORECASE)
#: Closing punctuation belongs to the value unless it ends it: `p,w` against `pw, next`.
_BARE = LazyPattern(
    r"""(?:[^\s&"'<>,;)\]}] | ["'<>,;)\]}](?![\s"'<>,;)\]}]|\Z|[\w-]{1,40}=))+""", re.VERBOSE
)
_BRACKET = LazyPattern(r"[\[\](){}]")
_LINE = LazyPattern(r"[^\r\n]+")


def may_hold_pair(folded: str) -> bool:
    """Quick look at text in lower case, digits as 0: False means that there is no pair."""
    return ("=" in folded and _EQUALS.search(folded) is not None) or (
        ":" in folded and _COLON.search(folded) is not None
    )


def redact_pairs(text: str) -> str:
    """`text` with the values of secret names in it replaced; linear."""
    pieces: list[str] = []
    done = 0
    names = 0
    found = _EITHER.search(text)
    while found is not None:
        at = found.start()
        pair = _pair(text, at, done)
        resume = at + 1
        if pair is not None:
            names += 1
            if names > _MAX_PAIRS:
                return REDACTED
            start, end, quote = pair
            if end > start:
                closing = quote if quote and text.endswith(quote, start + len(quote), end) else ""
                pieces += (text[done:start], quote, REDACTED, closing)
                done = resume = end
        found = _EITHER.search(text, resume)
    if not pieces:
        return text
    pieces.append(text[done:])
    return "".join(pieces)


def _pair(text: str, at: int, done: int) -> tuple[int, int, str] | None:
    """The value of the pair whose separator is at `at`: start, end, opening quote.

    Args:
        text: The whole text.
        at: Position of `=` or `:`.
        done: Where the value before ended.

    Returns:
        None if the name is no secret; no length if the value is missing or redacted already.
    """
    before = _BACKWARDS.match(text[max(done, at - _MAX_NAME_CHARS - 8) : at][::-1])
    separator = _SEPARATOR.match(text, at)
    if before is None or separator is None:
        return None
    name = before["name"][::-1]
    if len(name) > _MAX_NAME_CHARS or not _is_secret(name):
        return None
    space = _SPACE.match(text, separator.end())
    start = space.end() if space is not None else separator.end()
    if separator.group() == ":" and not before["quote"] and start == separator.end():
        unspaced = normal_form(name).endswith(_UNSPACED) and not text.startswith("//", start)
        if not unspaced:
            return None
    if text.startswith(REDACTED, start):
        return start, start, ""
    end, quote = _value(text, start, header=separator.group() == ":" and _is_header(name))
    return start, end, quote


#: Names repeat within a text.
_is_secret = lru_cache(maxsize=1_024)(is_secret_name)


def _is_header(name: str) -> bool:
    return normal_form(name) in _HEADERS


def _value(text: str, start: int, *, header: bool) -> tuple[int, str]:
    """Where the value that begins at `start` ends, and its opening quote."""
    opening = _OPENING_QUOTE.match(text, start)
    if opening is not None:
        quote = opening.group(1)
        return _quoted_end(text, opening.end(), quote), quote
    if header:
        line = _LINE.match(text, start)
        return (line.end() if line is not None else start), ""
    if text[start : start + 1] in ("[", "{", "("):
        return _bracketed_end(text, start), ""
    scheme = _SCHEME_WORD.match(text, start)
    bare = _BARE.match(text, scheme.end() if scheme is not None else start)
    return (bare.end() if bare is not None else start), ""


def _quoted_end(text: str, start: int, quote: str) -> int:
    if len(quote) == 1:
        inside = _IN_QUOTES[quote].match(text, start)
        end = inside.end() if inside is not None else start
    else:
        end = text.find(quote, start)
    return len(text) if end < 0 or end >= len(text) else end + len(quote)


def _bracketed_end(text: str, start: int) -> int:
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket.group() in "[({" else -1
        if depth == 0:
            return bracket.end()
    return len(text)
