"""The tables of the store in an SQLite file, under a version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

__all__ = [
    "ACTIVE_SQL",
    "APPLICATION_ID",
    "MIGRATIONS",
    "OWNED_SQL",
    "SCHEMA_VERSION",
    "create_tables",
    "migrate",
    "next_number",
    "note_numbers",
]

APPLICATION_ID = 0x47504C31
SCHEMA_VERSION = 12
ACTIVE_SQL = "(status = 'queued' OR status = 'running' OR status = 'waiting')"
"""Is true of active runs, as the index on them writes it. With `IN`, SQLite makes a table of the three each time that a
row is written or looked at: 20,000 instructions."""
OWNED_SQL = f"owner > '' AND {ACTIVE_SQL}"
"""Is true of active runs that are somebody's: few, however many wait for a person."""

_SCHEMA = f"""
CREATE TABLE workers(id TEXT PRIMARY KEY, beat INTEGER NOT NULL, low INTEGER NOT NULL, process TEXT NOT NULL,
                     bell TEXT NOT NULL DEFAULT '' /* the name of its doorbell, if it can be rung */,
                     listens INTEGER NOT NULL DEFAULT 0 /* it is rung for what any other commits */);
CREATE TABLE runs(rid INTEGER PRIMARY KEY /* never given again, see `note_numbers` */, id TEXT NOT NULL UNIQUE,
                  session TEXT NOT NULL, user TEXT NOT NULL, status TEXT NOT NULL, owner TEXT NOT NULL,
                  record BLOB NOT NULL,
                  kept_since INTEGER /* the end of a run whose events are still there, 0 while they are dropped */,
                  kept_bytes INTEGER /* of these events */,
                  takeovers INTEGER NOT NULL DEFAULT 0,
                  wanted_at INTEGER /* of an active run that is nobody's and may want somebody by itself */);
CREATE INDEX runs_session ON runs(session, rid);
CREATE INDEX runs_active ON runs(session, rid) WHERE {ACTIVE_SQL};
CREATE INDEX runs_owned ON runs(owner) WHERE {OWNED_SQL};
CREATE INDEX runs_user ON runs(user, rid);
CREATE INDEX runs_kept ON runs(kept_since, kept_bytes) WHERE kept_since IS NOT NULL;
CREATE INDEX runs_failed ON runs(rid, status) WHERE status IN ('failed', 'cancelled');
CREATE INDEX runs_wanted ON runs(wanted_at) WHERE wanted_at IS NOT NULL;
CREATE TABLE checkpoints(rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE blobs(rid INTEGER NOT NULL, blob TEXT NOT NULL, piece INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX blobs_run ON blobs(rid, blob, piece);
CREATE TABLE log(pos INTEGER PRIMARY KEY, runs TEXT NOT NULL, data BLOB NOT NULL, at INTEGER);
CREATE TABLE segments(rid INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL,
                      times BLOB /* of its groups, as sqlite_times has them */);
CREATE UNIQUE INDEX segments_run ON segments(rid, seq);
CREATE TABLE dropped(rid INTEGER PRIMARY KEY) /* deleted runs whose segments and blobs are not all deleted yet */;
CREATE TABLE commands(cid INTEGER PRIMARY KEY AUTOINCREMENT, rid INTEGER NOT NULL, command BLOB NOT NULL);
CREATE INDEX commands_run ON commands(rid);
CREATE TABLE notices(nid INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, rid INTEGER NOT NULL,
                     due_at INTEGER, data BLOB NOT NULL);
CREATE INDEX notices_run ON notices(rid);
CREATE INDEX notices_due ON notices(due_at, nid) WHERE due_at IS NOT NULL;
CREATE TABLE sessions(id TEXT PRIMARY KEY, user TEXT NOT NULL, updated_at INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX sessions_user ON sessions(user, updated_at);
CREATE TABLE turns(tid INTEGER PRIMARY KEY /* as rid */, session TEXT NOT NULL, turn BLOB NOT NULL);
CREATE INDEX turns_session ON turns(session, tid);
CREATE TABLE subscriptions(id TEXT PRIMARY KEY, user TEXT NOT NULL, data BLOB NOT NULL, kept_at INTEGER NOT NULL);
CREATE INDEX subscriptions_user ON subscriptions(user, kept_at);
CREATE TABLE moves(rid INTEGER NOT NULL, n INTEGER NOT NULL, seq INTEGER NOT NULL, what TEXT NOT NULL,
                   at INTEGER NOT NULL, ended_at INTEGER, from_worker TEXT NOT NULL, to_worker TEXT NOT NULL,
                   PRIMARY KEY(rid, n)) WITHOUT ROWID;
"""


def create_tables(db: sqlite3.Connection) -> None:
    """Make an empty file a store, within the caller's transaction."""
    for statement in _SCHEMA.split(";\n"):
        db.execute(statement)
    db.execute("INSERT INTO sqlite_sequence VALUES('runs', 0), ('turns', 0)")
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _count_kept_bytes(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN kept_bytes INTEGER")
    size = "SELECT total(length(data)) FROM segments WHERE segments.rid = runs.rid"
    db.execute(f"UPDATE runs SET kept_bytes = ({size}) WHERE kept_since IS NOT NULL")
    db.execute("DROP INDEX runs_kept")
    db.execute("CREATE INDEX runs_kept ON runs(kept_since, kept_bytes) WHERE kept_since IS NOT NULL")


def _let_runs_go_on(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE runs ADD COLUMN wanted_at INTEGER")
    db.execute("CREATE INDEX runs_wanted ON runs(wanted_at) WHERE wanted_at IS NOT NULL")
    db.execute("CREATE TABLE checkpoints(rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL, data BLOB NOT NULL)")
    db.execute("CREATE INDEX commands_run ON commands(rid)")


def _keep_blobs(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE blobs(rid INTEGER NOT NULL, blob TEXT NOT NULL, piece INTEGER NOT NULL, data BLOB NOT NULL)"
    )
    db.execute("CREATE UNIQUE INDEX blobs_run ON blobs(rid, blob, piece)")


def _log_in_groups(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE log RENAME TO log_by_run")
    db.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, runs TEXT NOT NULL, data BLOB NOT NULL)")
    db.execute("INSERT INTO log SELECT pos, printf(',%d:%d:%d,', rid, seq, n), data FROM log_by_run ORDER BY pos")
    newest = "SELECT seq FROM sqlite_sequence WHERE name = 'log_by_run'"  # positions count on: others remember them
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'log'")
    db.execute(f"INSERT INTO sqlite_sequence SELECT 'log', seq FROM ({newest})")
    db.execute("DROP TABLE log_by_run")


def _add_what_version_6_has(db: sqlite3.Connection) -> None:
    db.execute("CREATE INDEX runs_queue ON runs(session, rid) WHERE status IN ('queued', 'running', 'waiting')")
    db.execute("ALTER TABLE workers ADD COLUMN bell TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE workers ADD COLUMN listens INTEGER NOT NULL DEFAULT 0")
    db.execute("CREATE TABLE dropped(rid INTEGER PRIMARY KEY)")
    db.execute("ALTER TABLE log ADD COLUMN at INTEGER")
    db.execute("ALTER TABLE segments ADD COLUMN times BLOB")
    db.execute(
        "CREATE TABLE notices(nid INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, rid INTEGER NOT NULL, "
        "due_at INTEGER, data BLOB NOT NULL)"
    )
    db.execute("CREATE INDEX notices_run ON notices(rid)")
    db.execute("CREATE INDEX notices_due ON notices(due_at, nid) WHERE due_at IS NOT NULL")


def _keep_subscriptions(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE subscriptions(id TEXT PRIMARY KEY, user TEXT NOT NULL, data BLOB NOT NULL, "
        "kept_at INTEGER NOT NULL)"
    )
    db.execute("CREATE INDEX subscriptions_user ON subscriptions(user, kept_at)")


def _list_failed_runs(db: sqlite3.Connection) -> None:
    db.execute("CREATE INDEX runs_failed ON runs(rid, status) WHERE status IN ('failed', 'cancelled')")


def _let_the_log_count_itself(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE log RENAME TO log_counted")  # AUTOINCREMENT wrote a second page for each group
    db.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, runs TEXT NOT NULL, data BLOB NOT NULL, at INTEGER)")
    db.execute("INSERT INTO log SELECT pos, runs, data, at FROM log_counted")
    db.execute("DROP TABLE log_counted")


def _keep_moves(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE moves(rid INTEGER NOT NULL, n INTEGER NOT NULL, seq INTEGER NOT NULL, what TEXT NOT NULL, "
        "at INTEGER NOT NULL, ended_at INTEGER, from_worker TEXT NOT NULL, to_worker TEXT NOT NULL, "
        "PRIMARY KEY(rid, n)) WITHOUT ROWID"
    )


def _list_runs_of_the_log_as_json(db: sqlite3.Connection) -> None:
    as_json = "UPDATE log SET runs = '[[' || replace(replace(trim(runs, ','), ',', '],['), ':', ',') || ']]'"
    db.execute(as_json)
    # A process of the version before, which is on its way out, writes as it did until its runs have ended.
    old = "AFTER INSERT ON log WHEN NEW.runs LIKE ',%'"
    db.execute(f"CREATE TRIGGER log_of_version_10 {old} BEGIN {as_json} WHERE pos = NEW.pos; END")


def _write_fewer_pages(db: sqlite3.Connection) -> None:
    # Of runs and turns, AUTOINCREMENT stays in a file that has it: it costs a page for each, and nothing else.
    for table in ("runs", "turns"):
        there = "SELECT 1 FROM sqlite_sequence WHERE name = ?1"
        db.execute(f"INSERT INTO sqlite_sequence SELECT ?1, 0 WHERE NOT EXISTS({there})", (table,))
    db.execute("DROP INDEX runs_queue")
    db.execute("DROP INDEX runs_active")
    db.execute(f"CREATE INDEX runs_active ON runs(session, rid) WHERE {ACTIVE_SQL}")
    db.execute(f"CREATE INDEX runs_owned ON runs(owner) WHERE {OWNED_SQL}")


MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _count_kept_bytes,
    2: _let_runs_go_on,
    3: _keep_blobs,
    4: _log_in_groups,
    5: _add_what_version_6_has,
    6: _keep_subscriptions,
    7: _list_failed_runs,
    8: _let_the_log_count_itself,
    9: _keep_moves,
    10: _list_runs_of_the_log_as_json,
    11: _write_fewer_pages,
}
"""What makes a file of one version one of the next. A change of the tables comes with the line for those before it."""


def note_numbers(db: sqlite3.Connection) -> None:
    """Note which numbers rows have had, before some are deleted: others may remember one, so it is never given again.
    AUTOINCREMENT would note it, in a page of its own, with each row that is added."""
    for table, number in (("runs", "rid"), ("turns", "tid")):
        newest = f"coalesce((SELECT max({number}) FROM {table}), 0)"
        db.execute(f"UPDATE sqlite_sequence SET seq = max(seq, {newest}) WHERE name = '{table}'")


def next_number(table: str, number: str) -> str:
    """Return the SQL for the number of a row that is added."""
    newest = f"coalesce((SELECT max({number}) FROM {table}), 0)"
    return f"(SELECT 1 + max(seq, {newest}) FROM sqlite_sequence WHERE name = '{table}')"


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring a file of an earlier version to this one, within the caller's transaction."""
    for before in range(version, SCHEMA_VERSION):
        MIGRATIONS[before](db)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
