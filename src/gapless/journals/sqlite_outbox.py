"""The outbox in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from gapless.journals.outbox import NOTICES_TAKEN_MAX, Notice, Outbox
from gapless.journals.sqlite_file import Due, SQLiteFile

__all__ = ["SQLiteOutbox", "add_notices"]

_EXPIRED = """SELECT 1 FROM runs WHERE runs.rid = notices.rid
    AND status NOT IN ('queued', 'running', 'waiting') AND coalesce(kept_since, 0) = 0"""
"""Whether a notice's run has ended and its events are gone."""


def add_notices(db: sqlite3.Connection, rid: int, notices: Iterable[Notice]) -> None:
    """Write what is to be told of a run, within the transaction that makes it true."""
    rows = [(notice.id, rid, notice.due_at, notice.data) for notice in notices]
    db.executemany("INSERT INTO notices(id, rid, due_at, data) VALUES(?, ?, ?, ?)", rows)


class SQLiteOutbox(Outbox):
    """The table of notices."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file
        self._due = Due(file, "SELECT min(due_at) FROM notices WHERE due_at IS NOT NULL")

    async def take(self, now: int, until: int, limit: int = NOTICES_TAKEN_MAX) -> list[Notice]:
        if await self._due.is_none(now):
            return []  # as nearly always: nothing to write

        def take(db: sqlite3.Connection) -> list[Notice]:
            sql = """SELECT nid, notices.id, runs.id, data FROM notices JOIN runs USING(rid)
                WHERE due_at <= ? ORDER BY due_at, nid LIMIT ?"""
            rows = db.execute(sql, (now, limit)).fetchall()
            db.executemany("UPDATE notices SET due_at = ? WHERE nid = ?", [(until, nid) for nid, *_ in rows])
            return [Notice(id, run_id, data, until) for _, id, run_id, data in rows]

        return await self._file.transact(take)

    async def settle(self, notice: Notice, due_at: int | None) -> bool:
        def settle(db: sqlite3.Connection) -> bool:
            sql = "UPDATE notices SET data = ?, due_at = ? WHERE id = ? AND due_at IS ?"
            settled = db.execute(sql, (notice.data, due_at, notice.id, notice.due_at)).rowcount
            if settled and due_at is None:  # its run's events may have gone before
                db.execute(f"DELETE FROM notices WHERE id = ? AND EXISTS ({_EXPIRED})", (notice.id,))
            return bool(settled)

        return await self._file.transact(settle)

    async def of_run(self, run_id: str) -> list[Notice]:
        sql = "SELECT id, data, due_at FROM notices WHERE rid = (SELECT rid FROM runs WHERE id = ?) ORDER BY nid"
        return [Notice(id, run_id, data, due_at) for id, data, due_at in await self._file.query(sql, run_id)]
