"""What an SQLite file lets go of: the events of ended runs that are past their retention, in steps."""

from __future__ import annotations

import asyncio
import sqlite3
import time

from gapless.journals.sqlite_file import SQLiteFile, scalar
from gapless.journals.sqlite_lists import STEP_S
from gapless.journals.sqlite_log import Log
from gapless.journals.sqlite_moves import drop_moves
from gapless.journals.sqlite_records import Runs

__all__ = ["drop_events", "expire"]

EXPIRE_RUNS = 100
"""Runs that are marked as expired in one transaction."""
TURNS_BETWEEN = 3
"""Turns of the event loop between two steps: an agent's word is recorded in one, written in the next, and read in the
third. With one turn between, it would wait for three steps."""


async def expire(file: SQLiteFile, journals: Log, runs: Runs, ended_before: int, bytes_max: int | None) -> int:
    """Expire as `Store.expire` does. Runs are marked first, then their events are dropped, in steps: what a call that
    was cut short has left is dropped by the next one."""

    def mark(db: sqlite3.Connection) -> int:
        kept = "FROM runs WHERE kept_since > 0"
        over = 0 if bytes_max is None else scalar(db, f"SELECT total(kept_bytes) {kept}") - bytes_max
        rows = db.execute(f"SELECT rid, kept_since, kept_bytes {kept} ORDER BY kept_since, rid LIMIT ?", (EXPIRE_RUNS,))
        until = time.monotonic() + STEP_S
        marked = 0
        for rid, kept_since, kept_bytes in rows.fetchall():
            if (kept_since >= ended_before and over <= 0) or (marked and time.monotonic() > until):
                break
            runs.mark_expired(db, rid)
            over -= kept_bytes
            marked += 1
        return marked

    total = 0
    while marked := await file.transact(mark):
        total += marked
        await _let_others()
    await drop_events(file, journals)
    return total


async def drop_events(file: SQLiteFile, journals: Log) -> None:
    """Drop the events and blobs of runs that are past their retention, or deleted."""
    more = True
    while more:
        more = await file.transact(lambda db: _drop_events(db, journals))
        await _let_others()


async def _let_others() -> None:
    for _ in range(TURNS_BETWEEN):
        await asyncio.sleep(0)


def _drop_events(db: sqlite3.Connection, journals: Log) -> bool:
    """Drop some of the events of runs that are marked; whether there may be more."""
    until = time.monotonic() + STEP_S
    marked = "SELECT rid FROM dropped UNION ALL SELECT rid FROM runs WHERE kept_since = 0 LIMIT 1"
    while (row := db.execute(marked).fetchone()) is not None:
        while journals.drop_part(db, row[0]):
            if time.monotonic() > until:
                return True
        db.execute("DELETE FROM notices WHERE rid = ? AND due_at IS NULL", row)
        drop_moves(db, row[0])
        db.execute("DELETE FROM dropped WHERE rid = ?", row)
        db.execute("UPDATE runs SET kept_since = NULL WHERE rid = ?", row)
    return False
