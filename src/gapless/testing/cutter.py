"""A network that breaks on purpose."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Literal, Self, TypeAlias
from urllib.parse import urlsplit

__all__ = ["CutKind", "Cutter"]

CutKind: TypeAlias = Literal["abrupt", "mid-frame", "clean"]
"""`abrupt`: a reset in the middle of a chunk. `mid-frame`: a proper end of file with half a frame before it. `clean`: a
proper end of file between two frames, which looks like a complete answer."""

CUT_BYTES = (150, 900)
"""By default a stream is cut after so many bytes of its body."""
START_S_MAX = 60.0
"""What the proxy's thread may take to start, and to stop."""
_PIECE_BYTES = 512


class Cutter:
    """Cuts event streams, as a proxy in front of the HTTP server at `upstream`; everything else passes.

        with Cutter("http://127.0.0.1:8000", "abrupt", cuts=3) as cutter:
            client = MyClient(cutter.url)
            ...
            assert cutter.cuts.total() == 3

    Of each run (header `x-run-id`) it cuts the first `cuts` streams that are long enough, each at a place between
    `after_bytes` that follows from `seed` alone: the same seed cuts at the same byte. `kind` says how; None cuts
    nothing.

    It lives on a thread and a loopback port of its own until the block ends, and speaks HTTP/1.1 without TLS.
    """

    def __init__(
        self,
        upstream: str,
        kind: CutKind | None = "abrupt",
        *,
        cuts: int = 10,
        seed: int = 1,
        after_bytes: tuple[int, int] = CUT_BYTES,
    ) -> None:
        self.url = ""
        self.cuts: collections.Counter[str] = collections.Counter()
        """Streams cut so far, by run id."""
        self.refuse = 0
        """How many further connections are reset before they are answered."""
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._kind = kind
        self._cuts_max = cuts
        self._seed = seed
        self._after_bytes = after_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="gapless-cutter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S_MAX), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S_MAX)
        assert not self._thread.is_alive(), "the proxy did not stop"

    def _run(self) -> None:
        with contextlib.closing(self._loop) as loop:
            loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two sides went away
        except asyncio.CancelledError:
            pass  # the proxy ends; Python 3.11 would log it as an error
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            self.refuse -= 1
            return _reset(writer)
        lines, headers = await _head(reader)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        leaving = asyncio.ensure_future(reader.read())  # a client that leaves ends the connection upstream too
        leaving.add_done_callback(lambda _: up_writer.close())
        try:
            up_writer.write(_head_bytes(lines, headers | {"connection": "close"}) + body)
            lines, headers = await _head(up_reader)
            chunked = headers.pop("transfer-encoding", "") == "chunked"
            pieces = _chunks(up_reader) if chunked else _plain(up_reader)
            is_stream = headers.get("content-type", "").startswith("text/event-stream")
            headers["connection"] = "close"
            if is_stream and self._kind == "abrupt":  # in chunks, so that the missing last one tells
                headers["transfer-encoding"] = "chunked"
                headers.pop("content-length", None)
            writer.write(_head_bytes(lines, headers))
            if is_stream and self._kind is not None:
                await self._cut(pieces, writer, headers.get("x-run-id", ""), self._kind)
            else:
                async for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
        finally:
            leaving.cancel()
            up_writer.close()

    async def _cut(
        self, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter, run_id: str, kind: CutKind
    ) -> None:
        nth = self.cuts[run_id]
        left = random.Random(f"{self._seed}:{kind}:{nth}").randint(*self._after_bytes)  # noqa: S311  # reproducible on purpose
        writer.transport.set_write_buffer_limits(0)  # `drain` waits until the kernel has it all
        before = b""
        async for piece in pieces:
            armed = self.cuts[run_id] < self._cuts_max  # another connection of the run may have been cut meanwhile
            end = _place(before, piece, left, kind) if armed else None
            writer.write(_chunk(piece[:end]) if kind == "abrupt" else piece[:end])
            await writer.drain()
            if end is not None:
                self.cuts[run_id] += 1
                if kind == "abrupt":
                    _reset(writer)
                return
            left -= len(piece)
            before = piece[-1:]
        if kind == "abrupt":
            writer.write(b"0\r\n\r\n")


def _place(before: bytes, piece: bytes, left: int, kind: CutKind) -> int | None:
    """Return where in this piece to cut, `left` bytes into it or later; None if the place is not in it."""
    for end in range(max(left, 1), len(piece) + 1):
        at_boundary = (before + piece[:end])[-2:] == b"\n\n"
        if kind == "abrupt" or at_boundary == (kind == "clean"):
            return end
    return None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, str]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head[:-4].split(b"\r\n")
    headers = {}
    for line in rest:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return first, headers


def _head_bytes(first: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
    return b"\r\n".join([first, *lines, b"", b""])


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the body of a chunked answer (RFC 9112, section 7.1). Passed on without chunks, a cut looks like an end."""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        while size:
            piece = await reader.read(min(size, _PIECE_BYTES))
            if not piece:
                raise ConnectionError("the server went away")
            size -= len(piece)
            yield piece
        await reader.readexactly(2)


async def _plain(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(_PIECE_BYTES):
        yield piece
