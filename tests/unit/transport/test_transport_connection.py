from __future__ import annotations

import asyncio
import contextlib
import os
import time

import pytest
from support.loopback_servers import LOOPBACK, deaf, echo, raw_server, run, until, websocket_server

from z4j_fastapi.errors import Failure, TransportError
from z4j_fastapi.transport.websocket import WebSocketTransport


def _transport(url, **options):
    return WebSocketTransport(url=url, token=lambda: "token", **options)


def _closing(code, reason=""):
    async def handler(_server, connection):
        await connection.close(code, reason)

    return handler


def test_send_and_receive_when_the_peer_echoes_then_frames_are_binary_and_whole():
    frames = [b"{}", b'{"a":"\xc3\xa9"}', b"x" * 700_000]

    async def scenario():
        async with websocket_server(echo) as server:
            connection = await _transport(server.url).connect()
            received = []
            for frame in frames:
                await connection.send(frame)
                received.append(await connection.receive())
            await connection.close()
            return server.frames, received

    seen, received = run(scenario())

    assert seen == frames  # as bytes: a text frame would be a str
    assert received == frames


def test_receive_when_the_brain_sends_text_then_gives_its_bytes():
    async def handler(_server, connection):
        await connection.send("h\u00e9")
        await connection.wait_closed()

    async def scenario():
        async with websocket_server(handler) as server:
            connection = await _transport(server.url).connect()
            data = await connection.receive()
            await connection.close()
            return data

    assert run(scenario()) == "h\u00e9".encode()


@pytest.mark.parametrize(
    ("code", "failure", "close_code"),
    [
        (4400, Failure.PROTOCOL, 4400),
        (4401, Failure.AUTH, 4401),
        (4403, Failure.AUTH, 4403),
        (4003, Failure.AUTH, 4003),
        (4002, Failure.DISPLACED, 4002),
        (4408, Failure.IDLE, 4408),
        (4426, Failure.TERMINAL, 4426),
        (4427, Failure.TERMINAL, 4427),
        (4429, Failure.THROTTLED, 4429),
        (1000, Failure.TRANSIENT, 1000),
        (1001, Failure.TRANSIENT, 1001),
        (1011, Failure.TRANSIENT, 1011),
        (1012, Failure.TRANSIENT, 1012),
        (4999, Failure.TRANSIENT, 4999),
    ],
)
def test_receive_when_the_brain_closes_then_the_code_decides_the_failure(code, failure, close_code):
    async def scenario():
        async with websocket_server(_closing(code)) as server:
            connection = await _transport(server.url).connect()
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            with pytest.raises(TransportError):
                await connection.send(b"{}")
            await connection.close()
            return caught.value

    error = run(scenario())

    assert (error.failure, error.close_code) == (failure, close_code)
    assert "\n" not in error.message


def test_receive_when_the_brain_gives_a_reason_then_shows_it_made_safe():
    async def scenario():
        async with websocket_server(_closing(4401, "revoked\nFAKE LINE")) as server:
            connection = await _transport(server.url).connect()
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            return caught.value.message

    assert run(scenario()).endswith("(revoked?FAKE LINE)")


def test_receive_when_4403_follows_the_brains_first_frame_then_names_secret_and_clock():
    async def handler(_server, connection):
        await connection.send(b"{}")
        await connection.close(4403)

    async def scenario():
        async with websocket_server(handler) as server:
            connection = await _transport(server.url).connect()
            await connection.receive()
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            return caught.value.message

    message = run(scenario())

    assert "hmac_secret" in message
    assert "clock" in message


def test_receive_when_4403_is_the_first_word_then_names_the_source_address():
    async def scenario():
        async with websocket_server(_closing(4403)) as server:
            connection = await _transport(server.url).connect()
            with pytest.raises(TransportError, match="source address") as caught:
                await connection.receive()
            return caught.value

    assert run(scenario()).failure is Failure.AUTH


def test_receive_when_throttled_then_tells_the_least_wait():
    async def scenario():
        async with websocket_server(_closing(4429)) as server:
            connection = await _transport(server.url).connect()
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            return caught.value.details

    assert run(scenario())["minimum_seconds"] == 30.0


def test_receive_when_the_connection_breaks_then_fails_without_a_close_code():
    async def handler(_server, connection):
        connection.transport.abort()

    async def scenario():
        async with websocket_server(handler) as server:
            connection = await _transport(server.url).connect()
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            return caught.value

    error = run(scenario())

    assert (error.failure, error.close_code) == (Failure.TRANSIENT, None)


def test_receive_when_the_frame_is_too_large_then_fails_and_says_so():
    async def handler(_server, connection):
        with contextlib.suppress(Exception):
            await connection.send(b"x" * 5000)
            await connection.wait_closed()

    async def scenario():
        async with websocket_server(handler) as server:
            connection = await _transport(server.url, max_size=1000).connect()
            with pytest.raises(TransportError, match="larger than we accept") as caught:
                await connection.receive()
            return caught.value.failure

    assert run(scenario()) is Failure.TRANSIENT


def test_receive_when_cancelled_then_the_connection_goes_on():
    async def scenario():
        async with websocket_server(echo) as server:
            connection = await _transport(server.url).connect()
            waiting = asyncio.ensure_future(connection.receive())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await connection.send(b"still there")
            data = await connection.receive()
            await connection.close()
            return data

    assert run(scenario()) == b"still there"


def test_receive_when_the_peer_is_half_open_then_the_ping_finds_out():
    async def scenario():
        async with websocket_server(deaf) as server:
            transport = _transport(
                server.url, ping_interval=0.1, ping_timeout=0.1, close_timeout=0.1
            )
            connection = await transport.connect()
            with pytest.raises(TransportError, match="stopped answering pings") as caught:
                await connection.receive()
            return caught.value

    error = run(scenario(), seconds=10)

    assert (error.failure, error.close_code) == (Failure.TRANSIENT, None)


def test_send_when_frames_are_small_then_does_not_wait_for_the_peer_to_read():
    async def scenario():
        async with websocket_server(deaf) as server:
            connection = await _transport(server.url, close_timeout=0.05).connect()
            for _ in range(1000):
                await asyncio.wait_for(connection.send(b"x" * 500), 5)
            await connection.close()

    run(scenario())


async def _fill(connection):
    while True:
        await connection.send(b"x" * 500_000)


def test_send_when_the_peer_does_not_read_then_waits_and_can_be_cancelled():
    async def scenario():
        async with websocket_server(deaf) as server:
            connection = await _transport(server.url, close_timeout=0.05).connect()
            filling = asyncio.ensure_future(_fill(connection))
            done, _ = await asyncio.wait({filling}, timeout=0.5)
            assert not done  # back-pressure
            filling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await filling
            await connection.close()

    run(scenario())


def test_send_when_the_peer_never_reads_then_gives_up_after_a_ping_period():
    async def scenario():
        async with websocket_server(deaf) as server:
            transport = _transport(server.url, ping_interval=0.2, ping_timeout=0.2)
            connection = await transport.connect()
            with pytest.raises(TransportError, match="read nothing") as caught:
                await _fill(connection)
            with pytest.raises(TransportError, match="read nothing"):
                await connection.receive()
            return caught.value.failure

    assert run(scenario(), seconds=10) is Failure.TRANSIENT


def test_close_when_the_peer_is_black_holed_then_ends_within_the_close_timeout():
    async def scenario():
        async with websocket_server(deaf) as server:
            connection = await _transport(server.url, close_timeout=0.2).connect()
            filling = asyncio.ensure_future(_fill(connection))
            await asyncio.wait({filling}, timeout=0.3)
            started = time.monotonic()
            await connection.close()
            took = time.monotonic() - started
            with pytest.raises(TransportError):
                await filling
            await connection.close()  # idempotent
            return took

    assert run(scenario()) < 2.0


def test_close_when_cancelled_then_drops_the_connection_at_once():
    async def scenario():
        async with websocket_server(deaf) as server:
            connection = await _transport(server.url, close_timeout=30).connect()
            closing = asyncio.ensure_future(connection.close())
            await asyncio.sleep(0.01)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            with pytest.raises(TransportError):
                await connection.receive()

    run(scenario(), seconds=5)


def test_close_when_the_brain_has_closed_already_then_does_nothing():
    async def scenario():
        async with websocket_server(_closing(1001)) as server:
            connection = await _transport(server.url).connect()
            with pytest.raises(TransportError):
                await connection.receive()
            await connection.close()
            await connection.close()

    run(scenario())


def test_abandon_when_forked_then_the_parents_session_goes_on():
    async def scenario():
        async with websocket_server(echo) as server:
            transport = _transport(server.url)
            connection = await transport.connect()
            await connection.send(b"before")
            assert await connection.receive() == b"before"
            child = os.fork()
            if child == 0:
                # The child's own copies: no frame may leave it, and nothing may be raised.
                try:
                    transport.abandon_after_fork()
                    transport.abandon_after_fork()
                    os._exit(0)
                except BaseException:
                    os._exit(1)
            _, status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
            await connection.send(b"after")
            data = await connection.receive()
            await connection.close()
            return os.waitstatus_to_exitcode(status), data

    assert run(scenario()) == (0, b"after")


def test_abandon_when_the_parent_closes_then_the_child_does_not_hold_the_socket_open():
    """The peer sees the end of the connection although the child lives on."""
    ended = []

    async def handler(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.split(b": ")[1] for line in head.split(b"\r\n") if b"Sec-WebSocket-Key" in line
        )
        writer.write(_accept(key))
        while await reader.read(4096):
            pass
        ended.append(True)

    async def scenario():
        async with raw_server(handler) as port:
            transport = _transport(f"ws://{LOOPBACK}:{port}/ws/agent", close_timeout=0.05)
            connection = await transport.connect()
            to_child, from_parent = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(from_parent)
                transport.abandon_after_fork()
                os.read(to_child, 1)  # until the parent lets go
                os._exit(0)
            try:
                await connection.close()
                await until(lambda: ended)
            finally:
                os.close(from_parent)
                os.close(to_child)
                os.waitpid(child, 0)

    run(scenario())


def _accept(key):
    import base64
    import hashlib

    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
