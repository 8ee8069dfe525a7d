"""The same scripted agent, made with each framework."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, get_type_hints

import msgspec
import pydantic

import gapless
from gapless.agents.approving import approval, ask, read_decision
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.langgraph import LangGraphAgent
from gapless.agents.writing import Said, result
from gapless.errors import ToolFailed
from gapless.events import RunFinishedEvent, RunFinishedSuccessOutcome, TokenUsage, UserMessage
from gapless.testing import adk_model, claude_model, langgraph_model, openai_agents_model, pydantic_ai_model
from gapless.testing.agents import Made
from gapless.testing.script import (
    Chunk,
    Output,
    Reasoning,
    Text,
    ToolCall,
    pieces,
    response_at,
    wait_or_raise,
)
from tests.support.bridge import Bridge

__all__ = ["FRAMEWORKS", "adk", "agui_object", "claude", "function", "langgraph", "openai_agents", "pydantic_ai"]

Tools = Sequence[Callable[..., Awaitable[Any]]]
Type = type[pydantic.BaseModel] | None


class Written:
    """An agent that somebody writes by hand: an async generator that asks a model and calls its tools."""

    def __init__(self, chunks: Sequence[Chunk], tools: Tools, approve: Collection[str]) -> None:
        self.running = 0
        self.requests: list[str] = []
        self._chunks = chunks
        self._tools = {tool.__name__: tool for tool in tools}
        self._approve = approve

    async def note(self, told: str) -> None:
        self.requests.append(told)

    async def agent(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        turn = sum(isinstance(message, UserMessage) for message in ctx.messages) - 1
        told: list[Any] = [*(msgspec.structs.replace(one, metadata=None) for one in ctx.messages[:-1]), ctx.message]
        calls: list[ToolCall] = []
        for request in range(10):
            await ctx.step("ask", self.note, str(told))
            ctx.add_usage(TokenUsage(model="scripted", input_tokens=1, output_tokens=1, total_tokens=2))
            calls, said = [], Said(f"{ctx.run_id}-{request}", ctx.new_id)
            self.running += 1
            try:
                for chunk in response_at(self._chunks, turn, request):
                    if await wait_or_raise(chunk):
                        continue
                    for item in self.say(ctx, said, chunk, calls):
                        yield item
            finally:
                self.running -= 1
            for item in said.end():
                yield item
            told.append(said.spoken)
            own = [id for id, call in zip(said.call_ids, calls, strict=True) if call.name not in self._tools]
            if own:
                outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=own)
                yield RunFinishedEvent(thread_id=ctx.session_id, run_id=ctx.run_id, outcome=outcome)
            if own or not calls:
                return
            for id, call in zip(said.call_ids, calls, strict=True):
                returned = await self.call(ctx, id, call)
                told.append(returned.content)
                yield returned
                if returned.error is not None and returned.error.startswith("ValueError"):
                    raise ToolFailed(f"tool {call.name} failed")

    def say(self, ctx: RunContext, said: Said, chunk: Chunk, calls: list[ToolCall]) -> list[Any]:
        if isinstance(chunk, Reasoning):
            return said.reasoning(chunk.text)
        if isinstance(chunk, Output):
            ctx.result = chunk.value
            return []
        if not isinstance(chunk, ToolCall):
            return said.text(chunk.text if isinstance(chunk, Text) else str(chunk))
        key = len(calls)
        calls.append(chunk)
        found = said.call(key, f"{said.id}-{key}", chunk.name)
        for piece in pieces(chunk.args):
            found += said.call(key, arguments=piece)
        return found

    async def call(self, ctx: RunContext, id: str, call: ToolCall) -> Any:
        if call.name in self._approve:
            question = approval(id, id, call.name, call.args)
            if not (await ask(ctx, {id: question}, read_decision))[id].approved:
                return result(f"{id}-result", id, "not allowed", error="not allowed")
        try:
            returned = await ctx.step(f"call {id}", lambda: self._tools[call.name](**call.args))
        except ValueError as error:
            return result(f"{id}-result", id, "failed", error=type(error).__name__)
        return result(f"{id}-result", id, str(returned))


def function(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    """An async generator of one's own, which asks a model and calls tools."""
    written = Written(chunks, tools, approve)

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[AgentItem]:
        async for item in written.agent(ctx):
            yield item

    return Made(agent, lambda: written.running, lambda: written.requests)


def pydantic_ai(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    from pydantic_ai import Agent, Tool

    model = pydantic_ai_model(*chunks)
    given: list[Any] = [Tool(tool, requires_approval=tool.__name__ in approve) for tool in tools]
    agent: Any = Agent(model, tools=given, output_type=output_type or str)
    return Made(agent, lambda: model.running, lambda: [str(request) for request in model.requests])


def adk(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    from google.adk.agents import LlmAgent
    from google.adk.tools import FunctionTool

    model = adk_model(*chunks)
    given: list[Any] = [FunctionTool(tool, require_confirmation=tool.__name__ in approve) for tool in tools]
    agent = LlmAgent(name="agent", model=model, tools=given, output_schema=output_type)
    return Made(agent, lambda: model.running, lambda: [str(request) for request in model.requests])


def langgraph(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    from langchain.agents import create_agent
    from langchain.agents.middleware import HumanInTheLoopMiddleware
    from langchain_core.tools import tool as as_tool

    from gapless.agents.langgraph_middleware import GaplessMiddleware

    model = langgraph_model(*chunks)
    asking = [HumanInTheLoopMiddleware(interrupt_on=dict.fromkeys(approve, True))] if approve else []
    agent: Any = create_agent(
        model,
        tools=[as_tool(tool) for tool in tools],
        response_format=output_type,
        middleware=[GaplessMiddleware(), *asking],
    )
    return Made(LangGraphAgent(agent), lambda: model.running, lambda: [str(request) for request in model.requests])


def openai_agents(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    from agents import Agent, function_tool

    model = openai_agents_model(*chunks)
    given: list[Any] = [
        function_tool(tool, needs_approval=tool.__name__ in approve, strict_mode=False) for tool in tools
    ]
    agent = Agent(name="agent", model=model, tools=given, output_type=output_type)
    return Made(agent, lambda: model.running, lambda: [str(request) for request in model.requests])


def claude(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    from claude_agent_sdk import ClaudeAgentOptions, create_sdk_mcp_server
    from claude_agent_sdk import tool as as_tool

    from gapless.agents.claude import ClaudeAgent

    model = claude_model(*chunks)

    def made(function: Callable[..., Awaitable[Any]]) -> Any:
        given = {name: of for name, of in get_type_hints(function).items() if name != "return"}

        async def call(arguments: dict[str, Any]) -> dict[str, Any]:
            return {"content": [{"type": "text", "text": str(await function(**arguments))}]}

        return as_tool(function.__name__, function.__doc__ or "", given)(call)

    schema = None if output_type is None else {"type": "json_schema", "schema": output_type.model_json_schema()}
    options = ClaudeAgentOptions(
        model="claude-sonnet-5",
        system_prompt="Help.",
        tools=[],
        mcp_servers={"own": create_sdk_mcp_server("own", tools=[made(tool) for tool in tools])},
        allowed_tools=["mcp__own"],
        setting_sources=[],
        output_format=schema,
        env=model.env,
    )
    agent = ClaudeAgent(options, approve=approve)
    return Made(
        agent,
        lambda: model.running,
        lambda: [json.dumps(one["messages"], ensure_ascii=False) for one in model.requests],
    )


def agui_object(*chunks: Chunk, tools: Tools = (), approve: Collection[str] = (), output_type: Type = None) -> Made:
    """An object that speaks AG-UI."""
    bridge = Bridge(chunks, tools, approve)
    return Made(bridge, lambda: bridge.running, lambda: bridge.requests)


FRAMEWORKS: dict[str, Callable[..., Made]] = {
    "pydantic ai": pydantic_ai,
    "adk": adk,
    "langgraph": langgraph,
    "openai agents": openai_agents,
}
"""By name: what makes an agent of the framework, as the conformance suite wants it."""
