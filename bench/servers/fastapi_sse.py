"""FastAPI's own Server-Sent Events, used as its documentation shows: the endpoint yields models."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from bench.agents import generator_agent


class Request(BaseModel):
    message: str


class Delta(BaseModel):
    type: str = "TEXT_MESSAGE_CONTENT"
    messageId: str = "m1"  # noqa: N815 - the wire's name
    delta: str


def build(_options: Mapping[str, str]) -> Any:
    app = FastAPI()

    @app.post("/stream", response_class=EventSourceResponse)
    async def stream(request: Request) -> AsyncIterable[Delta]:
        async for delta in generator_agent(request.message):
            yield Delta(delta=delta)

    return app
