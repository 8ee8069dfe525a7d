"""One run of a Pydantic AI agent: the framework's events to ours, and what is kept of the run when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec
import pydantic_core
from pydantic_ai import exceptions
from pydantic_ai import messages as m
from pydantic_ai.agent import AgentRun
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied

from gapless.agents.base import AgentItem, RunContext
from gapless.agents.pydantic_ai_history import turn_of
from gapless.config import StreamingMode
from gapless.errors import AgentInvalid, StreamingUnavailable
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
from gapless.fold import FILE

__all__ = ["Turn"]

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


class Turn:
    """One run's translation: the framework's events to ours, and what is kept of the run when it ends."""

    def __init__(self, ctx: RunContext) -> None:
        self.streaming = ctx.config.streaming_mode is not StreamingMode.NONE
        self.run: AgentRun[Any, Any] | None = None
        self.emits = ctx.emits
        self.taking = False
        """The deltas of the response at hand come to `hear`, not through the graph."""
        self.opening = False
        """A streamed model request was made and nothing has come of it yet."""
        self._ctx = ctx
        self._run_ids: set[str] = set()
        """The framework's ids of this turn's runs: two where the model was asked again without streaming."""
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

    def begin(self, run: AgentRun[Any, Any]) -> None:
        """Take up one run of the agent's graph."""
        self.run = run
        self._run_ids.add(run.run_id)

    # -- what the framework says ------------------------------------------------------------------------------------

    def request(self) -> Iterable[AgentItem]:
        """Note that the model is asked (again)."""
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

    async def hear(self, event: m.PartDeltaEvent) -> None:
        """Take a delta while the graph waits for the model's next event."""
        if type(delta := event.delta) is m.TextPartDelta:
            if delta.content_delta:
                await self._ctx.emit(delta.content_delta)
            return
        for item in self._part_delta(event):
            await self._ctx.emit(item)

    def response(self, response: m.ModelResponse) -> Iterable[AgentItem]:
        """Take a response that is complete, and so are its tool calls; they run next."""
        parts = {part.tool_call_id: part for part in response.parts if isinstance(part, m.BaseToolCallPart)}
        for call_id in self._calls.values():
            part = parts.get(call_id)
            if part is not None and call_id not in self._sent:
                yield ToolCallArgsEvent(tool_call_id=call_id, delta=part.args_as_json_str())
            yield ToolCallEndEvent(tool_call_id=call_id)
        self._calls.clear()
        self._reasoning.clear()

    def whole_response(self, response: m.ModelResponse) -> Iterable[AgentItem]:
        """Take a response that came in one piece."""
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
            yield CustomEvent(name=FILE, value={"mimeType": part.content.media_type, "data": part.content.data})

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
        """Note that the output has begun, as a call of an output tool: say which, so that it can be read as it
        grows.
        """
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

    @property
    def running(self) -> Collection[str]:
        """Returns the tools that run."""
        return self._running.values()

    # -- the end ----------------------------------------------------------------------------------------------------

    def go_blocking(self) -> CustomEvent:
        """Ask the model for whole answers from now on, and say so. Raises `StreamingUnavailable` where `fallback` is
        off."""
        self.streaming = self.opening = False
        model = self.run.ctx.deps.model.model_name if self.run is not None else "of the agent"
        if not self._ctx.config.fallback:
            raise StreamingUnavailable(
                f"the model {model} cannot stream; set streaming_mode to NONE or fallback to true to run it blocking",
                run_id=self._ctx.run_id,
            )
        message = f"the model {model} cannot stream: its answers come in one piece"
        return CustomEvent(name="gapless.notice", value={"code": "streaming_unavailable", "message": message})

    def unanswered(self) -> list[m.ModelMessage]:
        """Return the messages up to the request that got no answer."""
        messages = [] if self.run is None else list(self.run.all_messages())
        while messages and isinstance(messages[-1], m.ModelResponse):
            messages.pop()
        return messages

    def finish(self, result: AgentRunResult[Any]) -> Iterable[AgentItem]:
        """Take the output, which is the run's result unless it is the text that was streamed anyway."""
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
        """Keep the turn for the next run, and count its model calls; also of a run that was cut short. The framework's
        run refers to this, and is let go."""
        messages = self._messages()
        self.run = None
        self._ctx.native = turn_of(self._ctx.run_id, messages)
        for message in messages:
            if isinstance(message, m.ModelResponse) and message.usage.has_values():
                self._ctx.add_usage(_usage(message))

    def _messages(self) -> Sequence[m.ModelMessage]:
        # By run, not by position: a history processor may have dropped messages before them.
        return [] if self.run is None else [one for one in self.run.all_messages() if one.run_id in self._run_ids]


_EVENTS: dict[type, Callable[[Turn, Any], Iterable[AgentItem]]] = {
    m.PartStartEvent: Turn._part_start,
    m.PartDeltaEvent: Turn._part_delta,
    m.PartEndEvent: Turn._part_end,
    m.FinalResultEvent: Turn._final,
    m.FunctionToolCallEvent: Turn._tool_called,
    m.FunctionToolResultEvent: Turn._tool_returned,
    m.OutputToolResultEvent: Turn._tool_returned,
}


def _custom(event: m.CustomEvent) -> AgentItem:
    """Return an application's own event, passed on; an event of AG-UI as itself."""
    payload = event.to_payload()
    if isinstance(payload, EventBase):
        return payload  # type: ignore[return-value]  # every event struct is in the union
    if type(payload).__module__.startswith("ag_ui."):
        return _from_ag_ui(payload)
    return CustomEvent(name=event.name, value=pydantic_core.to_jsonable_python(payload, serialize_unknown=True))


def _from_ag_ui(event: Any) -> Event:
    """Return an event of the `ag_ui` package. Raises `AgentInvalid` for one that AG-UI 1.0 does not have."""
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
    """Return the decision; None for a payload that is none. Nothing but a clear yes approves."""
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
