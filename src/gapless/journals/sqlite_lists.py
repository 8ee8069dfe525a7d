"""Lists of an SQLite file's runs, sessions and turns.

A list is read in steps of a few milliseconds, between which others have their turn: a record may be megabytes long,
and a list shows little of it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from gapless.journals.finding import Search
from gapless.journals.sqlite_file import SQLiteFile
from gapless.journals.sqlite_records import ANOTHER_VERSION, Runs, decode_turn
from gapless.journals.sqlite_schema import ACTIVE_SQL
from gapless.records import (
    ACTIVE,
    Listing,
    RunRecord,
    RunStatus,
    SessionRecord,
    Turn,
    listed_session,
    place_in_runs,
    place_in_sessions,
    place_of_session,
)
from gapless.sought import FAILED, Found, Sought

__all__ = ["TurnPlaces", "find_runs", "list_runs", "list_sessions", "list_turns"]

PLACES_MAX = 10_000
"""Sessions of which it is kept where their last turns are."""
STEP_S = 0.003
"""A step ends about then: meanwhile nothing else runs in this process. A word of another run takes several turns of the
loop, and a step stands between each two."""

LAST_PLACE = 2**63 - 1
"""Behind all rows."""
FAILED_SQL = "('failed', 'cancelled')"
"""As the index on runs with an error writes it."""

_RecordT = TypeVar("_RecordT", RunRecord, SessionRecord)
_KeyT = TypeVar("_KeyT", int, tuple[int, str])

log = logging.getLogger("gapless.sqlite")


async def list_runs(
    file: SQLiteFile,
    runs: Runs,
    *,
    user_id: str | None,
    session_id: str | None,
    status: RunStatus | None,
    limit: int,
    after: str | None,
) -> Listing[RunRecord]:
    """List as `Store.list_runs` does."""
    conditions = {"user = ?": user_id, "session = ?": session_id, "status = ?": status and status.value}
    where = [condition for condition, value in conditions.items() if value is not None]
    values: list[object] = [value for value in conditions.values() if value is not None]
    index = ""
    if status in ACTIVE:  # the index is on these, and SQLite does not know that they are few
        where.append(ACTIVE_SQL)
        index = "INDEXED BY runs_active"
    if (place := place_in_runs(after)) is not None:
        where.append("rid < ?")
        values.append(place)

    def read(db: sqlite3.Connection, rid: int) -> Iterable[RunRecord | None]:
        return (run for _, run in runs.listed(db, "rid = ?", rid))

    sql = f"SELECT rid FROM runs {index} WHERE {' AND '.join(where) or 1} ORDER BY rid DESC LIMIT ?"
    rows = await file.query(sql, *values, limit + 1)
    return await _page(file, limit, [rid for (rid,) in rows], read, str)


async def find_runs(file: SQLiteFile, runs: Runs, sought: Sought, limit: int, after: str | None) -> Found:
    """Find as `Store.find_runs` does: along the index that has fewest others in it, in the order of the list."""
    search, place = Search(sought, limit), place_in_runs(after)
    if place is None:
        place = LAST_PLACE
    sql, values = find_sql(sought)

    def step(db: sqlite3.Connection) -> bool:
        nonlocal place
        until = time.monotonic() + STEP_S
        for rid, status, record in db.execute(sql, (*values, place)):
            place = rid
            run = runs.glimpse(db, rid, record) if sought.may_be(status) else None
            if not search.sees(rid, status, run):
                return False
            if time.monotonic() > until:
                return True
        return False

    await _look_on(file, step)

    def read(db: sqlite3.Connection, rid: int) -> Iterable[RunRecord | None]:
        return (run for _, run in runs.listed(db, "rid = ?", rid))

    return search.page(await _page(file, limit, search.places, read, str))


def find_sql(sought: Sought) -> tuple[str, list[object]]:
    """Return the statement that gives the runs among which those are that are sought, newest first, those before a
    place; and what stands in it before that place."""
    where, values, index = list[str](), list[object](), ""
    for column, value in (("user", sought.user_id), ("session", sought.session_id)):
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if sought.states is ACTIVE:
        where.append(ACTIVE_SQL)
        index = "INDEXED BY runs_active"
    elif sought.states is FAILED and not values:
        where.append(f"status IN {FAILED_SQL}")
        index = "INDEXED BY runs_failed"
    where.append("rid < ? ORDER BY rid DESC")
    return f"SELECT rid, status, record FROM runs {index} WHERE {' AND '.join(where)}", values


async def list_sessions(
    file: SQLiteFile, *, user_id: str | None, limit: int, after: str | None
) -> Listing[SessionRecord]:
    """List as `Store.list_sessions` does."""
    where, values = ["1"], list[object]()
    if user_id is not None:
        where.append("user = ?")
        values.append(user_id)
    if (place := place_in_sessions(after)) is not None:
        where.append("updated_at <= ? AND (updated_at, id) < (?, ?)")  # the first for the index
        values += [place[0], *place]

    def read(db: sqlite3.Connection, key: tuple[int, str]) -> Iterable[SessionRecord | None]:
        return (_readable(key[1], data) for (data,) in db.execute("SELECT record FROM sessions WHERE id = ?", key[1:]))

    order = "ORDER BY updated_at DESC, id DESC LIMIT ?"
    rows = await file.query(
        f"SELECT updated_at, id FROM sessions WHERE {' AND '.join(where)} {order}", *values, limit + 1
    )
    return await _page(file, limit, [(row[0], row[1]) for row in rows], read, lambda key: place_of_session(*key))


class TurnPlaces:
    """Where the last turns are that were read of sessions: whoever reads on from there is spared counting all before
    them, which took 0.1 ms of 2,000."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        """By session, how many turns are before it, and its row."""

    def find(self, db: sqlite3.Connection, session_id: str, skip: int) -> int:
        """Find the row of the session's turn that has `skip` others before it; 0 where it is not known. A row that is
        deleted is never another's."""
        before, tid = self._places.get(session_id, (0, 0))
        there = "SELECT 1 FROM turns WHERE tid = ? AND session = ?"
        return tid if before == skip and db.execute(there, (tid, session_id)).fetchone() is not None else 0

    def note(self, session_id: str, before: int, tid: int) -> None:
        """Note where a turn is."""
        self._places.pop(session_id, None)
        self._places[session_id] = before, tid
        if len(self._places) > PLACES_MAX:
            del self._places[next(iter(self._places))]


async def list_turns(file: SQLiteFile, places: TurnPlaces, session_id: str, skip: int) -> list[Turn]:
    """List a session's turns, oldest first, without the first `skip`."""
    turns, last = list[Turn](), 0

    def step(db: sqlite3.Connection) -> bool:
        nonlocal last
        until = time.monotonic() + STEP_S
        if not last and (tid := places.find(db, session_id, skip)):
            last = tid - 1
        sql = "SELECT tid, turn FROM turns WHERE session = ? AND tid > ? ORDER BY tid LIMIT -1 OFFSET ?"
        for tid, turn in db.execute(sql, (session_id, last, 0 if last else skip)):
            turns.append(decode_turn(turn))
            last = tid
            if time.monotonic() > until:
                return True
        return False

    await _look_on(file, step)
    if turns:
        places.note(session_id, skip + len(turns) - 1, last)
    return turns


async def _look_on(file: SQLiteFile, step: Callable[[sqlite3.Connection], bool]) -> None:
    """Take one step after another, as long as each says that there is more; others have their turn behind each."""
    more = True
    while more:
        more = await file.look(step)
        await asyncio.sleep(0)


async def _page(
    file: SQLiteFile,
    limit: int,
    keys: list[_KeyT],
    read: Callable[[sqlite3.Connection, _KeyT], Iterable[_RecordT | None]],
    told: Callable[[_KeyT], str],
) -> Listing[_RecordT]:
    """Read the records of a page by their keys, one of which is more than is wanted where there is more. `read` gives
    None for what is unreadable, and nothing for what is gone."""
    listing = Listing[_RecordT](next=told(keys[limit - 1]) if 0 < limit < len(keys) else None)
    left = iter(keys[:limit])

    def step(db: sqlite3.Connection) -> bool:
        until = time.monotonic() + STEP_S
        for key in left:
            listing.extend(record for record in read(db, key) if record is not None)
            if time.monotonic() > until:
                return True
        return False

    await _look_on(file, step)
    return listing


def _readable(session_id: str, data: bytes) -> SessionRecord | None:
    try:
        return listed_session(data)
    except ValueError:
        log.warning("session %s: its record cannot be read%s; it is left out", session_id, ANOTHER_VERSION)
        return None
