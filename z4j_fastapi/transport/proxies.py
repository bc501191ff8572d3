"""Which proxy a connection to the brain goes through. Pure: the environment is an argument."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from z4j_fastapi.settings.urls import is_loopback_host

_VARIABLES = {
    "wss": "https_proxy",
    "https": "https_proxy",
    "ws": "http_proxy",
    "http": "http_proxy",
}
_DEFAULT_PORTS = {"wss": 443, "https": 443, "ws": 80, "http": 80}
#: The word that means "no proxy, whatever the environment says".
DIRECT = "none"


def choose_proxy(url: str, *, configured: str | None, environ: Mapping[str, str]) -> str | None:
    """The proxy for `url`, or None for a direct connection.

    A loopback host never goes through a proxy, so the token never leaves this machine in the
    clear. `ALL_PROXY` is ignored, as the official agent does.

    Args:
        url: Where to connect: `ws`, `wss`, `http` or `https`.
        configured: The `proxy` setting: a URL, `none` for a direct connection, or None to let the
            environment decide. A URL given here is used whatever `no_proxy` says.
        environ: The process environment.
    Returns:
        The proxy's URL, which may hold credentials: a secret.
    Spec: config-and-cli.md 2.3.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if is_loopback_host(host):
        return None
    if configured:
        return None if configured.lower() == DIRECT else configured
    proxy = _variable(environ, _VARIABLES.get(parts.scheme, ""))
    if not proxy:
        return None
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    if _excluded(host, port, _variable(environ, "no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    """A proxy variable's value; the lower-case name wins, and set but empty it hides the other."""
    if name in environ:
        return environ[name].strip()
    if name == "http_proxy" and "REQUEST_METHOD" in environ:
        # Under CGI the upper-case name is a client's `Proxy:` header (CVE-2016-1000110).
        return ""
    return environ.get(name.upper(), "").strip()


def _excluded(host: str, port: int, no_proxy: str) -> bool:
    """Whether an entry of `no_proxy` is the host: name, suffix, address, network; maybe a port."""
    return any(
        _matches(entry.lower(), host, port) for entry in re.split(r"[,\s]+", no_proxy) if entry
    )


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry and address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:  # no network after all
            return False
    name, wanted_port = _split_port(entry)
    if wanted_port is not None and wanted_port != port:
        return False
    if address is not None:
        return _address(name) == address
    suffix = name.removeprefix("*").lstrip(".")
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry; IPv6 addresses have a port only in brackets."""
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:]+):(\d{1,5})", entry)
    if match is None:
        return entry, None
    port = match[2] or match[4]
    return match[1] or match[3], int(port) if port else None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
