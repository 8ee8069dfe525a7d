"""SQLite on a disk that fills up while the WAL is moved into the file: some free space, and everything goes on."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path

import pytest

from gapless import Runner
from gapless.journals import sqlite_file
from gapless.journals.sqlite import SQLiteStore

TEXT = "x" * 1_000_000


async def agent(message: str) -> str:
    return TEXT


async def test_a_checkpoint_that_the_disk_was_too_full_for_leaves_no_file_that_seems_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_S", 3600.0)  # only the one below
    path = tmp_path / "gapless.db"
    async with Runner(agent, store=f"sqlite:///{path}") as runner:
        store = runner.store
        assert isinstance(store, SQLiteStore)
        assert (await (await runner.start("a")).collect()).text == TEXT
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(path.stat().st_size, 4 * 4096), hard))
        try:
            with pytest.raises(sqlite3.Error):
                store._file.checkpoint("PASSIVE")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store._file.look_at_path()
        assert (await (await runner.start("b")).collect()).text == TEXT
        store._file.checkpoint("PASSIVE")
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
