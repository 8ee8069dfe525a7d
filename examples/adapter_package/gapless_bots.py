"""Runs bots with Gapless."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from bots import Bot, ToolError

from gapless.agents.approving import approval, ask, read_decision
from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.conversation import conversation
from gapless.agents.failing import failure, tool_failure
from gapless.agents.writing import Said, result
from gapless.events import (
    AssistantMessage,
    Event,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    TokenUsage,
    ToolMessage,
    UserMessage,
    text_of,
)

__all__ = ["BotAgent"]


class BotAgent(Agent):
    """Adapts a `bot`. Its runs go on at another worker after the last answer of the model or result of a tool."""

    continues = "from_checkpoint"
    framework = "bots 1"

    def __init__(self, bot: Bot) -> None:
        self.name = bot.name
        self._bot = bot

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        kept = {"talk": _talk(ctx), "permitted": {}} if ctx.checkpoint is None else json.loads(ctx.checkpoint)
        others = [tool.name for tool in ctx.tools]
        said, asked = Said(ctx.new_id("message"), ctx.new_id), True
        try:
            while asked:
                asked = False
                async with aclosing(self._bot.stream(**kept, others=others)) as stream:
                    async for kind, value in stream:
                        if kind == "asks":
                            asked = True
                            await _permit(ctx, kept, value)
                            break
                        for event in _events(ctx, said, kind, value):
                            yield event
                        if kind == "step":
                            said = Said(ctx.new_id("message"), ctx.new_id)
                            await _save(ctx, kept)
        except ToolError as error:
            raise tool_failure(error.raised, ctx.run_id, [error.name]) from error.raised
        except Exception as error:
            raise failure(error, ctx.run_id) from error


def _events(ctx: RunContext, said: Said, kind: str, value: Any) -> Sequence[Event]:
    """Return what is recorded of what a bot says."""
    if kind == "text":
        return said.text(value)
    if kind == "thought":
        return said.reasoning(value)
    if kind == "arguments":
        id, name, piece = value
        return said.call(id, id, name, piece)
    if kind == "step":
        return said.end()
    if kind == "returned":
        refused = value["text"] == "not permitted"
        error = value["text"] if refused else None
        return [result(ctx.new_id("result"), value["call"], value["text"], error=error)]
    if kind == "left":
        outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=[call["id"] for call in value])
        return [RunFinishedEvent(thread_id=ctx.session_id, run_id=ctx.run_id, outcome=outcome)]
    if kind == "tokens":
        read, written = value
        ctx.add_usage(TokenUsage(input_tokens=read, output_tokens=written, total_tokens=read + written))
    elif kind == "output":
        ctx.result = value.model_dump(mode="json")
    return []


async def _save(ctx: RunContext, kept: dict[str, Any]) -> None:
    if ctx.continues:  # within a function of `@gapless.replays` the steps are the function's to keep
        await ctx.save(json.dumps(kept).encode())


async def _permit(ctx: RunContext, kept: dict[str, Any], calls: Sequence[dict[str, Any]]) -> None:
    """Ask a person for the `calls`, and keep what is decided."""
    questions = {call["id"]: approval(call["id"], call["id"], call["name"], call["arguments"]) for call in calls}
    answers = await ask(ctx, questions, read_decision, lambda: _save(ctx, kept))
    for call in calls:
        decision = answers[call["id"]]
        kept["permitted"][call["id"]] = decision.approved
        if decision.arguments is not None:
            call["arguments"] = decision.arguments
    await _save(ctx, kept)


def _talk(ctx: RunContext) -> list[dict[str, Any]]:
    """Return the session, with the message that the run is asked, as bots know it."""
    talk: list[dict[str, Any]] = []
    for message in conversation(ctx.messages):
        if isinstance(message, ToolMessage):
            text = text_of(message.content) or message.error or ""
            talk.append({"role": "tool", "call": message.tool_call_id, "text": text})
        elif isinstance(message, AssistantMessage):
            calls = [
                {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments or "{}")}
                for call in message.tool_calls or ()
            ]
            talk.append({"role": "bot", "text": message.content or "", "calls": calls})
        elif isinstance(message, UserMessage):
            talk.append({"role": "user", "text": text_of(message.content)})
    return talk
