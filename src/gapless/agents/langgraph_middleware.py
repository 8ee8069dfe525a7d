"""What a LangChain agent needs to take a client's tools and a run's model settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
from langchain_core.messages import AIMessage
from langgraph.config import get_config

from gapless.agents.base import current_run
from gapless.agents.client_tools import as_function
from gapless.agents.langgraph import TAKEN
from gapless.agents.tool_choice import choice_of
from gapless.errors import AgentInvalid

__all__ = ["GaplessMiddleware"]


class GaplessMiddleware(AgentMiddleware[Any, Any, Any]):
    """Offers the client's own tools to the model of an agent, and passes the run's `model_settings` to it:
    `create_agent(model, tools, middleware=[GaplessMiddleware()])`. Outside of a Gapless run it does nothing.

    A call of such a tool ends the run, and the client's next run brings the result. Other calls in the same answer of
    the model are not made, and the model is told so. Put it last: LangChain asks the last one first what
    becomes of an answer, and one behind it would ask a person about calls that are not made.
    """

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        return handler(_with_runs(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        return await handler(_with_runs(request))

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        run = current_run()
        last = state["messages"][-1]
        own = {tool.name for tool in run.tools} if run is not None else set()
        if isinstance(last, AIMessage) and any(call["name"] in own for call in last.tool_calls):
            return {"jump_to": "end"}
        return None


def _with_runs(request: ModelRequest[Any]) -> ModelRequest[Any]:
    run = current_run()
    if run is None:
        return request
    taken = get_config().get("configurable", {}).get(TAKEN)
    first = not taken and run.checkpoint is None
    if taken is not None:
        taken.append(True)
    tools = [as_function(tool) for tool in run.tools]
    names = _names(request)
    if both := sorted(names & {tool.name for tool in run.tools}):  # the client's would be called in its place
        raise AgentInvalid(f"agent {run.agent_name} has a tool {', '.join(both)}, and so has the client")
    settings = {**request.model_settings, **run.config.model_settings}
    choice = settings.pop("tool_choice", None)
    request = request.override(tools=[*request.tools, *tools], model_settings=settings)
    return request if choice is None else _chosen(request, choice, first=first)


def _chosen(request: ModelRequest[Any], value: Any, *, first: bool) -> ModelRequest[Any]:
    """Return the request with a client's choice of tools: LangChain has it beside the settings, and `any` for a call of
    whichever tool. Raises `InputInvalid` for tools that are not there."""
    if value in ("auto", "none"):
        return request.override(tool_choice=value)
    choice = choice_of(value)
    if choice is None:
        return request.override(tool_choice=value)  # of a form that may be the model's own
    choice.check(_names(request))
    if choice.forced and not first:
        return request
    chosen = [one for one in request.tools if choice.names is None or _name(one) in choice.names]
    if not choice.forced or not chosen:
        return request.override(tools=chosen)
    if choice.names is not None and len(choice.names) == 1:
        return request.override(tool_choice=choice.names[0])
    return request.override(tools=chosen, tool_choice="any")


def _names(request: ModelRequest[Any]) -> set[str]:
    return {name for one in request.tools if (name := _name(one)) is not None}


def _name(tool: Any) -> str | None:
    found = tool.get("function", tool).get("name") if isinstance(tool, dict) else tool.name
    return found if isinstance(found, str) else None
