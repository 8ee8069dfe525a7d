"""Tools of ADK agents that are cancelled: by themselves, and by the agent that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from google.adk.agents import BaseAgent, InvocationContext, LlmAgent
from google.adk.events import Event
from google.genai import types

from gapless import Runner
from gapless.errors import AgentFailed, ToolFailed
from gapless.testing import ToolCall, adk_model


async def cancels() -> str:
    """Raises what it should not."""
    raise asyncio.CancelledError


async def awaits() -> str:
    """Waits for a task that is cancelled."""
    task = asyncio.create_task(asyncio.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await task
    return ""


async def waits() -> str:
    """Waits for ever."""
    await asyncio.Event().wait()
    return ""


class Impatient(BaseAgent):
    """Goes on without its agent."""

    async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[Event, None]:
        try:
            async with asyncio.timeout(0.05), aclosing(self.sub_agents[0].run_async(ctx)) as events:
                async for event in events:
                    yield event
        except TimeoutError:
            content = types.Content(role="model", parts=[types.Part(text="later")])
            yield Event(author=self.name, invocation_id=ctx.invocation_id, content=content)


@pytest.mark.parametrize("tool", [cancels, awaits])
async def test_a_tool_that_is_cancelled_by_itself_has_failed(tool: Any):
    agent = LlmAgent(name="a", model=adk_model(ToolCall(tool.__name__), "done"), tools=[tool])
    async with Runner(agent) as runner:
        with pytest.raises(ToolFailed, match=f"tool {tool.__name__} raised CancelledError at .*test_adk_tools.py"):
            await (await runner.start("x")).collect()


def cancel(**_: Any) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("where", ["before_agent_callback", "before_model_callback", "after_agent_callback"])
async def test_an_agent_that_is_cancelled_by_itself_has_failed(where: str):
    callbacks: dict[str, Any] = {where: cancel}
    agent = LlmAgent(name="a", model=adk_model("said"), **callbacks)
    async with Runner(agent) as runner:
        with pytest.raises(AgentFailed, match=r"the agent raised CancelledError at .*test_adk_tools.py"):
            await (await runner.start("x")).collect()


async def test_an_agent_that_goes_on_without_a_tool_has_not_failed():
    inner = LlmAgent(name="inner", model=adk_model(ToolCall("waits"), "done"), tools=[waits])
    async with Runner(Impatient(name="outer", sub_agents=[inner])) as runner:
        assert (await (await runner.start("x")).collect()).text.endswith("later")


async def test_an_exit_in_an_agent_beside_another_is_told_as_such():
    from google.adk.agents import ParallelAgent

    class Leaves(BaseAgent):
        async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[Event, None]:
            raise SystemExit(2)
            yield

    other = LlmAgent(name="other", model=adk_model("done"))
    async with Runner(ParallelAgent(name="both", sub_agents=[Leaves(name="leaves"), other])) as runner:
        with pytest.raises(AgentFailed, match=r"the agent raised SystemExit at .*test_adk_tools.py"):
            await (await runner.start("x")).collect()
