"""A load balancer of the simplest kind: each connection goes to the next replica that takes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

_PIECE_BYTES = 65536


class Balancer:
    """`async with Balancer([a.url, b.url]) as balancer:` a client of `balancer.url`."""

    def __init__(self, replicas: Sequence[str]) -> None:
        self.url = ""
        self.taken: Counter[str] = Counter()
        """Connections that each replica took."""
        self._replicas = list(replicas)
        self._next = 0
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Balancer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            async with self._upstream() as (up_reader, up_writer):
                await asyncio.gather(_pipe(reader, up_writer), _pipe(up_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # nobody took it, one of the two went away, or the balancer ends
        finally:
            self._relays.discard(task)
            writer.close()

    @contextlib.asynccontextmanager
    async def _upstream(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        for _ in self._replicas:
            replica = self._replicas[self._next % len(self._replicas)]
            self._next += 1
            parts = urlsplit(replica)
            try:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except OSError:
                continue
            self.taken[replica] += 1
            try:
                yield reader, writer
            finally:
                writer.close()
            return
        raise ConnectionError("no replica takes a connection")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """To the end of one side, which is passed on by closing the other."""
    try:
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()
