"""Taking over the runs of dead workers in Redis: fence, take each run in its session, settle the index."""

from __future__ import annotations

import contextlib
import logging

from gapless.errors import StoreCorrupt
from gapless.journals import redis_scripts as scripts
from gapless.journals.lease import LeaseWatch, log_lost
from gapless.journals.redis_keys import WORKERS, decode_member, encode_member, pack, place_of, run_from, run_key
from gapless.journals.redis_nobodys_scripts import WANT
from gapless.journals.redis_outbox import list_notices_of
from gapless.journals.redis_owned import OwnedRuns
from gapless.journals.redis_server import RedisServer
from gapless.records import RunRecord, now_ms

__all__ = ["TakeOver"]

log = logging.getLogger("gapless.redis")


class TakeOver:
    """Makes this worker the owner of what dead ones left, and of what may be its own after an answer that was lost."""

    def __init__(self, server: RedisServer, owned: OwnedRuns, lease_watch: LeaseWatch) -> None:
        self._server = server
        self._owned = owned
        self._lease_watch = lease_watch
        self.others = 0
        """As `Store.others`."""

    async def __call__(self, lease_s: float) -> list[RunRecord]:
        """Take over, as `Store.take_over`. What is cut short halfway is made again by the next call, of any worker."""
        newest_claim, found = await self._fence(lease_s)
        if not found:
            return []
        taken: dict[str, RunRecord] = {}
        settled = []
        for owner, run_id, session_id in found:
            mine = run_id in self._owned.runs  # the dead one had only begun to take over what is here already
            if not mine:
                run = await self._take(owner, run_id, session_id, newest_claim)
                if run is not None:
                    taken[run_id], mine = run, True
            settled.append((owner, encode_member(run_id, session_id).decode(), mine))
        await self._server.call(scripts.SETTLE, WORKERS, self._owned.worker_id, pack(settled))
        for _, run_id, _ in found:
            self._owned.doubtful.pop(run_id, None)
        for run in taken.values():
            self._owned.add(run)
        return list(taken.values())

    async def _fence(self, lease_s: float) -> tuple[int, list[tuple[str, str, str]]]:
        """Fence the dead: the number of the newest claim to an id, and all runs that are left, as owner, run, session.
        Raises `WorkerFenced` when this one is fenced itself."""
        me = self._owned.worker_id
        beats = {
            worker.decode(): int(beat) for worker, beat in (await self._server.command("HGETALL", WORKERS)).items()
        }
        if beats.pop(me, None) is None:
            raise self._owned.fenced()
        dead = {worker_id: beats[worker_id] for worker_id in self._lease_watch.expired(beats, lease_s)}
        self.others = len(beats) - len(dead)
        answer = await self._server.call(scripts.FENCE, WORKERS, me, pack(dead))
        if answer == 0:
            raise self._owned.fenced()
        newest_claim, left = answer
        found = [(owner.decode(), *decode_member(member)) for owner, member in left]
        log_lost(me, dead, [owner for owner, _, _ in found])
        found += [(me, *doubtful) for doubtful in self._owned.leave_doubtful()]
        return newest_claim, found

    async def _take(self, owner: str, run_id: str, session_id: str, newest_claim: int) -> RunRecord | None:
        """Take one run from its owner; None where there is none to be taken. The index is completed for one that has
        ended. One that was only claimed so far cannot be created any more."""
        me = self._owned.worker_id
        try:
            outcome, *fields = await self._server.call(
                scripts.TAKE, run_key(session_id, run_id), owner, me, newest_claim, now_ms()
            )
            if outcome in (b"taken", b"nobodys", b"ended"):
                await list_notices_of(self._server, run_id, session_id)
            if outcome == b"taken":
                run = run_from(run_id, fields[0])
                self._owned.doubtful[run_id] = (session_id, "")  # until the caller has it
                return run
            if outcome == b"nobodys":  # the dead one was about to give it up, or to claim it
                member, wanted_at = encode_member(run_id, session_id), fields[0] or 0
                await self._server.call(WANT, WORKERS, me, member, wanted_at, int(float(wanted_at) == 0), 0)
            if outcome == b"ended":
                run = run_from(run_id, fields[0])
                await self._owned.finish([(run, int(fields[0][scripts.RUN_FIELDS.index("bytes")]))], owner)
        except StoreCorrupt as error:  # there is no run left to be taken, nor for its session to wait for
            log.error("run %s: %s", run_id, error)
            with contextlib.suppress(StoreCorrupt):
                await self._server.command("LREM", f"{place_of(session_id)}queue", 1, run_id)
        return None
