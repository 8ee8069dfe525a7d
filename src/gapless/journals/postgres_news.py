"""What other workers tell this one through PostgreSQL: events of the runs that it watches, commands for those it owns.

The tables are the truth, a notification is a hint. Who watches a run is in a table, where the statement of an append
looks; after the commit, and for all watched runs of some milliseconds at once, the worker notifies each watcher on the
channel that it listens to. (Within the append's transaction a NOTIFY takes a lock that all commits of the database
share.) The watcher then reads what is new. A slow poll stands behind it, for hints that were lost with whoever was to
give them, and shows that the listening connection is alive.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence

import psycopg

from gapless.errors import GaplessError, StoreUnavailable
from gapless.journals.contract import Listener
from gapless.journals.postgres_append import OwnedRuns
from gapless.journals.postgres_records import LAST_SQL
from gapless.journals.postgres_schema import ACTIVE_SQL
from gapless.journals.postgres_server import (
    ANSWER_TIMEOUT_S,
    Connection,
    PostgresServer,
    int_array,
)
from gapless.journals.postgres_sessions import WatchedSessions, WatchedUsers, session_number
from gapless.outage import Outage
from gapless.tasks import end_tasks

__all__ = ["POLL_S", "PostgresNews"]

NOTIFY_S = 0.002
"""Two notifications of one worker are at least this far apart."""
RUNS_AT_ONCE = 100
"""Watched runs whose news are read in one statement."""
UNCLAIMED_MAX = 10_000
"""Runs that commands have come for and that are not this worker's as yet."""
POLL_S = 2.0
"""How often what may have been missed is looked for."""
LOOK_AGAIN_S = 0.25
"""After a run has come to be watched, it is looked at once more: an append that was under way then has not seen it."""
RECONNECT_PAUSE_S = 0.2
ECHO, ECHO_S_MAX = "echo", 2.0
"""What a worker says to itself to see whether it is heard, and how long it waits for that."""
MISSED = "missed"
"""What all workers are told when one was lost."""
PART_ROWS, PART_BYTES = 64, 64 * 1024
"""What of a watched run's news is handed on as it is; of more only the position is told, and followers read it."""
PAYLOAD_BYTES_MAX = 7_000
"""Of 8,000 that a notification may have; where there is more to say it says to look for everything."""

_NOTIFY = """
SELECT pg_notify(w.channel, CASE WHEN length(w.rids) > %s THEN 'all' ELSE 'e' || w.rids END)
FROM (SELECT w.channel, string_agg(w.rid::text, ',') AS rids FROM gapless.watches w
    WHERE w.rid = ANY(%s::bigint[]) AND w.worker <> %s GROUP BY w.channel) w
"""
_WATCH = f"""
INSERT INTO gapless.watches(worker, channel, rid)
SELECT %s, %s, r.rid FROM gapless.runs r WHERE r.id = %s AND r.status IN {ACTIVE_SQL}
ON CONFLICT (rid, worker) DO UPDATE SET channel = excluded.channel
RETURNING rid, coalesce((SELECT e.seq + e.n - 1 FROM gapless.events e WHERE e.rid = watches.rid
    ORDER BY e.seq DESC LIMIT 1), 0)
"""
_WATCH_ALL = """
WITH old AS (DELETE FROM gapless.watches o WHERE NOT EXISTS (SELECT 1 FROM gapless.workers w WHERE w.id = o.worker))
INSERT INTO gapless.watches(worker, channel, rid) SELECT %s, %s, unnest(%s::bigint[])
ON CONFLICT (rid, worker) DO UPDATE SET channel = excluded.channel
"""
_NEWS = f"""
SELECT g.rid, r.id, coalesce(r.last_seq, {LAST_SQL}), r.status IN {ACTIVE_SQL}, e.seq, e.data
FROM unnest(%s::bigint[], %s::int[]) g(rid, after) LEFT JOIN gapless.runs r ON r.rid = g.rid LEFT JOIN LATERAL (
    SELECT min(p.seq) AS seq, string_agg(p.data, '\\x0a'::bytea ORDER BY p.seq) AS data
    FROM (SELECT seq, data, sum(length(data)) OVER (ORDER BY seq) AS size
        FROM (SELECT * FROM gapless.events b WHERE b.rid = g.rid AND b.seq > g.after ORDER BY b.seq LIMIT {PART_ROWS}) b
    ) p WHERE p.size <= {PART_BYTES}) e ON true
"""

log = logging.getLogger("gapless.postgres")


class _Watched:
    """A run that is watched here."""

    __slots__ = ("id", "rid", "told")

    def __init__(self, id: str, rid: int, told: int) -> None:
        self.id = id
        self.rid = rid
        self.told = told
        """Up to where the listener was told of it."""


class PostgresNews:
    """The one connection on which a worker listens, what it brings, and what others are told."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.sessions = WatchedSessions(server, self._on_session)
        self.users = WatchedUsers(server, self._on_user_session)
        self._owned: OwnedRuns
        self._everyones: str
        self._listener: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._watched: dict[str, _Watched] = {}
        self._by_rid: dict[int, _Watched] = {}
        self._appended: dict[int, None] = {}
        """Runs of which others are to be told."""
        self._telling = asyncio.Event()
        self._dirty: dict[int, None] = {}
        """Watched runs that have news."""
        self._inbox: dict[int, None] = {}
        """Owned runs that commands have come for."""
        self._unclaimed: dict[int, None] = {}
        """Runs that commands have come for before this worker knew that it owns them."""
        self._gone: dict[str, int] = {}
        """Runs that are no longer watched, and still said to be."""
        self._forgetting = asyncio.Lock()
        self._reading = asyncio.Event()
        self._echo: asyncio.Future[None] | None = None

    # -- listening ----------------------------------------------------------------------------------------------------

    async def start(self, listener: Listener, owned: OwnedRuns) -> None:
        """Listen under the worker's id, which may be a new one, and watch again what was watched. Call `stop` first."""
        self._listener, self._owned = listener, owned
        self._everyones = self.channel("")
        self._telling, self._reading, self._forgetting = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        connection = await self._connect()
        await self._watch_all()
        self._look_at_all()
        self._tasks = [
            asyncio.create_task(self._listen(connection), name="gapless-postgres-listener"),
            asyncio.create_task(self._tell(), name="gapless-postgres-teller"),
            asyncio.create_task(self._read(), name="gapless-postgres-reader"),
        ]

    async def stop(self) -> None:
        """Listen no more, and tell nobody. Idempotent."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)  # psycopg may be cancelling a query itself

    def forget_listener(self) -> None:
        """Tell nobody here any more."""
        self._listener = None

    def channel(self, worker_id: str) -> str:
        """Name the channel of a worker, or with "" that of all."""
        name = f"{self._server.schema}/{worker_id}".encode()
        return f"gapless_{hashlib.blake2b(name, digest_size=16).hexdigest()}"

    async def _connect(self) -> Connection:
        connection = await self._server.connect(to_listen=True)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                for worker_id in (self._owned.worker_id, ""):
                    await connection.execute(f"LISTEN {self.channel(worker_id)}")
        except (psycopg.Error, OSError, TimeoutError) as error:
            await connection.close()
            raise self._server.translate(error) from error
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _listen(self, connection: Connection | None) -> None:
        """Listen; after every loss of the connection, look for what was missed."""
        deaf = Outage(log, f"store {self._server.name}: listening anew")
        while True:
            try:
                if connection is None:
                    connection = await self._connect()
                    await self._watch_all()
                    for watched in self._watched.values():  # a server that took over may have others there
                        watched.told = max(0, watched.told - PART_ROWS)
                    self._look_at_all()
                    deaf.over()
                try:
                    await self._listen_on(connection)
                finally:
                    await connection.close()
            except Exception as error:  # whatever it is, followers here hear nothing while nobody listens
                deaf.failed(error, known=isinstance(error, psycopg.Error | OSError | GaplessError))
                await asyncio.sleep(RECONNECT_PAUSE_S)
            connection = None

    async def _listen_on(self, connection: Connection) -> None:
        """Listen on one connection, until it fails."""
        while True:
            async for news in connection.notifies(timeout=POLL_S):
                self._on_notified(news.channel, news.payload)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._poll(connection)

    async def _poll(self, connection: Connection) -> None:
        """Look for what was missed; nothing is asked where nothing is watched or owned."""
        if self._gone:
            async with self._forgetting:
                rids = int_array(self._gone.values())
                self._gone.clear()
                sql = "DELETE FROM gapless.watches WHERE worker = %s AND rid = ANY(%s::bigint[])"
                await self._server.run(connection, sql, self._owned.worker_id, rids)
        await self.sessions.poll(connection, self._owned.worker_id)
        await self.users.poll(connection, self._owned.worker_id)
        if self._watched:
            await self._read_events(list(self._by_rid), connection)
        if self._owned.runs:
            sql = """SELECT DISTINCT c.rid FROM gapless.commands c JOIN gapless.runs r ON r.rid = c.rid
                WHERE r.owner = %s"""
            self.collect(rid for (rid,) in await self._server.fetch(connection, sql, self._owned.worker_id))

    def _on_notified(self, channel: str, payload: str) -> None:
        if channel == self._everyones and payload == MISSED:
            self.users.look_at_all()
        elif channel == self._everyones:
            if payload != self._owned.worker_id and self._listener is not None:
                self._listener.on_wanted()
        elif payload == "all":
            self._look_at_all()
        elif payload == ECHO:
            if self._echo is not None and not self._echo.done():
                self._echo.set_result(None)
        elif payload[:1] == "c":
            self.collect([int(payload[1:])])
        elif payload[:1] == "u":
            self.users.hear(payload[1:])
        else:
            rids = list(map(int, payload[1:].split(",")))
            self.sessions.hear(rids)
            self._dirty.update((rid, None) for rid in rids if rid in self._by_rid)
            self._reading.set()

    def _look_at(self, rid: int) -> None:
        if rid in self._by_rid:
            self._dirty[rid] = None
            self._reading.set()

    def _look_at_all(self) -> None:
        self.sessions.look_at_all()
        self.users.look_at_all()
        self._dirty.update(dict.fromkeys(self._by_rid))
        self._inbox.update((owned.rid, None) for owned in self._owned.runs.values())
        self._reading.set()

    # -- reading what is new ------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read what was hinted at, for as long as the store is open."""
        outage = Outage(log, f"store {self._server.name}: reading again")
        while True:
            await self._reading.wait()
            self._reading.clear()
            rids = list(self._dirty)[:RUNS_AT_ONCE]
            for rid in rids:
                del self._dirty[rid]
            inbox, self._inbox = self._inbox, {}
            try:
                if rids:
                    await self._read_events(rids)
                if inbox:
                    await self._read_commands(inbox)
                outage.over()
            except Exception as error:  # whatever it is, what is not heard here may be what somebody waits for
                outage.failed(error, known=isinstance(error, GaplessError))
                self._dirty.update(dict.fromkeys(rids))
                self._inbox.update(inbox)
                await asyncio.sleep(RECONNECT_PAUSE_S)
            if self._dirty or self._inbox:
                self._reading.set()

    async def _read_events(self, rids: Sequence[int], connection: Connection | None = None) -> None:
        watched = [self._by_rid[rid] for rid in rids if rid in self._by_rid]
        values = int_array(one.rid for one in watched), int_array(one.told for one in watched)
        if connection is None:
            rows = await self._server.rows(_NEWS, *values)
        else:
            rows = await self._server.fetch(connection, _NEWS, *values)
        for row in rows:
            self._on_row(*row)

    def _on_row(self, rid: int, id: bytes | None, last: int, active: bool, seq: int | None, data: bytes) -> None:
        watched = self._by_rid.get(rid)
        if watched is None or self._listener is None:
            return
        if id != watched.id.encode():
            self.unwatch(watched.id)
            self._listener.on_events(watched.id, 0, [], True)
            return
        events = [] if seq is None else data.split(b"\n")
        end = last if seq is None else seq + len(events) - 1
        if events:
            self._listener.on_events(watched.id, seq or 0, events, not active and end == last)
        if (not events and last > watched.told) or end < last or (not active and not events):
            self._listener.on_events(watched.id, last + 1, [], not active)
        watched.told = max(watched.told, last)
        if not active:
            self.unwatch(watched.id)

    async def _read_commands(self, rids: Iterable[int]) -> None:
        """Hand on the commands for owned runs that were not handed on. They stay where they are until they are
        taken."""
        sql = "SELECT rid, cid, command FROM gapless.commands WHERE rid = ANY(%s::bigint[]) ORDER BY cid"
        rows = await self._server.rows(sql, int_array(rids))
        owned_runs = {owned.rid: owned for owned in self._owned.runs.values()}
        for rid, cid, command in rows:
            owned = owned_runs.get(rid)
            if owned is None:
                self._unclaimed[rid] = None
                if len(self._unclaimed) > UNCLAIMED_MAX:
                    del self._unclaimed[next(iter(self._unclaimed))]
            elif cid > owned.heard and self._listener is not None:
                owned.heard = cid
                self._listener.on_command(owned.id, command, cid)

    def collect(self, rids: Iterable[int]) -> None:
        """Take the commands that wait for these runs, soon."""
        self._inbox.update(dict.fromkeys(rids))
        if self._inbox:
            self._reading.set()

    def now_owned(self, run_ids: Iterable[str]) -> None:
        """Take the commands that were kept for runs that have come to this worker, and watch them no longer."""
        for run_id in run_ids:
            self.unwatch(run_id)
            if (owned := self._owned.runs.get(run_id)) is not None:
                self.collect([owned.rid])

    def created(self, run_id: str) -> None:
        """Take the commands that came for a run before it was known to be this worker's."""
        owned = self._owned.runs.get(run_id)
        if owned is not None and owned.rid in self._unclaimed:
            del self._unclaimed[owned.rid]
            self.collect([owned.rid])

    # -- watching -----------------------------------------------------------------------------------------------------

    async def watch(self, run_id: str) -> None:
        """Tell the listener of what others append to this run, as `Store.watch`."""
        if run_id in self._owned.runs:
            return
        self._gone.pop(run_id, None)
        async with self._forgetting:
            pass
        rows = await self._server.execute(
            _WATCH, self._owned.worker_id, self.channel(self._owned.worker_id), run_id.encode()
        )
        for rid, last in rows:
            self._watched[run_id] = self._by_rid[rid] = _Watched(run_id, rid, last)
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look_at, rid)

    def unwatch(self, run_id: str) -> None:
        """Undo `watch`."""
        watched = self._watched.pop(run_id, None)
        if watched is not None:
            del self._by_rid[watched.rid]
            self._gone[run_id] = watched.rid

    async def _watch_all(self) -> None:
        """Watch again what is watched, under the worker's id of now."""
        me = self._owned.worker_id
        channel, rids = self.channel(me), int_array([*self._by_rid, *{*self.sessions.numbers, *self.users.numbers}])
        await self._server.execute(_WATCH_ALL, me, channel, rids)

    async def watch_session(self, session_id: str) -> None:
        """Tell the listener when something of the session changes, as `Store.watch_session`."""
        me = self._owned.worker_id
        await self.sessions.watch(session_id, me, self.channel(me))

    async def watch_user(self, user_id: str) -> None:
        """Tell the listener when something of any session of the user changes, as `Store.watch_user`."""
        me = self._owned.worker_id
        await self.users.watch(user_id, me, self.channel(me))

    def session_changed(self, session_id: str, user_id: str) -> None:
        """Tell who watches a session or its user, here and elsewhere, that this worker has changed it."""
        self.sessions.changed(session_id)
        self.users.changed(user_id, session_id)
        self.appended([session_number(session_id)])

    def _on_session(self, session_id: str) -> None:
        if self._listener is not None:
            self._listener.on_session(session_id)

    def _on_user_session(self, user_id: str, session_id: str | None) -> None:
        if self._listener is not None:
            self._listener.on_user_session(user_id, session_id)

    async def is_heard(self) -> bool:
        """Notify this worker itself, and say whether it hears that."""
        self._echo = asyncio.get_running_loop().create_future()
        await self._notify(self.channel(self._owned.worker_id), ECHO)
        try:
            await asyncio.wait_for(self._echo, ECHO_S_MAX)
        except TimeoutError:
            return False
        return True

    # -- telling others -----------------------------------------------------------------------------------------------

    def appended(self, rids: Iterable[int]) -> None:
        """Tell who watches them, soon, that these runs have got events."""
        self._appended.update(dict.fromkeys(rids))
        self._telling.set()

    async def _tell(self) -> None:
        """Tell others, for as long as the store is open."""
        outage = Outage(log, f"store {self._server.name}: telling again")
        while True:
            await self._telling.wait()
            self._telling.clear()
            appended, self._appended = self._appended, {}
            try:
                await self._server.execute(_NOTIFY, PAYLOAD_BYTES_MAX, int_array(appended), self._owned.worker_id)
                await self.users.notify(self._owned.worker_id)
                outage.over()
            except Exception as error:
                outage.failed(error, known=isinstance(error, GaplessError))
                self._appended = appended | self._appended
                self._telling.set()
                await asyncio.sleep(RECONNECT_PAUSE_S)
            await asyncio.sleep(NOTIFY_S)

    async def tell_command(self, owner: str, rid: int) -> None:
        """Tell a run's owner that there is a command for it."""
        if owner == self._owned.worker_id:
            self.collect([rid])
        else:
            await self._notify(self.channel(owner), f"c{rid}")

    async def tell_missed(self) -> None:
        """Tell all workers that one was lost, which may have changed something and told nobody."""
        await self._notify(self._everyones, MISSED)

    async def tell_wanted(self) -> None:
        """Tell all workers that a run is nobody's and wants somebody."""
        await self._notify(self._everyones, self._owned.worker_id)

    async def _notify(self, channel: str, payload: str) -> None:
        try:
            await self._server.execute("SELECT pg_notify(%s, %s)", channel, payload)
        except StoreUnavailable as error:  # what was to be told is in the tables, and will be found there
            log.warning("%s", error)
