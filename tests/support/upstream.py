"""A service that answers with the bytes that the test gives it, and breaks off where the test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """One answer. `cut_at` (an offset in the body) with `clean` says how the body ends before its end; `hold` keeps
    the connection open after that instead."""

    body: bytes
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    clean: bool = False
    hold: bool = False


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: Any


class Upstream:
    """Answers its `replies` in turn, the last one for ever."""

    def __init__(self, replies: Sequence[Reply | Callable[[Request], Reply]]) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.left = asyncio.Event()
        """The client closed a connection that was held open."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            request = Request(line, headers, json.loads(body) if body else None)
            reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
            self.requests.append(request)
            reply = reply(request) if callable(reply) else reply
            try:
                await self._answer(reply, reader, writer)
            finally:
                if reply.hold:  # with a reset as well: that is what closing does where something is unread
                    self.left.set()
        writer.close()

    async def _answer(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(
            f"HTTP/1.1 {reply.status} X\r\ncontent-type: {reply.content_type}\r\n"
            f"transfer-encoding: chunked\r\nconnection: close\r\n{extra}\r\n".encode()
        )
        body = reply.body[: reply.cut_at]
        if body:
            writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        await writer.drain()
        if reply.hold:
            await reader.read()
        elif reply.cut_at is None or reply.clean:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


@contextlib.asynccontextmanager
async def upstream(*replies: Reply | Callable[[Request], Reply]) -> AsyncIterator[Upstream]:
    """A scripted HTTP service on a free loopback port."""
    service = Upstream(replies)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()


def sse(*data: Any, end: bytes = b"\n") -> bytes:
    """Server-Sent Events of JSON values, or of text as it is."""
    return b"".join(b"data: " + (one if isinstance(one, str) else json.dumps(one)).encode() + end + end for one in data)
