"""The outbox in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from gapless.journals.outbox import NOTICES_TAKEN_MAX, Notice, Outbox

__all__ = ["MemoryOutbox"]


class MemoryOutbox(Outbox):
    """Keeps notices for all workers of one `Memory`."""

    def __init__(self) -> None:
        self._of_runs: dict[str, dict[str, Notice]] = {}
        self._due: dict[str, Notice] = {}
        self._expired: set[str] = set()
        """Runs whose events are gone, and which still have notices that are due."""

    def add(self, notices: Iterable[Notice]) -> None:
        """Keep notices of a run, in the step that makes them true."""
        for notice in map(copy.copy, notices):
            self._of_runs.setdefault(notice.run_id, {})[notice.id] = notice
            if notice.due_at is not None:
                self._due[notice.id] = notice

    async def take(self, now: int, until: int, limit: int = NOTICES_TAKEN_MAX) -> list[Notice]:
        due = [(notice.due_at, notice) for notice in self._due.values() if notice.due_at is not None]
        taken = [notice for at, notice in sorted(due, key=lambda one: one[0]) if at <= now][:limit]
        for notice in taken:
            notice.due_at = until
        return list(map(copy.copy, taken))

    async def settle(self, notice: Notice, due_at: int | None) -> bool:
        known = self._of_runs.get(notice.run_id, {}).get(notice.id)
        if known is None or known.due_at != notice.due_at:
            return False
        known.data, known.due_at = notice.data, due_at
        if due_at is not None:
            self._due[known.id] = known
        else:
            self._due.pop(known.id, None)
            if known.run_id in self._expired:
                self.expire(known.run_id)
        return True

    async def of_run(self, run_id: str) -> list[Notice]:
        return self.known(run_id)

    def known(self, run_id: str) -> list[Notice]:
        """Return the notices of a run."""
        return list(map(copy.copy, self._of_runs.get(run_id, {}).values()))

    def expire(self, run_id: str) -> None:
        """Drop the notices of a run that are not due any more: its events are gone."""
        kept = {id: notice for id, notice in self._of_runs.pop(run_id, {}).items() if notice.due_at is not None}
        self._expired.discard(run_id)
        if kept:
            self._of_runs[run_id] = kept
            self._expired.add(run_id)

    def drop(self, run_id: str) -> None:
        """Drop all notices of a run that is deleted."""
        self._expired.discard(run_id)
        for id in self._of_runs.pop(run_id, ()):
            self._due.pop(id, None)
