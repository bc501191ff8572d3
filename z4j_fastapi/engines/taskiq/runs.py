"""One execution of a task in this process, from `pre_execute` to `post_execute`."""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskiq.message import TaskiqMessage

from z4j_fastapi.correlation import Correlation
from z4j_fastapi.events import TaskFields

if TYPE_CHECKING:
    from z4j_fastapi.task_meta import TaskMeta


class Outcome(str, enum.Enum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    REVOKED = "revoked"


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """One attempt of one task.

    Args:
        message: As `pre_execute` got it; its labels are the ones retry middlewares read.
        fields: Fields that every event of the run carries.
        attempt: 1-based.
        requeues: Value of the requeue label at the start; `Context.requeue()` raises it.
        started_at_monotonic: Our own clock; taskiq's `execution_time` has two decimals.
        meta: The task's `z4j_meta`, if it has one.
        loop, task: Where the receiver runs this message.
        function: The body.
        in_place: It runs inside the caller's own coroutine.
    """

    message: TaskiqMessage
    fields: TaskFields
    attempt: int
    requeues: int = 0
    started_at_monotonic: float | None = None
    meta: TaskMeta | None = None
    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[object] | None = None
    function: Callable[..., object] | None = None
    in_place: bool = False
    exception: BaseException | None = None
    ended_at_monotonic: float | None = None
    was_resent: bool = False
    cancel_requested: bool = False
    outcome: Outcome | None = None
    on_end: list[Callable[[Outcome], None]] = field(default_factory=list[Callable[[Outcome], None]])
    watch: Callable[[asyncio.Task[object]], object] | None = None
    run_token: Token[Run | None] | None = None
    correlation_token: Token[Correlation | None] | None = None

    @property
    def task_id(self) -> str:
        """Id of the task."""
        return self.message.task_id

    @property
    def is_interruptible(self) -> bool:
        """Whether the body is a coroutine in an asyncio task of the receiver's own."""
        return inspect.iscoroutinefunction(self.function) and not self.in_place

    @property
    def task_name(self) -> str:
        """The registered name."""
        return self.message.task_name


#: The run whose body, or whose hooks, are executing in this context.
current_run: ContextVar[Run | None] = ContextVar("z4j_fastapi_taskiq_run", default=None)
