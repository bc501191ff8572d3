"""What a command method may ask for while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.signing import verify_purge_token

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.protocol.commands import PurgeQueue

T = TypeVar("T")

#: Time kept back for the answer to reach the brain before `timeout_at` (commands.md 12, 3).
_ANSWER_SECONDS = 5.0
_SHORT_TIMEOUT_SECONDS = 10


def work_seconds(timeout_seconds: int) -> float:
    """How long a command may work: its timeout less 5 s, or half of it when below 10 s."""
    if timeout_seconds < _SHORT_TIMEOUT_SECONDS:
        return timeout_seconds / 2
    return timeout_seconds - _ANSWER_SECONDS


class DispatchContext:
    """One command's context; implements `engines.base.CommandContext`.

    Args:
        clock: For the deadline.
        seconds: How long the command may work.
        executor: The agent's small pool for blocking broker calls.
        signing_key: Key of the purge token.
        purge_threshold: Deeper queues need `force`; None for the engine's default of no limit.
        logger: Forced purges are logged.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        seconds: float,
        executor: Executor,
        signing_key: bytes,
        purge_threshold: int | None,
        logger: structlog.stdlib.BoundLogger,
    ) -> None:
        self._clock = clock
        self._deadline = clock.monotonic() + seconds
        self._executor = executor
        self._signing_key = signing_key
        self._purge_threshold = purge_threshold
        self._logger = logger

    def remaining_seconds(self) -> float:
        """Seconds until the dispatcher gives up; never below 0."""
        return max(0.0, self._deadline - self._clock.monotonic())

    async def run_blocking(self, call: Callable[..., T], /, *args: Any) -> T:
        """Run a blocking broker call in the agent's small thread pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(call, *args))

    def authorize_purge(self, command: PurgeQueue, depth: int | None) -> None:
        """Check the confirm token against the depth measured now.

        Args:
            command: The purge being carried out.
            depth: Messages waiting at this moment; None when it cannot be measured.
        Raises:
            CommandError: `refused`, saying which rule was broken.
        Spec: commands.md section 5.
        """
        if command.force:
            self._logger.warning("purge_forced", queue=command.queue, depth=depth)
            return
        if depth is None:
            raise CommandError(
                "refused", f"the depth of queue {command.queue!r} cannot be measured; use force"
            )
        if depth == 0:
            return
        if command.confirm_token is None:
            raise CommandError("refused", "a purge needs a confirm token or force")
        if self._purge_threshold is not None and depth > self._purge_threshold:
            raise CommandError(
                "refused",
                f"queue {command.queue!r} holds {depth} messages, more than the threshold of "
                f"{self._purge_threshold}; use force",
            )
        if not verify_purge_token(self._signing_key, command.queue, depth, command.confirm_token):
            raise CommandError(
                "refused",
                f"the depth of queue {command.queue!r} moved (it is {depth} now); look again and "
                "confirm the new depth",
            )
