"""An agent of Agno by its own stream, with what its bridge leaves out: reasoning, and questions before a call.

pip install agno; Runner(of_agno(Agent(model=…, db=…, tools=[…])))
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from agno.agent import Agent

from gapless.agents.approving import approval, ask, read_decision
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.writing import Said, result
from gapless.errors import ModelFailed
from gapless.events import TokenUsage


def of_agno(agent: Agent) -> Callable[[RunContext], AsyncIterator[AgentItem]]:
    """Return what `Runner` takes. The agent's own `db` keeps the conversation, by the session's id."""

    async def run(ctx: RunContext) -> AsyncIterator[AgentItem]:
        options: Any = {"session_id": ctx.session_id, "user_id": ctx.user_id, "stream": True, "stream_events": True}
        stream, called = agent.arun(ctx.message, **options), set[str]()
        while stream is not None:
            said, again = Said(ctx.new_id("message"), ctx.new_id), None
            async for event in stream:
                for item in said_of(ctx, said, called, event):
                    yield item
                if event.event == "ModelRequestStarted":
                    said = Said(ctx.new_id("message"), ctx.new_id)
                if event.event == "RunPaused":
                    asked = {one.tool_execution.tool_call_id: one for one in event.active_requirements}
                    tools = {id: one.tool_execution for id, one in asked.items()}
                    questions = {id: approval(id, id, one.tool_name, one.tool_args) for id, one in tools.items()}
                    for id, decision in (await ask(ctx, questions, read_decision)).items():
                        asked[id].confirm() if decision.approved else asked[id].reject(decision.reason)
                    again = agent.acontinue_run(run_id=event.run_id, requirements=event.requirements, **options)
            stream = again

    return run


def said_of(ctx: RunContext, said: Said, called: set[str], event: Any) -> list[Any]:
    """Return what one event of its stream says."""
    if event.event == "RunContent":
        thoughts = said.reasoning(event.reasoning_content) if event.reasoning_content else []
        return [*thoughts, *(said.text(event.content) if event.content else ())]
    if event.event in ("ToolCallStarted", "RunPaused"):
        found: list[Any] = []
        for one in [event.tool] if event.event == "ToolCallStarted" else event.tools:
            if one.tool_call_id not in called:
                found += said.call(one.tool_call_id, one.tool_call_id, one.tool_name, json.dumps(one.tool_args))
            called.add(one.tool_call_id)
        return [*found, *said.end()]
    if event.event == "ToolCallCompleted":
        error = event.tool.result if event.tool.tool_call_error else None
        return [result(ctx.new_id("tool"), event.tool.tool_call_id, str(event.tool.result), error=error)]
    if event.event == "ModelRequestCompleted":
        inputs, outputs = event.input_tokens or 0, event.output_tokens or 0
        ctx.add_usage(TokenUsage(input_tokens=inputs, output_tokens=outputs, total_tokens=inputs + outputs))
    if event.event == "RunError":
        raise ModelFailed("the agent failed; see the log", run_id=ctx.run_id)
    return []
