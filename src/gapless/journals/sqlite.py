"""The store in one SQLite file, shared by any number of processes of one machine.

Layout. A run's events scattered by (run, position) would cost one page write each (measured: 10 µs per event). So the
newest events of all runs go to the end of one table, `log` (1.2 µs), and every `SEGMENT_EVENTS` events, and at its end,
a run's part of it is written again as one row of `segments`, by which it is read; the log's start is dropped once it
is covered. A crash loses nothing: what is in the log and in no segment is read from the log.

Writing. One connection, on the event loop: a commit of a group takes tens of microseconds and goes to the page cache
(WAL, synchronous=NORMAL: a killed process loses nothing, a power cut may lose the last moments, never the file's
integrity). What blocks, the checkpoint and its fsync, runs in a thread on a connection of its own.

Fencing. Whoever takes a dead worker's runs deletes its row in `workers` in the same transaction; every append checks
its own worker's row in its transaction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from gapless.errors import CursorExpired, GaplessError, RunNotFound, SessionBusy, StoreCorrupt, StoreUnavailable
from gapless.journals.contract import READ_BYTES_MAX, Append, Listener, Store, WorkerFenced
from gapless.journals.lease import LeaseWatch
from gapless.records import ACTIVE, RunRecord, RunStatus, SessionRecord, Turn, session_of, session_taken, title_of

__all__ = ["SQLiteStore"]

SEGMENT_EVENTS = 256
SEGMENT_BYTES = 64 * 1024
"""A run's unsealed events become a segment at either."""
LOG_ROWS_KEPT = 4096
"""Newest log rows that are kept although sealed, for followers in other processes that are about to read them."""
LOG_ROWS_MAX = 16 * LOG_ROWS_KEPT
"""A run that holds the log's start for half of this is sealed early. More makes larger segments, less a shorter search
for the events of another process's run (1.5 ms at the most)."""
LOG_BYTES_MAX = 64 * 1024 * 1024
"""One process's part of the log is sealed and dropped at this size, however few rows it has."""
POLL_S = 0.01
"""How often another process's commits are looked for while anything here waits for them."""
CHECKPOINT_S = 1.0
WAL_BYTES_MAX = 64 * 1024 * 1024
"""Past this the writer waits for a checkpoint that lets the WAL start over."""
BUSY_PAUSE_S, BUSY_S_MAX = 0.001, 10.0
"""Another process holds the write lock: try again after a pause, for so long at most."""
EXPIRE_RUNS = 100
"""Runs whose events are dropped in one transaction."""
APPLICATION_ID = 0x47504C31
SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE workers(id TEXT PRIMARY KEY, beat INTEGER NOT NULL, low INTEGER NOT NULL, process TEXT NOT NULL);
CREATE TABLE runs(rid INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL,
                  user TEXT NOT NULL, status TEXT NOT NULL, owner TEXT NOT NULL, record BLOB NOT NULL,
                  kept_since INTEGER /* the end of a run whose events are still there */,
                  kept_bytes INTEGER /* of these events */);
CREATE INDEX runs_session ON runs(session, rid);
CREATE INDEX runs_user ON runs(user, rid);
CREATE INDEX runs_kept ON runs(kept_since, kept_bytes) WHERE kept_since IS NOT NULL;
CREATE INDEX runs_active ON runs(owner) WHERE status IN ('queued', 'running', 'waiting');
CREATE TABLE log(pos INTEGER PRIMARY KEY AUTOINCREMENT, rid INTEGER NOT NULL, seq INTEGER NOT NULL,
                 n INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE segments(rid INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX segments_run ON segments(rid, seq);
CREATE TABLE commands(cid INTEGER PRIMARY KEY AUTOINCREMENT, rid INTEGER NOT NULL, command BLOB NOT NULL);
CREATE TABLE sessions(id TEXT PRIMARY KEY, user TEXT NOT NULL, updated_at INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX sessions_user ON sessions(user, updated_at);
CREATE TABLE turns(tid INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, turn BLOB NOT NULL);
CREATE INDEX turns_session ON turns(session, tid);
"""

log = logging.getLogger("gapless.sqlite")
_encode = msgspec.json.Encoder().encode
_decode_run = msgspec.json.Decoder(RunRecord).decode
_decode_session = msgspec.json.Decoder(SessionRecord).decode
_decode_turn = msgspec.json.Decoder(Turn).decode
_T = TypeVar("_T")
_FileId = tuple[int, int]
_ACTIVE_SQL = "('queued', 'running', 'waiting')"
_COLUMNS = "rid, id, session, user, status, owner, record"


class _Tail:
    """An owned run's end: what is in the log and not yet in a segment."""

    __slots__ = ("bytes", "first_pos", "last", "rid", "size", "unsealed")

    def __init__(self, rid: int) -> None:
        self.rid = rid
        self.last = 0
        self.bytes = 0
        """Of all of the run's events."""
        self.unsealed: list[bytes] = []
        self.size = 0
        self.first_pos: int | None = None

    def sealed(self) -> None:
        self.unsealed, self.size, self.first_pos = [], 0, None


class SQLiteStore(Store):
    """`sqlite:///path` (three slashes: relative; four: absolute)."""

    scheme: ClassVar[str] = "sqlite"
    commit_interval_s: ClassVar[float] = 0.002

    def __init__(self, path: str | os.PathLike[str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self._lease_watch = LeaseWatch(monotonic)
        self._worker_id = ""
        self._listener: Listener | None = None
        self._db: sqlite3.Connection | None = None
        self._tails: dict[str, _Tail] = {}
        self._watched: dict[str, int] = {}
        self._files: dict[Path, _FileId | None] = {}
        """What was opened: the file, and the two that SQLite keeps beside it while anyone has it open."""
        self._gone = ""
        """Why the file at the path is no longer that one."""
        self._tasks: list[asyncio.Task[None]] = []
        self._writable = asyncio.Event()
        self._pos = 0
        """Newest log position that this process has written or read."""
        self._trimmed = 0
        """Newest log position at the last trim, and the bytes written since; at the last renewal."""
        self._log_bytes = 0
        self._renewed = 0
        self._command = 0
        self._data_version = -1
        self._dirty = False

    # -- the worker -------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        reopened = self._db is not None
        self._worker_id, self._listener = worker_id, listener
        self._tails.clear()
        self._data_version = -1
        if not reopened:
            self._db = await self._connect_patiently()
            real = self.path.resolve()  # a link's own neighbours are not SQLite's
            beside = [real.with_name(f"{real.name}-{what}") for what in ("wal", "shm")]
            self._files = {path: _file_id(path) for path in (self.path, *beside)}
        self._writable.set()

        def register(db: sqlite3.Connection) -> None:
            if not self._watched:  # else the news since the last look are still to be told
                self._pos = self._newest_pos(db)
            self._command = _scalar(db, "SELECT coalesce(max(cid), 0) FROM commands")
            db.execute("INSERT INTO workers VALUES(?, 0, ?, ?)", (worker_id, self._pos + 1, _process()))

        try:
            await self._transact(register)
        except BaseException:
            if not reopened:
                self._connection().close()
                self._db = None
            raise
        if not reopened:
            self._tasks = [asyncio.create_task(self._poll()), asyncio.create_task(self._checkpoint())]

    async def _connect_patiently(self) -> sqlite3.Connection:
        """Another process that opens or closes the file for a moment locks out even those who would wait for a lock."""
        deadline = time.monotonic() + BUSY_S_MAX
        while True:
            try:
                return self._connect()
            except StoreUnavailable as error:
                cause = error.__cause__
                if not isinstance(cause, sqlite3.Error) or not _is_busy(cause) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(BUSY_PAUSE_S)

    def _connect(self) -> sqlite3.Connection:
        if not self.path.parent.is_dir():
            raise StoreUnavailable(f"store {self.path}: the folder {self.path.parent} does not exist")
        db = None
        try:
            db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S_MAX, check_same_thread=False)
            self._check_file(db)  # before anything is written to what may be another program's file
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA wal_autocheckpoint=0")
            db.execute("BEGIN IMMEDIATE")
            if not self._check_file(db):
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            db.execute("COMMIT")
            db.execute("PRAGMA busy_timeout=0")
        except BaseException as error:
            if db is not None:
                db.close()
            if isinstance(error, sqlite3.Error):
                raise self._translate(error) from error
            raise
        return db

    def _check_file(self, db: sqlite3.Connection) -> bool:
        """Whether the file is a store; False when it is empty. Raises `StoreCorrupt` when it is something else."""
        tables = _scalar(db, "SELECT count(*) FROM sqlite_master")  # first: both come at once, perhaps just now
        application = _scalar(db, "PRAGMA application_id")
        if application != APPLICATION_ID:
            if application or tables:
                raise StoreCorrupt(f"store {self.path}: an SQLite file, but not one of Gapless; choose another path")
            return False
        if (version := _scalar(db, "PRAGMA user_version")) != SCHEMA_VERSION:
            raise StoreCorrupt(
                f"store {self.path}: schema version {version}, this Gapless reads {SCHEMA_VERSION}; "
                "use the Gapless that wrote it, or another path"
            )
        return True

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._db is not None:
            try:
                await self._transact(self._unregister)
            except GaplessError as error:  # its lease runs out by itself then
                log.warning("store %s: could not unregister: %s", self.path, error)
            db, self._db = self._db, None
            self._tails.clear()
            db.close()  # not in a thread: at the interpreter's exit there are none to be had
        self._listener = None

    def _unregister(self, db: sqlite3.Connection) -> None:
        """Leave nothing behind that only this worker's row keeps in the log."""
        if db.execute("SELECT 1 FROM workers WHERE id = ?", (self._worker_id,)).fetchone() is not None:
            _seal(db, self._tails.values())
            db.execute("DELETE FROM workers WHERE id = ?", (self._worker_id,))

    async def renew(self) -> None:
        def beat(db: sqlite3.Connection) -> list[_Tail]:
            self._check_lease(db)
            db.execute("UPDATE workers SET beat = beat + 1 WHERE id = ?", (self._worker_id,))
            newest = self._newest_pos(db)
            laggards = self._let_go(db, min(self._renewed, newest - LOG_ROWS_KEPT))
            self._renewed = newest
            return laggards

        for tail in await self._transact(beat):
            tail.sealed()

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        rows = await self._query("SELECT id, beat, process FROM workers")
        if not any(worker_id == self._worker_id for worker_id, _, _ in rows):
            raise WorkerFenced(self._worker_id)
        rows = [row for row in rows if row[0] != self._worker_id]
        beats = {worker_id: beat for worker_id, beat, _ in rows}
        dead = set(self._lease_watch.expired(beats, lease_s))
        dead.update(worker_id for worker_id, _, process in rows if _process_is_gone(process))
        orphans = await self._query(
            f"SELECT 1 FROM runs WHERE status IN {_ACTIVE_SQL} AND owner NOT IN (SELECT id FROM workers) LIMIT 1"
        )
        if not dead and not orphans:
            return []  # as nearly always: nothing to write

        def fence(db: sqlite3.Connection) -> list[tuple[_Tail, RunRecord]]:
            self._check_lease(db)
            for worker_id in dead:
                db.execute("DELETE FROM workers WHERE id = ? AND beat = ?", (worker_id, beats[worker_id]))
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE status IN {_ACTIVE_SQL}"
                " AND owner NOT IN (SELECT id FROM workers) ORDER BY rid"
            ).fetchall()
            taken = []
            for rid, *columns in rows:
                db.execute("UPDATE runs SET owner = ? WHERE rid = ?", (self._worker_id, rid))
                run = self._record(db, rid, *columns)
                run.owner = self._worker_id
                taken.append((self._load_tail(db, rid, run.last_seq), run))
            # The dead workers' rows no longer keep the unsealed events of these runs in the log: this one's must.
            for tail, _ in taken:
                if tail.first_pos is not None:
                    db.execute("UPDATE workers SET low = min(low, ?) WHERE id = ?", (tail.first_pos, self._worker_id))
            return taken

        taken = await self._transact(fence)
        for tail, run in taken:
            self._tails[run.id] = tail
            self._watched.pop(run.id, None)
        if taken:
            self._command, self._data_version = 0, -1  # commands that the dead did not take are still there
        return [run for _, run in taken]

    def _load_tail(self, db: sqlite3.Connection, rid: int, last: int) -> _Tail:
        tail = _Tail(rid)
        sealed = _sealed(db, rid)
        for pos, seq, data in db.execute("SELECT pos, seq, data FROM log WHERE rid = ? ORDER BY pos", (rid,)):
            if seq <= sealed:
                continue
            if tail.first_pos is None:
                tail.first_pos = pos
            tail.unsealed += data.split(b"\n")
            tail.size += len(data)
        tail.last = last
        tail.bytes = tail.size + _scalar(db, f"SELECT coalesce(sum(length(data)), 0) FROM segments WHERE rid = {rid}")
        return tail

    # -- transactions -----------------------------------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreUnavailable(f"store {self.path} is closed")
        if self._gone:
            raise StoreUnavailable(self._gone)
        return self._db

    def _look_at_file(self) -> None:
        """SQLite goes on writing into a file that somebody has removed, replaced or overwritten; what is accepted then
        is lost. So look at it now and then, and take nothing while it is not the one that was opened.

        Only through SQLite: whoever else closes the file lets go of all locks that this process has on it (POSIX)."""
        gone = ""
        try:
            found = {path: _file_id(path) for path in self._files}
            changed = [path for path, file_id in self._files.items() if found[path] != file_id]
            if self.path in changed and found[self.path] is None:
                gone = (
                    f"store {self.path}: the file was removed while it is in use; put it back, or restart for a new one"
                )
            elif self.path in changed:
                gone = f"store {self.path}: the file was replaced while it is in use; restart to use the new one"
            elif changed:
                gone = (
                    f"store {self.path}: {changed[0].name} was removed or replaced while it is in use; "
                    "stop this server, which writes what it still holds into the file, and start it again"
                )
            else:
                header = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
                try:
                    # Or a file that is shorter than its header says counts as damaged. It is, without the WAL that is
                    # not looked at here, while a checkpoint is under way and after one that the disk was too full for.
                    header.execute("PRAGMA writable_schema = ON")
                    _scalar(header, "PRAGMA application_id")
                finally:
                    header.close()
        except sqlite3.Error:
            gone = f"store {self.path}: the file was overwritten while it is in use; restore it and restart"
        except OSError as error:
            gone = f"store {self.path}: {error.strerror}"
        if gone != self._gone:
            self._gone = gone
            log.error("%s", gone or f"store {self.path}: the file is back")

    async def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in one write transaction, waiting without blocking while another process writes."""
        return await self._run("BEGIN IMMEDIATE", work)

    async def _look(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work`, which only reads, on one state of the file."""
        return await self._run("BEGIN", work)

    async def _run(self, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        writes = begin != "BEGIN"
        deadline = 0.0
        while True:
            if writes and not self._writable.is_set():
                await self._writable.wait()
            db = self._connection()
            try:
                db.execute(begin)
                try:
                    result = work(db)
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
                self._dirty |= writes
                return result
            except sqlite3.Error as error:
                if not _is_busy(error):
                    raise self._translate(error) from error
                now = time.monotonic()
                deadline = deadline or now + BUSY_S_MAX
                if now > deadline:
                    raise StoreUnavailable(
                        f"store {self.path}: locked by another process for {BUSY_S_MAX:.0f} s"
                    ) from error
            await asyncio.sleep(BUSY_PAUSE_S)

    async def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._look(lambda db: db.execute(sql, values).fetchall())

    async def _execute(self, sql: str) -> None:
        await self._transact(lambda db: db.execute(sql))

    def _translate(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreCorrupt(f"store {self.path}: the file is damaged ({error}); move it away or restore a copy")
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailable(f"store {self.path}: the disk is full; free some space, runs go on by themselves")
        if code == sqlite3.SQLITE_READONLY:
            return StoreUnavailable(f"store {self.path}: the file is read-only; make it writable for this user")
        if code == sqlite3.SQLITE_CANTOPEN:
            return StoreUnavailable(f"store {self.path}: cannot be opened; check the path and its permissions")
        return StoreUnavailable(f"store {self.path}: {error}")

    def _check_lease(self, db: sqlite3.Connection) -> None:
        if db.execute("SELECT 1 FROM workers WHERE id = ?", (self._worker_id,)).fetchone() is None:
            self._tails.clear()  # its runs are read as anyone else's from now on
            raise WorkerFenced(self._worker_id)

    # -- runs -------------------------------------------------------------------------------------------------------

    async def create_run(self, run: RunRecord, *, reject_busy: bool) -> tuple[RunRecord, bool]:
        def create(db: sqlite3.Connection) -> tuple[RunRecord, bool]:
            self._check_lease(db)
            known = self._find(db, run.id)
            if known is not None:
                return known, False
            user = db.execute("SELECT user FROM sessions WHERE id = ?", (run.session_id,)).fetchone()
            if user is not None and user[0] != run.user_id:
                raise session_taken(run.session_id)
            if reject_busy:
                active = db.execute(
                    f"SELECT id FROM runs WHERE session = ? AND status IN {_ACTIVE_SQL} LIMIT 1", (run.session_id,)
                ).fetchone()
                if active is not None:
                    raise SessionBusy(f"session {run.session_id} has an active run, {active[0]}", run_id=active[0])
            if user is None:
                self._insert_session(db, session_of(run))
            run.owner = self._worker_id
            cursor = db.execute(
                "INSERT INTO runs(id, session, user, status, owner, record) VALUES(?, ?, ?, ?, ?, ?)",
                (run.id, run.session_id, run.user_id, run.status.value, run.owner, _encode(run)),
            )
            assert cursor.lastrowid is not None
            created_rid.append(cursor.lastrowid)
            return run, True

        created_rid: list[int] = []
        answer = await self._transact(create)
        if answer[1]:
            self._tails[run.id] = _Tail(created_rid[-1])
        return answer

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        def start(db: sqlite3.Connection) -> str | None:
            self._check_lease(db)
            run = self._find(db, run_id)
            if run is None or run.owner != self._worker_id or run.status is not RunStatus.QUEUED:
                raise RunNotFound(f"run {run_id} is not queued here", run_id=run_id)
            ahead = db.execute(
                f"SELECT id FROM runs WHERE session = ? AND status IN {_ACTIVE_SQL}"
                " AND rid < (SELECT rid FROM runs WHERE id = ?) ORDER BY rid DESC LIMIT 1",
                (run.session_id, run_id),
            ).fetchone()
            if ahead is None:
                run.status, run.started_at = RunStatus.RUNNING, started_at
                self._update(db, run)
            return None if ahead is None else str(ahead[0])

        return await self._transact(start)

    async def get_run(self, run_id: str) -> RunRecord | None:
        return await self._look(lambda db: self._find(db, run_id))

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        conditions = {"user = ?": user_id, "session = ?": session_id, "status = ?": status and status.value}
        where = [condition for condition, value in conditions.items() if value is not None]
        values = [value for value in conditions.values() if value is not None]
        if status in ACTIVE:
            where.append(f"status IN {_ACTIVE_SQL}")  # the index is on these
        sql = f"SELECT {_COLUMNS} FROM runs WHERE {' AND '.join(where) or 1} ORDER BY rid DESC LIMIT ?"
        return await self._look(lambda db: [self._record(db, *row) for row in db.execute(sql, (*values, limit))])

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        oldest = f"SELECT min(rid) FROM runs WHERE status IN {_ACTIVE_SQL} AND session IN"
        sql = f"SELECT {_COLUMNS} FROM runs WHERE rid IN ({oldest} (SELECT value FROM json_each(?)) GROUP BY session)"
        asked = _encode(tuple(session_ids)).decode()
        runs = await self._look(lambda db: [self._record(db, *row) for row in db.execute(sql, (asked,))])
        return {run.session_id: run for run in runs}

    def _find(self, db: sqlite3.Connection, run_id: str) -> RunRecord | None:
        row = db.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
        return None if row is None else self._record(db, *row)

    def _record(
        self,
        db: sqlite3.Connection,
        rid: int,
        run_id: str,
        session: str,
        user: str,
        status: str,
        owner: str,
        data: bytes,
    ) -> RunRecord:
        run = _decode_run(data)
        run.status, run.owner = RunStatus(status), owner
        if run.status in ACTIVE:
            tail = self._tails.get(run_id)
            run.last_seq = tail.last if tail is not None else _last(db, rid)
        return run

    def _update(self, db: sqlite3.Connection, run: RunRecord, size: int = 0) -> None:
        kept_since = None if run.expired else run.ended_at
        db.execute(
            "UPDATE runs SET status = ?, record = ?, kept_since = ?, kept_bytes = ? WHERE id = ?",
            (run.status.value, _encode(run), kept_since, size, run.id),
        )

    # -- journals ---------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        refused: list[str] = []
        accepted: list[tuple[Append, _Tail, bool]] = []

        def write(db: sqlite3.Connection) -> int:
            self._check_lease(db)
            pos = self._newest_pos(db)
            rows, segments = [], []
            refused.clear()
            accepted.clear()
            for batch in batches:
                tail = self._tails.get(batch.run_id)
                if tail is None:
                    refused.append(batch.run_id)
                    continue
                assert batch.first_seq == tail.last + 1, "a journal has no holes"
                data = b"\n".join(batch.events)
                pos += 1
                rows.append((pos, tail.rid, batch.first_seq, len(batch.events), data))
                n = len(tail.unsealed) + len(batch.events)
                seal = batch.end is not None or n >= SEGMENT_EVENTS or tail.size + len(data) >= SEGMENT_BYTES
                if seal:
                    first = tail.last + 1 - len(tail.unsealed)
                    segments.append((tail.rid, first, n, b"\n".join([*tail.unsealed, data])))
                accepted.append((batch, tail, seal))
                if batch.end is not None or batch.status is not None:
                    self._update_run(db, batch, tail.bytes + len(data))
            db.executemany("INSERT INTO log VALUES(?, ?, ?, ?, ?)", rows)
            if segments:
                db.executemany("INSERT INTO segments VALUES(?, ?, ?, ?)", segments)
            return pos

        newest = await self._transact(write)
        pos = newest - len(accepted)
        for batch, tail, seal in accepted:
            pos += 1
            size = sum(map(len, batch.events))
            self._log_bytes += size
            tail.last += len(batch.events)
            tail.bytes += size
            if batch.end is not None:
                del self._tails[batch.run_id]
            elif seal:
                tail.sealed()
            else:
                if tail.first_pos is None:
                    tail.first_pos = pos
                tail.unsealed += batch.events
                tail.size += size
        if not self._watched:
            self._pos = newest
        if newest - self._trimmed > LOG_ROWS_KEPT or self._log_bytes > LOG_BYTES_MAX:
            large = self._log_bytes > LOG_BYTES_MAX
            self._trimmed, self._log_bytes = newest, 0
            try:
                await self._trim(newest, *((newest, 0) if large else (newest - LOG_ROWS_MAX // 2, LOG_ROWS_KEPT)))
            except (GaplessError, WorkerFenced) as error:  # the events are accepted; the next round trims
                log.warning("store %s: could not trim its log: %s", self.path, error)
        return refused

    def _update_run(self, db: sqlite3.Connection, batch: Append, size: int) -> None:
        run = self._find(db, batch.run_id)
        assert run is not None, "an owned run has a record"
        run.last_seq = batch.first_seq + len(batch.events) - 1
        if batch.status is not None:
            run.status = batch.status
        end = batch.end
        if end is not None:
            run.status, run.ended_at, run.error = end.status, end.ended_at, end.error
            db.execute("INSERT INTO turns(session, turn) VALUES(?, ?)", (run.session_id, _encode(end.turn)))
            db.execute("DELETE FROM commands WHERE rid = (SELECT rid FROM runs WHERE id = ?)", (run.id,))
            row = db.execute("SELECT record FROM sessions WHERE id = ?", (run.session_id,)).fetchone()
            if row is not None:
                session = _decode_session(row[0])
                session.updated_at = end.ended_at
                session.title = session.title or title_of(run.message)
                if end.state is not None:
                    session.state = end.state
                _write_session(db, session)
        self._update(db, run, size)

    def _newest_pos(self, db: sqlite3.Connection) -> int:
        return _scalar(db, "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'log'), 0)")

    def _let_go(self, db: sqlite3.Connection, before: int) -> list[_Tail]:
        """Seal the runs that hold the log below a position, and note how far this worker still needs the log."""
        laggards, low = [], self._newest_pos(db) + 1
        for tail in self._tails.values():
            if tail.first_pos is None:
                continue
            if tail.first_pos < before:
                laggards.append(tail)
            else:
                low = min(low, tail.first_pos)
        _seal(db, laggards)
        db.execute("UPDATE workers SET low = ? WHERE id = ?", (low, self._worker_id))
        return laggards

    async def _trim(self, newest: int, before: int, kept: int) -> None:
        """Drop the part of the log that every worker has sealed, up to the newest `kept` rows."""

        def trim(db: sqlite3.Connection) -> list[_Tail]:
            self._check_lease(db)
            laggards = self._let_go(db, before)
            low = min(_scalar(db, "SELECT min(low) FROM workers"), newest - kept)
            db.execute("DELETE FROM log WHERE pos < ?", (low,))
            return laggards

        for tail in await self._transact(trim):
            tail.sealed()

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        return await self._look(lambda db: self._read(db, run_id, after, limit))

    def _read(self, db: sqlite3.Connection, run_id: str, after: int, limit: int) -> list[bytes]:
        row = db.execute("SELECT rid, status, record FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        rid, status, record = row
        events: list[bytes] = []
        size = 0
        rows = db.execute(
            "SELECT seq, data FROM segments WHERE rid = ?1 AND seq >= coalesce("
            "(SELECT max(seq) FROM segments WHERE rid = ?1 AND seq <= ?2), 0) ORDER BY seq",
            (rid, after + 1),
        )
        for seq, data in rows:
            events += data.split(b"\n")[max(0, after + 1 - seq) :]
            size += len(data)
            if len(events) >= limit or size >= READ_BYTES_MAX:
                return events[:limit]
        if RunStatus(status).ended:
            if not events and _decode_run(record).expired:
                raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
            return events
        tail = self._tails.get(run_id)
        reached = after + len(events)
        if tail is not None:
            events += tail.unsealed[max(0, reached - (tail.last - len(tail.unsealed))) :]
        else:
            query = "SELECT seq, data FROM log WHERE rid = ? AND seq + n > ? ORDER BY pos"
            for seq, data in db.execute(query, (rid, reached + 1)):
                events += data.split(b"\n")[max(0, after + len(events) + 1 - seq) :]
        return events[:limit]

    async def watch(self, run_id: str) -> None:
        if run_id in self._tails:
            return

        def look(db: sqlite3.Connection) -> None:
            row = db.execute(f"SELECT rid FROM runs WHERE id = ? AND status IN {_ACTIVE_SQL}", (run_id,)).fetchone()
            if row is not None:
                if not self._watched:
                    self._pos = self._newest_pos(db)
                self._watched[run_id] = row[0]

        await self._look(look)

    async def unwatch(self, run_id: str) -> None:
        self._watched.pop(run_id, None)

    async def send(self, run_id: str, command: bytes) -> None:
        if run_id in self._tails and self._listener is not None:
            self._listener.on_command(run_id, command)
            return

        def insert(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT rid, status FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None:
                raise RunNotFound(f"no run {run_id}", run_id=run_id)
            if not RunStatus(row[1]).ended:
                db.execute("INSERT INTO commands(rid, command) VALUES(?, ?)", (row[0], command))

        await self._transact(insert)

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        def drop(db: sqlite3.Connection) -> int:
            over = 0
            if bytes_max is not None:
                over = _scalar(db, "SELECT total(kept_bytes) FROM runs WHERE kept_since IS NOT NULL") - bytes_max
            rows = db.execute(
                f"SELECT kept_since, kept_bytes, {_COLUMNS} FROM runs WHERE kept_since IS NOT NULL"
                " ORDER BY kept_since, rid LIMIT ?",
                (EXPIRE_RUNS,),
            ).fetchall()
            dropped = 0
            for kept_since, kept_bytes, *columns in rows:
                if kept_since >= ended_before and over <= 0:
                    break
                run = self._record(db, *columns)
                run.expired = True
                self._update(db, run)
                db.execute("DELETE FROM segments WHERE rid = ?", (columns[0],))
                over -= kept_bytes
                dropped += 1
            return dropped

        total = 0
        while dropped := await self._transact(drop):
            total += dropped
            await asyncio.sleep(0)
        return total

    # -- other processes --------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Look for what other processes committed: events of watched runs, commands for owned ones."""
        while True:
            await asyncio.sleep(POLL_S)
            if not self._watched and not self._tails:
                continue
            try:
                db = self._connection()
                version = _scalar(db, "PRAGMA data_version")
                if version != self._data_version:
                    self._data_version = version
                    if taken := await self._look(self._read_news):
                        await self._execute(f"DELETE FROM commands WHERE cid IN ({','.join(map(str, taken))})")
            except Exception as error:  # whatever it is, followers here hear nothing while nobody looks
                known = isinstance(error, sqlite3.Error | GaplessError) and str(error)
                log.warning("store %s: looking again: %s", self.path, known or type(error).__name__)
                self._data_version = -1
                await asyncio.sleep(CHECKPOINT_S)

    def _read_news(self, db: sqlite3.Connection) -> list[int]:
        self._read_events(db)
        return self._read_commands(db)

    def _read_events(self, db: sqlite3.Connection) -> None:
        if not self._watched or self._listener is None:
            return
        newest = self._newest_pos(db)
        skipped = _scalar(db, "SELECT coalesce(min(pos), 0) FROM log") > self._pos + 1
        run_ids = {rid: run_id for run_id, rid in self._watched.items()}
        marks = ",".join(map(str, run_ids))
        query = f"SELECT rid, seq, data FROM log WHERE pos > ? AND rid IN ({marks}) ORDER BY pos"
        for rid, seq, data in db.execute(query, (self._pos,)).fetchall():
            self._listener.on_events(run_ids[rid], seq, data.split(b"\n"), False)
        self._pos = newest
        ended = db.execute(f"SELECT rid FROM runs WHERE rid IN ({marks}) AND status NOT IN {_ACTIVE_SQL}").fetchall()
        for rid in run_ids if skipped else [rid for (rid,) in ended]:
            run = self._find(db, run_ids[rid])
            if run is not None:
                self._listener.on_events(run.id, run.last_seq + 1, [], run.status.ended)
                if run.status.ended:
                    self._watched.pop(run.id, None)

    def _read_commands(self, db: sqlite3.Connection) -> list[int]:
        rows = db.execute(
            "SELECT cid, rid, command FROM commands WHERE cid > ? ORDER BY cid", (self._command,)
        ).fetchall()
        run_ids = {tail.rid: run_id for run_id, tail in self._tails.items()}
        taken = []
        for cid, rid, command in rows:
            self._command = cid
            if rid in run_ids and self._listener is not None:
                self._listener.on_command(run_ids[rid], command)
                taken.append(cid)
        return taken

    async def _checkpoint(self) -> None:
        """Move the WAL into the file, in a thread; hold the writer only when the WAL has grown past its bound."""
        wal = self.path.with_name(self.path.name + "-wal")
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            self._look_at_file()
            if not self._dirty or self._gone:
                continue
            self._dirty = False
            try:
                await asyncio.to_thread(self._run_checkpoint, "PASSIVE")
                if wal.exists() and wal.stat().st_size > WAL_BYTES_MAX:
                    self._writable.clear()
                    try:
                        await asyncio.to_thread(self._run_checkpoint, "RESTART")
                    finally:
                        self._writable.set()
            except (sqlite3.Error, OSError) as error:
                log.warning("store %s: checkpoint: %s", self.path, error)

    def _run_checkpoint(self, mode: str) -> None:
        db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True, timeout=1.0)  # never makes a new file
        try:
            db.execute(f"PRAGMA wal_checkpoint({mode})")
        finally:
            db.close()

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        def create(db: sqlite3.Connection) -> SessionRecord:
            self._insert_session(db, session)
            row = db.execute("SELECT record FROM sessions WHERE id = ?", (session.id,)).fetchone()
            return _decode_session(row[0])

        return await self._transact(create)

    def _insert_session(self, db: sqlite3.Connection, session: SessionRecord) -> None:
        db.execute(
            "INSERT INTO sessions VALUES(?, ?, ?, ?) ON CONFLICT(id) DO NOTHING",
            (session.id, session.user_id, session.updated_at, _encode(session)),
        )

    async def get_session(self, session_id: str) -> SessionRecord | None:
        rows = await self._query("SELECT record FROM sessions WHERE id = ?", session_id)
        return _decode_session(rows[0][0]) if rows else None

    async def list_sessions(self, *, user_id: str | None = None, limit: int = 100) -> list[SessionRecord]:
        where, values = ("", ()) if user_id is None else ("WHERE user = ?", (user_id,))
        sql = f"SELECT record FROM sessions {where} ORDER BY updated_at DESC LIMIT ?"
        return [_decode_session(row[0]) for row in await self._query(sql, *values, limit)]

    async def update_state(self, session_id: str, changes: dict[str, Any], updated_at: int) -> SessionRecord | None:
        def update(db: sqlite3.Connection) -> SessionRecord | None:
            _check_idle(db, session_id)
            row = db.execute("SELECT record FROM sessions WHERE id = ?", (session_id,)).fetchone()
            if row is None:
                return None
            session = _decode_session(row[0])
            session.state.update(changes)
            session.updated_at = updated_at
            _write_session(db, session)
            return session

        return await self._transact(update)

    async def delete_session(self, session_id: str) -> bool:
        def delete(db: sqlite3.Connection) -> bool:
            _check_idle(db, session_id)
            if db.execute("DELETE FROM sessions WHERE id = ?", (session_id,)).rowcount == 0:
                return False
            db.execute("DELETE FROM segments WHERE rid IN (SELECT rid FROM runs WHERE session = ?)", (session_id,))
            db.execute("DELETE FROM runs WHERE session = ?", (session_id,))
            db.execute("DELETE FROM turns WHERE session = ?", (session_id,))
            return True

        return await self._transact(delete)

    async def turns(self, session_id: str) -> list[Turn]:
        rows = await self._query("SELECT turn FROM turns WHERE session = ? ORDER BY tid", session_id)
        return [_decode_turn(row[0]) for row in rows]


def _check_idle(db: sqlite3.Connection, session_id: str) -> None:
    active = f"SELECT 1 FROM runs WHERE session = ? AND status IN {_ACTIVE_SQL}"
    if db.execute(active, (session_id,)).fetchone() is not None:
        raise SessionBusy(f"session {session_id} has an active run; cancel it first")


def _write_session(db: sqlite3.Connection, session: SessionRecord) -> None:
    db.execute(
        "UPDATE sessions SET updated_at = ?, record = ? WHERE id = ?",
        (session.updated_at, _encode(session), session.id),
    )


def _file_id(path: Path) -> _FileId | None:
    """Device and inode; None where there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _scalar(db: sqlite3.Connection, sql: str) -> int:
    row = db.execute(sql).fetchone()
    return int(row[0])


def _seal(db: sqlite3.Connection, tails: Iterable[_Tail]) -> None:
    """Write what is only in the log as segments."""
    for tail in tails:
        if tail.unsealed:
            first = tail.last + 1 - len(tail.unsealed)
            data = b"\n".join(tail.unsealed)
            db.execute("INSERT INTO segments VALUES(?, ?, ?, ?)", (tail.rid, first, len(tail.unsealed), data))


def _sealed(db: sqlite3.Connection, rid: int) -> int:
    """Position of the newest event in a segment."""
    row = db.execute("SELECT seq + n - 1 FROM segments WHERE rid = ? ORDER BY seq DESC LIMIT 1", (rid,)).fetchone()
    return 0 if row is None else int(row[0])


def _last(db: sqlite3.Connection, rid: int) -> int:
    """Position of the newest event of a run that another process owns."""
    row = db.execute("SELECT seq + n - 1 FROM log WHERE rid = ? ORDER BY pos DESC LIMIT 1", (rid,)).fetchone()
    return max(0 if row is None else int(row[0]), _sealed(db, rid))


def _process() -> str:
    """This process, told apart from any other of this machine, also after a restart: boot id, pid namespace, pid and
    start time."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def _process_is_gone(process: str) -> bool:
    """True only if it certainly is: no such process now, or another one under its pid, in this very pid namespace, or
    the machine has been started anew. Where that cannot be told, the lease alone decides."""
    machine, pid, started = process.rsplit(" ", 2)
    here = _machine()
    if not machine or not here:
        return False
    if machine.split(" ")[0] != here.split(" ")[0]:
        return True
    return machine == here and _started(int(pid)) != started


def _machine() -> str:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _started(pid: int) -> str:
    """The process's start time in clock ticks since boot (proc(5), stat field 22); "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # killed, and its parent has not yet asked for its exit status
