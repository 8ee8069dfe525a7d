"""The tables of the store in PostgreSQL, in a schema of their own, under a version.

What a client chooses (ids, titles) is kept as bytes: PostgreSQL's text has no U+0000, and depends on the database's
encoding and collation. All SQL names the schema `gapless`, for which `PostgresServer` puts the one of the store's URL.
"""

from __future__ import annotations

__all__ = ["ACTIVE_SQL", "FAILED_SQL", "MIGRATIONS", "SCHEMA", "SCHEMA_VERSION", "TIME_MS", "VERSION_MIN"]

SCHEMA_VERSION = 5
VERSION_MIN = 14
"""Of PostgreSQL."""
TIME_MS = 10
"""Times are whole numbers of this, so that 4 bytes are enough for 248 days."""

ACTIVE_SQL = "('queued', 'running', 'waiting')"
"""As the indexes on active runs write it."""

FAILED_SQL = "('failed', 'cancelled')"
"""As the index on runs with an error writes it."""

SCHEMA = """
CREATE TABLE gapless.version(version int NOT NULL);
CREATE TABLE gapless.workers(
    id text PRIMARY KEY,
    beat bigint NOT NULL DEFAULT 0,
    epoch int NOT NULL DEFAULT 0,  -- of its connection that appends
    UNIQUE (id, epoch));  -- a new epoch waits for who holds the old one FOR KEY SHARE; a beat does not
CREATE TABLE gapless.sessions(
    id bytea PRIMARY KEY,
    "user" bytea NOT NULL,
    updated_at bigint NOT NULL,
    title bytea NOT NULL,
    state bytea NOT NULL,
    record bytea NOT NULL);
CREATE INDEX sessions_used ON gapless.sessions(updated_at, id);
CREATE INDEX sessions_user ON gapless.sessions("user", updated_at, id);
CREATE TABLE gapless.runs(
    rid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nonce int NOT NULL,  -- a server that took over may give a number again: with this it is another run's
    id bytea NOT NULL UNIQUE,
    session bytea NOT NULL,
    "user" bytea NOT NULL,
    status text NOT NULL,
    owner text NOT NULL,
    takeovers int NOT NULL DEFAULT 0,
    wanted_at bigint,  -- of an active run that is nobody's and may want somebody by itself
    started_at bigint,
    ended_at bigint,
    last_seq int,  -- of a run that has ended
    error bytea,
    usage bytea,
    kept_since bigint,  -- the end of a run whose events are still there
    kept_bytes bigint,  -- of these events
    record bytea NOT NULL);  -- as it was made: what changes is in the columns
CREATE INDEX runs_session ON gapless.runs(session, rid);
CREATE INDEX runs_user ON gapless.runs("user", rid);
CREATE INDEX runs_kept ON gapless.runs(kept_since, rid) INCLUDE (kept_bytes) WHERE kept_since IS NOT NULL;
CREATE INDEX runs_active ON gapless.runs(owner) WHERE status IN ('queued', 'running', 'waiting');
CREATE INDEX runs_queue ON gapless.runs(session, rid) WHERE status IN ('queued', 'running', 'waiting');
CREATE INDEX runs_wanted ON gapless.runs(wanted_at, rid) WHERE wanted_at IS NOT NULL;
CREATE TABLE gapless.events(
    rid bigint NOT NULL,
    seq int NOT NULL,  -- of a batch's first event
    n int NOT NULL,
    data bytea NOT NULL,
    at int,  -- when it was accepted, in TIME_MS after the run was created
    PRIMARY KEY (rid, seq))
    WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);
CREATE TABLE gapless.dropped(rid bigint PRIMARY KEY);  -- runs whose events and blobs are being dropped
CREATE TABLE gapless.checkpoints(rid bigint PRIMARY KEY, seq int NOT NULL, data bytea NOT NULL);
CREATE TABLE gapless.blobs(
    rid bigint NOT NULL, blob bytea NOT NULL, piece int NOT NULL, data bytea NOT NULL, PRIMARY KEY (rid, blob, piece));
ALTER TABLE gapless.blobs ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE gapless.commands(
    cid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, rid bigint NOT NULL, command bytea NOT NULL);
CREATE INDEX commands_run ON gapless.commands(rid);
CREATE TABLE gapless.turns(
    tid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session bytea NOT NULL, turn bytea NOT NULL);
CREATE INDEX turns_session ON gapless.turns(session, tid);
CREATE TABLE gapless.watches(
    rid bigint NOT NULL, worker text NOT NULL, channel text NOT NULL, PRIMARY KEY (rid, worker));
"""
_NOTICES = """
CREATE TABLE gapless.notices(
    nid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    rid bigint NOT NULL,
    due_at bigint,
    data bytea NOT NULL);
CREATE INDEX notices_run ON gapless.notices(rid);
CREATE INDEX notices_due ON gapless.notices(due_at, nid) WHERE due_at IS NOT NULL;
"""
_SUBSCRIPTIONS = """
CREATE TABLE gapless.subscriptions(
    id text PRIMARY KEY, "user" bytea NOT NULL, data bytea NOT NULL, kept_at bigint NOT NULL);
CREATE INDEX subscriptions_user ON gapless.subscriptions("user", kept_at);
"""
_FAILED = f"CREATE INDEX runs_failed ON gapless.runs(rid) WHERE status IN {FAILED_SQL};"
_MOVES = """
CREATE TABLE gapless.moves(
    rid bigint NOT NULL,
    n int NOT NULL,
    seq int NOT NULL,
    what text NOT NULL,
    at bigint NOT NULL,
    ended_at bigint,
    from_worker text NOT NULL,
    to_worker text NOT NULL,
    PRIMARY KEY (rid, n));
"""
SCHEMA += _NOTICES + _SUBSCRIPTIONS + _FAILED + _MOVES

MIGRATIONS: dict[int, str] = {
    1: "ALTER TABLE gapless.events ADD COLUMN at int; ALTER TABLE gapless.runs ADD COLUMN usage bytea;" + _NOTICES,
    2: _SUBSCRIPTIONS,
    3: _FAILED,
    4: _MOVES,
}
"""What makes the tables of one version those of the next. A change of them comes with the line for those before it."""
