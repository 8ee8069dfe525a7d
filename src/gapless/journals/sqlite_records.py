"""The records in an SQLite file: rows of runs and sessions, read and written within a transaction of the caller's."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec

from gapless.errors import RunNotFound, StoreCorrupt
from gapless.journals.contract import Append, Checkpoint, NotWaiting
from gapless.journals.sqlite_file import blob
from gapless.journals.sqlite_log import Log, session_news
from gapless.journals.sqlite_moves import add_arrival, add_move
from gapless.journals.sqlite_outbox import add_notices
from gapless.journals.sqlite_schema import ACTIVE_SQL, next_number, note_numbers
from gapless.moves import TAKEN_OVER, Move
from gapless.records import (
    ACTIVE,
    RunEnd,
    RunRecord,
    RunStatus,
    SessionRecord,
    Turn,
    decode_run,
    decode_session,
    ended_run,
    listed_run,
    now_ms,
    rewrite,
    session_after,
    session_busy,
)
from gapless.sought import Glimpse, glimpse_of

__all__ = [
    "ANOTHER_VERSION",
    "Runs",
    "check_idle",
    "decode_turn",
    "delete_of_session",
    "find_checkpoint",
    "find_session",
    "insert_session",
    "read_session",
    "write_session",
]

ANOTHER_VERSION = " (is it of another version of Gapless?)"

_encode = msgspec.json.Encoder().encode
log = logging.getLogger("gapless.sqlite")
decode_turn = msgspec.json.Decoder(Turn).decode
_INSERT_RUN = (
    "INSERT INTO runs(rid, id, session, user, status, owner, record) "
    f"VALUES({next_number('runs', 'rid')}, ?, ?, ?, ?, ?, ?)"
)
_INSERT_TURN = f"INSERT INTO turns VALUES({next_number('turns', 'tid')}, ?, ?)"
_COLUMNS = "rid, id, session, user, status, owner, takeovers, record"
_SELECT_ACTIVE = f"SELECT id FROM runs WHERE session = :session AND {ACTIVE_SQL} LIMIT 1"
_SELECT_BEFORE = f"""SELECT EXISTS(SELECT 1 FROM runs WHERE id = :run),
    (SELECT user FROM sessions WHERE id = :session), ({_SELECT_ACTIVE})"""
_SELECT_ENDING = """SELECT user, session, record, (SELECT record FROM sessions WHERE id = runs.session),
    EXISTS(SELECT 1 FROM commands WHERE commands.rid = runs.rid),
    EXISTS(SELECT 1 FROM checkpoints WHERE checkpoints.rid = runs.rid) FROM runs WHERE rid = ?"""
"""A run with what goes or changes when it ends: in one statement, as each costs more than what it looks at."""


class Runs:
    """The table of runs. The log says where the journals of those are that have not ended."""

    def __init__(self, journals: Log) -> None:
        self._log = journals
        self.unreadable: set[int] = set()
        """Rows whose records this version cannot read."""

    def find(self, db: sqlite3.Connection, run_id: str) -> RunRecord | None:
        """Find one run by its id. Raises `StoreCorrupt` where its record cannot be read."""
        return self.read(db, run_id)[0]

    def read(self, db: sqlite3.Connection, run_id: str) -> tuple[RunRecord | None, bytes]:
        """Find it with its record as it is written. Raises `StoreCorrupt`."""
        row = db.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
        try:
            return (None, b"") if row is None else (self._record(db, row), row[-1])
        except ValueError as error:
            raise _unreadable(run_id) from error

    def select(self, db: sqlite3.Connection, where: str, *values: object) -> list[RunRecord]:
        """Read the runs that a condition is true of, without those whose records cannot be read."""
        found = []
        for row in db.execute(f"SELECT {_COLUMNS} FROM runs WHERE {where}", values):
            try:
                found.append(self._record(db, row))
            except ValueError:
                self._note_unreadable(row[0], row[1])
        return found

    def glimpse(self, db: sqlite3.Connection, rid: int, record: bytes) -> Glimpse | RunRecord | None:
        """Read of a run's record what it is found by; None where this version cannot, which is said once."""
        try:
            return glimpse_of(record)
        except ValueError:
            self._note_unreadable(rid, *db.execute("SELECT id FROM runs WHERE rid = ?", (rid,)).fetchone())
            return None

    def _note_unreadable(self, rid: int, run_id: str) -> None:
        if rid not in self.unreadable:
            self.unreadable.add(rid)
            log.warning("run %s: its record cannot be read%s; it is left out here", run_id, ANOTHER_VERSION)

    def listed(self, db: sqlite3.Connection, where: str, *values: object) -> Iterator[tuple[int, RunRecord | None]]:
        """Read the runs that a condition is true of, one after another, as lists have them, each with its row's number;
        None for one whose record cannot be read."""
        for row in db.execute(f"SELECT {_COLUMNS} FROM runs WHERE {where}", values):
            try:
                yield row[0], self._record(db, row, listed_run)
            except ValueError:
                self._note_unreadable(row[0], row[1])
                yield row[0], None

    def of_session(
        self, db: sqlite3.Connection, session_id: str, after: str | None, limit: int, *, active: bool
    ) -> list[RunRecord]:
        """Read as `Store.session_runs` does."""
        place = 0
        if after is not None:
            row = db.execute("SELECT rid FROM runs WHERE id = ? AND session = ?", (after, session_id)).fetchone()
            if row is None:
                raise RunNotFound(f"no run {after} in session {session_id}", run_id=after)
            place = row[0]
        where = f"session = ? AND rid > ?{f' AND {ACTIVE_SQL}' if active else ''} ORDER BY rid LIMIT ?"
        return [run for _, run in self.listed(db, where, session_id, place, limit) if run is not None]

    def oldest_active(self, db: sqlite3.Connection, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find as `Store.active_runs` does."""
        oldest = f"SELECT min(rid) FROM runs WHERE {ACTIVE_SQL} AND session IN"
        where = f"rid IN ({oldest} (SELECT value FROM json_each(?)) GROUP BY session)"
        found = self.listed(db, where, _encode(tuple(session_ids)).decode())
        return {run.session_id: run for _, run in found if run is not None}

    def _record(
        self, db: sqlite3.Connection, row: Sequence[Any], decode: Callable[[bytes], RunRecord] = decode_run
    ) -> RunRecord:
        rid, run_id, _, _, status, owner, takeovers, data = row
        run = decode(data)
        run.status, run.owner, run.takeovers = RunStatus(status), owner, takeovers
        if run.status in ACTIVE:
            run.last_seq = self._log.last_seq(db, run_id, rid, owner)
        return run

    def before(self, db: sqlite3.Connection, run: RunRecord) -> tuple[RunRecord | None, str | None, str | None]:
        """Look where a run is to be created: the one that has its id, the user of its session, and one of the session's
        active runs, where there are such."""
        known, user, active = db.execute(_SELECT_BEFORE, {"run": run.id, "session": run.session_id}).fetchone()
        return self.find(db, run.id) if known else None, user, active

    def insert(self, db: sqlite3.Connection, run: RunRecord) -> int:
        """Add a new run; its row's number."""
        cursor = db.execute(
            _INSERT_RUN,
            (run.id, run.session_id, run.user_id, run.status.value, run.owner, blob(_encode(run))),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update(self, db: sqlite3.Connection, run: RunRecord, written: bytes, size: int = 0) -> None:
        """Write a run's record over the one that was read in this transaction, and how many bytes its events have if it
        has ended."""
        kept_since = None if run.expired else run.ended_at
        db.execute(
            "UPDATE runs SET status = ?, record = ?, kept_since = ?, kept_bytes = ? WHERE id = ?",
            (run.status.value, rewrite(written, run), kept_since, size, run.id),
        )

    def mark_expired(self, db: sqlite3.Connection, rid: int) -> None:
        """Say in an ended run's record that its events are gone, and in its row that they are to be dropped."""
        for run in self.select(db, "rid = ?", rid):
            run.expired = True
            (written,) = db.execute("SELECT record FROM runs WHERE rid = ?", (rid,)).fetchone()
            self.update(db, run, written)
        db.execute("UPDATE runs SET kept_since = 0, kept_bytes = 0 WHERE rid = ?", (rid,))

    def accept(self, db: sqlite3.Connection, rid: int, batch: Append, size: int) -> bytes | None:
        """Write what goes with a batch: the run's checkpoint, the commands that are taken, its notices, its status, and
        at its end what it adds to its session. `size` is how many bytes the journal has. Returns the news of the
        session where the run has another status."""
        if batch.taken:
            db.executemany("DELETE FROM commands WHERE cid = ? AND rid = ?", [(id, rid) for id in batch.taken])
        if batch.notices:
            add_notices(db, rid, batch.notices)
        if batch.end is not None:
            return self._end(db, rid, batch, batch.end, size)
        if batch.checkpoint is not None:
            self._save(db, rid, batch.checkpoint)
        if batch.status is None:
            return None
        run, written = self.read(db, batch.run_id)
        assert run is not None, "an owned run has a record"
        run.last_seq, run.status = batch.first_seq + len(batch.events) - 1, batch.status
        self.update(db, run, written)
        return session_news(run.user_id, run.session_id)

    def _save(self, db: sqlite3.Connection, rid: int, checkpoint: Checkpoint) -> None:
        if checkpoint.data:
            db.execute("INSERT OR REPLACE INTO checkpoints VALUES(?, ?, ?)", (rid, checkpoint.seq, checkpoint.data))
            db.execute("UPDATE runs SET takeovers = 0 WHERE rid = ? AND takeovers != 0", (rid,))
        else:
            db.execute("DELETE FROM checkpoints WHERE rid = ?", (rid,))

    def _end(self, db: sqlite3.Connection, rid: int, batch: Append, end: RunEnd, size: int) -> bytes:
        found = db.execute(_SELECT_ENDING, (rid,)).fetchone()
        user_id, session_id, run, session, has_commands, has_checkpoint = found
        if has_commands:
            db.execute("DELETE FROM commands WHERE rid = ?", (rid,))
        if has_checkpoint:
            db.execute("DELETE FROM checkpoints WHERE rid = ?", (rid,))
        db.execute(_INSERT_TURN, (session_id, blob(_encode(end.turn))))
        if session is not None:
            with contextlib.suppress(ValueError):  # it stays as it is, for a version that can read it
                row = (end.ended_at, blob(session_after(session, end, run)), session_id)
                db.execute("UPDATE sessions SET updated_at = ?, record = ? WHERE id = ?", row)
        try:
            run = ended_run(run, end, batch.first_seq + len(batch.events) - 1)
        except ValueError as error:
            raise _unreadable(batch.run_id) from error
        db.execute(
            "UPDATE runs SET status = ?, record = ?, kept_since = ?, kept_bytes = ? WHERE rid = ?",
            (end.status.value, blob(run), end.ended_at, size, rid),
        )
        return session_news(user_id, session_id)

    # -- runs that are nobody's, and what is sent to any ----------------------------------------------------------

    def take(self, db: sqlite3.Connection, run: RunRecord, worker_id: str) -> int:
        """Give an active run to this worker, from one that is dead, which is counted; its row's number."""
        (rid,) = db.execute("SELECT rid FROM runs WHERE id = ?", (run.id,)).fetchone()
        add_move(db, rid, Move.now(run.last_seq, TAKEN_OVER, run.owner, worker_id))
        run.owner, run.takeovers = worker_id, run.takeovers + 1
        sql = "UPDATE runs SET owner = ?, wanted_at = NULL, takeovers = takeovers + 1 WHERE rid = ?"
        db.execute(sql, (worker_id, rid))
        return int(rid)

    def claim(self, db: sqlite3.Connection, run_id: str, worker_id: str) -> tuple[int, RunRecord] | None:
        """Give an active run that is nobody's to this worker: its row's number, and the run; None for any other."""
        run = self.find(db, run_id)
        if run is None or run.owner or run.status.ended:
            return None
        (rid,) = db.execute("SELECT rid FROM runs WHERE id = ?", (run_id,)).fetchone()
        add_arrival(db, rid, worker_id, now_ms())
        run.owner = worker_id
        db.execute("UPDATE runs SET owner = ?, wanted_at = NULL WHERE rid = ?", (worker_id, rid))
        return rid, run

    def release(self, db: sqlite3.Connection, rid: int, move: Move, wanted_at: int | None) -> bool:
        """Make an active run nobody's by this move, as `Store.release` does; whether it wants somebody now."""
        kept = "EXISTS(SELECT 1 FROM commands WHERE commands.rid = runs.rid)"
        status, has_commands = db.execute(f"SELECT status, {kept} FROM runs WHERE rid = ?", (rid,)).fetchone()
        wanted_now = wanted_at == 0 or status != RunStatus.WAITING.value or bool(has_commands)
        at = 0 if wanted_now else wanted_at
        add_move(db, rid, move)
        db.execute("UPDATE runs SET owner = '', wanted_at = ? WHERE rid = ?", (at, rid))
        return wanted_now

    def wanted(self, db: sqlite3.Connection, now: int, limit: int) -> list[RunRecord]:
        """Find as `Store.wanted` does."""
        return self.select(db, "wanted_at <= ? ORDER BY wanted_at, rid LIMIT ?", now, limit)

    def keep(self, db: sqlite3.Connection, run_id: str, command: bytes) -> str:
        """Keep a command for an active run; its owner. Raises `RunNotFound`."""
        row = db.execute("SELECT rid, status, owner FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        rid, status, owner = row
        if RunStatus(status).ended:
            return ""
        db.execute("INSERT INTO commands(rid, command) VALUES(?, ?)", (rid, command))
        if not owner:
            db.execute("UPDATE runs SET wanted_at = 0 WHERE rid = ?", (rid,))
        return str(owner)

    def answer(self, db: sqlite3.Connection, run_id: str, seq: int, command: bytes) -> str:
        """Set a waiting run running and keep the command, as `Store.answer` does."""
        row = db.execute("SELECT rid, status, owner FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is not None:
            rid, status, owner = row
            if status != RunStatus.WAITING.value or self._log.last_seq(db, run_id, rid, owner) != seq:
                raise NotWaiting(run_id)
            db.execute("UPDATE runs SET status = ? WHERE rid = ?", (RunStatus.RUNNING.value, rid))
        return self.keep(db, run_id, command)


def _unreadable(run_id: str) -> StoreCorrupt:
    return StoreCorrupt(f"run {run_id}: its record cannot be read{ANOTHER_VERSION}", run_id=run_id)


def find_checkpoint(db: sqlite3.Connection, run_id: str) -> Checkpoint | None:
    """Find the newest checkpoint of a run; None where it has none."""
    sql = "SELECT seq, data FROM checkpoints WHERE rid = (SELECT rid FROM runs WHERE id = ?)"
    row = db.execute(sql, (run_id,)).fetchone()
    return None if row is None else Checkpoint(*row)


def check_idle(db: sqlite3.Connection, session_id: str) -> None:
    """Raise `SessionBusy` when a run of the session is active."""
    for (run_id,) in db.execute(_SELECT_ACTIVE, {"session": session_id}):
        raise session_busy(session_id, run_id)


def delete_of_session(db: sqlite3.Connection, session_id: str) -> None:
    """Delete what there is of the session beside its record. Its runs' events and blobs are left to be dropped."""
    of_session = "SELECT rid FROM runs WHERE session = ?"
    note_numbers(db)
    db.execute(f"DELETE FROM notices WHERE rid IN ({of_session})", (session_id,))
    db.execute(f"INSERT INTO dropped {of_session}", (session_id,))
    for table in ("runs", "turns"):
        db.execute(f"DELETE FROM {table} WHERE session = ?", (session_id,))


def find_session(db: sqlite3.Connection, session_id: str) -> SessionRecord | None:
    """Find one session by its id."""
    return read_session(db, session_id)[0]


def read_session(db: sqlite3.Connection, session_id: str) -> tuple[SessionRecord | None, bytes]:
    """Find it with its record as it is written."""
    row = db.execute("SELECT record FROM sessions WHERE id = ?", (session_id,)).fetchone()
    try:
        return (None, b"") if row is None else (decode_session(row[0]), row[0])
    except ValueError as error:
        raise StoreCorrupt(f"session {session_id}: its record cannot be read{ANOTHER_VERSION}") from error


def insert_session(db: sqlite3.Connection, session: SessionRecord) -> None:
    """Add a session, unless there is one under its id."""
    db.execute(
        "INSERT INTO sessions VALUES(?, ?, ?, ?) ON CONFLICT(id) DO NOTHING",
        (session.id, session.user_id, session.updated_at, blob(_encode(session))),
    )


def write_session(db: sqlite3.Connection, session: SessionRecord, written: bytes) -> None:
    """Write a session over the record of it that was read in this transaction."""
    db.execute(
        "UPDATE sessions SET updated_at = ?, record = ? WHERE id = ?",
        (session.updated_at, rewrite(written, session), session.id),
    )
