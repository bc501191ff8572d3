"""What the runtime needs of a transport: connect, receive, send, close."""

from __future__ import annotations

from typing import Protocol


class Connection(Protocol):
    """One open connection to the brain. Used on the agent's loop only."""

    async def send(self, data: bytes) -> None:
        """Hand one frame to the network; waits while the peer does not read.

        Raises:
            TransportError: The connection is gone; `failure` says why.
        """
        ...

    async def receive(self) -> bytes:
        """Wait for the next frame.

        Raises:
            TransportError: The connection is gone; `failure` and `close_code` say why.
        """
        ...

    async def close(self) -> None:
        """Close within the close timeout, whatever the peer does. Idempotent, never raises."""
        ...


class Transport(Protocol):
    """How to reach the brain. Built once; `connect` is called for every session."""

    @property
    def name(self) -> str:
        """`ws` or `longpoll`."""
        ...

    def preload(self) -> None:
        """Import everything `connect` needs, on the caller's thread.

        Nothing may be imported on the agent's thread: a fork meanwhile would leave the child's
        import lock held.
        """
        ...

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of the parent's socket without closing the parent's session."""
        ...

    async def connect(self) -> Connection:
        """Open one connection and authenticate it. Cancellable at any point.

        Raises:
            TransportError: With the failure class that decides the backoff.
        """
        ...
