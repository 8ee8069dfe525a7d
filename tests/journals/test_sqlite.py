"""The store in an SQLite file: the suite of every store, and what a file can suffer."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gapless.errors import StoreCorrupt, StoreUnavailable
from gapless.journals import open_store, sqlite
from gapless.journals.contract import Store
from gapless.journals.sqlite import SQLiteStore
from journals.conformance import LEASE_S, WAIT_S, Cluster, Conformance, Heard, Worker, an_event, conforms_in_any_order


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
from journals.conformance import Clock, Heard, Worker, an_event
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


# -- bounds ------------------------------------------------------------------------------------------------------------


def rows(path: Path, table: str) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        db.close()


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
    assert rows(path, "log") <= 3 * sqlite.LOG_ROWS_MAX
    for run_id, worker in still.items():
        await worker.append(run_id, 3, "3")
        assert await a.read_all(run_id) == await b.read_all(run_id) == [an_event(text) for text in "123"]
    assert await b.read_all("busy") == [an_event(str(seq)) for seq in range(1, 301)]


async def test_the_log_stays_bounded_in_bytes(cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOG_BYTES_MAX", 1024 * 1024)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r", "s1")
    await a.append("r", 1, "1")
    await b.create("still", "s2")
    await b.append("still", 1, "1")
    await b.store.watch("r")
    for seq in range(2, 40):
        await a.append("r", seq, "x" * 100_000)
    assert rows(path, "log") >= 38  # held by b's unsealed event
    monkeypatch.setattr(sqlite, "LOG_ROWS_KEPT", 10)
    for seq in range(40, 80):
        if seq % 15 == 0:
            await b.store.renew()
        await a.append("r", seq, "x" * 100_000)
    assert rows(path, "log") <= 30
    await b.heard.until(lambda: b.heard.last.get("r") == 79)
    assert await b.read_all("r") == await a.read_all("r")
    assert await b.read_all("still") == await a.read_all("still") == [an_event("1")]


async def test_the_write_ahead_log_starts_over_again_and_again_under_sustained_writing(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a checkpoint takes and whatever is written meanwhile."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_S", 0.01)
    monkeypatch.setattr(sqlite, "WAL_BYTES_MAX", 256 * 1024)
    a = await cluster.worker("a")
    await a.create("r")
    seq = 0
    starts: set[int] = set()
    async with asyncio.timeout(WAIT_S):
        while len(starts) < 5:
            seq += 1
            await a.append("r", seq, "x" * 10_000)
            await asyncio.sleep(0)
            starts.add(wal_start(path))
    assert len(await a.read_all("r")) == seq


def wal_start(path: Path) -> int:
    """How often the write-ahead log has started over (its "checkpoint sequence number", sqlite.org/fileformat2.html,
    section 4.1)."""
    with path.with_name(path.name + "-wal").open("rb") as wal:
        return int.from_bytes(wal.read(16)[12:16], "big")


async def test_expired_events_free_their_space(cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOG_BYTES_MAX", 1024 * 1024)
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


# -- what a file can suffer -------------------------------------------------------------------------------------------


async def open_and_read(path: Path) -> None:
    worker = Worker("x", SQLiteStore(path))
    await worker.store.open("x", worker.heard)
    try:
        for run in await worker.store.list_runs():
            await worker.read_all(run.id)
    finally:
        await worker.store.close()


@pytest.mark.parametrize("damage", ["noise", "text", "middle", "cut"])
async def test_a_damaged_file_is_said_to_be(path: Path, damage: str) -> None:
    cluster = Cluster(FilePlace(path))
    a = await cluster.worker("a")
    for i in range(20):
        await a.create(f"r{i}", f"s{i}")
        await a.append(f"r{i}", 1, *["x" * 1000] * 50)
        await a.end(f"r{i}", 51)
    await cluster.close()
    data = path.read_bytes()
    match damage:
        case "noise":
            data = bytes(i * 7919 % 256 for i in range(10_000))
        case "text":
            data = b"What was I thinking?\n" * 1000
        case "middle":
            data = data[:8192] + b"\xa5" * (len(data) - 16384) + data[-8192:]
        case "cut":
            data = data[: len(data) // 2]
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=str(path)):
        await open_and_read(path)
    assert path.read_bytes() == data or damage in ("middle", "cut")


async def test_another_programs_file_is_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE treasure(gold)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="not one of Gapless"):
        await open_and_read(path)
    assert path.read_bytes() == before


async def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    await open_and_read(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreCorrupt, match="version 99"):
        await open_and_read(path)


async def test_a_missing_folder_and_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await open_and_read(tmp_path / "nowhere" / "gapless.db")
    with pytest.raises(StoreUnavailable):
        await open_and_read(tmp_path)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the superuser's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_read_only_file_is_said_to_be() -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "gapless.db"
    await open_and_read(path)
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        with unprivileged(), pytest.raises(StoreUnavailable, match=str(path)):
            await open_and_read(path)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


async def test_a_full_disk_holds_back_and_loses_nothing(cluster: Cluster, path: Path) -> None:
    a = await cluster.worker("a")
    await a.create("r")
    accepted: list[bytes] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(StoreUnavailable):
            while len(accepted) < 1000:
                accepted += await a.append("r", len(accepted) + 1, *["x" * 500] * 10)
        assert await a.read_all("r") == accepted
        with pytest.raises(StoreUnavailable):
            await a.append("r", len(accepted) + 1, *["x" * 500] * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 50 < len(accepted) < 1000
    accepted += await a.append("r", len(accepted) + 1, *["x" * 500] * 10)
    await a.create("q", "s2")
    assert await a.read_all("r") == accepted


async def test_a_full_file_holds_back_and_loses_nothing(cluster: Cluster) -> None:
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)
    await a.create("r")
    accepted = await a.append("r", 1, "1")
    pages = a.store._connection().execute("PRAGMA page_count").fetchone()[0]
    a.store._connection().execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(StoreUnavailable, match="disk is full"):
        while len(accepted) < 1000:
            accepted += await a.append("r", len(accepted) + 1, "x" * 5000)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await a.end("r", len(accepted) + 1)
    assert await a.read_all("r") == accepted
    a.store._connection().execute("PRAGMA max_page_count = 1000000")
    accepted.append(await a.end("r", len(accepted) + 1))
    assert await a.read_all("r") == accepted


async def test_a_trim_that_fails_does_not_fail_the_append(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)

    async def fail(*_: int) -> None:
        raise StoreUnavailable("no room to trim")

    monkeypatch.setattr(a.store, "_trim", fail)
    await a.create("r")
    for seq in range(1, 30):
        await a.append("r", seq, str(seq))
    assert len(await a.read_all("r")) == 29


async def test_a_writer_that_holds_the_lock_is_waited_for(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S_MAX", 0.05)
    a = await cluster.worker("a")
    await a.create("r")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await a.append("r", 1, "1")
    monkeypatch.setattr(sqlite, "BUSY_S_MAX", 10.0)
    append = asyncio.create_task(a.append("r", 1, "1"))
    await asyncio.sleep(0)
    assert await a.store.read("r", 0, 1) == []  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert await append == await a.read_all("r")


def test_urls(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/with%20space.db")
    assert isinstance(store, SQLiteStore)
    assert store.path == tmp_path / "with space.db"
    relative = open_store("sqlite:///gapless.db")
    assert isinstance(relative, SQLiteStore)
    assert relative.path == Path("gapless.db")


@pytest.mark.parametrize("what", ["removed", "replaced", "overwritten"])
async def test_a_file_that_is_taken_away_while_it_is_in_use_takes_nothing_more(
    cluster: Cluster, path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_S", 0.01)
    worker = await cluster.worker("a")
    aside = path.with_name("aside.db")
    if what == "overwritten":
        path.write_bytes(b"something else entirely, and longer than a page" * 200)
    else:
        path.rename(aside)
    if what == "replaced":
        sqlite3.connect(path).execute("CREATE TABLE t(x)").connection.close()
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await worker.store.renew()
            except StoreUnavailable as error:
                assert what in str(error)  # noqa: PT017  # it comes in its own time
                break
            await asyncio.sleep(0.01)
    if what == "removed":
        aside.rename(path)  # it is back, and so is the store
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    await worker.store.renew()
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_a_log_that_is_taken_away_while_it_is_in_use_takes_nothing_more_and_loses_nothing(
    cluster: Cluster, path: Path, suffix: str
) -> None:
    worker = await cluster.worker("a")
    await worker.create("r")
    path.with_name(path.name + suffix).unlink()
    await worker.create("late", "elsewhere")  # before anyone could look
    assert isinstance(worker.store, SQLiteStore)
    worker.store._look_at_file()
    with pytest.raises(StoreUnavailable, match=f"{suffix} was removed"):
        await worker.create("refused", "elsewhere")
    await cluster.stop(worker)
    again = await cluster.worker("b")
    assert {run.id for run in await again.store.list_runs()} == {"r", "late"}


async def test_nothing_is_said_to_be_taken_away_while_others_come_and_go(cluster: Cluster, path: Path) -> None:
    path.with_name("link.db").symlink_to(path)
    stores = [SQLiteStore(path), SQLiteStore(path.with_name("link.db"))]
    for number, store in enumerate(stores):
        await store.open(f"s{number}", Heard(store))
        assert all(store._files.values()), "there is nothing that it does not look at"
    other = (
        f"import sqlite3; db = sqlite3.connect({str(path)!r}, isolation_level=None);"
        "db.execute('DELETE FROM commands'); db.execute('PRAGMA wal_checkpoint(TRUNCATE)');"
        "db.execute('VACUUM'); db.close()"
    )
    for _ in range(3):
        passing = await cluster.worker("passing")
        subprocess.run([sys.executable, "-c", other], check=True)
        await cluster.stop(passing)
        for store in stores:
            await store.renew()
            store._look_at_file()
            assert not store._gone
    for store in stores:
        await store.close()


async def test_looking_at_the_file_keeps_this_process_locks_on_it(cluster: Cluster, path: Path) -> None:
    """Else another process that closes the file takes itself for the last one, and the log away from this one."""
    worker = await cluster.worker("a")
    await worker.create("r")
    assert isinstance(worker.store, SQLiteStore)
    worker.store._look_at_file()
    other = (
        f"import sqlite3; db = sqlite3.connect({str(path)!r}); db.execute('SELECT * FROM runs').fetchall(); db.close()"
    )
    subprocess.run([sys.executable, "-c", other], check=True)
    assert path.with_name(path.name + "-wal").exists()
