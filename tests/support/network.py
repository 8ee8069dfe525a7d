"""A network that can be slowed down, cut and silenced: a TCP proxy on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

PIECE_BYTES = 64 * 1024
START_S_MAX = 60.0


class Network:
    """Between its `port` and a server. On a thread of its own, until the block ends."""

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        """Each piece, in each direction, takes so much longer."""
        self._upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._silent = asyncio.Event()
        self._passing: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._open = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="test-network")

    def silence(self) -> None:
        """Nothing arrives any more, and nobody is told: a cable that was pulled."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def restore(self) -> None:
        """What was on its way goes on."""
        self._loop.call_soon_threadsafe(self._open.set)

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S_MAX), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S_MAX)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._open.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True))
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # at the end; asyncio's streams would complain of it
            await self._connected(reader, writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                while piece := await reader.read(PIECE_BYTES):
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                    await self._open.wait()
                    writer.write(piece)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()
