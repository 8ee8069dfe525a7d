"""Journals: the contract of a store, the stores, and the hot path between a run and its followers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from gapless.errors import ExtraMissing, UsageError
from gapless.given import check_given
from gapless.journals.contract import Store, shown_url

__all__ = ["STORES", "StoreEntry", "open_store", "store_class"]


class StoreEntry(NamedTuple):
    """What has to be known of a store before its module can be imported; the rest is on its class."""

    schemes: tuple[str, ...]
    """What its URLs begin with."""
    target: str
    """Its class, as `module:name`."""
    extra: str = ""
    """The extra of the package `gapless` that brings its client library."""
    distribution: str = ""
    """What that library is called where packages are, and"""
    keeps_in: str = ""
    """the name of what it keeps journals in, for messages."""


STORES = [
    StoreEntry(("memory",), "gapless.journals.memory:MemoryStore"),
    StoreEntry(("sqlite",), "gapless.journals.sqlite:SQLiteStore"),
    StoreEntry(
        ("redis", "rediss", "valkey", "valkeys", "unix"), "gapless.journals.redis:RedisStore", "redis", "redis", "Redis"
    ),
    StoreEntry(
        ("postgresql", "postgres"), "gapless.journals.postgres:PostgresStore", "postgres", "psycopg", "PostgreSQL"
    ),
]


def open_store(url: str | Path | Store) -> Store:
    """Make the store that `url` names, not yet opened: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`,
    `redis://host:port/db` (also `rediss`, `valkey`, `valkeys` and `unix:///path/to.sock`),
    `postgresql://user@host/database`.

    A `Path` is that of an SQLite file; a `Store` comes back as it is. Raises `UsageError` for a URL that names none,
    `ExtraMissing` when its client library is not installed.
    """
    if isinstance(url, Store):
        return url
    if isinstance(url, Path):
        url = f"sqlite:///{quote(str(url))}"
    check_given("store", url, str, "a URL, the Path of an SQLite file, or a Store")
    return store_class(url).from_url(url)


def store_class(url: str) -> type[Store]:
    """Find the class of the store that `url` names. Raises `UsageError`, `ExtraMissing`."""
    scheme, separator, _ = url.partition("://")
    entry = next((entry for entry in STORES if separator and scheme in entry.schemes), None)
    if entry is None:
        known = ", ".join(f"{name}://" for entry in STORES for name in entry.schemes)
        file = f"for a file write sqlite:///{url}; else " if url and not set(url) & {":", "@"} else ""
        raise UsageError(f"store {shown_url(url)!r}: unknown kind of store; {file}use one of {known}")
    module, _, name = entry.target.partition(":")
    try:
        cls: type[Store] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if not entry.extra:
            raise
        fix = f"pip install 'gapless[{entry.extra}]'"
        raise ExtraMissing(f"store {scheme}:// needs a package: {fix} ({error})") from error
    return cls
