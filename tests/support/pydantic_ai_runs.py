"""Pydantic AI agents on a scripted model, run by the runner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import (
    GaplessError,
)
from gapless.events import (
    Event,
    ResumeEntry,
    TextMessageContentEvent,
    UserMessage,
)
from gapless.runs.run import Run
from tests.support.agui import check_order

Chunk = str | dict[int, DeltaToolCall] | dict[int, DeltaThinkingPart]


class Script:
    """A model that says one list of chunks per request of a turn, streamed or in one piece, and what it was asked.

    It stays where `stop_at` says, counted over everything it streams, until it is cancelled.
    """

    def __init__(self, *responses: list[Chunk]) -> None:
        self.responses = responses
        self.seen: list[list[m.ModelMessage]] = []
        self.infos: list[AgentInfo] = []
        self.stop_at: int | None = None
        self.stopped = asyncio.Event()
        self.calls_open = 0
        self.position = 0
        self.model = FunctionModel(self._whole, stream_function=self._stream)
        self.blocking = FunctionModel(self._whole)

    async def here(self) -> None:
        """One position further; stays if it is the one to stop at."""
        self.position += 1
        if self.position - 1 == self.stop_at:
            self.stopped.set()
            await asyncio.Event().wait()

    def _chunks(self, messages: list[m.ModelMessage], info: AgentInfo) -> list[Chunk]:
        self.seen.append(list(messages))
        self.infos.append(info)
        asked = 0
        for message in messages:
            if any(isinstance(p, m.UserPromptPart) and "<" not in p.content for p in message.parts):
                asked = 0  # a new turn; the framework words its own feedback as a prompt too
            asked += isinstance(message, m.ModelResponse)
        return self.responses[asked]

    async def _stream(self, messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.calls_open += 1
        try:
            for chunk in self._chunks(messages, info):
                await self.here()
                yield chunk
            await self.here()
        finally:
            self.calls_open -= 1

    def _whole(self, messages: list[m.ModelMessage], info: AgentInfo) -> m.ModelResponse:
        parts: dict[Any, m.ModelResponsePart] = {}
        for position, chunk in enumerate(self._chunks(messages, info)):
            if isinstance(chunk, str):
                last = next(reversed(parts), None)
                key = last if last is not None and isinstance(parts[last], m.TextPart) else f"text{position}"
                known = parts.get(key)
                parts[key] = m.TextPart((known.content if isinstance(known, m.TextPart) else "") + chunk)
                continue
            for index, delta in chunk.items():
                if isinstance(delta, DeltaThinkingPart):
                    thought = parts.get(index)
                    before = thought.content if isinstance(thought, m.ThinkingPart) else ""
                    parts[index] = m.ThinkingPart(before + (delta.content or ""), signature=delta.signature)
                else:
                    call = parts.get(index)
                    if isinstance(call, m.ToolCallPart):
                        parts[index] = m.ToolCallPart(
                            call.tool_name, f"{call.args}{delta.json_args}", call.tool_call_id
                        )
                    else:
                        parts[index] = m.ToolCallPart(delta.name or "", delta.json_args, delta.tool_call_id or "")
        return m.ModelResponse(parts=list(parts.values()), finish_reason="stop")


def call(index: int, name: str, id: str, *args: str) -> list[Chunk]:
    """One tool call in pieces."""
    first, *rest = args
    return [
        {index: DeltaToolCall(name=name, json_args=first, tool_call_id=id)},
        *({index: DeltaToolCall(json_args=piece)} for piece in rest),
    ]


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text(events: list[Event]) -> str:
    return "".join(event.delta for event in of(events, TextMessageContentEvent))


async def events_of(run: Run) -> list[Event]:
    events = [event async for event in run.events()]
    check_order(events)
    return events


async def one_run(agent: Any, message: Any = "hello", **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await events_of(await runner.start(message, **options))


async def failure_of(agent: Any, **options: Any) -> GaplessError:
    async with Runner(agent) as runner:
        run = await runner.start("hello", **options)
        with pytest.raises(GaplessError) as caught:
            await run.collect()
        await events_of(run)
    return caught.value


def frames_of(stream: str) -> list[dict[str, Any]]:
    """The JSON of an event stream's frames."""
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]


def every_call_is_answered(messages: list[m.ModelMessage]) -> None:
    """As providers demand it: the results of a response's calls are in the request after it, none without a call."""
    for position, message in enumerate(messages):
        if isinstance(message, m.ModelResponse):
            calls = {part.tool_call_id for part in message.parts if isinstance(part, m.ToolCallPart)}
            for part in message.parts:
                if isinstance(part, m.ToolCallPart):
                    part.args_as_dict(raise_if_invalid=True)
            after = messages[position + 1].parts if position + 1 < len(messages) else []
            assert calls == {part.tool_call_id for part in after if isinstance(part, m.ToolReturnPart)}


def weather_agent() -> tuple[Script, Agent[None, str]]:
    script = Script(
        [
            {0: DeltaThinkingPart(content="Where ")},
            {0: DeltaThinkingPart(content="is it?", signature="signed")},
            "Let me ",
            "look. ",
            *call(2, "weather", "c1", '{"ci', 'ty": "Paris"}'),
            *call(3, "weather", "c2", '{"city": ', '"Rome"}'),
        ],
        ["It is ", "sunny."],
    )
    agent = Agent(script.model, system_prompt="Be brief.")

    @agent.tool_plain
    async def weather(city: str) -> dict[str, str]:
        await script.here()
        return {city: "sunny"}

    return script, agent


class City(BaseModel):
    name: str
    people: int


def talks_and_calls() -> Script:
    return Script(["Let me look. ", *call(1, "weather", "c1", '{"city": "Rome"}')], ["It is sunny."])


def context(**options: Any) -> RunContext:
    async def interrupt(_: Any) -> list[ResumeEntry]:
        raise AssertionError("nothing to ask")

    content = options.pop("content", "hello")
    user = UserMessage(id="u", content=content)
    return RunContext(
        run_id=options.pop("run_id", "r"),
        session_id="s",
        user_id="u",
        agent_name="a",
        content=content,
        messages=[*options.pop("earlier", []), user],
        config=RunConfig(),
        interrupt=interrupt,
        **options,
    )


def openai(base_url: str, client: httpx2.AsyncClient) -> OpenAIChatModel:
    asked_once = AsyncOpenAI(base_url=base_url, api_key="k", http_client=client, max_retries=0)
    provider = OpenAIProvider(openai_client=asked_once)
    return OpenAIChatModel("double", provider=provider, settings={"extra_headers": {"connection": "close"}})
