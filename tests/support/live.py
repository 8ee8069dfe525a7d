"""A client of live runs, and an agent that repeats what it is told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import websockets
from websockets.asyncio.client import ClientConnection, connect

from gapless import RunContext
from gapless.events import CustomEvent, Event, text_of
from tests.support.waiting import WAIT_S


async def parrot(ctx: RunContext) -> AsyncIterator[str | Event]:
    async for request in ctx.live:
        if request.content is not None:
            yield f"You said {text_of(request.content)}. "
        elif request.blob is not None:
            yield CustomEvent(name="sound", value=[len(request.blob.data), request.blob.mime_type])
    yield "Bye."


async def one_word(message: str) -> AsyncIterator[str]:
    yield "word"


def live(url: str, **query: str) -> connect:
    target = httpx2.URL(url.replace("http", "ws", 1) + "/live", params={"agent": "parrot", **query})
    return connect(str(target), proxy=None, open_timeout=WAIT_S, ping_timeout=None)


async def heard(socket: ClientConnection, last: str | None = None) -> list[dict[str, Any]]:
    """The messages up to the one that has this in it, or to the end of the run."""
    messages = list[dict[str, Any]]()
    with contextlib.suppress(websockets.ConnectionClosedError):  # any end but the normal one: see `close_code`
        async for message in socket:
            messages.append(json.loads(message))
            if last is not None and last in message:
                break
    return messages


def text(messages: list[dict[str, Any]], role: str = "assistant") -> str:
    events = [message["data"] for message in messages if "data" in message]
    ids = {event["messageId"] for event in events if event["type"] == "TEXT_MESSAGE_START" and event["role"] == role}
    return "".join(e["delta"] for e in events if e["type"] == "TEXT_MESSAGE_CONTENT" and e["messageId"] in ids)
