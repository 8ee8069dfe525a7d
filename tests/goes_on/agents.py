"""Agents that go on at another worker: of functions, Pydantic AI, ADK, LangGraph and the OpenAI Agents SDK. All say and
do the same, what `plans` has for the run, and each step is written to a ledger outside. `points` says where they stand
still.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Any

import agents
from agents.items import TResponseStreamEvent
from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.tools.function_tool import FunctionTool
from google.genai import types
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from openai.types import responses as r
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

import gapless
from gapless import RunContext
from gapless.agents.base import current_run
from gapless.agents.openai_agents import OpenAIAgent
from gapless.events import Interrupt
from tests.goes_on.plans import Part, plan_of
from tests.goes_on.points import beginning, ending, install, other_is_kept, reach

install(lease_s=float(os.environ["GAPLESS_TEST_LEASE_S"]))

BEGUN = re.compile(r"(\d+)\.0 ")
"""What a part's first word looks like."""


def parts_of_run() -> tuple[str, list[Part]]:
    run = current_run()
    assert run is not None, "a run calls this"
    return run.run_id, plan_of(run.run_id).parts


async def words(run_id: str, part: Part, results: str = "") -> AsyncIterator[str]:
    """What the model says in this part, after the `results` of the tools that it has called."""
    for word in part.words:
        yield results + word
        results = ""
        await asyncio.sleep(part.pause_s)
        if word.endswith(".1 "):
            await reach(run_id, "in text", part.number)


async def work(name: str) -> str:
    """The tool."""
    run_id, parts = parts_of_run()
    number, _, tool = name.partition(".")
    part = parts[int(number)]
    beginning(run_id, part.number, tool)
    if part.kind == "tools":
        if tool == "tool-b":
            await other_is_kept(run_id, part.number)
        await reach(run_id, "in two tools", part.number)
    else:
        await reach(run_id, "in a tool", part.number)
    await asyncio.sleep(part.pause_s)
    ending(run_id, part.number, tool)
    return name


async def approved_work(name: str) -> str:
    """The tool, where a person has to approve it."""
    return await work(name)


def tool_of(part: Part) -> str:
    """Which of the two the model calls."""
    return "approved_work" if part.kind == "ask" else "work"


# -- functions ---------------------------------------------------------------------------------------------------------


@gapless.replays
async def functions(message: str, ctx: RunContext) -> AsyncIterator[str]:
    async def ask_model(part: Part) -> list[str]:
        beginning(ctx.run_id, part.number, "model")
        await reach(ctx.run_id, "asks the model", part.number)
        await asyncio.sleep(part.pause_s)
        ending(ctx.run_id, part.number, "model")
        return part.words

    for part in plan_of(ctx.run_id).parts:
        await ctx.step(f"{part.number}.model", ask_model, part)
        async for word in words(ctx.run_id, part):
            yield word
        if part.kind == "ask":
            (answer,) = await ctx.interrupt([Interrupt(id=f"q{part.number}", reason="input_required")])
            if answer.payload != {"approved": True}:
                yield f"not approved: {answer.payload}"
        for name in await asyncio.gather(*(ctx.step(name, work, name) for name in part.tools)):
            yield f"[{name}] "


# -- Pydantic AI -------------------------------------------------------------------------------------------------------


def next_part(parts: list[Part], said: str, returned: Collection[str]) -> tuple[Part, str]:
    """What a model is to say that has said so much, and what it says of the results that it was given."""
    number = max((int(found) for found in BEGUN.findall(said)), default=-1) + 1
    results = [] if number == 0 else [name for name in parts[number - 1].tools if name in returned]
    return parts[number], "".join(f"[{name}] " for name in results)


async def says(messages: list[m.ModelMessage], _: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    run_id, parts = parts_of_run()
    given = [part for message in messages for part in message.parts]
    said = "".join(part.content for part in given if isinstance(part, m.TextPart))
    part, results = next_part(parts, said, [str(one.content) for one in given if isinstance(one, m.ToolReturnPart)])
    beginning(run_id, part.number, "model")
    await reach(run_id, "asks the model", part.number)
    async for word in words(run_id, part, results):
        yield word
    for index, name in enumerate(part.tools, 1):
        yield {index: DeltaToolCall(name=tool_of(part), json_args=f'{{"name":"{name}"}}', tool_call_id=name)}
    ending(run_id, part.number, "model")


pydantic_ai = Agent(FunctionModel(stream_function=says, model_name="scripted"), tools=[work])
pydantic_ai.tool_plain(requires_approval=True)(approved_work)


# -- ADK ---------------------------------------------------------------------------------------------------------------


class Model(BaseLlm):
    model: str = "scripted"

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        run_id, parts = parts_of_run()
        given = [part for content in llm_request.contents for part in content.parts or []]
        said = " ".join(part.text or "" for part in given)
        responses = [part.function_response.response or {} for part in given if part.function_response]
        part, results = next_part(parts, said, [str(response.get("result")) for response in responses])
        beginning(run_id, part.number, "model")
        await reach(run_id, "asks the model", part.number)
        whole = ""
        async for word in words(run_id, part, results):
            whole += word
            yield LlmResponse(content=content_of(types.Part(text=word)), partial=True)
        calls: list[Any] = [types.FunctionCall(name=tool_of(part), args={"name": name}, id=name) for name in part.tools]
        ending(run_id, part.number, "model")
        yield LlmResponse(
            content=content_of(types.Part(text=whole), *(types.Part(function_call=call) for call in calls)),
            partial=False,
            finish_reason=types.FinishReason.STOP,
        )


def content_of(*parts: types.Part) -> types.Content:
    return types.Content(role="model", parts=[*parts])


adk = LlmAgent(name="adk", model=Model(), tools=[work, FunctionTool(approved_work, require_confirmation=True)])


# -- LangGraph ---------------------------------------------------------------------------------------------------------


class ChatModel(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        run_id, parts = parts_of_run()
        said = "".join(str(one.content) for one in messages if isinstance(one, AIMessage))
        results = [str(one.content) for one in messages if isinstance(one, ToolMessage)]
        part, told = next_part(parts, said, results)
        beginning(run_id, part.number, "model")
        await reach(run_id, "asks the model", part.number)
        async for word in words(run_id, part, told):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls = [
            tool_call_chunk(name=tool_of(part), args=json.dumps({"name": name}), id=name, index=index)
            for index, name in enumerate(part.tools)
        ]
        ending(run_id, part.number, "model")
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls))

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError  # it is asked to stream


langgraph = create_agent(
    ChatModel(),
    [work, approved_work],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"approved_work": True})],
    name="langgraph",
)


# -- OpenAI Agents SDK -------------------------------------------------------------------------------------------------


class OpenAIModel(agents.Model):
    async def stream_response(
        self, system_instructions: str | None, input: Any, *_: Any, **__: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        run_id, parts = parts_of_run()
        said = "".join(piece["text"] for item in input if item.get("role") == "assistant" for piece in item["content"])
        part, told = next_part(parts, said, [item["output"] for item in input if "output" in item])
        beginning(run_id, part.number, "model")
        await reach(run_id, "asks the model", part.number)
        whole = ""
        async for word in words(run_id, part, told):
            whole += word
            yield r.ResponseTextDeltaEvent(
                type="response.output_text.delta",
                content_index=0,
                delta=word,
                item_id="message",
                logprobs=[],
                output_index=0,
                sequence_number=0,
            )
        text = r.ResponseOutputText(text=whole, type="output_text", annotations=[], logprobs=[])
        message = r.ResponseOutputMessage(
            id="message", type="message", role="assistant", status="completed", content=[text]
        )
        calls = [
            r.ResponseFunctionToolCall(
                type="function_call", call_id=name, name=tool_of(part), arguments=json.dumps({"name": name})
            )
            for name in part.tools
        ]
        ending(run_id, part.number, "model")
        response = r.Response(
            id="response",
            created_at=0,
            model="scripted",
            object="response",
            output=[message, *calls],
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=True,
        )
        yield r.ResponseCompletedEvent(type="response.completed", response=response, sequence_number=0)

    async def get_response(self, *_: Any, **__: Any) -> agents.ModelResponse:
        raise NotImplementedError  # it is asked to stream


openai_agents = OpenAIAgent(
    agents.Agent(
        name="openai_agents",
        model=OpenAIModel(),
        tools=[agents.function_tool(work), agents.function_tool(approved_work, needs_approval=True)],
    ),
    run_config=agents.RunConfig(tracing_disabled=True),
)
