from __future__ import annotations

import pytest

from z4j_fastapi.settings.urls import (
    UrlError,
    host_of,
    is_loopback_host,
    masked_url,
    normalise_brain_url,
    normalise_proxy_url,
)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://brain.example.com", "https://brain.example.com/"),
        ("HTTPS://Brain.Example.COM/Z4J", "https://brain.example.com/Z4J"),
        ("ws://localhost:7700", "http://localhost:7700/"),
        ("wss://h/a/b/", "https://h/a/b/"),
        ("http://h:80/", "http://h/"),
        ("https://h:80/", "https://h:80/"),
        ("http://[::1]:7700", "http://[::1]:7700/"),
        ("https://bücher.example/é", "https://xn--bcher-kva.example/%C3%A9"),
        ("https://h/a%20b@c", "https://h/a%20b@c"),
    ],
)
def test_brain_url_when_usable_then_is_normalised(given, normal):
    assert normalise_brain_url(given) == normal


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "absolute URL"),
        ("brain.example.com", "absolute URL"),
        ("/ws/agent", "absolute URL"),
        ("ftp://h", "absolute URL"),
        ("http:///path", "absolute URL"),
        ("http:user:pw@h", "absolute URL"),
        ("http://[::1", "absolute URL"),
        ("https://user:pw@h", "user name or password"),
        ("https://user@h", "user name or password"),
        ("https://@h", "user name or password"),
        ("https://h/?a=1", "query or fragment"),
        ("https://h/#x", "query or fragment"),
        ("https://h/?", "query or fragment"),
        ("https://h:0", "port"),
        ("https://h:65536", "port"),
        ("https://h:x", "port"),
        ("https://h x", "white space"),
        ("https://h\\x", "backslash"),
        ("https://h\n/x", "white space"),
        ("https://h\x00/x", "control"),
        ("https://:80", "host"),
        ("https://h%41", "host"),
        ("https://..", "host"),
        ("https://[v1.x]/", "host|absolute"),
    ],
)
def test_brain_url_when_unusable_then_says_what_is_wrong(given, message):
    with pytest.raises(UrlError, match=message) as caught:
        normalise_brain_url(given)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("none", "none"),
        ("NONE", "none"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://user:p%40ss@Proxy:3128/", "http://user:p%40ss@proxy:3128"),
        ("https://proxy", "https://proxy"),
    ],
)
def test_proxy_url_when_usable_then_keeps_credentials(given, normal):
    assert normalise_proxy_url(given) == normal


@pytest.mark.parametrize(
    "given",
    [
        "proxy:3128",
        "socks5://p:1",
        "ws://p",
        "http://p/path",
        "http://p?x",
        "http://ü:x@p",
        "http://u:\x7f@p",
        "",
    ],
)
def test_proxy_url_when_unusable_then_raises(given):
    with pytest.raises(UrlError):
        normalise_proxy_url(given)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.9", "::1"])
def test_loopback_when_this_machine_then_true(host):
    assert is_loopback_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "10.0.0.1",
        "128.0.0.1",
        "::",
        "::2",
        "::ffff:127.0.0.1",
        "127.1",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "",
        "brain",
    ],
)
def test_loopback_when_another_name_then_false(host):
    assert not is_loopback_host(host)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://user:hunter2@proxy:3128", "http://***@proxy:3128"),
        ("http://user:hunter2@[::1]:3128/x", "http://***@[::1]:3128/x"),
        ("http://a@hunter2@h", "http://***@h"),
        ("http://h/a@b", "http://h/a@b"),
        ("none", "none"),
        ("http:user:hunter2@h", "<unusable URL>"),
        ("user:hunter2@h", "<unusable URL>"),
        ("http://[hunter2", "<unusable URL>"),
    ],
)
def test_masked_url_when_it_has_credentials_then_hides_them(given, shown):
    assert masked_url(given) == shown


def test_host_of_when_ipv6_then_without_brackets():
    assert host_of("http://[::1]:80/") == "::1"


def test_brain_url_when_host_cannot_be_encoded_then_says_so():
    with pytest.raises(UrlError, match="host name"):
        normalise_brain_url("https://" + "ü" * 64 + ".example")
