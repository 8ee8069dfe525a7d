"""Lists of an SQLite file's runs: what is read for a page, of however many."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.journals import finding
from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_lists import find_sql
from gapless.records import RunStatus
from gapless.sought import Sought
from tests.journals.conformance import Cluster
from tests.journals.sqlite_place import FilePlace
from tests.support.many_runs import fill

RUNS, FAILED, RARE = 100_000, 40, 7


@pytest.mark.parametrize(
    ("sought", "index"),
    [
        (Sought(), "SCAN runs|INTEGER PRIMARY KEY"),
        (Sought(agent="a", status=RunStatus.FINISHED, since=1), "INTEGER PRIMARY KEY"),
        (Sought(user_id="u", error="e"), "runs_user"),
        (Sought(session_id="s"), "runs_session"),
        (Sought(status=RunStatus.WAITING, user_id="u"), "runs_active"),
        (Sought(status=RunStatus.QUEUED, session_id="s"), "runs_active"),
        (Sought(status=RunStatus.FAILED, agent="a"), "runs_failed"),
        (Sought(error="e", since=1), "runs_failed"),
    ],
)
async def test_runs_are_looked_at_along_an_index_and_not_sorted(tmp_path: Path, sought: Sought, index: str) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    store = (await cluster.worker("a")).store
    assert isinstance(store, SQLiteStore)
    sql, values = find_sql(sought)
    plan = " ".join(row[3] for row in await store._file.query(f"EXPLAIN QUERY PLAN {sql}", *values, 1))
    assert any(name in plan for name in index.split("|")), plan
    assert "TEMP B-TREE" not in plan or sought.status is RunStatus.WAITING, "those that go on are few"
    await cluster.close()


async def test_of_100_000_runs_a_page_looks_at_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "LOOK_S_MAX", 1e9)
    path = tmp_path / "gapless.db"
    cluster = Cluster(FilePlace(path))
    store = (await cluster.worker("a")).store
    fill(path, RUNS, failed=FAILED, rare=RARE)

    async def looked(sought: Sought) -> tuple[list[int], int]:
        """At how many runs each page has looked, and how many were found."""
        pages, after, found = list[int](), None, 0
        while not pages or after is not None:
            page = await store.find_runs(sought, limit=50, after=after)
            pages.append(page.looked)
            found, after = found + len(page), page.next
        return pages, found

    assert await looked(Sought(agent="rare")) == ([finding.LOOKED_MAX] * (RUNS // finding.LOOKED_MAX), RARE)
    assert await looked(Sought(error="out of PAPER")) == ([FAILED], 1)
    assert await looked(Sought(status=RunStatus.FAILED)) == ([FAILED], FAILED)
    assert await looked(Sought(status=RunStatus.RUNNING)) == ([0], 0)
    page = await store.find_runs(Sought(status=RunStatus.FINISHED, agent="often"), limit=50)
    assert (len(page), page.looked) == (50, 51)
    assert (await store.find_runs(Sought(since=(RUNS - 20) * 1000), limit=50)).looked < 100
    await cluster.close()


async def test_the_newest_turns_are_read_without_counting_those_before(tmp_path: Path) -> None:
    cluster = Cluster(FilePlace(tmp_path / "gapless.db"))
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)

    async def end(*run_ids: str) -> None:
        for run_id in run_ids:
            await a.create(run_id)
            await a.end(run_id, 1)

    async def turns(skip: int) -> list[str]:
        return [turn.run_id for turn in await a.store.turns("s", skip)]

    asked: list[str] = []
    await end("1", "2", "3")
    await a.store._file.look(lambda db: db.set_trace_callback(asked.append))
    assert await turns(0) == ["1", "2", "3"]
    await end("4")
    asked.clear()
    assert await turns(2) == ["3", "4"]
    assert await turns(3) == ["4"]
    assert [sql for sql in asked if "OFFSET" in sql and not sql.endswith("OFFSET 0")] == []
    assert await turns(1) == ["2", "3", "4"]
    assert await turns(9) == []
    await a.store.delete_session("s")
    await end("a", "b", "c", "d", "e")
    assert await turns(3) == ["d", "e"]
    await cluster.close()
