"""The PostgreSQL server of a store: the connections to it, one call of it, and what can go wrong with either."""

from __future__ import annotations

import asyncio
import logging
import re
import select
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format

from gapless.errors import GaplessError, StoreCorrupt, StoreUnavailable, UsageError
from gapless.journals.contract import Advice, shown_url
from gapless.journals.postgres_failures import translate, unreachable
from gapless.journals.postgres_schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION, VERSION_MIN
from gapless.journals.postgres_statement import Connection, Statement

__all__ = ["ANSWER_TIMEOUT_S", "Connection", "PostgresServer", "Row", "bytea_array", "int_array"]

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5, 10.0
CONNECTIONS_MAX = 6
"""Connections of one worker, beside the one that appends and the one that listens."""
ATTEMPTS_MAX = 10
"""Of one transaction that meets others in a deadlock."""
SESSION = {
    "statement_timeout": "8s",
    "idle_in_transaction_session_timeout": "4s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "plan_cache_mode": "force_generic_plan",
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
}
"""Settings of each connection that no pooler passes on. A statement ends sooner than it is no longer waited for, and a
process that stands still in the middle of a transaction keeps others from taking its runs for no longer than that, nor
one whose machine is gone for much longer: the server looks for it after seconds, not after two hours as by itself. All
statements look rows up by indexes, whatever the tables' sizes: they are planned once. (PostgreSQL would plan an append
anew each time, which takes it three times as long as to do it, 0.8 ms.)"""
TRANSACTION_S, TRANSACTION_SINCE = 11, 170_000
"""A transaction ends sooner than that, where the server can see to it: one of which the next statement has come in part
counts as idle to none. No call is waited for as long. The first connection, which may bring tables to this version, is
made before the server's version is known, and may take longer."""
LATENCY_CALLS, SLOW_S = 3, 0.02
"""The quickest of some answers is the round trip; a longer one is worth a word."""
_RISKS = {
    "synchronous_commit": "a crash of its machine may lose the last moments of what was accepted.",
    "fsync": "a crash of its machine may lose everything.",
    "full_page_writes": "a crash of its machine may damage it.",
}
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
OWN_OPTIONS = ("schema", "listen")

Row: TypeAlias = tuple[Any, ...]
_T = TypeVar("_T")

log = logging.getLogger("gapless.postgres")


class PostgresServer:
    """One server, or those that its URL names, as one worker calls it. `schema` is where the tables are.

    A call has a connection for itself for as long as it takes; at most `CONNECTIONS_MAX` are at work, others wait.
    """

    def __init__(self, url: str) -> None:
        self.name = _without_options(url)
        """The URL without the password that it may carry, for messages."""
        if (user := re.match(r"\w+://(.*)@", url, re.DOTALL)) and re.search(r"[/?#@\s]", user[1]):
            raise self._unreadable()  # or a part of the password would be taken for something else, and shown
        rest, self.schema, self._listen = _own_options(url, self.name)
        try:
            self._address = {**KEEPALIVE, "connect_timeout": CONNECT_TIMEOUT_S, **conninfo_to_dict(rest)}
        except psycopg.ProgrammingError:  # whose text may have a part of the password
            raise self._unreadable() from None
        self._address.setdefault("application_name", "gapless")
        self._quoted = '"' + self.schema.replace('"', '""') + '".'
        self._sql: dict[str, str] = {}
        self._idle: list[Connection] = []
        self._calling = asyncio.Semaphore(CONNECTIONS_MAX)
        self._server_version = 0
        """As libpq has it; 0 where no connection has been made."""
        self.is_open = False

    @property
    def behind_pooler(self) -> bool:
        """The URL says where to listen: connections to the address itself may be a pooler's."""
        return bool(self._listen)

    def sql(self, text: str) -> str:
        """Put the store's schema into SQL that names it `gapless`."""
        known = self._sql.get(text)
        if known is None:
            known = self._sql[text] = re.sub(r"\bgapless\.", lambda _: self._quoted, text)
        return known

    # -- connections ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and make the tables or bring them to this version. Raises `StoreUnavailable`, `StoreCorrupt`."""
        self.is_open = True
        self._calling = asyncio.Semaphore(CONNECTIONS_MAX)
        try:
            await self.transact(self._prepare)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self.is_open = False
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def connect(self, *, to_listen: bool = False) -> Connection:
        """Make a connection for the caller alone; with `to_listen` past a pooler. Raises `StoreUnavailable`."""
        if not self.is_open:
            raise self._closed()
        address: dict[str, Any] = dict(self._address)
        if self._listen and to_listen:
            host, _, port = self._listen.rpartition(":")
            address["host"], address["port"] = host, port
            address.pop("hostaddr", None)
        if not self._listen or to_listen:
            bound = {"transaction_timeout": f"{TRANSACTION_S}s"} if self._server_version >= TRANSACTION_SINCE else {}
            settings = " ".join(f"-c {name}={value}" for name, value in {**SESSION, **bound}.items())
            address["options"] = f"{settings} {address.get('options') or ''}"
        try:
            connection = await AsyncConnection.connect(
                **address, autocommit=True, prepare_threshold=None if self._listen else 5
            )
        except (psycopg.Error, OSError) as error:
            self._server_version = 0  # another may be in its place, which does not know all settings
            raise unreachable(error, self.name) from error
        self._server_version = connection.info.server_version
        connection.adapters.register_dumper(_ByteaArray, _ByteaArrayDumper)
        return connection

    async def call(self, work: Callable[[Connection], Awaitable[_T]], *, again: bool = False) -> _T:
        """Run `work` on a connection. With `again` it is run once more where the server has closed the connection
        meanwhile: it only reads. Raises `StoreUnavailable`, `StoreCorrupt`."""
        async with self._calling:
            connection, is_new = await self._take()
            while True:
                try:
                    async with asyncio.timeout(ANSWER_TIMEOUT_S):
                        result = await work(connection)
                except (psycopg.Error, OSError, TimeoutError) as error:
                    broken = connection.broken or connection.closed or isinstance(error, OSError | TimeoutError)
                    await self._give_back(connection, broken=broken)
                    if again and broken and not is_new:
                        await self._forget_idle()
                        connection, is_new = await self._take()
                        continue
                    raise self.translate(error) from error
                except BaseException as error:
                    await self._give_back(connection, broken=not isinstance(error, GaplessError))
                    raise
                await self._give_back(connection)
                return result

    async def _take(self) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not _has_news(connection):
                return connection, False
            await connection.close()
        return await self.connect(), True

    async def _give_back(self, connection: Connection, *, broken: bool = False) -> None:
        unfinished = connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        if broken or unfinished or connection.closed or not self.is_open:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _forget_idle(self) -> None:
        """Close what has waited for calls: a server that was restarted knows none of it."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    # -- calls ------------------------------------------------------------------------------------------------------

    async def transact(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Run `work` in one transaction, as `attempt`."""

        async def in_transaction(connection: Connection) -> _T:
            async with connection.transaction():
                return await work(connection)

        return await self.attempt(in_transaction)

    async def attempt(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Run `work`, which is one transaction by itself: a statement, or a pipeline. It is run again where it has met
        another in a deadlock. Raises as `call`."""

        async def again(connection: Connection) -> _T:
            for number in range(ATTEMPTS_MAX):
                try:
                    return await work(connection)
                except (errors.DeadlockDetected, errors.SerializationFailure):
                    if number == ATTEMPTS_MAX - 1:
                        raise
            raise AssertionError

        return await self.call(again)

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        """Run one statement that only reads, and give its rows. Raises as `call`."""
        return await self.call(lambda connection: self.fetch(connection, sql, *values), again=True)

    async def execute(self, sql: str, *values: Any) -> list[Row]:
        """Run one statement that writes, and give its rows. Raises as `call`."""
        return await self.call(lambda connection: self.fetch(connection, sql, *values))

    async def fetch(self, connection: Connection, sql: str, *values: Any) -> list[Row]:
        """Run one statement on this connection, and give its rows."""
        cursor = connection.cursor(binary=True)
        await cursor.execute(self.sql(sql), values)
        return await cursor.fetchall() if cursor.description is not None else []

    async def run(self, connection: Connection, sql: str, *values: Any) -> int:
        """Run one statement on this connection; how many rows it has changed. In a pipeline: 0."""
        cursor = connection.cursor(binary=True)
        await cursor.execute(self.sql(sql), values)
        return cursor.rowcount

    def statement(self, connection: Connection, sql: str, types: Sequence[int]) -> Statement:
        """Make a statement that is run all the time on a connection of its own; `types` are its parameters'."""
        return Statement(connection, self.sql(sql), types, prepared=not self._listen)

    # -- what can go wrong ------------------------------------------------------------------------------------------

    def translate(self, error: Exception) -> GaplessError:
        """Make of what psycopg raises what a store raises; a bug of ours is raised as it is."""
        return translate(error, self.name, self.schema, str(self._address.get("user") or ""), ANSWER_TIMEOUT_S)

    async def description(self) -> str:
        """Say which version the server is, and whether the connections to it are encrypted."""

        async def describe(connection: Connection) -> str:
            version = (connection.info.parameter_status("server_version") or "").partition(" ")[0]
            return f"PostgreSQL {version}, {'over TLS' if connection.pgconn.ssl_in_use else 'not encrypted'}"

        return await self.call(describe, again=True)

    async def advice(self) -> list[Advice]:
        """Say what of the server's set-up may lose what was accepted, and what makes each group of events wait."""
        rows = await self.rows("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", list(_RISKS))
        found: dict[str, str] = dict(rows)
        advice = [
            Advice(f"its server has {name} = off: {risk}", f"Set {name} to on.")
            for name, risk in _RISKS.items()
            if found.get(name) == "off"
        ]
        took = []
        for _ in range(LATENCY_CALLS):
            began = time.monotonic()
            await self.rows("SELECT 1")
            took.append(time.monotonic() - began)
        if min(took) > SLOW_S:
            risk = f"it takes {min(took) * 1000:.0f} ms to answer: each group of events waits for that, and each start."
            advice.append(Advice(risk, "Run Gapless near its database."))
        return advice

    def _unreadable(self) -> UsageError:
        text = "its URL cannot be read; write %XX for special characters, and options as libpq has them"
        return UsageError(f"store {self.name}: {text}")

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"store {self.name} is closed")

    # -- the tables -------------------------------------------------------------------------------------------------

    async def _prepare(self, connection: Connection) -> None:
        """Make the tables, or bring them to this version, while nobody else does."""
        if (version := connection.info.server_version // 10_000) < VERSION_MIN:
            raise StoreUnavailable(
                f"store {self.name}: this is PostgreSQL {version}, and {VERSION_MIN} or later is needed; upgrade it "
                "(pg_upgrade), or name another one"
            )
        if await self._version(connection) == SCHEMA_VERSION:
            return
        await self.run(connection, "SELECT pg_advisory_xact_lock(%s)", zlib.crc32(f"gapless {self.schema}".encode()))
        found = await self._version(connection)
        if found is None:
            if not await self.fetch(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", self.schema):
                await connection.execute(f"CREATE SCHEMA {self._quoted[:-1]}")
            await connection.execute(self.sql(SCHEMA))
            await self.run(connection, "INSERT INTO gapless.version VALUES(%s)", SCHEMA_VERSION)
        elif found == SCHEMA_VERSION:  # another process has made them meanwhile
            return
        elif found > SCHEMA_VERSION or found < min(MIGRATIONS, default=SCHEMA_VERSION):
            raise StoreCorrupt(
                f"store {self.name}: schema version {found}, this Gapless reads {SCHEMA_VERSION}; "
                "use the Gapless that wrote it, or another schema"
            )
        else:
            for before in range(found, SCHEMA_VERSION):
                await connection.execute(self.sql(MIGRATIONS[before]))
            await self.run(connection, "UPDATE gapless.version SET version = %s", SCHEMA_VERSION)
            log.warning("store %s: brought from schema version %d to %d", self.name, found, SCHEMA_VERSION)

    async def _version(self, connection: Connection) -> int | None:
        """Which version the tables have; None where there are none."""
        sql = """SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = %s AND c.relname = 'version'"""  # to_regclass may answer as before the lock was had
        if not await self.fetch(connection, sql, self.schema):
            return None
        (row,) = await self.fetch(connection, "SELECT version FROM gapless.version")
        return int(row[0])


def _has_news(connection: Connection) -> bool:
    """Tell whether a connection that waits for no answer has got something: that is how a server closes it. What is
    begun on such a one fails, and a transaction is not made again, as it may have been accepted."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


# -- parameters --------------------------------------------------------------------------------------------------------


class _ByteaArray(bytes):
    """An array of bytea, in PostgreSQL's binary form."""


class _ByteaArrayDumper(Dumper):
    oid = 1001  # bytea[]
    format = Format.BINARY

    def dump(self, obj: Buffer) -> Buffer:
        return obj


_HEADER = (1).to_bytes(4) + (0).to_bytes(4) + (17).to_bytes(4)
"""One dimension, no nulls, of bytea (array_recv in PostgreSQL's arrayfuncs.c)."""


def bytea_array(values: list[bytes]) -> bytes:
    """Make a parameter of type bytea[]. psycopg's own way asks each element for its type: that costs ten times more."""
    if not values:
        return _ByteaArray(bytes(8) + (17).to_bytes(4))
    parts = [_HEADER, len(values).to_bytes(4), (1).to_bytes(4)]
    for value in values:
        parts += (len(value).to_bytes(4), value)
    return _ByteaArray(b"".join(parts))


def int_array(values: Iterable[int]) -> str:
    """Make a parameter of type int[] or bigint[], for a cast."""
    return "{" + ",".join(map(str, values)) + "}"


# -- the URL -----------------------------------------------------------------------------------------------------------


def _without_options(url: str) -> str:
    scheme, _, rest = shown_url(url).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _own_options(url: str, name: str) -> tuple[str, str, str]:
    """Take what is Gapless's own out of a URL: the rest, which is libpq's, the schema, and where to listen."""
    address, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    own = {key: value for key, value in options if key in OWN_OPTIONS}
    rest = urlencode([(key, value) for key, value in options if key not in OWN_OPTIONS], quote_via=quote)
    schema, listen = own.get("schema", "gapless"), own.get("listen", "")
    if not schema or len(schema.encode()) > 63 or "\x00" in schema:
        raise UsageError(f"store {name}: schema={schema[:80]!r} is no name of a schema")
    if "listen" in own and not re.fullmatch(r"[^:/@?\s][^/@?\s]*:\d{1,5}", listen):
        raise UsageError(f"store {name}: write listen=HOST:PORT, the address of PostgreSQL itself")
    return f"{address}?{rest}" if rest else address, schema, listen
