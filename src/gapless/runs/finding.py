"""Finding runs by what no store has a list of: their agent, when they were made, the text of their error."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec

from gapless.records import Listing, RunRecord

__all__ = ["Sought", "find_runs"]

LOOK_S_MAX = 0.1
"""A page that has found less than it may is given after so long: the next one goes on behind it."""


class Sought(msgspec.Struct, kw_only=True, frozen=True):
    """What runs are to be found by; None: whatever it is. Times are ms since 1970, of their creation."""

    agent: str | None = None
    since: int | None = None
    until: int | None = None
    error: str | None = None
    """In the code or the message of its error, in small or capital letters."""

    def is_of(self, run: RunRecord) -> bool:
        """Tell whether a run is one of these."""
        if self.agent is not None and run.agent != self.agent:
            return False
        if self.until is not None and run.created_at > self.until:
            return False
        if self.since is not None and run.created_at < self.since:
            return False
        return self.error is None or self.error.casefold() in " ".join((run.error or {}).values()).casefold()


async def find_runs(
    page: Callable[[int, str | None], Awaitable[Listing[RunRecord]]],
    sought: Sought,
    *,
    limit: int,
    after: str | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Listing[RunRecord]:
    """Return at most `limit` of the runs that `page(limit, after)` gives, newest first, that are sought. A page may
    have fewer, or none, and a `next` all the same: it was looked for as long as one page may be."""
    found, until = Listing[RunRecord](), monotonic() + LOOK_S_MAX
    while True:
        looked = await page(limit - len(found), after)
        found += filter(sought.is_of, looked)
        after = found.next = looked.next
        too_old = sought.since is not None and bool(looked) and looked[-1].created_at < sought.since
        if too_old:
            found.next = None
        if found.next is None or len(found) >= limit or monotonic() >= until:
            return found
