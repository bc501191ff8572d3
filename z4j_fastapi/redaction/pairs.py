"""`name=value` inside text: only the value is replaced, the rest of the text stays.

Taken are `name=value`, `name: value`, `"name": "value"` (also escaped, as JSON inside JSON, and in
Python's quotes) and `?name=value`. After a header's name and a colon everything up to the end of
the line is the value; a value in brackets goes up to the closing one.

Spec: redaction.md section 9.
"""

from __future__ import annotations

import re

from z4j_fastapi.redaction.bounds import REDACTED
from z4j_fastapi.redaction.names import is_secret_name, normal_form

_PAIR = re.compile(
    r"""(?<![\w-])(?P<name>[\w-]+)
    (?P<quote>\\*["']?)[ \t]{0,8}
    (?P<separator>
        :[ \t]{0,4}(?:str|bytes|Optional\[str\]|str\ \|\ None|SecretStr)[ \t]{0,4}=(?!=)
      | =>|==?|:=|:
    )
    (?P<space>[ \t]{0,8})""",
    re.VERBOSE,
)
_MAX_NAME_CHARS = 64
_HEADERS = frozenset({"authorization", "proxyauthorization", "cookie", "setcookie"})
#: Names whose `name:value` without a space is taken too; others, such as `token:refresh`, are
#: what people call cache keys and scopes.
_UNSPACED = ("password", "passwd", "pwd", "passphrase", "secret", "apikey")

_OPENING_QUOTE = re.compile(r"""(?:[rbu]{1,2}(?=["']))?(\\*["'])""", re.IGNORECASE)
_IN_QUOTES = {
    '"': re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL),
    "'": re.compile(r"(?:[^'\\]|\\.)*", re.DOTALL),
}
_SCHEME_WORD = re.compile(r"(?:bearer|basic|token|digest|apikey|negotiate)[ \t]+", re.IGNORECASE)
#: Closing punctuation belongs to the value unless it ends it: `p,w` against `pw, next`.
_BARE = re.compile(
    r"""(?:[^\s&"'<>,;)\]}] | ["'<>,;)\]}](?![\s"'<>,;)\]}]|\Z|[\w-]{1,40}=))+""", re.VERBOSE
)
_BRACKET = re.compile(r"[\[\](){}]")
_LINE = re.compile(r"[^\r\n]+")

#: How the names of `names.py` end, for `may_hold_pair`: four characters, or three. Digits are 0.
_ENDS_4 = (
    "word|sswd|tion|hash|rets|cret|oken|auth|ials|okie|kies|rity|mber|card|rase|onid|n_id|n-id"
)
_ENDS_3 = "pwd|key|ssn|cvv|cvc|vv0|otp|jwt"
_NAME_BEFORE = r"(?<=(?:{ends4}){sep})|(?<=(?:{ends3}){sep})|(?<=[\s\"']{sep})"


def _filter(separator: str) -> re.Pattern[str]:
    """A search that begins with a literal, hence fast, and looks back from there."""
    before = _NAME_BEFORE.format(ends4=_ENDS_4, ends3=_ENDS_3, sep=separator)
    return re.compile(f"{separator}(?:{before})")


_EQUALS = _filter("=")
_COLON = _filter(":")


def may_hold_pair(folded: str) -> bool:
    """Quick look at text in lower case, digits as 0: False means that there is no pair."""
    return ("=" in folded and _EQUALS.search(folded) is not None) or (
        ":" in folded and _COLON.search(folded) is not None
    )


def redact_pairs(text: str) -> str:
    """`text` with the values of secret names in it replaced; linear."""
    pieces: list[str] = []
    done = 0
    match = _PAIR.search(text)
    while match is not None:
        resume = match.end()
        if _counts(match):
            end = _value_end(text, match)
            start = match.end()
            if end > start and not text.startswith(REDACTED, start):
                opening = _OPENING_QUOTE.match(text, start)
                quote = opening.group(1) if opening is not None else ""
                closing = quote if quote and text.endswith(quote, start, end) else ""
                pieces += (text[done:start], quote, REDACTED, closing)
                done = resume = end
        elif match["space"]:
            resume = match.end("separator")
        match = _PAIR.search(text, resume)
    if not pieces:
        return text
    pieces.append(text[done:])
    return "".join(pieces)


def _counts(match: re.Match[str]) -> bool:
    name = match["name"]
    if len(name) > _MAX_NAME_CHARS or not is_secret_name(name):
        return False
    if match["separator"] != ":" or match["quote"] or match["space"]:
        return True
    return normal_form(name).endswith(_UNSPACED) and not match.string.startswith("//", match.end())


def _value_end(text: str, match: re.Match[str]) -> int:
    """Where the value that begins at the end of `match` ends."""
    start = match.end()
    opening = _OPENING_QUOTE.match(text, start)
    if opening is not None:
        return _quoted_end(text, opening.end(), opening.group(1))
    if match["separator"] == ":" and normal_form(match["name"]) in _HEADERS:
        line = _LINE.match(text, start)
        return line.end() if line is not None else start
    if text[start : start + 1] in ("[", "{", "("):
        return _bracketed_end(text, start)
    scheme = _SCHEME_WORD.match(text, start)
    bare = _BARE.match(text, scheme.end() if scheme is not None else start)
    return bare.end() if bare is not None else start


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
