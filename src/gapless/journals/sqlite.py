"""The store in one SQLite file, shared by any number of processes of one machine.

Its parts: the file with its transactions (`sqlite_file`), the journals (`sqlite_log`), the rows of runs and sessions
(`sqlite_records`), the news of other processes (`sqlite_news`). Here is what a store's duties make of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote

from gapless.errors import CursorExpired, GaplessError, RunNotFound, UsageError
from gapless.journals import process
from gapless.journals.contract import (
    TIMES_MAX,
    WANTED_MAX,
    Append,
    Checkpoint,
    GroupTime,
    Listener,
    Store,
    WorkerFenced,
)
from gapless.journals.lease import LeaseWatch, log_lost
from gapless.journals.sqlite_bells import Bell
from gapless.journals.sqlite_file import Due, SQLiteFile
from gapless.journals.sqlite_lists import TurnPlaces, find_runs, list_runs, list_sessions, list_turns
from gapless.journals.sqlite_log import Log, Tail
from gapless.journals.sqlite_moves import read_moves
from gapless.journals.sqlite_news import Command, News
from gapless.journals.sqlite_outbox import SQLiteOutbox
from gapless.journals.sqlite_records import (
    Runs,
    check_idle,
    delete_of_session,
    find_checkpoint,
    find_session,
    insert_session,
    read_session,
    write_session,
)
from gapless.journals.sqlite_retention import drop_events, expire
from gapless.journals.sqlite_schema import ACTIVE_SQL, OWNED_SQL
from gapless.journals.sqlite_subscriptions import SQLiteSubscriptions
from gapless.moves import HANDED_OVER, Move, Moves
from gapless.records import (
    Listing,
    RunRecord,
    RunStatus,
    SessionRecord,
    Turn,
    changed_state,
    session_busy,
    session_of,
    session_taken,
)
from gapless.sought import Found, Sought

__all__ = ["SQLiteStore"]

_ORPHANED = f"{OWNED_SQL} AND owner NOT IN (SELECT id FROM workers)"
_LOST = f"""SELECT CASE WHEN (SELECT group_concat(id) FROM workers) IS NOT ?
    OR EXISTS(SELECT 1 FROM runs WHERE {_ORPHANED}) THEN 0 END"""
"""Whether there is another worker than this one, or a run of none: 0, else NULL."""
_WANTED = "SELECT min(wanted_at) FROM runs WHERE wanted_at IS NOT NULL"
_ENDED = {status.value for status in RunStatus if status.ended}

log = logging.getLogger("gapless.sqlite")
_T = TypeVar("_T")


class SQLiteStore(Store):
    """`sqlite:///path` (three slashes: relative; four: absolute)."""

    commit_interval_s: ClassVar[float] = 0.002

    def __init__(self, path: str | os.PathLike[str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = SQLiteFile(path)
        self._bell = Bell(self._file.path)
        self._log = Log(self._file, self._bell)
        self.outbox = SQLiteOutbox(self._file)
        self.subscriptions = SQLiteSubscriptions(self._file)
        self._runs = Runs(self._log)
        self._news = News(self._file, self._log, self._runs)
        self._log.on_session = self._news.session_changed
        self._log.is_watching = self._news.is_watching
        self._turn_places = TurnPlaces()
        self._lease_watch = LeaseWatch(monotonic)
        self._lost, self._wanted = Due(self._file, _LOST), Due(self._file, _WANTED)
        self._tasks: list[asyncio.Task[None]] = []
        self.path: Path = self._file.path

    @classmethod
    def from_url(cls, url: str) -> SQLiteStore:
        _, _, rest = url.partition("://")
        if not rest.startswith("/") or len(rest) == 1:
            raise UsageError(f"store {url!r}: write sqlite:///file.db (relative) or sqlite:////path/file.db (absolute)")
        return cls(unquote(rest[1:]))

    # -- the worker -------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        reopened = self._file.is_open
        self._log.worker_id = worker_id
        self._log.tails.clear()
        if not reopened:
            await self._file.open()
            self._bell.open(self._news.look_soon)

        def register(db: sqlite3.Connection) -> bool:
            self._news.begin(db, listener)
            listens = self._news.is_watching()
            row = (worker_id, self._news.pos + 1, process.this_process(), self._bell.name, listens)
            db.execute("INSERT INTO workers(id, beat, low, process, bell, listens) VALUES(?, 0, ?, ?, ?, ?)", row)
            return listens

        try:
            self._log.listens = await self._file.transact(register)
        except BaseException:
            if not reopened:
                self._bell.close()
                self._file.close()
            raise
        self._bell.ring_all()  # who was alone has not looked
        if not reopened:
            loops = (self._news.keep_looking(), self._file.keep_checkpointing())
            self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._file.is_open:
            try:
                await self._file.transact(self._unregister)
            except GaplessError as error:  # its lease runs out by itself then
                log.warning("store %s: could not unregister: %s", self.path, error)
            self._log.tails.clear()
            self._bell.close()
            self._file.close()
        self._news.listener = None

    def _unregister(self, db: sqlite3.Connection) -> None:
        worker_id = self._log.worker_id
        if db.execute("SELECT 1 FROM workers WHERE id = ?", (worker_id,)).fetchone() is not None:
            self._log.seal_all(db)
            db.execute("DELETE FROM workers WHERE id = ?", (worker_id,))

    async def renew(self) -> None:
        await self._log.renew()

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        me = self._log.worker_id
        if await self._lost.is_none(0, me):
            self.others = 0
            self._news.note_others(False)
            return []
        rows, left = await self._file.look(_workers)
        if not any(worker_id == me for worker_id, _, _ in rows):
            raise WorkerFenced(me)
        rows = [row for row in rows if row[0] != me]
        beats = {worker_id: beat for worker_id, beat, _ in rows}
        dead = set(self._lease_watch.expired(beats, lease_s))
        dead.update(worker_id for worker_id, _, name in rows if process.is_gone(name))
        self.others = len(beats) - len(dead)
        self._news.note_others(bool(beats))
        if not dead and left <= self._runs.unreadable:
            return []  # as nearly always: nothing to write

        def fence(db: sqlite3.Connection) -> tuple[list[str], list[str], list[tuple[Tail, RunRecord]]]:
            self._log.check_lease(db)
            delete = "DELETE FROM workers WHERE id = ? AND beat = ?"
            fenced = [worker_id for worker_id in dead if db.execute(delete, (worker_id, beats[worker_id])).rowcount]
            owners, taken = [], []
            for run in self._runs.select(db, f"{_ORPHANED} ORDER BY +rid"):
                owners.append(run.owner)
                rid = self._runs.take(db, run, me)
                taken.append((self._log.load_tail(db, rid), run))
            for (left,) in db.execute(f"SELECT rid FROM runs WHERE {_ORPHANED}").fetchall():
                self._log.seal_left(db, left)  # of a version that another worker has
            return fenced, owners, taken

        fenced, owners, taken = await self._file.transact(fence)
        log_lost(me, fenced, owners)
        for tail, run in taken:
            self._now_owned(run.id, tail)
        return [run for _, run in taken]

    def _now_owned(self, run_id: str, tail: Tail) -> None:
        """Own a run that was another worker's, or nobody's, from now on."""
        self._log.tails[run_id] = tail
        self._news.unwatch(run_id)
        self._news.hear_kept([tail.rid])

    # -- runs -------------------------------------------------------------------------------------------------------

    async def create_run(
        self, run: RunRecord, *, reject_busy: bool, started_at: int | None = None
    ) -> tuple[RunRecord, bool]:
        def create(db: sqlite3.Connection) -> tuple[RunRecord, int | None, bytes]:
            known, user, active = self._runs.before(db, run)
            if known is not None:
                return known, None, b""
            if user is None:
                insert_session(db, session_of(run))
            elif user != run.user_id:
                raise session_taken(run.session_id)
            elif active is not None and reject_busy:
                raise session_busy(run.session_id, active)
            if started_at is not None and active is None:
                run.status, run.started_at = RunStatus.RUNNING, started_at
            run.owner = self._log.worker_id
            rid = self._runs.insert(db, run)
            return run, rid, self._log.note_session_of(db, run.user_id, run.session_id)

        record, rid, news = await self._log.change(create)
        if rid is not None:
            self._log.tails[run.id] = Tail(rid)
            self._news.session_changed(news)
        return record, rid is not None

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        def start(db: sqlite3.Connection) -> tuple[str | None, bytes]:
            run, written = self._runs.read(db, run_id)
            if run is None or run.owner != self._log.worker_id or run.status is not RunStatus.QUEUED:
                raise RunNotFound(f"run {run_id} is not queued here", run_id=run_id)
            ahead = db.execute(
                f"SELECT id FROM runs WHERE session = ? AND {ACTIVE_SQL}"
                " AND rid < (SELECT rid FROM runs WHERE id = ?) ORDER BY rid DESC LIMIT 1",
                (run.session_id, run_id),
            ).fetchone()
            if ahead is not None:
                return str(ahead[0]), b""
            run.status, run.started_at = RunStatus.RUNNING, started_at
            self._runs.update(db, run, written)
            return None, self._log.note_session_of(db, run.user_id, run.session_id)

        ahead, news = await self._log.change(start)
        if ahead is None:
            self._news.session_changed(news)
        return ahead

    async def get_run(self, run_id: str) -> RunRecord | None:
        if not await self._file.query("SELECT 1 FROM runs WHERE id = ?", run_id):
            return None  # as it is of each run whose id a client has chosen, before it is created
        return await self._file.look(lambda db: self._runs.find(db, run_id))

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        return await list_runs(
            self._file, self._runs, user_id=user_id, session_id=session_id, status=status, limit=limit, after=after
        )

    async def find_runs(self, sought: Sought, *, limit: int = 100, after: str | None = None) -> Found:
        return await find_runs(self._file, self._runs, sought, limit, after)

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        return await self._file.look(lambda db: self._runs.oldest_active(db, session_ids))

    async def session_runs(
        self, session_id: str, after: str | None = None, limit: int = 100, *, active: bool = False
    ) -> list[RunRecord]:
        return await self._file.look(lambda db: self._runs.of_session(db, session_id, after, limit, active=active))

    # -- runs that are nobody's -------------------------------------------------------------------------------------

    async def release(self, run_id: str, wanted_at: int | None, what: str = HANDED_OVER) -> bool:
        def release(db: sqlite3.Connection) -> bool | None:
            tail = self._log.tails.get(run_id)
            if tail is None:
                return None
            self._log.seal(db, tail)
            return self._runs.release(db, tail.rid, Move.now(tail.last, what, self._log.worker_id), wanted_at)

        wanted_now = await self._log.change(release)
        if wanted_now is not None:
            del self._log.tails[run_id]
        if wanted_now:
            self._bell.ring_all()
        return bool(wanted_now)

    async def claim(self, run_id: str) -> RunRecord | None:
        def claim(db: sqlite3.Connection) -> tuple[RunRecord, Tail] | None:
            self._log.check_lease(db)
            claimed = self._runs.claim(db, run_id, self._log.worker_id)
            return None if claimed is None else (claimed[1], self._log.load_sealed(db, claimed[0]))

        claimed = await self._file.transact(claim)
        if claimed is None:
            return None
        run, tail = claimed
        self._now_owned(run_id, tail)
        return run

    async def wanted(self, now: int, limit: int = WANTED_MAX) -> list[RunRecord]:
        if await self._wanted.is_none(now):
            return []
        return await self._file.look(lambda db: self._runs.wanted(db, now, limit))

    # -- journals ---------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        return await self._log.append(batches, self._runs.accept)

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        def read(db: sqlite3.Connection) -> list[bytes]:
            rid, ended = _kept(db, run_id)
            return self._log.read(db, run_id, rid, after, limit, ended=ended)

        return await self._file.look(read)

    async def times(self, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[GroupTime]:
        return await self._file.look(lambda db: self._log.times(db, run_id, _kept(db, run_id)[0], after, limit))

    async def moves(self, run_id: str) -> Moves:
        return await self._file.look(lambda db: read_moves(db, run_id))

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        return await self._file.look(lambda db: find_checkpoint(db, run_id))

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        await self._log.keep_blob(run_id, blob_id, piece, data)

    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        return await self._log.blob(run_id, blob_id, piece)

    async def watch(self, run_id: str) -> None:
        if run_id not in self._log.tails:
            await self._file.look(lambda db: self._news.watch(db, run_id))
            await self._listen()

    async def _listen(self) -> None:
        """Whoever watches is rung; what was committed before that is in what is read next."""
        if self._news.is_watching():
            await self._log.listen()

    async def unwatch(self, run_id: str) -> None:
        self._news.unwatch(run_id)

    async def send(self, run_id: str, command: bytes) -> str:
        return await self._deliver(lambda db: self._runs.keep(db, run_id, command))

    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        news: list[bytes] = []

        def answer(db: sqlite3.Connection) -> str:
            owner = self._runs.answer(db, run_id, seq, command)
            (row,) = db.execute("SELECT session FROM runs WHERE id = ?", (run_id,))
            news[:] = [self._log.note_session(db, row[0])]
            return owner

        owner = await self._deliver(answer)
        self._news.session_changed(*news)
        return owner

    async def commands(self, run_id: str) -> list[bytes]:
        sql = "SELECT command FROM commands WHERE rid = (SELECT rid FROM runs WHERE id = ?)"
        return await self._file.look(lambda db: [row[0] for row in db.execute(sql, (run_id,))])

    async def _deliver(self, keep: Callable[[sqlite3.Connection], str]) -> str:
        """Keep a command; the owner hears it at once if it is this worker, after those that came before."""

        def deliver(db: sqlite3.Connection) -> tuple[str, Sequence[Command], list[str]]:
            owner = keep(db)
            commands = self._news.read_commands(db) if owner == self._log.worker_id else ()
            bells = db.execute("SELECT bell FROM workers WHERE id = ? AND bell > ''", (owner,))
            return owner, commands, [] if commands else [bell for (bell,) in bells]

        owner, commands, bells = await self._log.change(deliver, as_owner=False)
        if commands:
            self._news.tell_commands(commands)
        self._log.ring(bells)
        if not owner:
            self._bell.ring_all()  # it may want somebody
        return owner

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        return await expire(self._file, self._log, self._runs, ended_before, bytes_max)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        def create(db: sqlite3.Connection) -> tuple[SessionRecord, bytes]:
            insert_session(db, session)
            return find_session(db, session.id) or session, self._log.note_session(db, session.id)

        return await self._change_session(create)

    async def get_session(self, session_id: str) -> SessionRecord | None:
        return await self._file.look(lambda db: find_session(db, session_id))

    async def list_sessions(
        self, *, user_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[SessionRecord]:
        return await list_sessions(self._file, user_id=user_id, limit=limit, after=after)

    async def update_state(
        self, session_id: str, changes: dict[str, Any], updated_at: int, bytes_max: int | None = None
    ) -> SessionRecord | None:
        def update(db: sqlite3.Connection) -> tuple[SessionRecord | None, bytes]:
            check_idle(db, session_id)
            session, written = read_session(db, session_id)
            if session is None:
                return None, b""
            session.state = changed_state(session, changes, bytes_max)
            session.updated_at = updated_at
            write_session(db, session, written)
            return session, self._log.note_session(db, session_id)

        return await self._change_session(update)

    async def rename_session(self, session_id: str, title: str) -> SessionRecord | None:
        def rename(db: sqlite3.Connection) -> tuple[SessionRecord | None, bytes]:
            session, written = read_session(db, session_id)
            if session is None:
                return None, b""
            session.title = title
            write_session(db, session, written)
            return session, self._log.note_session(db, session_id)

        return await self._change_session(rename)

    async def _change_session(self, change: Callable[[sqlite3.Connection], tuple[_T, bytes]]) -> _T:
        changed, news = await self._log.change(change, as_owner=False)
        if news:
            self._news.session_changed(news)
        return changed

    async def delete_session(self, session_id: str) -> bool:
        def delete(db: sqlite3.Connection) -> tuple[bool, bytes]:
            check_idle(db, session_id)
            news = self._log.note_session(db, session_id)
            if db.execute("DELETE FROM sessions WHERE id = ?", (session_id,)).rowcount == 0:
                return False, b""
            delete_of_session(db, session_id)
            return True, news

        deleted = await self._change_session(delete)
        if deleted:
            try:
                await drop_events(self._file, self._log)
            except GaplessError as error:  # it is deleted; what is left goes when events expire
                log.warning("store %s: %s", self.path, error)
        return deleted

    async def watch_session(self, session_id: str) -> None:
        await self._file.look(lambda db: self._news.watch_session(db, session_id))
        await self._listen()

    async def unwatch_session(self, session_id: str) -> None:
        self._news.unwatch_session(session_id)

    async def watch_user(self, user_id: str) -> None:
        await self._file.look(lambda db: self._news.watch_user(db, user_id))
        await self._listen()

    async def unwatch_user(self, user_id: str) -> None:
        self._news.unwatch_user(user_id)

    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        return await list_turns(self._file, self._turn_places, session_id, skip)


def _workers(db: sqlite3.Connection) -> tuple[list[tuple[str, int, str]], set[int]]:
    """Return the workers, their beats and processes, and the runs of none of them."""
    rows = db.execute("SELECT id, beat, process FROM workers").fetchall()
    return rows, {rid for (rid,) in db.execute(f"SELECT rid FROM runs WHERE {_ORPHANED}")}


def _kept(db: sqlite3.Connection, run_id: str) -> tuple[int, bool]:
    """Find a run whose events are kept: its row, and whether it has ended. Raises `RunNotFound`, `CursorExpired`."""
    row = db.execute("SELECT rid, status, kept_since FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        raise RunNotFound(f"no run {run_id}", run_id=run_id)
    rid, status, kept_since = row
    ended = status in _ENDED
    if ended and not kept_since:
        raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
    return rid, ended
