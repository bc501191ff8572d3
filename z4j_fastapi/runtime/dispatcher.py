"""Commands: acknowledge, claim, run, answer. At most once, and always an answer.

    received -> acknowledged -> claimed (durable) -> run -> result (durable) -> sent

Seen before and finished: the stored result again. Running when its process died: `failed`,
outcome unknown, never run again (commands.md 12, design.md 6).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from z4j_fastapi.engines.base import (
    COMMAND_METHODS,
    CommandMethod,
    CommandOutcome,
    EngineAdapter,
)
from z4j_fastapi.errors import CommandError, OutboxError
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.journal import Claim, ClaimState
from z4j_fastapi.protocol.commands import (
    BulkRetry,
    Command,
    PurgeQueue,
    RetryTask,
    parse_command,
    parse_envelope,
)
from z4j_fastapi.runtime import control_record
from z4j_fastapi.runtime.blocking_pool import BlockingPool
from z4j_fastapi.runtime.command_context import DispatchContext, work_seconds
from z4j_fastapi.runtime.command_result import redacted_result_payload, with_claim_token

if TYPE_CHECKING:
    import structlog

    from z4j_fastapi.clock import Clock
    from z4j_fastapi.observability.tracing import Tracing
    from z4j_fastapi.outbox.base import Outbox
    from z4j_fastapi.outbox.journal import CommandJournal
    from z4j_fastapi.redaction import Redactor

#: Commands under way at once; the brain pushes without pacing (commands.md 2).
MAX_CONCURRENT = 16
#: Threads for blocking engines' broker calls.
BLOCKING_THREADS = 4

OUTCOME_UNKNOWN = "failed: the agent was interrupted while the command ran; outcome unknown"


class _Turn:
    """Commands of one task, queue or worker take turns in the order in which they came."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Dispatcher:
    """Executes the brain's commands through the attached engines. Agent's loop only.

    Args:
        outbox: Acknowledgements and results go there before they are sent.
        journal: Durable claims of all processes of this deployment.
        redactor: Applied to results and errors.
        clock: For deadlines.
        signing_key: Key of the purge token.
        purge_threshold: Deeper queues need `force`; None for no threshold.
        logger: For `z4j_fastapi.runtime`.
        tracing: Spans `z4j.command` and the command duration.
        original_task_id: Engine's own id for one that was replaced on the wire.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        journal: CommandJournal,
        redactor: Redactor,
        clock: Clock,
        signing_key: bytes,
        purge_threshold: int | None,
        logger: structlog.stdlib.BoundLogger,
        tracing: Tracing,
        original_task_id: Callable[[str], str],
    ) -> None:
        self._outbox = outbox
        self._journal = journal
        self._redactor = redactor
        self._clock = clock
        self._signing_key = signing_key
        self._purge_threshold = purge_threshold
        self._logger = logger
        self._tracing = tracing
        self._original_task_id = original_task_id
        self._engines: Mapping[str, EngineAdapter] = {}
        self._process = "this process"
        self._wake: Callable[[], None] = lambda: None
        self._start_over()

    def _start_over(self) -> None:
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[str, _Turn] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._executor = BlockingPool(BLOCKING_THREADS, name="z4j-command")
        # Apart from the broker calls: those may all hang, and then every command is still answered.
        self._journal_thread = BlockingPool(1, name="z4j-journal")

    def bind(
        self,
        *,
        engines: Mapping[str, EngineAdapter],
        process: str,
        wake: Callable[[], None],
    ) -> None:
        """Tell what there is to command: called when the runtime starts.

        Args:
            engines: Attached adapters by name; a live mapping.
            process: This process in words (worker id and role), for errors.
            wake: Called when an answer waits in the outbox.
        """
        self._engines = engines
        self._process = process
        self._wake = wake
        self._start_over()

    def preload(self) -> None:
        """Import what the first command needs, on the caller's thread.

        Nothing may be imported on the agent's thread: a fork meanwhile would leave the child's
        import lock held.
        """
        self._journal.preload()

    def reinit_after_fork(self) -> None:
        """In a forked child: the parent runs and answers its own commands."""
        self._start_over()
        self._engines = {}
        self._journal.reinit_after_fork()

    def take(self, command_id: str, payload: Mapping[str, object]) -> None:
        """Accept a verified command: acknowledge it at once, run it beside the others."""
        head = parse_envelope(command_id, payload)
        if self._closing and head.action == "schedule.fire":
            # Unacknowledged it is sent again, to whoever is there; a failed one would disable its
            # schedule (commands.md 8).
            return
        self._answer(control_record.ACK, command_id, {"delivery_claim_token": head.claim_token})
        if self._closing:
            refusal = "refused: the agent is stopping; the command was not run"
            self._answer(control_record.RESULT, command_id, self._payload(head, None, refusal))
            return
        task = asyncio.get_running_loop().create_task(
            self._carry_out(head, payload), name=f"z4j-command-{command_id}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("command_failed_internally", error=type(error).__name__)

    @property
    def running(self) -> int:
        """Commands under way."""
        return len(self._tasks)

    async def aclose(self, grace_seconds: float) -> None:
        """Let running commands finish for a moment, then cancel and answer them.

        What comes later is turned away.
        """
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        self._executor.shutdown()
        self._journal_thread.shutdown()
        self._journal.close()

    async def recover(self) -> None:
        """Answer what a dead process of this agent left unanswered. Nothing is run."""
        loop = asyncio.get_running_loop()
        for left in await loop.run_in_executor(self._journal_thread, self._journal.interrupted):
            payload = self._unknown_outcome(left.claim_token)
            self._answer(control_record.RESULT, left.command_id, payload)
            await loop.run_in_executor(self._journal_thread, self._finish, left.identities, payload)

    # -- one command -----------------------------------------------------------------------------

    async def _carry_out(self, head: Command, payload: Mapping[str, object]) -> None:
        command: Command = head
        problem: CommandError | None = None
        try:
            command = self._translate(parse_command(head.id, payload))
            if isinstance(command, RetryTask):
                command.require_usable_eta(self._clock.now().timestamp())
        except CommandError as error:
            problem = error
        started = self._clock.monotonic()
        key = command.order_key
        if key is None:
            await self._claim_and_run(command, problem, started)
            return
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        held = False
        try:
            try:
                held = await turn.lock.acquire()
            except asyncio.CancelledError:
                problem = _not_begun()
            await self._claim_and_run(command, problem, started)
        finally:
            if held:
                turn.lock.release()
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    def _translate(self, command: Command) -> Command:
        """Put the engine's own task ids in place of those that were replaced on the wire."""
        if isinstance(command, BulkRetry):
            originals = tuple(self._original_task_id(task_id) for task_id in command.task_ids)
            if originals == command.task_ids:
                return command
            names, priorities = (
                {self._original_task_id(task_id): text for task_id, text in texts.items()}
                for texts in (command.task_names, command.task_priorities)
            )
            return dataclasses.replace(
                command, task_ids=originals, task_names=names, task_priorities=priorities
            )
        task_id = getattr(command, "task_id", None)
        if isinstance(task_id, str):
            original = self._original_task_id(task_id)
            if original != task_id:
                changes: dict[str, str] = {"task_id": original}
                return dataclasses.replace(command, **changes)  # type: ignore[arg-type]
        return command

    async def _claim_and_run(
        self, command: Command, problem: CommandError | None, started: float
    ) -> None:
        try:
            claim, stopping = await self._claim(command)
        except OutboxError as error:
            # Without a durable claim it might run twice: refuse.
            refusal = f"refused: the command journal cannot be written: {error.message}"
            self._answer(control_record.RESULT, command.id, self._payload(command, None, refusal))
            return
        if claim.state is ClaimState.RUNNING:
            return  # its owner is alive and answers
        token = command.claim_token if command.claim_token is not None else claim.claim_token
        command = dataclasses.replace(command, claim_token=token)
        if claim.state is ClaimState.FINISHED and claim.result is not None:
            payload = claim.result
            if token != claim.claim_token:  # the same fire in another command
                payload = with_claim_token(payload, token)
            self._answer(control_record.RESULT, command.id, payload)
            return
        if claim.state is ClaimState.INTERRUPTED:
            payload = self._unknown_outcome(token)
        else:
            payload = await self._outcome(command, _not_begun() if stopping else problem, started)
        # The outbox first: after a crash in between, the brain keeps the first answer it gets.
        self._answer(control_record.RESULT, command.id, payload)
        await asyncio.get_running_loop().run_in_executor(
            self._journal_thread, self._finish, command.identities, payload
        )

    async def _claim(self, command: Command) -> tuple[Claim, bool]:
        """Claim a command; and whether the runtime began to stop meanwhile.

        The thread claims it whether we wait or not, so we do: else it would stay unanswered.
        """
        claiming = asyncio.get_running_loop().run_in_executor(
            self._journal_thread,
            lambda: self._journal.claim(
                command.identities, action=command.action, claim_token=command.claim_token
            ),
        )
        try:
            return await asyncio.shield(claiming), False
        except asyncio.CancelledError:
            return await claiming, True

    def _finish(self, identities: Sequence[str], payload: bytes) -> None:
        try:
            self._journal.finish(identities, payload)
        except OutboxError as error:
            # The claim stands, so a redelivery is answered "outcome unknown", never run.
            self._logger.warning("command_journal_unwritable", error=error.message)

    async def _outcome(
        self, command: Command, problem: CommandError | None, started: float
    ) -> bytes:
        with self._tracing.command(command.action, command.engine) as span:
            try:
                if problem is not None:
                    raise problem  # noqa: TRY301 - one place turns both into an answer
                outcome = await self._run(command, started)
                payload = self._payload(command, outcome.result, outcome.error)
                status = "success" if outcome.error is None else "failed"
            except CommandError as error:
                details = dict(error.result)
                if error.indeterminate:
                    details["indeterminate"] = True
                payload = self._payload(command, details or None, error.message)
                status = error.reason
            except asyncio.CancelledError:
                # The runtime stops: answer, since nobody will run it again.
                payload = self._payload(
                    command,
                    {"indeterminate": True},
                    "timeout: the agent stopped while the command ran; outcome unknown",
                )
                status = "stopped"
            except Exception as error:  # noqa: BLE001 - an adapter's bug or a broker's error: answer it
                payload = self._payload(
                    command, {"indeterminate": True}, f"failed: {type(error).__name__}: {error}"
                )
                status = "failed"
                self._logger.warning(
                    "command_error", action=command.action, error=type(error).__name__
                )
            span.finish(status=status, seconds=self._clock.monotonic() - started)
        self._logger.info(
            "command_finished", action=command.action, command_id=command.id, outcome=status
        )
        return payload

    async def _run(self, command: Command, started: float) -> CommandOutcome:
        # The brain's clock runs from the delivery, so waiting for a turn counts.
        allowed = work_seconds(command.timeout_seconds)
        seconds = allowed - (self._clock.monotonic() - started)
        if seconds <= 0:
            raise CommandError(
                "timeout", f"{command.action} waited too long for its turn; it was not run"
            )
        context = DispatchContext(
            clock=self._clock,
            seconds=seconds,
            executor=self._executor,
            signing_key=self._signing_key,
            purge_threshold=self._purge_threshold,
            logger=self._logger,
        )
        try:
            return await asyncio.wait_for(self._perform(command, context), seconds)
        except asyncio.TimeoutError:
            if context.remaining_seconds() > 0:
                raise  # the adapter's own: some connection of its took too long
            raise CommandError(
                "timeout",
                f"{command.action} did not finish within {allowed:g} s",
                indeterminate=True,
            ) from None

    async def _perform(self, command: Command, context: DispatchContext) -> CommandOutcome:
        adapter = await self._resolve(command)
        token, method_name = COMMAND_METHODS[command.action]
        method: CommandMethod | None = getattr(adapter, method_name, None)
        if method is None or (token is not None and token not in adapter.capabilities()):
            raise CommandError(
                "unsupported", f"engine {adapter.name} cannot {command.action} in {self._process}"
            )
        async with self._slots:
            return await method(command, context)

    async def _resolve(self, command: Command) -> EngineAdapter:
        """The engine to command (commands.md 1, envelope rules)."""
        engines = self._engines
        if command.engine is not None:
            adapter = engines.get(command.engine)
            if adapter is None:
                loaded = ", ".join(sorted(engines)) or "none"
                raise CommandError(
                    "engine_not_loaded",
                    f"{self._process} has no engine {command.engine!r} (loaded: {loaded}); "
                    "processes with different engines need a token each",
                )
            return adapter
        token = COMMAND_METHODS[command.action][0]
        able = [
            adapter
            for adapter in engines.values()
            if token is None or token in adapter.capabilities()
        ]
        if isinstance(command, PurgeQueue) and len(able) > 1:
            able = [adapter for adapter in able if command.queue in await adapter.queues()]
            if len(able) > 1:
                names = ", ".join(sorted(adapter.name for adapter in able))
                raise CommandError(
                    "refused", f"queue {command.queue!r} exists in several engines: {names}"
                )
            if not able:
                raise CommandError("not_found", f"no engine knows a queue {command.queue!r}")
        if len(able) == 1:
            return able[0]
        if not able:
            raise CommandError("unsupported", f"no engine of {self._process} can {command.action}")
        raise CommandError(
            "refused", f"{command.action}: the command names no engine and several could do it"
        )

    # -- answers ---------------------------------------------------------------------------------

    def _payload(
        self, command: Command, result: Mapping[str, object] | None, error: str | None
    ) -> bytes:
        return redacted_result_payload(
            redactor=self._redactor, claim_token=command.claim_token, result=result, error=error
        )

    def _unknown_outcome(self, claim_token: str | None) -> bytes:
        return redacted_result_payload(
            redactor=self._redactor,
            claim_token=claim_token,
            result={"indeterminate": True},
            error=OUTCOME_UNKNOWN,
        )

    def _answer(
        self, frame_type: bytes, command_id: str, payload: Mapping[str, object] | bytes
    ) -> None:
        try:
            self._outbox.append(
                RecordKind.RESULT, control_record.encode(frame_type, command_id, payload)
            )
        except OutboxError as error:
            self._logger.error("command_answer_lost", command_id=command_id, error=error.message)
            return
        self._wake()


def _not_begun() -> CommandError:
    return CommandError("refused", "the agent stopped before the command ran")
