"""How runs came from worker to worker, in PostgreSQL. A run that has always been its first worker's has no row.

Each step is part of a transaction that has locked the run's row in a statement before it."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.journals.postgres_records import LAST_SQL
from gapless.journals.postgres_server import Connection, PostgresServer, int_array
from gapless.moves import MOVES_MAX, Moves

__all__ = ["add_arrival", "add_moves", "read_moves"]

_ADD = f"""
WITH r AS MATERIALIZED (SELECT r.rid, r.owner, {LAST_SQL} AS seq,
    coalesce((SELECT max(m.n) FROM gapless.moves m WHERE m.rid = r.rid), 0) + 1 AS n
    FROM gapless.runs r WHERE r.rid = ANY(%s::bigint[]) AND r.owner <> %s),
old AS (DELETE FROM gapless.moves m USING r WHERE m.rid = r.rid AND m.n <= r.n - {MOVES_MAX})
INSERT INTO gapless.moves(rid, n, seq, what, at, ended_at, from_worker, to_worker)
SELECT r.rid, r.n, r.seq, %s, %s::bigint, %s::bigint, r.owner, %s FROM r
"""
_ARRIVE = """
UPDATE gapless.moves m SET to_worker = %s, ended_at = %s::bigint WHERE m.rid = %s AND m.ended_at IS NULL
    AND m.n = (SELECT max(x.n) FROM gapless.moves x WHERE x.rid = m.rid)
"""
_READ = """
SELECT m.n, m.seq, m.what, m.at, m.ended_at, m.from_worker, m.to_worker
FROM gapless.moves m JOIN gapless.runs r ON r.rid = m.rid WHERE r.id = %s ORDER BY m.n
"""


async def add_moves(
    server: PostgresServer, connection: Connection, rids: Iterable[int], what: str, at: int, to_worker: str = ""
) -> None:
    """Keep that these runs leave their owners, while they are still these owners': for that worker, or for nobody."""
    ended_at = at if to_worker else None
    await server.run(connection, _ADD, int_array(rids), to_worker, what, at, ended_at, to_worker)


async def add_arrival(server: PostgresServer, connection: Connection, rid: int, worker_id: str, at: int) -> None:
    """Keep that a run that was nobody's is this worker's from then on."""
    await server.run(connection, _ARRIVE, worker_id, at, rid)


async def read_moves(server: PostgresServer, run_id: str) -> Moves:
    """Read as `Store.moves` does."""
    return Moves.from_rows(await server.rows(_READ, run_id.encode()))
