"""Creating a run in Redis: its id is claimed for a session, in one hash slot, and it is created there, in another.

A run's id is claimed under a number that is never given twice, in a key of its own: the claim. A run is created in its
session under the claim's number. Who wants the id for another session first spends the claim where it leads to (no run
can be created there under that number, or a lower one, any more), then moves it, if it is still the same. So of any
number of sessions one gets the run, and a worker that wakes up late creates nothing.
"""

from __future__ import annotations

import asyncio
import uuid

from gapless.errors import GaplessError, StoreUnavailable
from gapless.journals import redis_scripts as scripts
from gapless.journals.redis_keys import (
    WORKERS,
    encode,
    encode_member,
    number_claimed,
    place_of,
    pointer_to,
    run_key,
    session_claimed,
)
from gapless.journals.redis_owned import OwnedRuns
from gapless.journals.redis_records import RedisRecords
from gapless.journals.redis_server import RedisServer
from gapless.records import RunRecord, RunStatus, session_busy, session_of, session_taken

__all__ = ["RunCreation"]

CREATE_ATTEMPTS = 10
"""Each fails only when another worker creates or deletes the same run at the same moment."""
CLAIM_PAUSE_S = 0.02
"""Who has claimed a run's id for another session gets so long to create the run there."""


class RunCreation:
    """One request to create a run, over its attempts."""

    def __init__(
        self,
        server: RedisServer,
        records: RedisRecords,
        owned: OwnedRuns,
        run: RunRecord,
        *,
        reject_busy: bool,
        started_at: int | None,
    ) -> None:
        self._server = server
        self._records = records
        self._owned = owned
        self._run = run
        self._reject_busy = reject_busy
        self._started_at = started_at
        self._place = place_of(run.session_id)
        self._pointer = pointer_to(run.id)
        self._waited_for = b""
        """A claim for another session that has been given its time."""
        self._spent = b""
        """A claim for this session under which no run can be created any more."""
        asked_before, nonce = owned.doubtful.get(run.id, ("", ""))
        self._again = bool(nonce) and asked_before == run.session_id
        """Asked before, without an answer: it may have been created, by this very request."""
        self._nonce = nonce if self._again else uuid.uuid4().hex

    async def create(self) -> tuple[RunRecord, bool]:
        """Create the run, as `Store.create_run`."""
        if self._again:
            del self._owned.doubtful[self._run.id]
        for _ in range(CREATE_ATTEMPTS):
            answer = await self._attempt()
            if answer is not None:
                return answer
        id = self._run.id
        raise StoreUnavailable(f"run {id}: many workers create it at once; try again", run_id=id)

    async def _attempt(self) -> tuple[RunRecord, bool] | None:
        """Create the run if nobody is in the way; None for another attempt."""
        claim = await self._server.command("GET", self._pointer) or b""
        if not self._again:
            known = await self._records.run_in(session_claimed(claim), self._run.id) if claim else None
            if known is not None:
                return known, False
            if await self._gives_time_to(claim):
                return None
            busy = await self._busy() if self._reject_busy else None
            if busy is not None:
                known = await self._records.run_in(self._run.session_id, self._run.id)
                if known is not None:  # it is busy with this very run, which another worker has created meanwhile
                    return known, False
                raise await self._refusal(busy)
        mine = await self._claim(claim)
        if mine is None:
            return None
        outcome = await self._create(number_claimed(mine))
        if isinstance(outcome, list) and outcome[0] == b"created":
            if outcome[1]:
                self._run.status, self._run.started_at = RunStatus.RUNNING, int(outcome[1])
            self._owned.add(self._run)
            self._records.forget(self._run.id)
            return self._run, True
        if outcome == b"of another user":  # nothing comes of the claim: who wants the id elsewhere moves it
            raise session_taken(self._run.session_id)
        if isinstance(outcome, list):
            raise await self._refusal(outcome[1].decode())
        if outcome == b"void":
            self._spent = mine
        self._again = False
        return None

    async def _busy(self) -> str | None:
        """Return the id of the run that the session is busy with."""
        answer = await self._server.call(scripts.OLDEST_ACTIVE, f"{self._place}queue", self._place)
        return None if answer is None else str(answer[0].decode())

    async def _gives_time_to(self, claim: bytes) -> bool:
        """Wait for whoever has claimed the id for another session, once for each claim."""
        if not claim or session_claimed(claim) == self._run.session_id or claim == self._waited_for:
            return False
        self._waited_for = claim
        await asyncio.sleep(CLAIM_PAUSE_S)
        return True

    async def _claim(self, claim: bytes) -> bytes | None:
        """List the run in the index and have its id claimed for its session: the claim that counts, the one that was
        found or another in its place; None where something came of the one that was found, or another was quicker.
        Raises `WorkerFenced`."""
        run = self._run
        member = encode_member(run.id, run.session_id)
        number: int = await self._server.call(
            scripts.REGISTER_RUN, WORKERS, self._owned.worker_id, member, run.user_id, run.session_id, run.created_at
        )
        if not number:
            raise self._owned.fenced()
        if claim and session_claimed(claim) == run.session_id and claim != self._spent:
            return claim
        if claim and not await self._make_void(claim):
            return None
        mine = b"%d %s" % (number, run.session_id.encode())
        return mine if await self._server.call(scripts.CLAIM, self._pointer, claim, mine) else None

    async def _make_void(self, claim: bytes) -> bool:
        """Make sure that nothing comes of a claim any more; False when something has."""
        key = run_key(session_claimed(claim), self._run.id)
        outcome, *_ = await self._server.call(scripts.TAKE, key, "", "", number_claimed(claim))
        return bool(outcome == b"void")

    async def _create(self, number: int) -> bytes | list[bytes]:
        """Create the run in its session, under a claim's number. Where the answer is lost, it may be this worker's."""
        run, session = self._run, session_of(self._run)
        run.owner = self._owned.worker_id
        try:
            outcome: bytes | list[bytes] = await self._server.call(
                scripts.CREATE,
                run_key(run.session_id, run.id),
                self._place,
                run.id,
                self._owned.worker_id,
                self._nonce,
                encode(run),
                encode(session),
                session.user_id,
                session.updated_at,
                encode(session.state),
                int(self._reject_busy),
                number,
                "" if self._started_at is None else self._started_at,
            )
        except BaseException:
            self._owned.doubtful[run.id] = (run.session_id, self._nonce)
            raise
        return outcome

    async def _refusal(self, busy: str) -> GaplessError:
        """Say why the session takes no run: it is another user's, or busy."""
        session = await self._records.session(self._run.session_id)
        if session is not None and session.user_id != self._run.user_id:
            return session_taken(session.id)
        return session_busy(self._run.session_id, busy)
