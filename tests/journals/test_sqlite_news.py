"""News of other processes in an SQLite file: how often they are looked for, and what may have been missed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_log import SEGMENT_EVENTS
from tests.journals.conformance import Cluster, Worker, an_event
from tests.journals.sqlite_place import FilePlace
from tests.support.waiting import until


def is_alone(worker: Worker) -> bool:
    assert isinstance(worker.store, SQLiteStore)
    return worker.store._news.alone


async def test_a_worker_that_is_alone_looks_seldom_until_another_comes(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a = await cluster.worker("a")
    await until(lambda: is_alone(a), "it has looked")
    b = await cluster.worker("b")
    await until(lambda: not is_alone(a), "it has noticed the other")
    await b.create("r")
    await a.store.watch("r")
    await b.append("r", 1, "1")
    await a.heard.until(lambda: a.heard.last.get("r") == 1)
    assert await a.read_all("r") == [an_event("1")]
    await b.end("r", 2)
    await cluster.stop(b)
    await until(lambda: is_alone(a), "the other has gone")
    await cluster.close()


async def test_a_worker_is_alone_again_when_it_has_taken_the_runs_of_a_dead_one(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await b.create("r")
    assert [run.id for run in (await cluster.lapse(a))["a"]] == ["r"]
    await a.store.take_over(1.0)
    assert is_alone(a)
    await cluster.close()


async def test_who_was_fenced_is_told_of_what_it_may_have_missed(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await b.create("r")
    await a.store.watch("r")
    await a.store.watch_session("s")
    await a.store.watch_user("u")
    await cluster.lapse(b)  # to b, nobody listens any more
    a.heard.sessions.clear()
    await b.append("r", 1, *["x"] * SEGMENT_EVENTS)
    await a.store.open("a again", a.heard)
    await a.heard.until(lambda: "s" in a.heard.sessions and a.heard.last.get("r") == SEGMENT_EVENTS)
    assert await a.read_all("r") == await b.read_all("r")
    await cluster.close()


async def test_who_watches_while_it_comes_back_is_told(tmp_path: Path) -> None:
    """Others write nothing into the log that nobody listens for."""
    path = tmp_path / "gapless.db"
    cluster = Cluster(FilePlace(path))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await b.create("r")
    await cluster.lapse(b)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        coming = asyncio.create_task(a.store.open("a again", a.heard))
        await asyncio.sleep(0)  # it waits for the shell
        shell.execute("COMMIT")
    await a.store.watch("r")
    await coming
    await b.append("r", 1, *["x"] * SEGMENT_EVENTS)
    await a.heard.until(lambda: a.heard.last.get("r") == SEGMENT_EVENTS)
    assert await a.read_all("r") == await b.read_all("r")
    await cluster.close()


async def test_a_run_that_is_deleted_before_its_end_was_looked_at_is_told_as_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a cancelled run is waited for and deleted with its session, while another process is busy."""
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r", "s1")
    await a.create("q", "s2")
    for run_id in ("r", "q"):
        await b.store.watch(run_id)
    assert isinstance(b.store, SQLiteStore)
    with monkeypatch.context() as busy:
        busy.setattr(b.store._news, "_read", lambda db: None)
        end = await a.end("r", 1)
        assert await a.store.delete_session("s1")
    b.store._news._look_anyway()
    await b.heard.until(lambda: "r" in b.heard.closed)
    assert b.heard.events["r"] == {1: end}, "what it said is heard before"
    assert b.store._news._watched.keys() == {"q"}
    await a.end("q", 1)
    await b.heard.until(lambda: "q" in b.heard.closed)
    await cluster.close()


async def test_a_file_that_cannot_be_read_for_a_while_is_told_once_and_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gapless.journals.sqlite_news.CHECKPOINT_S", 0.001)
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a, b = await cluster.worker("a"), await cluster.worker("b")
    assert isinstance(a.store, SQLiteStore)
    look, tries = a.store._file.look, 0

    async def failing(read: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 5:
            raise sqlite3.OperationalError(f"try {tries}: disk I/O error")
        return await look(read)

    await b.create("r")
    await a.store.watch("r")
    monkeypatch.setattr(a.store._file, "look", failing)
    await b.append("r", 1, "1")
    await a.heard.until(lambda: a.heard.last.get("r") == 1)
    await until(lambda: any("over" in one for one in caplog.messages), "its end is told")
    away, over = [one for one in caplog.messages if "looking again: " in one]
    assert away.endswith("looking again: try 1: disk I/O error")
    assert "looking again: that is over, after " in over
    await cluster.close()
