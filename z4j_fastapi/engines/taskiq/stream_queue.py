"""Waiting messages of `RedisStreamBroker`: entries that no consumer group has delivered yet."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from z4j_fastapi.engines.taskiq.connection import RedisClient
from z4j_fastapi.engines.taskiq.list_queue import SCAN_LIMIT, Match

if TYPE_CHECKING:
    from taskiq.message import TaskiqMessage

_PAGE = 500
_FIELD = b"data"

#: Delete an entry only if every group's last delivered id lies below it; one step, because a
#: worker may fetch it at any moment, and deleting a fetched entry would not stop it.
#: XREVRANGE from the entry down to just above the group's position finds the entry itself or
#: nothing; so ids need not be compared as numbers, which Lua cannot do exactly.
_REMOVE = """
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local last
  for i = 1, #group, 2 do
    if group[i] == 'last-delivered-id' then last = group[i + 1] end
  end
  local top = redis.call('XREVRANGE', KEYS[1], ARGV[1], '(' .. last, 'COUNT', 1)
  if #top == 0 or top[1][1] ~= ARGV[1] then return 0 end
end
return redis.call('XDEL', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a stream.

    Args:
        id: The entry's id.
        message: What it says.
    """

    id: bytes
    message: TaskiqMessage


async def depth_of(redis: RedisClient, key: str, *, group: str) -> int | None:
    """Messages that the group has not been delivered, or has not acknowledged.

    Args:
        redis: Our own client.
        key: The stream.
        group: The broker's consumer group; where there are only others, the one that lags most.
    Returns:
        None when it cannot be told: `lag` is unknown after an `XDEL` until the group catches up.
    """
    groups = await _groups(redis, key)
    if not groups:
        return await redis.xlen(key)
    own = [found for found in groups if _text(found["name"]) == group]
    depths: list[int] = []
    for found in own or groups:
        lag = found.get("lag")
        if lag is None:
            return None
        depths.append(int(lag) + int(found.get("pending", 0)))
    return max(depths)


async def find_waiting(redis: RedisClient, key: str, match: Match) -> Entry | None:
    """Look through at most `SCAN_LIMIT` entries that no group has delivered."""
    groups = await _groups(redis, key)
    positions = [_text(group["last-delivered-id"]) for group in groups]
    start: str | bytes = "(" + max(positions, key=_position, default="0-0")
    seen = 0
    while seen < SCAN_LIMIT:
        page = await redis.xrange(key, min=start, max="+", count=_PAGE)
        for entry_id, fields in page:
            raw = fields.get(_FIELD)
            message = match(raw) if raw is not None else None
            if message is not None:
                return Entry(id=entry_id, message=message)
        if len(page) < _PAGE:
            return None
        seen += len(page)
        start = b"(" + page[-1][0]
    return None


async def remove(redis: RedisClient, key: str, entry: Entry) -> bool:
    """Take a waiting entry out; False when a worker was faster."""
    deleted: int = await redis.eval(_REMOVE, 1, key, entry.id)
    return deleted == 1


async def _groups(redis: RedisClient, key: str) -> list[dict[str, Any]]:
    """The stream's groups; none when the stream does not exist."""
    response_error = importlib.import_module("redis.exceptions").ResponseError
    try:
        return await redis.xinfo_groups(key)
    except response_error as error:
        if "no such key" in str(error).lower():
            return []
        raise


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
