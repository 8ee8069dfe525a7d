"""Pydantic AI agents (2.x): the whole graph, streamed.

The graph is driven node by node with `Agent.iter`, so that an agent that talks, calls a tool and talks again streams
all of it. Text deltas, the hot path, go through as plain strings; nothing is dumped per event.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, get_args, get_origin

from pydantic_ai import CallToolsNode, ModelRequestNode, exceptions
from pydantic_ai import messages as m
from pydantic_ai.agent import AbstractAgent, Agent, AgentRun
from pydantic_ai.capabilities import HandleDeferredToolCalls, ReinjectSystemPrompt
from pydantic_ai.models import Model
from pydantic_ai.output import StructuredDict
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import DeferredToolRequests, ToolDefinition
from pydantic_ai.toolsets import ExternalToolset
from pydantic_ai.usage import UsageLimits

from gapless.agents import base
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.client_tools import schema_of
from gapless.agents.failing import raise_as
from gapless.agents.pydantic_ai_errors import failure
from gapless.agents.pydantic_ai_history import history_of, prompt_of
from gapless.agents.pydantic_ai_ledger import FRAMEWORK, Ledger
from gapless.agents.pydantic_ai_output import declared_type
from gapless.agents.pydantic_ai_questions import Asking
from gapless.agents.pydantic_ai_settings import settings_of
from gapless.agents.pydantic_ai_steps import Steps, emitted_in, watched_by
from gapless.agents.pydantic_ai_turn import Turn
from gapless.aside import aside
from gapless.errors import GaplessError, InputInvalid

__all__ = ["PydanticAIAgent"]


class PydanticAIAgent(base.Agent):
    """Adapts one `agent`, under its own name or `name`. `deps` makes a run's dependencies from its context where the
    caller gives none, as over HTTP. An agent that takes Pydantic AI's `StateDeps` has the session's state by itself.

    Takes from `RunConfig`: `streaming_mode`, `max_llm_calls`, `fallback`, and `model_settings`, whose `model` chooses
    the model and whose `response_format` (OpenAI's) the output of an agent that has no type of its own. Settings under
    the names of OpenAI's API reach the model under the framework's; `tool_choice` is for the first answer of the model.
    What cannot be done is a `gapless.notice`. Tools that need
    approval or are executed elsewhere interrupt the run until they are answered; a call of a tool that the client
    brought along ends it, and the client's next run brings the result.

    Its runs go on at another worker after their last finished step. A tool whose metadata says `{"repeatable": False}`
    is not called again when its worker was lost during the call: the model is told that nobody knows whether it took
    effect; with `"ask"` a person decides. `gapless.call_key(ctx.tool_call_id)` is an idempotency key for tools.

    Raises `ToolFailed`, `OutputInvalid`, `ModelFailed`, `RunLimit`, `AgentInvalid`, `InputInvalid`,
    `CheckpointUnreadable`.
    """

    continues = "from_checkpoint"
    framework = FRAMEWORK

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        name: str | None = None,
        deps: Callable[[RunContext], Any] | None = None,
    ) -> None:
        self.name = name or agent.name or "agent"
        self._agent = agent
        self._deps = deps or _state_deps(agent.deps_type)
        self._deps_hold_state = deps is None and self._deps is not None
        self.output_type = declared_type(agent.output_type)

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        ledger = Ledger(ctx)
        turn = Turn(ctx, ledger)
        history = await aside(sum(map(len, ctx.native_history)), lambda: history_of(ctx))
        prompt = prompt_of(ctx.content)
        first = not history
        if ledger.restored:
            prompt, history = None, ledger.history(history)
        elif prompt is None and not (history and isinstance(history[-1], m.ModelRequest)):
            raise InputInvalid("there is nothing to answer: no message, and no tool results after the last answer")
        options = self._options(ctx, turn, ledger, first=first)
        try:
            while True:
                try:
                    async with aclosing(self._graph(turn, ledger, prompt, history, options)) as items:
                        async for item in items:
                            yield item
                    return
                except NotImplementedError:
                    if not turn.opening:
                        raise
                # The model said only when it was asked that it cannot stream: ask again, from where the run stands.
                yield turn.go_blocking()
                prompt, history = None, ledger.go_blocking()
        except GaplessError:
            raise
        except Exception as error:
            raise_as(failure(error, self.name, ctx.run_id, turn.running), error)
        finally:
            turn.save()
            self.deltas = turn.deltas

    async def _graph(
        self,
        turn: Turn,
        ledger: Ledger,
        prompt: str | list[m.UserContent] | None,
        history: list[m.ModelMessage],
        options: dict[str, Any],
    ) -> AsyncGenerator[AgentItem, None]:
        """Run the agent's graph to its end, node by node."""
        before = history or None
        async with self._agent.iter(prompt, message_history=before, usage=ledger.usage, **options) as run:
            ledger.begin(run)
            async for given in run:
                if Agent.is_user_prompt_node(given):
                    continue
                node = ledger.first(given)
                if Agent.is_model_request_node(node):
                    items = _request(node, run, turn, ledger)
                elif Agent.is_call_tools_node(node):
                    items = _tools(node, run, turn, ledger)
                else:
                    continue
                async with aclosing(items):
                    async for item in items:
                        yield item
                if node is not given:
                    await run.next(node)
            if run.result is not None:
                for item in turn.finish(run.result):
                    yield item

    def _options(self, ctx: RunContext, turn: Turn, ledger: Ledger, *, first: bool) -> dict[str, Any]:
        settings, choice, ignored = settings_of(ctx.config.model_settings)
        model = settings.pop("model", None)
        turn.settings(choice, ignored)
        deps = self._deps(ctx) if ctx.deps is None and self._deps is not None else ctx.deps
        if ctx.deps is None and self._deps_hold_state:
            ledger.keep_state(deps)
        limit = ctx.config.max_llm_calls
        tools = [
            ToolDefinition(
                name=tool.name,
                description=tool.description,
                parameters_json_schema=schema_of(tool),
            )
            for tool in ctx.tools
        ]
        output_type = ctx.output_type
        wanted = settings.pop("response_format", None)
        if output_type is None and self._agent.output_type is str:  # an agent with a type of its own keeps it
            output_type = _output_type(wanted)
        if tools:  # a run may end with calls for the client
            output_type = [output_type or self._agent.output_type, DeferredToolRequests]
        return {
            "output_type": output_type,
            "deps": deps,
            "model": model,
            "model_settings": ModelSettings(**settings) if settings else None,  # type: ignore[typeddict-item]
            "usage_limits": UsageLimits(request_limit=limit) if limit is not None else None,
            "conversation_id": ctx.session_id,
            "toolsets": [ExternalToolset(tools)] if tools else None,
            # The framework gives its system prompt to a first turn only, and a history may have lost it.
            "capabilities": [
                Steps(turn, ledger, choice),
                HandleDeferredToolCalls(Asking(ctx, ledger).ask),
                *(() if first else (ReinjectSystemPrompt(),)),
            ],
            "infer_name": False,
        }


async def _request(
    node: ModelRequestNode[Any, Any], run: AgentRun[Any, Any], turn: Turn, ledger: Ledger
) -> AsyncGenerator[AgentItem, None]:
    """Ask the model and stream its answer. Without streaming the framework asks when it goes on to the next node."""
    await ledger.save_request(node.request)
    for item in turn.request():
        yield item
    if ledger.streaming and not _can_stream(run.ctx.deps.model):
        yield turn.go_blocking()
    if not ledger.streaming:
        return
    turn.opening = True
    turn.take(watched_by(run), emitted_in(run))
    async with node.stream(run.ctx) as stream:
        async for event in stream:
            if type(event) is m.PartDeltaEvent and type(delta := event.delta) is m.TextPartDelta:
                if delta.content_delta:
                    yield delta.content_delta
                continue
            turn.opening = False
            for item in turn.event(event):
                yield item
        for item in turn.response(stream.response):
            yield item


async def _tools(
    node: CallToolsNode[Any, Any], run: AgentRun[Any, Any], turn: Turn, ledger: Ledger
) -> AsyncGenerator[AgentItem, None]:
    """Run the tools that the model called."""
    for item in turn.notices():
        yield item
    if node.model_response is not ledger.told:
        if not ledger.streaming:
            for item in turn.whole_response(node.model_response):
                yield item
        turn.mend(node.model_response)
        await ledger.save()
    ledger.begin_tools()
    async with node.stream(run.ctx) as events:
        async for event in events:
            for item in turn.event(event):
                yield item
            if isinstance(event, m.FunctionToolResultEvent):
                await ledger.save()


def _output_type(response_format: Any) -> Any:
    """Return what a client of OpenAI's API asks for, as a type; None for text. Raises `InputInvalid`."""
    wanted = response_format if isinstance(response_format, dict) else {}
    if wanted.get("type") == "json_object":
        return StructuredDict({"type": "object"})
    if wanted.get("type") != "json_schema":
        return None
    try:
        schema = wanted["json_schema"]
        return StructuredDict({**schema["schema"]}, name=schema.get("name"), description=schema.get("description"))
    except (exceptions.UserError, KeyError, TypeError, AttributeError) as error:
        raise InputInvalid(f"response_format: no JSON Schema of an object: {error}") from None


def _state_deps(deps_type: Any) -> Callable[[RunContext], Any] | None:
    """Return what makes `StateDeps[Model]`, the dependencies of the framework's AG-UI agents, from the session's
    state.
    """
    ui = sys.modules.get("pydantic_ai.ui")  # in there, if this is such a type
    if ui is None or get_origin(deps_type) is not ui.StateDeps:
        return None
    (model,) = get_args(deps_type)

    def make(ctx: RunContext) -> Any:
        try:
            return deps_type(model.model_validate(ctx.state))
        except ValueError as error:
            raise InputInvalid(f"the session's state is no {model.__name__}: {error}") from None

    return make


def _can_stream(model: Model) -> bool:
    """Return whether the model, or each model behind it, has a streamed request at all."""
    wrapped = getattr(model, "wrapped", None)
    if wrapped is not None:
        return _can_stream(wrapped)
    if getattr(model, "stream_function", model) is None:  # a FunctionModel that only has the blocking function
        return False
    several = getattr(model, "models", None)
    if several is not None:
        return all(_can_stream(one) for one in several)
    return type(model).request_stream is not Model.request_stream
