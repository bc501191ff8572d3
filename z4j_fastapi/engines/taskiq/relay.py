"""The channel through which one process asks the others about a running task.

The brain sends a command to any process of an agent, not to the one that runs the task, and taskiq
has no control channel of its own: workers of Redis brokers subscribe to
`z4j:taskiq:{queue}:control` and answer on a channel that the question names (spec: engines.md 2.5).

Who can publish there can put tasks into the queue as well, so a question is not authenticated; all
it can do is stop a task or learn that it runs.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from z4j_fastapi.engines.taskiq.brokers import main_queue
from z4j_fastapi.engines.taskiq.connection import OwnRedis, RedisClient, redis_errors
from z4j_fastapi.engines.taskiq.interrupt import Interruption, interrupt
from z4j_fastapi.engines.taskiq.runs import Run

if TYPE_CHECKING:
    import structlog
    from taskiq.abc.broker import AsyncBroker

_PREFIX = "z4j:taskiq"

#: Longest that a worker waits for a cancelled body; the asking side gives up earlier or as late.
_CANCEL_SECONDS = 60.0
#: A subscriber that never answers is not one of ours, or hangs.
_ANSWER_SECONDS = 2.0
_POLL_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 30.0
_MAX_PENDING = 64
_MAX_BYTES = 4096

#: What a worker answers to "is it running here?", beside the interruptions.
RUNNING = "running"


def control_channel(queue: str) -> str:
    """The channel that the workers of a queue listen to."""
    return f"{_PREFIX}:{queue}:control"


async def ask(
    redis: RedisClient,
    queues: Sequence[str],
    *,
    question: str,
    task_id: str,
    timeout_seconds: float,
) -> str:
    """Ask all workers of some queues about a task.

    Args:
        redis: Our own client.
        queues: Names of the queues.
        question: `cancel` or `find`.
        task_id: The task.
        timeout_seconds: For the whole.
    Returns:
        `RUNNING` or a value of `Interruption`; `requested` when a worker has it and did not end it
        in time, `absent` when nobody who answered has it.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_seconds
    answers_by = min(give_up_at, loop.time() + _ANSWER_SECONDS)
    reply_to = f"{_PREFIX}:reply:{uuid4().hex}"
    request = json.dumps(
        {"ask": question, "task_id": task_id, "reply_to": reply_to, "seconds": timeout_seconds}
    )
    inbox = redis.pubsub()
    try:
        await inbox.subscribe(reply_to)
        heard = 0
        for queue in queues:
            heard += await redis.publish(control_channel(queue), request)
        best = Interruption.ABSENT.value
        while heard > 0:
            until = give_up_at if best == Interruption.REQUESTED else answers_by
            left = until - loop.time()
            if left <= 0:
                break
            message = await inbox.get_message(ignore_subscribe_messages=True, timeout=left)
            state = _state_of(message)
            if state is None:
                continue
            if state == Interruption.ABSENT:
                heard -= 1
            elif state == Interruption.REQUESTED:
                best = state
            else:
                return state
        return best
    finally:
        await inbox.aclose()


def _state_of(message: Mapping[str, Any] | None) -> str | None:
    if message is None or message.get("type") != "message":
        return None
    body = _object(message.get("data"))
    state = body.get("state")
    known = {RUNNING, *(member.value for member in Interruption)}
    return state if isinstance(state, str) and state in known else None


def _object(raw: object) -> dict[str, Any]:
    if not isinstance(raw, (bytes, str)) or len(raw) > _MAX_BYTES:
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _pause_seconds(failures: int) -> float:
    """Full jitter below 1, 2, 4, ... seconds."""
    most = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failures - 1, 10))
    return random.uniform(0, most)  # noqa: S311 - jitter


class RelayServer:
    """Answers questions in a worker process, on the loop that runs the tasks.

    Args:
        broker: A Redis broker whose worker this process is.
        running: Runs of this process by task id.
        worker: This worker's name, for the answers.
        logger: Told once an episode that the server cannot be reached.
    """

    def __init__(
        self,
        broker: AsyncBroker,
        *,
        running: Mapping[str, Run],
        worker: str,
        logger: structlog.stdlib.BoundLogger,
    ) -> None:
        self._own = OwnRedis(broker)
        self._channel = control_channel(main_queue(broker) or "")
        self._running = running
        self._worker = worker
        self._logger = logger
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._failures = 0

    def start(self) -> None:
        """Begin to listen. On the broker's loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._serve(), name="z4j-taskiq-relay")

    async def stop(self) -> None:
        """Stop listening and close the connection. On the loop of `start`."""
        tasks = [task for task in (self._task, *self._answers) if task is not None]
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop_threadsafe(self) -> None:
        """Stop listening, from any thread, without waiting."""
        loop, task = self._loop, self._task
        self._task = None
        if loop is not None and task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    async def _serve(self) -> None:
        try:
            while True:
                try:
                    await self._listen()
                except tuple(redis_errors()) as error:  # noqa: PERF203 - one a connection
                    if self._failures == 0:
                        self._logger.warning("relay_unreachable", error=type(error).__name__)
                    self._failures += 1
                    await asyncio.sleep(_pause_seconds(self._failures))
        finally:
            await self._own.aclose()

    async def _listen(self) -> None:
        redis = self._own.client()
        inbox = redis.pubsub()
        try:
            await inbox.subscribe(self._channel)
            self._failures = 0
            while True:
                # Waiting with a limit lets redis-py notice a connection that died silently.
                message = await inbox.get_message(
                    ignore_subscribe_messages=True, timeout=_POLL_SECONDS
                )
                if message is not None and message.get("type") == "message":
                    self._take(redis, _object(message.get("data")))
        finally:
            await inbox.aclose()

    def _take(self, redis: RedisClient, request: dict[str, Any]) -> None:
        task_id, reply_to = request.get("task_id"), request.get("reply_to")
        if not isinstance(task_id, str) or not isinstance(reply_to, str):
            return
        if not reply_to.startswith(f"{_PREFIX}:reply:") or len(self._answers) >= _MAX_PENDING:
            return
        seconds = request.get("seconds")
        limit = float(seconds) if isinstance(seconds, (int, float)) else _CANCEL_SECONDS
        answering = asyncio.get_running_loop().create_task(
            self._answer(redis, request.get("ask"), task_id, reply_to, min(limit, _CANCEL_SECONDS))
        )
        self._answers.add(answering)
        answering.add_done_callback(self._answers.discard)

    async def _answer(
        self, redis: RedisClient, question: object, task_id: str, reply_to: str, seconds: float
    ) -> None:
        run = self._running.get(task_id)
        try:
            if run is None:
                await self._say(redis, reply_to, Interruption.ABSENT)
            elif question == "find":
                await self._say(redis, reply_to, RUNNING)
            elif question == "cancel":
                # First that it is here: the asking side waits for the end only then.
                await self._say(redis, reply_to, Interruption.REQUESTED)
                state = await interrupt(run, timeout_seconds=seconds)
                await self._say(redis, reply_to, state)
        except tuple(redis_errors()) as error:
            self._logger.warning("relay_answer_lost", error=type(error).__name__)

    async def _say(self, redis: RedisClient, reply_to: str, state: str) -> None:
        value = state.value if isinstance(state, Interruption) else state
        await redis.publish(reply_to, json.dumps({"worker": self._worker, "state": value}))
