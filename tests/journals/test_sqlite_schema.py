"""The tables of the store in an SQLite file: a file of an earlier version is brought to this one."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_schema import MIGRATIONS, SCHEMA_VERSION
from journals.conformance import Cluster, an_event
from journals.sqlite_place import FilePlace

TO_VERSION_1 = """
DROP INDEX runs_kept;
ALTER TABLE runs DROP COLUMN kept_bytes;
CREATE INDEX runs_kept ON runs(kept_since) WHERE kept_since IS NOT NULL;
PRAGMA user_version = 1;
"""


async def a_file(path: Path) -> None:
    """Two runs that have ended, of 3 and 4 events, and one that goes on."""
    cluster = Cluster(FilePlace(path))
    a = await cluster.worker("a")
    for number, run_id in enumerate(("first", "second")):
        await a.create(run_id, run_id)
        await a.append(run_id, 1, *["x" * 100] * (2 + number))
        await a.end(run_id, 3 + number, ended_at=10 + number)
    await a.create("active", "s")
    await a.append("active", 1, "still here")
    await cluster.stop(a)


def tables(path: Path) -> set[tuple[str, str]]:
    db = sqlite3.connect(path)
    try:
        sql = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c WHERE m.type = 'table'"
        indexes = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_index_info(m.name) c WHERE m.type = 'index'"
        return {*db.execute(sql), *db.execute(indexes)}
    finally:
        db.close()


def test_every_earlier_version_has_its_way_to_this_one() -> None:
    assert list(MIGRATIONS) == list(range(min(MIGRATIONS), SCHEMA_VERSION))


async def test_a_file_of_version_1_is_brought_to_this_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, new = tmp_path / "old.db", tmp_path / "new.db"
    await a_file(path)
    await a_file(new)
    db = sqlite3.connect(path)
    db.executescript(TO_VERSION_1)
    db.close()
    assert tables(path) != tables(new)
    cluster = Cluster(FilePlace(path))
    workers = await asyncio.gather(cluster.worker("b"), cluster.worker("c"))
    assert tables(path) == tables(new)
    assert "from schema version 1" in caplog.text
    b = workers[0]
    assert isinstance(b.store, SQLiteStore)
    sizes = await b.store._file.query("SELECT id, kept_bytes FROM runs ORDER BY id")
    expected = sqlite3.connect(new).execute("SELECT id, kept_bytes FROM runs ORDER BY id").fetchall()
    for (run_id, size), (same_id, as_counted) in zip(sizes, expected, strict=True):
        assert run_id == same_id
        assert (size is None) is (as_counted is None)
        assert size is None or as_counted <= size <= as_counted + 10, "with the ends of lines between its events"
    assert await b.read_all("active") == [an_event("still here")]
    assert await b.store.expire(0, bytes_max=0) == 2
    await cluster.close()
