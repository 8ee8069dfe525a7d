"""Pydantic AI agents (2.x): the whole graph, streamed.

The graph is driven node by node with `Agent.iter`, so that an agent that talks, calls a tool and talks again streams
all of it. Text deltas, the hot path, go through as plain strings; nothing is dumped per event.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, get_args, get_origin

import msgspec
import pydantic_core
from pydantic_ai import exceptions
from pydantic_ai import messages as m
from pydantic_ai.agent import AbstractAgent, Agent, AgentRun
from pydantic_ai.capabilities import HandleDeferredToolCalls, ReinjectSystemPrompt
from pydantic_ai.models import Model
from pydantic_ai.output import StructuredDict
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDefinition, ToolDenied
from pydantic_ai.toolsets import ExternalToolset
from pydantic_ai.usage import UsageLimits

from gapless.agents import base
from gapless.agents.base import SEE_LOG, AgentItem, RunContext, log_raised
from gapless.agents.pydantic_ai_history import history_of, prompt_of, turn_of
from gapless.config import StreamingMode
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    InputInvalid,
    ModelFailed,
    OutputInvalid,
    RunCancelled,
    RunLimit,
    RunTimeout,
    StreamingUnavailable,
    ToolFailed,
)
from gapless.events import (
    CustomEvent,
    Event,
    EventBase,
    Interrupt,
    ReasoningEncryptedValueEvent,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ResumeEntry,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    StepFinishedEvent,
    StepStartedEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
)

__all__ = ["PydanticAIAgent"]

APPROVAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "editedArgs": {"type": "object"},
        "reason": {"type": "string"},
    },
    "required": ["approved"],
}
"""What answers an approval: JSON Schema of the payload, the shape that AG-UI clients send."""

UNCLEAR = ' (The answer was not understood: send {"approved": true} or {"approved": false}.)'
"""Asked once more, a question says why."""

log = logging.getLogger("gapless.agents.pydantic_ai")


class PydanticAIAgent(base.Agent):
    """Adapts one agent. `deps` makes a run's dependencies from its context where the caller gives none, as over HTTP.
    An agent that takes Pydantic AI's `StateDeps` has the session's state by itself.

    Takes from `RunConfig`: `streaming_mode`, `max_llm_calls`, `fallback`, and `model_settings`, whose `model` chooses
    the model and whose `response_format` (OpenAI's) the output of an agent that has no type of its own. Tools that need
    approval or are executed elsewhere interrupt the run until they are answered; a call of a tool that the client
    brought along ends it, and the client's next run brings the result.

    Raises `ToolFailed`, `OutputInvalid`, `ModelFailed`, `RunLimit`, `AgentInvalid`, `InputInvalid`.
    """

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

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        history = history_of(ctx)
        turn = _Turn(ctx, len(history))
        prompt = prompt_of(ctx.content)
        if prompt is None and not (history and isinstance(history[-1], m.ModelRequest)):
            raise InputInvalid("there is nothing to answer: no message, and no tool results after the last answer")
        options = self._options(ctx, turn, first=not history)
        streaming = ctx.config.streaming_mode is not StreamingMode.NONE
        try:
            while True:
                turn.opening = False
                try:
                    async with self._agent.iter(prompt, message_history=history or None, **options) as run:
                        turn.run = run
                        async for node in run:
                            if Agent.is_model_request_node(node):
                                for item in turn.request():
                                    yield item
                                if streaming and not _can_stream(run.ctx.deps.model):
                                    streaming = False
                                    yield turn.degraded()
                                if not streaming:
                                    continue
                                turn.opening = True
                                async with node.stream(run.ctx) as stream:
                                    async for event in stream:
                                        if (
                                            type(event) is m.PartDeltaEvent
                                            and type(delta := event.delta) is m.TextPartDelta
                                        ):
                                            if delta.content_delta:
                                                yield delta.content_delta
                                        else:
                                            turn.opening = False
                                            for item in turn.event(event):
                                                yield item
                                    for item in turn.response(stream.response):
                                        yield item
                            elif Agent.is_call_tools_node(node):
                                if not streaming:
                                    for item in turn.whole_response(node.model_response):
                                        yield item
                                async with node.stream(run.ctx) as tools:
                                    async for tool_event in tools:
                                        for item in turn.event(tool_event):
                                            yield item
                        if run.result is not None:
                            for item in turn.finish(run.result):
                                yield item
                    return
                except NotImplementedError:
                    if not turn.opening:
                        raise
                # The model said only when it was asked that it cannot stream: ask again, from where the run stands.
                yield turn.degraded()
                streaming, prompt, history = False, None, turn.unanswered()
        except GaplessError:
            raise
        except Exception as error:
            raise turn.failure(error, self.name) from error
        finally:
            turn.save()

    def _options(self, ctx: RunContext, turn: _Turn, *, first: bool) -> dict[str, Any]:
        settings = dict(ctx.config.model_settings)
        model = settings.pop("model", None)
        deps = self._deps(ctx) if ctx.deps is None and self._deps is not None else ctx.deps
        limit = ctx.config.max_llm_calls
        tools = [
            ToolDefinition(
                name=tool.name,
                description=tool.description,
                parameters_json_schema=tool.parameters or {"type": "object", "properties": {}},
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
            "capabilities": [HandleDeferredToolCalls(turn.ask), *(() if first else (ReinjectSystemPrompt(),))],
            "infer_name": False,
        }


def _output_type(response_format: Any) -> Any:
    """What a client of OpenAI's API asks for, as a type; None for text. Raises `InputInvalid`."""
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


class _Turn:
    """One run's translation: the framework's events to ours, and what is kept of the run when it ends."""

    def __init__(self, ctx: RunContext, history_size: int) -> None:
        self.run: AgentRun[Any, Any] | None = None
        self.opening = False
        """A streamed model request was made and nothing has come of it yet."""
        self._ctx = ctx
        self._history_size = history_size
        self._ids = 0
        self._after_text = False
        """The response before ended in text: what the next one says is another message."""
        self._calls: dict[int, str] = {}
        """The current response's tool calls, by part."""
        self._sent: set[str] = set()
        """Calls whose arguments were streamed as text."""
        self._reasoning: dict[int, str] = {}
        """The current response's open reasoning messages, by part."""
        self._running: dict[str, str] = {}
        """Tool calls that have no result yet, and their tools."""
        self._asking = asyncio.Lock()

    # -- what the framework says ------------------------------------------------------------------------------------

    def request(self) -> Iterable[AgentItem]:
        """The model is asked (again)."""
        if not self._after_text:
            return ()
        self._after_text = False
        step = "model request"  # between two texts, so that they are two messages
        return StepStartedEvent(step_name=step), StepFinishedEvent(step_name=step)

    def event(self, event: m.AgentStreamEvent) -> Iterable[AgentItem]:
        """Anything but a text delta."""
        handle = _EVENTS.get(type(event))
        if handle is not None:
            return handle(self, event)
        if isinstance(event, m.CustomEvent) and event.ui:
            return (_custom(event),)
        return ()

    def response(self, response: m.ModelResponse) -> Iterable[AgentItem]:
        """A response is complete, and so are its tool calls; they run next."""
        parts = {part.tool_call_id: part for part in response.parts if isinstance(part, m.BaseToolCallPart)}
        for call_id in self._calls.values():
            part = parts.get(call_id)
            if part is not None and call_id not in self._sent:
                yield ToolCallArgsEvent(tool_call_id=call_id, delta=part.args_as_json_str())
            yield ToolCallEndEvent(tool_call_id=call_id)
        self._calls.clear()
        self._reasoning.clear()

    def whole_response(self, response: m.ModelResponse) -> Iterable[AgentItem]:
        """A response that came in one piece."""
        for index, part in enumerate(response.parts):
            yield from self._part_start(m.PartStartEvent(index=index, part=part))
            yield from self._part_end(m.PartEndEvent(index=index, part=part))
        yield from self.response(response)

    def _part_start(self, event: m.PartStartEvent) -> Iterable[AgentItem]:
        part = event.part
        if isinstance(part, m.TextPart | m.SpeechPart):
            self._after_text = True
            if part.content:
                yield part.content
        elif isinstance(part, m.ThinkingPart):
            self._reasoning[event.index] = message_id = self._new_id("reasoning")
            if part.content:
                yield ReasoningMessageContentEvent(message_id=message_id, delta=part.content)
        elif isinstance(part, m.BaseToolCallPart):
            self._after_text = False
            self._calls[event.index] = part.tool_call_id
            yield ToolCallStartEvent(tool_call_id=part.tool_call_id, tool_call_name=part.tool_name)
            if isinstance(part.args, str) and part.args:
                self._sent.add(part.tool_call_id)
                yield ToolCallArgsEvent(tool_call_id=part.tool_call_id, delta=part.args)
        elif isinstance(part, m.NativeToolReturnPart):
            yield self._result(part)
        elif isinstance(part, m.FilePart):
            value = {"mimeType": part.content.media_type, "data": base64.b64encode(part.content.data).decode()}
            yield CustomEvent(name="gapless.file", value=value)

    def _part_delta(self, event: m.PartDeltaEvent) -> Iterable[AgentItem]:
        delta = event.delta
        if isinstance(delta, m.ThinkingPartDelta):
            message_id = self._reasoning.get(event.index)
            if message_id is not None and delta.content_delta:
                yield ReasoningMessageContentEvent(message_id=message_id, delta=delta.content_delta)
        elif isinstance(delta, m.ToolCallPartDelta):
            call_id = self._calls.get(event.index)
            if call_id is not None and isinstance(delta.args_delta, str) and delta.args_delta:
                self._sent.add(call_id)
                yield ToolCallArgsEvent(tool_call_id=call_id, delta=delta.args_delta)

    def _part_end(self, event: m.PartEndEvent) -> Iterable[AgentItem]:
        part = event.part
        if not isinstance(part, m.ThinkingPart):
            return
        message_id = self._reasoning.pop(event.index, None)
        if message_id is None or not (part.content or part.signature):
            return
        if not part.content:  # redacted: nothing but its signature
            yield ReasoningMessageStartEvent(message_id=message_id)
        yield ReasoningMessageEndEvent(message_id=message_id)
        if part.signature:
            yield ReasoningEncryptedValueEvent(subtype="message", entity_id=message_id, encrypted_value=part.signature)
        yield ReasoningEndEvent(message_id=message_id)

    def _final(self, event: m.FinalResultEvent) -> Iterable[AgentItem]:
        """The output has begun, as a call of an output tool: say which, so that it can be read as it grows."""
        if event.tool_call_id is None or event.tool_name is None or self.run is None:
            return ()
        tool = self.run.ctx.deps.tool_manager.get_tool_def(event.tool_name)
        value = {"toolCallId": event.tool_call_id}
        if tool is not None and tool.outer_typed_dict_key is not None:
            value["key"] = tool.outer_typed_dict_key
        return (CustomEvent(name="gapless.output", value=value),)

    def _tool_called(self, event: m.FunctionToolCallEvent) -> Iterable[AgentItem]:
        self._running[event.tool_call_id] = event.part.tool_name
        return ()

    def _tool_returned(self, event: m.FunctionToolResultEvent | m.OutputToolResultEvent) -> Iterable[AgentItem]:
        self._running.pop(event.tool_call_id, None)
        yield self._result(event.part)
        carried = event.part.metadata or event.part.content
        for item in carried if isinstance(carried, list | tuple) else (carried,):
            if isinstance(item, EventBase):
                yield item  # type: ignore[misc]  # every event struct is in the union
            elif type(item).__module__.startswith("ag_ui."):
                yield _from_ag_ui(item)

    def _result(self, part: m.BaseToolReturnPart[Any]) -> ToolCallResultEvent:
        return ToolCallResultEvent(
            message_id=self._new_id("tool"),
            tool_call_id=part.tool_call_id,
            content=part.model_response_str_and_user_content()[0],
            role="tool",
        )

    def _new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{self._ctx.run_id}-{kind}-{self._ids}"

    # -- asking a person --------------------------------------------------------------------------------------------

    async def ask(self, _: Any, requests: DeferredToolRequests) -> DeferredToolResults:
        """Interrupt the run until every deferred call is answered. An answer that is none is asked for again: a
        malformed one neither approves a call nor costs the run. Calls of the client's own tools are left to the client:
        they end the run."""
        results = DeferredToolResults()
        own = {tool.name for tool in self._ctx.tools}
        calls = (call for call in requests.calls if call.tool_name not in own)
        pending = {call.tool_call_id: call for call in (*requests.approvals, *calls)}
        async with self._asking:  # calls deferred one by one may come at once; a run waits for one set of answers
            unclear: set[str] = set()
            while pending:
                asked = [_interrupt(call, requests, unclear=id in unclear) for id, call in pending.items()]
                for entry in await self._ctx.interrupt(asked):
                    call = pending.get(entry.interrupt_id)
                    if call is None:
                        continue
                    if requests.kind(call.tool_call_id) != "approval":
                        results.calls[call.tool_call_id] = _call_answer(entry)
                    elif (approval := _approval(entry)) is not None:
                        results.approvals[call.tool_call_id] = approval
                    else:
                        unclear.add(call.tool_call_id)
                        continue
                    del pending[call.tool_call_id]
        return results

    # -- the end ----------------------------------------------------------------------------------------------------

    def degraded(self) -> CustomEvent:
        """The notice that the model runs blocking. Raises `StreamingUnavailable` where `fallback` is off."""
        model = self.run.ctx.deps.model.model_name if self.run is not None else "of the agent"
        if not self._ctx.config.fallback:
            raise StreamingUnavailable(
                f"the model {model} cannot stream; set streaming_mode to NONE or fallback to true to run it blocking",
                run_id=self._ctx.run_id,
            )
        message = f"the model {model} cannot stream: its answers come in one piece"
        return CustomEvent(name="gapless.notice", value={"code": "streaming_unavailable", "message": message})

    def unanswered(self) -> list[m.ModelMessage]:
        """The messages up to the request that got no answer."""
        messages = [] if self.run is None else list(self.run.all_messages())
        while messages and isinstance(messages[-1], m.ModelResponse):
            messages.pop()
        return messages

    def finish(self, result: AgentRunResult[Any]) -> Iterable[AgentItem]:
        """The run has its output. It is the run's result unless it is the text that was streamed anyway."""
        responses = [message for message in self._messages() if isinstance(message, m.ModelResponse)]
        output = result.output
        reason = responses[-1].finish_reason if responses else None
        if reason is not None:
            yield CustomEvent(
                name="gapless.finish", value={"reason": "tool_calls" if reason == "tool_call" else reason}
            )
        if isinstance(output, DeferredToolRequests):
            outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=[call.tool_call_id for call in output.calls])
            yield RunFinishedEvent(thread_id=self._ctx.session_id, run_id=self._ctx.run_id, outcome=outcome)
            return
        texts = (part.content for one in responses for part in one.parts if isinstance(part, m.TextPart))
        if not (isinstance(output, str) and output == "".join(texts)):
            self._ctx.result = pydantic_core.to_jsonable_python(output, serialize_unknown=True)

    def save(self) -> None:
        """Keep the turn for the next run, and count its model calls; also of a run that was cut short."""
        messages = self._messages()
        self._ctx.native = turn_of(self._ctx.run_id, messages)
        for message in messages:
            if isinstance(message, m.ModelResponse) and message.usage.has_values():
                self._ctx.add_usage(_usage(message))

    def _messages(self) -> Sequence[m.ModelMessage]:
        return [] if self.run is None else self.run.all_messages()[self._history_size :]

    def failure(self, error: Exception, agent: str) -> Exception:
        """What the run failed with. A tool is to blame where one was running; an exception of other code is passed on
        as it is."""
        run_id = self._ctx.run_id
        if isinstance(error, exceptions.RunTimedOut):
            return RunTimeout("the agent's own timeout ended the run", run_id=run_id)
        if isinstance(error, exceptions.RunCancelled):
            return RunCancelled("cancelled by the agent", run_id=run_id)
        if isinstance(error, exceptions.UsageLimitExceeded):
            return RunLimit(str(error), run_id=run_id)
        if isinstance(error, exceptions.UserError):
            return _setup_failure(error, agent, run_id)
        if isinstance(error, exceptions.ModelAPIError):
            return ModelFailed(_model_failure(error), run_id=run_id)
        if isinstance(error, exceptions.FallbackExceptionGroup):
            return ModelFailed("every model that the agent may fall back on failed", run_id=run_id)
        if isinstance(error, exceptions.ContentFilterError):
            return ModelFailed("the model's provider withheld the answer (content filter)", run_id=run_id)
        if self._running:
            names = ", ".join(sorted(set(self._running.values())))
            if isinstance(error, exceptions.UnexpectedModelBehavior):
                return ToolFailed(f"tool {names}: {error}", run_id=run_id)
            log_raised(log, run_id, f"tool {names}", error)
            return ToolFailed(f"tool {names} raised {type(error).__name__}{SEE_LOG}", run_id=run_id)
        if isinstance(error, exceptions.UnexpectedModelBehavior):
            return OutputInvalid(f"the model gave no valid output: {error.message}", run_id=run_id)
        return error


_EVENTS: dict[type, Callable[[_Turn, Any], Iterable[AgentItem]]] = {
    m.PartStartEvent: _Turn._part_start,
    m.PartDeltaEvent: _Turn._part_delta,
    m.PartEndEvent: _Turn._part_end,
    m.FinalResultEvent: _Turn._final,
    m.FunctionToolCallEvent: _Turn._tool_called,
    m.FunctionToolResultEvent: _Turn._tool_returned,
    m.OutputToolResultEvent: _Turn._tool_returned,
}


def _state_deps(deps_type: Any) -> Callable[[RunContext], Any] | None:
    """What makes `StateDeps[Model]`, the dependencies of the framework's AG-UI agents, from the session's state."""
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
    """Whether the model, or each model behind it, has a streamed request at all."""
    wrapped = getattr(model, "wrapped", None)
    if wrapped is not None:
        return _can_stream(wrapped)
    if getattr(model, "stream_function", model) is None:  # a FunctionModel that only has the blocking function
        return False
    several = getattr(model, "models", None)
    if several is not None:
        return all(_can_stream(one) for one in several)
    return type(model).request_stream is not Model.request_stream


def _custom(event: m.CustomEvent) -> AgentItem:
    """An application's own event, passed on; an event of AG-UI as itself."""
    payload = event.to_payload()
    if isinstance(payload, EventBase):
        return payload  # type: ignore[return-value]  # every event struct is in the union
    if type(payload).__module__.startswith("ag_ui."):
        return _from_ag_ui(payload)
    return CustomEvent(name=event.name, value=pydantic_core.to_jsonable_python(payload, serialize_unknown=True))


def _from_ag_ui(event: Any) -> Event:
    """An event of the `ag_ui` package. Raises `AgentInvalid` for one that AG-UI 1.0 does not have."""
    try:
        decoded: Event = decode_event(event.model_dump_json(by_alias=True, exclude_none=True))
    except (AttributeError, msgspec.ValidationError) as error:
        raise AgentInvalid(f"{type(event).__name__} is not an event of AG-UI 1.0: {error}") from None
    return decoded


def _interrupt(call: m.ToolCallPart, requests: DeferredToolRequests, *, unclear: bool) -> Interrupt:
    kind = requests.kind(call.tool_call_id)
    approval = kind == "approval"
    messages = {
        "approval": f"Approve the call of {call.tool_name}?",
        "question": f"{call.tool_name} asks for an answer.",
        "external": f"{call.tool_name} is executed outside of the agent; answer with its result.",
    }
    return Interrupt(
        id=call.tool_call_id,
        reason="input_required" if kind == "question" else "tool_call",
        message=messages[kind] + (UNCLEAR if unclear else ""),
        tool_call_id=call.tool_call_id,
        response_schema=APPROVAL_SCHEMA if approval else None,
        metadata={
            "kind": kind,
            "toolName": call.tool_name,
            "arguments": call.args_as_dict(),
            **pydantic_core.to_jsonable_python(requests.metadata.get(call.tool_call_id, {}), serialize_unknown=True),
        },
    )


def _approval(entry: ResumeEntry) -> ToolApproved | ToolDenied | None:
    """The decision; None for a payload that is none. Nothing but a clear yes approves."""
    if entry.status == "cancelled":
        return ToolDenied("Cancelled by the user.")
    payload = entry.payload if isinstance(entry.payload, dict) else {"approved": entry.payload}
    approved, edited = payload.get("approved"), payload.get("editedArgs")
    if approved is True and (edited is None or isinstance(edited, dict)):
        return ToolApproved(override_args=edited)
    if approved is False:
        reason = payload.get("reason")
        return ToolDenied(reason) if isinstance(reason, str) and reason else ToolDenied()
    return None


def _call_answer(entry: ResumeEntry) -> Any:
    return exceptions.ToolFailed("Cancelled by the user.") if entry.status == "cancelled" else entry.payload


def _usage(response: m.ModelResponse) -> TokenUsage:
    usage = response.usage
    return TokenUsage(
        provider=response.provider_name,
        model=response.model_name,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        reasoning_tokens=usage.output_reasoning_tokens or None,
        cached_input_tokens=usage.cache_read_tokens or None,
        cache_write_input_tokens=usage.cache_write_tokens or None,
    )


def _setup_failure(error: exceptions.UserError, agent: str, run_id: str) -> GaplessError:
    """The framework's own words to the developer. They name settings, not data."""
    if "API_KEY" in error.message or "api_key" in error.message:
        return ModelFailed(f"agent {agent} has no key for its model: {error.message}", run_id=run_id)
    return AgentInvalid(f"agent {agent}: {error.message}", run_id=run_id)


def _model_failure(error: exceptions.ModelAPIError) -> str:
    status = getattr(error, "status_code", None)
    said = f"the model {error.model_name} " + (f"answered {status}" if status is not None else "could not be reached")
    if isinstance(error, exceptions.ModelAuthenticationError):
        return f"{said}: check the key and what it may use"
    if isinstance(error, exceptions.ModelNotFoundError):
        return f"{said}: check the model's name and the base URL"
    if isinstance(error, exceptions.ModelContextWindowExceededError):
        return f"{said}: the conversation is longer than its context window"
    if isinstance(error, exceptions.ModelQuotaExceededError):
        return f"{said}: the account's quota is used up"
    if isinstance(error, exceptions.ModelRateLimitError | exceptions.ModelUnavailableError):
        return f"{said}: it is busy; try again later"
    if isinstance(error, exceptions.ModelTimeoutError):
        return f"the model {error.model_name} did not answer in time"
    return said
