from __future__ import annotations

import asyncio
import base64
import socket

import pytest
from support.loopback_servers import answering, raw_server, run, silence

from z4j_fastapi.transport.dial import Address, dial
from z4j_fastapi.transport.tunnel import TunnelRefusedError, TunnelRequest, open_tunnel

SECRET = "s3cret:pass"


def _request(proxy="http://proxy:3128", host="brain.example.com"):
    return TunnelRequest(host=host, port=443, proxy=proxy, user_agent="z4j-fastapi/1")


async def _tunnel(handler, *, seconds=5.0):
    loop = asyncio.get_running_loop()
    async with raw_server(handler) as port:
        sock = await dial([Address(socket.AF_INET, ("127.0.0.1", port))], loop.time() + 5)
        with sock:
            await open_tunnel(sock, _request(), loop.time() + seconds)
            return sock.fileno() != -1


def test_tunnel_request_when_the_proxy_has_no_credentials_then_sends_none():
    assert _request().to_bytes() == (
        b"CONNECT brain.example.com:443 HTTP/1.1\r\n"
        b"Host: brain.example.com:443\r\n"
        b"User-Agent: z4j-fastapi/1\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("userinfo", "sent"),
    [
        ("joe:s3cret%3Apass", f"joe:{SECRET}"),
        ("joe", "joe:"),
        ("joe:", "joe:"),
        ("j%40x:p", "j@x:p"),
    ],
)
def test_tunnel_request_when_the_proxy_has_credentials_then_sends_them_decoded(userinfo, sent):
    lines = _request(f"http://{userinfo}@proxy:3128").to_bytes().split(b"\r\n")

    expected = b"Proxy-Authorization: Basic " + base64.b64encode(sent.encode())
    assert expected in lines


def test_tunnel_request_when_shown_then_hides_the_credentials():
    assert SECRET not in repr(_request(f"http://joe:{SECRET}@proxy:3128"))


def test_tunnel_request_when_the_host_is_ipv6_then_brackets_it():
    assert _request(host="fd00::5").to_bytes().startswith(b"CONNECT [fd00::5]:443 HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [b"200 Connection established", b"204 ", b"200"])
def test_open_tunnel_when_the_proxy_agrees_then_leaves_the_socket_open(status):
    assert run(_tunnel(answering(b"HTTP/1.1 " + status + b"\r\nVia: x\r\n\r\n")))


@pytest.mark.parametrize("status", [407, 403, 502, 301])
def test_open_tunnel_when_the_proxy_refuses_then_raises_its_status(status):
    with pytest.raises(TunnelRefusedError) as caught:
        run(_tunnel(answering(f"HTTP/1.0 {status} No\r\n\r\n".encode())))

    assert caught.value.status == status


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 xyz\r\n\r\n"])
def test_open_tunnel_when_it_is_no_http_answer_then_raises_without_a_status(answer):
    with pytest.raises(TunnelRefusedError) as caught:
        run(_tunnel(answering(answer)))

    assert caught.value.status is None


def test_open_tunnel_when_the_head_never_ends_then_stops_reading():
    with pytest.raises(TunnelRefusedError) as caught:
        run(_tunnel(answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000)))

    assert caught.value.status is None


def test_open_tunnel_when_the_proxy_closes_then_raises_connection_reset():
    with pytest.raises(ConnectionResetError):
        run(_tunnel(answering(b"HTTP/1.1 200")))


def test_open_tunnel_when_the_proxy_is_silent_then_times_out():
    with pytest.raises(TimeoutError):
        run(_tunnel(silence, seconds=0.1))
