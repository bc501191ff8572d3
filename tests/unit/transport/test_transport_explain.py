from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidURI, NegotiationError, ProxyError
from websockets.frames import Close

from z4j_fastapi.errors import Failure
from z4j_fastapi.transport.explain import Route, explain_close, explain_dial, explain_opening

DIRECT = Route(brain="brain.example:443", proxy=None, open_timeout=10.0)
PROXIED = Route(brain="brain.example:443", proxy="proxy:3128", open_timeout=10.0)


@pytest.mark.parametrize(
    ("error", "text", "kind"),
    [
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            (
                "cannot resolve the name of the brain at brain.example:443: temporary failure in "
                "name resolution; check brain_url (Z4J_BRAIN_URL)"
            ),
            "dns",
        ),
        (
            OSError(errno.ENETUNREACH, "x"),
            "cannot reach the brain at brain.example:443: network is unreachable",
            "tcp",
        ),
        (
            # The kernel's own patience ended, not ours.
            TimeoutError(errno.ETIMEDOUT, "x"),
            "cannot reach the brain at brain.example:443: connection timed out",
            "tcp",
        ),
        (TimeoutError(), "the brain at brain.example:443 did not answer within 10 s", "timeout"),
    ],
)
def test_explain_dial_when_the_first_hop_fails_then_names_it_and_the_reason(error, text, kind):
    explained = explain_dial(error, DIRECT)

    assert explained.message == text
    assert explained.details == {"kind": kind}
    assert explained.failure is Failure.TRANSIENT


def test_explain_dial_when_it_was_the_proxy_then_names_the_proxys_setting():
    message = explain_dial(ConnectionRefusedError(), PROXIED).message

    assert message.startswith("the proxy proxy:3128 refuses connections")
    assert "proxy (Z4J_PROXY)" in message


def test_explain_opening_when_the_library_raises_something_new_then_shows_no_text_of_it():
    error = InvalidURI("http://joe:pass@proxy", "x")

    explained = explain_opening(error, PROXIED)

    assert explained.message == (
        "cannot connect to the brain at brain.example:443 through the proxy proxy:3128: InvalidURI"
    )


@pytest.mark.parametrize(
    ("error", "said", "failure"),
    [
        (asyncio.TimeoutError(), "did not finish the handshake within 10 s", Failure.TRANSIENT),
        (
            ConnectionResetError(errno.ECONNRESET, "x"),
            "connection reset by peer",
            Failure.TRANSIENT,
        ),
        (ConnectionAbortedError("handshake takes too long"), "takes too long", Failure.TRANSIENT),
        (ConnectionResetError(), "ConnectionResetError", Failure.TRANSIENT),
        (ProxyError("x"), "does not answer as an HTTP proxy does", Failure.PROTOCOL),
        (NegotiationError("x"), "not as a WebSocket server", Failure.PROTOCOL),
    ],
)
def test_explain_opening_when_the_handshake_breaks_then_says_how(error, said, failure):
    explained = explain_opening(error, PROXIED)

    assert said in explained.message
    assert explained.failure is failure


@pytest.mark.parametrize("code", [1005, 1006])
def test_explain_close_when_the_code_only_says_none_came_then_says_so(code):
    explained = explain_close(
        ConnectionClosedError(Close(code, ""), None, None), handshake_done=True
    )

    assert explained.message == "the connection ended without a close code"


def test_explain_close_when_we_closed_it_then_no_code_of_the_brains_is_given():
    explained = explain_close(
        ConnectionClosedError(None, Close(1000, ""), None), handshake_done=True
    )

    assert (explained.message, explained.close_code) == ("the connection was closed by us", None)
