"""How runs came from worker to worker, in an SQLite file. A run that has always been its first worker's has no row."""

from __future__ import annotations

import sqlite3

from gapless.moves import MOVES_MAX, Move, Moves

__all__ = ["add_arrival", "add_move", "drop_moves", "read_moves"]

_ADD = """INSERT INTO moves SELECT ?1, coalesce(max(n), 0) + 1, ?, ?, ?, ?, ?, ? FROM moves WHERE rid = ?1"""
_NEWEST = "(SELECT max(n) FROM moves WHERE rid = ?1)"


def add_move(db: sqlite3.Connection, rid: int, move: Move) -> None:
    """Keep that a run has left its worker."""
    db.execute(_ADD, (rid, move.seq, move.what, move.at, move.ended_at, move.from_worker, move.to_worker))
    db.execute(f"DELETE FROM moves WHERE rid = ?1 AND n <= {_NEWEST} - ?", (rid, MOVES_MAX))


def add_arrival(db: sqlite3.Connection, rid: int, worker_id: str, at: int) -> None:
    """Keep that a run that was nobody's is this worker's from then on."""
    sql = f"UPDATE moves SET to_worker = ?2, ended_at = ?3 WHERE rid = ?1 AND n = {_NEWEST} AND ended_at IS NULL"
    db.execute(sql, (rid, worker_id, at))


def read_moves(db: sqlite3.Connection, run_id: str) -> Moves:
    """Read as `Store.moves` does."""
    columns = "n, seq, what, at, ended_at, from_worker, to_worker"
    sql = f"SELECT {columns} FROM moves WHERE rid = (SELECT rid FROM runs WHERE id = ?) ORDER BY n"
    return Moves.from_rows(db.execute(sql, (run_id,)).fetchall())


def drop_moves(db: sqlite3.Connection, rid: int) -> None:
    """Forget them, with the run's events."""
    db.execute("DELETE FROM moves WHERE rid = ?", (rid,))
