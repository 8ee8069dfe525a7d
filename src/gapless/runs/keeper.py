"""Keeping house: this worker's lease, the runs of workers that lost theirs, what is past its retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from gapless.errors import StoreUnavailable
from gapless.journals.contract import WorkerFenced
from gapless.journals.journal import Journals
from gapless.outage import Outage
from gapless.records import RunRecord, now_ms
from gapless.runs.request import new_id
from gapless.tasks import end_tasks

__all__ = ["LEASE_S", "RETENTION_S", "Keeper"]

LEASE_S = 10.0
"""A worker that has not renewed for so long has lost its runs."""
RENEWALS_PER_LEASE = 4
WATCH_S = 0.5
"""How often the other workers' beats are looked at."""
RETENTION_S = 7 * 24 * 3600.0
"""Events of ended runs are kept for so long; their records and the sessions stay."""
EXPIRE_EVERY_S = 600.0
LATE_S = 2.0
"""A store that has not taken a renewal within this takes nothing at the moment: it is a write of one row."""

log = logging.getLogger("gapless.runner")


class Keeper:
    """Renews a worker's lease and looks after the store, in a task of its own.

    `find()` looks for runs that are nobody's. `on_lost(run)` is called with each run of another worker that this one
    owns from now on, `on_fenced()` when this worker has lost its own lease. `lease_s` and `retention_s` (None: for
    ever) are seconds, `kept_bytes_max` what the events of ended runs may take altogether."""

    def __init__(
        self,
        journals: Journals,
        *,
        lease_s: float,
        retention_s: float | None,
        kept_bytes_max: int | None,
        on_lost: Callable[[RunRecord], None],
        on_fenced: Callable[[], None],
        find: Callable[[], Awaitable[None]],
    ) -> None:
        self._journals = journals
        self._lease_s = lease_s
        self._retention_s = retention_s
        self._kept_bytes_max = kept_bytes_max
        self._on_lost = on_lost
        self._on_fenced = on_fenced
        self._find = find
        self._nudged: asyncio.Event | None = None
        self._asked: list[asyncio.Event] = []
        """Set once the other workers were looked at."""
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._renewing_since: float | None = None

    @property
    def waits(self) -> bool:
        """The store has kept the renewal of the lease waiting for longer than it ever should, as where another process
        holds an SQLite file's lock: before it fails, what is to be appended waits as well."""
        return self._renewing_since is not None and time.monotonic() - self._renewing_since > LATE_S

    async def open(self) -> None:
        """Open the store under a new worker id and begin. Raises `StoreUnavailable`, `StoreCorrupt`."""
        await self._journals.open(new_id())
        self._nudged = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._keep(), name="gapless-keeper")

    async def close(self) -> None:
        """Keep no more. Idempotent."""
        if self._task is not None:
            self._closing = True
            self.nudge()
            await end_tasks([self._task])
            self._task = None

    async def sweep(self) -> None:
        """Renew this worker's lease and take over the runs of workers that lost theirs. Raises `StoreUnavailable`."""
        try:
            self._renewing_since = time.monotonic()
            try:
                await self._journals.store.renew()
            finally:
                self._renewing_since = None
            await self._look_for_lost()
        except WorkerFenced:
            await self._register_again()

    async def _look_for_lost(self) -> None:
        for run in await self._journals.store.take_over(self._lease_s):
            self._on_lost(run)
        await self._find()

    def nudge(self) -> None:
        """Look for runs that are nobody's now."""
        if self._nudged is not None:
            self._nudged.set()

    async def look(self, wait_s: float) -> None:
        """Look at the other workers now. Returns when that is done, and after `wait_s` seconds anyway."""
        looked = asyncio.Event()
        self._asked.append(looked)
        self.nudge()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(looked.wait(), wait_s)

    async def _pause(self, pause_s: float) -> None:
        assert self._nudged is not None, "the keeper is open"
        alarm = asyncio.get_running_loop().call_later(pause_s, self._nudged.set)
        try:
            await self._nudged.wait()
        finally:
            alarm.cancel()
        self._nudged.clear()

    async def _keep(self) -> None:
        """Renew several times a lease, look at the others more often, so that a lost worker's runs wait for little more
        than the lease, and now and then drop the events that are past their retention."""
        journals = self._journals
        expire_at = time.monotonic() + EXPIRE_EVERY_S / 10
        pause_s = min(self._lease_s / RENEWALS_PER_LEASE, WATCH_S)
        renew_at = 0.0
        outage = Outage(log, f"worker {journals.worker_id}: the store is unavailable")
        while not self._closing:  # a client library may have swallowed the cancel that came while it was at work
            asked, self._asked = self._asked, []
            try:
                if time.monotonic() >= renew_at:
                    await self.sweep()
                    renew_at = time.monotonic() + self._lease_s / RENEWALS_PER_LEASE
                    journals.failing = False
                    outage.over()
                else:
                    with contextlib.suppress(WorkerFenced):  # the next renewal sees to it
                        await self._look_for_lost()
                if time.monotonic() > expire_at:
                    expire_at = time.monotonic() + EXPIRE_EVERY_S
                    await self._expire()
            except StoreUnavailable as error:
                outage.failed(error)
                journals.failing = True
            except Exception as error:  # a bug; the lease of all runs must not end with it
                log.error("worker %s: %s while its lease was renewed", journals.worker_id, type(error).__name__)
                log.debug("worker %s", journals.worker_id, exc_info=error)
            for looked in asked:
                looked.set()
            await self._pause(pause_s)

    async def _expire(self) -> None:
        kept_s, kept_bytes_max = self._retention_s, self._kept_bytes_max
        if kept_s is not None or kept_bytes_max is not None:
            ended_before = 0 if kept_s is None else now_ms() - int(kept_s * 1000)
            await self._journals.store.expire(ended_before, kept_bytes_max)

    async def _register_again(self) -> None:
        """Another worker has taken this one's runs (it had been stopped for too long): start anew under a new id."""
        self._journals.metrics.leases_lost += 1
        log.warning("worker %s lost its lease; its runs were closed by another", self._journals.worker_id)
        self._on_fenced()
        await self._journals.register_again(new_id())
