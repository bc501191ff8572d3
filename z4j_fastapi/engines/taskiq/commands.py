"""What an operator may ask for, in taskiq's terms (spec: engines.md 5.4, commands.md 4 to 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from z4j_fastapi.correlation import Correlation
from z4j_fastapi.engines.base import CommandContext, CommandOutcome
from z4j_fastapi.engines.taskiq import list_queue
from z4j_fastapi.engines.taskiq.brokers import BrokerKind, main_queue
from z4j_fastapi.engines.taskiq.cancel import report_revoked
from z4j_fastapi.engines.taskiq.connection import reported
from z4j_fastapi.engines.taskiq.handle import BrokerHandle
from z4j_fastapi.engines.taskiq.labels import FIRE_LABEL, SCHEDULE_LABEL
from z4j_fastapi.engines.taskiq.reporting import ENGINE
from z4j_fastapi.engines.taskiq.submission import Submission, submit
from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.commands import FireSchedule, PurgeQueue, RetryTask, SubmitTask

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker

_MAX_TASK_ID = 200
#: What a schedule of the brain calls the queue when nobody chose one.
_UNCHOSEN_QUEUE = "default"


async def retry(
    handles: Sequence[BrokerHandle], command: RetryTask, context: CommandContext
) -> CommandOutcome:
    """Run a task again with the operator's arguments, under a new id.

    Raises:
        CommandError: `refused` without overrides: taskiq keeps no arguments to go back to.
    """
    if command.override_args is None or command.override_kwargs is None:
        raise CommandError(
            "refused",
            "taskiq keeps no arguments of a task that has left the queue: "
            "retry it with override_args and override_kwargs",
        )
    if command.eta is not None:
        raise CommandError("refused", "taskiq cannot delay a task: retry it without an eta")
    if command.task_name is None:
        raise CommandError("invalid", "the name of the task to retry is not known")
    handle = _owner(handles, command.task_name, queue=None)
    new_id = await submit(
        handle.broker,
        handle.broker_loop(),
        Submission(
            task_name=command.task_name,
            args=command.override_args,
            kwargs=command.override_kwargs,
            labels={},
            cause=Correlation(task_id=command.task_id, root_task_id=command.task_id),
        ),
        remaining_seconds=context.remaining_seconds,
    )
    return CommandOutcome(
        result={
            "new_task_id": new_id,
            "task_name": command.task_name,
            "original_task_id": command.task_id,
        }
    )


async def submit_task(
    handles: Sequence[BrokerHandle], command: SubmitTask, context: CommandContext
) -> CommandOutcome:
    """Enqueue a task for a schedule.

    A queue that this kind of broker cannot choose is left out and said so: a failed answer would
    switch the schedule off (commands.md 8).
    """
    handle = _owner(handles, command.task_name, queue=command.queue)
    labels: dict[str, str] = {}
    task_id = None
    if command.schedule_id is not None:
        labels[SCHEDULE_LABEL] = command.schedule_id
    if isinstance(command, FireSchedule):
        labels[FIRE_LABEL] = command.fire_id
        task_id = f"fire-{command.fire_id}"[:_MAX_TASK_ID]
    queue = _chosen_queue(handle, command.queue)
    result: dict[str, object] = {"engine": ENGINE}
    if queue is not None:
        labels["queue_name"] = queue
        result["queue"] = queue
    elif command.queue is not None and command.queue != _own_queue(handle):
        result["queue"] = _own_queue(handle)
        result["note"] = f"queue {command.queue!r} was not used: the broker has one of its own"
    sent = await submit(
        handle.broker,
        handle.broker_loop(),
        Submission(
            task_name=command.task_name,
            args=command.args,
            kwargs=command.kwargs,
            labels=labels,
            task_id=task_id,
        ),
        remaining_seconds=context.remaining_seconds,
    )
    return CommandOutcome(result={"task_id": sent, **result})


async def purge(
    handles: Sequence[BrokerHandle], command: PurgeQueue, context: CommandContext
) -> CommandOutcome:
    """Drop what waits in a Redis list, if it is what the operator saw.

    Raises:
        CommandError: `not_found` for an unknown queue, `unsupported` for one that is not a list,
            `refused` by `authorize_purge` or because the depth moved.
    """
    owners = [handle for handle in handles if handle.key_of(command.queue) is not None]
    if not owners:
        raise CommandError("not_found", f"no broker of this process has a queue {command.queue!r}")
    lists = {handle.server: handle for handle in owners if handle.kind is BrokerKind.LIST}
    if not lists:
        raise CommandError("unsupported", "only the queue of a ListQueueBroker can be purged")
    if len(lists) > 1:
        raise CommandError("refused", f"several brokers have a queue {command.queue!r}")
    handle = next(iter(lists.values()))
    key = handle.key_of(command.queue) or command.queue
    with reported("purging the queue"):
        redis = handle.redis()
        depth = await list_queue.depth_of(redis, key)
        if depth:
            context.authorize_purge(command, depth)
        purged = await list_queue.purge(redis, key, expected_depth=None if command.force else depth)
    if not purged.done:
        raise CommandError(
            "refused", f"the depth moved from {depth} to {purged.depth}: look again and retry"
        )
    revoked = 0
    for raw in purged.items:
        message = handle.decode(raw)
        if message is not None:
            report_revoked(handle, message, key, "purged by an operator")
            revoked += 1
    return CommandOutcome(
        result={
            "queue": command.queue,
            "depth_before": purged.depth,
            "purged": purged.depth,
            "revoked": revoked,
            "force": command.force,
        }
    )


def _owner(handles: Sequence[BrokerHandle], task_name: str, *, queue: str | None) -> BrokerHandle:
    """The broker to send a task through: it registered the task, and has the queue if possible."""
    owners = [handle for handle in handles if task_name in handle.broker.local_task_registry]
    if not owners:
        owners = [handle for handle in handles if handle.broker.find_task(task_name) is not None]
    if not owners:
        raise CommandError("not_found", f"no task named {task_name!r} is registered here")
    if queue is not None:
        for handle in owners:
            if queue == _own_queue(handle):
                return handle
    return owners[0]


def _own_queue(handle: BrokerHandle) -> str | None:
    main = main_queue(handle.broker)
    return handle.queue or main


def _chosen_queue(handle: BrokerHandle, queue: str | None) -> str | None:
    """The `queue_name` label for a wish, or None where the broker's own queue is to be used.

    `default` is what a schedule says when nobody chose a queue: taken at its word, the message
    would lie in a list that no worker reads.
    """
    if queue is None or queue in (_own_queue(handle), main_queue(handle.broker)):
        return None
    if queue == _UNCHOSEN_QUEUE and handle.key_of(queue) is None:
        return None
    return queue if _takes_queue_label(handle.broker) else None


def _takes_queue_label(broker: AsyncBroker) -> bool:
    """Whether the broker's `kick` reads the label `queue_name`.

    The list and pub/sub brokers of taskiq-redis do in every version, the stream broker since 1.2.
    Told from the code's constants, which name the label or do not.
    """
    code = getattr(type(broker).kick, "__code__", None)
    return code is not None and "queue_name" in code.co_consts
