"""Free TCP ports on the loopback address."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"

# Below the range from which the systems take the ports of outgoing connections (Linux: 32768 and
# up). A client that keeps connecting to a dead server inside that range is sooner or later given
# the server's own port, connects to itself, and the server can never come back to it.
_FIRST_PORT = 15_000
_LAST_PORT = 32_000
_ATTEMPTS = 200


def free_port() -> int:
    """Pick a port on the loopback address on which nobody listens at the moment.

    Returns:
        The port's number, outside the range of outgoing connections.

    Raises:
        OSError: None of many ports was free.
    """
    choose = random.SystemRandom()  # forked test processes must not draw the same numbers
    for _ in range(_ATTEMPTS):
        port = choose.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}")


def is_listening(port: int, *, host: str = LOOPBACK) -> bool:
    """Tell whether somebody accepts connections on a port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
