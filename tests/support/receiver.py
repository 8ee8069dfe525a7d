"""A receiver of webhooks, which verifies what comes, and answers or misbehaves as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

from standardwebhooks import Webhook as Verifier

__all__ = ["SECRET", "Receiver"]

SECRET = "whsec_" + "c2VjcmV0" * 5


class Receiver:
    """Listens on loopback. `answer` is the whole HTTP answer to each request, by its number from 1 on; None: never."""

    def __init__(
        self, answer: Callable[[int], bytes | None] | None = None, *, secret: str = SECRET, port: int = 0
    ) -> None:
        self.answer = answer or (lambda number: b"HTTP/1.1 204 No Content\r\n\r\n")
        self.received: list[tuple[str, Any]] = []
        """The id and the body of each request."""
        self.headers: list[dict[str, str]] = []
        self.unverified = 0
        self._secret = secret
        self.port = port
        self._news = asyncio.Event()
        self._busy = 0
        self.busy_most = 0
        """Most requests that were unanswered at the same time."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, count: int) -> None:
        """Wait for so many requests."""
        async with asyncio.timeout(120):
            while len(self.received) < count:
                self._news.clear()
                await self._news.wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = (line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                headers = {name.lower(): value for name, value in fields}
                body = await reader.readexactly(int(headers["content-length"]))
                self._busy += 1
                self.busy_most = max(self.busy_most, self._busy)
                self.received.append(self._heard(head, headers, body))
                self.headers.append(headers)
                self._news.set()
                answer = self._answer(head)
                try:
                    if answer is None:
                        await reader.read()  # until the other side has had enough
                        return
                    writer.write(answer)
                    await writer.drain()
                finally:
                    self._busy -= 1

    def _heard(self, head: str, headers: dict[str, str], body: bytes) -> tuple[str, Any]:
        try:
            decoded = Verifier(self._secret).verify(body, headers)
        except Exception:
            self.unverified += 1
            decoded = None
        return headers["webhook-id"], decoded

    def _answer(self, head: str) -> bytes | None:
        return self.answer(len(self.received))
