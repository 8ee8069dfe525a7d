"""The journals in an SQLite file: the log of all runs' newest events, and the segments by which a run is read.

A run's events scattered by (run, position) would cost one page write each (measured: 10 µs per event). So what all
runs append at once goes to the end of one table, `log`, as one row; and every `SEGMENT_EVENTS` events, and at its end,
a run's part of it is written again as one row of `segments`, by which it is read. The log's start is dropped once it is
covered. A crash loses nothing: what is in the log and in no segment is read from the log.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from gapless.errors import GaplessError, RunNotFound
from gapless.journals.contract import READ_BYTES_MAX, Append, GroupTime, WorkerFenced
from gapless.journals.sqlite_bells import Bell
from gapless.journals.sqlite_file import SQLiteFile, blob, immediately, scalar
from gapless.journals.sqlite_times import pack_times, unpack_times

__all__ = ["SESSION_NEWS", "Entry", "Log", "Tail", "entries", "newest_pos", "session_news"]

SEGMENT_EVENTS = 256
SEGMENT_BYTES = 64 * 1024
"""A run's unsealed events become a segment at either."""
SESSION_NEWS = "[[0,0,1]]"
"""In the place of runs in a row of the log: that a session has changed, whose id is the data."""
LOG_ROWS_KEPT = 1024
"""Newest log rows that are kept although sealed, for followers in other processes that are about to read them."""
LOG_ROWS_MAX = 8 * LOG_ROWS_KEPT
"""A run that holds the log's start for half of this is sealed early. More makes larger segments, less a shorter search
for the events of another process's run."""
LOG_BYTES_MAX = 64 * 1024 * 1024
"""One process's part of the log is sealed and dropped at this size, however few rows it has."""
RUNS_SOUGHT_MAX = 8
"""So many runs are sought in a row's list by SQLite; for more of them all rows are read."""

_INSERT_ALONE = """INSERT INTO log(runs, data, at) SELECT ?1, ?2, ?3 WHERE EXISTS(SELECT 1 FROM workers WHERE id = ?4)
    AND NOT EXISTS(SELECT 1 FROM workers WHERE listens AND id != ?4)"""
"""What `check_lease` and a row of the log are together, where nobody is to be rung."""

_encode_runs = msgspec.json.Encoder().encode
_decode_runs = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
"""In C, for all runs of a row at once: an f-string for each took 1,500 instructions."""

log = logging.getLogger("gapless.sqlite")
_T = TypeVar("_T")
UpdateRun: TypeAlias = Callable[[sqlite3.Connection, int, Append, int], bytes | None]


class Tail:
    """An owned run's end: what is in the log and not yet in a segment."""

    __slots__ = ("first", "first_pos", "rid", "sealed_bytes", "size", "times", "unsealed")

    def __init__(self, rid: int, sealed: int = 0, sealed_bytes: int = 0) -> None:
        self.rid = rid
        self.first = sealed + 1
        """Position of the first event that is in no segment, or will be the first."""
        self.sealed_bytes = sealed_bytes
        """Bytes of the events that are, and of the run's blobs."""
        self.unsealed: list[bytes] = []
        self.times: list[GroupTime] = []
        """Of the groups in it."""
        self.size = 0
        """Bytes of what is not."""
        self.first_pos = 0
        """The log's row where it begins, if there is something in it."""

    @property
    def last(self) -> int:
        """Position of the newest event."""
        return self.first + len(self.unsealed) - 1

    def sealed(self) -> None:
        self.first += len(self.unsealed)
        self.sealed_bytes += self.size
        self.unsealed, self.times, self.size = [], [], 0


class _Group:
    """What is written of batches, and changes what is known here of their runs once it is accepted."""

    __slots__ = (
        "accepted",
        "at",
        "begun",
        "bells",
        "beside",
        "bytes",
        "news",
        "pieces",
        "pos",
        "refused",
        "runs",
        "sealed",
    )

    def __init__(self, pos: int) -> None:
        self.pos = pos
        """The log's row, or one that it had before where there is nothing to write."""
        self.runs: list[tuple[int, int, int]] = []
        self.pieces: list[bytes] = []
        self.at = 0
        """What the row has."""
        self.bytes = 0
        self.refused: list[str] = []
        self.accepted: list[tuple[Tail, Append, int]] = []
        """Each with the size that the tail has then."""
        self.begun: list[Tail] = []
        """Those that had nothing."""
        self.beside: list[tuple[Tail, Append, int]] = []
        """Those that change more than a journal, each with the size that it has then."""
        self.sealed: list[tuple[Tail, Append]] = []
        self.bells: list[str] = []
        """Of those who listen."""
        self.news: dict[bytes, None] = {}

    def row(self, *, sealed: bool = False) -> tuple[str, bytearray, int | None] | None:
        """Make the log's row, perhaps with what is `sealed` at once; None where there is nothing for one."""
        runs, pieces = self.runs, self.pieces
        if sealed and self.sealed:
            late = [(tail, batch) for tail, batch in self.sealed if batch.events]
            runs = runs + [(tail.rid, batch.first_seq, len(batch.events)) for tail, batch in late]
            pieces = pieces + [b"\n".join(batch.events) for _, batch in late]
        if not runs:
            return None
        data = blob(b"\n".join(pieces))
        self.bytes = len(data)
        return _encode_runs(runs).decode(), data, self.at or None


class Entry(NamedTuple):
    """What one run has in a row of the log: that row's position and time, the run's own row, and its events from `seq`
    on."""

    pos: int
    rid: int
    seq: int
    events: list[bytes]
    at: int | None


class Log:
    """The journals as one worker has them: it appends to those of its own runs and reads all.

    Fencing: whoever takes a dead worker's runs deletes its row in `workers` in the same transaction; every append
    checks its own worker's row in its transaction."""

    def __init__(self, file: SQLiteFile, bell: Bell) -> None:
        self._file = file
        self._bell = bell
        self.worker_id = ""
        self.tails: dict[str, Tail] = {}
        """The runs that the worker owns."""
        self.on_session: Callable[[bytes], None] = lambda news: None
        """Told of sessions that this worker has changed."""
        self.is_watching: Callable[[], bool] = lambda: False
        """Whether there is something of others here that is watched."""
        self.listens = False
        """The worker's row says that others are to ring for whatever they commit."""
        self._is_heard = True
        """Some other listens, as the transaction under way has found: what only they read is not written for nobody."""
        self._unreached: list[str] = []
        """Bells that could not be rung, which is not yet noted in the file."""
        self._trimmed = 0
        """Newest log position at the last trim, and the bytes written since; at the last renewal."""
        self._bytes = 0
        self._renewed = 0

    def check_lease(self, db: sqlite3.Connection) -> list[str]:
        """Raise `WorkerFenced` when others have taken the worker's runs: they are read as anyone else's from now on.
        Gives the bells of the others who listen."""
        rows = db.execute("SELECT id, bell FROM workers WHERE id = ? OR listens", (self.worker_id,)).fetchall()
        self._is_heard = len(rows) > 1
        if not self._is_heard and rows and rows[0][0] == self.worker_id:  # as mostly; this is done for each group
            return []
        bells = dict(rows)
        if bells.pop(self.worker_id, None) is None:
            self.tails.clear()
            raise WorkerFenced(self.worker_id)
        return [bell for bell in bells.values() if bell]

    async def change(self, work: Callable[[sqlite3.Connection], _T], *, as_owner: bool = True) -> _T:
        """Run `work` in one transaction, and ring those who listen once it is accepted. Raises `WorkerFenced` where it
        is for the owner of runs to do."""

        def change(db: sqlite3.Connection) -> tuple[_T, list[str]]:
            if as_owner:
                bells = self.check_lease(db)
            else:
                rows = db.execute("SELECT bell FROM workers WHERE listens AND id != ?", (self.worker_id,)).fetchall()
                self._is_heard = bool(rows)
                bells = [bell for (bell,) in rows if bell]
            return work(db), bells

        changed, bells = await self._file.transact(change)
        if bells:
            self.ring(bells)
        return changed

    def ring(self, bells: Iterable[str]) -> None:
        """Ring some others. Who cannot be rung from here is told so with the next renewal, and looks for itself."""
        self._unreached += self._bell.ring(bells)

    async def listen(self) -> None:
        """Have others ring for whatever they commit, from now on and as long as something is watched."""

        def listen(db: sqlite3.Connection) -> bool:
            return db.execute("UPDATE workers SET listens = 1 WHERE id = ?", (self.worker_id,)).rowcount > 0

        if not self.listens:
            self.listens = await self._file.transact(listen)

    # -- writing ----------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append], update_run: UpdateRun) -> list[str]:
        """Accept batches as `Store.append` does. `update_run` writes what a batch changes beside its run's journal, in
        the same transaction; it is told the run's row and how many bytes the journal has then, and returns the news of
        its session where that is some."""
        group = await self._file.write(lambda db: self._write(db, batches, update_run))
        if group.bells:
            self.ring(group.bells)
        for tail in group.begun:
            tail.first_pos = group.pos
        for tail, batch, size in group.accepted:
            tail.unsealed += batch.events
            tail.size = size
            if batch.at and batch.events:
                tail.times.append(GroupTime(batch.first_seq, batch.at))
        for tail, batch in group.sealed:
            tail.sealed()
            if batch.end is not None:
                del self.tails[batch.run_id]
        for news in group.news:
            self.on_session(news)
        self._bytes += group.bytes
        if group.pos - self._trimmed > LOG_ROWS_KEPT or self._bytes > LOG_BYTES_MAX:
            await self._trim_in_time(group.pos)
        return group.refused

    def _write(self, db: sqlite3.Connection, batches: Sequence[Append], update_run: UpdateRun) -> _Group:
        """Write batches: most by a row of the log and nothing else, which is one statement, others in a transaction."""
        group = self._gather(batches)
        if group.beside or group.sealed or self._is_heard or not self._write_alone(db, group):
            immediately(db, lambda db: self._write_all(db, group, update_run))
        return group

    def _gather(self, batches: Sequence[Append]) -> _Group:
        """Make one row of the log of batches, but for those whose runs are sealed by them."""
        group, tails = _Group(self._trimmed), self.tails
        accepted = group.accepted
        for batch in batches:
            tail = tails.get(batch.run_id)
            if tail is None:
                group.refused.append(batch.run_id)
                continue
            events, first_seq, count = batch.events, batch.first_seq, len(tail.unsealed)
            assert first_seq == tail.first + count, "a journal has no holes"
            piece = b"\n".join(events)  # of one, as most are, nothing is made
            size = tail.size + len(piece)
            accepted.append((tail, batch, size))
            if not count:
                group.begun.append(tail)
            if batch.end is not None or batch.status is not None or batch.checkpoint is not None or batch.taken:
                group.beside.append((tail, batch, tail.sealed_bytes + size))
            if count + len(events) >= SEGMENT_EVENTS or size >= SEGMENT_BYTES or batch.end is not None:
                group.sealed.append((tail, batch))
            elif events:
                group.runs.append((tail.rid, first_seq, len(events)))
                group.pieces.append(piece)
                group.at = batch.at or group.at
        return group

    def _write_alone(self, db: sqlite3.Connection, group: _Group) -> bool:
        """Write a group's row. Returns whether that is written: not where the lease is lost, or somebody to be rung."""
        row = group.row()
        if row is None:
            return False
        cursor = db.execute(_INSERT_ALONE, (*row, self.worker_id))
        group.pos = cursor.lastrowid or 0
        return cursor.rowcount > 0

    def _write_all(self, db: sqlite3.Connection, group: _Group, update_run: UpdateRun) -> None:
        """Write a group's row, the segments that it fills, and what changes beside."""
        group.bells = self.check_lease(db)
        for tail, batch, size in group.beside:
            news = update_run(db, tail.rid, batch, size)
            if news is not None:
                group.news[news] = None
        for one in group.news:
            self._note(db, one)
        row = group.row(sealed=self._is_heard)
        if row is not None:
            group.pos = db.execute("INSERT INTO log(runs, data, at) VALUES(?, ?, ?)", row).lastrowid or 0
        if group.sealed:
            rows = [_segment(tail, batch) for tail, batch in group.sealed if tail.unsealed or batch.events]
            db.executemany("INSERT INTO segments VALUES(?, ?, ?, ?, ?)", rows)

    async def _trim_in_time(self, newest: int) -> None:
        large = self._bytes > LOG_BYTES_MAX
        self._trimmed, self._bytes = newest, 0
        try:
            await self.trim(newest, *((newest, 0) if large else (newest - LOG_ROWS_MAX // 2, LOG_ROWS_KEPT)))
        except (GaplessError, WorkerFenced) as error:  # the events are accepted; the next round trims
            log.warning("store %s: could not trim its log: %s", self._file.path, error)

    async def trim(self, newest: int, before: int, kept: int) -> None:
        """Drop the part of the log that every worker has sealed, up to the newest `kept` rows. This one's runs are
        sealed that hold the log below the position `before`."""

        def drop(db: sqlite3.Connection) -> list[Tail]:
            self.check_lease(db)
            laggards = self._let_go(db, before)
            low = min(scalar(db, "SELECT min(low) FROM workers"), newest - kept)
            db.execute("DELETE FROM log WHERE pos < ?", (low,))
            return laggards

        for tail in await self._file.transact(drop):
            tail.sealed()

    async def renew(self) -> None:
        """Count the worker's beat up, and let go of what it holds of the log since the last time."""

        def beat(db: sqlite3.Connection) -> tuple[list[Tail], bool]:
            self.check_lease(db)
            unreached = [(bell,) for bell in self._unreached]
            db.executemany("UPDATE workers SET bell = '' WHERE bell = ?", unreached)
            listens = self.is_watching()
            db.execute("UPDATE workers SET beat = beat + 1, listens = ? WHERE id = ?", (listens, self.worker_id))
            newest = newest_pos(db)
            laggards = self._let_go(db, min(self._renewed, newest - LOG_ROWS_KEPT))
            self._renewed = newest
            return laggards, listens

        laggards, self.listens = await self._file.transact(beat, lasting=False)
        self._unreached.clear()
        for tail in laggards:
            tail.sealed()

    def _let_go(self, db: sqlite3.Connection, before: int) -> list[Tail]:
        """Seal the runs that hold the log below a position, and note how far this worker still needs the log."""
        laggards, low = [], newest_pos(db) + 1
        for tail in self.tails.values():
            if tail.unsealed:
                if tail.first_pos < before:
                    laggards.append(tail)
                else:
                    low = min(low, tail.first_pos)
        _seal(db, laggards)
        db.execute("UPDATE workers SET low = ? WHERE id = ?", (low, self.worker_id))
        return laggards

    def seal_all(self, db: sqlite3.Connection) -> None:
        """Leave nothing behind that only this worker's row keeps in the log."""
        _seal(db, self.tails.values())

    def seal_left(self, db: sqlite3.Connection, rid: int) -> None:
        """Keep the end of a run whose owner is dead: no worker's row keeps it in the log any more."""
        _seal(db, [self.load_tail(db, rid)])

    def seal(self, db: sqlite3.Connection, tail: Tail) -> None:
        """Leave nothing of a run in the log alone: it is to be nobody's, and no worker's row would keep it there."""
        _seal(db, [tail])

    def load_sealed(self, db: sqlite3.Connection, rid: int) -> Tail:
        """Read the end of a run that was nobody's: all of it is in segments."""
        return Tail(rid, _sealed(db, rid), _sealed_bytes(db, rid))

    def load_tail(self, db: sqlite3.Connection, rid: int) -> Tail:
        """Read the end of a run that was another worker's, and hold the log for it: that one's row no longer does."""
        tail = self.load_sealed(db, rid)
        for pos, _, seq, events, at in entries(db, [rid]):
            if seq < tail.first:
                continue
            if not tail.unsealed:
                tail.first_pos = pos
            tail.unsealed += events
            tail.times += [GroupTime(seq, at)] if at else []
            tail.size += sum(map(len, events))
        if tail.unsealed:
            db.execute("UPDATE workers SET low = min(low, ?) WHERE id = ?", (tail.first_pos, self.worker_id))
        return tail

    def drop_part(self, db: sqlite3.Connection, rid: int) -> bool:
        """Drop a run's first segment, which may be as long as a batch, or a piece of a blob; whether there was one."""
        first = "SELECT min(seq) FROM segments WHERE rid = ?1"
        dropped = db.execute(f"DELETE FROM segments WHERE rid = ?1 AND seq = ({first})", (rid,))
        if not dropped.rowcount:
            first = "SELECT rowid FROM blobs WHERE rid = ? LIMIT 1"
            dropped = db.execute(f"DELETE FROM blobs WHERE rowid = ({first})", (rid,))
        return dropped.rowcount > 0

    # -- news of sessions -------------------------------------------------------------------------------------------

    def note_session(self, db: sqlite3.Connection, session_id: str) -> bytes:
        """Leave word for other processes that a session has changed, in the transaction that changes it, and before it
        deletes it. Returns the news, for the listener here."""
        row = db.execute("SELECT user FROM sessions WHERE id = ?", (session_id,)).fetchone()
        return self.note_session_of(db, row[0] if row else "", session_id)

    def note_session_of(self, db: sqlite3.Connection, user_id: str, session_id: str) -> bytes:
        """Leave the same word where it is known whose session it is."""
        news = session_news(user_id, session_id)
        self._note(db, news)
        return news

    def _note(self, db: sqlite3.Connection, news: bytes) -> None:
        if self._is_heard:
            db.execute("INSERT INTO log(runs, data) VALUES(?, ?)", (SESSION_NEWS, news))

    # -- blobs ------------------------------------------------------------------------------------------------------

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        """Keep a piece of a blob as `Store.keep_blob` does."""
        tail = self.tails.get(run_id)
        if tail is None:
            raise RunNotFound(f"run {run_id} is not this worker's", run_id=run_id)

        def keep(db: sqlite3.Connection) -> int:
            self.check_lease(db)
            insert = "INSERT INTO blobs VALUES(?, ?, ?, ?) ON CONFLICT DO NOTHING"
            return db.execute(insert, (tail.rid, blob_id, piece, data)).rowcount

        try:
            if await self._file.transact(keep):
                tail.sealed_bytes += len(data)
        except WorkerFenced:
            raise RunNotFound(f"run {run_id} is another worker's", run_id=run_id) from None

    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        """Read a piece of a blob as `Store.blob` does."""
        of_run = "rid = (SELECT rid FROM runs WHERE id = ? AND kept_since IS NOT 0)"
        sql = f"SELECT data FROM blobs WHERE {of_run} AND blob = ? AND piece = ?"
        rows = await self._file.query(sql, run_id, blob_id, piece)
        return bytes(rows[0][0]) if rows else None

    # -- reading ----------------------------------------------------------------------------------------------------

    def last_seq(self, db: sqlite3.Connection, run_id: str, rid: int, owner: str) -> int:
        """Give the position of an active run's newest event."""
        if not owner:
            return _sealed(db, rid)
        tail = self.tails.get(run_id)
        if tail is not None and owner == self.worker_id:  # else it was taken away, which is not known here yet
            return tail.last
        newest = next(entries(db, [rid], order="DESC"), None)
        return max(0 if newest is None else newest.seq + len(newest.events) - 1, _sealed(db, rid))

    def read(
        self, db: sqlite3.Connection, run_id: str, rid: int, after: int, limit: int, *, ended: bool
    ) -> list[bytes]:
        """Read as `Store.read` does."""
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
        if ended:
            return events
        tail = self.tails.get(run_id)
        if tail is not None:
            events += tail.unsealed[max(0, after + len(events) + 1 - tail.first) :]
        else:
            for entry in entries(db, [rid]):
                events += entry.events[max(0, after + len(events) + 1 - entry.seq) :]
        return events[:limit]

    def times(self, db: sqlite3.Connection, run_id: str, rid: int, after: int, limit: int) -> list[GroupTime]:
        """Read as `Store.times` does."""
        times: list[GroupTime] = []
        rows = db.execute(
            "SELECT seq, n, times FROM segments WHERE rid = ? AND times IS NOT NULL ORDER BY seq", (rid,)
        )  # without their data: a thousand segments of a long run are read in a millisecond or two
        for seq, n, packed in rows:
            if seq + n > after:
                times += (time for time in unpack_times(seq, packed) if time.seq > after)
            if len(times) >= limit:
                return times[:limit]
        tail = self.tails.get(run_id)
        if tail is not None:
            newest = tail.times
        else:
            sealed = _sealed(db, rid)
            newest = [GroupTime(e.seq, e.at) for e in entries(db, [rid]) if e.at and e.seq > sealed]
        times += (time for time in newest if time.seq > after)
        return times[:limit]


def session_news(user_id: str, session_id: str) -> bytes:
    """Make the news that a session has changed: the user, who is one line, and the session."""
    return f"{user_id}\n{session_id}".encode()


def newest_pos(db: sqlite3.Connection) -> int:
    """Give the position of the log's newest row, which is never dropped: SQLite would count from the one before it."""
    return scalar(db, "SELECT coalesce(max(pos), 0) FROM log")


def entries(db: sqlite3.Connection, rids: Collection[int], *, after: int = 0, order: str = "ASC") -> Iterator[Entry]:
    """Read what these runs have in the log past a position, row by row in this order.

    A row's `runs` is `[[RID,SEQ,N],[RID,SEQ,N],…]`, in the order in which their events follow each other in its
    `data`."""
    sought = " OR ".join(f"instr(runs, '[{rid},')" for rid in rids) if len(rids) <= RUNS_SOUGHT_MAX else "1"
    sql = f"SELECT pos, runs, data, at FROM log WHERE pos > ? AND ({sought}) ORDER BY pos {order}"
    for pos, runs, data, time in db.execute(sql, (after,)):
        events, at = data.split(b"\n"), 0
        for rid, seq, n in _decode_runs(runs):
            if rid in rids:
                yield Entry(pos, rid, seq, events[at : at + n], time)
            at += n


def _seal(db: sqlite3.Connection, tails: Iterable[Tail]) -> None:
    """Write what is only in the log as segments."""
    for tail in tails:
        if tail.unsealed:
            db.execute("INSERT INTO segments VALUES(?, ?, ?, ?, ?)", _segment(tail))


def _segment(tail: Tail, batch: Append | None = None) -> tuple[int, int, int, bytearray, bytearray | None]:
    """Make the row of a segment with what a run has unsealed, and perhaps a batch behind it."""
    first, events, times = tail.first, tail.unsealed, tail.times
    if batch is not None:
        events = events + batch.events
        times = [*times, GroupTime(batch.first_seq, batch.at)] if batch.at and batch.events else times
    return tail.rid, first, len(events), blob(b"\n".join(events)), blob(pack_times(first, times)) if times else None


def _sealed(db: sqlite3.Connection, rid: int) -> int:
    """Position of the newest event in a segment."""
    row = db.execute("SELECT seq + n - 1 FROM segments WHERE rid = ? ORDER BY seq DESC LIMIT 1", (rid,)).fetchone()
    return 0 if row is None else int(row[0])


def _sealed_bytes(db: sqlite3.Connection, rid: int) -> int:
    """How many bytes a run's segments and blobs have."""
    size = "SELECT coalesce(sum(length(data)), 0) FROM"
    return scalar(db, f"SELECT ({size} segments WHERE rid = ?1) + ({size} blobs WHERE rid = ?1)", rid)
