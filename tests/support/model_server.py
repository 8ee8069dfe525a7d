"""A model behind HTTP: an OpenAI-compatible endpoint on loopback that says what it is told and notes who hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any


class ModelServer:
    """Streams `words`, then stays open until it is let go on, or answers with `status` at once."""

    def __init__(self, *words: str, status: int = 200) -> None:
        self.words = words
        self.status = status
        self.requests: list[dict[str, Any]] = []
        self.hung_up = asyncio.Event()
        """The client closed the connection before the answer had ended."""
        self.go_on = asyncio.Event()
        self.base_url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the base URL."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            yield self.base_url

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            self.requests.append(json.loads(await reader.readexactly(length)))
            if self.status != 200:
                body = b'{"error": {"message": "no"}}'
                reply = (
                    f"HTTP/1.1 {self.status} No\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                )
                writer.write(reply.encode() + b"connection: close\r\n\r\n" + body)
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for word in self.words:
                writer.write(_chunk({"content": word}))
            await writer.drain()
            gone = asyncio.ensure_future(reader.read())
            told = asyncio.ensure_future(self.go_on.wait())
            await asyncio.wait({gone, told}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.hung_up.set()
            else:
                writer.write(_chunk({}, "stop") + b"data: [DONE]\n\n")
            gone.cancel()
            told.cancel()
        finally:
            writer.close()


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "double",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
