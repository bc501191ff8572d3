from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import logging
import socket
import ssl
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import trustme
from support.loopback_servers import (
    LOOPBACK,
    answering,
    connect_proxy,
    echo,
    raw_server,
    run,
    silence,
    until,
    websocket_server,
)

from z4j_fastapi.errors import ConfigError, Failure, TransportError
from z4j_fastapi.transport.tls import ssl_context_factory
from z4j_fastapi.transport.websocket import WebSocketTransport

TOKEN = "z4j_agent_TOKEN-that-must-not-leak"
PASSWORD = "pr0xy-pass"


def _transport(url, **options):
    return WebSocketTransport(url=url, token=lambda: TOKEN, **options)


async def _refused(transport):
    with pytest.raises(TransportError) as caught:
        await transport.connect()
    error = caught.value
    shown = repr(error) + str(error) + repr(error.details) + repr(transport)
    assert TOKEN not in shown
    assert PASSWORD not in shown
    assert "\n" not in error.message
    assert error.__cause__ is None  # a chained library error could show the proxy's password
    assert error.__suppress_context__ or error.__context__ is None
    return error


async def _round_trip(transport):
    connection = await transport.connect()
    try:
        await connection.send(b"ping")
        return await connection.receive()
    finally:
        await connection.close()


# On Python 3.10 asyncio warns of TLS transports that it closed itself, here the servers' own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*_SSLProtocolTransport:pytest.PytestUnraisableExceptionWarning"
    if sys.version_info < (3, 11)
    else "error"
)


@pytest.fixture(autouse=True)
def no_forgotten_transports():
    """Collect what Python 3.10 would complain of in some later test."""
    yield
    if sys.version_info < (3, 11):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(autouse=True)
def quiet_servers():
    """Servers of these tests are left in mid-handshake; what they say of it is beside the point."""
    logger = logging.getLogger("websockets.server")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


def _server_tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


# -- the upgrade -------------------------------------------------------------------------------


def test_connect_when_accepted_then_sends_bearer_and_agent_and_no_compression():
    async def scenario():
        async with websocket_server(echo) as server:
            transport = _transport(server.url, user_agent="z4j-fastapi/9.9")
            assert await _round_trip(transport) == b"ping"
            return server

    server = run(scenario())

    (headers,) = server.headers
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["User-Agent"] == "z4j-fastapi/9.9"
    assert "Sec-WebSocket-Extensions" not in headers
    assert "Sec-WebSocket-Protocol" not in headers
    assert server.paths == ["/ws/agent"]
    assert server.extensions == [[]]


def test_connect_when_called_again_then_asks_for_the_token_again():
    tokens = iter(["first", "second"])

    async def scenario():
        async with websocket_server(echo) as server:
            transport = WebSocketTransport(url=server.url, token=lambda: next(tokens))
            await _round_trip(transport)
            await _round_trip(transport)
            return [headers["Authorization"] for headers in server.headers]

    assert run(scenario()) == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Injected: 1", "t\u00f6ken"])
def test_connect_when_the_token_cannot_be_sent_then_fails_without_connecting(token):
    async def scenario():
        async with websocket_server(echo) as server:
            transport = WebSocketTransport(url=server.url, token=lambda: token)
            with pytest.raises(TransportError, match="Z4J_TOKEN") as caught:
                await transport.connect()
            return caught.value.failure, server.headers

    assert run(scenario()) == (Failure.AUTH, [])


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (401, Failure.AUTH),
        (403, Failure.AUTH),
        (404, Failure.PROTOCOL),
        (426, Failure.PROTOCOL),
        (429, Failure.THROTTLED),
        (502, Failure.TRANSIENT),
        (503, Failure.TRANSIENT),
        (200, Failure.PROTOCOL),
    ],
)
def test_connect_when_the_upgrade_is_refused_then_names_the_status(status, failure):
    reply = f"HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno".encode()

    async def scenario():
        async with raw_server(answering(reply)) as port:
            return port, await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent"))

    port, error = run(scenario())

    assert (error.failure, error.http_status) == (failure, status)
    assert f"HTTP {status}" in error.message
    assert f"{LOOPBACK}:{port}" in error.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_connect_when_redirected_then_goes_nowhere_and_names_the_target(status):
    """websockets 15 would hand our bearer to the other host."""

    async def scenario():
        async with websocket_server(echo) as elsewhere:
            location = f"ws://user:{PASSWORD}@{LOOPBACK}:{elsewhere.port}/secret-path"
            reply = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\n\r\n".encode()
            async with raw_server(answering(reply)) as port:
                error = await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent"))
            return elsewhere, error

    elsewhere, error = run(scenario())

    assert elsewhere.headers == []
    assert (error.failure, error.http_status) == (Failure.PROTOCOL, status)
    assert f"ws://{LOOPBACK}:{elsewhere.port}" in error.message
    assert "secret-path" not in error.message


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("Location: /other/path\r\n", "another path of the same host"),
        ("Location: https://[::bad/\r\n", "an unreadable address"),
        ("", "another path of the same host"),
    ],
)
def test_connect_when_a_redirect_has_no_host_then_still_says_redirect(location, shown):
    reply = f"HTTP/1.1 302 Found\r\n{location}\r\n".encode()

    async def scenario():
        async with raw_server(answering(reply)) as port:
            return await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent"))

    assert shown in run(scenario()).message


def test_connect_when_the_server_speaks_no_http_then_says_so():
    async def ssh(_reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n" * 3)
        await writer.drain()
        writer.close()

    async def scenario():
        async with raw_server(ssh) as port:
            return await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent"))

    error = run(scenario())

    assert "does not speak HTTP" in error.message
    assert error.failure is Failure.PROTOCOL


def test_connect_when_the_server_hangs_up_then_says_so():
    async def hang_up(reader, _writer):
        await reader.readuntil(b"\r\n\r\n")

    async def scenario():
        async with raw_server(hang_up) as port:
            return await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent"))

    error = run(scenario())

    assert error.failure is Failure.TRANSIENT
    assert error.details["kind"] == "closed"


def test_connect_when_the_upgrade_answer_is_wrong_then_says_not_a_websocket_server():
    reply = b"HTTP/1.1 101 Switching\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n"

    async def scenario():
        async with raw_server(answering(reply)) as port:
            return await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent"))

    error = run(scenario())

    assert "not as a WebSocket server" in error.message
    assert error.failure is Failure.PROTOCOL


# -- reaching the host -------------------------------------------------------------------------


def test_connect_when_nobody_listens_then_says_refused():
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        port = sock.getsockname()[1]

    error = run(_refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent")))

    assert f"the brain at {LOOPBACK}:{port} refuses connections" in error.message
    assert (error.failure, error.details) == (Failure.TRANSIENT, {"kind": "tcp"})


def test_connect_when_the_name_is_unknown_then_says_so():
    error = run(_refused(_transport("wss://no-such-host.invalid/ws/agent")))

    assert "cannot resolve the name of the brain at no-such-host.invalid:443" in error.message
    assert "Z4J_BRAIN_URL" in error.message
    assert error.failure is Failure.TRANSIENT


def test_connect_when_the_host_is_black_holed_then_ends_at_the_open_timeout():
    async def scenario():
        async with raw_server(silence) as port:
            started = time.monotonic()
            error = await _refused(_transport(f"ws://{LOOPBACK}:{port}/ws/agent", open_timeout=0.2))
            return error, time.monotonic() - started

    error, took = run(scenario())

    assert "did not finish the handshake within 0.2 s" in error.message
    assert error.details["kind"] == "timeout"
    assert took < 5


@pytest.mark.parametrize("stage", ["upgrade", "tls", "proxy"])
def test_connect_when_cancelled_while_the_peer_is_silent_then_ends_at_once(stage, ca_file):
    async def scenario():
        async with raw_server(silence) as port:
            if stage == "proxy":
                transport = _transport(
                    "wss://brain.example/ws/agent", proxy=f"http://{LOOPBACK}:{port}"
                )
            else:
                scheme = "wss" if stage == "tls" else "ws"
                transport = _transport(
                    f"{scheme}://{LOOPBACK}:{port}/ws/agent",
                    ssl_context_factory=ssl_context_factory(ca_file),
                )
            connecting = asyncio.ensure_future(transport.connect())
            done, _ = await asyncio.wait({connecting}, timeout=0.1)
            assert not done
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    run(scenario(), seconds=8)  # a socket left open would be a ResourceWarning, which is an error


# -- TLS ---------------------------------------------------------------------------------------


def test_connect_when_the_ca_is_named_in_ca_file_then_verifies_and_connects(ca, ca_file):
    async def scenario():
        tls = _server_tls(ca.issue_cert("localhost", LOOPBACK))
        async with websocket_server(echo, tls=tls) as server:
            for host in ("localhost", LOOPBACK):
                transport = _transport(
                    f"wss://{host}:{server.port}/ws/agent",
                    ssl_context_factory=ssl_context_factory(ca_file),
                )
                assert await _round_trip(transport) == b"ping"

    run(scenario())


def test_connect_when_the_ca_is_named_by_ssl_cert_file_then_connects(ca, ca_file, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))

    async def scenario():
        tls = _server_tls(ca.issue_cert(LOOPBACK))
        async with websocket_server(echo, tls=tls) as server:
            return await _round_trip(_transport(f"wss://{LOOPBACK}:{server.port}/ws/agent"))

    assert run(scenario()) == b"ping"


def _expired(ca):
    past = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    return ca.issue_cert(LOOPBACK, not_before=past, not_after=past + dt.timedelta(days=1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _ca: trustme.CA().issue_cert(LOOPBACK), "ca_file (Z4J_CA_FILE)"),
        (_expired, "certificate has expired"),
        (lambda ca: ca.issue_cert("other.example"), "certificate is not valid for '127.0.0.1'"),
    ],
    ids=["unknown issuer", "expired", "other host"],
)
def test_connect_when_the_certificate_is_wrong_then_gives_the_verifiers_reason(
    make, reason, ca, ca_file
):
    async def scenario():
        async with websocket_server(echo, tls=_server_tls(make(ca))) as server:
            transport = _transport(
                f"wss://{LOOPBACK}:{server.port}/ws/agent",
                ssl_context_factory=ssl_context_factory(ca_file),
            )
            error = await _refused(transport)
            return error, server.headers

    error, headers = run(scenario())

    assert reason in error.message
    assert error.details["kind"] == "tls"
    assert headers == []  # the token was never sent


def test_connect_when_a_renewed_ca_file_appears_then_the_next_attempt_reads_it(ca, tmp_path):
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))

    async def scenario():
        async with websocket_server(echo, tls=_server_tls(ca.issue_cert(LOOPBACK))) as server:
            transport = _transport(
                f"wss://{LOOPBACK}:{server.port}/ws/agent",
                ssl_context_factory=ssl_context_factory(path),
            )
            await _refused(transport)
            ca.cert_pem.write_to_path(str(path))
            return await _round_trip(transport)

    assert run(scenario()) == b"ping"


def test_connect_when_the_ca_file_vanished_then_fails_as_a_transport_error(tmp_path):
    transport = _transport(
        f"wss://{LOOPBACK}:1/ws/agent", ssl_context_factory=ssl_context_factory(tmp_path / "gone")
    )

    error = run(_refused(transport))

    assert "Z4J_CA_FILE" in error.message


def test_connect_when_the_server_speaks_plain_http_then_says_not_tls(ca_file):
    async def plain(reader, writer):
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async def scenario():
        async with raw_server(plain) as port:
            transport = _transport(
                f"wss://{LOOPBACK}:{port}/ws/agent",
                ssl_context_factory=ssl_context_factory(ca_file),
            )
            return await _refused(transport)

    assert "does not speak TLS" in run(scenario()).message


# -- proxies -----------------------------------------------------------------------------------


def test_connect_when_the_environment_names_a_proxy_then_only_the_argument_counts(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    async def scenario():
        async with websocket_server(echo) as server:
            return await _round_trip(_transport(server.url))

    assert run(scenario()) == b"ping"


@pytest.mark.parametrize("secure", [False, True])
def test_connect_when_given_a_proxy_then_tunnels_and_verifies_the_brain(secure, ca, ca_file):
    """The proxy resolves the brain's name: this host need not know it."""

    async def scenario():
        tls = _server_tls(ca.issue_cert("brain.example")) if secure else None
        async with websocket_server(echo, tls=tls) as server, connect_proxy() as proxy:
            transport = _transport(
                f"{'wss' if secure else 'ws'}://brain.example:{server.port}/ws/agent",
                proxy=f"http://localhost:{proxy.port}",
                ssl_context_factory=ssl_context_factory(ca_file),
            )
            assert await _round_trip(transport) == b"ping"
            return server, proxy

    server, proxy = run(scenario())

    (request,) = proxy.requests
    assert request.startswith(f"CONNECT brain.example:{server.port} HTTP/1.1\r\n".encode())
    assert TOKEN.encode() not in request
    assert b"Proxy-Authorization" not in request


def test_connect_when_the_proxy_wants_credentials_then_sends_those_of_its_url():
    async def scenario():
        import base64

        basic = "Basic " + base64.b64encode(f"joe:{PASSWORD}".encode()).decode()
        async with websocket_server(echo) as server, connect_proxy(credentials=basic) as proxy:
            url = f"ws://brain.example:{server.port}/ws/agent"
            good = _transport(url, proxy=f"http://joe:{PASSWORD}@{LOOPBACK}:{proxy.port}")
            bad = _transport(url, proxy=f"http://joe:{PASSWORD}x@{LOOPBACK}:{proxy.port}")
            assert await _round_trip(good) == b"ping"
            return await _refused(bad)

    error = run(scenario())

    assert (error.failure, error.http_status) == (Failure.AUTH, 407)
    assert "Z4J_PROXY" in error.message


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TLS in TLS needs Python 3.11")
def test_connect_when_the_proxy_is_https_then_verifies_proxy_and_brain(ca, ca_file):
    async def scenario():
        brain_tls = _server_tls(ca.issue_cert("brain.example"))
        proxy_tls = _server_tls(ca.issue_cert("localhost"))
        async with (
            websocket_server(echo, tls=brain_tls) as server,
            connect_proxy(tls=proxy_tls) as proxy,
        ):
            transport = _transport(
                f"wss://brain.example:{server.port}/ws/agent",
                proxy=f"https://localhost:{proxy.port}",
                ssl_context_factory=ssl_context_factory(ca_file),
            )
            assert await _round_trip(transport) == b"ping"
            await until(lambda: proxy.requests)

    run(scenario())


def test_connect_when_the_https_proxys_certificate_is_unknown_then_names_proxy_and_reason(ca_file):
    async def scenario():
        tls = _server_tls(trustme.CA().issue_cert("localhost"))
        async with connect_proxy(tls=tls) as proxy:
            transport = _transport(
                "ws://brain.example/ws/agent",
                proxy=f"https://localhost:{proxy.port}",
                ssl_context_factory=ssl_context_factory(ca_file),
            )
            return await _refused(transport)

    error = run(scenario())

    assert "through the proxy localhost:" in error.message
    assert "certificate was not accepted" in error.message


def test_connect_when_the_proxy_is_down_then_names_the_proxy():
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        port = sock.getsockname()[1]
    for scheme in ("http", "https"):
        transport = _transport(
            "ws://brain.example/ws/agent",
            proxy=f"{scheme}://joe:{PASSWORD}@{LOOPBACK}:{port}",
        )

        error = run(_refused(transport))

        assert f"the proxy {LOOPBACK}:{port} refuses connections" in error.message
        assert "Z4J_PROXY" in error.message


@pytest.mark.parametrize(
    ("reply", "said", "failure"),
    [
        (
            b"HTTP/1.1 403 No\r\n\r\n",
            "does not let us through to brain.example:80 (HTTP 403)",
            "auth",
        ),
        (b"HTTP/1.1 502 No\r\n\r\n", "does not let us through", "transient"),
        (b"SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy does", "protocol"),
        (b"", "closed the connection without an answer", "transient"),
    ],
)
def test_connect_when_the_proxy_gives_no_tunnel_then_says_why(reply, said, failure):
    async def scenario():
        async with raw_server(answering(reply)) as port:
            return await _refused(
                _transport("ws://brain.example/ws/agent", proxy=f"http://{LOOPBACK}:{port}")
            )

    error = run(scenario())

    assert said in error.message
    assert error.failure.value == failure
    assert error.details["kind"] == "proxy"


def test_connect_when_the_proxy_is_silent_then_names_it_at_the_open_timeout():
    async def scenario():
        async with raw_server(silence) as port:
            transport = _transport(
                "ws://brain.example/ws/agent",
                proxy=f"http://{LOOPBACK}:{port}",
                open_timeout=0.2,
            )
            return port, await _refused(transport)

    port, error = run(scenario())

    assert error.message == (
        f"the proxy {LOOPBACK}:{port} took the connection, but did not answer within 0.2 s"
    )


def test_transport_when_the_proxy_scheme_is_unusable_then_is_a_config_error_without_password():
    with pytest.raises(ConfigError, match="only http:// and https://") as caught:
        _transport("ws://brain.example/", proxy=f"socks5://joe:{PASSWORD}@proxy:1080")

    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", ["", "brain.example", "ftp://brain.example/", "ws://host:99999/"])
def test_transport_when_the_url_is_unusable_then_is_a_config_error(url):
    with pytest.raises(ConfigError, match="Z4J_BRAIN_URL"):
        _transport(url)


# -- silence in logs, imports --------------------------------------------------------------------


def test_connect_when_the_host_logs_everything_then_the_token_is_not_in_it(caplog):
    async def scenario():
        async with websocket_server(echo) as server:
            with contextlib.suppress(TransportError):
                await _round_trip(_transport(server.url))
            return

    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.client", "z4j_fastapi", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    run(scenario())

    assert TOKEN not in caplog.text
    assert not [r for r in caplog.records if r.name.startswith("z4j_fastapi.transport.websockets")]


def test_library_when_something_goes_wrong_then_is_heard_under_our_tree(caplog):
    transport = _transport("ws://brain.example/")

    with caplog.at_level(logging.DEBUG):
        transport._logger.debug("not this")
        transport._logger.warning("but this")

    assert [(r.name, r.getMessage()) for r in caplog.records] == [
        ("z4j_fastapi.transport.websockets", "but this")
    ]


@pytest.mark.process
def test_connect_when_preloaded_then_imports_nothing_more(tmp_path, ca, ca_file):
    """A fork while our thread imports would leave the child's import lock held."""
    key = tmp_path / "server.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(key))
    program = textwrap.dedent(
        """
        import asyncio, ssl, sys
        from z4j_fastapi.errors import TransportError
        from z4j_fastapi.transport.tls import ssl_context_factory
        from z4j_fastapi.transport.websocket import WebSocketTransport

        ca_file, key = sys.argv[1:]
        url = "{scheme}://{host}:{port}/ws/agent"

        def transport(scheme, host, port, **options):
            made = WebSocketTransport(
                url=url.format(scheme=scheme, host=host, port=port), token=lambda: "token",
                ssl_context_factory=ssl_context_factory(ca_file), **options)
            made.preload()
            return made

        transport("ws", "localhost", 1)
        loop = asyncio.new_event_loop()
        before = set(sys.modules)

        async def attempts(connecting):
            # Refused, unknown name, and through TLS: what a session may meet.
            for made in connecting:
                try:
                    connection = await made.connect()
                    await connection.send(b"x")
                    await connection.receive()
                    await connection.close()
                except TransportError as error:
                    pass

        async def main():
            await attempts([transport("ws", "127.0.0.1", 1), transport("ws", "no.invalid", 80)])
            after_client = set(sys.modules)
            from websockets.asyncio.server import serve
            async def echo(connection):
                async for frame in connection:
                    await connection.send(frame)
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(key)
            async with serve(echo, "127.0.0.1", 0, ssl=tls) as server:
                port = next(iter(server.sockets)).getsockname()[1]
                with_server = set(sys.modules)
                connection = await transport("wss", "localhost", port).connect()
                await connection.send(b"x")
                assert await connection.receive() == b"x"
                await connection.close()
            print(sorted((after_client - before) | (set(sys.modules) - with_server)))

        loop.run_until_complete(main())
        loop.close()
        """
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(ca_file), str(key)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"
