"""The store in an SQLite file: the suite of every store, several processes on one file, and what it lets go of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gapless.errors import CursorExpired
from gapless.journals import open_store, sqlite_lists, sqlite_log, sqlite_retention
from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_bells import Bell
from gapless.journals.sqlite_file import SQLiteFile
from tests.journals.conformance import LEASE_S, Cluster, Conformance, an_event, conforms_in_any_order
from tests.journals.sqlite_place import FilePlace, rows, small


class TestSQLiteStore(Conformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> FilePlace:
        return FilePlace(tmp_path / "gapless.db")


class TestSQLiteStoreAtItsBounds(TestSQLiteStore):
    """And where nobody can be rung."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small(monkeypatch)
        monkeypatch.setattr(Bell, "open", lambda bell, on_ring: None)


def test_conforms_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(100_000))
        conforms_in_any_order(lambda: FilePlace(Path(folder) / f"{next(numbers)}.db"), examples=150)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gapless.db"


@pytest.fixture
async def cluster(path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(FilePlace(path))
    yield cluster
    await cluster.close()


# -- processes ---------------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from tests.journals.conformance import Clock, Heard, Worker, an_event
from gapless.journals.contract import Append
from gapless.journals.sqlite import SQLiteStore

async def main(path, worker_id, batches):
    store = SQLiteStore(path)
    worker = Worker(worker_id, store)
    await store.open(worker_id, worker.heard)
    await worker.create(worker_id, worker_id)
    print(0, flush=True)
    sys.stdin.readline()
    seq = 1
    for batch in range(batches):
        texts = [f"{seq + i} é" for i in range(batch % 7 + 1)]
        await worker.append(worker_id, seq, *texts)
        seq += len(texts)
        print(seq - 1, flush=True)
        await asyncio.sleep(0)
    await worker.end(worker_id, seq)
    print("end", seq, flush=True)
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def writer(path: Path, worker_id: str, batches: int) -> subprocess.Popen[str]:
    """Has created its run when it says 0, and writes when it is told to go on."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), worker_id, str(batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def texts_of(n: int) -> list[bytes]:
    return [an_event(f"{seq} é") for seq in range(1, n + 1)]


@pytest.mark.parametrize("acknowledged", [1, 40, 700])
async def test_sigkill_loses_no_accepted_event(cluster: Cluster, path: Path, acknowledged: int) -> None:
    process = writer(path, "w", 1_000_000)
    assert process.stdout is not None
    accepted = int(process.stdout.readline())
    go_on(process)
    while accepted < acknowledged:
        accepted = int(process.stdout.readline())
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    a = await cluster.worker("a")
    [run] = await a.store.take_over(LEASE_S)  # dead and not yet reaped: that needs no lease to be known
    output, _ = process.communicate()
    accepted = max([accepted, *map(int, output.split())])
    assert run.last_seq >= accepted
    assert await a.read_all("w") == texts_of(run.last_seq)
    end = await a.end("w", run.last_seq + 1)
    assert await a.read_all("w") == [*texts_of(run.last_seq), end]


async def test_two_processes_write_one_file_while_a_third_watches(cluster: Cluster, path: Path) -> None:
    a = await cluster.worker("a")
    processes = [writer(path, worker_id, 200) for worker_id in ("w1", "w2")]
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "0\n"
    watched = [run.id for run in await a.store.list_runs()]
    assert sorted(watched) == ["w1", "w2"]
    for run_id in watched:
        await a.store.watch(run_id)
    for process in processes:
        go_on(process)
    await a.heard.until(lambda: a.heard.closed == set(watched))
    for process in processes:
        output, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        last = int(output.split()[-1])
    for run_id in watched:
        assert a.heard.last[run_id] == last
        assert await a.read_all(run_id) == [*texts_of(last - 1), an_event("end")]
    assert await a.store.take_over(LEASE_S) == []


async def test_expired_events_free_their_space(cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_log, "LOG_BYTES_MAX", 1024 * 1024)
    a = await cluster.worker("a")
    sizes = []
    for round_ in range(1, 5):
        for i in range(20):
            await a.create(f"r{round_}-{i}", f"s{i}")
            await a.append(f"r{round_}-{i}", 1, *["x" * 1000] * 200)
            await a.end(f"r{round_}-{i}", 201, ended_at=round_)
        assert await a.store.expire(round_ + 1) == 20
        sizes.append(int(sqlite3.connect(path).execute("PRAGMA page_count").fetchone()[0]))
    assert rows(path, "segments") == 0
    assert sizes[-1] < 2 * sizes[0]


def test_urls(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/with%20space.db")
    assert isinstance(store, SQLiteStore)
    assert store.path == tmp_path / "with space.db"
    relative = open_store("sqlite:///gapless.db")
    assert isinstance(relative, SQLiteStore)
    assert relative.path == Path("gapless.db")


async def test_a_sessions_turns_are_read_in_steps(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a = await cluster.worker("a")
    for run in ("r1", "r2", "r3"):
        await a.create(run, "s")
        await a.end(run, 1, ended_at=1)
    looks = 0
    look = SQLiteFile.look

    async def counted(file: SQLiteFile, work: Callable[[sqlite3.Connection], Any]) -> Any:
        nonlocal looks
        looks += work.__name__ == "step"  # and not one for what others do
        return await look(file, work)

    monkeypatch.setattr(sqlite_lists, "STEP_S", -1.0)
    monkeypatch.setattr(SQLiteFile, "look", counted)
    assert [turn.run_id for turn in await a.store.turns("s")] == ["r1", "r2", "r3"]
    assert looks == 4


async def test_events_are_dropped_in_steps_and_nobody_waits_for_all_of_them(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await cluster.worker("a")
    for run_id in ("r", "s"):
        await a.create(run_id, run_id)
        for first in range(1, 12_001, 600):
            await a.append(run_id, first, *["x" * 1000] * 600)
        await a.end(run_id, 12_001, ended_at=1)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            with contextlib.suppress(CursorExpired):
                await a.store.read("r", 0, 1)
            await asyncio.sleep(0)

    steps, drop_events = list[int](), sqlite_retention._drop_events

    def noted(*given: Any) -> bool:
        steps.append(turns)
        return drop_events(*given)

    monkeypatch.setattr(sqlite_retention, "_drop_events", noted)
    monkeypatch.setattr(sqlite_retention, "STEP_S", -1.0)
    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    turns = 0
    assert await a.store.expire(2) == 2
    assert len(steps) > 3
    assert all(later - step >= sqlite_retention.TURNS_BETWEEN for step, later in itertools.pairwise(steps)), (
        "a word that is recorded, written and read between two of them waits for one"
    )
    waiting.cancel()
    for run_id in ("r", "s"):
        with pytest.raises(CursorExpired):
            await a.store.read(run_id, 0, 1)


async def test_what_a_worker_began_to_delete_another_goes_on_to_drop(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r")
    await a.append("r", 1, *["x"] * 5000)
    await a.end("r", 5001)
    await a.create("kept", "other")
    await a.append("kept", 1, *["x"] * 1000)
    await a.end("kept", 1001)
    with monkeypatch.context() as dying:
        dying.setattr(sqlite_retention, "_drop_events", lambda db, journals: False)  # its process dies here
        assert await a.store.delete_session("s")
    assert await b.store.get_run("r") is None
    kept = len(await b.read_all("kept"))
    assert (rows(path, "dropped"), kept) == (1, 1001)
    segments = rows(path, "segments")
    assert await b.store.expire(0) == 0
    assert rows(path, "dropped") == 0
    assert 0 < rows(path, "segments") < segments
    assert len(await b.read_all("kept")) == kept


async def test_what_a_worker_began_to_drop_another_goes_on_to_drop(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await cluster.worker("a"), await cluster.worker("b")
    assert isinstance(a.store, SQLiteStore)
    await a.create("r")
    await a.append("r", 1, *["x"] * 5000)
    await a.end("r", 5001, ended_at=1)
    with monkeypatch.context() as dying:
        dying.setattr(sqlite_retention, "_drop_events", lambda db, journals: False)  # its process dies here
        assert await a.store.expire(2) == 1
    assert rows(path, "segments") > 0
    with pytest.raises(CursorExpired):
        await b.store.read("r", 0, 1)
    assert await b.store.expire(2) == 0
    assert rows(path, "segments") == 0
    with pytest.raises(CursorExpired):
        await b.store.read("r", 0, 1)
