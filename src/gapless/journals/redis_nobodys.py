"""Runs that are nobody's in Redis: giving them up, finding and claiming them; and commands, which may be for one.

Whose a run is stands in its record, in its session's slot, and is changed there by one script. Which runs are nobody's
is listed in another slot, by when they want somebody: written before the record says so, and corrected by whoever reads
it and finds the record to say otherwise.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from gapless.errors import RunNotFound, StoreCorrupt, StoreUnavailable
from gapless.journals import redis_nobodys_scripts as scripts
from gapless.journals.contract import NotWaiting
from gapless.journals.redis_keys import (
    WANTED,
    WORKERS,
    decode_member,
    encode_member,
    pack,
    place_of,
    run_from,
    run_key,
)
from gapless.journals.redis_owned import OwnedRuns
from gapless.journals.redis_records import RedisRecords
from gapless.journals.redis_scripts import RUN_FIELDS
from gapless.journals.redis_server import RedisServer
from gapless.records import ACTIVE, RunRecord, now_ms

__all__ = ["NobodysRuns"]

LOOKS_MAX = 20
"""Pages of the list that one call reads; more than one only where entries are out of date or unreadable."""
NEVER = "inf"
"""When a run wants somebody that does not do so by itself."""

log = logging.getLogger("gapless.redis")
_ACTIVE = {status.value.encode() for status in ACTIVE}


class NobodysRuns:
    """The runs without an owner, as one worker deals with them."""

    def __init__(self, server: RedisServer, records: RedisRecords, owned: OwnedRuns) -> None:
        self._server = server
        self._records = records
        self._owned = owned
        self._claiming: set[str] = set()

    async def release(self, run_id: str, wanted_at: int | None, what: str) -> bool:
        """Give up a run of this worker, as `Store.release`."""
        me, owned = self._owned.worker_id, self._owned.runs.get(run_id)
        if owned is None:
            await self._owned.check_lease()
            return False
        owned.move = owned.move or uuid.uuid4().hex  # the same when it is asked for again
        member = encode_member(run_id, owned.run.session_id)
        at: int | str = NEVER if wanted_at is None else wanted_at
        if not await self._server.call(scripts.OFFER, WORKERS, me, member, at):
            raise self._owned.fenced()
        asked = owned.place, run_id, me, owned.move, at, what, now_ms()
        outcome = await self._server.call(scripts.RELEASE, owned.key, *asked)
        if outcome < 0:
            await self._owned.check_lease()
            return False
        # Once more: who found the entry before the record said so has dropped it.
        await self._server.call(scripts.WANT, WORKERS, me, member, 0 if outcome else at, outcome, 1)
        self._owned.runs.pop(run_id, None)
        return bool(outcome)

    async def claim(self, run_id: str) -> RunRecord | None:
        """Become the owner of a run that is nobody's, as `Store.claim`."""
        if run_id in self._claiming:
            return None
        self._claiming.add(run_id)
        try:
            return await self._claim(run_id)
        finally:
            self._claiming.discard(run_id)

    async def _claim(self, run_id: str) -> RunRecord | None:
        async def ask(session_id: str) -> tuple[str, list[Any]] | None:
            key = run_key(session_id, run_id)
            fields = await self._server.command("HMGET", key, *RUN_FIELDS, "turn")
            return None if fields[0] is None else (session_id, fields)

        me, found = self._owned.worker_id, await self._records.find(run_id, ask)
        run = None if found is None else run_from(run_id, found[1][:-1])
        if found is None or run is None or run.owner or run.status.ended:
            await self._owned.check_lease()
            return None
        session_id, (*_, turn) = found
        member = encode_member(run_id, session_id)
        if not await self._server.call(scripts.RESERVE, WORKERS, me, member):
            raise self._owned.fenced()
        try:
            key, nonce = run_key(session_id, run_id), uuid.uuid4().hex
            fields = await self._server.call(scripts.OWN, key, me, turn or 0, nonce, now_ms())
        except BaseException:
            self._owned.doubtful[run_id] = (session_id, "")
            raise
        run = None if fields is None else run_from(run_id, fields)
        if run is not None:
            self._owned.add(run)
        try:
            await self._server.call(scripts.SETTLE_CLAIM, WORKERS, me, member, int(run is not None))
        except StoreUnavailable as error:  # whoever finds the entry sees in the record that it is out of date
            log.warning("run %s: %s", run_id, error)
        return run

    async def wanted(self, now: int, limit: int) -> list[RunRecord]:
        """Find as `Store.wanted` does, and correct what is out of date in the list."""
        runs: list[RunRecord] = []
        passed = 0
        for _ in range(LOOKS_MAX):
            page = await self._server.call(scripts.WANTED, WANTED, now, passed, limit - len(runs))
            if not page:
                break
            members, scores = page[::2], page[1::2]
            places = [decode_member(member) for member in members]
            keys = (run_key(session_id, run_id) for run_id, session_id in places)
            records = await self._server.each(keys, (*RUN_FIELDS, "wanted_at"))
            wrong = []
            for member, score, (run_id, _), (*fields, at) in zip(members, scores, places, records, strict=True):
                if fields[0] is None or fields[1] != b"" or fields[2] not in _ACTIVE:
                    wrong.append((member.decode(), score.decode(), ""))
                elif float(at or 0) != float(score):
                    wrong.append((member.decode(), score.decode(), (at or b"0").decode()))
                else:
                    passed += 1
                    try:
                        runs.append(run_from(run_id, fields))
                    except StoreCorrupt as error:
                        log.error("%s", error)
            if wrong:
                await self._server.call(scripts.CORRECT_WANTED, WANTED, pack(wrong))
                await self._list_again([member for member, *_ in wrong])
            if len(runs) >= limit:
                break
        return runs

    async def _list_again(self, members: list[str]) -> None:
        """List those that have been given up, or wanted, since their records were read: their entries, which look the
        same, went with the ones that were out of date. Who gives one up or wants it from now on lists it after that."""
        places = [decode_member(member.encode()) for member in members]
        keys = (run_key(session_id, run_id) for run_id, session_id in places)
        records = await self._server.each(keys, ("owner", "status", "wanted_at"))
        for member, (owner, status, at) in zip(members, records, strict=True):
            if owner == b"" and status in _ACTIVE:
                await self._server.call(scripts.WANT, WORKERS, self._owned.worker_id, member, at or b"0", 0, 0)

    async def deliver(self, run_id: str, command: bytes, seq: int | None = None) -> str:
        """Keep a command for a run and tell its owner, as `Store.send`; with `seq` as `Store.answer`."""
        nonce = uuid.uuid4().hex  # of a call that redis-py makes twice, as the answer was lost

        async def ask(session_id: str) -> tuple[bytes, bytes] | None:
            key, place = run_key(session_id, run_id), place_of(session_id)
            arguments = (place, run_id, command, "" if seq is None else seq, nonce)
            answer = await self._server.call(scripts.SEND, key, *arguments, 0)
            if answer is not None and answer[0] == b"nobodys":
                want = (scripts.WANT, WORKERS, self._owned.worker_id, encode_member(run_id, session_id), 0)
                await self._server.call(*want, 0, 0)
                answer = await self._server.call(scripts.SEND, key, *arguments, 1)
                if answer is not None and answer[0] == b"sent" and not answer[1]:
                    await self._server.call(*want, 1, 0)  # once more, as in `release`
            return None if answer is None else (answer[0], answer[1])

        answer = await self._records.find(run_id, ask)
        if answer is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        outcome, owner = answer
        if outcome == b"not waiting":
            raise NotWaiting(run_id)
        return owner.decode()
