"""sse-starlette in a Starlette route, fed with a fast encoder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from bench.agents import generator_agent


class Delta(msgspec.Struct):
    delta: str
    type: str = "TEXT_MESSAGE_CONTENT"
    messageId: str = "m1"  # noqa: N815 - the wire's name


def build(_options: Mapping[str, str]) -> Any:
    encoder = msgspec.json.Encoder()

    async def events(message: str) -> AsyncIterator[ServerSentEvent]:
        position = 0
        async for delta in generator_agent(message):
            position += 1
            yield ServerSentEvent(data=encoder.encode(Delta(delta)).decode(), id=str(position), sep="\n")
        yield ServerSentEvent(data="", event="end", id="end", sep="\n")

    async def stream(request: Request) -> EventSourceResponse:
        return EventSourceResponse(events((await request.json())["message"]), sep="\n")

    return Starlette(routes=[Route("/stream", stream, methods=["POST"])])
