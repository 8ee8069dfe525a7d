"""The tables of the store in an SQLite file, under a version."""

from __future__ import annotations

import sqlite3

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "create_tables"]

APPLICATION_ID = 0x47504C31
SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE workers(id TEXT PRIMARY KEY, beat INTEGER NOT NULL, low INTEGER NOT NULL, process TEXT NOT NULL);
CREATE TABLE runs(rid INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL,
                  user TEXT NOT NULL, status TEXT NOT NULL, owner TEXT NOT NULL, record BLOB NOT NULL,
                  kept_since INTEGER /* the end of a run whose events are still there, 0 while they are dropped */,
                  kept_bytes INTEGER /* of these events */);
CREATE INDEX runs_session ON runs(session, rid);
CREATE INDEX runs_user ON runs(user, rid);
CREATE INDEX runs_kept ON runs(kept_since, kept_bytes) WHERE kept_since IS NOT NULL;
CREATE INDEX runs_active ON runs(owner) WHERE status IN ('queued', 'running', 'waiting');
CREATE TABLE log(pos INTEGER PRIMARY KEY AUTOINCREMENT, rid INTEGER NOT NULL, seq INTEGER NOT NULL,
                 n INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE segments(rid INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX segments_run ON segments(rid, seq);
CREATE TABLE commands(cid INTEGER PRIMARY KEY AUTOINCREMENT, rid INTEGER NOT NULL, command BLOB NOT NULL);
CREATE TABLE sessions(id TEXT PRIMARY KEY, user TEXT NOT NULL, updated_at INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX sessions_user ON sessions(user, updated_at);
CREATE TABLE turns(tid INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, turn BLOB NOT NULL);
CREATE INDEX turns_session ON turns(session, tid);
"""


def create_tables(db: sqlite3.Connection) -> None:
    """Make an empty file a store, within the caller's transaction."""
    for statement in _SCHEMA.split(";\n"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
