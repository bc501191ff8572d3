"""Child processes of tests: every one is ended and collected, whatever the test does."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from z4j_fastapi.dev.child import ChildError, ChildProcess
from z4j_fastapi.dev.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ChildError", "ChildProcess", "ProcessFamily", "wait_until"]

REPOSITORY = Path(__file__).resolve().parents[2]


class ProcessFamily:
    """Starts children whose output goes to files of one directory, and ends them all.

    Args:
        directory: Where the log files go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[ChildProcess] = []

    def start(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> ChildProcess:
        """Start one child.

        Args:
            name: Unique within the test; names the log file.
            command: Program and arguments.
            env: Added to (and winning over) this process's environment without its `Z4J_*`.
            cwd: Working directory; the test's own directory when None.
        """
        child = ChildProcess(
            name,
            [os.fspath(part) for part in command],
            log_path=self.directory / f"{name}.log",
            env=environment(env or {}),
            cwd=cwd or self.directory,
        )
        self._children.append(child)
        child.start()
        return child

    def python(
        self,
        name: str,
        *arguments: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        interpreter: Path | None = None,
    ) -> ChildProcess:
        """Start a Python child: this interpreter, or another environment's, with `arguments`."""
        program = interpreter or Path(sys.executable)
        return self.start(name, [program, *arguments], env=env, cwd=cwd)

    def kill_all(self) -> None:
        """Kill every group that is left and collect it, the last one started first."""
        while self._children:
            self._children.pop().kill()

    def tails(self) -> str:
        """The end of every child's output, for a failing test's report."""
        return "\n".join(
            f"--- {child.name} (exit status {child.returncode})\n{child.tail()}"
            for child in self._children
        )


def environment(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its `Z4J_*` variables, and with `added`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("Z4J_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **added}


def kill_hard(pid: int) -> None:
    """`kill -9` of one process (not of its group), which must exist."""
    os.kill(pid, signal.SIGKILL)
