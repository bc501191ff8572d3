from __future__ import annotations

import pytest

from z4j_fastapi.transport.proxies import choose_proxy

URL = "wss://brain.example.com/ws/agent"
PLAIN = "ws://brain.example.com:7700/ws/agent"
PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (URL, {}, None),
        (URL, {"https_proxy": PROXY}, PROXY),
        (URL, {"HTTPS_PROXY": PROXY}, PROXY),
        (URL, {"http_proxy": PROXY, "HTTP_PROXY": PROXY}, None),
        (PLAIN, {"http_proxy": PROXY}, PROXY),
        (PLAIN, {"HTTP_PROXY": PROXY}, PROXY),
        (PLAIN, {"https_proxy": PROXY, "HTTPS_PROXY": PROXY}, None),
        ("https://brain.example.com/", {"https_proxy": PROXY}, PROXY),
        (URL, {"ALL_PROXY": PROXY, "all_proxy": PROXY}, None),
        (URL, {"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:2"}, "http://lower:1"),
        # Set but empty hides the other spelling, as for urllib.
        (URL, {"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        (URL, {"https_proxy": "proxy:3128"}, PROXY),
        (URL, {"https_proxy": f" {PROXY} "}, PROXY),
        (URL, {"https_proxy": "http://user:pw@proxy:3128"}, "http://user:pw@proxy:3128"),
        (URL, {"https_proxy": "socks5://proxy:1080"}, "socks5://proxy:1080"),
        # Under CGI, HTTP_PROXY is what a client sent.
        (PLAIN, {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None),
        (PLAIN, {"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, PROXY),
        (URL, {"HTTPS_PROXY": PROXY, "REQUEST_METHOD": "GET"}, PROXY),
    ],
)
def test_choose_proxy_when_the_environment_names_some_then_takes_the_one_of_the_scheme(
    url, environ, expected
):
    assert choose_proxy(url, configured=None, environ=environ) == expected


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]", "LOCALHOST", "localhost:7700"]
)
@pytest.mark.parametrize("configured", [None, PROXY])
def test_choose_proxy_when_the_host_is_loopback_then_goes_directly(host, configured):
    environ = {"http_proxy": PROXY, "https_proxy": PROXY}

    for scheme in ("ws", "wss"):
        assert choose_proxy(f"{scheme}://{host}/", configured=configured, environ=environ) is None


def test_choose_proxy_when_configured_then_beats_the_environment_and_no_proxy():
    environ = {"https_proxy": "http://other:1", "no_proxy": "*"}

    assert choose_proxy(URL, configured=PROXY, environ=environ) == PROXY


@pytest.mark.parametrize("word", ["none", "NONE"])
def test_choose_proxy_when_configured_as_none_then_goes_directly(word):
    assert choose_proxy(URL, configured=word, environ={"https_proxy": PROXY}) is None


def test_choose_proxy_when_configured_as_empty_then_the_environment_decides():
    assert choose_proxy(URL, configured="", environ={"https_proxy": PROXY}) == PROXY


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("brain.example.com", "*", True),
        ("brain.example.com", "brain.example.com", True),
        ("brain.example.com", "BRAIN.example.COM", True),
        ("brain.example.com", "example.com", True),
        ("brain.example.com", ".example.com", True),
        ("brain.example.com", "*.example.com", True),
        ("brain.example.com", "other.org, example.com", True),
        ("brain.example.com", "other.org example.com", True),
        ("brain.example.com", "other.org,,", False),
        ("brain.example.com", "", False),
        ("brain.example.com", ".", False),
        ("brain.example.com", "ample.com", False),
        ("brain.example.com", "brain", False),
        ("brain.example.com", "example.com:443", True),
        ("brain.example.com", "example.com:8443", False),
        ("brain.example.com:8443", "example.com:8443", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.9/24", True),
        ("10.1.2.3", "192.168.0.0/16", False),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:444", False),
        ("10.1.2.3", "2.3", False),
        ("10.1.2.3", "10.1/nonsense", False),
        ("[fd00::5]", "fd00::5", True),
        ("[fd00::5]", "[fd00::5]", True),
        ("[fd00::5]:8443", "[fd00::5]:8443", True),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "10.0.0.0/8", False),
        ("brain.example.com", "10.0.0.0/8", False),
    ],
)
def test_choose_proxy_when_no_proxy_is_set_then_excludes_exactly_its_hosts(host, no_proxy, direct):
    for name in ("no_proxy", "NO_PROXY"):
        environ = {"https_proxy": PROXY, name: no_proxy}
        chosen = choose_proxy(f"wss://{host}/ws/agent", configured=None, environ=environ)
        assert (chosen is None) is direct
