"""The outbox in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.journals.outbox import NOTICES_TAKEN_MAX, Notice, Outbox
from gapless.journals.postgres_schema import ACTIVE_SQL
from gapless.journals.postgres_server import Connection, PostgresServer

__all__ = ["PostgresOutbox", "add_notices"]

_TAKE = """
WITH due AS MATERIALIZED (SELECT n.nid FROM gapless.notices n WHERE n.due_at <= %s::bigint
    ORDER BY n.due_at, n.nid LIMIT %s FOR UPDATE SKIP LOCKED),
taken AS (UPDATE gapless.notices n SET due_at = %s FROM due, gapless.notices before
    WHERE n.nid = due.nid AND before.nid = n.nid RETURNING n.nid, n.id, n.rid, n.data, before.due_at)
SELECT t.id, r.id, t.data FROM taken t JOIN gapless.runs r ON r.rid = t.rid ORDER BY t.due_at, t.nid
"""
_SETTLE = f"""
WITH settled AS (UPDATE gapless.notices SET data = %s, due_at = %s::bigint
    WHERE id = %s AND due_at IS NOT DISTINCT FROM %s::bigint RETURNING nid, rid, due_at)
SELECT s.nid, s.due_at IS NULL AND r.status NOT IN {ACTIVE_SQL} AND r.kept_since IS NULL
FROM settled s JOIN gapless.runs r ON r.rid = s.rid
"""


async def add_notices(server: PostgresServer, connection: Connection, rid: int, notices: Iterable[Notice]) -> None:
    """Write what is to be told of a run, within the transaction that makes it true. One that is there already is not
    written again, as a server that took over may lack the others only."""
    sql = """INSERT INTO gapless.notices(id, rid, due_at, data) VALUES(%s, %s, %s, %s) ON CONFLICT (id) DO NOTHING"""
    for notice in notices:
        await server.run(connection, sql, notice.id, rid, notice.due_at, notice.data)


class PostgresOutbox(Outbox):
    """The table of notices."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    async def take(self, now: int, until: int, limit: int = NOTICES_TAKEN_MAX) -> list[Notice]:
        rows = await self._server.execute(_TAKE, now, limit, until)
        return [Notice(id, run_id.decode(), data, until) for id, run_id, data in rows]

    async def settle(self, notice: Notice, due_at: int | None) -> bool:
        settled = await self._server.execute(_SETTLE, notice.data, due_at, notice.id, notice.due_at)
        for nid, expired in settled:
            if expired:  # its run's events had gone before
                await self._server.execute("DELETE FROM gapless.notices WHERE nid = %s AND due_at IS NULL", nid)
        return bool(settled)

    async def of_run(self, run_id: str) -> list[Notice]:
        sql = """SELECT n.id, n.data, n.due_at FROM gapless.notices n JOIN gapless.runs r ON r.rid = n.rid
            WHERE r.id = %s ORDER BY n.nid"""
        rows = await self._server.rows(sql, run_id.encode())
        return [Notice(id, run_id, data, due_at) for id, data, due_at in rows]
