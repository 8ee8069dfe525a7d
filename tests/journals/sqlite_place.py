"""Where the tests of the SQLite store keep its file, and what they do with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from gapless.journals import sqlite_log
from gapless.journals.contract import Store
from gapless.journals.sqlite import SQLiteStore
from tests.journals.conformance import Worker


class FilePlace:
    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self, clock: Callable[[], float]) -> Store:
        return SQLiteStore(self.path, monotonic=clock)

    async def crash(self, store: Store) -> None:
        assert isinstance(store, SQLiteStore)
        for task in store._tasks:
            task.cancel()
        store._bell.silence()
        store._file.close()


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so low that sealing, trimming and skipping happen all the time."""
    monkeypatch.setattr(sqlite_log, "SEGMENT_EVENTS", 5)
    monkeypatch.setattr(sqlite_log, "LOG_ROWS_KEPT", 3)
    monkeypatch.setattr(sqlite_log, "LOG_ROWS_MAX", 12)


def rows(path: Path, table: str) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        db.close()


async def open_and_read(path: Path) -> None:
    worker = Worker("x", SQLiteStore(path))
    await worker.store.open("x", worker.heard)
    try:
        for run in await worker.store.list_runs():
            await worker.read_all(run.id)
    finally:
        await worker.store.close()
