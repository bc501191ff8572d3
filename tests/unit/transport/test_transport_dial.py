from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from support.loopback_servers import raw_server, run, silence

from z4j_fastapi.transport import dial as dialling
from z4j_fastapi.transport.dial import Address, dial, resolve


def _deadline(seconds=5.0):
    return asyncio.get_running_loop().time() + seconds


def test_resolve_when_the_host_is_numeric_then_starts_no_thread(monkeypatch):
    monkeypatch.setattr(dialling.threading, "Thread", None)

    found = run(_resolve("127.0.0.1", 7700))

    assert [(address.ip, address.sockaddr[1]) for address in found] == [("127.0.0.1", 7700)]


async def _resolve(host, port, seconds=5.0):
    return await resolve(host, port, _deadline(seconds))


def test_resolve_when_the_host_is_a_name_then_asks_the_resolver():
    found = run(_resolve("localhost", 7700))

    assert {address.ip for address in found} <= {"127.0.0.1", "::1"}
    assert found


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
def test_resolve_when_the_name_is_unknown_or_no_name_then_raises_gaierror(host):
    with pytest.raises(socket.gaierror):
        run(_resolve(host, 80))


@pytest.fixture
def stuck_resolver(monkeypatch):
    """A resolver that answers names only once the test is over."""
    release = threading.Event()
    real = socket.getaddrinfo

    def look_up(host, port, *args, **kwargs):
        if kwargs.get("flags"):
            return real(host, port, *args, **kwargs)
        release.wait(20)
        return real("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(dialling, "_lookups", set())
    yield release
    release.set()
    for thread in dialling._lookups:
        thread.join(5)


def test_resolve_when_the_resolver_hangs_then_the_deadline_and_cancelling_end_the_wait(
    stuck_resolver,
):
    async def scenario():
        with pytest.raises(TimeoutError):
            await resolve("brain.example", 80, _deadline(0.05))
        waiting = asyncio.ensure_future(resolve("brain.example", 80, _deadline(30)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(scenario(), seconds=10)

    assert all(thread.daemon for thread in dialling._lookups)


def test_resolve_when_look_ups_pile_up_then_starts_no_more_threads_until_they_end(stuck_resolver):
    async def scenario():
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await resolve("brain.example", 80, _deadline(0.01))
        assert len(dialling._lookups) == 4
        stuck_resolver.set()
        for thread in list(dialling._lookups):
            await asyncio.get_running_loop().run_in_executor(None, thread.join, 5)
        return await resolve("brain.example", 80, _deadline())

    assert run(scenario())[0].ip == "127.0.0.1"


def test_resolve_when_the_loop_is_gone_before_the_answer_then_nothing_is_raised(
    stuck_resolver, monkeypatch
):
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)

    async def scenario():
        with pytest.raises(TimeoutError):
            await resolve("brain.example", 80, _deadline(0.01))

    run(scenario())
    stuck_resolver.set()
    for thread in list(dialling._lookups):
        thread.join(5)

    assert failures == []


def _closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _address(port):
    return Address(socket.AF_INET, ("127.0.0.1", port))


def test_dial_when_the_first_address_refuses_then_takes_the_next():
    async def scenario():
        async with raw_server(silence) as port:
            sock = await dial([_address(_closed_port()), _address(port)], _deadline())
            with sock:
                return sock.getpeername()[1] == port, sock.getblocking()

    assert run(scenario()) == (True, False)


def test_dial_when_all_refuse_then_raises_the_last_reason():
    async def scenario():
        await dial([_address(_closed_port()), _address(_closed_port())], _deadline())

    with pytest.raises(ConnectionRefusedError):
        run(scenario())


@pytest.fixture
def full_backlog():
    """A port where connections neither succeed nor fail: its queue is full and nobody accepts."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


def test_dial_when_an_address_is_silent_then_leaves_time_for_the_next(full_backlog):
    async def scenario():
        async with raw_server(silence) as port:
            sock = await dial([_address(full_backlog), _address(port)], _deadline(1.0))
            with sock:
                return sock.getpeername()[1] == port

    assert run(scenario())


def test_dial_when_nobody_answers_then_times_out_and_leaves_no_socket(full_backlog):
    async def scenario():
        with pytest.raises(TimeoutError):
            await dial([_address(full_backlog)], _deadline(0.1))
        waiting = asyncio.ensure_future(dial([_address(full_backlog)], _deadline(30)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(scenario(), seconds=10)  # a socket left open would be a ResourceWarning, which is an error
