"""retry_task, bulk_retry, requeue_dead_letter, submit_task, schedule.fire (commands.md 4, 6, 8).

A retry runs with what arq still holds, or with both halves that the operator gave: never with
anything that was sent to the brain, and never with less.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from arq.constants import default_queue_name, result_key_prefix

from z4j_fastapi import correlation
from z4j_fastapi.correlation import Correlation
from z4j_fastapi.engines.arq.broker import JobFacts, broker_errors
from z4j_fastapi.engines.arq.enqueue import extra_data
from z4j_fastapi.engines.arq.observer import UNKNOWN
from z4j_fastapi.engines.arq.site import Site
from z4j_fastapi.engines.base import CommandOutcome
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import CommandContext
    from z4j_fastapi.protocol.commands import (
        BulkRetry,
        FireSchedule,
        RequeueDeadLetter,
        RetryTask,
        SubmitTask,
    )

_NAMESPACE = uuid.UUID("6f2a6b1e-6c0f-4a1e-9d55-3e0a4c5f7a11")
_ETA_PAST = timedelta(seconds=60)
_ETA_AHEAD = timedelta(days=366)

#: Of a bulk command's time; what is not begun by then is reported as skipped.
_BULK_SHARE = 0.8
_FIRE_PAUSES = (0.2, 0.5, 1.0, 2.0)
_LONGEST_ID = 200


async def retry_task(site: Site, command: RetryTask, context: CommandContext) -> CommandOutcome:
    """Run a job again under a new id: with the overrides, or by reference without them.

    Raises:
        CommandError: `not_found` where arq holds nothing to retry from, `refused` for a job that
            is still queued or running and for an eta out of range, `failed` for Redis trouble.
    """
    del context  # one enqueue: quicker than any timeout
    due = _due(site, command.eta)
    async with broker_errors(indeterminate=True):
        facts = await site.broker.facts(command.task_id, site.known_queues())
        if not command.has_overrides:
            stored = _stored(site, command.task_id, facts)
            args, kwargs = stored["a"], stored["k"]
        else:
            _refuse_live(command.task_id, facts)
            stored = _named(site, command, facts)
            args, kwargs = command.override_args or (), command.override_kwargs or {}
        new_id = await _enqueue_again(
            site, command.id, command.task_id, stored, args, kwargs, due=due
        )
    return CommandOutcome(result=_retried(command.task_id, new_id, stored))


async def bulk_retry(site: Site, command: BulkRetry, context: CommandContext) -> CommandOutcome:
    """Retry each id by reference; one that cannot be retried does not stop the others.

    Returns:
        Counts, `new_task_ids` by old id and `failures` by old id. A failure when none succeeded
        although there was something to do.
    """
    budget = context.remaining_seconds()
    new_ids: dict[str, str] = {}
    failures: dict[str, str] = {}
    skipped = command.skipped
    for done, task_id in enumerate(command.task_ids):
        if done and context.remaining_seconds() < budget * (1 - _BULK_SHARE):
            skipped += len(command.task_ids) - done
            break
        try:
            async with broker_errors(indeterminate=True):
                facts = await site.broker.facts(task_id, site.known_queues())
                stored = _stored(site, task_id, facts)
                new_ids[task_id] = await _enqueue_again(
                    site, command.id, task_id, stored, stored["a"], stored["k"], due=None
                )
        except CommandError as error:
            failures[task_id] = str(error)
    result: dict[str, object] = {
        "requested": len(command.task_ids) + command.skipped,
        "succeeded": len(new_ids),
        "failed": len(failures),
        "skipped": skipped,
        "new_task_ids": new_ids,
        "failures": failures,
    }
    if command.task_ids and not new_ids:
        first = next(iter(failures.values()), "timeout: no time was left")
        return CommandOutcome(result=result, error=first)
    return CommandOutcome(result=result)


async def requeue_dead_letter(
    site: Site, command: RequeueDeadLetter, context: CommandContext
) -> CommandOutcome:
    """Retry a failed job by reference and take it off the list of dead letters.

    Raises:
        CommandError: As `retry_task`; `refused` for a job that did not fail.
    """
    del context  # one enqueue: quicker than any timeout
    async with broker_errors(indeterminate=True):
        facts = await site.broker.facts(command.task_id, site.known_queues())
        stored = _stored(site, command.task_id, facts)
        if stored.get("s") is not False:
            raise CommandError("refused", f"job {command.task_id} did not fail: no dead letter")
        new_id = await _enqueue_again(
            site, command.id, command.task_id, stored, stored["a"], stored["k"], due=None
        )
        client = await site.broker.client()
        await client.delete(result_key_prefix + command.task_id)
    return CommandOutcome(result={**_retried(command.task_id, new_id, stored), "requeued": True})


async def submit_task(site: Site, command: SubmitTask, context: CommandContext) -> CommandOutcome:
    """Enqueue a job for a schedule that an operator runs now.

    Raises:
        CommandError: `refused` for a function that this process knows not to exist, `failed` for
            Redis trouble.
    """
    del context  # one enqueue: quicker than any timeout
    async with broker_errors(indeterminate=True):
        return await _submit(site, command, command.id, {"schedule_id": command.schedule_id})


async def schedule_fire(
    site: Site, command: FireSchedule, context: CommandContext
) -> CommandOutcome:
    """Enqueue a job because its schedule is due; the same fire never enqueues two.

    A failure disables the schedule (commands.md 8), so a broken connection is tried again while
    there is time.
    """
    job_id = f"z4j-fire-{command.fire_id}"
    if len(job_id) > _LONGEST_ID:
        job_id = f"z4j-fire-{uuid.uuid5(_NAMESPACE, command.fire_id).hex}"
    extra = {"schedule_id": command.schedule_id, "fire_id": command.fire_id}
    pauses = iter(_FIRE_PAUSES)
    pause = next(pauses)
    while True:
        try:
            async with broker_errors(indeterminate=True):
                return await _submit(site, command, job_id, extra)
        except CommandError as error:
            if error.reason != "failed" or context.remaining_seconds() < pause + 3.0:
                raise
        await asyncio.sleep(pause)
        pause = next(pauses, pause)


async def _submit(
    site: Site, command: SubmitTask, job_id: str, extra: Mapping[str, object]
) -> CommandOutcome:
    known = site.known_functions()
    if known and command.task_name not in known:
        raise CommandError(
            "refused",
            f"no worker of this deployment has the function {command.task_name!r}; "
            f"known: {', '.join(sorted(known)[:20])}",
        )
    queue = command.queue or site.known_queues()[0]
    told = {key: value for key, value in extra.items() if value is not None}
    with _extra(told):
        new_id = await _enqueue(
            site, job_id, command.task_name, command.args, command.kwargs, queue=queue, due=None
        )
    return CommandOutcome(result={"task_id": new_id, "engine": "arq", "queue": queue})


def _stored(site: Site, job_id: str, facts: JobFacts) -> Mapping[str, Any]:
    """The stored result that a retry by reference runs from."""
    _refuse_live(job_id, facts)
    if facts.result is None:
        raise CommandError(
            "not_found",
            f"arq keeps no result of job {job_id} (any more; keep_result), so its arguments "
            "are gone",
        )
    stored = site.broker.codec.decode(facts.result)
    if stored["f"] == UNKNOWN or "a" not in stored or "k" not in stored:
        raise CommandError(
            "not_found", f"job {job_id} expired before a worker read it: its arguments are gone"
        )
    return stored


def _named(site: Site, command: RetryTask, facts: JobFacts) -> Mapping[str, Any]:
    """Function and queue for a retry with overrides, from the result or from the brain's name."""
    stored: Mapping[str, Any] = {}
    if facts.result is not None:
        # Undecodable means that workers would not be able to decode ours either: let it fail.
        stored = site.broker.codec.decode(facts.result)
    name = stored.get("f")
    if name is None or name == UNKNOWN:
        name = command.task_name
    if not name or name == UNKNOWN:
        raise CommandError(
            "not_found", f"neither arq nor the brain knows the function of job {command.task_id}"
        )
    return {"f": name, "q": stored.get("q")}


def _refuse_live(job_id: str, facts: JobFacts) -> None:
    if facts.is_running:
        raise CommandError("refused", f"job {job_id} is still running")
    if facts.is_waiting:
        raise CommandError("refused", f"job {job_id} is still queued")


async def _enqueue_again(
    site: Site,
    command_id: str,
    old_id: str,
    stored: Mapping[str, Any],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    *,
    due: datetime | None,
) -> str:
    """Enqueue under an id that this command always comes to, so that it cannot run twice."""
    new_id = uuid.uuid5(_NAMESPACE, f"{command_id}:{old_id}").hex
    queue = stored.get("q")
    if not isinstance(queue, str) or queue == UNKNOWN:
        queue = site.known_queues()[0]
    with correlation.use(Correlation(task_id=old_id, root_task_id=old_id)):
        return await _enqueue(site, new_id, stored["f"], args, kwargs, queue=queue, due=due)


async def _enqueue(
    site: Site,
    job_id: str,
    name: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    *,
    queue: str | None,
    due: datetime | None,
) -> str:
    client = await site.broker.client()
    options: dict[str, Any] = {
        "_job_id": job_id,
        "_queue_name": queue or default_queue_name,
        "_defer_until": due,
    }
    if any(key.startswith("_") and key in options for key in kwargs):
        raise CommandError("refused", "the keyword arguments name options of arq itself")
    # None: the id is there already, from an earlier run of this very command.
    await client.enqueue_job(name, *args, **kwargs, **options)
    return job_id


def _due(site: Site, eta: float | None) -> datetime | None:
    if eta is None:
        return None
    now = site.now()
    try:
        due = datetime.fromtimestamp(eta, tz=timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise CommandError("refused", "eta is not a time") from None
    if due < now - _ETA_PAST:
        raise CommandError("refused", "eta lies more than 60 s in the past")
    if due > now + _ETA_AHEAD:
        raise CommandError("refused", "eta lies more than a year ahead")
    return due if due > now else None


def _retried(old_id: str, new_id: str, stored: Mapping[str, Any]) -> dict[str, object]:
    return {"new_task_id": new_id, "task_name": stored["f"], "original_task_id": old_id}


@contextmanager
def _extra(data: Mapping[str, object]) -> Generator[None, None, None]:
    token = extra_data.set(data)
    try:
        yield
    finally:
        extra_data.reset(token)
