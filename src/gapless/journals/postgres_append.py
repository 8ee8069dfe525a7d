"""The runs that a worker owns in PostgreSQL: their appends, and what a server that took over is given again of them.

One statement on one connection takes the events of all runs of a tick, one row for each run's batch. In the same
statement the worker's own row is locked FOR KEY SHARE, which is the fence: whoever takes over deletes that row, and so
waits for an append that is under way and is waited for by the next. What goes with a batch beside its events (its end,
a checkpoint …) follows in the same transaction, in a second round trip.

An append whose answer was lost may be accepted, or still be under way. A new connection begins a new epoch of the
worker, which waits for the old one's appends and keeps later ones out; then what was accepted is seen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg import errors

from gapless.errors import RunNotFound, StoreUnavailable
from gapless.journals.contract import Append, Checkpoint, WorkerFenced
from gapless.journals.outbox import Notice
from gapless.journals.postgres_outbox import add_notices
from gapless.journals.postgres_records import LAST_SQL, encode
from gapless.journals.postgres_schema import ACTIVE_SQL, TIME_MS
from gapless.journals.postgres_server import (
    ANSWER_TIMEOUT_S,
    ATTEMPTS_MAX,
    Connection,
    PostgresServer,
    bytea_array,
    int_array,
)
from gapless.journals.postgres_statement import Statement
from gapless.records import RunRecord, RunStatus, title_of

__all__ = ["ME_SQL", "OwnedRun", "OwnedRuns"]

GROUP_BATCHES_MAX, GROUP_BYTES_MAX = 1_000, 1024 * 1024
"""Batches that go in one transaction: the event loop does nothing else while they are encoded. One may be longer."""
RECENT_BYTES_MAX = 16 * 1024
"""The newest accepted events of each run are kept at hand: a standby that takes over may lack them."""
NOTICES_MAX = 8
"""And so many of the newest notices of each."""
RECHECK_S = 5.0
"""Seconds after a run's end at which we check that the server still has it: a failover may have lost it."""
ENDED_MAX = 2_000
"""Ended runs that wait to be checked; of more, the oldest ends are trusted."""

ME_SQL = "SELECT w.id FROM gapless.workers w WHERE w.id = %s FOR KEY SHARE"
"""The fence: nobody takes this worker's runs until the transaction has ended. No row: somebody has."""
_APPEND = f"""
WITH me AS MATERIALIZED (SELECT w.id FROM gapless.workers w WHERE w.id = %s AND w.epoch = %s FOR KEY SHARE),
given AS MATERIALIZED (
    SELECT g.rid, g.seq, g.n, g.data, g.at, r.rid IS NOT NULL AND g.seq = 1 + coalesce(l.last, 0) AS fits,
        EXISTS (SELECT 1 FROM gapless.watches w WHERE w.rid = g.rid AND w.worker <> me.id) AS watched
    FROM me CROSS JOIN
        unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::bytea[], %s::int[]) g(rid, nonce, seq, n, data, at)
        LEFT JOIN gapless.runs r ON r.rid = g.rid AND r.nonce = g.nonce AND r.owner = me.id AND r.status IN {ACTIVE_SQL}
        LEFT JOIN LATERAL (
            SELECT e.seq + e.n - 1 AS last FROM gapless.events e WHERE e.rid = g.rid ORDER BY e.seq DESC LIMIT 1
        ) l ON true),
added AS (INSERT INTO gapless.events SELECT rid, seq, n, data, nullif(at, -1) FROM given WHERE fits AND n > 0)
SELECT (SELECT id FROM me), (SELECT string_agg(rid::text, ',') FROM given WHERE NOT fits),
    (SELECT string_agg(DISTINCT rid::text, ',') FROM given WHERE fits AND n > 0 AND watched)
"""
_APPEND_TYPES = (25, 23, 1016, 1007, 1007, 1007, 1001, 1007)
"""Of its parameters: text, int, bigint[], three of int[], bytea[], int[]."""

_END = """
WITH ended AS (
    UPDATE gapless.runs SET status = %s, ended_at = %s, last_seq = %s, error = %s, usage = %s, kept_since = %s,
        kept_bytes = %s
    WHERE rid = %s RETURNING rid, session),
turn AS (INSERT INTO gapless.turns(session, turn) SELECT session, %s::bytea FROM ended),
checkpoints AS (DELETE FROM gapless.checkpoints c USING ended WHERE c.rid = ended.rid)
UPDATE gapless.sessions s SET updated_at = %s, title = CASE WHEN s.title = ''::bytea THEN %s::bytea ELSE s.title END,
    state = coalesce(%s::bytea, s.state)
FROM ended WHERE s.id = ended.session
"""
_EXAMINE = f"""
SELECT r.owner, r.status, coalesce(r.last_seq, {LAST_SQL}),
    (SELECT e.data FROM gapless.events e WHERE e.rid = r.rid AND e.seq = %s)
FROM gapless.runs r WHERE r.rid = %s AND r.nonce = %s
"""
_KEEP_BLOB = f"""
WITH me AS ({ME_SQL}),
mine AS (SELECT r.rid FROM gapless.runs r, me
    WHERE r.rid = %s AND r.nonce = %s AND r.owner = me.id AND r.status IN {ACTIVE_SQL}),
added AS (INSERT INTO gapless.blobs SELECT rid, %s, %s, %s FROM mine ON CONFLICT DO NOTHING RETURNING 1)
SELECT (SELECT count(*) FROM mine), (SELECT count(*) FROM added)
"""

log = logging.getLogger("gapless.postgres")


class OwnedRun:
    """A run that this worker owns, and where it is kept."""

    __slots__ = (
        "bytes",
        "checkpoint",
        "created_at",
        "heard",
        "id",
        "last",
        "nonce",
        "notices",
        "recent",
        "recent_bytes",
        "rid",
        "session_id",
        "title",
        "user_id",
    )

    def __init__(self, rid: int, nonce: int, run: RunRecord, size: int = 0) -> None:
        self.id = run.id
        self.session_id, self.user_id = run.session_id, run.user_id
        self.title = title_of(run.message)
        self.created_at = run.created_at
        self.rid, self.nonce = rid, nonce
        self.last = run.last_seq
        self.bytes = size
        """Of all of its events and blobs."""
        self.recent: deque[tuple[int, list[bytes], int, int]] = deque()
        """The batches accepted last, kept at hand: the first event's position, the events, their bytes, the
        time."""
        self.recent_bytes = 0
        self.checkpoint: Checkpoint | None = None
        """The newest that this worker has saved."""
        self.notices: list[Notice] = []
        """Those of the batches at hand."""
        self.heard = 0
        """The newest command that the listener was told of."""

    def keep(self, batch: Append, size: int) -> None:
        """Note an accepted batch of so many bytes, and let the oldest ones at hand go down to the bound; the newest one
        stays."""
        events, recent = batch.events, self.recent
        if batch.checkpoint is not None:
            self.checkpoint = batch.checkpoint
        if not events or batch.first_seq <= self.last:  # else it was accepted before
            return
        self.last = batch.first_seq + len(events) - 1
        self.bytes += size
        recent.append((batch.first_seq, events, size, batch.at))
        self.recent_bytes += size
        if batch.notices:
            self.notices = [*self.notices, *batch.notices][-NOTICES_MAX:]
        while self.recent_bytes > RECENT_BYTES_MAX and len(recent) > 1:
            self.recent_bytes -= recent.popleft()[2]

    def recent_between(self, last: int, next_seq: int) -> list[Append]:
        """Return the batches from behind `last` to before `next_seq`; none when some are no longer at hand."""
        batches = [Append(self.id, seq, events, at=at) for seq, events, _, at in self.recent if last < seq < next_seq]
        if not batches or batches[0].first_seq != last + 1:
            return []
        batches[-1].checkpoint, batches[-1].notices = self.checkpoint, self.notices
        return batches


_Given: TypeAlias = list[tuple[OwnedRun, Append, bytes]]
"""What one transaction takes: the runs, their batches, and the events of each as one row has them, a line each."""


class OwnedRuns:
    """All runs that this worker owns, and the connection on which it appends to them."""

    def __init__(
        self,
        server: PostgresServer,
        on_news: Callable[[Sequence[int]], None],
        on_session: Callable[[str, str], None] = lambda session_id, user_id: None,
    ) -> None:
        """`on_news` is told of the rows' numbers of runs that have got events and that others watch, or may watch,
        `on_session` of the session of each that has another status, and of its user."""
        self._server = server
        self._on_news = on_news
        self._on_session = on_session
        self._connection: Connection | None = None
        self._add_events: Statement
        """On that connection."""
        self._epoch = 0
        self._appending = asyncio.Lock()
        self.worker_id = ""
        self.runs: dict[str, OwnedRun] = {}
        self.in_doubt = False
        """Runs may be this worker's without anyone here knowing, as an answer was lost."""
        self._ended: deque[tuple[float, OwnedRun, Append]] = deque(maxlen=ENDED_MAX)
        """Runs that have ended not long ago, when, and how."""

    async def begin(self, worker_id: str) -> None:
        """Own nothing yet, under a new id."""
        await self.disconnect()
        self._appending = asyncio.Lock()
        self.worker_id = worker_id
        self.runs.clear()
        self._ended.clear()
        self.in_doubt = False

    async def disconnect(self) -> None:
        """Close the connection that appends. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._add_events.stop_waiting()
            await connection.close()

    def fenced(self) -> WorkerFenced:
        """Return the error of a worker that finds its lease lost: it owns nothing any more."""
        self.runs.clear()
        return WorkerFenced(self.worker_id)

    async def check_lease(self, connection: Connection) -> None:
        """Keep others from taking this worker's runs until the transaction has ended. Raises `WorkerFenced`."""
        if not await self._server.fetch(connection, ME_SQL, self.worker_id):
            raise self.fenced()

    # -- appending ----------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        """Accept each batch, as `Store.append`; returns the ids of the runs that were refused."""
        me, refused = self.worker_id, set[str]()
        ended: list[tuple[OwnedRun, Append]] = []
        async with self._appending:
            if self._connection is None:
                await self._connect()  # also where none of them is this worker's: it hears that it is fenced
            for given in self._groups(batches, refused):
                if self.worker_id != me:  # which may own the same runs again: these batches are not for them
                    raise WorkerFenced(me)
                await self._append_group(given, refused, ended)
        for owned, batch in ended:  # last: where a group fails, those before it come again, to be recognised
            self._forget(owned)
            self._ended.append((time.monotonic(), owned, batch))
        return refused

    def _groups(self, batches: Sequence[Append], refused: set[str]) -> list[_Given]:
        """Return the batches of each transaction; runs that are not this worker's are refused."""
        groups: list[_Given] = []
        count, size = GROUP_BATCHES_MAX, 0
        for batch in batches:
            owned = self.runs.get(batch.run_id)
            if owned is None:
                refused.add(batch.run_id)
                continue
            if count >= GROUP_BATCHES_MAX or size >= GROUP_BYTES_MAX:
                groups.append([])
                count = size = 0
            given = _given(owned, batch)
            groups[-1].append(given)
            count += 1
            size += len(given[2])
        return groups or [[]]  # none of them: but is the worker fenced?

    async def _append_group(self, given: _Given, refused: set[str], ended: list[tuple[OwnedRun, Append]]) -> None:
        odd, told = await self._write(given)
        for owned, batch, data in given:
            if odd and owned.rid in odd:
                if not await self._settle(owned, batch):
                    refused.add(owned.id)
                    self._forget(owned)
                    continue
                told.append(owned.rid)
            owned.keep(batch, len(data) - len(batch.events) + 1)
            if batch.end is not None:
                ended.append((owned, batch))
            if batch.status is not None or batch.end is not None:
                self._on_session(owned.session_id, owned.user_id)
        if told:
            self._on_news(told)

    def _forget(self, owned: OwnedRun) -> None:
        """Own this run no longer. Who has won it again meanwhile owns another."""
        if self.runs.get(owned.id) is owned:
            del self.runs[owned.id]

    async def _write(self, given: _Given) -> tuple[list[int], list[int]]:
        """Append in one transaction; the rows of runs that this did not fit, and of those that others watch. Raises
        `WorkerFenced`."""
        for attempt in range(ATTEMPTS_MAX):
            connection = self._connection or await self._connect()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await self._write_on(connection, given)
            except WorkerFenced:
                raise
            except (errors.DeadlockDetected, errors.SerializationFailure) as error:
                await self.disconnect()  # and with it what is left of the transaction
                if attempt == ATTEMPTS_MAX - 1:
                    raise self._server.translate(error) from error
            except (psycopg.Error, OSError, TimeoutError) as error:
                await self.disconnect()
                raise self._server.translate(error) from error
            except BaseException:
                await self.disconnect()
                raise
        raise AssertionError

    async def _write_on(self, connection: Connection, given: _Given) -> tuple[list[int], list[int]]:
        more = [(owned, batch) for owned, batch, _ in given if _has_more(batch)]
        if not more:
            return await self._checked(await self._add_events(*self._values(given)))
        more.sort(key=lambda one: one[0].session_id)  # whoever ends runs of the same sessions locks them in this order
        async with connection.pipeline() as pipeline:
            await connection.execute("BEGIN")
            odd, watched = await self._add(connection, given, pipeline)
            for owned, batch in more:
                if owned.rid not in odd:
                    await self._add_more(connection, owned, batch)
            await connection.execute("COMMIT")
        return odd, watched

    async def _add(
        self, connection: Connection, given: _Given, pipeline: psycopg.AsyncPipeline | None = None
    ) -> tuple[list[int], list[int]]:
        """Add the events; the rows of runs that they did not fit, and of those that others watch.

        In a pipeline the server is told that nothing more comes for now. Else it would not take the transaction for
        idle, and a worker that stands still here, or is gone, would keep others from taking its runs for as long as its
        connection lasts: hours, where a machine has lost its power."""
        cursor = connection.cursor(binary=True)
        await cursor.execute(self._server.sql(_APPEND), self._values(given))
        if pipeline is not None:
            await pipeline.sync()
        row = await cursor.fetchone()
        assert row is not None
        return await self._checked(row)

    def _values(self, given: _Given) -> tuple[str | bytes, ...]:
        return (
            self.worker_id,
            str(self._epoch),
            int_array([owned.rid for owned, _, _ in given]),
            int_array([owned.nonce for owned, _, _ in given]),
            int_array([batch.first_seq for _, batch, _ in given]),
            int_array([len(batch.events) for _, batch, _ in given]),
            bytea_array([data for _, _, data in given]),
            int_array([_time_of(owned, batch) for owned, batch, _ in given]),
        )

    async def _checked(self, row: Sequence[Any]) -> tuple[list[int], list[int]]:
        alive, odd, watched = row
        if not alive:
            await self.disconnect()
            raise self.fenced()
        return _numbers(odd), _numbers(watched)

    async def _add_more(self, connection: Connection, owned: OwnedRun, batch: Append) -> None:
        """Write what goes with a batch beside its events."""
        run, end, checkpoint = self._server.run, batch.end, batch.checkpoint
        if batch.notices:
            await add_notices(self._server, connection, owned.rid, batch.notices)
        if end is not None:
            last = batch.first_seq + len(batch.events) - 1
            size = owned.bytes + sum(map(len, batch.events))
            error, usage, state = (None if it is None else encode(it) for it in (end.error, end.usage, end.state))
            ended = (end.status.value, end.ended_at, last, error, usage, end.ended_at, size, owned.rid)
            session = (end.ended_at, owned.title.encode(), state)
            await run(connection, _END, *ended, encode(end.turn), *session)
            # Apart, as it sees what came while that waited for the run's row.
            await run(connection, "DELETE FROM gapless.commands WHERE rid = %s", owned.rid)
            return
        if batch.status is not None:
            sql = "UPDATE gapless.runs SET status = %s WHERE rid = %s"
            await run(connection, sql, batch.status.value, owned.rid)
        if batch.taken:
            sql = "DELETE FROM gapless.commands WHERE cid = ANY(%s::bigint[]) AND rid = %s"
            await run(connection, sql, int_array(batch.taken), owned.rid)
        if checkpoint is not None and checkpoint.data:
            sql = """INSERT INTO gapless.checkpoints VALUES(%s, %s, %s)
                ON CONFLICT (rid) DO UPDATE SET seq = excluded.seq, data = excluded.data"""
            await run(connection, sql, owned.rid, checkpoint.seq, checkpoint.data)
            await run(connection, "UPDATE gapless.runs SET takeovers = 0 WHERE rid = %s AND takeovers <> 0", owned.rid)
        elif checkpoint is not None:
            await run(connection, "DELETE FROM gapless.checkpoints WHERE rid = %s", owned.rid)

    async def _connect(self) -> Connection:
        """Connect, and begin a new epoch. Raises `WorkerFenced`."""
        worker_id = self.worker_id
        connection = await self._server.connect()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                sql = "UPDATE gapless.workers SET epoch = epoch + 1 WHERE id = %s RETURNING epoch"
                rows = await self._server.fetch(connection, sql, worker_id)
        except (psycopg.Error, OSError, TimeoutError) as error:
            await connection.close()
            raise self._server.translate(error) from error
        except BaseException:
            await connection.close()
            raise
        if not rows or worker_id != self.worker_id:
            await connection.close()
            raise self.fenced() if worker_id == self.worker_id else WorkerFenced(worker_id)
        self._connection, (self._epoch,) = connection, rows[0]
        self._add_events = self._server.statement(connection, _APPEND, _APPEND_TYPES)
        return connection

    # -- what was accepted before, and what was lost ------------------------------------------------------------------

    async def _settle(self, owned: OwnedRun, batch: Append) -> bool:
        """Find out about a batch that did not fit: it was accepted before, and the answer was lost; or the server lacks
        what was accepted before it, as a standby took over, and is given that again. Returns whether the batch is
        accepted now."""
        data = b"\n".join(batch.events)
        for row in await self._server.rows(_EXAMINE, batch.first_seq, owned.rid, owned.nonce):
            owner, status, last, there = row
            if owner != self.worker_id:
                return False
            if batch.events and there == data and last >= batch.first_seq + len(batch.events) - 1:
                return True
            if RunStatus(status).ended:
                return False
            self.in_doubt = True  # where it is refused all the same, it is still this worker's and has to be closed
            lacking = owned.recent_between(last, batch.first_seq)
            if lacking:
                log.warning("run %s: the server lacks its events from %d on, they are sent again", owned.id, last + 1)
                return not any([(await self._write([_given(owned, again)]))[0] for again in (*lacking, batch)])
            log.error("run %s: the server has %d events of it, and not what was accepted", owned.id, last)
        return False

    async def recheck_ended(self, before: float) -> None:
        """Check that the server still knows of the ends before that time, and send again what it lacks: a standby that
        took over may lack a run's end, which its owner has forgotten."""
        due: list[tuple[float, OwnedRun, Append]] = []
        while self._ended and self._ended[0][0] <= before:
            due.append(self._ended.popleft())
        if not due:
            return
        try:
            sql = f"""SELECT r.rid, r.nonce FROM gapless.runs r WHERE r.rid = ANY(%s::bigint[])
                AND r.owner = %s AND r.status IN {ACTIVE_SQL}"""
            open_still = set(await self._server.rows(sql, int_array(owned.rid for _, owned, _ in due), self.worker_id))
            for _, owned, batch in due:
                if (owned.rid, owned.nonce) in open_still:
                    log.warning("run %s: the server lacks its end, it is sent again", owned.id)
                    async with self._appending:
                        if not await self._settle_end(owned, batch):
                            self.in_doubt = True  # it is closed as lost
        except StoreUnavailable:
            self._ended.extendleft(reversed(due))
            raise

    async def _settle_end(self, owned: OwnedRun, batch: Append) -> bool:
        odd, _ = await self._write([_given(owned, batch)])
        settled = not odd or await self._settle(owned, batch)
        self._on_news([owned.rid])
        return settled

    # -- blobs --------------------------------------------------------------------------------------------------------

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        """Keep a piece of a blob, as `Store.keep_blob`."""
        owned = self.runs.get(run_id)
        if owned is not None:
            values = (owned.rid, owned.nonce, blob_id.encode(), piece, data)
            ((mine, added),) = await self._server.execute(_KEEP_BLOB, self.worker_id, *values)
            if mine:
                owned.bytes += added * len(data)
                return
        raise RunNotFound(f"run {run_id} is not this worker's", run_id=run_id)


def _given(owned: OwnedRun, batch: Append) -> tuple[OwnedRun, Append, bytes]:
    return owned, batch, b"\n".join(batch.events)


def _time_of(owned: OwnedRun, batch: Append) -> int:
    """Give the time of a batch as its row has it; -1: none."""
    return min(max(0, batch.at - owned.created_at) // TIME_MS, 2**31 - 1) if batch.at else -1


def _numbers(listed: str | None) -> list[int]:
    return list(map(int, listed.split(","))) if listed else []


def _has_more(batch: Append) -> bool:
    """Tell whether anything goes with a batch beside its events."""
    beside = batch.checkpoint is not None or batch.taken or batch.notices
    return bool(batch.end is not None or batch.status is not None or beside)
