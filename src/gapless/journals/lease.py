"""Telling dead workers from live ones without comparing clocks.

A worker proves that it lives by counting up its beat. Another one watches the count by its own monotonic clock: a beat
that has not moved for a lease is a worker that is gone. Neither a jump of the wall clock nor two machines that disagree
about the time can kill a living worker.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

__all__ = ["LeaseWatch", "log_lost"]

log = logging.getLogger("gapless.journal")


ASLEEP_SHARE, COUNTED_SHARE = 1 / 2, 1 / 8
"""Of a lease: who does not look for longer than the one has slept, and of that time counts the other."""


class LeaseWatch:
    """What one worker has seen of the others' beats, in seconds that it has watched them.

    A process that slept may have done so together with the whole machine, so the time counts for little in which it did
    not look. For something it does count: one that always gets to look late, on a machine with too much to do, sees a
    dead worker's beat as it was time and again, and takes its runs over later than others would, but not never."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked_at = 0.0
        self._watched_s = 0.0

    def expired(self, beats: Mapping[str, int], lease_s: float) -> list[str]:
        """Return the workers whose beat has stood still for `lease_s` seconds. Call it several times a lease."""
        now = self._monotonic()
        passed_s, self._looked_at = now - self._looked_at, now
        self._watched_s += lease_s * COUNTED_SHARE if passed_s > lease_s * ASLEEP_SHARE else passed_s
        watched_s = self._watched_s
        before = self._seen
        self._seen = {
            worker_id: seen if (seen := before.get(worker_id)) is not None and seen[0] == beat else (beat, watched_s)
            for worker_id, beat in beats.items()
        }
        return [worker_id for worker_id, (_, since_s) in self._seen.items() if watched_s - since_s >= lease_s]


def log_lost(me: str, dead: Collection[str], owners: Iterable[str]) -> None:
    """Log the workers that are lost, and how many of their runs worker `me` takes over.

    Args:
        me: Id of the worker that takes over.
        dead: Ids of the workers that it has found dead.
        owners: Who owned the runs that it takes over, run by run.
    """
    counts = Counter(owners)
    for worker_id in sorted({*dead, *counts} - {me, ""}):
        log.warning("worker %s is lost; worker %s takes over its runs: %d", worker_id, me, counts[worker_id])
