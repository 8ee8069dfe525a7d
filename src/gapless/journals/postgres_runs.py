"""What becomes of runs in PostgreSQL: they are created and started, given up, claimed and taken over, and are sent
commands.

Each step is one transaction. What excludes another locks a row first, and reads in a later statement, which sees what
was committed before it got the lock: a session's row for what concerns its queue, a run's row for whose it is and what
is kept for it, a worker's row for its lease."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from psycopg import errors

from gapless.errors import GaplessError, RunNotFound, StoreUnavailable
from gapless.journals.contract import NotWaiting, WorkerFenced
from gapless.journals.lease import LeaseWatch, log_lost
from gapless.journals.postgres_append import ME_SQL, OwnedRun, OwnedRuns
from gapless.journals.postgres_moves import add_arrival, add_moves
from gapless.journals.postgres_records import LAST_SQL, PostgresRecords, ReadRun, encode
from gapless.journals.postgres_schema import ACTIVE_SQL
from gapless.journals.postgres_server import Connection, PostgresServer, Row, int_array
from gapless.moves import TAKEN_OVER
from gapless.records import RunRecord, RunStatus, now_ms, session_busy, session_of, session_taken

__all__ = ["INSERT_SESSION_SQL", "PostgresRuns"]

INSERT_SESSION_SQL = (
    'INSERT INTO gapless.sessions(id, "user", updated_at, title, state, record) VALUES(%s, %s, %s, %s, %s, %s)'
)
_INSERT_RUN = """
INSERT INTO gapless.runs(nonce, id, session, "user", status, started_at, owner, record)
VALUES(%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO NOTHING RETURNING rid
"""
_ENTER_SESSION = f"""
INSERT INTO gapless.sessions(id, "user", updated_at, title, state, record)
SELECT %s::bytea, %s::bytea, %s::bigint, %s::bytea, %s::bytea, %s::bytea FROM ({ME_SQL}) me
WHERE NOT EXISTS (SELECT 1 FROM gapless.runs r WHERE r.id = %s)
ON CONFLICT (id) DO UPDATE SET updated_at = sessions.updated_at WHERE sessions."user" = excluded."user"
"""
_CREATE = f"""
INSERT INTO gapless.runs(nonce, id, session, "user", status, started_at, owner, record)
SELECT %s::int, %s::bytea, s.id, s."user", CASE WHEN b.queued THEN 'queued' ELSE 'running' END,
    CASE WHEN NOT b.queued THEN m.started_at END, %s, %s::bytea
FROM gapless.sessions s, (SELECT %s::bigint AS started_at) m, LATERAL (SELECT EXISTS (
    SELECT 1 FROM gapless.runs r WHERE r.session = s.id AND r.status IN {ACTIVE_SQL}) AS busy) a,
    LATERAL (SELECT a.busy OR m.started_at IS NULL AS queued) b
WHERE s.id = %s AND s.xmin = pg_current_xact_id_if_assigned()::xid AND (%s OR NOT a.busy)
RETURNING rid, started_at
"""
"""Only where the statement before it has entered the session in this transaction."""
_START = f"""
WITH me AS MATERIALIZED ({ME_SQL}),
mine AS MATERIALIZED (SELECT r.rid, r.session FROM gapless.runs r, me
    WHERE r.rid = %s AND r.owner = me.id AND r.status = 'queued' FOR NO KEY UPDATE OF r),
ahead AS MATERIALIZED (SELECT a.id FROM mine JOIN gapless.runs a ON a.session = mine.session
    WHERE a.status IN {ACTIVE_SQL} AND a.rid < mine.rid ORDER BY a.rid DESC LIMIT 1),
started AS (UPDATE gapless.runs r SET status = 'running', started_at = %s FROM mine
    WHERE r.rid = mine.rid AND NOT EXISTS (SELECT 1 FROM ahead))
SELECT (SELECT count(*) FROM me), (SELECT count(*) FROM mine), (SELECT id FROM ahead)
"""
_BYTES_SQL = """(SELECT coalesce(sum(length(e.data)), 0) FROM gapless.events e WHERE e.rid = r.rid)::bigint
    + (SELECT coalesce(sum(length(b.data)), 0) FROM gapless.blobs b WHERE b.rid = r.rid)::bigint"""
"""How many bytes the events and blobs of the run `r` have."""
_ORPHANED = f"""r.status IN {ACTIVE_SQL} AND r.owner > ''
    AND NOT EXISTS (SELECT 1 FROM gapless.workers w WHERE w.id = r.owner)"""

NONCES_MAX = 1_000
TAKE_RUNS_MAX = 500
"""Runs that are taken over in one transaction."""


class PostgresRuns:
    """The runs, as one worker changes them."""

    def __init__(
        self, server: PostgresServer, records: PostgresRecords, owned: OwnedRuns, lease_watch: LeaseWatch
    ) -> None:
        self._server = server
        self._records = records
        self._owned = owned
        self._lease_watch = lease_watch
        self._coming = Counter[str]()
        """Runs that are being created or claimed: they are not in `OwnedRuns` yet."""
        self._nonces: dict[str, int] = {}
        """Of runs whose creation may have been accepted, as its answer was lost."""
        self.others = 0
        self.lost_some = False
        """Workers were found dead at the last `take_over`."""
        """As `Store.others`."""

    # -- creating and starting ----------------------------------------------------------------------------------------

    async def create(self, run: RunRecord, *, reject_busy: bool, started_at: int | None) -> tuple[RunRecord, bool]:
        """Create as `Store.create_run` does."""
        me, lost = self._owned.worker_id, self._nonces.pop(run.id, None)
        nonce = lost or random.getrandbits(31)  # no secret

        async def create(connection: Connection) -> tuple[ReadRun, bool]:
            await self._owned.check_lease(connection)
            known = await self._records.run(run.id, connection)
            if known is not None:
                mine = lost is not None and known.run.owner == me and run.id not in self._owned.runs
                return known, mine and nonce == await self._nonce(connection, known.rid)
            await self._enter_session(connection, run)
            if reject_busy:
                await self.check_idle(connection, run.session_id)
            is_next = started_at is not None and not await self._active(connection, run.session_id)
            _begin(run, started_at if is_next else None)
            ids = [text.encode() for text in (run.id, run.session_id, run.user_id)]
            begun = run.status.value, run.started_at
            rows = await self._server.fetch(connection, _INSERT_RUN, nonce, *ids, *begun, me, encode(run))
            if not rows:
                raise _Taken
            return ReadRun(rows[0][0], run), True

        async with self._may_come(run.id):
            try:
                rid = await self._create_at_once(run, nonce, started_at, reject_busy=reject_busy)
                record, created = run, True
                while rid is None:
                    try:
                        (rid, record), created = await self._server.transact(create)
                    except _Taken:  # nothing has come of this one's session
                        continue
            except StoreUnavailable:
                if len(self._nonces) < NONCES_MAX:
                    self._nonces[run.id] = nonce
                raise
            if created:
                record.owner = me
                self._owned.runs[run.id] = OwnedRun(rid, nonce, record)
        return record, created

    async def _create_at_once(
        self, run: RunRecord, nonce: int, started_at: int | None, *, reject_busy: bool
    ) -> int | None:
        """Create a run in one round trip, and return the number of its row. None where something is in the way, which
        is then looked at step by step."""
        me, session = self._owned.worker_id, session_of(run)
        run_id, *ids = (text.encode() for text in (run.id, session.id, session.user_id))
        begun = session.updated_at, session.title.encode(), encode(session.state), encode(session)

        async def create(connection: Connection) -> list[Row]:
            cursor = connection.cursor(binary=True)
            async with connection.pipeline():  # a transaction, as nothing begins one
                await self._server.run(connection, _ENTER_SESSION, *ids, *begun, me, run_id)
                values = (nonce, run_id, me, encode(run), started_at, ids[0], not reject_busy)
                await cursor.execute(self._server.sql(_CREATE), values)
            return await cursor.fetchall()

        try:
            rows = await self._server.attempt(create)
        except errors.UniqueViolation:  # the run's id was given to another meanwhile
            return None
        if not rows:
            return None
        _begin(run, rows[0][1])
        return int(rows[0][0])

    async def _nonce(self, connection: Connection, rid: int) -> int:
        ((nonce,),) = await self._server.fetch(connection, "SELECT r.nonce FROM gapless.runs r WHERE r.rid = %s", rid)
        return int(nonce)

    async def check_idle(self, connection: Connection, session_id: str) -> None:
        """Raise `SessionBusy` when a run of the session is active."""
        for (run_id,) in await self._active(connection, session_id):
            raise session_busy(session_id, run_id.decode())

    async def _active(self, connection: Connection, session_id: str) -> list[Row]:
        sql = f"SELECT r.id FROM gapless.runs r WHERE r.session = %s AND r.status IN {ACTIVE_SQL} LIMIT 1"
        return await self._server.fetch(connection, sql, session_id.encode())

    async def _enter_session(self, connection: Connection, run: RunRecord) -> None:
        """Begin the run's session, or make sure that it is this user's; until the transaction has ended nobody else
        begins a run in it, or deletes it."""
        session = session_of(run)
        ids = session.id.encode(), session.user_id.encode()
        sql = f"""{INSERT_SESSION_SQL} ON CONFLICT (id) DO UPDATE SET updated_at = sessions.updated_at
            RETURNING "user" """
        ((user,),) = await self._server.fetch(
            connection, sql, *ids, session.updated_at, session.title.encode(), encode(session.state), encode(session)
        )
        if user != ids[1]:
            raise session_taken(session.id)

    async def start(self, run_id: str, started_at: int) -> str | None:
        """Start as `Store.start_run` does."""

        owned = self._owned.runs.get(run_id)
        values = (self._owned.worker_id, 0 if owned is None else owned.rid, started_at)
        ((alive, mine, ahead),) = await self._server.attempt(
            lambda connection: self._server.fetch(connection, _START, *values)
        )
        if not alive:
            raise self._owned.fenced()
        if not mine:
            raise RunNotFound(f"run {run_id} is not queued here", run_id=run_id)
        return None if ahead is None else str(ahead.decode())

    # -- nobody's -----------------------------------------------------------------------------------------------------

    async def release(self, run_id: str, wanted_at: int | None, what: str) -> bool:
        """Release as `Store.release` does."""

        async def release(connection: Connection) -> bool:
            await self._owned.check_lease(connection)
            owned = self._owned.runs.get(run_id)
            if owned is None:
                return False
            rows = await self._server.fetch(
                connection,
                "SELECT r.status, r.owner, r.wanted_at FROM gapless.runs r WHERE r.rid = %s AND r.nonce = %s"
                " FOR NO KEY UPDATE",
                owned.rid,
                owned.nonce,
            )
            status, owner, before = rows[0] if rows else (None, None, None)
            if owner == "":  # by the same call, whose answer was lost
                return bool(before == 0)
            if owner != self._owned.worker_id or status is None or RunStatus(status).ended:
                return False
            kept = await self._server.fetch(
                connection, "SELECT 1 FROM gapless.commands WHERE rid = %s LIMIT 1", owned.rid
            )
            wanted_now = wanted_at == 0 or status != RunStatus.WAITING.value or bool(kept)
            at = 0 if wanted_now else wanted_at
            await add_moves(self._server, connection, [owned.rid], what, now_ms())
            sql = "UPDATE gapless.runs SET owner = '', wanted_at = %s WHERE rid = %s"
            await self._server.run(connection, sql, at, owned.rid)
            return wanted_now

        wanted_now = await self._server.transact(release)
        self._owned.runs.pop(run_id, None)
        return wanted_now

    async def claim(self, run_id: str) -> RunRecord | None:
        """Claim as `Store.claim` does."""

        async def claim(connection: Connection) -> tuple[OwnedRun, RunRecord] | None:
            await self._owned.check_lease(connection)
            sql = f"""UPDATE gapless.runs SET owner = %s, wanted_at = NULL
                WHERE id = %s AND owner = '' AND status IN {ACTIVE_SQL} RETURNING rid"""
            rows = await self._server.fetch(connection, sql, self._owned.worker_id, run_id.encode())
            known = await self._records.run(run_id, connection) if rows else None
            if known is None:
                return None
            await add_arrival(self._server, connection, known.rid, self._owned.worker_id, now_ms())
            (owned,) = await self._own(connection, [known])
            return owned, known.run

        async with self._may_come(run_id):
            claimed = await self._server.transact(claim)
            if claimed is None:
                return None
            self._owned.runs[run_id], run = claimed
        return run

    async def _own(self, connection: Connection, known: list[ReadRun]) -> list[OwnedRun]:
        """Find out what an owner has to know of runs that were others'."""
        sql = f"SELECT r.rid, r.nonce, {_BYTES_SQL} FROM gapless.runs r WHERE r.rid = ANY(%s::bigint[])"
        rows = await self._server.fetch(connection, sql, int_array(rid for rid, _ in known))
        found = {rid: (nonce, size) for rid, nonce, size in rows}
        return [OwnedRun(rid, found[rid][0], run, found[rid][1]) for rid, run in known]

    async def wanted(self, now: int, limit: int) -> list[RunRecord]:
        """Find as `Store.wanted` does."""
        where = "r.wanted_at <= %s::bigint ORDER BY r.wanted_at, r.rid LIMIT %s"
        return [run for _, run in await self._records.select(None, where, now, limit)]

    # -- commands -----------------------------------------------------------------------------------------------------

    async def deliver(self, run_id: str, command: bytes, seq: int | None = None) -> tuple[str, int, str, str]:
        """Keep a command for a run, as `Store.send`; with `seq` as `Store.answer`. Returns the owner, the number of the
        run's row, 0 where it has ended, the session, and the user."""

        async def deliver(connection: Connection) -> tuple[str, int, str, str]:
            sql = 'SELECT r.rid, r.status, r.owner, r.session, r."user" FROM gapless.runs r WHERE r.id = %s'
            rows = await self._server.fetch(connection, f"{sql} FOR NO KEY UPDATE", run_id.encode())
            if not rows:
                raise RunNotFound(f"no run {run_id}", run_id=run_id)
            rid, status, owner, *of = rows[0]
            session_id, user_id = (one.decode() for one in of)
            if seq is not None:
                sql = f"SELECT {LAST_SQL} FROM gapless.runs r WHERE r.rid = %s"
                if status != RunStatus.WAITING.value or await self._server.fetch(connection, sql, rid) != [(seq,)]:
                    raise NotWaiting(run_id)
                await self._server.run(connection, "UPDATE gapless.runs SET status = 'running' WHERE rid = %s", rid)
            elif RunStatus(status).ended:
                return "", 0, session_id, user_id
            await self._server.run(
                connection, "INSERT INTO gapless.commands(rid, command) VALUES(%s, %s)", rid, command
            )
            if not owner:
                await self._server.run(connection, "UPDATE gapless.runs SET wanted_at = 0 WHERE rid = %s", rid)
            return owner, rid, session_id, user_id

        return await self._server.transact(deliver)

    # -- taking over --------------------------------------------------------------------------------------------------

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        """Take over as `Store.take_over` does, and what may be this worker's own after an answer that was lost."""
        me = self._owned.worker_id
        sql = f"""SELECT w.id, w.beat, NULL FROM gapless.workers w
            UNION ALL SELECT '', 0, r.rid FROM gapless.runs r WHERE {_ORPHANED}"""
        rows = await self._server.rows(sql)
        beats = {worker_id: beat for worker_id, beat, rid in rows if rid is None}
        if beats.pop(me, None) is None:
            raise self._owned.fenced()
        self.lost_some = False
        dead = {worker_id: beats[worker_id] for worker_id in self._lease_watch.expired(beats, lease_s)}
        self.others = len(beats) - len(dead)
        orphans = {rid for _, _, rid in rows if rid is not None}
        if not dead and orphans <= self._records.unreadable and not self._owned.in_doubt:
            return []  # as nearly always: nothing to write
        doubt, self._owned.in_doubt = self._owned.in_doubt, False
        taken: list[RunRecord] = []
        owners: list[str] = []
        try:
            while True:
                found = await self._server.transact(lambda connection: self._take(connection, dead, in_doubt=doubt))
                for owner, owned, run in found:
                    self._owned.runs[owned.id] = owned
                    owners.append(owner)
                    taken.append(run)
                if len(found) < TAKE_RUNS_MAX:
                    break
        except BaseException:
            self._owned.in_doubt = True
            raise
        self.lost_some = bool(dead)
        log_lost(me, dead, owners)
        return taken

    async def _take(
        self, connection: Connection, dead: Mapping[str, int], *, in_doubt: bool
    ) -> list[tuple[str, OwnedRun, RunRecord]]:
        """Fence the dead and become the owner of some of the runs that are left: their owners before, and the runs."""
        me, server = self._owned.worker_id, self._server
        await self._owned.check_lease(connection)
        for worker_id in sorted(dead):
            sql = "DELETE FROM gapless.workers WHERE id = %s AND beat = %s"
            if await server.run(connection, sql, worker_id, dead[worker_id]):
                await server.run(connection, "DELETE FROM gapless.watches WHERE worker = %s", worker_id)
        where, values = f"({_ORPHANED})", list[Any]()
        if in_doubt:
            where = f"({where} OR r.status IN {ACTIVE_SQL} AND r.owner = %s AND r.rid <> ALL(%s::bigint[]))"
            values = [me, int_array(owned.rid for owned in self._owned.runs.values())]
        sql = f"""SELECT r.rid FROM gapless.runs r WHERE {where} AND r.rid <> ALL(%s::bigint[])
            ORDER BY r.rid LIMIT %s FOR NO KEY UPDATE"""
        passed = int_array(self._records.unreadable)
        rids = [rid for (rid,) in await server.fetch(connection, sql, *values, passed, TAKE_RUNS_MAX)]
        by_rid = "r.rid = ANY(%s::bigint[]) ORDER BY r.rid"
        known = await self._records.select(connection, by_rid, int_array(rids))
        known = [one for one in known if one.run.owner != me or not self._coming[one.run.id]]
        await add_moves(server, connection, (rid for rid, _ in known), TAKEN_OVER, now_ms(), me)
        sql = """UPDATE gapless.runs SET owner = %s, takeovers = takeovers + 1, wanted_at = NULL
            WHERE rid = ANY(%s::bigint[])"""
        await server.run(connection, sql, me, int_array(rid for rid, _ in known))
        taken = []
        for owned, (_, run) in zip(await self._own(connection, known), known, strict=True):
            taken.append((run.owner, owned, run))
            run.owner, run.takeovers = me, run.takeovers + 1
        return taken

    @asynccontextmanager
    async def _may_come(self, run_id: str) -> AsyncIterator[None]:
        """Surround what makes a run this worker's: where its answer is lost the run may be so all the same, and
        `take_over` is to look for it."""
        self._coming[run_id] += 1
        try:
            yield
        except BaseException as error:
            if isinstance(error, StoreUnavailable) or not isinstance(error, GaplessError | WorkerFenced):
                self._owned.in_doubt = True
            raise
        finally:
            self._coming[run_id] -= 1
            self._coming = +self._coming


def _begin(run: RunRecord, started_at: int | None) -> None:
    """Say in a new run's record that it runs since then, or is queued."""
    run.status, run.started_at = RunStatus.QUEUED if started_at is None else RunStatus.RUNNING, started_at


class _Taken(Exception):
    """The run's id was given to another run, in another session, after it was looked for."""
