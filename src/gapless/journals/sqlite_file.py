"""One SQLite file in use: its connection, transactions and faults, its write-ahead log, and whether it is still there.

Writing. One connection, on the event loop: a commit of a group takes tens of microseconds and goes to the page cache
(WAL, synchronous=NORMAL: a killed process loses nothing, a power cut may lose the last moments, never the file's
integrity). What blocks, the checkpoint and its fsync, runs in a thread on a connection of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gapless.errors import GaplessError, StoreCorrupt, StoreUnavailable
from gapless.journals import process
from gapless.journals.sqlite_schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, create_tables, migrate
from gapless.outage import Outage

__all__ = ["Due", "SQLiteFile", "blob", "immediately", "scalar"]

CHECKPOINT_S = 1.0
PASSING_MAX = 32
"""So many transactions of what need not last are left in the WAL: a checkpoint is an fsync or two, and a process that
has nothing to do counts its beat."""
SETTLED_NS = 1_000_000_000
"""A change this long ago has another time than one that comes after it, however coarse the clock of the file system."""
WAL_BYTES_MAX = 64 * 1024 * 1024
"""Past this the writer waits, for a moment, for a checkpoint that lets the WAL start over."""
WAL_REST_BYTES_MAX = 4 * 1024 * 1024
"""What such a checkpoint may still have to move; more is moved first, while the writer goes on."""
CHECKPOINT_ROUNDS = 8
"""Of moving it first; a writer that is faster than all of them has to wait for the rest."""
READERS_WAIT_S = 0.005
"""The WAL starts over only where no other process reads it: so long is waited for each of at most five that do."""
WAL_HELD_ROUNDS = 5
"""Checkpoints in a row that could not let a WAL past its bound start over, before that is said."""
READ_LOCKS = 123, 127
"""Bytes of the file beside the WAL, one of which is locked by whoever reads (sqlite.org/walformat.html, 2.3)."""
BUSY_PAUSE_S, BUSY_S_MAX = 0.001, 10.0
"""Another process holds the write lock: try again after a pause, for so long at most."""

HEADER = b"SQLite format 3\0"
"""How every SQLite file begins (sqlite.org/fileformat.html, 1.3)."""

blob = bytearray
"""What bytes are given to SQLite as. Of them, and of all but the exact types `str`, `int`, `float` and `bytearray`,
Python's module asks first whether they adapt themselves, by way of exceptions: 3,000 instructions for each."""
FREE_BYTES_MIN = 64 * 1024
"""What SQLite needs to open a store: the 32 KiB of the file that processes share, and the first of its log."""

log = logging.getLogger("gapless.sqlite")
_T = TypeVar("_T")
_FileId = tuple[int, int]


class SQLiteFile:
    """The file at a path, shared with other processes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.gone = ""
        """Why the file at the path is no longer the one that was opened."""
        self._db: sqlite3.Connection | None = None
        self._opened: dict[Path, _FileId | None] = {}
        """What was opened: the file, and the two that SQLite keeps beside it while anyone has it open."""
        self._writable = asyncio.Event()
        self._dirty = False
        self._passing = 0
        """Transactions of what need not last, since the last checkpoint."""
        self._seen_ns = 0
        """When the file at the path had last been changed, as it was looked into; 0 if it may be changed unseen."""
        self._held_rounds = 0
        """Checkpoints in a row after which the WAL is past its bound, as somebody reads it."""
        self._held_said_bytes = 0

    # -- opening ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._db is not None

    async def open(self) -> None:
        """Open the file and make it a store if it is empty. Raises `StoreUnavailable`, `StoreCorrupt`."""
        self._db = await self._connect_patiently()
        real = self.path.resolve()  # a link's own neighbours are not SQLite's
        beside = [real.with_name(f"{real.name}-{what}") for what in ("wal", "shm")]
        self._opened = {path: _file_id(path) for path in (self.path, *beside)}
        self._writable.set()

    def close(self) -> None:
        """Close the connection. Not in a thread: at the interpreter's exit there are none to be had."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    async def _connect_patiently(self) -> sqlite3.Connection:
        """Another process that opens or closes the file for a moment locks out even those who would wait for a lock."""
        deadline = time.monotonic() + BUSY_S_MAX
        while True:
            try:
                return self._connect()
            except StoreUnavailable as error:
                cause = error.__cause__
                if not isinstance(cause, sqlite3.Error) or not _is_busy(cause) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(BUSY_PAUSE_S)

    def _connect(self) -> sqlite3.Connection:
        if not self.path.parent.is_dir():
            raise StoreUnavailable(f"store {self.path}: the folder {self.path.parent} does not exist")
        db = None
        try:
            db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S_MAX, check_same_thread=False)
            self._is_store(db)  # before anything is written to what may be another program's file
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA wal_autocheckpoint=0")
            db.execute("BEGIN IMMEDIATE")
            if not self._is_store(db):
                create_tables(db)
            elif (version := scalar(db, "PRAGMA user_version")) < SCHEMA_VERSION:
                migrate(db, version)
                log.warning("store %s: brought from schema version %d to %d", self.path, version, SCHEMA_VERSION)
            db.execute("COMMIT")
            db.execute("PRAGMA busy_timeout=0")
        except BaseException as error:
            if db is not None:
                db.close()
            if isinstance(error, sqlite3.Error):
                raise self._translate(error) from error
            raise
        return db

    def _is_store(self, db: sqlite3.Connection) -> bool:
        """Return whether the file is a store; False when it is empty. Raises `StoreCorrupt` when it is something
        else.
        """
        tables = scalar(db, "SELECT count(*) FROM sqlite_master")  # first: both come at once, perhaps just now
        application = scalar(db, "PRAGMA application_id")
        if application != APPLICATION_ID:
            if application or tables:
                raise StoreCorrupt(f"store {self.path}: an SQLite file, but not one of Gapless; choose another path")
            return False
        version = scalar(db, "PRAGMA user_version")
        if version > SCHEMA_VERSION or version < min(MIGRATIONS, default=SCHEMA_VERSION):
            raise StoreCorrupt(
                f"store {self.path}: schema version {version}, this Gapless reads {SCHEMA_VERSION}; "
                "use the Gapless that wrote it, or another path"
            )
        return True

    # -- transactions -----------------------------------------------------------------------------------------------

    def connection(self) -> sqlite3.Connection:
        """Give the connection. Raises `StoreUnavailable` when there is none, or none to the file at the path."""
        if self._db is None:
            raise StoreUnavailable(f"store {self.path} is closed")
        if self.gone:
            raise StoreUnavailable(self.gone)
        return self._db

    async def transact(self, work: Callable[[sqlite3.Connection], _T], *, lasting: bool = True) -> _T:
        """Run `work` in one write transaction, waiting without blocking while another process writes. What need not
        outlast a power cut waits for a checkpoint until something does, or until there is much of it."""
        result = await self._run(lambda db: immediately(db, work), writes=True)
        self._passing += 1
        self._dirty |= lasting or self._passing >= PASSING_MAX
        return result

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work`, which begins its transaction with `immediately`, or writes by one statement: that is one by
        itself, at a third of the price. It may be run again, while another process writes."""
        result = await self._run(work, writes=True)
        self._dirty = True
        return result

    async def look(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work`, which only reads, on one state of the file."""
        return await self._run(lambda db: _in_one("BEGIN", db, work), writes=False)

    async def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement that only reads, and give its rows."""
        return await self._run(lambda db: db.execute(sql, values).fetchall(), writes=False)

    def state(self) -> object:
        """Return what is equal to what this returned before if nobody has committed anything since, here or elsewhere.
        Cheaper than any look. Raises `StoreUnavailable`."""
        db = self.connection()
        try:
            return db, scalar(db, "PRAGMA data_version"), db.total_changes
        except sqlite3.Error:  # whoever looks then is told of it
            return object()

    async def _run(self, work: Callable[[sqlite3.Connection], _T], *, writes: bool) -> _T:
        deadline = 0.0
        while True:
            if writes and not self._writable.is_set():
                await self._writable.wait()
            db = self.connection()
            try:
                return work(db)
            except sqlite3.Error as error:
                if not _is_busy(error):
                    raise self._translate(error) from error
                now = time.monotonic()
                deadline = deadline or now + BUSY_S_MAX
                if now > deadline:
                    raise StoreUnavailable(
                        f"store {self.path}: locked by another process for {BUSY_S_MAX:.0f} s"
                    ) from error
            await asyncio.sleep(BUSY_PAUSE_S)

    def _translate(self, error: sqlite3.Error) -> GaplessError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB and not _has_header(self.path):
            return StoreCorrupt(f"store {self.path}: no SQLite file, and so no Gapless store; choose another path")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreCorrupt(f"store {self.path}: the file is damaged ({error}); move it away or restore a copy")
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(self.path.parent)):
            then = (
                "free some space and start again" if self._db is None else "free some space, runs go on by themselves"
            )
            return StoreUnavailable(f"store {self.path}: the disk is full; {then}")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return StoreUnavailable(f"store {self.path}: {_why_closed(self.path, code)}")
        return StoreUnavailable(f"store {self.path}: {error}")

    # -- the write-ahead log ----------------------------------------------------------------------------------------

    async def keep_checkpointing(self) -> None:
        """Move the WAL into the file, in a thread, for as long as the store is open."""
        outage = Outage(log, f"store {self.path}: checkpoint")
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            self.look_at_path()
            if not self._dirty or self.gone:
                continue
            self._dirty, self._passing = False, 0
            try:
                self._note_held(await self._shorten_wal())
                outage.over()
            except (sqlite3.Error, OSError) as error:
                outage.failed(error)

    async def _shorten_wal(self) -> int:
        """Move the WAL, and let it start over if it is past its bound; how many bytes it has if somebody who reads it
        has kept it from that.

        The bound is one of what is in the WAL: its file stays as large as it once was. The writer is held only while
        little is left to be moved, and never for a reader: one that stays is there in a second, too."""
        moved_before = 0
        for _ in range(CHECKPOINT_ROUNDS):
            held, size, moved = await asyncio.to_thread(self.checkpoint, "PASSIVE")
            if size <= WAL_BYTES_MAX:
                return 0
            self._dirty = True  # look again, whether or not anything is written
            if moved < size:
                return size
            if size - moved_before <= WAL_REST_BYTES_MAX:
                break
            moved_before = moved
        self._writable.clear()
        try:
            held, size, _ = await asyncio.to_thread(self.checkpoint, "RESTART")
        finally:
            self._writable.set()
        return size if held else 0

    def _note_held(self, size: int) -> None:
        """Say who keeps the WAL from starting over, once that has lasted, and again whenever it is twice as long."""
        if size == 0:
            if self._held_said_bytes:
                log.warning("store %s: its write-ahead log starts over again", self.path)
            self._held_rounds = self._held_said_bytes = 0
            return
        self._held_rounds += 1
        if self._held_rounds >= WAL_HELD_ROUNDS and size >= 2 * self._held_said_bytes:
            self._held_said_bytes = size
            beside = self.path.resolve()
            readers = process.lock_holders(beside.with_name(f"{beside.name}-shm"), *READ_LOCKS)
            log.warning(
                "store %s: its write-ahead log has %d MB and grows, as another process has been reading the file for "
                "a while (%s): a backup, a shell with an open transaction? It can start over once that ends",
                self.path,
                size >> 20,
                ", ".join(readers) or "which one is not known",
            )

    def checkpoint(self, mode: str) -> tuple[bool, int, int]:
        """Run one checkpoint (sqlite.org/pragma.html#pragma_wal_checkpoint): whether others kept it from being whole,
        how many bytes are in the WAL, and how many of them are in the file too. Blocks."""
        address = f"{self.path.resolve().as_uri()}?mode=rw"  # never makes a new file
        db = sqlite3.connect(address, uri=True, timeout=READERS_WAIT_S)
        try:
            busy, frames, moved = db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            frame_bytes = scalar(db, "PRAGMA page_size") + 24
        finally:
            db.close()
        return bool(busy), frames * frame_bytes, moved * frame_bytes

    # -- is it still our file ---------------------------------------------------------------------------------------

    def look_at_path(self) -> None:
        """Note in `gone` whether the file at the path is still the one that was opened. SQLite goes on writing into a
        file that somebody has removed, replaced or overwritten; what is accepted then is lost. So look at it now and
        then, and take nothing while it is not that file.

        Only through SQLite: whoever else closes the file lets go of all locks that this process has on it (POSIX)."""
        gone = ""
        try:
            found = {path: _file_id(path) for path in self._opened}
            changed = [path for path, file_id in self._opened.items() if found[path] != file_id]
            if self.path in changed and found[self.path] is None:
                gone = (
                    f"store {self.path}: the file was removed while it is in use; put it back, or restart for a new one"
                )
            elif self.path in changed:
                gone = f"store {self.path}: the file was replaced while it is in use; restart to use the new one"
            elif changed:
                gone = (
                    f"store {self.path}: {changed[0].name} was removed or replaced while it is in use; "
                    "stop this server, which writes what it still holds into the file, and start it again"
                )
            elif (changed_ns := self.path.stat().st_ctime_ns) != self._seen_ns:  # else it is as it was found to be
                self._look_inside()
                self._seen_ns = changed_ns if time.time_ns() - changed_ns > SETTLED_NS else 0
        except sqlite3.Error:
            gone = f"store {self.path}: the file was overwritten while it is in use; restore it and restart"
        except OSError as error:
            gone = f"store {self.path}: {error.strerror}"
        if gone != self.gone:
            self.gone = gone
            log.error("%s", gone or f"store {self.path}: the file is back")

    def _look_inside(self) -> None:
        """Raise an error of SQLite's where the file has not its header any more."""
        header = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            # Or a file that is shorter than its header says counts as damaged. It is, without the WAL that is not
            # looked at here, while a checkpoint is under way and after one that the disk was too full for.
            header.execute("PRAGMA writable_schema = ON")
            scalar(header, "PRAGMA application_id")
        finally:
            header.close()


class Due:
    """Knows when something in the file is due, for whoever asks time and again: `first` is the statement that says when
    the first of it is, as one number or NULL. A file in which nobody has committed anything is not asked again."""

    def __init__(self, file: SQLiteFile, first: str) -> None:
        self._file = file
        self._sql = first
        self._state: object = None
        self._first: int | None = None

    async def is_none(self, now: int, *values: object) -> bool:
        """Return whether nothing is due. Raises `StoreUnavailable`, `StoreCorrupt`."""
        state = self._file.state()
        if state != self._state:
            ((first,),) = await self._file.query(self._sql, *values)
            self._state, self._first = state, first
        return self._first is None or self._first > now


def immediately(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """Run `work` in one write transaction."""
    return _in_one("BEGIN IMMEDIATE", db, work)


def _in_one(begin: str, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T]) -> _T:
    db.execute(begin)
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return result


def scalar(db: sqlite3.Connection, sql: str, *values: object) -> int:
    """Ask for one number."""
    row = db.execute(sql, values).fetchone()
    return int(row[0])


def _file_id(path: Path) -> _FileId | None:
    """Device and inode; None where there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _has_header(path: Path) -> bool:
    """Return whether a file begins as SQLite's do; True of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER
    except OSError:
        return True


def _is_full(folder: Path) -> bool:
    """Return whether a disk has no room for what SQLite begins with: it says of the file that processes share, beside
    the database, only that it failed."""
    try:
        return shutil.disk_usage(folder).free < FREE_BYTES_MIN
    except OSError:
        return False


def _why_closed(path: Path, code: int) -> str:
    """Say what keeps this user from a file, and what to do."""
    if path.exists() and not os.access(path, os.R_OK):
        return "the file is not readable; make it readable and writable for this user"
    if path.exists() and not os.access(path, os.W_OK):
        return "the file is read-only; make it writable for this user"
    if not os.access(path.parent, os.W_OK | os.X_OK):  # the log is beside the file, also of one that is there
        return f"the folder {path.parent} is not writable, and files are made in it; make it writable for this user"
    if code == sqlite3.SQLITE_READONLY:
        return "the file is read-only; make it writable for this user"
    return "cannot be opened; check the path and its permissions"


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
