"""From a host name to a connected socket, cancellable at every point.

Names are looked up on daemon threads of our own. The loop's executor would do, but the interpreter
joins its threads at exit, so a resolver that does not answer would hold the host's exit up for as
long as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

#: Look-ups that may hang at once; each holds a thread until the resolver gives up.
_MAX_LOOKUPS = 4
_lookups: set[threading.Thread] = set()


@dataclass(frozen=True, slots=True)
class Address:
    """One place where a host may be reached, as the resolver gave it."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def ip(self) -> str:
        """The numeric address."""
        return str(self.sockaddr[0])


async def resolve(host: str, port: int, deadline: float) -> list[Address]:
    """The addresses of `host`, best first.

    Args:
        host: Name or numeric address, IPv6 without brackets.
        port: 1 to 65535.
        deadline: On the loop's clock.
    Raises:
        OSError: Not known. `TimeoutError` when the resolver does not answer, or still owes the
            answers to earlier calls.
    """
    with contextlib.suppress(socket.gaierror):  # a name, then
        return _look_up(host, port, flags=socket.AI_NUMERICHOST)
    _lookups.intersection_update([thread for thread in _lookups if thread.is_alive()])
    if len(_lookups) >= _MAX_LOOKUPS:
        raise TimeoutError("the resolver does not answer")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()
    thread = threading.Thread(
        target=_look_up_for, args=(host, port, loop, answer), name="z4j-resolver", daemon=True
    )
    _lookups.add(thread)
    thread.start()
    await asyncio.wait({answer}, timeout=max(deadline - loop.time(), 0.0))
    if not answer.done():
        answer.cancel()
        raise TimeoutError("the resolver does not answer")
    return answer.result()


def _look_up(host: str, port: int, *, flags: int = 0) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:  # an empty or overlong label; the resolver was not even asked
        raise socket.gaierror(socket.EAI_NONAME, "not a valid host name") from None
    return [Address(int(family), sockaddr) for family, _, _, _, sockaddr in found]


def _look_up_for(
    host: str, port: int, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[Address]]
) -> None:
    try:
        tell = partial(_resolved, answer, _look_up(host, port))
    except OSError as error:
        tell = partial(_failed, answer, error)
    with contextlib.suppress(RuntimeError):  # the loop is gone, and nobody waits
        loop.call_soon_threadsafe(tell)


def _resolved(answer: asyncio.Future[list[Address]], found: list[Address]) -> None:
    if not answer.done():
        answer.set_result(found)


def _failed(answer: asyncio.Future[list[Address]], error: OSError) -> None:
    if not answer.done():
        answer.set_exception(error)


async def dial(addresses: Sequence[Address], deadline: float) -> socket.socket:
    """Connect to the first address that answers.

    Each gets an equal share of the time left, so that a dead IPv6 route does not eat it all.

    Args:
        addresses: At least one.
        deadline: On the loop's clock.
    Returns:
        A connected, non-blocking socket, which the caller owns.
    Raises:
        OSError: None could be reached; the last one's reason. `TimeoutError` when it was silence.
    """
    loop = asyncio.get_running_loop()
    problem: OSError = TimeoutError("timed out")
    for index, address in enumerate(addresses):
        share = (deadline - loop.time()) / (len(addresses) - index)
        try:
            return await _dial_one(address, share)
        except OSError as error:
            problem = error
    raise problem


async def _dial_one(address: Address, seconds: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    # The protocol by name: asyncio sets TCP_NODELAY only where it reads TCP there, and without it a
    # command's result waits 40 ms for the acknowledgement of the frame before it.
    sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        attempt = asyncio.ensure_future(loop.sock_connect(sock, address.sockaddr))
        # When we are cancelled while it fails, nobody else asks for its error.
        attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({attempt}, timeout=max(seconds, 0.0))
        finally:
            if not attempt.done():
                attempt.cancel()
                # The loop must let go of the descriptor before it is closed.
                await asyncio.wait({attempt})
        connected = not attempt.cancelled() and attempt.result() is None
    except BaseException:
        sock.close()
        raise
    if not connected:
        sock.close()
        raise TimeoutError("timed out")
    return sock
