"""Agents that look, ask, and delete what they were told to delete if a person agrees: one of each kind that goes on.

All that costs is written to the ledger `$GAPLESS_TEST_LEDGER`, by the message that it was done for. The clock is
`$GAPLESS_TEST_DAYS` days ahead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from google.adk.agents import LlmAgent, SequentialAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.tools import FunctionTool
from google.genai import types
from pydantic_ai import Agent, Tool
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

import gapless
from gapless import RunContext
from gapless.agents.base import AgentItem
from gapless.events import Interrupt, ToolCallArgsEvent, ToolCallEndEvent, ToolCallResultEvent, ToolCallStartEvent
from tests.goes_on import ahead  # noqa: F401  # sets the clock, once in a process that reads this file thrice
from tests.goes_on.worked import note


def look(path: str) -> str:
    """Look whether it is there."""
    note(path, "look")
    return f"{path} is there"


def delete(path: str) -> str:
    """Delete it."""
    note(path, "delete")
    return f"{path} is deleted"


TOOLS = [look]


# -- Pydantic AI ------------------------------------------------------------------------------------------------------


async def _answer(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    parts = [part for message in messages for part in message.parts]
    (path,) = (str(part.content) for part in parts if isinstance(part, m.UserPromptPart))
    number = sum(isinstance(message, m.ModelResponse) for message in messages)
    note(path, f"model-{number}")
    if number == 0:
        yield "Let me see. "
        for index, name in enumerate(("look", "delete"), 1):
            yield {index: DeltaToolCall(name=name, json_args=f'{{"path": "{path}"}}', tool_call_id=f"c-{name}-{path}")}
    else:
        yield "So: "
        yield next(str(one.content) for one in parts if isinstance(one, m.ToolReturnPart) and one.tool_name == "delete")


_tools = [*TOOLS, Tool(delete, takes_ctx=False, requires_approval=True)]
pydantic = Agent(FunctionModel(stream_function=_answer), instructions="Be brief.", tools=_tools)


# -- ADK --------------------------------------------------------------------------------------------------------------


class Model(BaseLlm):
    """Asks for both tools, and says what came of them; `who` is its agent."""

    model: str = "told"
    who: str

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        parts = [part for content in llm_request.contents for part in content.parts or []]
        path = next(part.text for part in parts if part.text)
        results = [part.function_response.response for part in parts if part.function_response is not None]
        note(path, f"model-{self.who}-{len(results)}")
        said = [types.Part(text="After.")] if self.who == "last" else [types.Part(text="Let me see. ")]
        if self.who == "asker" and results:
            said = [types.Part(text=f"So: {(results[-1] or {})['result']}")]
        elif self.who == "asker":
            for name in ("look", "delete"):
                call = types.FunctionCall(name=name, args={"path": path}, id=f"c-{name}-{path}")
                said.append(types.Part(function_call=call))
        yield LlmResponse(content=types.Content(role="model", parts=said), partial=False)


_asker = LlmAgent(
    name="asker",
    model=Model(who="asker"),
    instruction="Be brief.",
    tools=[*TOOLS, FunctionTool(delete, require_confirmation=True)],
)
adk = SequentialAgent(name="adk", sub_agents=[_asker, LlmAgent(name="last", model=Model(who="last"))])


# -- a function -------------------------------------------------------------------------------------------------------


@gapless.replays
async def function(path: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    yield "Let me see. "
    await ctx.step("look", look, path)
    id = f"{ctx.run_id}-c"
    yield ToolCallStartEvent(tool_call_id=id, tool_call_name="delete")
    yield ToolCallArgsEvent(tool_call_id=id, delta=f'{{"path": "{path}"}}')
    yield ToolCallEndEvent(tool_call_id=id)
    question = Interrupt(id=f"{id}-ask", reason="tool_approval", message=f"Delete {path}?", tool_call_id=id)
    (answer,) = await ctx.interrupt([question])
    assert isinstance(answer.payload, dict)
    assert answer.payload["approved"] is True
    done = await ctx.step("delete", delete, path)
    yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=done)
    yield f"So: {done}"
