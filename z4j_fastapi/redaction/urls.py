"""URLs that carry a password: finding them in text, and hiding the password.

Spec: redaction.md sections 4, 7 and 9.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from z4j_fastapi.redaction.lazy import LazyPattern
from z4j_fastapi.redaction.names import is_secret_name

MASK = "***"
UNPARSABLE_URL = "<unparsable URL>"

#: The official schemes. No boundary before them: `mysql+pymysql://` counts because it ends so.
_LISTED = LazyPattern(
    r"(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?)://", re.IGNORECASE
)
#: Ours: any scheme; the password holds no slash, so `https://host:80/@user` is none.
_ANY = LazyPattern(r"://(?<=[A-Za-z0-9+.\-]://)[^\s/@:\"<>]*:[^\s/@\"<>]+@", re.IGNORECASE)
_MASKABLE = LazyPattern(
    r"(://(?<=[A-Za-z0-9+.\-]://)[^\s/@:\"<>]*:)[^\s/\"<>]+(?=@)", re.IGNORECASE
)
_PARAMETER = LazyPattern(r"([?&;])([^=&;\s#?]{1,64})=([^&;#\s]*)")


def has_url_password(text: str) -> bool:
    """Whether `text` holds a URL with a password, by the official shape or by ours.

    Linear: every position is looked at a bounded number of times.
    """
    return _ANY.search(text) is not None or any(
        _listed_password(chunk) for chunk in text.split() if "@" in chunk and "://" in chunk
    )


def _listed_password(chunk: str) -> bool:
    """The official shape in text without white space.

    `scheme://`, one or more not `:`, `:`, one or more not `@`, `@`, then anything but `/`. As a
    regex this is quadratic in `redis://redis://...`; here the positions only ever move forward.
    """
    at = -1
    for match in _LISTED.finditer(chunk):
        start = match.end()
        colon = chunk.find(":", start)
        if colon < 0:
            return False
        if at <= colon:
            at = chunk.find("@", colon + 1)
            if at < 0:
                return False
        if colon > start and at > colon + 1 and chunk[at + 1 : at + 2] not in ("", "/"):
            return True
    return False


def mask_url(url: str) -> str:
    """`url` with its password, and secret query parameters, replaced by `***`.

    User, host and port stay, an IPv6 host keeps its brackets. Never raises.

    Args:
        url: A connection URL; what does not parse as one becomes a fixed placeholder.
    Spec: redaction.md section 7.
    """
    if not isinstance(url, str) or "://" not in url:  # pyright: ignore[reportUnnecessaryIsInstance] - never raises
        return UNPARSABLE_URL
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where a password with a slash cut the authority short
    except ValueError:
        return UNPARSABLE_URL
    if not parts.scheme:
        return UNPARSABLE_URL
    userinfo, at, host = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    authority = f"{user}:{MASK}@{host}" if colon else f"{user}{at}{host}"
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    rest = mask_urls(_mask_parameters(f"{parts.path}{query}{fragment}"))
    if not at and has_url_password(f"{parts.scheme}://{parts.netloc}{parts.path}"):
        return UNPARSABLE_URL  # the password begins with a number and a slash
    return (
        f"{parts.scheme}://{authority}{rest}"
        if parts.netloc or rest.startswith("/")
        else (f"{parts.scheme}:{rest}")
    )


def mask_urls(text: str) -> str:
    """`text` with the password of every URL in it replaced by `***`."""
    if "://" not in text or "@" not in text:
        return text
    return _MASKABLE.sub(rf"\g<1>{MASK}", text)


def _mask_parameters(text: str) -> str:
    if "=" not in text:
        return text
    return _PARAMETER.sub(_masked_parameter, text)


def _masked_parameter(found: re.Match[str]) -> str:
    before, name, value = found.groups()
    return f"{before}{name}={MASK if is_secret_name(name) else value}"
