"""A bounded ring in memory for records that the disk refuses: full, over quota, or failing.

Its records come behind all those on disk, so while it holds any, new records join it; they go to
the disk in order when that takes them again.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

_RING_BYTES = 4 << 20
_RETRY_SECONDS = 1.0


class OverflowRing:
    """Records that are nowhere but in memory.

    Args:
        max_bytes: Most payload bytes held.
        keep_oldest: At the bound refuse the new record, instead of dropping the oldest ones.
    """

    __slots__ = ("_items", "_keep_oldest", "_max_bytes", "_retry_at_monotonic", "_size")

    def __init__(self, *, keep_oldest: bool, max_bytes: int = _RING_BYTES) -> None:
        self._items: deque[tuple[int, bytes]] = deque()
        self._keep_oldest = keep_oldest
        self._max_bytes = max_bytes
        self._size = 0
        self._retry_at_monotonic = 0.0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        """Payload bytes held."""
        return self._size

    @property
    def first(self) -> tuple[int, bytes]:
        """The oldest record: number and payload. There must be one."""
        return self._items[0]

    def push(self, number: int, payload: bytes) -> list[int] | None:
        """Add the newest record.

        Returns:
            Numbers of the records dropped for it; None if it was itself refused.
        """
        dropped: list[int] = []
        if self._items and self._size + len(payload) > self._max_bytes:
            if self._keep_oldest:
                return None
            while self._items and self._size + len(payload) > self._max_bytes:
                dropped.append(self.pop())
        self._items.append((number, payload))
        self._size += len(payload)
        return dropped

    def pop(self) -> int:
        """Take out the oldest record, and return its number."""
        number, payload = self._items.popleft()
        self._size -= len(payload)
        return number

    def discard(self, up_to: int) -> None:
        """Drop the records with numbers up to `up_to`: the brain has them, or they were evicted."""
        while self._items and self._items[0][0] <= up_to:
            self.pop()

    def peek(
        self, after: int, *, max_records: int, max_bytes: int, at_least_one: bool = True
    ) -> list[tuple[int, bytes]]:
        """The records behind `after`, within the limits; they stay in the ring.

        Args:
            after: Number of the last record already taken.
            max_records: At most this many.
            max_bytes: Payload bytes at most.
            at_least_one: Return the first record whatever its size.
        """
        skip = 0
        for number, _ in self._items:
            if number > after:
                break
            skip += 1
        taken: list[tuple[int, bytes]] = []
        for item in islice(self._items, skip, skip + max_records):
            max_bytes -= len(item[1])
            if max_bytes < 0 and (taken or not at_least_one):
                break
            taken.append(item)
        return taken

    def postpone(self, now: float) -> None:
        """The disk refused at `now` (monotonic seconds): leave it alone for a second."""
        self._retry_at_monotonic = now + _RETRY_SECONDS

    def retry_due(self, now: float) -> bool:
        """Whether the disk may be tried again at `now` (monotonic seconds)."""
        return now >= self._retry_at_monotonic
