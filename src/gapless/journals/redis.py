"""The store in Redis or Valkey Streams (7 or later), shared by any number of machines.

Layout. A session with its runs, their journals and its turns is kept in one hash slot (`{session}` in the key), so that
each step on them is one script: the append of a terminal event closes the journal, adds the turn and leaves the queue
at once. A journal is a stream, a batch one entry of it, whose id is the position of its first event. What spans
sessions (workers and their beats, lists of runs and sessions) is in one other slot and is only an index: it is written
before what it points to, finished after it, and whoever takes over a dead worker's runs finishes what it left halfway.

How a run is created, what an append costs and how a worker is told of others' is said in `redis_claims.py`,
`redis_owned.py` and `redis_news.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import msgspec

from gapless.errors import CursorExpired, RunNotFound, StoreUnavailable
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import (
    READ_BYTES_MAX,
    TIMES_MAX,
    WANTED_MAX,
    Advice,
    Append,
    Checkpoint,
    GroupTime,
    Listener,
    Store,
)
from gapless.journals.lease import LeaseWatch
from gapless.journals.redis_claims import RunCreation
from gapless.journals.redis_failed import FAILED_RUNS
from gapless.journals.redis_keys import (
    ENDED,
    RUNS,
    SESSIONS,
    WORKERS,
    decode_member,
    encode,
    encode_member,
    place_of,
    pointer_to,
    run_key,
    session_from,
    session_key,
)
from gapless.journals.redis_news import RedisNews
from gapless.journals.redis_nobodys import NobodysRuns
from gapless.journals.redis_outbox import RedisOutbox
from gapless.journals.redis_owned import OwnedRuns
from gapless.journals.redis_reading_scripts import READ, TIMES
from gapless.journals.redis_records import RedisRecords
from gapless.journals.redis_server import RedisServer
from gapless.journals.redis_sessions import AGAIN_S
from gapless.journals.redis_subscriptions import RedisSubscriptions
from gapless.journals.redis_takeover import TakeOver
from gapless.moves import HANDED_OVER, Moves
from gapless.records import Listing, RunRecord, RunStatus, SessionRecord, Turn, changed_state, session_busy
from gapless.sought import Found, Sought

__all__ = ["RedisStore"]

RECHECK_S = 5.0
"""Seconds after a run's end, or after a watch began, at which we check that the server still has it: a failover may
have lost it."""

KEEPS_ALL = "noeviction"

log = logging.getLogger("gapless.redis")
_advised: set[str] = set()
"""Stores about whose server this process has said what it thinks."""


class RedisStore(Store):
    """`redis://[user:password@]host:port/db`, `rediss://` (TLS), `unix://path`; `valkey://` and `valkeys://` alike."""

    commit_interval_s: ClassVar[float] = 0.002

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._server = RedisServer(url)
        self._records = RedisRecords(self._server)
        self.outbox = RedisOutbox(self._server, self._records)
        self.subscriptions = RedisSubscriptions(self._server)
        self._owned = OwnedRuns(self._server)
        self._news = RedisNews(self._server, self._records, self._owned)
        self._nobodys = NobodysRuns(self._server, self._records, self._owned)
        self._take_over = TakeOver(self._server, self._owned, LeaseWatch(monotonic))

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        return cls(url)

    # -- the worker -------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        first = not self._server.is_connected
        if first:
            await self._server.connect()
        await self._news.stop()
        self._owned.begin(worker_id)
        try:
            await self._news.start(listener)
            await self._server.command("HSET", WORKERS, worker_id, 0)  # last: what failed before is begun anew
        except BaseException:
            if first:
                await self._disconnect()
            raise
        if first and self._server.name not in _advised:
            _advised.add(self._server.name)
            for risk, fix in await self.advice():
                log.warning("store %s: %s %s", self._server.name, risk, fix)

    async def advice(self) -> list[Advice]:
        servers = await self._server.settings()
        advice = []
        if any(server.get("aof_enabled") == 0 for server in servers):
            advice.append(
                Advice(
                    "its server writes no log (appendonly no): a crash or a restart of it loses every run and session, "
                    "or all since its last snapshot.",
                    "Set appendonly yes; with appendfsync always nothing that was accepted is lost.",
                )
            )
        policies = {server.get("maxmemory_policy", KEEPS_ALL) for server in servers} - {KEEPS_ALL}
        advice += [
            Advice(
                f"its server may drop keys when its memory is full (maxmemory-policy {policy}): runs and sessions "
                "disappear without an error.",
                f"Set maxmemory-policy {KEEPS_ALL}.",
            )
            for policy in sorted(policies)
        ]
        return advice

    async def _disconnect(self) -> None:
        await self._news.stop()
        await self._server.disconnect()

    async def close(self) -> None:
        if self._server.is_connected:
            try:
                await self._server.command("HDEL", WORKERS, self._owned.worker_id)
            except StoreUnavailable as error:  # its lease runs out by itself then
                log.warning("%s", error)
            await self._disconnect()
        self._news.forget_listener()

    async def renew(self) -> None:
        if not await self._server.call(scripts.RENEW, WORKERS, self._owned.worker_id):
            raise self._owned.fenced()
        before = time.monotonic() - RECHECK_S
        await self._news.recheck_watched(before)
        await self._owned.recheck_ended(before)
        await self._news.sessions.recheck(time.monotonic() - AGAIN_S)

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        taken = await self._take_over(lease_s)
        self.others = self._take_over.others
        if taken:
            self._news.collect_commands(run.id for run in taken)
        return taken

    # -- runs -------------------------------------------------------------------------------------------------------

    async def create_run(
        self, run: RunRecord, *, reject_busy: bool, started_at: int | None = None
    ) -> tuple[RunRecord, bool]:
        creation = RunCreation(
            self._server, self._records, self._owned, run, reject_busy=reject_busy, started_at=started_at
        )
        with self._owned.may_come(run.id):
            record, created = await creation.create()
        if created:
            self._news.now_owned(run.id)
        return record, created

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        return await self._owned.start(run_id, started_at)

    async def get_run(self, run_id: str) -> RunRecord | None:
        return await self._records.run(run_id)

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        return await self._records.runs(user_id, session_id, status, limit, after)

    async def find_runs(self, sought: Sought, *, limit: int = 100, after: str | None = None) -> Found:
        return await self._records.find_runs(sought, limit, after)

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        return await self._records.active_runs(session_ids)

    async def session_runs(
        self, session_id: str, after: str | None = None, limit: int = 100, *, active: bool = False
    ) -> list[RunRecord]:
        return await self._news.sessions.runs(session_id, after, limit, active=active)

    # -- runs that are nobody's -------------------------------------------------------------------------------------

    async def release(self, run_id: str, wanted_at: int | None, what: str = HANDED_OVER) -> bool:
        return await self._nobodys.release(run_id, wanted_at, what)

    async def claim(self, run_id: str) -> RunRecord | None:
        run = await self._nobodys.claim(run_id)
        if run is not None:
            self._news.collect_commands([run_id])
        return run

    async def wanted(self, now: int, limit: int = WANTED_MAX) -> list[RunRecord]:
        return await self._nobodys.wanted(now, limit)

    # -- journals ---------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        return await self._owned.append(batches)

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        async def ask(session_id: str) -> Any:
            key, place = run_key(session_id, run_id), place_of(session_id)
            return await self._server.call(READ, key, place, run_id, after, limit, READ_BYTES_MAX)

        answer = await self._records.find(run_id, ask)
        if answer is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        if answer == b"expired":
            raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
        if answer == b"lost":
            raise CursorExpired(
                f"the events of run {run_id} from {after + 1} on are gone: somebody removed or replaced their key",
                run_id=run_id,
            )
        first, data = answer
        events: list[bytes] = data.split(b"\n")[after + 1 - first :][:limit] if data else []
        return events

    async def times(self, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[GroupTime]:
        times: list[GroupTime] = []
        while after >= 0 and not times:

            async def ask(session_id: str, after: int = after) -> Any:
                key, place = run_key(session_id, run_id), place_of(session_id)
                return await self._server.call(TIMES, key, place, run_id, after, limit)

            answer = await self._records.find(run_id, ask)
            if answer is None:
                raise RunNotFound(f"no run {run_id}", run_id=run_id)
            if answer == b"expired":
                raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
            found, after = answer
            times = [GroupTime(seq, int(at)) for seq, at in found]
        return times

    async def moves(self, run_id: str) -> Moves:
        return await self._records.moves(run_id)

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        return await self._records.checkpoint(run_id)

    async def commands(self, run_id: str) -> list[bytes]:
        return await self._records.commands(run_id)

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        await self._owned.keep_blob(run_id, blob_id, piece, data)

    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        return await self._records.blob(run_id, f"{blob_id}:{piece}")

    async def watch(self, run_id: str) -> None:
        await self._news.watch(run_id)

    async def unwatch(self, run_id: str) -> None:
        await self._news.unwatch(run_id)

    async def send(self, run_id: str, command: bytes) -> str:
        return await self._nobodys.deliver(run_id, command)

    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        return await self._nobodys.deliver(run_id, command, seq)

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        expired = 0
        limit = "" if bytes_max is None else bytes_max
        while members := await self._server.call(scripts.PAST_RETENTION, ENDED, ended_before, limit):
            runs = [decode_member(member) for member in members]
            drops = await self._server.all(
                ("EVAL", scripts.DROP_EVENTS.source, 1, run_key(session_id, run_id), place_of(session_id), run_id)
                for run_id, session_id in runs
            )
            for (run_id, _), dropped in zip(runs, drops, strict=True):
                if dropped is None:
                    log.error("run %s: its record is damaged; its events are left where they are", run_id)
                else:
                    expired += dropped
            await self._server.call(scripts.FORGET_EVENTS, ENDED, *members)
        return expired

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        fields = await self._server.call(
            scripts.CREATE_SESSION,
            session_key(session.id),
            encode(msgspec.structs.replace(session, state={})),
            session.updated_at,
            encode(session.state),
            place_of(session.id),
        )
        known = session_from(session.id, fields)
        for key in (SESSIONS, f"{SESSIONS}:{known.user_id}"):
            await self._server.command("ZADD", key, "GT", known.updated_at, session.id)
        return known

    async def get_session(self, session_id: str) -> SessionRecord | None:
        return await self._records.session(session_id)

    async def list_sessions(
        self, *, user_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[SessionRecord]:
        return await self._records.sessions(user_id, limit, after)

    async def update_state(
        self, session_id: str, changes: dict[str, Any], updated_at: int, bytes_max: int | None = None
    ) -> SessionRecord | None:
        place = place_of(session_id)
        while True:  # each turn more means that somebody else's update has come through
            fields = await self._server.command("HMGET", session_key(session_id), *scripts.SESSION_FIELDS)
            if fields[0] is None:
                return None
            session = session_from(session_id, fields)
            session.state = changed_state(session, changes, bytes_max)
            state = encode(session.state)
            answer = await self._server.call(
                scripts.UPDATE_STATE, session_key(session_id), place, fields[-1], state, updated_at
            )
            if isinstance(answer, list):
                raise session_busy(session_id, answer[1].decode())
            if answer == b"updated":
                break
        for key in (SESSIONS, f"{SESSIONS}:{session.user_id}"):
            await self._server.command("ZADD", key, "XX", "GT", updated_at, session_id)
        session.updated_at = updated_at
        return session

    async def rename_session(self, session_id: str, title: str) -> SessionRecord | None:
        fields = await self._server.call(scripts.RENAME_SESSION, session_key(session_id), title, place_of(session_id))
        return session_from(session_id, fields) if fields else None

    async def delete_session(self, session_id: str) -> bool:
        session = await self.get_session(session_id)
        place = place_of(session_id)
        answer = await self._server.call(scripts.DELETE, session_key(session_id), place)
        if answer[0] == b"busy":
            raise session_busy(session_id, answer[1].decode())
        deleted, runs = answer
        lists = [RUNS, FAILED_RUNS, *([] if session is None else [f"{RUNS}:{session.user_id}"])]
        for start in range(0, len(runs), scripts.EXPIRE_RUNS):
            page = [(run_id.decode(), claim) for run_id, claim in runs[start : start + scripts.EXPIRE_RUNS]]
            tag = session_id.encode()
            await self._server.all(
                ("EVAL", scripts.CLAIM.source, 1, pointer_to(run_id), b"%s %s" % (claim, tag), "")
                for run_id, claim in page
            )
            members = [encode_member(run_id, session_id) for run_id, _ in page]
            for key in lists:
                await self._server.command("ZREM", key, *members)
            await self._server.call(scripts.FORGET_EVENTS, ENDED, *members)
            for run_id, _ in page:
                self._records.forget(run_id)
        for key in [SESSIONS] if session is None else [SESSIONS, f"{SESSIONS}:{session.user_id}"]:
            await self._server.command("ZREM", key, session_id)
        return bool(deleted)

    async def watch_session(self, session_id: str) -> None:
        await self._news.sessions.watch(session_id)

    async def unwatch_session(self, session_id: str) -> None:
        await self._news.sessions.unwatch(session_id)

    async def watch_user(self, user_id: str) -> None:
        await self._news.users.watch(user_id)

    async def unwatch_user(self, user_id: str) -> None:
        await self._news.users.unwatch(user_id)

    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        return await self._records.turns(session_id, skip)
