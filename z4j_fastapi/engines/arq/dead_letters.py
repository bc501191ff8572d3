"""dlq.list and reconcile_task (spec: commands.md 7)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from arq.constants import result_key_prefix

from z4j_fastapi import correlation, events
from z4j_fastapi.engines.arq.broker import broker_errors
from z4j_fastapi.engines.arq.carrier import carrier_in
from z4j_fastapi.engines.arq.observer import ENGINE, UNKNOWN
from z4j_fastapi.engines.arq.site import Site
from z4j_fastapi.engines.base import CommandOutcome
from z4j_fastapi.errors import CommandError

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import CommandContext
    from z4j_fastapi.protocol.commands import ListDeadLetters, ReconcileTask

#: arq has no list of failed jobs: results are found by SCAN, so a page looks at no more than this.
_LOOK_AT_RESULTS = 10_000
_SCAN_COUNT = 1_000
_READ_AT_ONCE = 50
_SCAN_SECONDS = 3.0
_EXCERPT = 512
_NAME = 500
_ID = 200


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Place:
    """Where an entry stands: newest first, then by a hash that fits into a cursor."""

    newest_ms: int  # negated, so that the newest sorts first
    digest: str

    def cursor(self) -> str:
        return f"{-self.newest_ms}.{self.digest}"

    @classmethod
    def parse(cls, cursor: str) -> _Place:
        finished, _, digest = cursor.partition(".")
        if not finished.isascii() or not finished.isdigit() or len(digest) != 32:  # noqa: PLR2004
            raise CommandError("invalid", "invalid dead-letter cursor")
        return cls(newest_ms=-int(finished), digest=digest)


async def list_dead_letters(
    site: Site, command: ListDeadLetters, context: CommandContext
) -> CommandOutcome:
    """One page of failed results, newest first, while arq keeps them.

    Raises:
        CommandError: `invalid` for a cursor that is not ours, `failed` for Redis trouble.
    """
    after = None if command.cursor is None else _Place.parse(command.cursor)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(_SCAN_SECONDS, max(0.0, context.remaining_seconds() - 1.0))
    found: list[tuple[_Place, dict[str, object]]] = []
    complete = True
    async with broker_errors():
        client = await site.broker.client()
        keys: list[bytes] = []
        async for key in client.scan_iter(match=f"{result_key_prefix}*", count=_SCAN_COUNT):
            keys.append(key)
            if len(keys) >= _LOOK_AT_RESULTS:
                complete = False
                break
        keys = list(dict.fromkeys(keys))  # SCAN may name a key twice
        for start in range(0, len(keys), _READ_AT_ONCE):
            if loop.time() > deadline:
                complete = False
                break
            chunk = keys[start : start + _READ_AT_ONCE]
            for key, raw in zip(chunk, await client.mget(chunk), strict=True):
                entry = None if raw is None else _entry(site, key, raw, command.queue)
                if entry is not None:
                    found.append(entry)
    found.sort(key=lambda one: one[0])
    rest = [one for one in found if after is None or one[0] > after]
    page = rest[: command.limit]
    more = len(rest) > len(page)
    return CommandOutcome(
        result={
            "entries": [entry for _, entry in page],
            "next_cursor": page[-1][0].cursor() if more else None,
            "total": len(found) if complete else None,
            "engine": ENGINE,
        }
    )


def _entry(
    site: Site, key: bytes, raw: bytes, queue: str | None
) -> tuple[_Place, dict[str, object]] | None:
    """A failed result as an entry; None for any other result."""
    job_id = key[len(result_key_prefix) :].decode(errors="replace")
    try:
        stored = site.broker.codec.decode(raw)
    except CommandError:
        return None  # of another application in the same database, with another serialiser
    if stored.get("s") is not False or isinstance(stored.get("r"), asyncio.CancelledError):
        return None
    its_queue = stored.get("q")
    if not isinstance(its_queue, str) or not its_queue:
        its_queue = UNKNOWN
    if queue is not None and its_queue != queue:
        return None
    finished_ms = stored.get("ft")
    finished_ms = finished_ms if isinstance(finished_ms, int) and finished_ms > 0 else 0
    tries = stored.get("t")
    return (
        _Place(
            newest_ms=-finished_ms,
            digest=hashlib.blake2b(job_id.encode(), digest_size=16).hexdigest(),
        ),
        {
            "task_id": job_id[:_ID],
            "task_name": str(stored.get("f", ""))[:_NAME],
            "queue": its_queue[:_ID],
            "failed_at": _iso(finished_ms),
            "error_excerpt": exception_text(stored.get("r"))[:_EXCERPT],
            "attempts": tries if isinstance(tries, int) and tries > 0 else None,
        },
    )


async def reconcile_task(
    site: Site, command: ReconcileTask, context: CommandContext
) -> CommandOutcome:
    """What arq knows of a job: success, failure, started, pending, or unknown.

    A job that was cancelled is answered with `unknown`, since the brain would make a failure of
    anything else, and its `task.revoked` is reported once more.
    """
    del context  # one round trip
    job_id = command.task_id
    async with broker_errors():
        facts = await site.broker.facts(job_id, site.known_queues())
    answer: dict[str, object] = {
        "task_id": job_id,
        "engine_state": "unknown",
        "finished_at": None,
        "exception": None,
    }
    if facts.is_running:
        answer["engine_state"] = "started"
    elif facts.is_waiting:
        answer["engine_state"] = "pending"
    elif facts.result is not None:
        stored = site.broker.codec.decode(facts.result)
        finished_ms = stored.get("ft")
        finished_at = _iso(finished_ms if isinstance(finished_ms, int) else 0)
        if isinstance(stored.get("r"), asyncio.CancelledError):
            _report_revoked(site, job_id, stored)
            answer["reason"] = "the job was cancelled"
        elif stored.get("s") is True:
            answer.update(engine_state="success", finished_at=finished_at)
        else:
            answer.update(
                engine_state="failure",
                finished_at=finished_at,
                exception=exception_text(stored.get("r")),
            )
    return CommandOutcome(result=answer)


def exception_text(error: object) -> str:
    """A stored exception as `Type: message`, at most 500 characters."""
    if not isinstance(error, BaseException):
        return str(error)[:500]
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything; the type is enough
        return name
    return f"{name}: {text}"[:500] if text else name


def _report_revoked(site: Site, job_id: str, stored: Mapping[str, Any]) -> None:
    finished_ms = stored.get("ft")
    site.report(
        events.task_revoked(
            ENGINE,
            job_id,
            str(stored.get("f", UNKNOWN)),
            occurred_at=_moment(finished_ms) if isinstance(finished_ms, int) else site.now(),
            queue=stored.get("q"),
            reason="found cancelled",
            **correlation.lineage(carrier_in(stored), task_id=job_id),  # type: ignore[arg-type]
        )
    )


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, tz=timezone.utc)


def _iso(unix_ms: int) -> str | None:
    return _moment(unix_ms).isoformat() if unix_ms > 0 else None
