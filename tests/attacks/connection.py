"""A connection that sends whatever bytes it is given and reads what comes back, a whole answer or a part of one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import httptools

ANSWER_S_MAX = 60.0
"""What a server may take to say something."""
BODY_BYTES_MAX = 64 * 1024 * 1024
SWITCHED = 101
_READ_BYTES = 64 * 1024


class NoAnswer(Exception):
    """The server has closed the connection, or said nothing in time (`hangs`), before its answer was whole."""

    def __init__(self, why: str, *, hangs: bool = False) -> None:
        super().__init__(why)
        self.hangs = hangs


class Connection:
    """Sends `raw` to a port of this machine and takes the answer. An async context manager; it ends with a reset."""

    def __init__(self, port: int, raw: bytes, *, buffer_bytes: int | None = None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._port, self._raw, self._buffer_bytes = port, raw, buffer_bytes
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if self._buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            limit = self._buffer_bytes or _READ_BYTES
            self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=limit)
        except OSError as error:
            sock.close()
            raise NoAnswer(str(error)) from None
        try:
            self._writer.write(self._raw)
            async with asyncio.timeout(ANSWER_S_MAX):
                with contextlib.suppress(OSError):  # it may have said why before
                    await self._writer.drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise NoAnswer("the request is not read", hangs=True) from None
        except BaseException:
            self._writer.transport.abort()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    # -- httptools' callbacks -----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.complete = self.status >= 200

    async def send(self, raw: bytes, wait_s: float) -> bytes:
        """Send more, and return what comes back at once."""
        with contextlib.suppress(OSError, TimeoutError):
            self._writer.write(raw)
            async with asyncio.timeout(wait_s):
                return await self._reader.read(_READ_BYTES)
        return b""

    @property
    def received(self) -> bytes:
        """The body so far."""
        return bytes(self._body)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _more(self, wait_s: float, count: int = _READ_BYTES) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                piece = await self._reader.read(count)
        except TimeoutError:
            raise NoAnswer(f"nothing for {wait_s:.0f} s", hangs=True) from None
        except OSError as error:
            raise NoAnswer(str(error)) from None
        if piece and not self.complete:
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                pass
            except httptools.HttpParserError as error:
                raise NoAnswer(f"an answer that is no HTTP: {error}: {piece[:100]!r}", hangs=True) from None
        return bool(piece)

    async def head(self, wait_s: float = ANSWER_S_MAX) -> int:
        """The status, once the headers have come."""
        while self.status != SWITCHED and self.status < 200:
            if not await self._more(wait_s):
                raise NoAnswer("closed without an answer")
        return self.status

    async def body(self, wait_s: float = ANSWER_S_MAX) -> bytes:
        """The whole body."""
        await self.head(wait_s)
        while not self.complete and len(self._body) < BODY_BYTES_MAX:
            if not await self._more(wait_s):
                if "content-length" not in self.headers and "transfer-encoding" not in self.headers:
                    break  # it ends with the connection
                raise NoAnswer("closed in the middle of an answer")
        return bytes(self._body)

    async def pieces(self, wait_s: float = ANSWER_S_MAX, count: int = _READ_BYTES) -> AsyncIterator[bytes]:
        """The body as it comes, `count` bytes of the connection at a time, to its end."""
        while True:
            if self._body:
                piece = bytes(self._body)
                self._body.clear()
                yield piece
            elif self.complete:
                return
            elif not await self._more(wait_s, count):
                raise NoAnswer("closed in the middle of an answer")


def request(
    method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None, *, close: bool = True
) -> bytes:
    """A request as it should be."""
    lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1"]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if close:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def ws_frame(
    rng: random.Random, opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, rsv: int = 0
) -> bytes:
    """A WebSocket frame (RFC 6455, section 5.2)."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(payload))
    if not mask:
        return head + payload
    key = rng.randbytes(4)
    repeated = key * (len(payload) // 4 + 1)
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return head + key + masked.to_bytes(len(payload), "big")


def ws_handshake(target: str, headers: dict[str, str]) -> bytes:
    """The request that opens a WebSocket."""
    key = "AAAAAAAAAAAAAAAAAAAAAA=="
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-key": key, "sec-websocket-version": "13"}
    return request("GET", target, {**upgrade, **headers}, close=False)


def rss_bytes(pid: int) -> int:
    """What a process has in memory; 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used; 0 for one that is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def parent_of(pid: int) -> int:
    """The process that has started one that lives; 0 for one that is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields and fields[0] not in "ZX" else 0


def _stat(pid: int) -> list[str]:
    """Of proc_pid_stat(5) what comes after the name."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
