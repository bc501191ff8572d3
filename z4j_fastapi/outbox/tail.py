"""The newest records of a lane, kept in memory until they are sent.

While the reader keeps up, it never touches the disk. When it falls behind by more than the bound,
the tail lets go of everything and stays empty until the reader has caught up from disk: a backlog,
however long, costs no memory.
"""

from __future__ import annotations

from collections import deque

_TAIL_BYTES = 4 << 20
_RECORD_OVERHEAD_BYTES = 160  # tuple, number, bytes object; measured with sys.getsizeof


class MemoryTail:
    """All records of a lane above `floor`, or, while not `active`, none.

    Args:
        floor: Number of the last record that is not in it.
        max_bytes: Most memory held.
    """

    __slots__ = ("_items", "_max_bytes", "_size", "active", "floor")

    def __init__(self, floor: int, *, max_bytes: int = _TAIL_BYTES) -> None:
        self._items: deque[tuple[int, bytes]] = deque()
        self._max_bytes = max_bytes
        self._size = 0
        self.floor = floor
        self.active = True

    def push(self, number: int, payload: bytes) -> None:
        """Add the newest record. Only while active."""
        self._items.append((number, payload))
        self._size += len(payload) + _RECORD_OVERHEAD_BYTES
        if self._size > self._max_bytes:
            self.drop()

    def drop(self) -> None:
        """Let go of everything; the records are on disk."""
        self._items.clear()
        self._size = 0
        self.active = False

    def restart(self, floor: int) -> None:
        """Begin again: the reader has everything up to `floor`, which is all there is."""
        self._items.clear()
        self._size = 0
        self.floor = floor
        self.active = True

    def covers(self, after: int) -> bool:
        """Whether everything above `after` is in memory."""
        return self.active and after >= self.floor

    def take(
        self, after: int, *, max_records: int, max_bytes: int, at_least_one: bool = True
    ) -> list[tuple[int, bytes]]:
        """Take out the records behind `after`, within the limits.

        Args:
            after: Number of the last record already taken, `floor` or above.
            max_records: At most this many.
            max_bytes: Payload bytes at most.
            at_least_one: Take the first record whatever its size.
        """
        items = self._items
        while items and items[0][0] <= after:
            self._pop()
        taken: list[tuple[int, bytes]] = []
        while items and len(taken) < max_records:
            max_bytes -= len(items[0][1])
            if max_bytes < 0 and (taken or not at_least_one):
                break
            taken.append(self._pop())
        return taken

    def _pop(self) -> tuple[int, bytes]:
        item = self._items.popleft()
        self._size -= len(item[1]) + _RECORD_OVERHEAD_BYTES
        self.floor = item[0]
        return item
