"""Starts `apps.agent_app` under a real server and talks to it over HTTP."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from support.ports import LOOPBACK, free_port
from support.processes import REPOSITORY, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.processes import ChildProcess, ProcessFamily

APP = "support.apps.agent_app:app"
_ANSWER_SECONDS = 60.0


class WebApp:
    """One server of the application.

    Args:
        processes: Where children are started.
        env: The agent's and the application's environment variables.
        name: Unique within the test; names the log file.
        options: More arguments for uvicorn.
        command: The whole server command instead of uvicorn's; `{port}` is replaced.
    """

    def __init__(
        self,
        processes: ProcessFamily,
        env: Mapping[str, str],
        *,
        name: str = "app",
        options: tuple[str, ...] = (),
        command: tuple[str, ...] | None = None,
        cwd: Path | None = None,
        app: str = APP,
    ) -> None:
        self.port = free_port()
        arguments = command or ("-m", "uvicorn", app, "--port", "{port}", *options)
        self.process: ChildProcess = processes.python(
            name,
            *(argument.replace("{port}", str(self.port)) for argument in arguments),
            env={
                "PYTHONPATH": os.pathsep.join([str(cwd), str(REPOSITORY / "tests")]),
                **env,
            },
            cwd=cwd,
        )

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What the application said of itself: `started` and `stopped`."""
        said: list[dict[str, Any]] = []
        for line in self.process.output().splitlines():
            if line.startswith('{"pid"'):
                parsed = json.loads(line)
                if parsed["event"] == event:
                    said.append(parsed)
        return said

    def wait_started(self, workers: int = 1, *, timeout_seconds: float = 60.0) -> WebApp:
        """Wait until so many workers said that they started, and the server answers."""

        def started() -> bool:
            if not self.process.running:
                raise AssertionError(f"the server ended:\n{self.process.tail(60)}")
            return len(self.lines("started")) >= workers

        wait_until(started, timeout_seconds=timeout_seconds, what=f"{workers} workers")
        wait_until(self._answers, timeout_seconds=20, what="an answer")
        return self

    def _answers(self) -> bool:
        try:
            self.get("/status")
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        """The JSON of a GET request."""
        return self._ask("GET", path)

    def post(self, path: str, **query: object) -> Any:
        """The JSON of a POST request."""
        return self._ask("POST", f"{path}?{urlencode(query)}")

    def post_last(self, path: str, **query: object) -> None:
        """A request over which the server dies."""
        try:
            self.post(path, **query)
        except (OSError, HTTPException):
            return
        raise AssertionError(f"{path} was answered")

    def _ask(self, method: str, path: str) -> Any:
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = f"{path}: {error.code} {error.read().decode()}\n{self.process.tail(60)}"
            raise AssertionError(text) from None

    def wait_status(self, what: str, condition: Any, *, timeout_seconds: float = 20.0) -> Any:
        """Wait until `condition(status)` is true of the runtime's status."""

        def probe() -> Any:
            status = self.get("/status")
            return status if condition(status) else None

        return wait_until(probe, timeout_seconds=timeout_seconds, what=what)

    def wait_online(self) -> Any:
        return self.wait_status("online", lambda status: status["connection"] == "online")

    def terminate(self, *, timeout_seconds: float = 20.0) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_seconds=timeout_seconds)


def outbox_directories(state: Path) -> list[str]:
    """Worker directories below a state directory; the journal's is not one."""
    return sorted(
        str(entry.relative_to(state))
        for entry in state.glob("outbox/*/*")
        if entry.is_dir() and entry.name != "journal"
    )
