"""A child process in a group of its own, its output in a file, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from z4j_fastapi.dev.waiting import wait_until
from z4j_fastapi.errors import Z4JError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_STOP_SECONDS = 15.0
_KILL_SECONDS = 10.0
_TAIL_LINES = 30

# Waits for the end of its standard input, which is when the process that started it is gone, in
# whatever way, and then ends the group. `trap` keeps it from dying with a terminal's Ctrl-C.
_GUARDIAN = 'trap "" INT TERM; read -r _; kill -s KILL -- "-$1" 2>/dev/null'


class ChildError(Z4JError):
    """A child process did not start, ended early or did not get ready."""

    code = "child_error"


class ChildProcess:
    """One child process and everything that it starts itself.

    The process leads its own process group: ending it ends the group. Should this process be
    killed, a small guardian ends the group too.

    Args:
        name: How messages call it.
        command: Program and arguments.
        log_path: File that gets standard output and standard error; appended to.
        env: The whole environment of the child; None inherits ours.
        cwd: Working directory; None inherits ours.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = list(command)
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._group_ended = False

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group.

        Raises:
            ChildError: It was never started.
        """
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs or was never started."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; it may be started again after it ended.

        Raises:
            ChildError: It runs already, or the program cannot be started.
        """
        if self.running:
            raise ChildError(f"{self.name} runs already")
        self._dismiss_guardian()
        try:
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the caller's own command
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    cwd=self._cwd,
                    start_new_session=True,
                )
        except OSError as error:
            raise ChildError(f"{self.name} cannot be started: {error}") from error
        self._group_ended = False
        self._guardian = subprocess.Popen(  # noqa: S603 - a fixed text and a number
            ["/bin/sh", "-c", _GUARDIAN, "guardian", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # else it would hold the pipes of whoever reads our output
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def output(self) -> str:
        """Everything that was written to the log file so far."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of the output, for a message about what went wrong."""
        return "\n".join(self.output().splitlines()[-lines:])

    def wait_for_output(self, text: str, *, timeout_seconds: float = 30.0) -> None:
        """Wait until the output contains a text.

        Raises:
            ChildError: The process ended, or the deadline passed; the text holds the log's tail.
        """

        def seen() -> bool:
            # Asked before looking, so that what a process writes as its last words counts.
            ended = not self.running
            if text in self.output():
                return True
            if ended:
                raise ChildError(f"{self.name} ended ({self.returncode}):\n{self.tail()}")
            return False

        try:
            wait_until(seen, timeout_seconds=timeout_seconds, what=f"{self.name} printing {text!r}")
        except TimeoutError as error:
            raise ChildError(f"{error}\n{self.tail()}") from None

    def wait(self, *, timeout_seconds: float) -> int:
        """Wait for the process to end by itself.

        Returns:
            Its exit status, negative for a signal.

        Raises:
            ChildError: It was never started, or still runs at the deadline.
        """
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        try:
            returncode = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            message = f"{self.name} still runs after {timeout_seconds:g} s:\n{self.tail()}"
            raise ChildError(message) from None
        return returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone, not to its group; nothing if it ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, *, timeout_seconds: float = _STOP_SECONDS) -> int | None:
        """End the process with SIGTERM, and its whole group with SIGKILL at the deadline.

        Args:
            timeout_seconds: How long it may take before it is killed.

        Returns:
            The exit status; None if it was never started.
        """
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
            # Who does not obey is killed below, together with whatever it started.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        return self.kill()

    def kill(self) -> int | None:
        """Kill the whole group at once and collect it.

        Returns:
            The exit status; None if it was never started.
        """
        if self._process is None or self._group_ended:
            return self.returncode
        # Also when the leader has ended: its own children may still be in the group. Nobody being
        # left is what is wanted; macOS says PermissionError of a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        returncode = self._process.wait(_KILL_SECONDS)
        self._group_ended = True  # the number may belong to somebody else from now on
        self._dismiss_guardian()
        return returncode

    def _dismiss_guardian(self) -> None:
        if self._guardian is None:
            return
        self._guardian.kill()
        self._guardian.wait(_KILL_SECONDS)
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._guardian = None
