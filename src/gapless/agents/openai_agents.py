"""Agents of the OpenAI Agents SDK: every token, call, hand-over and question, as they come."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn

import agents
import msgspec
from agents import (
    Agent,
    FunctionTool,
    Handoff,
    ModelSettings,
    RunConfig,
    RunHooks,
    RunResultStreaming,
    StreamEvent,
)
from agents.agent import ToolsToFinalOutputResult
from agents.items import ToolApprovalItem
from agents.memory import Session
from agents.run_state import RunState

from gapless.agents import base
from gapless.agents.approving import Decision, approval, ask, read_decision
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.client_tools import left_to_client, schema_of
from gapless.agents.counting import rest_of
from gapless.agents.failing import Failures, failure, raise_as
from gapless.agents.openai_agents_events import Translation, usage_of
from gapless.agents.openai_agents_items import input_of, turn_of
from gapless.agents.openai_agents_tap import Hearing
from gapless.agents.tool_choice import choice_of
from gapless.agents.values import plain
from gapless.agents.writing import finish, settings_ignored
from gapless.config import RunConfig as GaplessRunConfig
from gapless.config import StreamingMode
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    CheckpointUnreadable,
    GaplessError,
    InputInvalid,
    ModelFailed,
    OutputInvalid,
    RunLimit,
    ToolFailed,
)
from gapless.events import (
    Interrupt,
    ResumeEntry,
)
from gapless.jsontext import decode_json

__all__ = ["OpenAIAgent"]

SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
    "verbosity": "verbosity",
    "top_logprobs": "top_logprobs",
}
"""Settings of a run, and what the SDK calls them."""
PASSED_ON = frozenset({"seed", "stop", "logit_bias", "top_k", "min_p"})
"""Settings that the SDK has no name for and passes to the service."""

_FAILURES: Failures = {
    "agents.MaxTurnsExceeded": lambda error, run_id: RunLimit(
        "the agent asked its model more often than it may", run_id=run_id
    ),
    "agents.ModelTimeoutError": lambda error, run_id: ModelFailed("the model did not answer in time", run_id=run_id),
    "agents.ModelRefusalError": lambda error, run_id: ModelFailed("the model refused to answer", run_id=run_id),
    "agents.ModelBehaviorError": lambda error, run_id: OutputInvalid(
        "the model gave what the SDK refuses: output that is not valid, a call of a tool that the agent does not have, "
        f"or one under the id of another{base.SEE_LOG}",
        run_id=run_id,
    ),
    "agents.InputGuardrailTripwireTriggered": lambda error, run_id: _tripped(error, run_id, "refused the message"),
    "agents.OutputGuardrailTripwireTriggered": lambda error, run_id: _tripped(error, run_id, "withheld the answer"),
    "agents.ToolInputGuardrailTripwireTriggered": lambda error, run_id: _tripped(error, run_id, "refused a call"),
    "agents.ToolOutputGuardrailTripwireTriggered": lambda error, run_id: _tripped(error, run_id, "withheld a result"),
    "agents.ToolTimeoutError": lambda error, run_id: ToolFailed("a tool did not return in time", run_id=run_id),
    "agents.UserError": lambda error, run_id: AgentInvalid(f"the agent is not set up: {error}", run_id=run_id),
}


class _Kept(msgspec.Struct, array_like=True):
    """Is what a run saves: the SDK's state, how many answers of the model it has, and whether it stands at a
    question."""

    state: str
    responses: int
    asking: bool
    denied: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


class OpenAIAgent(base.Agent):
    """Adapts one `agent`, under its own name or `name`.

    `deps` makes a run's `context` from the run where the caller gives none. `session` makes a session of the SDK's own
    from the run: then the conversation is kept there, and the agent is given nothing but the message. `run_config` is
    the SDK's, for all runs; its tracing is left as it is set.

    Takes from `RunConfig`: `streaming_mode`, `max_llm_calls` (as `max_turns`), and `model_settings`, whose `model`
    chooses the model. Calls with `needs_approval` ask a person; hand-overs are steps; a call of a tool that the client
    brought along ends the run, and the client's next run brings the result. Its runs go on at another worker after the
    last answer of the model whose calls have all returned.

    Raises `ToolFailed`, `OutputInvalid`, `ModelFailed`, `RunLimit`, `AgentInvalid`, `AgentFailed` where a guardrail
    trips, `CheckpointUnreadable`.
    """

    continues = "from_checkpoint"
    framework = f"openai-agents {importlib.metadata.version('openai-agents').rpartition('.')[0]}"

    def __init__(
        self,
        agent: Agent[Any],
        *,
        name: str | None = None,
        deps: Callable[[RunContext], Any] | None = None,
        session: Callable[[RunContext], Session] | None = None,
        run_config: RunConfig | None = None,
    ) -> None:
        if not isinstance(agent, Agent):
            raise AgentInvalid(f"a {type(agent).__name__} is no agent of the OpenAI Agents SDK")
        self.name = name or agent.name
        self._agent = agent
        self._deps = deps
        self._session = session
        self._run_config = run_config or RunConfig()

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        agent, own = _with_tools_of(ctx, self._agent)
        streams = ctx.config.streaming_mode is not StreamingMode.NONE
        translation = Translation(ctx, agent.name, streams=streams, client_tools=own)
        hearing = Hearing(ctx, translation)
        hooks = _Hooks(hearing)
        history: list[Any] = []
        try:
            options, notices = self._options(ctx, agent, hooks)
            for notice in notices:
                yield notice
            history, asked = input_of(ctx)
            given: Any = asked if self._session is not None else [*history, *asked]
            asking = False
            if ctx.checkpoint is not None:
                given, asking = await self._restored(ctx, agent, translation, options.get("context"))
            while True:
                if not asking:
                    result = hearing.start(agent, given, **options)
                    async with _streamed(result) as events:
                        async for event in events:
                            for item in translation.items(event):
                                yield item
                            if event.type == "raw_response_event":
                                hearing.told(event.data)
                            elif event.type == "run_item_stream_event" and not translation.outstanding:
                                await self._save_step(ctx, result, translation)
                    if not result.interruptions:
                        break
                    given = result.to_state()
                asking = False
                await self._ask(ctx, given, translation)
            for item in self._finish(ctx, result, translation, history):
                yield item
        except Exception as error:
            _raise(error, hooks.running, ctx.run_id)
        finally:
            self.deltas = hearing.deltas
            hearing.end()

    async def delete_session(self, app_name: str, user_id: str, session_id: str) -> None:
        """Empty the SDK's own session of `session_id` of `user_id` in `app_name`, where `session` makes one."""
        if self._session is not None:
            await self._session(_between_runs(app_name, user_id, session_id)).clear_session()

    # -- what the SDK is given --------------------------------------------------------------------------------------

    def _options(
        self, ctx: RunContext, agent: Agent[Any], hooks: RunHooks[Any]
    ) -> tuple[dict[str, Any], list[AgentItem]]:
        deps = self._deps(ctx) if ctx.deps is None and self._deps is not None else ctx.deps
        config, notices = _configured(self._run_config, ctx.config.model_settings, agent)
        options: dict[str, Any] = {"context": deps, "run_config": config, "hooks": hooks}
        if ctx.config.max_llm_calls is not None:
            options["max_turns"] = ctx.config.max_llm_calls
        if self._session is not None:
            options["session"] = self._session(ctx)
        return options, notices

    # -- going on ---------------------------------------------------------------------------------------------------

    async def _restored(
        self, ctx: RunContext, agent: Agent[Any], translation: Translation, deps: Any
    ) -> tuple[RunState[Any, Any], bool]:
        try:
            kept = _decode(ctx.checkpoint or b"")
            state = await RunState.from_string(agent, kept.state, context_override=agents.RunContextWrapper(deps))
        except (msgspec.DecodeError, agents.UserError) as error:
            raise CheckpointUnreadable(
                f"run {ctx.run_id}: the state of its agent cannot be read ({type(error).__name__}); ask again",
                run_id=ctx.run_id,
            ) from error
        translation.responses = kept.responses
        translation.denied.update(kept.denied)
        return state, kept.asking

    async def _save_step(self, ctx: RunContext, result: RunResultStreaming, translation: Translation) -> None:
        """Save after an answer whose calls have all returned; not where the SDK is ahead of what has been recorded."""
        if ctx.continues and translation.responses and len(result.raw_responses) == translation.responses:
            await self._save(ctx, result.to_state(), translation)

    async def _save(
        self, ctx: RunContext, state: RunState[Any, Any], translation: Translation, *, asking: bool = False
    ) -> None:
        if ctx.continues:
            # The context is made anew from the run: it may hold what must not be stored.
            told = state.to_string(context_serializer=lambda context: {})
            kept = _Kept(told, translation.responses, asking, [*translation.denied])
            await ctx.save(_encode(kept), half=translation.half())

    async def _ask(self, ctx: RunContext, state: RunState[Any, Any], translation: Translation) -> None:
        """Ask for the calls that want a yes, and tell the state of the answers."""
        items = {_call_id(item): item for item in state.get_interruptions()}
        questions = {
            id: approval(id, id, item.tool_name or "", _arguments_of(item), metadata={"agent": item.agent.name})
            for id, item in items.items()
        }

        def read(entry: ResumeEntry) -> Decision | None:
            decision = read_decision(entry)
            if decision is None or decision.arguments is None:
                return decision
            # The SDK makes a call as the model made it or not at all.
            return decision if decision.arguments == _arguments_of(items[entry.interrupt_id]) else None

        answers = await ask(ctx, questions, read, lambda: self._save(ctx, state, translation, asking=True))
        for id, decision in answers.items():
            if decision.approved:
                state.approve(items[id])
            else:
                state.reject(items[id], rejection_message=decision.reason)
                translation.denied.add(id)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(
        self, ctx: RunContext, result: RunResultStreaming, translation: Translation, history: list[Any]
    ) -> list[AgentItem]:
        found = translation.close()
        if self._session is None:
            # A hand-over may have made another history of it: then that is what the next turn is told, as it is by a
            # program that goes on from the SDK's own result.
            goes_on = isinstance(result.input, list) and result.input[: len(history)] == history
            items = result.to_input_list() if goes_on else result.to_input_list(mode="normalized")
            ctx.native = turn_of(ctx.run_id, items, len(history) if goes_on else None, translation.pending)
        if (others := rest_of(usage_of(result.context_wrapper.usage), ctx.usage)) is not None:
            ctx.add_usage(others)  # of agents that were called as tools
        if not isinstance(result.final_output, str) and not translation.pending:
            ctx.result = plain(result.final_output)
        found += finish(translation.finish_reason)
        if translation.pending:
            found.append(left_to_client(ctx, translation.pending))
        return found


class _Hooks(RunHooks[Any]):
    """Knows which tools run, by their calls, and tells `hearing` of what is asked."""

    def __init__(self, hearing: Hearing) -> None:
        self.running: dict[str, str] = {}
        self._hearing = hearing

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
        self._hearing.asks(input_items)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.running[getattr(context, "tool_call_id", tool.name)] = tool.name

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.running.pop(getattr(context, "tool_call_id", tool.name), None)


@contextlib.asynccontextmanager
async def _streamed(result: RunResultStreaming) -> AsyncIterator[AsyncIterator[StreamEvent]]:
    """Give what `result` streams; where the run is left in the middle, the model's request and the tools end."""
    events: Any = result.stream_events()
    try:
        async with aclosing(events):
            try:
                yield events
                _raise_cancelled(result)
            finally:
                # Before it is closed: where nobody reads on, the SDK goes on to the run's end, and is waited for.
                if not result.is_complete:
                    result.cancel()
                task = result.run_loop_task
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.wait({task})
    finally:
        _forget(result)


def _raise_cancelled(result: RunResultStreaming) -> None:
    """Raise what a model, a guardrail or a hook of a run raised that the SDK takes for a cancel of its own, where
    nobody has cancelled: it would be a success without an answer, or with one that no guardrail has seen."""
    for value in [*vars(result).values()]:
        if isinstance(value, asyncio.Task) and value.cancelled():
            value.result()


def _raise(error: Exception, running: Mapping[str, str], run_id: str) -> NoReturn:
    """Raise what the run failed with, in which the SDK has raised `error`."""
    raised, names = _of_tool(error, running)
    try:
        raise_as(failure(raised, run_id, names, _FAILURES), raised)
    finally:
        del error, raised  # they refer to this frame


def _of_tool(error: Exception, running: Mapping[str, str]) -> tuple[Exception, list[str]]:
    """Return what was raised, and the tools of `running` that it may be of: the SDK wraps what a tool raises, and says
    of models and guardrails what is no tool's."""
    if not isinstance(error, agents.AgentsException):
        return error, [*running.values()]
    cause = error.__cause__
    if not isinstance(cause, Exception):
        return error, []
    return cause if isinstance(error, agents.UserError) else error, [*running.values()]


def _forget(result: RunResultStreaming) -> None:
    """Let go of the SDK's tasks: its result refers to itself, and a task to the context that it ran in. The run, with
    all that was said in it, would be kept until the garbage collector comes by."""
    for name, value in [*vars(result).items()]:
        if isinstance(value, asyncio.Task) and value.done():
            setattr(result, name, None)


def _with_tools_of(ctx: RunContext, agent: Agent[Any]) -> tuple[Agent[Any], frozenset[str]]:
    """Return the agent with the client's own tools, at whose calls it ends, and their names."""
    if not ctx.tools:
        return agent, frozenset()
    own = frozenset(tool.name for tool in ctx.tools)
    others = [one.tool_name if isinstance(one, Handoff) else Handoff.default_tool_name(one) for one in agent.handoffs]
    taken = own & {*others, *(getattr(tool, "name", "") for tool in agent.tools)}
    if taken:
        raise AgentInvalid(f"agent {agent.name} has a tool {', '.join(sorted(taken))}, and so has the client")

    async def left(context: Any, arguments: str) -> str:
        return ""  # the run ends with the call, and the client brings its result

    tools = [
        FunctionTool(
            name=tool.name,
            description=tool.description,
            params_json_schema=schema_of(tool),
            on_invoke_tool=left,
            strict_json_schema=False,
        )
        for tool in ctx.tools
    ]
    before = agent.tool_use_behavior

    async def behave(context: Any, results: list[Any]) -> ToolsToFinalOutputResult:
        names = [one.tool.name for one in results]
        stops = before.get("stop_at_tool_names", ()) if isinstance(before, dict) else ()
        if any(name in own or name in stops for name in names) or before == "stop_on_first_tool":
            return ToolsToFinalOutputResult(is_final_output=True, final_output=results[0].output)
        if callable(before):
            found = before(context, results)
            return await found if asyncio.iscoroutine(found) else found  # type: ignore[return-value]  # as it was
        return ToolsToFinalOutputResult(is_final_output=False)

    return agent.clone(tools=[*agent.tools, *tools], tool_use_behavior=behave), own


def _configured(config: RunConfig, settings: Mapping[str, Any], agent: Agent[Any]) -> tuple[RunConfig, list[AgentItem]]:
    """Return the SDK's configuration with the run's settings, and what is told of those that it does not have."""
    if not settings:
        return config, []
    known = {SETTINGS[key]: value for key, value in settings.items() if key in SETTINGS}
    extra = {key: value for key, value in settings.items() if key in PASSED_ON}
    effort = settings.get("reasoning_effort")
    if effort is not None:
        known["reasoning"] = {"effort": effort}
    ignored = sorted({*settings} - {*SETTINGS} - PASSED_ON - {"model", "reasoning_effort", "tool_choice"})
    if (wanted := settings.get("tool_choice")) is not None:
        choice = _choice(wanted, agent)
        known |= {} if choice is None else {"tool_choice": choice}
        ignored += ["tool_choice"] if choice is None else []
    made: dict[str, Any] = {}
    try:
        if known or extra:
            ours = ModelSettings(**known, extra_args=extra or None)
            made["model_settings"] = ours if config.model_settings is None else config.model_settings.resolve(ours)
        if isinstance(settings.get("model"), str):
            made["model"] = settings["model"]
        found = dataclasses.replace(config, **made)
    except (TypeError, ValueError) as error:
        raise InputInvalid(f"the model_settings are not what the agent takes: {type(error).__name__}") from error
    if not ignored:
        return found, []
    return found, [settings_ignored(ignored)]


def _choice(value: Any, agent: Agent[Any]) -> str | None:
    """Return a client's choice of tools as the SDK takes it: one by its name, or any; None for what it cannot do. (It
    forces a call once, unless the agent says otherwise.) Raises `InputInvalid` for a tool that is not there."""
    if value in ("auto", "none"):
        return str(value)
    choice = choice_of(value)
    if choice is None or not choice.forced or not (agent.tools or agent.mcp_servers):
        return None
    if not agent.mcp_servers:  # which are asked for theirs only in the run
        choice.check({name for tool in agent.tools if isinstance(name := getattr(tool, "name", None), str)})
    if choice.names is None:
        return "required"
    return choice.names[0] if len(choice.names) == 1 else None


def _between_runs(app_name: str, user_id: str, session_id: str) -> RunContext:
    """Return the context of a session in which nothing runs."""

    async def nobody(interrupts: list[Interrupt]) -> list[ResumeEntry]:
        raise AgentInvalid("no run is there that could ask")

    return RunContext(
        run_id="",
        session_id=session_id,
        user_id=user_id,
        agent_name=app_name,
        content="",
        messages=[],
        config=GaplessRunConfig(),
        interrupt=nobody,
    )


def _call_id(item: ToolApprovalItem) -> str:
    raw: Any = item.raw_item
    found = raw.get("call_id") or raw.get("id") if isinstance(raw, dict) else None
    return str(found or getattr(raw, "call_id", None) or getattr(raw, "id", ""))


def _arguments_of(item: ToolApprovalItem) -> Any:
    raw: Any = item.raw_item
    text = raw.get("arguments") if isinstance(raw, dict) else getattr(raw, "arguments", None)
    try:
        return decode_json(text or "{}")
    except ValueError:
        return text


def _tripped(error: Any, run_id: str, what: str) -> GaplessError:
    guardrail = getattr(getattr(error, "guardrail_result", None), "guardrail", None) or getattr(
        error, "guardrail", None
    )
    name = getattr(guardrail, "name", None)
    called = name if isinstance(name, str) else type(guardrail).__name__
    return AgentFailed(f"the guardrail {called} {what}", run_id=run_id)
