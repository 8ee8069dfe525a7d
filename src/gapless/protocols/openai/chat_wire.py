"""The wire `openai`: chat completion chunks, for every client of OpenAI's chat completions API.

Source of the format: OpenAI API reference, chat completions, streaming. A chunk's id and time come from the run's
record and all else from its journal, so that any encoder that has folded the same events goes on with the same bytes.

The calls of the client's own tools are shown as they come. Those of the agent's tools are the agent's business: this
format has no place for them, and a client would take them for its own. A run that failed or was cancelled ends with
an error and never with a finish reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypedDict

import msgspec

from gapless.events import (
    CustomEvent,
    Message,
    ReasoningEncryptedValueEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageStartEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
    delta_head,
)
from gapless.fold import Void, void_of
from gapless.onetext import PARAGRAPH, LinkedText, Links
from gapless.output import OutputText
from gapless.records import RunRecord
from gapless.sse import DONE
from gapless.user_message import mark_of
from gapless.wire import NO_DELTA, Encoder

__all__ = [
    "DETAILS",
    "OPTIONS",
    "ChatEncoder",
    "Options",
    "error_json",
    "options_of",
    "pending_calls",
    "reason_of",
]

OPTIONS = "gapless.openai"
"""Key in the metadata of a run's input, for its `Options`."""
DETAILS = "gapless-v1"
"""Format of the `reasoning_details` that are ours."""
_RECONNECT = {"message": "the server ended the connection, not the answer: resume it", "code": "reconnect"}

encode = msgspec.json.Encoder().encode


class Options(TypedDict, total=False):
    """What of the client's request its answer depends on."""

    tools: list[str]
    """The names of the client's tools."""
    include_usage: bool
    background: bool
    metadata: dict[str, str]
    previous: str | None
    """Id of the run that a response goes on from; left out where the session says it."""
    encrypted: bool
    """The client keeps what models want back with reasoning and calls, and wants it as `encrypted_content`."""
    input: list[Message]
    """What came with a response's request before its last message."""


class ChatEncoder(Encoder):
    """Chat completion chunks. It folds which calls are the client's and the arguments of those that may become so."""

    name: ClassVar[str] = "openai"

    def __init__(self, run: RunRecord) -> None:
        super().__init__(run)
        options = options_of(run.input)
        head = {
            "id": f"chatcmpl-{run.id}",
            "object": "chat.completion.chunk",
            "created": run.created_at // 1000,
            "model": run.agent,
        }
        self._head = encode(head)[:-1] + b',"choices":['
        self._delta = self._head + b'{"index":0,"delta":'
        self._content = self._delta + b'{"content":'
        self.include_usage = bool(options.get("include_usage"))
        self._tools = frozenset(options.get("tools") or ())
        self._begun = False
        self._shown: dict[str, int] = {}
        """Calls that the client has seen, with their index."""
        self._next_index = 0
        self._hidden: dict[str, tuple[str, list[str]]] = {}
        """The other calls that have no result yet: name and arguments so far."""
        self._sealed: dict[str, str] = {}
        """What a model wants back with calls, by their ids."""
        self._thoughts: dict[str, int] = {}
        """Where in the reasoning each thought begins."""
        self._reasoned = 0
        """Characters of reasoning so far."""
        self._resolved: set[str] = set()
        self._reason: str | None = None
        self._output = OutputText()
        self._one = LinkedText(Links(run))

    def frames(self, event: bytes) -> Sequence[bytes]:
        if event.startswith(self._delta_head):  # the hot path: nothing is decoded
            return (b'%b%b},"finish_reason":null}]}' % (self._content, event[len(self._delta_head) : -1]),)
        decoded = decode_event(event)
        handler = _HANDLERS.get(type(decoded))
        return () if handler is None else handler(self, decoded)

    def reconnect(self, id: bytes) -> bytes:
        # A client that resumes knows the frame by its name; any other takes the error for what it is: a cut.
        return b"event: reconnect\ndata: %b\nid: %b\n\n" % (encode({"error": _RECONNECT}), id)

    def _chunk(self, delta: object, finish_reason: str | None = None) -> bytes:
        return b'%b%b,"finish_reason":%b}]}' % (self._delta, encode(delta), encode(finish_reason))

    def _run_started(self, event: RunStartedEvent) -> Sequence[bytes]:
        if self._begun:  # it goes on after an interrupt
            return ()
        self._begun = True
        return (self._chunk({"role": "assistant", "content": ""}),)

    def _text_start(self, event: TextMessageStartEvent) -> Sequence[bytes]:
        self._output.add(event)
        self._one.add(event)
        self._pass_on()
        return ()

    def _text(self, event: TextMessageContentEvent | TextMessageEndEvent) -> Sequence[bytes]:
        text = self._one.add(event)
        self._pass_on()
        return (self._chunk({"content": text}),) if text else ()

    def _pass_on(self) -> None:
        """Pass on the deltas of the message that is being given out as they are stored."""
        current = self._one.current
        self._delta_head = NO_DELTA if current is None else delta_head(TextMessageContentEvent, current)

    def _reasoning_start(self, event: ReasoningMessageStartEvent) -> Sequence[bytes]:
        self._thoughts[event.message_id] = self._reasoned
        return ()

    def _encrypted(self, event: ReasoningEncryptedValueEvent) -> Sequence[bytes]:
        """Say what a model wants back with a thought, in OpenRouter's form, or with a call, in that of Gemini's chat
        completions: clients send it back as they got it."""
        id, value = event.entity_id, event.encrypted_value
        if event.subtype == "tool-call":
            self._sealed[id] = value
            index = self._shown.get(id)
            return () if index is None else (self._chunk({"tool_calls": [{"index": index, **_extra(value)}]}),)
        if id not in self._thoughts:
            return ()
        kept = encode({"value": value, "start": self._thoughts[id], "end": self._reasoned}).decode()
        details = {"type": "reasoning.encrypted", "id": id, "format": DETAILS, "index": len(self._thoughts) - 1}
        return (self._chunk({"reasoning_details": [{**details, "data": kept}]}),)

    def _reasoning(self, event: ReasoningMessageContentEvent) -> Sequence[bytes]:
        self._reasoned += len(event.delta)
        return (self._chunk({"reasoning_content": event.delta}),)

    def _call_start(self, event: ToolCallStartEvent) -> Sequence[bytes]:
        if event.tool_call_name not in self._tools:
            self._hidden[event.tool_call_id] = (event.tool_call_name, [])
            return ()
        return (self._call(event.tool_call_id, event.tool_call_name, ""),)

    def _call(self, id: str, name: str, arguments: str) -> bytes:
        index = self._shown[id] = self._next_index
        self._next_index += 1
        call: dict[str, Any] = {"index": index, "id": id, "type": "function"}
        call["function"] = {"name": name, "arguments": arguments}
        if id in self._sealed:
            call |= _extra(self._sealed[id])
        return self._chunk({"tool_calls": [call]})

    def _call_args(self, event: ToolCallArgsEvent) -> Sequence[bytes]:
        index = self._shown.get(event.tool_call_id)
        if index is not None:
            return (self._chunk({"tool_calls": [{"index": index, "function": {"arguments": event.delta}}]}),)
        if event.tool_call_id in self._hidden:
            self._hidden[event.tool_call_id][1].append(event.delta)
        return ()

    def _call_result(self, event: ToolCallResultEvent) -> Sequence[bytes]:
        self._hidden.pop(event.tool_call_id, None)
        self._resolved.add(event.tool_call_id)
        return ()

    def _custom(self, event: CustomEvent) -> Sequence[bytes]:
        self._reason = reason_of(event) or self._reason
        self._output.add(event)
        if link := self._one.add(event):
            return (self._chunk({"content": link}),)
        void = void_of(event)
        return () if void is None else (self._void(void),)

    def _void(self, void: Void) -> bytes:
        """Return the chunk that says what is taken back. Whoever only joins the text sees a paragraph begin."""
        for id in void.tool_call_ids:
            self._shown.pop(id, None)
            self._hidden.pop(id, None)
            self._resolved.discard(id)
        text = PARAGRAPH if self._one.has_given([*void.message_ids, *void.cut]) else ""
        if text:
            self._one.begin_anew()
        return b'%b,"gapless":{"void":%b}}' % (self._chunk({"content": text})[:-1], encode(void))

    def _finished(self, event: RunFinishedEvent) -> Sequence[bytes]:
        if isinstance(event.outcome, RunFinishedInterruptOutcome):
            return ()  # the stream stays open until a person has answered
        if isinstance(event.outcome, RunFinishedCancelledOutcome):
            return (error_json("run_cancelled", "the run was cancelled before its end"), DONE)
        pending = pending_calls(event, [id for id in self._shown if id not in self._resolved])
        frames = [
            self._call(id, name, "".join(arguments)) for id, (name, arguments) in self._hidden.items() if id in pending
        ]
        if text := self._output.add(event):
            frames.append(self._chunk({"content": text}))
        reason = self._reason if self._reason in ("length", "content_filter") else "stop"
        frames.append(self._chunk({}, "tool_calls" if pending else reason))
        if self.include_usage and event.usage:
            frames.append(b'%b],"usage":%b}' % (self._head, encode(_usage(event.usage))))
        return (*frames, DONE)

    def _error(self, event: RunErrorEvent) -> Sequence[bytes]:
        return (error_json(event.code, event.message), DONE)


_HANDLERS: dict[type, Any] = {
    RunStartedEvent: ChatEncoder._run_started,
    TextMessageStartEvent: ChatEncoder._text_start,
    TextMessageContentEvent: ChatEncoder._text,
    TextMessageEndEvent: ChatEncoder._text,
    ReasoningMessageStartEvent: ChatEncoder._reasoning_start,
    ReasoningMessageContentEvent: ChatEncoder._reasoning,
    ReasoningEncryptedValueEvent: ChatEncoder._encrypted,
    ToolCallStartEvent: ChatEncoder._call_start,
    ToolCallArgsEvent: ChatEncoder._call_args,
    ToolCallResultEvent: ChatEncoder._call_result,
    CustomEvent: ChatEncoder._custom,
    RunFinishedEvent: ChatEncoder._finished,
    RunErrorEvent: ChatEncoder._error,
}


def _extra(value: str) -> dict[str, Any]:
    return {"extra_content": {"gapless": {"encrypted_value": value}}}


def options_of(asked: Message | None) -> Options:
    """Return what the request that this message came with asked of its answer; nothing for one that was asked
    elsewhere.
    """
    try:
        return msgspec.convert(mark_of(asked, OPTIONS) or {}, Options)
    except msgspec.ValidationError:
        return {}


def pending_calls(event: RunFinishedEvent, unresolved: Iterable[str]) -> list[str]:
    """Return the calls that the client is to execute: those that the run says, else those of its tools without a
    result.
    """
    outcome = event.outcome
    if isinstance(outcome, RunFinishedSuccessOutcome) and outcome.pending_tool_call_ids is not None:
        return outcome.pending_tool_call_ids
    return list(unresolved)


def reason_of(event: CustomEvent) -> str | None:
    """Return the finish reason, where the event tells it."""
    if event.name != "gapless.finish" or not isinstance(event.value, dict):
        return None
    reason = event.value.get("reason")
    return reason.replace("-", "_") if isinstance(reason, str) else None


def error_json(code: str | None, message: str, status: int = 500) -> bytes:
    """Return an error in OpenAI's shape. Its kind goes by the HTTP status. A run's error is never the request's,
    whatever its code.
    """
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return encode({"error": {"message": message, "type": kind, "param": None, "code": code or "run_failed"}})


def _usage(usage: list[TokenUsage]) -> dict[str, Any]:
    prompt, completion = (sum(getattr(u, f) or 0 for u in usage) for f in ("input_tokens", "output_tokens"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": sum(u.total_tokens or 0 for u in usage) or prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(u.cached_input_tokens or 0 for u in usage)},
        "completion_tokens_details": {"reasoning_tokens": sum(u.reasoning_tokens or 0 for u in usage)},
    }
