"""One SQLite file in use: what it can suffer, and its write-ahead log."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gapless.errors import StoreCorrupt, StoreUnavailable
from gapless.journals import sqlite_file
from gapless.journals.sqlite import SQLiteStore
from gapless.journals.sqlite_file import SQLiteFile
from tests.journals.conformance import WAIT_S, Cluster, Heard, Worker
from tests.journals.sqlite_place import FilePlace, open_and_read
from tests.support.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gapless.db"


@pytest.fixture
async def cluster(path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(FilePlace(path))
    yield cluster
    await cluster.close()


async def test_the_write_ahead_log_starts_over_again_and_again_under_sustained_writing(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a checkpoint takes and whatever is written meanwhile."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_S", 0.01)
    monkeypatch.setattr(sqlite_file, "WAL_BYTES_MAX", 256 * 1024)
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


READER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
print(db.execute("SELECT count(*) FROM runs").fetchone()[0], flush=True)
input()
"""


async def test_a_reader_that_stays_freezes_nobody_and_is_named(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup, a shell: while it reads, the write-ahead log cannot start over. Once that was over its bound, whoever
    wrote waited for a reader five seconds of every ten."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_S", 0.01)
    monkeypatch.setattr(sqlite_file, "WAL_BYTES_MAX", 256 * 1024)
    a = await cluster.worker("a")
    await a.create("r")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    try:
        assert await asyncio.to_thread(reader.stdout.readline) == "1\n"
        seq, modes = 0, checkpoints_of(a, monkeypatch)
        async with asyncio.timeout(WAIT_S):
            while seq < 200 or "grows" not in caplog.text:
                seq += 1
                await a.append("r", seq, "x" * 10_000)
                await asyncio.sleep(0.005)
        assert set(modes) == {"PASSIVE"}, "the writer is held for no other"
    finally:
        reader.communicate("")
    assert f"python3, process {reader.pid}" in caplog.text or f"python, process {reader.pid}" in caplog.text
    assert caplog.text.count("grows") <= 6, "it is not said every second"
    start = wal_start(path)
    async with asyncio.timeout(WAIT_S):
        while wal_start(path) == start or "starts over again" not in caplog.text:
            seq += 1
            await a.append("r", seq, "x" * 10_000)
            await asyncio.sleep(0.005)
    assert len(await a.read_all("r")) == seq


async def test_a_write_ahead_log_that_was_once_large_holds_nobody_later(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file stays as large as it was; what is in it is what counts."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_S", 0.01)
    monkeypatch.setattr(sqlite_file, "WAL_BYTES_MAX", 256 * 1024)
    a = await cluster.worker("a")
    await a.create("r")
    start, seq = wal_start(path), 0
    async with asyncio.timeout(WAIT_S):
        while wal_start(path) == start:
            seq += 1
            await a.append("r", seq, "x" * 10_000)
            if seq >= 60:  # before, nothing else has its turn: it is past its bound then
                await asyncio.sleep(0.002)
    assert path.with_name(path.name + "-wal").stat().st_size > sqlite_file.WAL_BYTES_MAX
    modes = checkpoints_of(a, monkeypatch)
    async with asyncio.timeout(WAIT_S):
        while len(modes) < 5:
            seq += 1
            await a.append("r", seq, "small")
            await asyncio.sleep(0.005)
    assert set(modes) == {"PASSIVE"}


def checkpoints_of(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes of its checkpoints from now on."""
    assert isinstance(worker.store, SQLiteStore)
    modes: list[str] = []
    checkpoint = worker.store._file.checkpoint

    def noted(mode: str) -> Any:
        modes.append(mode)
        return checkpoint(mode)

    monkeypatch.setattr(worker.store._file, "checkpoint", noted)
    return modes


def wal_start(path: Path) -> int:
    """How often the write-ahead log has started over (its "checkpoint sequence number", sqlite.org/fileformat2.html,
    section 4.1)."""
    with path.with_name(path.name + "-wal").open("rb") as wal:
        return int.from_bytes(wal.read(16)[12:16], "big")


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
    said = "no SQLite file, and so no Gapless store" if damage in ("noise", "text") else "the file is damaged"
    with pytest.raises(StoreCorrupt, match=f"{path}: {said}"):
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
    pages = a.store._file.connection().execute("PRAGMA page_count").fetchone()[0]
    a.store._file.connection().execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(StoreUnavailable, match="disk is full"):
        while len(accepted) < 1000:
            accepted += await a.append("r", len(accepted) + 1, "x" * 5000)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await a.end("r", len(accepted) + 1)
    assert await a.read_all("r") == accepted
    a.store._file.connection().execute("PRAGMA max_page_count = 1000000")
    accepted.append(await a.end("r", len(accepted) + 1))
    assert await a.read_all("r") == accepted


FULL = "the disk is full; free some space and start again"


@pytest.mark.parametrize(
    ("code", "free_bytes", "said"),
    [
        (sqlite3.SQLITE_FULL, 0, FULL),
        (sqlite3.SQLITE_IOERR_SHMSIZE, 4096, FULL),
        (sqlite3.SQLITE_IOERR_SHMSIZE, 2**30, "disk I/O error"),
    ],
)
async def test_a_full_disk_at_the_start_is_told_as_such(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free_bytes: int, said: str
) -> None:
    def connect(*_: Any, **__: Any) -> sqlite3.Connection:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2**30, 0, free_bytes))
    with pytest.raises(StoreUnavailable) as raised:
        await SQLiteFile(path).open()
    assert raised.value.message == f"store {path}: {said}"


@pytest.mark.parametrize(
    ("code", "there", "forbidden", "said"),
    [
        (sqlite3.SQLITE_CANTOPEN, False, "folder", "the folder {folder} is not writable, and files are made in it"),
        (sqlite3.SQLITE_READONLY, True, "folder", "the folder {folder} is not writable, and files are made in it"),
        (sqlite3.SQLITE_READONLY, True, "file", "the file is read-only; make it writable"),
        (sqlite3.SQLITE_READONLY, True, "", "the file is read-only; make it writable"),
        (sqlite3.SQLITE_CANTOPEN, True, "reading", "the file is not readable; make it readable"),
        (sqlite3.SQLITE_CANTOPEN, True, "", "cannot be opened; check the path"),
    ],
)
async def test_what_keeps_a_user_from_a_file_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, there: bool, forbidden: str, said: str
) -> None:
    """The tests may run as root, who is kept from nothing."""

    def connect(*_: Any, **__: Any) -> sqlite3.Connection:
        error = sqlite3.OperationalError("what SQLite says")
        error.sqlite_errorcode = code
        raise error

    def access(of: Path, mode: int) -> bool:
        if of != path:
            return forbidden != "folder"
        return forbidden not in ("reading", "file") if mode == os.W_OK else forbidden != "reading"

    if there:
        path.touch()
    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(os, "access", access)
    with pytest.raises(StoreUnavailable) as raised:
        await SQLiteFile(path).open()
    assert raised.value.message.startswith(f"store {path}: {said.format(folder=path.parent)}")


async def test_a_writer_that_holds_the_lock_is_waited_for(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_S_MAX", 0.05)
    a = await cluster.worker("a")
    await a.create("r")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await a.append("r", 1, "1")
    monkeypatch.setattr(sqlite_file, "BUSY_S_MAX", 10.0)
    append = asyncio.create_task(a.append("r", 1, "1"))
    await asyncio.sleep(0)
    assert await a.store.read("r", 0, 1) == []  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert await append == await a.read_all("r")


async def test_a_process_that_only_renews_its_lease_seldom_moves_its_log(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_S", 0.01)
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)
    file = a.store._file
    await until(lambda: not file._dirty, "what it has written when it came is moved")
    modes = checkpoints_of(a, monkeypatch)
    for _ in range(sqlite_file.PASSING_MAX - 1):
        await a.store.renew()
    assert (file._dirty, modes) == (False, [])
    await a.store.renew()
    await until(lambda: bool(modes), "there is much of it")
    await until(lambda: not file._dirty, "it is moved")
    modes.clear()
    await a.store.renew()
    await a.create("r")
    await until(lambda: bool(modes), "a run is to last")


async def test_a_file_that_has_not_changed_is_not_looked_into(
    cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await cluster.worker("a")
    assert isinstance(a.store, SQLiteStore)
    file, looks = a.store._file, list[str]()
    look_inside = file._look_inside

    def noted() -> None:
        looks.append("inside")
        look_inside()

    monkeypatch.setattr(file, "_look_inside", noted)
    file.look_at_path()
    file.look_at_path()
    assert len(looks) == 2, "it was changed just now, and may be changed again at the same time"
    monkeypatch.setattr(sqlite_file, "SETTLED_NS", 0)
    for _ in range(3):
        file.look_at_path()
    assert len(looks) == 3
    path.write_bytes(b"something else entirely" * 1000)
    file.look_at_path()
    assert "overwritten" in file.gone


@pytest.mark.parametrize("what", ["removed", "replaced", "overwritten"])
async def test_a_file_that_is_taken_away_while_it_is_in_use_takes_nothing_more(
    cluster: Cluster, path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_S", 0.01)
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
    worker.store._file.look_at_path()
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
        assert all(store._file._opened.values()), "there is nothing that it does not look at"
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
            store._file.look_at_path()
            assert not store._file.gone
    for store in stores:
        await store.close()


async def test_looking_at_the_file_keeps_this_process_locks_on_it(cluster: Cluster, path: Path) -> None:
    """Else another process that closes the file takes itself for the last one, and the log away from this one."""
    worker = await cluster.worker("a")
    await worker.create("r")
    assert isinstance(worker.store, SQLiteStore)
    worker.store._file.look_at_path()
    other = (
        f"import sqlite3; db = sqlite3.connect({str(path)!r}); db.execute('SELECT * FROM runs').fetchall(); db.close()"
    )
    subprocess.run([sys.executable, "-c", other], check=True)
    assert path.with_name(path.name + "-wal").exists()


async def test_a_file_in_which_nobody_has_committed_anything_is_not_asked_again(cluster: Cluster, path: Path) -> None:
    a = await cluster.worker("a")
    asked: list[str] = []
    assert isinstance(a.store, SQLiteStore)
    await a.store._file.look(lambda db: db.set_trace_callback(asked.append))

    async def looks() -> int:
        """At what others may have left, time and again; how often the file was asked."""
        asked.clear()
        await a.store.take_over(10.0)
        await a.store.wanted(1)
        await a.store.outbox.take(1, 2)
        return sum(statement.startswith("SELECT") for statement in asked)

    assert await looks() > 0
    assert await looks() == 0
    await a.store.renew()
    assert await looks() > 0
    assert await looks() == 0
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE workers SET beat = beat + 1")
        other.commit()
    assert await looks() > 0
    assert await looks() == 0
    await cluster.worker("b")
    assert await looks() > 0
    assert await looks() > 0, "there is one whose beat is to be watched"
