"""Finding runs by what a store may have no list of: one page's search, with its bounds."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gapless.records import Listing, RunRecord
from gapless.sought import Found, Glimpse, Sought

__all__ = ["Search", "find_by_pages"]

LOOKED_MAX = 20_000
"""Runs that are looked at for one page."""
LOOK_S_MAX = 0.05
"""A page that has found less than it may is given after so long: the next one goes on behind it."""
SKEW_MS = 60_000
"""Clocks of servers differ by less: what a list has behind a run was not made so much later."""


class Search:
    """Looks at runs, newest first, for one page of those that are sought."""

    def __init__(self, sought: Sought, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.sought = sought
        self.places: list[int] = []
        """Of the runs that were found."""
        self.next: str | None = None
        """As `Found.next`, once the search is over."""
        self.looked = 0
        self._limit = limit
        self._until = monotonic() + LOOK_S_MAX
        self._monotonic = monotonic

    def sees(self, place: int, status: str, run: Glimpse | RunRecord | None) -> bool:
        """Look at the run at this place in the list, None for one that cannot be sought; return whether to look on."""
        self.looked += 1
        if run is not None:
            if self.sought.since is not None and run.created_at < self.sought.since - SKEW_MS:
                return False
            if self.sought.is_of(run, status):
                if len(self.places) == self._limit:  # one more, which says that there is more
                    self.next = str(self.places[-1])
                    return False
                self.places.append(place)
                return True
        if self.looked >= LOOKED_MAX or self._monotonic() >= self._until:
            self.next = str(place)
            return False
        return True

    def page(self, found: list[RunRecord]) -> Found:
        """Return what was found as a page."""
        return Found(found, self.next, looked=self.looked)


async def find_by_pages(
    page: Callable[[int, str | None], Awaitable[Listing[RunRecord]]],
    sought: Sought,
    limit: int,
    after: str | None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Found:
    """Find as `Store.find_runs` does, with nothing but a list's pages, `page(limit, after)`."""
    found, looked, until = list[RunRecord](), 0, monotonic() + LOOK_S_MAX
    while True:
        seen = await page(limit - len(found), after)
        looked += len(seen)
        found += [run for run in seen if sought.is_of(run, run.status)]
        after = seen.next
        if sought.since is not None and seen and seen[-1].created_at < sought.since - SKEW_MS:
            after = None
        if after is None or len(found) >= limit or looked >= LOOKED_MAX or monotonic() >= until:
            return Found(found, after, looked=looked)
