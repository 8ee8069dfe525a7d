"""One statement of PostgreSQL that is run all the time, without what psycopg's cursors do for any statement.

The connection's own libpq is called (`psycopg.pq`, which is public): a call takes a fifth of the CPU that a cursor's
takes, and there are hundreds a second of it under load."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import count
from typing import Any, TypeAlias

from psycopg import AsyncConnection, OperationalError, errors
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

__all__ = ["Statement"]

NAME = b"gapless"


class Statement:
    """A statement that gives one row of texts, on a connection that nobody else uses meanwhile.

    Whoever breaks off a call closes the connection: its answer is still to come.
    """

    def __init__(self, connection: Connection, sql: str, types: Sequence[int], *, prepared: bool) -> None:
        """`sql` as psycopg has it, with `%s`; `types` are the parameters' object ids. It is prepared at the first call,
        with `prepared`."""
        numbers = count(1)
        self._sql = re.sub("%s", lambda _: f"${next(numbers)}", sql).encode()
        self._connection = connection
        self._types = list(types)
        self._prepare = prepared
        self._prepared = False
        self._loop = asyncio.get_running_loop()
        self._waiting: tuple[int, asyncio.Future[None], bool] | None = None
        """The socket of a call that waits, what wakes it, and whether it is to write."""

    async def __call__(self, *values: str | bytes) -> list[str | None]:
        """Run it, with texts and what is in PostgreSQL's binary form, and give the row. Raises psycopg's errors."""
        pgconn = self._connection.pgconn
        formats = [Format.TEXT if isinstance(value, str) else Format.BINARY for value in values]
        given = [value.encode() if isinstance(value, str) else value for value in values]
        if self._prepare and not self._prepared:
            pgconn.send_prepare(NAME, self._sql, self._types)
            self._checked(await self._answer(pgconn), ExecStatus.COMMAND_OK)
            self._prepared = True
        if self._prepared:
            pgconn.send_query_prepared(NAME, given, formats, Format.TEXT)
        else:
            pgconn.send_query_params(self._sql, given, self._types, formats, Format.TEXT)
        result = self._checked(await self._answer(pgconn), ExecStatus.TUPLES_OK)
        found = (result.get_value(0, column) for column in range(result.nfields))
        return [None if value is None else value.decode() for value in found]

    async def _answer(self, pgconn: PGconn) -> PGresult | None:
        """Send what is to be sent, and give the first result."""
        while pgconn.flush():
            await self._ready(pgconn.socket, to_write=True)
            pgconn.consume_input()  # a server that waits to be heard does not read
        first: PGresult | None = None
        while True:
            while pgconn.is_busy():
                await self._ready(pgconn.socket)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return first
            first = first or result

    async def _ready(self, socket: int, *, to_write: bool = False) -> None:
        """Wait until the socket can be read; with `to_write` until either can be done."""
        loop, ready = self._loop, self._loop.create_future()
        loop.add_reader(socket, _wake, ready)
        if to_write:
            loop.add_writer(socket, _wake, ready)
        self._waiting = socket, ready, to_write
        try:
            await ready
        finally:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """Have a call that waits look at its connection, which is about to be closed: nothing would wake it then, and
        by the time that it ended its socket's number might be another's."""
        if self._waiting is not None:
            (socket, ready, to_write), self._waiting = self._waiting, None
            self._loop.remove_reader(socket)
            if to_write:
                self._loop.remove_writer(socket)
            _wake(ready)

    def _checked(self, result: PGresult | None, wanted: ExecStatus) -> PGresult:
        if result is None:
            raise OperationalError("the connection is lost")
        if result.status != wanted:
            raise errors.error_from_result(result, encoding=self._connection.info.encoding)
        return result


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
