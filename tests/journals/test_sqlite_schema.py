"""The tables of the store in an SQLite file: a file of an earlier version is brought to this one."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
from pathlib import Path

import pytest

from gapless.errors import SessionBusy
from gapless.journals.contract import Append, Checkpoint
from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_schema import MIGRATIONS, SCHEMA_VERSION
from gapless.records import RunStatus
from tests.journals.conformance import Cluster, a_run, an_event
from tests.journals.sqlite_place import FilePlace, open_and_read
from tests.journals.times import times_of

TO_VERSION_11 = """
DROP INDEX runs_active;
DROP INDEX runs_owned;
CREATE INDEX runs_active ON runs(owner) WHERE status IN ('queued', 'running', 'waiting');
CREATE INDEX runs_queue ON runs(session, rid) WHERE status IN ('queued', 'running', 'waiting');
DELETE FROM sqlite_sequence WHERE name IN ('runs', 'turns');
"""
TO_VERSION_6 = """
DROP TABLE subscriptions;
DROP INDEX runs_failed;
DROP TABLE moves;
"""
TO_VERSION_5 = """
DROP INDEX runs_queue;
DROP TABLE dropped;
ALTER TABLE workers DROP COLUMN bell;
ALTER TABLE workers DROP COLUMN listens;
ALTER TABLE segments DROP COLUMN times;
ALTER TABLE log DROP COLUMN at;
DROP TABLE notices;
"""
TO_VERSION_4 = """
DROP TABLE log;
CREATE TABLE log(pos INTEGER PRIMARY KEY AUTOINCREMENT, rid INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL,
                 data BLOB NOT NULL);
"""
TO_VERSION_3 = """
DROP TABLE blobs;
"""
TO_VERSION_2 = """
DROP INDEX runs_wanted;
DROP INDEX commands_run;
DROP TABLE checkpoints;
ALTER TABLE runs DROP COLUMN takeovers;
ALTER TABLE runs DROP COLUMN wanted_at;
"""
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
    db.executescript(
        TO_VERSION_11 + TO_VERSION_6 + TO_VERSION_5 + TO_VERSION_4 + TO_VERSION_3 + TO_VERSION_2 + TO_VERSION_1
    )
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


def old_file(version: int, folder: Path) -> Path:
    path = folder / "gapless.db"
    path.write_bytes(
        gzip.decompress((Path(__file__).parent / "files" / f"sqlite-version-{version}.db.gz").read_bytes())
    )
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file made by version 2, whose worker was killed; a command came from another one afterwards."""
    return old_file(2, tmp_path)


async def test_the_runs_in_a_file_of_version_2_go_on(path: Path) -> None:
    """Also the command that came for one when its worker was dead."""
    cluster = Cluster(FilePlace(path))
    a = await cluster.worker("new")
    taken = {run.id: run for run in (await cluster.lapse(a))["new"]}
    states = {run.id: (run.status, run.last_seq, run.takeovers) for run in taken.values()}
    assert states == {
        "asked": (RunStatus.WAITING, 2, 1),
        "next": (RunStatus.QUEUED, 0, 1),
        "spoken": (RunStatus.RUNNING, 301, 1),
    }
    said = [an_event(f"word {n}") for n in range(300)]
    assert await a.read_all("spoken") == [*said, an_event("not yet sealed")]
    assert await a.read_all("done") == [an_event(text) for text in ("begun", "said", "end")]
    session = await a.store.get_session("s1")
    assert session is not None
    assert session.state == {"colour": "green"}
    assert [turn.run_id for turn in await a.store.turns("s1")] == ["done"]
    await a.heard.until(lambda: bool(a.heard.commands))
    assert a.heard.commands == [("asked", b"yes")]
    assert await a.store.checkpoint("asked") is None
    batch = Append("asked", 3, [an_event("3")], None, RunStatus.RUNNING, Checkpoint(3, b"here"), a.heard.command_ids)
    assert not await a.store.append([batch])
    assert await a.store.release("asked", None) is True
    assert await a.store.start_run("next", 9) == "asked"
    claimed = await a.store.claim("asked")
    assert claimed is not None
    assert claimed.takeovers == 0
    await a.end("asked", 4)
    assert await a.store.start_run("next", 9) is None
    await a.end("spoken", 302)
    assert await a.read_all("spoken", 300) == [an_event("not yet sealed"), an_event("end")]
    await cluster.close()


async def test_to_look_for_a_sessions_active_runs_does_not_read_those_that_ended(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a = await cluster.worker("a")
    asked: list[str] = []
    assert isinstance(a.store, SQLiteStore)
    await a.store._file.look(lambda db: db.set_trace_callback(asked.append))
    await a.store.create_run(a_run("first"), reject_busy=True)
    await a.store.start_run("first", 1)
    with pytest.raises(SessionBusy):
        await a.store.create_run(a_run("second"), reject_busy=True)
    await a.store.active_runs(["s"])
    await a.store.session_runs("s", active=True)
    with pytest.raises(SessionBusy):
        await a.store.update_state("s", {"a": 1}, 2)
    looked = [sql for sql in asked if "status = " in sql and "session" in sql]
    plans = [[row[3] for row in await a.store._file.query(f"EXPLAIN QUERY PLAN {sql}")] for sql in looked]
    assert len(plans) >= 4
    for plan in plans:
        assert any("runs_active" in step for step in plan), plan
        assert not any("runs_session" in step for step in plan), plan
    await cluster.close()


async def test_to_look_for_lost_runs_does_not_read_those_that_are_nobodys(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    assert isinstance(a.store, SQLiteStore)
    asked: list[str] = []
    await a.store._file.look(lambda db: db.set_trace_callback(asked.append))
    await b.create("left")
    await b.store.close()
    assert [run.id for run in await a.store.take_over(60.0)] == ["left"]
    looked = [sql for sql in asked if "NOT IN (SELECT id FROM workers)" in sql]
    plans = [[row[3] for row in await a.store._file.query(f"EXPLAIN QUERY PLAN {sql}")] for sql in looked]
    assert len(plans) >= 3
    for plan in plans:
        assert any("SEARCH runs USING INDEX runs_owned (owner>?)" in step for step in plan), plan
    await cluster.close()


async def test_a_migration_that_is_cut_short_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables(path)
    with monkeypatch.context() as patch:
        patch.setitem(MIGRATIONS, 2, lambda db: db.execute("CREATE TABLE half(n)") and db.execute("half a line"))
        with pytest.raises(Exception, match="half"):
            await open_and_read(path)
    assert tables(path) == before
    await open_and_read(path)
    assert ("checkpoints", "rid") in tables(path) - before


async def test_a_run_in_a_file_of_version_3_goes_on_and_keeps_blobs(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(old_file(3, tmp_path)))
    a = await cluster.worker("new")
    assert await a.read_all("ended") == [an_event(text) for text in ("one", "two", "end")]
    assert [run.id for run in await a.store.wanted(0)] == ["saved"]
    assert await a.store.claim("saved") is not None
    assert await a.store.checkpoint("saved") == Checkpoint(3, b"\x00saved")
    await a.store.keep_blob("saved", "x", 0, b"data")
    await a.end("saved", 4)
    assert await a.store.blob("saved", "x", 0) == b"data"
    await cluster.close()


async def test_the_unsealed_events_in_a_file_of_version_4_are_read_and_go_on(tmp_path: Path) -> None:
    """Its worker was killed. One that follows has heard all up to the log's newest position, and hears what comes."""
    cluster = Cluster(FilePlace(old_file(4, tmp_path)))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    said = [an_event(f"word {n}") for n in range(300)]
    for worker in (a, b):
        assert await worker.read_all("spoken") == [*said, an_event("not yet sealed")]
        assert await worker.read_all("spoken", 300) == [an_event("not yet sealed")]
        assert await worker.read_all("other", 1) == [an_event("2"), an_event("3")]
    await b.store.watch("other")
    taken = {run.id: run.last_seq for run in (await cluster.lapse(a, b))["a"]}
    assert taken == {"spoken": 301, "other": 3}
    batches = [Append("spoken", 302, [an_event("302")]), Append("other", 4, [an_event("4"), an_event("5")])]
    assert not await a.store.append(batches)
    await b.heard.until(lambda: b.heard.last.get("other") == 5)
    for worker in (a, b):
        assert await worker.read_all("spoken", 300) == [an_event("not yet sealed"), an_event("302")]
        assert await worker.read_all("other") == [an_event(text) for text in "12345"]
    assert await b.read_all("done") == [an_event("1"), an_event("end")]
    await cluster.close()


async def test_a_run_in_a_file_of_version_5_has_times_from_now_on(tmp_path: Path) -> None:
    """Its worker was killed."""
    cluster = Cluster(FilePlace(old_file(5, tmp_path)))
    a = await cluster.worker("new")
    assert await times_of(a, "done") == await times_of(a, "spoken") == []
    await cluster.lapse(a)
    assert not await a.store.append([Append("spoken", 302, [an_event("302")], at=5_001)])
    assert await times_of(a, "spoken") == [(302, 5_001)]
    await a.end("spoken", 303)
    said = [*(f"word {n}" for n in range(300)), "not yet sealed", "302", "end"]
    assert await a.read_all("spoken") == [an_event(text) for text in said]
    assert await times_of(a, "spoken") == [(302, 5_001)]
    await cluster.close()


async def test_what_a_process_of_version_10_goes_on_to_write_is_read(tmp_path: Path) -> None:
    """A rolling upgrade: the file is brought to this version while a server of the last one has its runs."""
    path = tmp_path / "gapless.db"
    await a_file(path)
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(TO_VERSION_11 + "PRAGMA user_version = 10; UPDATE log SET runs = ',3:1:1,';")
    cluster = Cluster(FilePlace(path))
    b = await cluster.worker("b")
    await b.store.watch("active")
    row = (",3:2:2,4:1:1,", b"\n".join([an_event("a"), an_event("b"), an_event("other")]), 7)
    old.execute("INSERT INTO log(runs, data, at) VALUES(?, ?, ?)", row)
    await b.heard.until(lambda: b.heard.last.get("active") == 3)
    assert await b.read_all("active") == [an_event(text) for text in ("still here", "a", "b")]
    old.close()
    await cluster.close()


async def test_the_number_of_a_row_that_was_deleted_is_never_given_again(tmp_path: Path) -> None:
    """Other processes may remember it: which run they watch, up to which turn a session was read."""
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)
    numbers = []
    for run_id in ("first", "second", "third"):
        await a.create(run_id, run_id)
        await a.end(run_id, 1)
        numbers += await a.store._file.query("SELECT max(rid), max(tid) FROM runs, turns")
        if run_id != "first":
            assert await a.store.delete_session(run_id)
    assert numbers == [(1, 1), (2, 2), (3, 3)]
    await cluster.close()
