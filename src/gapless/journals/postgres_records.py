"""The records in PostgreSQL: rows of runs and sessions, read and listed.

A run's record is kept as it was made; what changes of it is in columns. So it need not be read to be changed, and what
another version knows of it stays."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from gapless.errors import StoreCorrupt
from gapless.journals.finding import Search
from gapless.journals.postgres_schema import ACTIVE_SQL, FAILED_SQL
from gapless.journals.postgres_server import Connection, PostgresServer, Row, bytea_array, int_array
from gapless.records import (
    Listing,
    ModelUsage,
    RunRecord,
    RunStatus,
    SessionRecord,
    decode_run,
    decode_session,
    listed_run,
    listed_session,
    place_in_runs,
    place_in_sessions,
    place_of_session,
)
from gapless.sought import FAILED, Found, Glimpse, Sought, glimpse_of

__all__ = ["LAST_SQL", "PostgresRecords", "ReadRun", "encode", "session_from"]

STEP_BYTES = 512 * 1024
"""Records of a page that are read in one step: meanwhile nothing else runs in this process."""
LOOKED_FIRST, LOOKED_AT_ONCE = 200, 2_000
"""Runs that are looked at in one step of a search: at first, and once few are found."""
LAST_PLACE = 2**63 - 1
"""Behind all rows."""
ANOTHER_VERSION = " (is it of another version of Gapless?)"

LAST_SQL = (
    """coalesce((SELECT e.seq + e.n - 1 FROM gapless.events e WHERE e.rid = r.rid ORDER BY e.seq DESC LIMIT 1), 0)"""
)
"""The position of the newest event of the run `r`, which has not ended."""
_COLUMNS = f"""r.rid, r.status, r.owner, r.takeovers, r.started_at, r.ended_at, coalesce(r.last_seq, {LAST_SQL}),
    r.error, r.usage, r.kept_since IS NULL, r.id, r.record"""
_SESSION_COLUMNS = "id, updated_at, title, state, record"

encode = msgspec.json.Encoder().encode
_decode_error = msgspec.json.Decoder(dict[str, str]).decode
_decode_usage = msgspec.json.Decoder(list[ModelUsage]).decode
_decode_state = msgspec.json.Decoder(dict[str, Any]).decode
_KeyT = TypeVar("_KeyT")
_RecordT = TypeVar("_RecordT", RunRecord, SessionRecord)

log = logging.getLogger("gapless.postgres")


class ReadRun(NamedTuple):
    """A run as it was read, and the number of its row."""

    rid: int
    run: RunRecord


class PostgresRecords:
    """The tables of runs and sessions, for those who read them."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.unreadable: set[int] = set()
        """Rows whose records this version cannot read."""

    async def run(self, run_id: str, connection: Connection | None = None) -> ReadRun | None:
        """Find one run by its id, on that connection or any. Raises `StoreCorrupt` where its record cannot be read."""
        sql = f"SELECT {_COLUMNS} FROM gapless.runs r WHERE r.id = %s"
        if connection is None:
            rows = await self._server.rows(sql, run_id.encode())
        else:
            rows = await self._server.fetch(connection, sql, run_id.encode())
        try:
            return _run_from(rows[0]) if rows else None
        except ValueError as error:
            raise StoreCorrupt(f"run {run_id}: its record cannot be read{ANOTHER_VERSION}", run_id=run_id) from error

    def readable(self, rows: Iterable[Row], decode: Callable[[bytes], RunRecord] = decode_run) -> list[ReadRun]:
        """Make records of those rows that can be read; of the others it is said once."""
        found = []
        for row in rows:
            try:
                found.append(_run_from(row, decode))
            except ValueError:
                if row[0] not in self.unreadable:
                    self.unreadable.add(row[0])
                    run_id = row[-2].decode(errors="replace")
                    log.warning("run %s: its record cannot be read%s; it is left out here", run_id, ANOTHER_VERSION)
        return found

    async def select(self, connection: Connection | None, where: str, *values: Any) -> list[ReadRun]:
        """Read the runs `r` that a condition is true of, without those whose records cannot be read."""
        sql = f"SELECT {_COLUMNS} FROM gapless.runs r WHERE {where}"
        if connection is None:
            return self.readable(await self._server.rows(sql, *values))
        return self.readable(await self._server.fetch(connection, sql, *values))

    async def oldest_active(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find as `Store.active_runs` does."""
        if not session_ids:
            return {}
        sql = f"""SELECT {_COLUMNS} FROM unnest(%s::bytea[]) g(session) JOIN LATERAL (
            SELECT * FROM gapless.runs a WHERE a.session = g.session AND a.status IN {ACTIVE_SQL}
            ORDER BY a.rid LIMIT 1) r ON true"""
        asked = bytea_array([session_id.encode() for session_id in dict.fromkeys(session_ids)])
        found = self.readable(await self._server.rows(sql, asked), listed_run)
        return {run.session_id: run for _, run in found}

    async def runs(
        self, user_id: str | None, session_id: str | None, status: RunStatus | None, limit: int, after: str | None
    ) -> Listing[RunRecord]:
        """List as `Store.list_runs` does."""
        place = place_in_runs(after)
        conditions: dict[str, Any] = {
            'r."user" = %s': None if user_id is None else user_id.encode(),
            "r.session = %s": None if session_id is None else session_id.encode(),
            "r.rid < %s": place,
        }
        where = [condition for condition, value in conditions.items() if value is not None]
        if status is not None:  # written out: plans are made once, and the indexes of active runs are for these values
            where.append(f"r.status = '{status.value}'")
        values = [value for value in conditions.values() if value is not None]
        keys = await self._server.rows(
            f"SELECT r.rid, length(r.record) FROM gapless.runs r WHERE {' AND '.join(where) or 'true'}"
            " ORDER BY r.rid DESC LIMIT %s",
            *values,
            limit + 1,
        )

        return await _page(limit, [(rid, size) for rid, size in keys], self._listed, str)

    async def _listed(self, rids: list[int]) -> list[RunRecord]:
        sql = f"SELECT {_COLUMNS} FROM gapless.runs r WHERE r.rid = ANY(%s::bigint[]) ORDER BY r.rid DESC"
        found = self.readable(await self._server.rows(sql, int_array(rids)), listed_run)
        return [run for _, run in found]

    async def find(self, sought: Sought, limit: int, after: str | None) -> Found:
        """Find as `Store.find_runs` does. What the columns tell is looked at without the records."""
        search, place = Search(sought, limit), place_in_runs(after)
        if place is None:
            place = LAST_PLACE
        sql, values = find_sql(sought)
        sizes = dict[int, int]()
        count, goes_on = LOOKED_FIRST, True
        while goes_on:
            rows = await self._server.rows(sql, *values, place, count)
            glimpses = await self._glimpses(sought, rows)
            for rid, status, _, size in rows:
                place, sizes[rid] = rid, size
                if not (goes_on := search.sees(rid, status, glimpses.get(rid))):
                    break
            goes_on = goes_on and len(rows) == count
            count = min(4 * count, LOOKED_AT_ONCE)
        return search.page(await _page(limit, [(rid, sizes[rid]) for rid in search.places], self._listed, str))

    async def _glimpses(self, sought: Sought, rows: Sequence[Row]) -> dict[int, Glimpse | RunRecord]:
        """Read of these runs what they are found by, of those that may be sought."""

        async def read(rids: list[int]) -> list[tuple[int, Glimpse | RunRecord]]:
            found = []
            sql = "SELECT rid, record FROM gapless.runs WHERE rid = ANY(%s::bigint[])"
            for rid, record in await self._server.rows(sql, int_array(rids)):
                with contextlib.suppress(ValueError):  # of that run alone, and said where all are listed
                    found.append((rid, glimpse_of(record)))
            return found

        able = [row for row in rows if sought.may_be(row[1])]
        if sought.in_record:
            glimpses = dict(await _page(len(able), [(rid, size) for rid, _, _, size in able], read, str))
        else:  # of this user and session they are
            user_id, session_id = sought.user_id or "", sought.session_id or ""
            glimpses = {
                rid: Glimpse(user_id=user_id, session_id=session_id, agent="", created_at=0) for rid, *_ in able
            }
        for rid, _, error, _ in able:
            if error is not None and rid in glimpses:
                glimpses[rid].error = _decode_error(error)
        return glimpses

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def session(self, session_id: str) -> SessionRecord | None:
        """Find one session by its id. Raises `StoreCorrupt`."""
        sql = f"SELECT {_SESSION_COLUMNS} FROM gapless.sessions WHERE id = %s"
        rows = await self._server.rows(sql, session_id.encode())
        return session_from(rows[0]) if rows else None

    async def sessions(self, user_id: str | None, limit: int, after: str | None) -> Listing[SessionRecord]:
        """List as `Store.list_sessions` does."""
        where, values = ["true"], list[Any]()
        if user_id is not None:
            where.append('"user" = %s')
            values.append(user_id.encode())
        if (place := place_in_sessions(after)) is not None:
            where.append("(updated_at, id) < (%s::bigint, %s)")
            values += [place[0], place[1].encode()]
        sql = f"""SELECT updated_at, id, length(record) FROM gapless.sessions WHERE {" AND ".join(where)}
            ORDER BY updated_at DESC, id DESC LIMIT %s"""
        rows = await self._server.rows(sql, *values, limit + 1)

        async def read(keys: list[tuple[int, bytes]]) -> list[SessionRecord]:
            order = {session_id: number for number, (_, session_id) in enumerate(keys)}
            sql = "SELECT id, updated_at, title, ''::bytea, record FROM gapless.sessions WHERE id = ANY(%s::bytea[])"
            found = await self._server.rows(sql, bytea_array(list(order)))
            found.sort(key=lambda row: order[row[0]])
            return [record for record in map(_readable, found) if record is not None]

        def told(key: tuple[int, bytes]) -> str:
            return place_of_session(key[0], key[1].decode())

        return await _page(limit, [((row[0], row[1]), row[2]) for row in rows], read, told)


def find_sql(sought: Sought) -> tuple[str, list[Any]]:
    """Return the statement that gives the runs among which those are that are sought, newest first, those before a
    place and so many; and what stands in it before these two."""
    where, values = [], list[Any]()
    for column, value in (('r."user"', sought.user_id), ("r.session", sought.session_id)):
        if value is not None:
            where.append(f"{column} = %s AND")
            values.append(value.encode())
    if sought.states is not None:  # written out, as the indexes have it
        where.append(f"r.status IN {FAILED_SQL if sought.states is FAILED else ACTIVE_SQL} AND")
    columns = "r.rid, r.status, r.error, length(r.record)"
    sql = (
        f"SELECT {columns} FROM gapless.runs r WHERE {' '.join(where)} r.rid < %s::bigint ORDER BY r.rid DESC LIMIT %s"
    )
    return sql, values


async def _page(
    limit: int, keys: list[tuple[_KeyT, int]], read: Callable[[list[_KeyT]], Any], told: Callable[[_KeyT], str]
) -> Listing[Any]:
    """Read the records of a page by their keys, one of which is more than is wanted where there is more, in steps of so
    many bytes."""
    listing = Listing[Any](next=told(keys[limit - 1][0]) if 0 < limit < len(keys) else None)
    step, size = list[_KeyT](), 0
    for number, (key, length) in enumerate(keys[:limit], 1):
        step.append(key)
        size += length
        if size >= STEP_BYTES or number == min(limit, len(keys)):
            listing.extend(await read(step))
            step, size = [], 0
    return listing


def _run_from(row: Row, decode: Callable[[bytes], RunRecord] = decode_run) -> ReadRun:
    """Make a run's record of its row. Raises `ValueError`."""
    rid, status, owner, takeovers, started_at, ended_at, last_seq, error, usage, dropped, _, record = row
    run = decode(record)
    run.status, run.owner, run.takeovers, run.last_seq = RunStatus(status), owner, takeovers, last_seq
    run.started_at, run.ended_at = started_at, ended_at
    run.error = None if error is None else _decode_error(error)
    run.usage = None if usage is None else _decode_usage(usage)
    run.expired = run.status.ended and dropped
    return ReadRun(rid, listed_run(run) if decode is listed_run else run)


def session_from(row: Row) -> SessionRecord:
    """Make a session's record of its row. Raises `StoreCorrupt`."""
    session_id, updated_at, title, state, record = row
    try:
        session = decode_session(record)
        session.updated_at, session.title = updated_at, title.decode()
        session.state = _decode_state(state)
    except ValueError as error:
        shown = session_id.decode(errors="replace")
        raise StoreCorrupt(f"session {shown}: its record cannot be read{ANOTHER_VERSION}") from error
    return session


def _readable(row: Row) -> SessionRecord | None:
    session_id, updated_at, title, _, record = row
    try:
        session = listed_session(record)
        session.updated_at, session.title = updated_at, title.decode()
    except ValueError:
        shown = session_id.decode(errors="replace")
        log.warning("session %s: its record cannot be read%s; it is left out", shown, ANOTHER_VERSION)
        return None
    return session
