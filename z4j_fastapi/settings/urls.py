"""URLs of brain and proxy: one normal form, what is refused, how they are shown."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
#: What may be in a host name once it is ASCII; underscores occur in container networks.
_HOST = re.compile(r"(?=.*[a-z0-9])[a-z0-9._-]+", re.ASCII)
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class UrlError(ValueError):
    """What is wrong with a URL, and the fix; holds no part of the URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parsed:
    scheme: str
    userinfo: str | None
    host: str
    port: int | None
    path: str

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS[self.scheme]
        return host if self.port in (None, default) else f"{host}:{self.port}"


def is_loopback_host(host: str) -> bool:
    """Whether `host` is this machine by its very name: localhost, 127.0.0.0/8 or ::1.

    Names are not resolved: what a resolver says may change after the check.

    Args:
        host: Host of a URL, IPv6 without brackets.

    Spec: config-and-cli.md section 2, dev_mode.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_loopback
    return address == ipaddress.IPv6Address("::1")


def normalise_brain_url(text: str) -> str:
    """The brain's URL as http or https, host lower-case, path kept.

    Args:
        text: What the user gave; `ws` and `wss` stand for `http` and `https`.

    Returns:
        For example `https://brain.example.com/` or `https://example.com/z4j`.

    Raises:
        UrlError: Not such a URL, or it has a query, fragment, user name or password.
    """
    parsed = _parse(text, _SCHEMES, "an absolute URL such as https://brain.example.com")
    if parsed.userinfo is not None:
        raise UrlError("must not hold a user name or password; put the token into token")
    return f"{parsed.scheme}://{parsed.netloc}{parsed.path or '/'}"


def normalise_proxy_url(text: str) -> str:
    """The proxy's URL without path, or `none` for a direct connection.

    Args:
        text: What the user gave; may hold user name and password.

    Raises:
        UrlError: Neither `none` nor such a URL.
    """
    if text.lower() == "none":
        return "none"
    schemes = {"http": "http", "https": "https"}
    parsed = _parse(text, schemes, "an http or https URL such as http://proxy:3128, or none")
    if parsed.path not in ("", "/"):
        raise UrlError("must not have a path; give scheme, host and port only")
    userinfo = parsed.userinfo or ""
    if not (userinfo.isascii() and userinfo.isprintable()):
        raise UrlError("has a user name or password with other than ASCII; percent-encode it")
    at = f"{userinfo}@" if userinfo else ""
    return f"{parsed.scheme}://{at}{parsed.netloc}"


def masked_url(text: str) -> str:
    """`text` fit for people's eyes: user name and password replaced by `***`.

    Never raises; what does not parse becomes a fixed placeholder.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        return "<unusable URL>"
    if "@" not in parts.netloc:
        # `http:user:pw@host` has no netloc at all: the password is in the path.
        return text if parts.netloc or "@" not in text else "<unusable URL>"
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()


def host_of(url: str) -> str:
    """Host of a normalised URL, IPv6 without brackets."""
    return urlsplit(url).hostname or ""


def _parse(text: str, schemes: dict[str, str], wanted: str) -> _Parsed:
    # urlsplit drops tabs and line ends silently, and keeps other control characters.
    if any(character.isspace() or ord(character) < 0x20 for character in text) or "\\" in text:  # noqa: PLR2004 - first printable character
        raise UrlError("holds white space, control characters or a backslash; remove them")
    parts = _split(text)
    if parts is None or parts.scheme not in schemes or not parts.netloc:
        raise UrlError(f"must be {wanted}")
    if "?" in text or "#" in text:
        raise UrlError("must not have a query or fragment; remove what follows ? or #")
    userinfo, at, address = parts.netloc.rpartition("@")
    return _Parsed(
        scheme=schemes[parts.scheme],
        userinfo=userinfo if at else None,
        host=_host(parts.hostname or "", bracketed=address.startswith("[")),
        port=_port(parts),
        path=quote(parts.path, safe=_PATH_SAFE),
    )


def _split(text: str) -> SplitResult | None:
    try:
        return urlsplit(text)
    except ValueError:  # unbalanced brackets
        return None


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UrlError("has a port that is not a number from 1 to 65535; correct it")
    return port


def _host(host: str, *, bracketed: bool) -> str:
    if bracketed:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            host = ""
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            host = ""
    host = host.lower()
    if not _HOST.fullmatch(host):
        raise UrlError("has no usable host name; correct it")
    return host
