"""When the records of a lane were written, to within a bounded number of remembered moments."""

from __future__ import annotations

_MAX_MARKS = 128


class AgeMarks:
    """A few (number, time) pairs, denser for the recent past.

    Remembers that record `number` was written at a moment, at most once an interval that doubles
    whenever the list is full: a backlog of days costs no more memory than one of minutes.

    Args:
        interval_seconds: Least distance of two marks, to begin with.
    """

    __slots__ = ("_first_interval", "_interval", "_marks", "due")

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self._first_interval = interval_seconds
        self._interval = interval_seconds
        self._marks: list[tuple[int, float]] = []
        self.due = float("-inf")  # no mark is wanted before this moment

    def note(self, number: int, now: float) -> None:
        """Remember that `number` is written at `now`. Call it when `now` has reached `due`."""
        self._marks.append((number, now))
        if len(self._marks) > _MAX_MARKS:
            del self._marks[1::2]
            self._interval *= 2
        self.due = now + self._interval

    def forget(self, acknowledged: int) -> None:
        """Drop what is only about records up to `acknowledged`, except the last such mark."""
        marks = self._marks
        drop = 0
        while drop + 1 < len(marks) and marks[drop + 1][0] <= acknowledged + 1:
            drop += 1
        del marks[:drop]
        if len(marks) <= 1:
            self._interval = self._first_interval

    def oldest(self) -> float | None:
        """When the oldest record not forgotten was written, about; None without any mark."""
        return self._marks[0][1] if self._marks else None

    def written_before(self, moment: float) -> int:
        """The highest number known to have been written at `moment` or earlier; 0 if none is."""
        found = 0
        for number, when in self._marks:
            if when <= moment:
                found = number
        return found
