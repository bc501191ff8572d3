"""The real brain for tests: the process, and one project of it with readable questions."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from support.environments import brain_program

from z4j_fastapi.dev.launcher import LocalBrain
from z4j_fastapi.dev.provision import AgentCredentials, mint_agent, provision_project
from z4j_fastapi.dev.rest import BrainApiError, BrainRest
from z4j_fastapi.dev.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_T = TypeVar("_T")

_TOO_MANY_REQUESTS = 429
_AGENT_OFFLINE = 503
_NOT_FOUND = 404
_PAGE = 1000
_FINAL_STATUSES = frozenset({"completed", "failed", "timeout", "cancelled"})
_CURRENT_MINUTE_SECONDS = 61.0


class RealBrain(LocalBrain):
    """A brain of the test environment, with projects numbered so that tests never share one."""

    def __init__(self, state_dir: Path, *, extra_env: Mapping[str, str] | None = None) -> None:
        super().__init__(brain_program("z4j"), state_dir=state_dir, extra_env=extra_env)
        self._numbers = itertools.count(1)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or `kill -9`) and start again: same port, same state."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def provision_project(self, name: str = "test") -> BrainProject:
        """A new project of its own slug, without agents."""
        slug = f"{name}-{next(self._numbers)}"
        rest = self.rest()
        project_id = provision_project(rest, slug=slug)
        return BrainProject(rest, url=self.url, slug=slug, project_id=project_id)


class BrainProject:
    """What the brain says about one project, and the orders an operator can give there.

    Rows are the brain's own JSON objects. Not thread-safe.
    """

    def __init__(self, rest: BrainRest, *, url: str, slug: str, project_id: str) -> None:
        self.rest = rest
        self.url = url
        self.slug = slug
        self.project_id = project_id

    # Agents

    def mint_agent(self, name: str = "agent", *, brain_url: str | None = None) -> AgentCredentials:
        """A new agent; `brain_url` puts a fault proxy between it and the brain."""
        return mint_agent(self.rest, brain_url=brain_url or self.url, slug=self.slug, name=name)

    def agents(self) -> list[dict[str, Any]]:
        """Agent rows: `state`, `engine_adapters`, `capabilities` (of the last hello), ..."""
        return self._get("/agents")

    def agent(self, agent_id: str) -> dict[str, Any]:
        """One agent's row."""
        return next(row for row in self.agents() if row["id"] == agent_id)

    def revoke_agent(self, agent_id: str) -> None:
        """End an agent: its connections close with 4003, its token is worth nothing."""
        self.rest.delete(f"{self._base}/agents/{agent_id}")

    def agent_health(self, agent_id: str) -> list[dict[str, Any]]:
        """The agent's last status samples, newest first."""
        return self._get(f"/agents/{agent_id}/health")

    def agent_workers(
        self, agent_id: str | None = None, *, state: str | None = None, role: str | None = None
    ) -> list[dict[str, Any]]:
        """Connections (processes) of the project or of one agent: `worker_id`, `role`, `pid`."""
        rows = self._get("/agent-workers", {"state": state, "role": role, "limit": 500})
        return [row for row in rows if agent_id in (None, row["agent_id"])]

    # Tasks and what happened to them

    def tasks(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        queue: str | None = None,
        worker: str | None = None,
    ) -> list[dict[str, Any]]:
        """All task rows, over all pages."""
        query = {"state": state, "name": name, "queue": queue, "worker": worker}
        return self._pages("/tasks", query)

    def count_tasks(self, *, state: str | None = None) -> int:
        """Number of task rows, counted by the brain."""
        query = {"state": state, "limit": 1, "include_total": "true"}
        return int(self.rest.get(f"{self._base}/tasks", query)["total_count"])

    def task(self, engine: str, task_id: str) -> dict[str, Any] | None:
        """One task's row with its arguments, result and traceback; None if there is none."""
        try:
            row: dict[str, Any] = self.rest.get(f"{self._base}/tasks/{engine}/{task_id}")
        except BrainApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return row

    def events(self, engine: str, task_id: str) -> list[dict[str, Any]]:
        """All stored events of one task; `occurred_at` is cut to the second, ids are others."""
        return self._pages("/events", {"engine": engine, "task_id": task_id})

    def workers(self, engine: str | None = None) -> list[dict[str, Any]]:
        """Task workers known from events: `name`, `queues`, `state`, `processed`, ..."""
        return [row for row in self._get("/workers") if engine in (None, row["engine"])]

    def queues(self) -> list[dict[str, Any]]:
        """Queues that were ever seen."""
        return self._get("/queues")

    def queue_depths(self) -> list[dict[str, Any]]:
        """Depths last reported: `name`, `engine`, `pending_count`."""
        depths: list[dict[str, Any]] = self.stats()["queue_depths"]
        return depths

    def stats(self) -> dict[str, Any]:
        """The project's overview, such as `tasks_by_state` and `agents_online`."""
        row: dict[str, Any] = self.rest.get(f"{self._base}/stats")
        return row

    # Orders

    def command(
        self,
        action: str,
        agent_id: str,
        *,
        wait_seconds: float | None = 70.0,
        may_be_offline: bool = False,
        **body: object,
    ) -> dict[str, Any]:
        """Issue a command and wait for its end.

        Waits out the brain's limit of ten bulk retries, purges, ... a minute.

        Args:
            action: As in the path: `retry-task`, `cancel-task`, `bulk-retry`, `purge-queue`, ...
            agent_id: Whom it is for.
            wait_seconds: How long to wait for a final status; None returns the row as issued.
            may_be_offline: The brain answers 503 for an agent that is away but keeps the row;
                then hand on the row.
            body: The other members of the request.

        Returns:
            The command's row: `id`, `status`, `result`, `error`, ...

        Raises:
            BrainApiError: The brain refused it.
            TimeoutError: No final status in time.
        """
        key = str(body.setdefault("idempotency_key", str(uuid.uuid4())))
        before = {row["id"] for row in self.commands()} if may_be_offline else set()
        request = {"agent_id": agent_id, **body}
        try:
            row = self._post_patiently(f"{self._base}/commands/{action}", request)
        except BrainApiError as error:
            if not (may_be_offline and error.status == _AGENT_OFFLINE):
                raise
            row = next(row for row in self.commands() if row["id"] not in before)
        if wait_seconds is None:
            return row
        return self.wait_command(row["id"], timeout_seconds=wait_seconds, what=f"{action} {key}")

    def commands(self, *, status: str | None = None) -> list[dict[str, Any]]:
        """All commands, newest first."""
        return self._pages("/commands", {"status": status})

    def command_row(self, command_id: str) -> dict[str, Any]:
        """One command as it is now."""
        row: dict[str, Any] = self.rest.get(f"{self._base}/commands/{command_id}")
        return row

    def wait_command(
        self, command_id: str, *, timeout_seconds: float = 70.0, what: str = "command"
    ) -> dict[str, Any]:
        """Wait until a command is completed, failed, timed out or cancelled."""

        def ended() -> dict[str, Any] | None:
            row = self.command_row(command_id)
            return row if row["status"] in _FINAL_STATUSES else None

        return wait_until(ended, timeout_seconds=timeout_seconds, what=f"end of {what}")

    def bulk_retry(
        self, agent_id: str, engine: str, task_ids: Sequence[str], **options: Any
    ) -> dict[str, Any]:
        """Retry tasks by reference, in one command."""
        selection = {"engine": engine, "task_ids": list(task_ids)}
        return self.command("bulk-retry", agent_id, filter=selection, max=len(task_ids), **options)

    def durable_bulk_retry(
        self, agent_id: str, selection: Mapping[str, object], *, maximum: int = 1000
    ) -> dict[str, Any]:
        """Seal a durable retry request, which sends a command for each task; the request's row."""
        row: dict[str, Any] = self._post_patiently(
            f"{self._base}/bulk-retry-requests",
            {
                "idempotency_key": str(uuid.uuid4()),
                "agent_id": agent_id,
                "filter": dict(selection),
                "max": maximum,
            },
        )
        return row

    # Waiting

    def wait_for(
        self,
        probe: Callable[[BrainProject], _T | None],
        *,
        timeout_seconds: float = 30.0,
        what: str = "condition at the brain",
    ) -> _T:
        """Ask until `probe(self)` is true; returns what it returned."""
        return wait_until(
            lambda: probe(self), timeout_seconds=timeout_seconds, what=what, interval_seconds=0.2
        )

    def wait_task(
        self, engine: str, task_id: str, *, state: str, timeout_seconds: float = 30.0
    ) -> dict[str, Any]:
        """Wait until a task's row has a state; on failure the error shows the row as it is."""

        def reached(project: BrainProject) -> dict[str, Any] | None:
            row = project.task(engine, task_id)
            return row if row is not None and row["state"] == state else None

        what = f"{engine} task {task_id} in state {state}"
        try:
            return self.wait_for(reached, timeout_seconds=timeout_seconds, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; row: {self.task(engine, task_id)}") from None

    def wait_online(
        self, agent_id: str, *, processes: int = 1, timeout_seconds: float = 30.0
    ) -> list[dict[str, Any]]:
        """Wait until an agent has exactly so many processes connected; their rows."""

        def connected(project: BrainProject) -> list[dict[str, Any]] | None:
            rows = project.agent_workers(agent_id, state="online")
            return rows if len(rows) == processes else None

        return self.wait_for(
            connected, timeout_seconds=timeout_seconds, what=f"{processes} processes online"
        )

    # Plumbing

    @property
    def _base(self) -> str:
        return f"/projects/{self.slug}"

    def _get(self, path: str, query: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.rest.get(self._base + path, query)
        return rows

    def _pages(self, path: str, query: Mapping[str, object]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.rest.get(self._base + path, {**query, "limit": _PAGE, "cursor": cursor})
            rows += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return rows

    def _post_patiently(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        deadline = time.monotonic() + _CURRENT_MINUTE_SECONDS
        while True:
            try:
                row: dict[str, Any] = self.rest.post(path, body)
            except BrainApiError as error:
                late = time.monotonic() >= deadline
                if error.status != _TOO_MANY_REQUESTS or late:
                    raise
                # The one wait here that is for a time: it is the brain that names it.
                time.sleep(min(error.retry_after_seconds or 5.0, _CURRENT_MINUTE_SECONDS))
            else:
                return row
