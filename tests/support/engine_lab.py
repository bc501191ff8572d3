"""One agent of one project with real processes: a web application, workers, and their diary."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

from support.ports import LOOPBACK
from support.processes import REPOSITORY, wait_until
from support.web_app import WebApp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from support.brain import BrainProject
    from support.processes import ChildProcess, ProcessFamily
    from support.valkey import ValkeyDatabase

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST_ID = "req-42"
HEADERS = {"traceparent": TRACEPARENT, "x-request-id": REQUEST_ID}


class EngineLab:
    """Processes of one agent (one token), all on one queue of one database.

    Args:
        project: A project of the brain; the lab mints an agent of its own in it.
        engine: `arq` or `taskiq`; modules are `support.apps.<engine>_jobs` and `..._web`.
        database: Where the jobs are.
        processes: Starts the children.
        directory: Of the lab's own, for state and diary.
        worker_command: Arguments of the Python interpreter that start a worker.
    """

    def __init__(
        self,
        project: BrainProject,
        *,
        engine: str,
        database: ValkeyDatabase,
        processes: ProcessFamily,
        directory: Path,
        worker_command: tuple[str, ...],
    ) -> None:
        directory.mkdir()
        self.project = project
        self.engine = engine
        self.database = database
        self.queue = directory.name
        self.agent = project.mint_agent(f"{engine}-{directory.name}")
        self._processes = processes
        self._diary = directory / "diary"
        self._worker_command = worker_command
        self._started = 0
        prefix = f"{engine}_jobs".upper()
        self.env: dict[str, str] = {
            **self.agent.environ(state_dir=directory / "state"),
            f"{prefix}_URL": database.url,
            f"{prefix}_QUEUE": self.queue,
            f"{prefix}_DIARY": str(self._diary),
            "PYTHONPATH": str(REPOSITORY / "tests"),
            "Z4J_HEARTBEAT_SECONDS": "2",  # depths and workers are told with the heartbeat
        }
        self.web: WebApp | None = None

    def start_web(self, *, online: bool = True, **env: str) -> WebApp:
        """The web application; waits until its agent is online."""
        self.web = WebApp(
            self._processes,
            {**self.env, **env},
            name=self._name("web"),
            options=("--log-level", "warning"),
            app=f"support.apps.{self.engine}_web:app",
        ).wait_started()
        if online:
            self.web.wait_online()
        return self.web

    def start_worker(
        self, *options: str, online: int | None = 1, cwd: Path | None = None, **env: str
    ) -> ChildProcess:
        """A worker under the engine's own command line.

        Args:
            options: More arguments of the command.
            online: Wait until so many more processes of the agent are online; None does not wait.
            cwd: Working directory.
            env: More variables, over the lab's.
        """
        before = {session["worker_id"] for session in self.sessions()}
        child = self._processes.python(
            self._name("worker"),
            *self._worker_command,
            *options,
            env={**self.env, **env},
            cwd=cwd,
        )
        if online is not None:

            def connected(_: BrainProject) -> bool:
                now = {session["worker_id"] for session in self.sessions()}
                return len(now - before) == online

            try:
                self.project.wait_for(connected, what=f"{online} more processes online")
            except TimeoutError as error:
                raise AssertionError(f"{error}\n{child.tail(60)}") from None
        return child

    def sessions(self, role: str | None = None) -> list[dict[str, Any]]:
        """The agent's processes that are online."""
        return self.project.agent_workers(self.agent.agent_id, state="online", role=role)

    def _name(self, what: str) -> str:
        self._started += 1
        return f"{self.engine}-{self.queue}-{what}-{self._started}"

    # What a user of the application does

    def post(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON that the web application answers."""
        assert self.web is not None
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.web.port}{path}",
            data=json.dumps(body if body is not None else {}).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def enqueue(
        self,
        name: str,
        *args: object,
        options: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> str:
        """Enqueue through the application's HTTP API with `HEADERS`; the task's id."""
        body = {"args": args, "kwargs": kwargs, "options": options or {}}
        task_id: str = self.post(f"/jobs/{name}", body, HEADERS)
        return task_id

    # What the brain says

    def wait(self, task_id: str, state: str, **options: Any) -> dict[str, Any]:
        """The task's row, once it has that state."""
        return self.project.wait_task(self.engine, task_id, state=state, **options)

    def kinds(self, task_id: str) -> list[str]:
        """Kinds of the task's stored events, sorted."""
        return sorted(row["kind"] for row in self.project.events(self.engine, task_id))

    def wait_kinds(self, task_id: str, *kinds: str) -> list[dict[str, Any]]:
        """Wait until exactly these kinds of events are stored; the events.

        The `task.received` of the enqueue and that of the run count as one: the brain keeps both
        only if they are of different seconds.
        """
        wanted = sorted(kinds)

        def stored(project: BrainProject) -> list[dict[str, Any]] | None:
            rows = project.events(self.engine, task_id)
            found = [row["kind"] for row in rows if row["kind"] != "task.received"]
            stages = [row["payload"]["stage"] for row in rows if row["kind"] == "task.received"]
            if stages and len(set(stages)) == len(stages):
                found.append("task.received")
            return rows if sorted(found) == wanted else None

        try:
            return self.project.wait_for(stored, what=f"events {wanted} of {task_id}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; stored: {self.kinds(task_id)}") from None

    def command(self, action: str, **body: Any) -> dict[str, Any]:
        """Issue a command to the lab's agent and wait for its end."""
        return self.project.command(action, self.agent.agent_id, **body)

    def task_command(self, action: str, task_id: str, **body: Any) -> dict[str, Any]:
        """A command about one task."""
        return self.command(action, engine=self.engine, task_id=task_id, **body)

    # What really happened

    def diary(self, what: str | None = None, task_id: str | None = None) -> list[dict[str, Any]]:
        """Lines that tasks wrote, in order."""
        if not self._diary.exists():
            return []
        lines = [json.loads(line) for line in self._diary.read_text().splitlines()]
        return [
            line for line in lines if what in (None, line["what"]) and task_id in (None, line["id"])
        ]

    def wait_diary(
        self, condition: Callable[[list[dict[str, Any]]], object], *, what: str
    ) -> list[dict[str, Any]]:
        """Wait until the diary's lines fulfil a condition."""
        return wait_until(
            lambda: lines if condition(lines := self.diary()) else None,
            timeout_seconds=30,
            what=what,
        )
