"""The runs of a process that have an error, so that those are found among many that have none."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

__all__ = ["FailedRuns"]


class FailedRuns:
    """Lists them by their numbers, in the order in which they began."""

    def __init__(self) -> None:
        self._listed: list[tuple[int, str]] = []

    def add(self, number: int, run_id: str) -> None:
        """List one that has ended with an error."""
        insort(self._listed, (number, run_id))

    def drop(self, number: int) -> None:
        """List a run no more, if it is listed."""
        place = bisect_left(self._listed, (number,))
        if place < len(self._listed) and self._listed[place][0] == number:
            del self._listed[place]

    def before(self, number: int | None) -> Iterator[str]:
        """Give the ids of those before a number or of all, newest first."""
        place = len(self._listed) if number is None else bisect_left(self._listed, (number,))
        return (run_id for _, run_id in reversed(self._listed[:place]))
