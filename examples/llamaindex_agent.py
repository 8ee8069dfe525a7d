"""An agent of LlamaIndex by its own stream, with what its bridge leaves out: thoughts, questions, tools that fail.

pip install llama-index-core; Runner(of_llamaindex(lambda: FunctionAgent(llm=…, tools=[…])))
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from llama_index.core.agent.workflow import AgentInput, AgentOutput, AgentStream, ToolCall, ToolCallResult
from llama_index.core.llms import ChatMessage
from workflows.events import HumanResponseEvent, InputRequiredEvent

from gapless.agents.base import AgentItem, RunContext
from gapless.agents.writing import Said, result
from gapless.events import AssistantMessage, Interrupt, UserMessage, text_of


def of_llamaindex(make: Callable[[], Any]) -> Callable[[RunContext], AsyncIterator[AgentItem]]:
    """Return what `Runner` takes; `make` makes a `FunctionAgent`, or an `AgentWorkflow` of several."""

    async def run(ctx: RunContext) -> AsyncIterator[AgentItem]:
        history = [
            ChatMessage(role="user" if isinstance(one, UserMessage) else "assistant", content=text_of(one.content))
            for one in ctx.messages[:-1]
            if isinstance(one, UserMessage | AssistantMessage) and one.content
        ]
        handler, said = make().run(user_msg=ctx.message, chat_history=history), Said(ctx.new_id("message"), ctx.new_id)
        try:
            async for event in handler.stream_events():
                for item in said_of(ctx, said, event):
                    yield item
                if isinstance(event, AgentInput):  # the model is called
                    said = Said(ctx.new_id("message"), ctx.new_id)
                if isinstance(event, InputRequiredEvent):
                    question = Interrupt(id=ctx.new_id("question"), reason="input_required", message=event.prefix)
                    (answer,) = await ctx.interrupt([question])
                    handler.ctx.send_event(HumanResponseEvent(response=answer.payload))
            await handler
        finally:
            await handler.cancel_run()

    return run


def said_of(ctx: RunContext, said: Said, event: Any) -> list[Any]:
    """Return what one event of its stream says."""
    if isinstance(event, AgentStream):
        thoughts = said.reasoning(event.thinking_delta) if event.thinking_delta else []
        return [*thoughts, *(said.text(event.delta) if event.delta else ())]
    if isinstance(event, AgentOutput):
        return said.end()
    if isinstance(event, ToolCallResult):
        text = str(event.tool_output.content)
        error = text if event.tool_output.is_error else None
        return [result(ctx.new_id("tool"), event.tool_id, text, error=error)]
    if isinstance(event, ToolCall):
        id = event.tool_id
        return [*said.call(id, id, event.tool_name, json.dumps(event.tool_kwargs)), *said.end()]
    return []
