"""An agent of Strands by its own stream: all of its bridge's events, and tools that fail are shown to have.

pip install strands-agents; Runner(of_strands(lambda messages: Agent(messages=messages, tools=[…])))
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from strands import Agent

from gapless.agents.approving import approval, ask
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.writing import Said, result
from gapless.events import AssistantMessage, TokenUsage, UserMessage, text_of


def of_strands(make: Callable[[list[Any]], Agent]) -> Callable[[RunContext], AsyncIterator[AgentItem]]:
    """Return what `Runner` takes; `make` makes an agent that knows the messages before."""

    async def run(ctx: RunContext) -> AsyncIterator[AgentItem]:
        before = [one for one in ctx.messages[:-1] if isinstance(one, UserMessage | AssistantMessage) and one.content]
        agent = make(
            [
                {
                    "role": "user" if isinstance(one, UserMessage) else "assistant",
                    "content": [{"text": text_of(one.content)}],
                }
                for one in before
            ]
        )
        given: Any = ctx.message
        while given:
            said, stream = Said(ctx.new_id("message"), ctx.new_id), agent.stream_async(given)
            given = None
            async with aclosing(stream):
                async for event in stream:
                    for item in said_of(ctx, said, event):
                        yield item
                    if event.get("message", {}).get("role") == "user":
                        said = Said(ctx.new_id("message"), ctx.new_id)
                    if "result" in event and event["result"].interrupts:
                        questions = {
                            one.id: approval(one.id, None, one.name, one.reason) for one in event["result"].interrupts
                        }
                        answers = await ask(ctx, questions, lambda entry: entry.payload)
                        given = [
                            {"interruptResponse": {"interruptId": id, "response": one}} for id, one in answers.items()
                        ]

    return run


def said_of(ctx: RunContext, said: Said, event: dict[str, Any]) -> list[Any]:
    """Return what one event of its stream says."""
    if "data" in event:
        return said.text(event["data"])
    if "reasoningText" in event:
        return said.reasoning(event["reasoningText"])
    if "current_tool_use" in event:
        id, name = event["current_tool_use"]["toolUseId"], event["current_tool_use"]["name"]
        return said.call(id, id, name, event["delta"]["toolUse"]["input"])
    if event.get("message", {}).get("role") == "assistant":
        used = event["message"].get("metadata", {}).get("usage", {})
        inputs, outputs = used.get("inputTokens", 0), used.get("outputTokens", 0)
        ctx.add_usage(TokenUsage(input_tokens=inputs, output_tokens=outputs, total_tokens=inputs + outputs))
        return said.end()
    results = [part["toolResult"] for part in event.get("message", {}).get("content", ()) if "toolResult" in part]
    found = []
    for one in results:
        text = "\n".join(str(part.get("text", part.get("json", ""))) for part in one["content"])
        error = text if one["status"] == "error" else None
        found.append(result(ctx.new_id("tool"), one["toolUseId"], text, error=error))
    return found
