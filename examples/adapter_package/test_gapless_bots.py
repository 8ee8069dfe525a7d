"""The adapter passes the suite of adapters, and is found by its entry point."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

import pydantic
from bots import Bot, Message

from gapless.agents import adapt
from gapless.testing.agents import AgentConformance, Made
from gapless.testing.script import Chunk, Output, Reasoning, Text, ToolCall, pieces, response_at, wait_or_raise

_ids = itertools.count()


class ScriptedModel:
    """Says its chunks."""

    name = "scripted"

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.running = 0
        self.requests: list[str] = []
        self._chunks = chunks

    async def answer(self, talk: Sequence[Message], tools: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
        self.requests.append(str(talk))
        asked = [number for number, message in enumerate(talk) if message["role"] == "user"]
        request = sum(message["role"] == "bot" for message in talk[asked[-1] :])
        self.running += 1
        try:
            for chunk in response_at(self._chunks, len(asked) - 1, request):
                if await wait_or_raise(chunk):
                    continue
                for said in self._said(chunk):
                    yield said
            yield "tokens", (2, 1)
        finally:
            self.running -= 1

    def _said(self, chunk: Chunk) -> list[tuple[str, Any]]:
        if isinstance(chunk, Reasoning):
            return [("thought", chunk.text)]
        if isinstance(chunk, Output):
            return [("output", chunk.value)]
        if not isinstance(chunk, ToolCall):
            return [("text", chunk.text if isinstance(chunk, Text) else chunk)]
        id = f"call-{next(_ids)}"
        streamed = [("arguments", (id, chunk.name, piece)) for piece in pieces(chunk.args)]
        return [*streamed, ("call", {"id": id, "name": chunk.name, "arguments": chunk.args})]


class TestBot(AgentConformance):
    def make(
        self,
        *chunks: Chunk,
        tools: Sequence[Callable[..., Awaitable[Any]]] = (),
        approve: Collection[str] = (),
        output_type: type[pydantic.BaseModel] | None = None,
    ) -> Made:
        model = ScriptedModel(chunks)
        bot = Bot(model, tools, asks=approve, output=output_type)
        return Made(bot, running=lambda: model.running, requests=lambda: model.requests)


def test_it_is_found() -> None:
    assert type(adapt(Bot(ScriptedModel([])))).__module__ == "gapless_bots"
