"""Waiting messages of `ListQueueBroker`: a Redis list, pushed left and popped right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from z4j_fastapi.engines.taskiq.connection import RedisClient

if TYPE_CHECKING:
    from taskiq.message import TaskiqMessage

#: Scanning is O(n): stop here and say so.
SCAN_LIMIT = 100_000
_PAGE = 500

#: Answers what was removed, up to a count and a size, so that the rows of these tasks can be
#: closed; beyond, the messages are dropped unread.
_PURGE = """
local depth = redis.call('LLEN', KEYS[1])
if ARGV[1] ~= '' and tostring(depth) ~= ARGV[1] then return {depth, 0} end
local kept, bytes = {}, 0
if depth <= tonumber(ARGV[2]) then
  for start = 0, depth - 1, 100 do
    for _, item in ipairs(redis.call('LRANGE', KEYS[1], start, start + 99)) do
      bytes = bytes + #item
      kept[#kept + 1] = item
    end
    if bytes > tonumber(ARGV[3]) then break end
  end
end
redis.call('DEL', KEYS[1])
return {depth, 1, kept}
"""
_PURGE_REPORTED = 10_000
_PURGE_REPORTED_BYTES = 8 * 1024 * 1024

#: Decodes a message if it may be the one that is looked for.
Match = Callable[[bytes], "TaskiqMessage | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A waiting message.

    Args:
        raw: The exact bytes in the list.
        message: What they say.
    """

    raw: bytes
    message: TaskiqMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What a purge did.

    Args:
        depth: Messages that waited at that moment.
        done: False: the depth was another one than expected, nothing was removed.
        items: The removed messages, as far as they are worth reading.
    """

    depth: int
    done: bool
    items: tuple[bytes, ...] = ()


async def depth_of(redis: RedisClient, key: str) -> int:
    """How many messages wait."""
    return await redis.llen(key)


async def find(redis: RedisClient, key: str, match: Match) -> Found | None:
    """Look through at most `SCAN_LIMIT` messages, newest first.

    A message that is pushed meanwhile moves the rest to higher positions, so nothing that stays in
    the list is skipped.
    """
    for start in range(0, SCAN_LIMIT, _PAGE):
        page = await redis.lrange(key, start, start + _PAGE - 1)
        for raw in page:
            message = match(raw)
            if message is not None:
                return Found(raw=raw, message=message)
        if len(page) < _PAGE:
            return None
    return None


async def remove(redis: RedisClient, key: str, found: Found) -> bool:
    """Take the message out; False when a worker was faster."""
    return await redis.lrem(key, 1, found.raw) == 1


async def purge(redis: RedisClient, key: str, *, expected_depth: int | None) -> Purged:
    """Remove all waiting messages at once.

    Args:
        redis: Our own client.
        key: The list.
        expected_depth: Remove nothing when another number waits now; None takes any.
    """
    answer = await redis.eval(
        _PURGE,
        1,
        key,
        "" if expected_depth is None else str(expected_depth),
        _PURGE_REPORTED,
        _PURGE_REPORTED_BYTES,
    )
    if not answer[1]:
        return Purged(depth=int(answer[0]), done=False)
    return Purged(depth=int(answer[0]), done=True, items=tuple(answer[2]))
