"""cancel_task and purge_queue (spec: engines.md 4.4, commands.md 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from redis.exceptions import WatchError

from z4j_fastapi import correlation, events
from z4j_fastapi.engines.arq.broker import broker_errors
from z4j_fastapi.engines.arq.carrier import carrier_in
from z4j_fastapi.engines.arq.depth import depth_of
from z4j_fastapi.engines.arq.observer import ENGINE, UNKNOWN
from z4j_fastapi.engines.arq.site import Site, unix_ms
from z4j_fastapi.engines.base import CommandOutcome
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.broker import JobFacts
    from z4j_fastapi.engines.base import CommandContext
    from z4j_fastapi.protocol.commands import CancelTask, PurgeQueue

#: A worker that looked at a job at this very moment loses its own WATCH by our short key.
_FENCE_MS = 2_000
_KEEP_RESULT_MS = 3_600_000
_ABORT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_PURGE_CHUNK = 100

#: A running job that ends meanwhile moves the others up, past the place where a pass is.
_PURGE_PASSES = 3


async def cancel_task(site: Site, command: CancelTask, context: CommandContext) -> CommandOutcome:
    """Take a waiting job out of its queue, or abort a running one.

    Returns:
        `removed`, `terminated` or `requested`; a no-op for a job that has ended.
    Raises:
        CommandError: `not_found`, `refused` where its worker cannot abort, `timeout` where no
            worker confirmed the abort, `failed` when Redis did not answer.
    """
    job_id = command.task_id
    async with broker_errors(indeterminate=True):
        for _ in range(10):
            facts = await site.broker.facts(job_id, site.known_queues())
            if facts.is_running:
                return await _abort(site, job_id, context)
            if not facts.is_waiting:
                return _nothing_to_cancel(job_id, facts)
            if await _remove(site, job_id, facts):
                return CommandOutcome(
                    result={"task_id": job_id, "removed": True, "queue": facts.queue}
                )
            # It started, or moved, between the look and the transaction: look again.
    raise CommandError(
        "failed", f"job {job_id} changed its state faster than it could be cancelled"
    )


def _nothing_to_cancel(job_id: str, facts: JobFacts) -> CommandOutcome:
    if facts.result is None:
        raise CommandError(
            "not_found", f"job {job_id} is neither queued nor running nor is its result kept"
        )
    return CommandOutcome(
        result={"task_id": job_id, "noop": True, "reason": "the job has already ended"}
    )


async def _remove(site: Site, job_id: str, facts: JobFacts) -> bool:
    """The transaction that takes a waiting job away; False when a worker was faster."""
    queue, raw = facts.queue, facts.job
    if queue is None or raw is None:
        return False
    # It can be cancelled also where its arguments cannot be read.
    job = _readable(site, raw)
    now = site.now()
    result = site.broker.codec.encode_cancelled(job_id, job, queue=queue, now_ms=unix_ms(now))
    client = await site.broker.client()
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(in_progress_key_prefix + job_id)
        if await pipe.exists(in_progress_key_prefix + job_id):
            return False
        pipe.multi()
        _queue_removal(pipe, queue, job_id)
        if result is not None:
            pipe.set(result_key_prefix + job_id, result, px=_KEEP_RESULT_MS)
        try:
            removed, *_ = await pipe.execute()
        except WatchError:
            return False
    if not removed:
        return False
    _report_removed(site, job_id, queue, job, reason="cancelled by an operator")
    return True


def _queue_removal(pipe: Any, queue: str, job_id: str) -> None:
    pipe.zrem(queue, job_id)
    pipe.delete(job_key_prefix + job_id, retry_key_prefix + job_id)
    pipe.psetex(in_progress_key_prefix + job_id, _FENCE_MS, b"0")


def _report_removed(
    site: Site, job_id: str, queue: str, job: Mapping[str, Any], *, reason: str
) -> None:
    """The engine will never report it, so the agent does (engines.md 2.1)."""
    site.report(
        events.task_revoked(
            ENGINE,
            job_id,
            str(job.get("f", UNKNOWN)),
            occurred_at=site.now(),
            queue=queue,
            reason=reason,
            terminated=False,
            **correlation.lineage(carrier_in(job), task_id=job_id),  # type: ignore[arg-type]
        )
    )


async def _abort(site: Site, job_id: str, context: CommandContext) -> CommandOutcome:
    """Ask the job's worker to cancel it, and wait for the answer.

    Like `Job.abort`, but it does not wait half a second between two looks, and tells an aborted
    job without a kept result from one that nobody confirmed.
    """
    worker = site.worker_running(job_id)
    if worker is not None and not worker.allow_abort_jobs:
        raise CommandError(
            "refused", "the worker that runs the job was started without allow_abort_jobs=True"
        )
    client = await site.broker.client()
    patience = max(0.0, min(_ABORT_SECONDS, context.remaining_seconds() - 2.0))
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    await client.zadd(abort_jobs_ss, {job_id: unix_ms(site.now())})
    while True:
        facts = await site.broker.facts(job_id, site.known_queues())
        if not facts.is_running:
            return await _aborted(site, job_id, facts)
        if loop.time() >= deadline:
            break
        await asyncio.sleep(_POLL_SECONDS)
    # The entry stays: the worker removes it when the job ends, however it ends.
    raise CommandError(
        "timeout",
        f"no worker confirmed within {patience:.0f} s that job {job_id} was aborted: its worker "
        "may run without allow_abort_jobs=True, or the job blocks its loop",
        indeterminate=True,
    )


async def _aborted(site: Site, job_id: str, facts: JobFacts) -> CommandOutcome:
    # A stale entry would abort a later job with the same id.
    client = await site.broker.client()
    await client.zrem(abort_jobs_ss, job_id)
    if facts.is_waiting:
        raise CommandError("failed", f"job {job_id} was put back for another attempt meanwhile")
    outcome: dict[str, object] = {"task_id": job_id, "requested": True}
    if facts.result is None:
        outcome["reason"] = "the job ended; its worker keeps no result that would tell how"
        return CommandOutcome(result=outcome)
    stored = site.broker.codec.decode(facts.result)
    if isinstance(stored.get("r"), asyncio.CancelledError):
        return CommandOutcome(result={"task_id": job_id, "terminated": True})
    return CommandOutcome(
        result={"task_id": job_id, "noop": True, "reason": "the job ended before it was aborted"}
    )


async def purge_queue(site: Site, command: PurgeQueue, context: CommandContext) -> CommandOutcome:
    """Drop the waiting and deferred jobs of a queue; running ones are not touched.

    Returns:
        `queue`, `depth_before`, `purged`, `force`.
    Raises:
        CommandError: What `context.authorize_purge` refuses; `failed` when Redis did not answer.
    """
    queue = command.queue
    async with broker_errors():
        depth = await depth_of(site.broker, queue)
    context.authorize_purge(command, depth)
    purged = 0
    async with broker_errors(indeterminate=True):
        in_time = True
        for _ in range(_PURGE_PASSES):
            done, in_time = await _purge_pass(site, queue, context)
            purged += done
            if not done or not in_time:
                break
        if not in_time:
            left = await depth_of(site.broker, queue)
            if left:
                raise CommandError(
                    "timeout",
                    f"{purged} jobs purged, {left} left when the time was over: purge again",
                    result={"queue": queue, "depth_before": depth, "purged": purged},
                )
    return CommandOutcome(
        result={"queue": queue, "depth_before": depth, "purged": purged, "force": command.force}
    )


async def _purge_pass(site: Site, queue: str, context: CommandContext) -> tuple[int, bool]:
    """Go through the queue once. How many were purged, and whether the time sufficed."""
    client = await site.broker.client()
    purged = skipped = 0  # jobs that a worker has stay in the set, before those still to be purged
    while context.remaining_seconds() > 1.0:
        members = await client.zrange(queue, skipped, skipped + _PURGE_CHUNK - 1)
        if not members:
            return purged, True
        done = await _purge_chunk(site, queue, [one.decode() for one in members])
        purged += done
        skipped += len(members) - done
    return purged, False


async def _purge_chunk(site: Site, queue: str, job_ids: Sequence[str]) -> int:
    """Purge those of `job_ids` that no worker has; a conflict halves the chunk."""
    client = await site.broker.client()
    keys = [in_progress_key_prefix + one for one in job_ids]
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(*keys)
        held = await pipe.mget(keys)
        free = [one for one, taken in zip(job_ids, held, strict=True) if taken is None]
        if not free:
            return 0
        raws = await pipe.mget([job_key_prefix + one for one in free])
        pipe.multi()
        for job_id in free:
            _queue_removal(pipe, queue, job_id)
        try:
            answers = await pipe.execute()
        except WatchError:
            answers = None
    if answers is None:
        if len(job_ids) == 1:
            return 0  # a worker has just taken it
        middle = len(job_ids) // 2
        return await _purge_chunk(site, queue, job_ids[:middle]) + await _purge_chunk(
            site, queue, job_ids[middle:]
        )
    removed = 0
    for job_id, raw, was_there in zip(free, raws, answers[::3], strict=True):
        if not was_there:
            continue
        removed += 1
        _report_removed(site, job_id, queue, _readable(site, raw), reason="queue purged")
    return removed


def _readable(site: Site, raw: bytes | None) -> Mapping[str, Any]:
    if raw is None:
        return {}
    try:
        return site.broker.codec.decode(raw)
    except CommandError:
        return {}
