"""The store in an SQLite file: the suite of every store, and what a file can suffer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from journals.conformance import Conformance, conforms_in_any_order

from gapless.journals import sqlite
from gapless.journals.contract import Store
from gapless.journals.sqlite import SQLiteStore


class FilePlace:
    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self, clock: Callable[[], float]) -> Store:
        return SQLiteStore(self.path, monotonic=clock)

    async def crash(self, store: Store) -> None:
        assert isinstance(store, SQLiteStore)
        for task in store._tasks:
            task.cancel()
        assert store._db is not None
        store._db.close()


class TestSQLiteStore(Conformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> FilePlace:
        return FilePlace(tmp_path / "gapless.db")


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so low that sealing, trimming and skipping happen all the time."""
    monkeypatch.setattr(sqlite, "SEGMENT_EVENTS", 5)
    monkeypatch.setattr(sqlite, "LOG_ROWS_KEPT", 3)
    monkeypatch.setattr(sqlite, "LOG_ROWS_MAX", 12)


class TestSQLiteStoreAtItsBounds(TestSQLiteStore):
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small(monkeypatch)


def test_conforms_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(100_000))
        conforms_in_any_order(lambda: FilePlace(Path(folder) / f"{next(numbers)}.db"), examples=150)
