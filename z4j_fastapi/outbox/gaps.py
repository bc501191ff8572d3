"""Numbers of a lane that no record has (any more): lost in the middle, and counted once."""

from __future__ import annotations


class Gaps:
    """A set of missing numbers, kept as sorted ranges. Normally empty.

    Ranges are known from damage on disk and from what the memory ring had to drop. They are
    forgotten once the acknowledged position has passed them.
    """

    __slots__ = ("_ranges", "count")

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.count = 0

    def add(self, first: int, last: int) -> int:
        """Note that `first` to `last` are missing.

        Returns:
            How many of them were not known to be.
        """
        if last < first:
            return 0
        before = self.count
        kept: list[tuple[int, int]] = []
        for begin, end in self._ranges:
            if end < first - 1 or begin > last + 1:
                kept.append((begin, end))
            else:
                first, last = min(first, begin), max(last, end)
        kept.append((first, last))
        kept.sort()
        self._ranges = kept
        self.count = sum(end - begin + 1 for begin, end in kept)
        return self.count - before

    def pass_over(self, position: int) -> int:
        """Forget what lies up to `position`, and step over a range that begins right behind it.

        Returns:
            The position behind that range, or `position` itself.
        """
        while self._ranges and self._ranges[0][0] <= position + 1:
            begin, end = self._ranges.pop(0)
            self.count -= end - begin + 1
            position = max(position, end)
        return position
