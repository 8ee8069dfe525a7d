"""Journals: the contract of a store, the stores, and the hot path between a run and its followers."""

from __future__ import annotations

import importlib
from urllib.parse import unquote, urlsplit

from gapless.errors import ExtraMissing, UsageError
from gapless.journals.contract import Store

__all__ = ["open_store"]

_REDIS = "gapless.journals.redis:RedisStore"
_STORES = {
    "memory": "gapless.journals.memory:MemoryStore",
    "sqlite": "gapless.journals.sqlite:SQLiteStore",
    "redis": _REDIS,
    "rediss": _REDIS,
    "valkey": _REDIS,
    "valkeys": _REDIS,
    "unix": _REDIS,
}


def open_store(url: str | Store) -> Store:
    """The store that a URL names, not yet opened: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`,
    `redis://host:port/db` (also `rediss`, `valkey`, `valkeys` and `unix:///path/to.sock`).

    A `Store` comes back as it is. Raises `UsageError` for a URL that names none, `ExtraMissing` when its client library
    is not installed.
    """
    if isinstance(url, Store):
        return url
    scheme, separator, rest = url.partition("://")
    target = _STORES.get(scheme)
    if target is None or not separator:
        known = ", ".join(f"{name}://" for name in _STORES)
        raise UsageError(f"store {_redact(url)!r}: unknown kind of store; use one of {known}")
    module, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except ImportError as error:
        extra = module.rpartition(".")[2]
        raise ExtraMissing(f"store {scheme}:// needs a package: pip install 'gapless[{extra}]' ({error})") from error
    if scheme == "memory":
        store = cls()
    elif scheme == "sqlite":
        if not rest.startswith("/") or len(rest) == 1:
            raise UsageError(f"store {url!r}: write sqlite:///file.db (relative) or sqlite:////path/file.db (absolute)")
        store = cls(unquote(rest[1:]))
    else:
        store = cls(url)
    assert isinstance(store, Store)
    return store


def _redact(url: str) -> str:
    """The URL without the password that it may carry."""
    password = urlsplit(url).password if "@" in url else None
    return url.replace(f":{password}@", ":***@") if password else url
