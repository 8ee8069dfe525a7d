"""The journals in an SQLite file: the log stays within its bounds, and a trim may fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gapless.errors import StoreUnavailable
from gapless.journals import sqlite_log
from gapless.journals.sqlite import SQLiteStore
from tests.journals.conformance import Cluster, an_event
from tests.journals.sqlite_place import FilePlace, rows, small


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gapless.db"


@pytest.fixture
async def cluster(path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(FilePlace(path))
    yield cluster
    await cluster.close()


async def test_the_log_stays_bounded_though_runs_stand_still(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    still = {"mine": a, "others": b}
    for run_id, worker in still.items():
        await worker.create(run_id, run_id)
        await worker.append(run_id, 1, "1", "2")
    await a.create("busy", "busy")
    for seq in range(1, 301):
        await a.append("busy", seq, str(seq))
        if seq % 10 == 0:
            await b.store.renew()
    assert rows(path, "log") <= 3 * sqlite_log.LOG_ROWS_MAX
    for run_id, worker in still.items():
        await worker.append(run_id, 3, "3")
        assert await a.read_all(run_id) == await b.read_all(run_id) == [an_event(text) for text in "123"]
    assert await b.read_all("busy") == [an_event(str(seq)) for seq in range(1, 301)]


async def test_the_log_stays_bounded_in_bytes(cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_log, "LOG_BYTES_MAX", 1024 * 1024)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r", "s1")
    await a.append("r", 1, "1")
    await b.create("still", "s2")
    await b.append("still", 1, "1")
    await b.store.watch("r")
    for seq in range(2, 40):
        await a.append("r", seq, "x" * 100_000)
    assert rows(path, "log") >= 38  # held by b's unsealed event
    monkeypatch.setattr(sqlite_log, "LOG_ROWS_KEPT", 10)
    for seq in range(40, 80):
        if seq % 15 == 0:
            await b.store.renew()
        await a.append("r", seq, "x" * 100_000)
    assert rows(path, "log") <= 30
    await b.heard.until(lambda: b.heard.last.get("r") == 79)
    assert await b.read_all("r") == await a.read_all("r")
    assert await b.read_all("still") == await a.read_all("still") == [an_event("1")]


async def test_a_group_is_one_statement_until_somebody_listens(cluster: Cluster) -> None:
    a = await cluster.worker("a")
    await a.create("r", "s")
    said: list[str] = []
    assert isinstance(a.store, SQLiteStore)
    a.store._file.connection().set_trace_callback(said.append)
    await a.append("r", 1, "1")
    assert len(said) == 1
    b = await cluster.worker("b")
    await b.store.watch("r")
    said.clear()
    await a.append("r", 2, "2")
    assert len(said) > 1
    await b.heard.until(lambda: b.heard.last.get("r") == 2)
    assert await b.read_all("r") == await a.read_all("r") == [an_event(text) for text in "12"]


async def test_a_trim_that_fails_does_not_fail_the_append(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)

    async def fail(*_: int) -> None:
        raise StoreUnavailable("no room to trim")

    monkeypatch.setattr(a.store._log, "trim", fail)
    await a.create("r")
    for seq in range(1, 30):
        await a.append("r", seq, str(seq))
    assert len(await a.read_all("r")) == 29


async def test_what_nobody_listens_for_is_not_written_into_the_log(cluster: Cluster, path: Path) -> None:
    a = await cluster.worker("a")
    await a.create("r")
    await a.append("r", 1, "1")
    await a.end("r", 2)
    assert rows(path, "log") == 1  # what was in no segment then: no news of the session, and not the end
    b = await cluster.worker("b")
    await b.store.watch_session("s")
    await a.create("q")
    await a.end("q", 1)
    assert rows(path, "log") == 4  # the session twice, and the end
    await b.heard.until(lambda: "s" in b.heard.sessions)
    assert await b.read_all("r") == await a.read_all("r") == [an_event("1"), an_event("end")]
