"""The wire `vercel`: the UI message stream of the AI SDK (`ai` 6 and 7), for `useChat` and `readUIMessageStream`.

Only chunk types that both versions know are sent; both refuse a stream with any other. What AG-UI has and the AI SDK
has not (state, activities, steps, subagents, custom events) goes out as `data-…` parts, whose names are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import msgspec

from gapless.events import (
    ActivityDeltaEvent,
    ActivitySnapshotEvent,
    CustomEvent,
    Event,
    Interrupt,
    ReasoningEncryptedValueEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
    delta_head,
)
from gapless.fold import FILE, Fold, Void, denies, void_of
from gapless.jsontext import decode_json
from gapless.records import RunRecord
from gapless.user_message import mark_of
from gapless.wire import Encoder

__all__ = ["CONTINUES", "PROVIDER", "VercelEncoder"]

CONTINUES = "gapless.vercel.message_id"
"""Key in the metadata of a run's input: the id of the client's message that this run goes on with."""

PROVIDER = "gapless"
"""Under this name a part's provider metadata have what its model wants back with it, as `encryptedValue`."""

_encode = msgspec.json.Encoder().encode
_DONE = b"[DONE]"
_START_STEP, _FINISH_STEP = b'{"type":"start-step"}', b'{"type":"finish-step"}'
_NOT_FOLDED = (b'{"type":"TEXT_MESSAGE_CONTENT"', b'{"type":"REASONING_MESSAGE_CONTENT"')
_FINISH_REASONS = frozenset({"stop", "length", "content-filter", "tool-calls", "error", "other"})
_CHUNKS = {
    "source-url": ("sourceId", "url"),
    "source-document": ("sourceId", "mediaType", "title"),
}
"""Custom events that go out as a chunk of that name if their value has these fields, as text."""
_OPTIONAL = ("title", "filename")
_LEFT_CALL = "the run ended before this call had a result"
_VOID_CALL = "void: its worker was lost, it is done again"
_PASSING = frozenset({"gapless.audio", "gapless.interrupted", "gapless.turn_complete"})
"""Custom events for the moment: what a live run says aloud is not to pile up in the message."""
_USAGE = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "reasoning_tokens",
    "cached_input_tokens",
    "cache_write_input_tokens",
)

_Frames: TypeAlias = Sequence[bytes]


class VercelEncoder(Encoder):
    """AI SDK UI message chunks. It folds which parts are open, and the arguments of calls until they are complete."""

    name: ClassVar[str] = "vercel"
    headers: ClassVar[dict[str, str]] = {"x-vercel-ai-ui-message-stream": "v1"}
    pauses: ClassVar[bool] = True

    def __init__(self, run: RunRecord) -> None:
        super().__init__(run)
        self._message_id = str(mark_of(run.input, CONTINUES) or run.id)
        self._delta = b""
        """How the chunks of the newest part's deltas begin."""
        self._open: set[tuple[str, str]] = set()
        """Text and reasoning parts that are open: kind and id."""
        self._calls: dict[str, tuple[str, list[str]]] = {}
        """Calls whose arguments still come: name and arguments so far."""
        self._pending: set[str] = set()
        """Calls that are complete and have no result."""
        self._known: set[str] = set()
        self._results: dict[str, str] = {}
        """The calls that have a result, by its id."""
        self._sealed: dict[str, str] = {}
        """What a model wants back with thoughts and calls, by their ids."""
        self._held: str | None = None
        """A thought whose end is told with the next event: that may be what belongs to it."""
        self._voids = 0
        self._asked: dict[str, str] = {}
        """Approvals asked for: interrupt and call."""
        self._questions: dict[str, Interrupt] = {}
        """Those that are open and about no call, by id."""
        self._denied: set[str] = set()
        self._in_step = True
        self._step_done = False
        """The current step has a tool's result: what comes next is another model call's."""
        self._reason: str | None = None
        self._state_now = Fold()
        """Events that are of the state alone."""

    def skip(self, events: Iterable[bytes]) -> None:
        super().skip(event for event in events if not event.startswith(_NOT_FOLDED))

    def frames(self, event: bytes) -> _Frames:
        if event.startswith(self._delta_head):  # the hot path: nothing is decoded
            text = event[len(self._delta_head) : -1]
            return (self._delta + text + b"}",) if text != b'""' else ()
        decoded = decode_event(event)
        handler = _HANDLERS.get(type(decoded))
        if self._held is not None:
            return (*self._end_held(decoded), *(() if handler is None else handler(self, decoded)))
        return () if handler is None else handler(self, decoded)

    def reconnect(self, id: bytes) -> bytes:
        # A client that resumes knows the frame by its name; any other takes the error for what it is: a cut.
        chunk = _encode({"type": "error", "errorText": "the server ended the connection, not the answer: resume it"})
        return b"event: reconnect\ndata: %b\nid: %b\n\n" % (chunk, id)

    # -- the run's frame --------------------------------------------------------------------------------------------

    def _run_started(self, event: RunStartedEvent) -> _Frames:
        self._step_done = False
        metadata = {"runId": self.run.id, "sessionId": self.run.session_id}
        start = {"type": "start", "messageId": self._message_id, "messageMetadata": metadata}
        answers = (event.input.resume if event.input is not None else None) or []
        denied = [self._asked[one.interrupt_id] for one in answers if one.interrupt_id in self._asked and denies(one)]
        self._denied.update(denied)
        self._pending.difference_update(denied)
        denials = [_encode({"type": "tool-output-denied", "toolCallId": id}) for id in denied]
        # What an answered call comes to is of the step that made it: the next begins with what the model says then.
        self._in_step = not answers
        return (
            _encode(start),
            *([_START_STEP] if self._in_step else []),
            *denials,
            *self._close_questions({a.interrupt_id: a.status for a in answers}),
        )

    def _run_finished(self, event: RunFinishedEvent) -> _Frames:
        outcome = event.outcome
        if isinstance(outcome, RunFinishedCancelledOutcome):
            return (*self._settle(), *_metadata_chunk(event), b'{"type":"abort","reason":"cancelled"}', _DONE)
        if isinstance(outcome, RunFinishedInterruptOutcome):
            asked = [self._approval(interrupt) for interrupt in outcome.interrupts]
            ended = [_FINISH_STEP] if self._in_step else []
            return (*filter(None, asked), *ended, b'{"type":"finish","finishReason":"tool-calls"}', _DONE)
        unanswered = isinstance(outcome, RunFinishedSuccessOutcome) and outcome.pending_tool_call_ids
        reason = self._reason or ("tool-calls" if unanswered or self._pending else "stop")
        finish: dict[str, Any] = {"type": "finish", "finishReason": reason if reason in _FINISH_REASONS else "other"}
        metadata = _metadata(event)
        if metadata:
            finish["messageMetadata"] = metadata
        # Clients that send by themselves go by the last step: one with an answered call has another behind it.
        begun = [] if self._in_step else [_START_STEP]
        return (*begun, _FINISH_STEP, _encode(finish), _DONE)

    def _run_error(self, event: RunErrorEvent) -> _Frames:
        return (*self._settle(), *_metadata_chunk(event), _encode({"type": "error", "errorText": event.message}), _DONE)

    def _settle(self) -> _Frames:
        """Return what ends that is still open when the run is cut short. (Most the journal has ended: this is for runs
        that go on elsewhere, in a form that this wire cannot say.)"""
        left = sorted(self._pending.union(self._calls))
        self._pending.clear()
        self._calls.clear()
        errors = [_encode({"type": "tool-output-error", "toolCallId": id, "errorText": _LEFT_CALL}) for id in left]
        return (*errors, *self._close_questions({}))

    def _close_questions(self, answers: dict[str, str]) -> _Frames:
        """Tell of each question that is no call's how it was answered, or that all are closed where none was."""
        asked = {id: one for id, one in self._questions.items() if not answers or id in answers}
        self._questions = {id: one for id, one in self._questions.items() if id not in asked}
        return [
            _data("interrupt", {**msgspec.to_builtins(one), "status": answers.get(id, "closed")}, id=id)
            for id, one in asked.items()
        ]

    def _approval(self, interrupt: Interrupt) -> bytes:
        """Return the chunk that asks; b"" where the client has been told all by the call itself."""
        call_id = interrupt.tool_call_id
        if call_id is not None and call_id in self._known and (interrupt.metadata or {}).get("kind") == "external":
            return b""  # it waits for its output, as its part says already: no yes or no is that
        if call_id is not None and call_id in self._known:
            self._asked[interrupt.id] = call_id
            return _encode({"type": "tool-approval-request", "approvalId": interrupt.id, "toolCallId": call_id})
        self._questions[interrupt.id] = interrupt
        return _data("interrupt", interrupt, id=interrupt.id)

    # -- text and reasoning -----------------------------------------------------------------------------------------

    def _text_start(self, event: TextMessageStartEvent) -> _Frames:
        return self._part_start("text", event.message_id) if self._begins(event) else ()

    def _reasoning_start(self, event: ReasoningMessageStartEvent) -> _Frames:
        self._delta_head = delta_head(ReasoningMessageContentEvent, event.message_id)
        return self._part_start("reasoning", event.message_id)

    def _part_start(self, kind: str, id: str) -> _Frames:
        step = self._next_step()
        self._open.add((kind, id))
        self._delta = b'{"type":"%b-delta","id":%b,"delta":' % (kind.encode(), _encode(id))
        return (*step, _encode({"type": f"{kind}-start", "id": id}))

    def _text_delta(self, event: TextMessageContentEvent) -> _Frames:
        if event.message_id in self._others or not event.delta:
            return ()
        return (b'{"type":"text-delta","id":%b,"delta":%b}' % (_encode(event.message_id), _encode(event.delta)),)

    def _reasoning_delta(self, event: ReasoningMessageContentEvent) -> _Frames:
        if not event.delta:
            return ()
        return (b'{"type":"reasoning-delta","id":%b,"delta":%b}' % (_encode(event.message_id), _encode(event.delta)),)

    def _text_end(self, event: TextMessageEndEvent) -> _Frames:
        return () if event.message_id in self._others else self._part_end("text", event.message_id)

    def _reasoning_end(self, event: ReasoningMessageEndEvent) -> _Frames:
        self._held = event.message_id
        return ()

    def _end_held(self, event: Event) -> _Frames:
        """End the thought whose end was held, before this event."""
        assert self._held is not None, "the caller has looked"
        if isinstance(event, ReasoningEncryptedValueEvent):
            self._encrypted(event)
        held, self._held = self._held, None
        return self._part_end("reasoning", held)

    def _encrypted(self, event: ReasoningEncryptedValueEvent) -> _Frames:
        self._sealed[event.entity_id] = event.encrypted_value
        return ()

    def _part_end(self, kind: str, id: str) -> _Frames:
        self._open.discard((kind, id))
        return (_encode({"type": f"{kind}-end", "id": id, **self._kept(id)}),)

    def _kept(self, id: str) -> dict[str, Any]:
        """Return what the client is to keep with a thought or a call, and send back."""
        value = self._sealed.pop(id, None)
        return {} if value is None else {"providerMetadata": {PROVIDER: {"encryptedValue": value}}}

    def _next_step(self) -> _Frames:
        """Begin the next step. A step is one model call; from the last one's tool calls clients decide whether to send
        by themselves.
        """
        if not self._in_step:
            self._in_step, self._step_done = True, False
            return (_START_STEP,)
        if not self._step_done or self._open or self._calls:  # `ai` 6 forgets parts that are open when a step ends
            return ()
        self._step_done = False
        return (_FINISH_STEP, _START_STEP)

    # -- tools ------------------------------------------------------------------------------------------------------

    def _call_start(self, event: ToolCallStartEvent) -> _Frames:
        id, name = event.tool_call_id, event.tool_call_name
        step = self._next_step()
        self._calls[id] = (name, [])
        self._known.add(id)
        return (*step, _encode({"type": "tool-input-start", "toolCallId": id, "toolName": name}))

    def _call_args(self, event: ToolCallArgsEvent) -> _Frames:
        call = self._calls.get(event.tool_call_id)
        if call is None or not event.delta:
            return ()
        call[1].append(event.delta)
        chunk = {"type": "tool-input-delta", "toolCallId": event.tool_call_id, "inputTextDelta": event.delta}
        return (_encode(chunk),)

    def _call_end(self, event: ToolCallEndEvent) -> _Frames:
        name, parts = self._calls.pop(event.tool_call_id, ("", []))
        if not name:
            return ()
        text = "".join(parts)
        id = event.tool_call_id
        chunk: dict[str, Any] = {"type": "tool-input-available", "toolCallId": id, "toolName": name}
        chunk |= self._kept(id)
        try:
            chunk["input"] = decode_json(text) if text.strip() else {}
        except msgspec.DecodeError:
            error = {"type": "tool-input-error", "input": text, "errorText": "the arguments are not JSON"}
            return (_encode(chunk | error),)
        self._pending.add(id)
        return (_encode(chunk),)

    def _call_result(self, event: ToolCallResultEvent) -> _Frames:
        id = event.tool_call_id
        if id not in self._known:  # of a call in an earlier message: the client would refuse the stream
            return (_data("tool-result", {"toolCallId": id, "content": event.content}),)
        self._pending.discard(id)
        self._results[event.message_id] = id
        self._step_done = True
        if id in self._denied:  # told with the answer; what the agent makes of it is for the model
            return ()
        if event.error is not None:
            return (_encode({"type": "tool-output-error", "toolCallId": id, "errorText": event.error}),)
        return (_encode({"type": "tool-output-available", "toolCallId": id, "output": _output(event.content)}),)

    # -- what has no chunk of its own -------------------------------------------------------------------------------

    def _state(self, event: StateSnapshotEvent) -> _Frames:
        self._state_now.add(event)
        return (_data("state", event.snapshot, id="state"),)

    def _state_delta(self, event: StateDeltaEvent) -> _Frames:
        self._state_now.add(event)
        return (_data("state-delta", event.delta, transient=True), _data("state", self._state_now.state, id="state"))

    def _activity(self, event: ActivitySnapshotEvent) -> _Frames:
        data = {"activityType": event.activity_type, "content": event.content}
        return (_data("activity", data, id=event.message_id),)

    def _activity_delta(self, event: ActivityDeltaEvent) -> _Frames:
        data = {"messageId": event.message_id, "activityType": event.activity_type, "patch": event.patch}
        return (_data("activity-delta", data, transient=True),)

    def _step(self, event: StepStartedEvent | StepFinishedEvent) -> _Frames:
        status = "started" if isinstance(event, StepStartedEvent) else "finished"
        return (_data("step", {"name": event.step_name, "status": status}, id=event.step_name),)

    def _subagent(self, event: SubagentStartedEvent | SubagentFinishedEvent | SubagentErrorEvent) -> _Frames:
        return (_data("subagent", event, id=event.subagent_run_id),)

    def _custom(self, event: CustomEvent) -> _Frames:
        name, value = event.name, event.value
        if name == "gapless.finish":
            reason = value.get("reason") if isinstance(value, dict) else None
            self._reason = reason.replace("_", "-") if isinstance(reason, str) else None
            return ()
        if name == FILE and isinstance(value, dict):
            media_type = value.get("mimeType") or "application/octet-stream"
            url = value.get("url") or f"data:{media_type};base64,{value.get('data', '')}"
            return (_encode({"type": "file", "url": url, "mediaType": media_type}),)
        if (void := void_of(event)) is not None:
            return self._void(void)
        fields = _CHUNKS.get(name)
        if fields is not None and isinstance(value, dict) and all(isinstance(value.get(key), str) for key in fields):
            keys = [*fields, *(key for key in _OPTIONAL if isinstance(value.get(key), str))]
            return (_encode({"type": name, **{key: value[key] for key in keys}}),)
        more = event.metadata or {}
        id, passing = more.get("id"), name in _PASSING or more.get("transient") is True
        short = name.removeprefix("gapless.").removeprefix("data-")
        return (_data(short, value, id=id if isinstance(id, str) else None, transient=passing),)

    def _void(self, void: Void) -> _Frames:
        """Say what is taken back: the client keeps the parts, closed, and what is done again comes in new ones."""
        named = {*void.message_ids, *void.cut}
        ends = [self._part_end(kind, id)[0] for kind, id in sorted(self._open) if id in named]
        errors = [
            _encode({"type": "tool-output-error", "toolCallId": id, "errorText": _VOID_CALL})
            for id in void.tool_call_ids
            if id in self._pending or id in self._calls
        ]
        for id in void.tool_call_ids:
            self._calls.pop(id, None)
            self._pending.discard(id)
        for id in void.message_ids:
            if (call := self._results.pop(id, None)) is not None and call not in void.tool_call_ids:
                self._pending.add(call)
        self._step_done = True
        self._voids += 1
        said = _data("gapless-void", msgspec.to_builtins(void), id=f"{self.run.id}-void-{self._voids}")
        return (*ends, *errors, said)


_HANDLERS: dict[type, Callable[[VercelEncoder, Any], _Frames]] = {
    RunStartedEvent: VercelEncoder._run_started,
    RunFinishedEvent: VercelEncoder._run_finished,
    RunErrorEvent: VercelEncoder._run_error,
    TextMessageStartEvent: VercelEncoder._text_start,
    TextMessageContentEvent: VercelEncoder._text_delta,
    TextMessageEndEvent: VercelEncoder._text_end,
    ReasoningMessageStartEvent: VercelEncoder._reasoning_start,
    ReasoningMessageContentEvent: VercelEncoder._reasoning_delta,
    ReasoningMessageEndEvent: VercelEncoder._reasoning_end,
    ReasoningEncryptedValueEvent: VercelEncoder._encrypted,
    ToolCallStartEvent: VercelEncoder._call_start,
    ToolCallArgsEvent: VercelEncoder._call_args,
    ToolCallEndEvent: VercelEncoder._call_end,
    ToolCallResultEvent: VercelEncoder._call_result,
    StateSnapshotEvent: VercelEncoder._state,
    StateDeltaEvent: VercelEncoder._state_delta,
    ActivitySnapshotEvent: VercelEncoder._activity,
    ActivityDeltaEvent: VercelEncoder._activity_delta,
    StepStartedEvent: VercelEncoder._step,
    StepFinishedEvent: VercelEncoder._step,
    SubagentStartedEvent: VercelEncoder._subagent,
    SubagentFinishedEvent: VercelEncoder._subagent,
    SubagentErrorEvent: VercelEncoder._subagent,
    CustomEvent: VercelEncoder._custom,
}


def _data(name: str, value: Any, *, id: str | None = None, transient: bool = False) -> bytes:
    """Return a `data-…` chunk. One with an id replaces the one before it; a transient one is not kept in the
    message.
    """
    chunk: dict[str, Any] = {"type": f"data-{name}", "data": value}
    if id is not None:
        chunk["id"] = id
    if transient:
        chunk["transient"] = True
    return _encode(chunk)


def _output(content: Any) -> Any:
    """Return a tool's result: what it returned if that was an object or a list, which AG-UI carries as JSON text."""
    if isinstance(content, str) and content[:1] in ("{", "["):
        try:
            return decode_json(content)
        except msgspec.DecodeError:
            return content
    return content


def _metadata(event: RunFinishedEvent | RunErrorEvent) -> dict[str, Any]:
    """Return what a run's last event says beside its outcome: tokens over all models, typed result, error code."""
    metadata: dict[str, Any] = {}
    if event.usage:
        metadata["usage"] = _usage(event.usage)
    if isinstance(event, RunErrorEvent):
        metadata["error"] = {"code": event.code or "run_failed", "message": event.message}
    elif event.result is not None:
        metadata["result"] = event.result
    return metadata


def _metadata_chunk(event: RunFinishedEvent | RunErrorEvent) -> _Frames:
    metadata = _metadata(event)
    return (_encode({"type": "message-metadata", "messageMetadata": metadata}),) if metadata else ()


def _usage(usage: list[TokenUsage]) -> dict[str, int]:
    """Return the AI SDK's names: `inputTokens`, `outputTokens`, … A count that no model told is left out."""
    total: dict[str, int] = {}
    for one in usage:
        for field in _USAGE:
            count = getattr(one, field)
            if count is not None:
                head, *rest = field.split("_")
                name = head + "".join(word.title() for word in rest)
                total[name] = total.get(name, 0) + count
    return total
