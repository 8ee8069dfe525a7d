"""The store in PostgreSQL (14 or later), shared by any number of machines.

Its parts: the server with its connections (`postgres_server`), the tables (`postgres_schema`), the appends of a
worker's own runs (`postgres_append`), what becomes of runs (`postgres_runs`), the rows of runs and sessions
(`postgres_records`), and what other workers did (`postgres_news`). Here is what a store's duties make of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import msgspec

from gapless.errors import CursorExpired, RunNotFound, StoreUnavailable
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
from gapless.journals.postgres_append import RECHECK_S, OwnedRuns
from gapless.journals.postgres_moves import read_moves
from gapless.journals.postgres_news import POLL_S, PostgresNews
from gapless.journals.postgres_outbox import PostgresOutbox
from gapless.journals.postgres_records import PostgresRecords, encode, session_from
from gapless.journals.postgres_runs import INSERT_SESSION_SQL, PostgresRuns
from gapless.journals.postgres_schema import ACTIVE_SQL, TIME_MS
from gapless.journals.postgres_server import Connection, PostgresServer, int_array
from gapless.journals.postgres_sessions import session_runs
from gapless.journals.postgres_subscriptions import PostgresSubscriptions
from gapless.moves import HANDED_OVER, Moves
from gapless.records import Listing, RunRecord, RunStatus, SessionRecord, Turn, changed_state, decode_run
from gapless.sought import Found, Sought

__all__ = ["PostgresStore"]

EXPIRE_RUNS = 100
"""Runs that are marked as expired in one transaction."""
DROP_ROWS = 5_000
"""Rows of events, or pieces of blobs, that are dropped in one transaction."""

_READ = f"""
SELECT r.status, r.kept_since, p.seq, p.data
FROM gapless.runs r LEFT JOIN LATERAL (
    SELECT min(s.seq) AS seq, string_agg(s.data, '\\x0a'::bytea ORDER BY s.seq) AS data
    FROM (SELECT seq, data, sum(length(data)) OVER (ORDER BY seq) - length(data) AS before
        FROM (SELECT * FROM gapless.events e WHERE e.rid = r.rid AND e.seq >= coalesce(
            (SELECT max(b.seq) FROM gapless.events b WHERE b.rid = r.rid AND b.seq <= %s), 0)
            ORDER BY e.seq LIMIT %s) e) s
    WHERE s.before < {READ_BYTES_MAX}) p ON true
WHERE r.id = %s
"""
_TIMES = """
SELECT r.status, r.kept_since, r.record, t.seq, t.at
FROM gapless.runs r LEFT JOIN LATERAL (
    SELECT e.seq, e.at FROM gapless.events e WHERE e.rid = r.rid AND e.seq > %s AND e.at IS NOT NULL
    ORDER BY e.seq LIMIT %s) t ON true
WHERE r.id = %s ORDER BY t.seq
"""
_MARK_EXPIRED = """
WITH kept AS (SELECT r.rid, r.kept_since, r.kept_bytes, sum(r.kept_bytes) OVER (ORDER BY r.kept_since, r.rid) AS freed
    FROM gapless.runs r WHERE r.kept_since IS NOT NULL ORDER BY r.kept_since, r.rid LIMIT %s),
marked AS (UPDATE gapless.runs r SET kept_since = NULL, kept_bytes = NULL FROM kept
    WHERE r.rid = kept.rid AND r.kept_since IS NOT NULL
        AND (kept.kept_since < %s::bigint OR kept.freed - kept.kept_bytes < %s::bigint)
    RETURNING r.rid)
INSERT INTO gapless.dropped SELECT rid FROM marked ON CONFLICT DO NOTHING
"""

log = logging.getLogger("gapless.postgres")
_advised: set[str] = set()
"""Stores about whose server this process has said what it thinks."""
_decode_turn = msgspec.json.Decoder(Turn).decode


class PostgresStore(Store):
    """`postgresql://[user:password@]host[:port]/database[?schema=gapless&…]`, with libpq's options in its query."""

    commit_interval_s: ClassVar[float] = 0.002

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._server = PostgresServer(url)
        self.outbox = PostgresOutbox(self._server)
        self.subscriptions = PostgresSubscriptions(self._server)
        self._records = PostgresRecords(self._server)
        self._news = PostgresNews(self._server)
        self._owned = OwnedRuns(self._server, self._news.appended, self._news.session_changed)
        self._runs = PostgresRuns(self._server, self._records, self._owned, LeaseWatch(monotonic))

    @classmethod
    def from_url(cls, url: str) -> PostgresStore:
        return cls(url)

    # -- the worker ---------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        first = not self._server.is_open
        if first:
            await self._server.open()
        try:
            await self._news.stop()
            await self._owned.begin(worker_id)
            await self._news.start(listener, self._owned)
            await self._server.execute("INSERT INTO gapless.workers(id) VALUES(%s)", worker_id)
        except BaseException:
            if first:
                await self._disconnect()
            raise
        if first and self._server.name not in _advised:
            _advised.add(self._server.name)
            for risk, fix in await self.advice():
                log.warning("store %s: %s %s", self._server.name, risk, fix)

    async def description(self) -> str:
        return await self._server.description() if self._server.is_open else ""

    async def advice(self) -> list[Advice]:
        if not self._server.is_open:
            return []
        advice = await self._server.advice()
        if not await self._news.is_heard():
            advice.append(
                Advice(
                    "its notifications are not heard, as through a pooler in transaction mode: what other processes do "
                    f"is seen {POLL_S:.0f} s late.",
                    "Add listen=HOST:PORT to the URL, the address of PostgreSQL itself.",
                )
            )
        return advice

    async def _disconnect(self) -> None:
        await self._news.stop()
        await self._owned.disconnect()
        await self._server.close()

    async def close(self) -> None:
        if self._server.is_open:
            try:
                for sql in (
                    "DELETE FROM gapless.workers WHERE id = %s",
                    "DELETE FROM gapless.watches WHERE worker = %s",
                ):
                    await self._server.execute(sql, self._owned.worker_id)
            except StoreUnavailable as error:  # its lease runs out by itself then
                log.warning("%s", error)
            await self._disconnect()
        self._news.forget_listener()

    async def renew(self) -> None:
        sql = "UPDATE gapless.workers SET beat = beat + 1 WHERE id = %s RETURNING beat"
        if not await self._server.execute(sql, self._owned.worker_id):
            raise self._owned.fenced()
        await self._owned.recheck_ended(time.monotonic() - RECHECK_S)

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        taken = await self._runs.take_over(lease_s)
        self.others = self._runs.others
        if self._runs.lost_some:  # they may have changed something and told nobody
            await self._news.tell_missed()
        self._news.now_owned(run.id for run in taken)
        return taken

    # -- runs ---------------------------------------------------------------------------------------------------------

    async def create_run(
        self, run: RunRecord, *, reject_busy: bool, started_at: int | None = None
    ) -> tuple[RunRecord, bool]:
        record, created = await self._runs.create(run, reject_busy=reject_busy, started_at=started_at)
        if created:
            self._news.created(run.id)
            self._news.session_changed(run.session_id, run.user_id)
        return record, created

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        ahead = await self._runs.start(run_id, started_at)
        if ahead is None and (owned := self._owned.runs.get(run_id)) is not None:
            self._news.session_changed(owned.session_id, owned.user_id)
        return ahead

    async def get_run(self, run_id: str) -> RunRecord | None:
        found = await self._records.run(run_id)
        return None if found is None else found.run

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
        return await self._records.find(sought, limit, after)

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        return await self._records.oldest_active(session_ids)

    async def session_runs(
        self, session_id: str, after: str | None = None, limit: int = 100, *, active: bool = False
    ) -> list[RunRecord]:
        return await session_runs(self._server, self._records, session_id, after, limit, active=active)

    # -- runs that are nobody's ---------------------------------------------------------------------------------------

    async def release(self, run_id: str, wanted_at: int | None, what: str = HANDED_OVER) -> bool:
        wanted_now = await self._runs.release(run_id, wanted_at, what)
        if wanted_now:
            await self._news.tell_wanted()
        return wanted_now

    async def claim(self, run_id: str) -> RunRecord | None:
        run = await self._runs.claim(run_id)
        if run is not None:
            self._news.now_owned([run_id])
        return run

    async def wanted(self, now: int, limit: int = WANTED_MAX) -> list[RunRecord]:
        return await self._runs.wanted(now, limit)

    # -- journals -----------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        return await self._owned.append(batches)

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        rows = await self._server.rows(_READ, after + 1, limit, run_id.encode())
        if not rows:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        status, kept_since, first, data = rows[0]
        if kept_since is None and RunStatus(status).ended:
            raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
        events: list[bytes] = [] if first is None else data.split(b"\n")[max(0, after + 1 - first) :][:limit]
        return events

    async def times(self, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[GroupTime]:
        rows = await self._server.rows(_TIMES, after, limit, run_id.encode())
        if not rows:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        status, kept_since, record, *_ = rows[0]
        if kept_since is None and RunStatus(status).ended:
            raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
        created_at = decode_run(record).created_at
        return [GroupTime(seq, created_at + at * TIME_MS) for *_, seq, at in rows if seq is not None]

    async def moves(self, run_id: str) -> Moves:
        return await read_moves(self._server, run_id)

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        sql = """SELECT c.seq, c.data FROM gapless.checkpoints c JOIN gapless.runs r ON r.rid = c.rid WHERE r.id = %s"""
        rows = await self._server.rows(sql, run_id.encode())
        return Checkpoint(*rows[0]) if rows else None

    async def commands(self, run_id: str) -> list[bytes]:
        sql = f"""SELECT c.command FROM gapless.commands c JOIN gapless.runs r ON r.rid = c.rid
            WHERE r.id = %s AND r.status IN {ACTIVE_SQL}"""
        return [command for (command,) in await self._server.rows(sql, run_id.encode())]

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        await self._owned.keep_blob(run_id, blob_id, piece, data)

    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        sql = """SELECT b.data FROM gapless.blobs b JOIN gapless.runs r ON r.rid = b.rid
            WHERE r.id = %s AND (r.ended_at IS NULL OR r.kept_since IS NOT NULL) AND b.blob = %s AND b.piece = %s"""
        rows = await self._server.rows(sql, run_id.encode(), blob_id.encode(), piece)
        return rows[0][0] if rows else None

    async def watch(self, run_id: str) -> None:
        await self._news.watch(run_id)

    async def unwatch(self, run_id: str) -> None:
        self._news.unwatch(run_id)

    async def send(self, run_id: str, command: bytes) -> str:
        return await self._deliver(run_id, command)

    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        return await self._deliver(run_id, command, seq)

    async def _deliver(self, run_id: str, command: bytes, seq: int | None = None) -> str:
        owner, rid, session_id, user_id = await self._runs.deliver(run_id, command, seq)
        if seq is not None:
            self._news.session_changed(session_id, user_id)
        if owner:
            await self._news.tell_command(owner, rid)
        elif rid:
            await self._news.tell_wanted()
        return owner

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        """Mark the runs first, then drop their events, in steps: what a call that was cut short has left is dropped by
        the next one."""
        total = 0
        while True:
            over = 0
            if bytes_max is not None:
                sql = "SELECT coalesce(sum(kept_bytes), 0)::bigint FROM gapless.runs WHERE kept_since IS NOT NULL"
                over = (await self._server.rows(sql))[0][0] - bytes_max

            async def mark(connection: Connection, over: int = over) -> int:
                return await self._server.run(connection, _MARK_EXPIRED, EXPIRE_RUNS, ended_before, over)

            marked = await self._server.transact(mark)
            if not marked:
                break
            total += marked
        await self._drop()
        return total

    async def _drop(self) -> None:
        """Drop the events and blobs of runs that are marked, in steps."""
        while await self._server.transact(self._drop_some):
            pass

    async def _drop_some(self, connection: Connection) -> bool:
        server = self._server
        sql = "SELECT rid FROM gapless.dropped LIMIT %s FOR UPDATE SKIP LOCKED"
        found = await server.fetch(connection, sql, EXPIRE_RUNS)
        rids = int_array(rid for (rid,) in found)
        for table, bound in (("events", DROP_ROWS), ("blobs", DROP_ROWS // 100)):
            sql = f"""DELETE FROM gapless.{table} WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM gapless.{table} WHERE rid = ANY(%s::bigint[]) LIMIT %s))"""
            if found and await server.run(connection, sql, rids, bound) == bound:
                return True
        if found:
            sql = "DELETE FROM gapless.notices WHERE rid = ANY(%s::bigint[]) AND due_at IS NULL"
            await server.run(connection, sql, rids)
        for table in ("commands", "moves", "watches", "dropped") if found else ():
            await server.run(connection, f"DELETE FROM gapless.{table} WHERE rid = ANY(%s::bigint[])", rids)
        return bool(found)

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        sql = f"""{INSERT_SESSION_SQL} ON CONFLICT (id) DO UPDATE SET updated_at = sessions.updated_at
            RETURNING id, updated_at, title, state, record"""
        record = encode(msgspec.structs.replace(session, state={}))
        ids = session.id.encode(), session.user_id.encode()
        changing = session.updated_at, session.title.encode(), encode(session.state)
        (row,) = await self._server.execute(sql, *ids, *changing, record)
        known = session_from(row)
        self._news.session_changed(known.id, known.user_id)
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
        async def update(connection: Connection) -> SessionRecord | None:
            session = await self._lock_session(connection, session_id)
            if session is not None:
                session.state = changed_state(session, changes, bytes_max)
                session.updated_at = updated_at
                sql = "UPDATE gapless.sessions SET state = %s, updated_at = %s WHERE id = %s"
                await self._server.run(connection, sql, encode(session.state), updated_at, session_id.encode())
            return session

        session = await self._server.transact(update)
        if session is not None:
            self._news.session_changed(session_id, session.user_id)
        return session

    async def rename_session(self, session_id: str, title: str) -> SessionRecord | None:
        sql = "UPDATE gapless.sessions SET title = %s WHERE id = %s RETURNING id, updated_at, title, state, record"
        rows = await self._server.execute(sql, title.encode(), session_id.encode())
        if not rows:
            return None
        session = session_from(rows[0])
        self._news.session_changed(session_id, session.user_id)
        return session

    async def _lock_session(self, connection: Connection, session_id: str) -> SessionRecord | None:
        """Keep others from beginning a run in a session until the transaction has ended. Raises `SessionBusy`."""
        sql = "SELECT id, updated_at, title, state, record FROM gapless.sessions WHERE id = %s FOR UPDATE"
        rows = await self._server.fetch(connection, sql, session_id.encode())
        if not rows:
            return None
        await self._runs.check_idle(connection, session_id)
        return session_from(rows[0])

    async def delete_session(self, session_id: str) -> bool:
        async def delete(connection: Connection) -> SessionRecord | None:
            session = await self._lock_session(connection, session_id)
            if session is None:
                return None
            key = session_id.encode()
            sql = "INSERT INTO gapless.dropped SELECT rid FROM gapless.runs WHERE session = %s ON CONFLICT DO NOTHING"
            await self._server.run(connection, sql, key)
            of_session = "(SELECT rid FROM gapless.runs WHERE session = %s)"
            await self._server.run(connection, f"DELETE FROM gapless.notices WHERE rid IN {of_session}", key)
            for where in ("runs WHERE session", "turns WHERE session", "sessions WHERE id"):
                await self._server.run(connection, f"DELETE FROM gapless.{where} = %s", key)
            return session

        deleted = await self._server.transact(delete)
        if deleted is not None:
            self._news.session_changed(session_id, deleted.user_id)
            try:
                await self._drop()
            except StoreUnavailable as error:  # the next call that drops anything drops this too
                log.warning("session %s: its events are dropped later: %s", session_id, error)
        return deleted is not None

    async def watch_session(self, session_id: str) -> None:
        await self._news.watch_session(session_id)

    async def unwatch_session(self, session_id: str) -> None:
        self._news.sessions.unwatch(session_id)

    async def watch_user(self, user_id: str) -> None:
        await self._news.watch_user(user_id)

    async def unwatch_user(self, user_id: str) -> None:
        self._news.users.unwatch(user_id)

    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        sql = "SELECT turn FROM gapless.turns WHERE session = %s ORDER BY tid OFFSET %s"
        return [_decode_turn(turn) for (turn,) in await self._server.rows(sql, session_id.encode(), skip)]
