"""An engine adapter that only writes down what it was told to do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from z4j_fastapi.engines.base import CommandOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class RecordingEngine:
    """Implements `EngineAdapter` for the engine name `arq`.

    Args:
        path: Gets one line a call, on the disk before the command's effect; None for memory only.
        behaviour: What `cancel_task` does then: `ok`, `kill` (the whole process, with SIGKILL),
            `hang` (on the agent's loop), `block` (a thread of the agent's pool), or `named`: the
            one of these that the task id begins with.
    """

    name = "arq"

    def __init__(self, path: Path | None = None, *, behaviour: str = "ok") -> None:
        self.path = path
        self.behaviour = behaviour
        self.calls: list[str] = []
        self.attached = False

    def capabilities(self) -> Sequence[str]:
        return ("cancel_task",)

    def attach(self, attachment: Any) -> None:
        self.attached = True

    def detach(self) -> None:
        self.attached = False

    def tasks(self) -> Sequence[Any]:
        return ()

    async def queues(self) -> Mapping[str, int]:
        return {}

    async def workers(self) -> Mapping[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass

    async def cancel_task(self, command: Any, context: Any) -> CommandOutcome:
        self._note(f"ran {command.task_id}")
        behaviour = self.behaviour
        if behaviour == "named":
            behaviour = command.task_id.partition("-")[0]
        if behaviour == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif behaviour == "hang":
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self._note(f"cancelled {command.task_id}")
                raise
        elif behaviour == "block":
            await context.run_blocking(time.sleep, 25)
        return CommandOutcome(result={"task_id": command.task_id, "pid": os.getpid()})

    def _note(self, line: str) -> None:
        self.calls.append(line)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{line}\n")
                file.flush()
                os.fsync(file.fileno())
