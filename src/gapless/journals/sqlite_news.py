"""News of other processes in an SQLite file: events of watched runs, commands for owned ones, runs that are wanted."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gapless.errors import GaplessError
from gapless.journals.contract import EVERYONE, WANTED_MAX, Listener
from gapless.journals.sqlite_file import CHECKPOINT_S, SQLiteFile, scalar
from gapless.journals.sqlite_log import SESSION_NEWS, Log, entries, newest_pos
from gapless.journals.sqlite_records import Runs
from gapless.journals.sqlite_schema import ACTIVE_SQL
from gapless.outage import Outage

__all__ = ["Command", "News"]

LOOK_S = 0.002
"""Two looks at what other processes have committed are at least so far apart, however often the bell is rung."""
POLL_S = 0.01
"""How often is looked while there is an other whose bell, or this one's, cannot be rung."""
POLL_ALONE_S = 0.1
"""And while there is no other, but no bell that one who comes could ring."""
POLL_RUNG_S = 0.25
"""And where all ring: who is killed between its commit and its ring has left something to be found."""

_OVER = f"""WITH watched(rid) AS (VALUES {{watched}}) SELECT watched.rid, runs.rid IS NULL FROM watched
    LEFT JOIN runs ON runs.rid = watched.rid WHERE runs.rid IS NULL OR NOT {ACTIVE_SQL}"""
"""Watched runs that have ended, and whether they are deleted."""

log = logging.getLogger("gapless.sqlite")


class Command(NamedTuple):
    """One that is kept for a run, by its row."""

    id: int
    rid: int
    data: bytes


class News:
    """What one worker has told its listener, and what it looks for."""

    def __init__(self, file: SQLiteFile, journals: Log, runs: Runs) -> None:
        self._file = file
        self._log = journals
        self._runs = runs
        self.listener: Listener | None = None
        self._watched: dict[str, int] = {}
        """Runs of other workers, and their rows' numbers."""
        self.pos = 0
        """The log position up to which the watched runs' events were told."""
        self._sessions: set[str] = set()
        """Sessions that are watched here."""
        self._users: set[str] = set()
        """Users of whose sessions all are."""
        self._missed = False
        """Not everything may be in the log that has come meanwhile: to others this worker was gone."""
        self._session_pos = 0
        """The log position up to which the listener was told of them."""
        self._command = 0
        """The newest command that was handed out, or was for another worker."""
        self._come: set[int] = set()
        """Runs that have come to this worker with commands that may be older."""
        self._wanted: set[int] = set()
        """Runs that want somebody, as far as the listener has been told."""
        self._data_version = -1
        self._due = asyncio.Event()
        self._looked_at = 0.0
        self.alone = False
        """No other worker was there at the last look."""
        self.is_rung = False
        """All who were there at the last look, this one too, had bells that can be rung."""

    def begin(self, db: sqlite3.Connection, listener: Listener) -> None:
        """Tell a listener what comes from now on; also what came since the last time where runs are watched."""
        self.listener = listener
        self._missed = self.is_watching()
        if not self._watched:
            self.pos = newest_pos(db)
        if not self._sessions and not self._users:
            self._session_pos = newest_pos(db)
        self._command = scalar(db, "SELECT coalesce(max(cid), 0) FROM commands")
        self._come.clear()
        self._look_anyway()

    def watch(self, db: sqlite3.Connection, run_id: str) -> None:
        """Watch a run, unless it has ended or is not there."""
        row = db.execute(f"SELECT rid FROM runs WHERE id = ? AND {ACTIVE_SQL}", (run_id,)).fetchone()
        if row is not None:
            if not self._watched:
                self.pos = newest_pos(db)
            self._watched[run_id] = row[0]

    def unwatch(self, run_id: str) -> None:
        """Watch a run no longer."""
        self._watched.pop(run_id, None)

    def watch_session(self, db: sqlite3.Connection, session_id: str) -> None:
        """Tell of that session's changes, others' and this worker's."""
        if not self._sessions and not self._users:
            self._session_pos = newest_pos(db)
        self._sessions.add(session_id)

    def unwatch_session(self, session_id: str) -> None:
        """Tell of the session no longer."""
        self._sessions.discard(session_id)

    def watch_user(self, db: sqlite3.Connection, user_id: str) -> None:
        """Tell of changes of all of the user's sessions, others' and this worker's."""
        if not self._sessions and not self._users:
            self._session_pos = newest_pos(db)
        self._users.add(user_id)

    def unwatch_user(self, user_id: str) -> None:
        """Tell of the user's sessions no longer."""
        self._users.discard(user_id)

    def session_changed(self, news: bytes) -> None:
        """Tell the listener of what `note_session` has noted, if it watches the session or the user."""
        if self.listener is None or not (self._sessions or self._users):
            return
        user_id, _, session_id = news.decode().partition("\n")
        if session_id in self._sessions:
            self.listener.on_session(session_id)
        for watched in (user_id, EVERYONE):
            if watched in self._users:
                self.listener.on_user_session(watched, session_id)

    def hear_kept(self, rids: Iterable[int]) -> None:
        """Look, soon, for all commands of runs that have come to this worker: those that nobody has taken are there."""
        self._come.update(rids)
        self._look_anyway()

    def is_watching(self) -> bool:
        """Whether there is anything of others that the listener is to be told of as it comes."""
        return bool(self._watched or self._sessions or self._users)

    def note_others(self, some: bool) -> None:
        """Hear that there are other workers, or none: who could not ring this one's bell is found so."""
        if some and self.alone:
            self._look_anyway()
        self.alone = not some

    def look_soon(self) -> None:
        """Look for what others have committed: the bell was rung."""
        self._due.set()

    def _look_anyway(self) -> None:
        self._data_version = -1
        self._due.set()

    async def keep_looking(self) -> None:
        """Look for what other processes committed, for as long as the store is open."""
        outage = Outage(log, f"store {self._file.path}: looking again")
        while True:
            await self._pause()
            try:
                version = scalar(self._file.connection(), "PRAGMA data_version")
                if version != self._data_version:
                    self._data_version = version
                    await self._file.look(self._read)
                    outage.over()
            except Exception as error:  # whatever it is, followers here hear nothing while nobody looks
                outage.failed(error, known=isinstance(error, sqlite3.Error | GaplessError))
                self._data_version = -1
                await asyncio.sleep(CHECKPOINT_S)

    async def _pause(self) -> None:
        """Wait until it is time to look: the bell was rung, or might not have been."""
        loop = asyncio.get_running_loop()
        if (rest_s := self._looked_at + LOOK_S - loop.time()) > 0:
            await asyncio.sleep(rest_s)
        if not self._due.is_set() and not (self.alone and self.is_rung):
            poll_s = POLL_RUNG_S if self.is_rung else POLL_ALONE_S if self.alone else POLL_S
            timer = loop.call_later(poll_s, self._due.set)
            try:
                await self._due.wait()
            finally:
                timer.cancel()
        else:
            await self._due.wait()
        self._due.clear()
        self._looked_at = loop.time()

    def _read(self, db: sqlite3.Connection) -> None:
        bells = dict(db.execute("SELECT id, bell FROM workers"))
        self.alone = not bells.keys() - {self._log.worker_id}
        self.is_rung = all(bells.values()) and self._log.worker_id in bells
        self._read_events(db)
        self._read_sessions(db)
        self._missed = False
        self.tell_commands(self.read_commands(db))
        self._read_wanted(db)

    def _read_events(self, db: sqlite3.Connection) -> None:
        if not self._watched or self.listener is None:
            return
        newest = newest_pos(db)
        skipped = self._missed or scalar(db, "SELECT coalesce(min(pos), 0) FROM log") > self.pos + 1
        run_ids = {rid: run_id for run_id, rid in self._watched.items()}
        for _, rid, seq, events, _ in list(entries(db, run_ids, after=self.pos)):
            self.listener.on_events(run_ids[rid], seq, events, False)
        self.pos = newest
        over = dict(db.execute(_OVER.format(watched=",".join(f"({rid})" for rid in run_ids))).fetchall())
        for rid in run_ids if skipped else over:
            if over.get(rid):  # deleted, maybe before its end was looked at
                self._watched.pop(run_ids[rid], None)
                self.listener.on_events(run_ids[rid], 0, [], True)
                continue
            for run in self._runs.select(db, "rid = ?", rid):
                self.listener.on_events(run.id, run.last_seq + 1, [], run.status.ended)
                if run.status.ended:
                    self._watched.pop(run.id, None)

    def _read_sessions(self, db: sqlite3.Connection) -> None:
        if not self._sessions and not self._users:
            return
        skipped = self._missed or scalar(db, "SELECT coalesce(min(pos), 0) FROM log") > self._session_pos + 1
        query = "SELECT DISTINCT data FROM log WHERE pos > ? AND runs = ?"
        changed = [data for (data,) in db.execute(query, (self._session_pos, SESSION_NEWS))]
        self._session_pos = newest_pos(db)
        if self.listener is not None and skipped:
            for session_id in tuple(self._sessions):
                self.listener.on_session(session_id)
            for user_id in tuple(self._users):
                self.listener.on_user_session(user_id, None)
        else:
            for news in changed:
                self.session_changed(news)

    def read_commands(self, db: sqlite3.Connection) -> list[Command]:
        """Find the commands for runs here that were not handed out, in their order."""
        come = ",".join(map(str, self._come))
        sql = f"SELECT cid, rid, command FROM commands WHERE cid > ? OR rid IN ({come}) ORDER BY cid"
        return [Command(*row) for row in db.execute(sql, (self._command,))]

    def tell_commands(self, commands: Sequence[Command]) -> None:
        """Hand them out. They stay where they are until they are taken."""
        self._come.clear()
        if not commands or self.listener is None:
            return
        self._command = max(self._command, commands[-1].id)
        run_ids = {tail.rid: run_id for run_id, tail in self._log.tails.items()}
        for command in commands:
            if command.rid in run_ids:
                self.listener.on_command(run_ids[command.rid], command.data, command.id)

    def _read_wanted(self, db: sqlite3.Connection) -> None:
        """Tell of runs that want somebody since the last look."""
        sql = "SELECT rid FROM runs WHERE wanted_at = 0 LIMIT ?"
        wanted = {rid for (rid,) in db.execute(sql, (WANTED_MAX,))}
        if not wanted <= self._wanted and self.listener is not None:
            self.listener.on_wanted()
        self._wanted = wanted
