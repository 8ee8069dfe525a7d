"""Doorbells beside an SQLite file: what others commit is heard by them alone, and without them all the same."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from gapless.journals import sqlite_bells, sqlite_news
from gapless.journals.contract import Append
from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_bells import Bell
from gapless.journals.sqlite_news import News
from gapless.records import RunStatus
from tests.journals.conformance import Cluster, Worker, an_event
from tests.journals.sqlite_place import FilePlace
from tests.support.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gapless.db"
    path.touch()
    return path


@pytest.fixture
async def cluster(path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(FilePlace(path))
    yield cluster
    await cluster.close()


@pytest.fixture
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks unless its bell is rung."""
    for pause in ("POLL_S", "POLL_ALONE_S", "POLL_RUNG_S"):
        monkeypatch.setattr(sqlite_news, pause, 1e6)


def news_of(worker: Worker) -> News:
    assert isinstance(worker.store, SQLiteStore)
    return worker.store._news


def is_at(worker: Worker, run_id: str, seq: int) -> bool:
    return worker.heard.last.get(run_id) == seq


def modes(path: Path) -> tuple[int, set[int]]:
    folder = path.with_name(path.name + "-bells")
    return stat.S_IMODE(folder.stat().st_mode), {stat.S_IMODE(bell.stat().st_mode) for bell in folder.iterdir()}


# -- the bells themselves ----------------------------------------------------------------------------------------------


async def test_whoever_is_rung_hears_it_and_the_folder_goes_with_the_last(path: Path) -> None:
    heard_a, heard_b = Mock(), Mock()
    a, b = Bell(path), Bell(path)
    a.open(heard_a)
    b.open(heard_b)
    assert a.ring([b.name]) == []
    await until(lambda: heard_b.called, "it was heard")
    b.ring_all()
    await until(lambda: heard_a.called, "it was heard")
    a.close()
    assert b.ring([a.name]) == [a.name]
    assert [bell.name for bell in path.with_name("gapless.db-bells").iterdir()] == [b.name]
    b.close()
    assert [left.name for left in path.parent.iterdir()] == ["gapless.db"]


async def test_who_is_rung_more_often_than_it_listens_is_not_lost(path: Path) -> None:
    heard = Mock()
    a, b = Bell(path), Bell(path)
    a.open(Mock())
    b.open(heard)
    assert a.ring([b.name] * 10_000) == []
    await until(lambda: heard.called, "it was heard")
    a.close()
    b.close()


@pytest.mark.parametrize(
    ("file", "folder", "bell"), [(0o600, 0o700, 0o600), (0o644, 0o700, 0o600), (0o664, 0o770, 0o660)]
)
async def test_who_may_write_the_file_may_ring(path: Path, file: int, folder: int, bell: int) -> None:
    path.chmod(file)
    a = Bell(path)
    a.open(Mock())
    assert modes(path) == (folder, {bell})
    a.close()


async def test_a_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 200) / "gapless.db"
    path.parent.mkdir()
    path.touch()
    heard = Mock()
    a, b = Bell(path), Bell(path)
    a.open(Mock())
    b.open(heard)
    assert a.ring([b.name]) == []
    await until(lambda: heard.called, "it was heard")
    a.close()
    b.close()


async def test_bells_of_those_who_were_killed_are_removed_by_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, next_one = Bell(path), Bell(path)
    dead.open(Mock())
    dead.silence()
    next_one.open(Mock())
    next_one.ring_all()
    bells = path.with_name("gapless.db-bells")
    assert {bell.name for bell in bells.iterdir()} == {dead.name, next_one.name}, "it might be about to be bound"
    monkeypatch.setattr(sqlite_bells, "STALE_S", -1.0)
    next_one.ring_all()
    assert [bell.name for bell in bells.iterdir()] == [next_one.name]
    next_one.close()


async def test_where_there_can_be_no_bell_there_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = path.with_name("gapless.db-bells")
    a = Bell(path)
    folder.symlink_to(path.parent)
    a.open(Mock())
    assert (a.name, a.ring(["b"])) == ("", ["b"])
    folder.unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    folder.mkdir()
    os.utime(folder)
    if os.getuid() == 0:
        os.chown(folder, 54321, 54321)
        a.open(Mock())
        assert a.name == "", "the folder is of neither of both"
    a.close()


# -- what is heard by them ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_looks")
async def test_what_others_commit_is_heard_by_bells_alone(cluster: Cluster) -> None:
    a = await cluster.worker("a")
    await until(lambda: news_of(a).alone, "it has looked")
    b = await cluster.worker("b")
    await until(lambda: not news_of(a).alone, "it has heard of the other")
    await a.store.watch_session("s")
    await b.create("r", "s")
    await a.heard.until(lambda: "s" in a.heard.sessions)
    await a.store.watch("r")
    for seq in range(1, 20):
        await b.append("r", seq, str(seq))
        await a.heard.until(partial(is_at, a, "r", seq))
    await a.store.send("r", b"stop")
    await b.heard.until(lambda: b.heard.commands == [("r", b"stop")])
    assert not await b.store.append([Append("r", 20, [an_event("20")], None, RunStatus.WAITING)])
    assert await b.store.release("r", 0)
    await a.heard.until(lambda: a.heard.wanted > 0)
    assert await b.store.claim("r") is not None
    await b.end("r", 21)
    await a.heard.until(lambda: "r" in a.heard.closed)


@pytest.mark.usefixtures("never_looks")
async def test_who_watches_nothing_is_not_rung_for_every_commit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[str] = []
    ring = Bell._ring

    def noted(bell: Bell, name: str) -> bool:
        rung.append(name)
        return ring(bell, name)

    monkeypatch.setattr(Bell, "_ring", noted)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await b.create("r")
    await b.append("r", 1, "1")
    await a.store.watch("r")
    rung.clear()
    await b.append("r", 2, "2")
    assert len(rung) == 1
    await a.store.unwatch("r")
    await a.store.renew()
    await b.append("r", 3, "3")
    assert len(rung) == 1


# -- without them ------------------------------------------------------------------------------------------------------


async def test_nothing_is_lost_with_a_ring(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bell, "_ring", lambda bell, name: True)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await b.create("r")
    await a.store.watch("r")
    await b.append("r", 1, "1")
    await a.heard.until(lambda: a.heard.last.get("r") == 1)
    await a.store.send("r", b"stop")
    await b.heard.until(lambda: b.heard.commands == [("r", b"stop")])


async def test_who_cannot_be_rung_looks_often(cluster: Cluster, path: Path) -> None:
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await b.create("r")
    await a.store.watch("r")
    await until(lambda: news_of(a).is_rung, "all have bells")
    for bell in path.with_name("gapless.db-bells").iterdir():
        bell.unlink()
    await b.append("r", 1, "1")
    await a.heard.until(lambda: a.heard.last.get("r") == 1)
    await b.store.renew()
    await until(lambda: not news_of(a).is_rung, "it was told")
    db = sqlite3.connect(path)
    assert dict(db.execute("SELECT id, bell > '' FROM workers")) == {"a": 0, "b": 1}
    db.close()
    await b.append("r", 2, "2")
    await a.heard.until(lambda: a.heard.last.get("r") == 2)
