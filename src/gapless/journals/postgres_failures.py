"""What psycopg raises, as a store says it: what happened, and what to do."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from gapless.errors import GaplessError, StoreCorrupt, StoreUnavailable

__all__ = ["translate", "unreachable"]

_READ_ONLY = (
    "it takes nothing, as a standby or by default_transaction_read_only; name the primary, or all servers with "
    "target_session_attrs=read-write"
)
_WHAT_TO_DO = {
    r'database "(.*)" does not exist': 'make it (CREATE DATABASE "{0}"), or name another in the URL, behind the host',
    r'role "(.*)" does not exist': 'make it (CREATE ROLE "{0}" LOGIN), or name another in the URL, before the @',
    "password authentication failed": "look at the user and the password; in the URL, special characters are %XX",
    "no password supplied": "put it into the URL (user:password@), PGPASSWORD or ~/.pgpass",
    r"no pg_hba\.conf entry .*no encryption": "add sslmode=require to the URL, or let this user in in pg_hba.conf",
    r"no pg_hba\.conf entry": "let this user in in the server's pg_hba.conf",
    "resolve host|could not translate host": "look at the host in the URL",
    "Connection refused|No such file or directory": "does PostgreSQL run there, and listen at that address?",
    "timeout expired|No route to host|unreachable": "can that address be reached from here?",
    "does not support SSL": "turn on `ssl` there, or leave sslmode out",
    "root certificate file .* does not exist": "name the file of the server's CA with sslrootcert=FILE",
    "certificate verify failed|signature failure": "it must be signed by the CA in the file of sslrootcert=",
    "does not match host name": "name the host as its certificate does",
    "too many (clients|connections)|remaining connection slots": "raise max_connections there, or put a pooler between",
    "session is (not )?read-only": _READ_ONLY,
    "unsupported startup parameter": "a pooler: add listen=HOST:PORT to the URL, the address of PostgreSQL itself",
}


def translate(error: Exception, name: str, schema: str, user: str, timeout_s: float) -> GaplessError:
    """Make of what a call of the store `name` has raised what a store raises; a bug of ours is raised as it is."""
    text = _first_line(error)
    if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
        return StoreCorrupt(f"store {name}: the database is damaged ({text}); restore a copy")
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn | errors.InvalidSchemaName):
        return StoreUnavailable(
            f"store {name}: its tables are not there, or are another version's or program's: {text}; they are made "
            "when a process starts, in the schema that schema= names"
        )
    if isinstance(error, errors.InsufficientPrivilege):
        quoted, owner = _quoted(schema), _quoted(user) if user else "…"
        return StoreUnavailable(
            f"store {name}: its user may not do that: {text}; let the schema be its own (CREATE SCHEMA {quoted} "
            f"AUTHORIZATION {owner}, as a user who may), or name one that is with schema=; see docs/deploy.md"
        )
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return StoreUnavailable(f"store {name}: {_READ_ONLY}")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"store {name}: no answer for {timeout_s:.0f} s")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError) or _has_ended_it(error):
        return StoreUnavailable(f"store {name}: {text}")
    raise error


def unreachable(error: Exception, name: str) -> StoreUnavailable:
    """Say why no connection to the store `name` could be made, and what to do where that is known."""
    text = _first_line(error)
    for pattern, fix in _WHAT_TO_DO.items():
        if found := re.search(pattern, text):
            return StoreUnavailable(f"store {name}: {text}; {fix.format(*found.groups())}")
    return StoreUnavailable(f"store {name}: {text}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _first_line(error: Exception) -> str:
    diagnosed = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = diagnosed or str(error).strip().partition("\n")[0]
    return text.removeprefix("connection failed: ") or type(error).__name__


def _has_ended_it(error: Exception) -> bool:
    """Tell whether the server has ended the connection with this, whatever kind of error psycopg makes of it: so it
    says that a transaction has stood still for too long, as its client did."""
    return isinstance(error, psycopg.Error) and error.diag.severity_nonlocalized in ("FATAL", "PANIC")
