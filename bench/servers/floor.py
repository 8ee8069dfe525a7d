"""The floor: a bare ASGI app, one `send` per chunk, nothing kept.

And one producer with many waiters, for the fan-out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bench.agents import generator_agent

HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
END = b"event: end\nid: end\ndata:\n\n"
Send = Callable[[dict[str, Any]], Awaitable[None]]


def frame(position: int, delta: str) -> bytes:
    data = f'{{"type":"TEXT_MESSAGE_CONTENT","messageId":"m1","delta":"{delta}"}}'
    return f"id: {position}\ndata: {data}\n\n".encode()


class Broadcast:
    """One log, many followers that each hold a position: the least that a fan-out can be."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ended = False
        self.woken: asyncio.Future[None] | None = None
        self.producer: asyncio.Task[None] | None = None

    def wake(self) -> None:
        if self.woken is not None:
            self.woken.set_result(None)
            self.woken = None

    async def produce(self, message: str) -> None:
        position = 0
        async for delta in generator_agent(message):
            position += 1
            self.frames.append(frame(position, delta))
            self.wake()
        self.ended = True
        self.wake()

    async def follow(self, send: Send) -> None:
        position = 0
        while True:
            if position < len(self.frames):
                body = b"".join(self.frames[position:])
                position = len(self.frames)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            elif self.ended:
                return
            else:
                if self.woken is None:
                    self.woken = asyncio.get_running_loop().create_future()
                await asyncio.shield(self.woken)


def build(_options: Mapping[str, str]) -> Any:
    broadcasts: dict[str, Broadcast] = {}

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        if scope["path"] == "/stream":
            position = 0
            async for delta in generator_agent(json.loads(body)["message"]):
                position += 1
                await send({"type": "http.response.body", "body": frame(position, delta), "more_body": True})
        elif scope["method"] == "POST":
            broadcast = broadcasts[scope["path"]] = Broadcast()
            broadcast.producer = asyncio.create_task(broadcast.produce(json.loads(body)["message"]))
            await broadcast.follow(send)
        else:
            await broadcasts[scope["path"]].follow(send)
        await send({"type": "http.response.body", "body": END})

    return app
