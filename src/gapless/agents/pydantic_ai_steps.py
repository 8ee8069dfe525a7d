"""What is added to each run of a Pydantic AI agent around its steps: the model's deltas are taken where they come, and
a tool call that has been made is not made again.

On their way through the agent's graph the deltas would cost three times as much as the model itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from pydantic_ai import messages as m
from pydantic_ai import tools
from pydantic_ai.agent import AgentRun
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.settings import ModelSettings

from gapless.agents.pydantic_ai_history import told_to
from gapless.agents.pydantic_ai_ledger import Ledger
from gapless.agents.pydantic_ai_settings import ToolChoice
from gapless.agents.pydantic_ai_tap import HeardModel, Hearer

__all__ = ["Steps", "emitted_in", "watched_by"]


def watched_by(run: AgentRun[Any, Any]) -> str:
    """Return what in the graph wants to see each delta: capabilities that change or hear the stream, or a limit that is
    held against it. "" where nothing does.
    """
    deps = run.ctx.deps
    if deps.usage_limits.has_token_limits():
        return "limits on tokens"
    watching: list[str] = []
    outside = True

    def look(one: AbstractCapability[Any]) -> None:
        nonlocal outside
        outside = outside and not isinstance(one, Steps)
        wraps = outside and type(one).get_wrapper_model is not AbstractCapability.get_wrapper_model
        if wraps or one.has_wrap_run_event_stream or one.has_on_event:
            watching.append(type(one).__name__)

    root = deps.root_capability
    root.apply(look)  # in their order, the outermost first
    if not watching and (root.has_wrap_run_event_stream or root.has_on_event):
        watching.append(type(root).__name__)
    return f"capabilities ({', '.join(dict.fromkeys(watching))})" if watching else ""


def emitted_in(run: AgentRun[Any, Any]) -> Collection[Any] | None:
    """Return where the run keeps what its code has emitted and the graph has not told yet, which comes between the
    deltas. None where this version of the framework has no such place."""
    found: Collection[Any] | None = getattr(run.ctx.state, "event_stream_buffer", None)
    return found


class Steps(AbstractCapability[Any]):
    """Takes the deltas of the model's answers to `hearer`, and tool calls to `ledger`.

    Neither refers to this: no circle keeps the run."""

    def __init__(self, hearer: Hearer, ledger: Ledger, choice: ToolChoice | None = None) -> None:
        self._hearer = hearer
        self._ledger = ledger
        self._choice = choice

    def get_model_settings(self) -> Callable[[tools.RunContext[Any]], ModelSettings] | None:
        """Return the choice of tools, which is another one for each step."""
        return None if self._choice is None else self._choice.settings

    def get_ordering(self) -> CapabilityOrdering:
        """Return that others' wrappers are inside: what they make of the stream is what is taken."""
        return CapabilityOrdering(position="outermost")

    def get_wrapper_model(self, model: Model) -> Model | None:
        """Return `model` with its deltas taken."""
        if not self._hearer.taking or type(model).request_stream is Model.request_stream:
            return None
        return HeardModel(model, self._hearer)

    async def prepare_model_request(
        self, ctx: tools.RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Tell a model of the calls before in its provider's form: they may be another's."""
        system = request_context.model.system
        providers = system.removeprefix("fallback:").split(",")
        request_context.messages = told_to(providers, request_context.messages)
        return request_context

    async def wrap_tool_execute(
        self,
        ctx: tools.RunContext[Any],
        *,
        call: m.ToolCallPart,
        tool_def: tools.ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """Make a call, unless it has been made."""
        return await self._ledger.execute(ctx, call, tool_def, lambda: handler(args))
