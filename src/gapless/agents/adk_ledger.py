"""Gapless's plugin of ADK's runners that comes before all others: which tool calls began, and what they returned."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from google.adk.agents import BaseAgent, InvocationContext
from google.adk.agents.callback_context import CallbackContext
from google.adk.events import Event
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.plugins.plugin_manager import PluginManager
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from gapless.agents.adk_checkpoints import Progress
from gapless.agents.adk_interrupts import lost_while
from gapless.agents.adk_run import current
from gapless.agents.adk_turn import INPUT

__all__ = ["Ledger"]

_WAITS = "gapless-waits-"
"""Begins the id of a call by which an agent says again that it waits."""
_UNKNOWN = "It is unknown whether this call took effect: the server that made it was lost. It was not repeated."


class Ledger(BasePlugin):
    """Keeps of a run's tool calls what its checkpoint holds, and answers those that another worker has finished.

    It is the first plugin: what a tool returned is kept as it came, and other plugins see it again."""

    NAME = "gapless_ledger"

    def __init__(self) -> None:
        super().__init__(name=self.NAME)

    @classmethod
    def join(cls, plugins: PluginManager) -> None:
        """Be the first of a runner's plugins."""
        if plugins.get_plugin(cls.NAME) is None:
            plugins.plugins.insert(0, cls())

    async def on_user_message_callback(
        self, *, invocation_context: InvocationContext, user_message: types.Content
    ) -> None:
        progress = _progress()
        if progress is not None:
            await progress.invoked(invocation_context)

    async def before_run_callback(self, *, invocation_context: InvocationContext) -> None:
        turn = current.get()
        if turn is not None and turn.progress is not None:
            turn.progress.before_run(invocation_context, turn.state)

    async def before_agent_callback(
        self, *, agent: BaseAgent, callback_context: CallbackContext
    ) -> types.Content | None:
        """Pass over an agent that has ended, and let those around one that waits pause with it."""
        turn = current.get()
        if turn is None:
            return None
        place = agent.name, callback_context.branch or ""
        if (call_id := turn.waiting.get(place)) is not None:
            call = types.FunctionCall(name=INPUT, id=f"{_WAITS}{call_id}")
            return types.Content(role="model", parts=[types.Part(function_call=call)])
        progress = turn.progress
        if progress is None or not progress.goes_on or callback_context.invocation_id != progress.invocation_id:
            return None
        end = progress.end_of(place)
        if end is None:
            return None
        callback_context.actions.escalate, callback_context.actions.end_of_agent = end.escalate, True
        callback_context._invocation_context.set_agent_state(agent.name, end_of_agent=True)
        return types.Content(role="model", parts=[])

    async def on_event_callback(self, *, invocation_context: InvocationContext, event: Event) -> Event | None:
        """Take from the session what only the agents around one that waits had to hear."""
        turn = current.get()
        if turn is None or not turn.waiting or event.partial:
            return None
        if not any((call.id or "").startswith(_WAITS) for call in event.get_function_calls()):
            return None
        return event.model_copy(update={"content": types.Content(role="model", parts=[])})

    async def before_model_callback(
        self, *, callback_context: CallbackContext, llm_request: LlmRequest
    ) -> LlmResponse | None:
        progress = _progress()
        if progress is None:
            return None
        if callback_context.invocation_id != progress.invocation_id:
            return progress.inner_reply(_inner_place(callback_context))
        return progress.reply(callback_context.agent_name, callback_context.branch) if progress.goes_on else None

    async def after_model_callback(self, *, callback_context: CallbackContext, llm_response: LlmResponse) -> None:
        if llm_response.partial:
            return
        progress = _progress()
        if progress is not None and callback_context.invocation_id != progress.invocation_id:
            await progress.inner_replied(_inner_place(callback_context), llm_response)

    async def before_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext
    ) -> dict[str, Any] | None:
        answered = await self._answered(tool, tool_context)
        turn = current.get()
        if answered is None and turn is not None:
            turn.tools.begins(tool.name, tool_context)
        return answered

    async def _answered(self, tool: BaseTool, tool_context: ToolContext) -> dict[str, Any] | None:
        """Return what a call gives that is not made."""
        progress, call_id = _progress(), tool_context.function_call_id
        if progress is None or call_id is None:
            return None
        if inner := tool_context.invocation_id != progress.invocation_id:
            call_id = _inner_id(call_id)
        known = progress.result(call_id, tool_context, long_running=tool.is_long_running)
        if known is not None:
            return known
        if not inner and (doubtful := progress.lost_inside(call_id)):  # where it is, ADK could not wait for the answer
            answer = tool_context.tool_confirmation
            if answer is None:
                progress.doubtful.update(doubtful)
                return _ask(tool_context, doubtful.values())
            progress.decided(doubtful, again=answer.confirmed)
        repeatable = _repeatable(tool)
        asked, confirmed = call_id in progress.doubtful, tool_context.tool_confirmation
        if repeatable is not True and (asked or call_id in progress.lost):
            answer = confirmed if asked else None  # else it is of before the loss, and a person has said no since
            if confirmed is None and repeatable == "ask" and not inner:
                progress.doubtful.add(call_id)
                return _ask(tool_context, [tool.name])
            if answer is None or not answer.confirmed:
                progress.settled(call_id)
                return {"error": _UNKNOWN}
        _inside.set(call_id if inner else f"/{call_id}")
        if confirmed is not None:
            progress.confirmed[call_id] = [f"adk-{uuid.uuid4()}", *([tool.name] if repeatable == "ask" else [])]
        inside = tool.name if inner and repeatable == "ask" else None
        await progress.begins(call_id, again=repeatable is True, inside=inside)
        return None

    async def after_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext, result: Any
    ) -> None:
        turn, progress, call_id = current.get(), _progress(), tool_context.function_call_id
        if turn is not None:
            turn.tools.ends(tool_context)
        if progress is None or call_id is None:
            return
        if tool_context.invocation_id != progress.invocation_id:
            inside = _inside.get()
            call_id = inside if inside.endswith(f"/{call_id}") else ""
        if call_id in progress.running:
            await progress.returned(call_id, tool_context, result)

    async def on_tool_error_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext, error: Exception
    ) -> None:
        """Keep nothing of the result: what the error callbacks make of it is kept as what the tool returned."""
        turn = current.get()
        if turn is not None:
            turn.tools.ends(tool_context, error)


_inside: ContextVar[str] = ContextVar("gapless_adk_inside", default="")
"""The call whose tool this task runs, after those whose tools run its agent: each with a slash before it."""


def _inner_id(call_id: str) -> str:
    return f"{_inside.get()}/{call_id}"


def _inner_place(context: CallbackContext) -> str:
    return f"{_inside.get()}/ {context.agent_name} {context.branch or ''}"


def _progress() -> Progress | None:
    turn = current.get()
    return None if turn is None else turn.progress


def _ask(context: ToolContext, tools: Iterable[str]) -> dict[str, Any]:
    """Ask a person whether what these tools did is done again, and return what the call gives meanwhile."""
    context.request_confirmation(hint=lost_while(tools))
    context.actions.skip_summarization = True
    return {"error": "This call waits for a person, who is asked whether to repeat it."}


def _repeatable(tool: BaseTool) -> object:
    """Return what is said of repeating a call of this tool: True, False or "ask"."""
    said = (tool.custom_metadata or {}).get("repeatable")
    if said is None:
        said = getattr(tool, "repeatable", None)
    if said is None:
        said = getattr(getattr(tool, "func", None), "repeatable", None)
    return True if said is None else said
