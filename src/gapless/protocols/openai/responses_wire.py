"""The wire `openai-responses`: the event stream of OpenAI's responses API.

Source of the format: OpenAI API reference, responses, streaming events. Every event has a `sequence_number`, and
clients resume by it. It counts the events of the stream as it is sent live, one per delta: a delta that was merged from
several while catching up takes the number of the last of them, so that a number means the same place in every stream.

The agent's own tools are shown as `mcp_call` items, this format's form for tools that the server executes; the
client's as `function_call` items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from gapless.events import (
    CustomEvent,
    Event,
    ReasoningEncryptedValueEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
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
    text_of,
)
from gapless.fold import FILE, Void, void_of
from gapless.onetext import Links
from gapless.output import OutputText
from gapless.protocols.openai.chat_wire import ChatEncoder, encode, options_of, pending_calls, reason_of
from gapless.records import RunRecord, RunStatus
from gapless.sse import DONE
from gapless.wire import Cursor, Encoder

__all__ = ["ID_PREFIX", "ResponsesEncoder"]

ID_PREFIX = "resp_"
"""Before a run's id: the id of its response."""
_STATUS = {
    RunStatus.QUEUED: "queued",
    RunStatus.RUNNING: "in_progress",
    RunStatus.WAITING: "in_progress",
    RunStatus.FINISHED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of an answer that is not whole."""
_TEXT, _THOUGHT, _CALL = "text", "thought", "call"


class _Item:
    """One item of the output. Its text is kept as it is stored: pieces of a JSON string, without the quotes."""

    __slots__ = ("fields", "id", "index", "kind", "status", "text")

    def __init__(self, kind: str, id: str, index: int, **fields: Any) -> None:
        self.kind = kind
        self.id = id
        self.index = index
        self.fields = fields
        self.status = "in_progress"
        self.text: list[bytes] = []

    @property
    def json_text(self) -> msgspec.Raw:
        return msgspec.Raw(b'"%b"' % b"".join(self.text))

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    @property
    def text_kind(self) -> str:
        return "reasoning_text" if self.kind == "reasoning" else "output_text"

    @property
    def delta_place(self) -> dict[str, Any]:
        place = {**self.place, "content_index": 0}
        return place if self.kind == "reasoning" else {**place, "logprobs": []}

    def part(self) -> dict[str, Any]:
        part = {"type": self.text_kind, "text": self.json_text}
        return part if self.kind == "reasoning" else {**part, "annotations": [], "logprobs": []}

    def json(self) -> dict[str, Any]:
        item = {"id": self.id, "type": self.kind, "status": self.status, **self.fields}
        if self.kind in ("message", "reasoning"):
            item["content"] = [self.part()] if self.text or self.status != "in_progress" else []
        else:
            item["arguments"] = self.json_text
        return item


class ResponsesEncoder(Encoder):
    """Events of the responses API. It folds the output so far, which several of them carry whole.

    Of `gapless.protocols.openai.chat_wire.Options` it reads all but `include_usage` and `input`.
    """

    name: ClassVar[str] = "openai-responses"
    reconnect = ChatEncoder.reconnect

    def __init__(self, run: RunRecord) -> None:
        super().__init__(run)
        self._options = options_of(run.input)
        self._tools = frozenset(self._options.get("tools") or ())
        self._number = 0
        """The sequence number of the next event."""
        self._seq = 0
        """Position of the newest stored event."""
        self._merged = 1
        """How many stored deltas the current event stands for."""
        self._output: list[_Item] = []
        self._items: dict[tuple[str, str], _Item] = {}
        """The newest item of each message, reasoning message or call: by `_TEXT`, `_THOUGHT` or `_CALL`, and its id."""
        self._results: dict[str, str] = {}
        """The calls that have a result, by its id."""
        self._held: ReasoningMessageEndEvent | None = None
        """The end of a thought, told with the next event: that may be what belongs to it."""
        self._pieces: list[bytes] = []
        """The text of the newest item that has one,"""
        self._delta = self._delta_line = b""
        """the event made of one of its deltas, a template for number and text, and the line with that event's name."""
        self._begun = False
        self._reason: str | None = None
        self._typed = OutputText()
        self._links = Links(run)
        self._end: dict[str, Any] = {}
        """What the terminal event says of the response."""

    # -- positions --------------------------------------------------------------------------------------------------

    def skip(self, events: Iterable[bytes]) -> None:
        self._merged = 1
        for event in events:
            self._seq += 1
            if self.frames(event):
                self._retry = False

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        out = []
        for item in items:
            seq, event = item
            self._merged, self._seq = seq - self._seq, seq
            if event.startswith(self._delta_head) and not skip_parts:  # the hot path
                (data,) = self.frames(event)
                out.append(self._delta_line + super()._frame(b"%d" % seq, data))
            else:
                out += [self._frame(id, data) for id, data in super().parts((item,), skip_parts)]
                skip_parts = 0
        return b"".join(out)

    def parts(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> list[tuple[bytes, bytes]]:
        out = []
        for item in items:
            self._merged, self._seq = item[0] - self._seq, item[0]
            out += super().parts((item,), skip_parts)
            skip_parts = 0
        return out

    def event_of(self, data: bytes) -> bytes:
        return b"" if data is DONE else data[len(b'{"type":"') : data.index(b'",')]

    def locate(self, events: Iterable[bytes], number: int) -> Cursor | None:
        """Return the place after the event with that sequence number, looking on through `events`; None if it is
        later.
        """
        for event in events:
            before, frames = self._number, self.frames(event)
            self._seq += 1
            if self._number > number:
                part = number - before + 1
                return Cursor(self._seq) if part == len(frames) else Cursor(self._seq - 1, part)
        return None

    def _frame(self, id: bytes, data: bytes) -> bytes:
        frame = super()._frame(id, data)
        return frame if data is DONE else b"event: %b\n%b" % (self.event_of(data), frame)

    # -- the response -----------------------------------------------------------------------------------------------

    def response(self, status: str | None = None) -> dict[str, Any]:
        """Return the response object as far as the events say; `status` where no terminal event has come."""
        run, options = self.run, self._options
        settings = run.config.model_settings if run.config is not None else {}
        previous = options.get("previous")
        response = {
            "id": ID_PREFIX + run.id,
            "object": "response",
            "created_at": run.created_at // 1000,
            "status": status or _STATUS[run.status],
            "background": bool(options.get("background")),
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": settings.get("max_tokens"),
            "metadata": options.get("metadata") or {},
            "model": run.agent,
            "output": [item.json() for item in self._output],
            "parallel_tool_calls": settings.get("parallel_tool_calls", True),
            "previous_response_id": ID_PREFIX + previous if previous else None,
            "conversation": {"id": run.session_id},
            "temperature": settings.get("temperature"),
            "tool_choice": settings.get("tool_choice", "auto"),
            "tools": [
                {"type": "function", "name": name, "parameters": None, "strict": None}
                for name in options.get("tools") or ()
            ],
            "top_p": settings.get("top_p"),
            "usage": None,
        }
        return response | self._end

    def frames(self, event: bytes) -> Sequence[bytes]:
        if event.startswith(self._delta_head):  # the hot path: nothing is decoded
            text = event[len(self._delta_head) : -1]
            self._pieces.append(text[1:-1])
            self._number += self._merged
            return (self._delta % (self._number - 1, text),)
        decoded = decode_event(event)
        handler = _HANDLERS.get(type(decoded))
        if self._held is not None:
            return (*self._end_held(decoded), *(() if handler is None else handler(self, decoded)))
        return () if handler is None else handler(self, decoded)

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        number = self._number
        self._number += 1
        return encode({"type": kind, "sequence_number": number, **fields})

    def _delta_event(self, kind: str, item: _Item, place: dict[str, Any], delta: str) -> bytes:
        item.text.append(encode(delta)[1:-1])
        self._number += self._merged - 1
        return self._event(kind, {**place, "delta": delta})

    def _add(self, group: str, id: str, kind: str, prefix: str, **fields: Any) -> tuple[_Item, bytes]:
        again = f"_{len(self._output)}" if (group, id) in self._items else ""  # items' ids are unique
        item = _Item(kind, f"{prefix}_{id}{again}", len(self._output), **fields)
        self._output.append(item)
        self._items[group, id] = item
        return item, self._event("response.output_item.added", {"output_index": item.index, "item": item.json()})

    def _done(self, item: _Item, status: str = "completed") -> bytes:
        item.status = status
        return self._event("response.output_item.done", {"output_index": item.index, "item": item.json()})

    # -- the run's frame --------------------------------------------------------------------------------------------

    def _run_started(self, event: RunStartedEvent) -> Sequence[bytes]:
        if self._begun:  # it goes on after an interrupt
            return ()
        self._begun = True
        response = {"response": self.response("in_progress")}
        return (self._event("response.created", response), self._event("response.in_progress", response))

    def _finished(self, event: RunFinishedEvent) -> Sequence[bytes]:
        outcome = event.outcome
        if isinstance(outcome, RunFinishedInterruptOutcome):
            return ()  # the stream stays open until a person has answered
        frames = [*self._leave_calls(event), *self._typed_output(event)]
        self._end["usage"] = _usage(event.usage)
        if isinstance(outcome, RunFinishedCancelledOutcome):
            # The API has no event for it; the status says that it is not the incomplete answer of a whole run.
            return (*frames, *self._last("response.incomplete", "cancelled"))
        if self._reason in _INCOMPLETE:
            self._end["incomplete_details"] = {"reason": _INCOMPLETE[self._reason]}
            return (*frames, *self._last("response.incomplete", "incomplete"))
        if event.timestamp is not None:
            self._end["completed_at"] = event.timestamp // 1000
        return (*frames, *self._last("response.completed", "completed"))

    def _typed_output(self, event: RunFinishedEvent) -> list[bytes]:
        """Return a message of its own for an output that was not said."""
        text = self._typed.add(event)
        return self._said("output", text.lstrip()) if text else []

    def _said(self, id: str, text: str) -> list[bytes]:
        """Return a message of its own with this text."""
        start = TextMessageStartEvent(message_id=id, role="assistant")
        delta = TextMessageContentEvent(message_id=id, delta=text)
        return [*self._text_start(start), *self._text_delta(delta), *self._text_end(TextMessageEndEvent(message_id=id))]

    def _error(self, event: RunErrorEvent) -> Sequence[bytes]:
        frames = self._leave_calls(None)
        self._end["usage"] = _usage(event.usage)
        self._end["error"] = {"code": "server_error", "message": event.message, "type": event.code or "run_failed"}
        return (*frames, *self._last("response.failed", "failed"))

    def _last(self, kind: str, status: str) -> Sequence[bytes]:
        self._end["status"] = status
        return (self._event(kind, {"response": self.response()}), DONE)

    def _leave_calls(self, event: RunFinishedEvent | None) -> list[bytes]:
        """End the calls that nobody has answered. Those of the client are complete; one that turns out to be the
        client's only now, as a run that another client started may have, is shown as such."""
        frames, pending = [], pending_calls(event, ()) if event is not None else ()
        succeeded = event is not None and not isinstance(event.outcome, RunFinishedCancelledOutcome)
        for (_, id), item in list(self._items.items()):
            if item.kind != "mcp_call" or item.status != "in_progress":
                continue
            if not succeeded:
                item.fields["error"] = _failure("the run ended before this call had a result")
            frames.append(self._done(item, "incomplete"))
            if id in pending:
                call, added = self._add(_CALL, id, "function_call", "fc", call_id=id, name=item.fields["name"])
                call.text = item.text
                frames += [added, self._arguments_done(call), self._done(call)]
        return frames

    def _custom(self, event: CustomEvent) -> Sequence[bytes]:
        self._reason = reason_of(event) or self._reason
        self._typed.add(event)
        if event.name == FILE:
            link = self._links.add(event)
            return self._said("file", link) if link else ()
        void = void_of(event)
        return () if void is None else self._void(void)

    # -- taking back ------------------------------------------------------------------------------------------------

    def _void(self, void: Void) -> Sequence[bytes]:
        """Say what is taken back: its items are incomplete, and of their text the response has what stays."""
        frames: list[bytes] = []
        named = dict.fromkeys(void.message_ids, 0) | void.cut
        items = [(item, named[id]) for (group, id), item in self._items.items() if group != _CALL and id in named]
        for item, chars in items:
            if item.status == "in_progress":
                frames += self._text_done(item, "incomplete")
            text: str = msgspec.json.decode(item.json_text)
            item.text[:] = [encode(text[:chars])[1:-1]]
            item.status = "incomplete"
        calls = [*void.tool_call_ids, *(self._results.pop(id) for id in void.message_ids if id in self._results)]
        for call in dict.fromkeys(calls):
            if (called := self._items.get((_CALL, call))) is not None:
                if called.status == "in_progress":
                    frames.append(self._done(called, "incomplete"))
                called.status = "incomplete"
                if called.kind == "mcp_call":
                    called.fields |= {"output": None, "error": None}
                items.append((called, 0))
        return (*frames, self._event("gapless.void", {"void": void, "item_ids": [item.id for item, _ in items]}))

    # -- text and reasoning -----------------------------------------------------------------------------------------

    def _text_start(self, event: TextMessageStartEvent) -> Sequence[bytes]:
        self._typed.add(event)
        if not self._begins(event):
            return ()
        item, added = self._add(_TEXT, event.message_id, "message", "msg", role="assistant")
        self._expect(item, TextMessageContentEvent, event.message_id)
        return (added, self._part("response.content_part.added", item))

    def _reasoning_start(self, event: ReasoningMessageStartEvent) -> Sequence[bytes]:
        item, added = self._add(_THOUGHT, event.message_id, "reasoning", "rs", summary=[])
        self._expect(item, ReasoningMessageContentEvent, event.message_id)
        return (added, self._part("response.content_part.added", item))

    def _expect(
        self, item: _Item, kind: type[TextMessageContentEvent | ReasoningMessageContentEvent], message_id: str
    ) -> None:
        self._pieces, self._delta_head = item.text, delta_head(kind, message_id)
        name, place = b"response.%b.delta" % item.text_kind.encode(), encode(item.delta_place).replace(b"%", b"%%")
        self._delta = b'{"type":"%b","sequence_number":%%d,%b,"delta":%%b}' % (name, place[1:-1])
        self._delta_line = b"event: %b\n" % name

    def _text_delta(self, event: TextMessageContentEvent | ReasoningMessageContentEvent) -> Sequence[bytes]:
        item = self._text_item(event)
        if item is None:
            return ()
        return (self._delta_event(f"response.{item.text_kind}.delta", item, item.delta_place, event.delta),)

    def _text_end(self, event: TextMessageEndEvent | ReasoningMessageEndEvent) -> Sequence[bytes]:
        item = self._text_item(event)
        return () if item is None else self._text_done(item)

    def _reasoning_end(self, event: ReasoningMessageEndEvent) -> Sequence[bytes]:
        self._held = event
        return ()

    def _end_held(self, event: Event) -> Sequence[bytes]:
        """End the thought whose end was held, before this event."""
        assert self._held is not None, "the caller has looked"
        if isinstance(event, ReasoningEncryptedValueEvent):
            self._encrypted(event)
        held, self._held = self._held, None
        return self._text_end(held)

    def _encrypted(self, event: ReasoningEncryptedValueEvent) -> Sequence[bytes]:
        """Put what a model wants back with a thought or a call where a client keeps it that asked for it."""
        item = self._items.get((_CALL if event.subtype == "tool-call" else _THOUGHT, event.entity_id))
        if item is not None and self._options.get("encrypted"):
            kept: Any = event.encrypted_value
            if item.kind == "reasoning":  # with its text: most clients send an item's content back only in this
                kept = encode({"value": kept, "text": item.json_text}).decode()
            item.fields["encrypted_content"] = kept
        return ()

    def _text_done(self, item: _Item, status: str = "completed") -> Sequence[bytes]:
        done = self._event(f"response.{item.text_kind}.done", {**item.delta_place, "text": item.json_text})
        return (done, self._part("response.content_part.done", item), self._done(item, status))

    def _text_item(self, event: Any) -> _Item | None:
        is_text = isinstance(event, TextMessageContentEvent | TextMessageEndEvent)
        if is_text and event.message_id in self._others:
            return None
        return self._items.get((_TEXT if is_text else _THOUGHT, event.message_id))

    def _part(self, kind: str, item: _Item) -> bytes:
        return self._event(kind, {**item.place, "content_index": 0, "part": item.part()})

    # -- tool calls -------------------------------------------------------------------------------------------------

    def _call_start(self, event: ToolCallStartEvent) -> Sequence[bytes]:
        id, name = event.tool_call_id, event.tool_call_name
        if name in self._tools:
            return (self._add(_CALL, id, "function_call", "fc", call_id=id, name=name)[1],)
        own = {"name": name, "server_label": self.run.agent, "output": None, "error": None}
        item, added = self._add(_CALL, id, "mcp_call", "mcp", **own)
        return (added, self._event("response.mcp_call.in_progress", item.place))

    def _call_args(self, event: ToolCallArgsEvent) -> Sequence[bytes]:
        item = self._items[_CALL, event.tool_call_id]
        return (self._delta_event(f"response.{item.kind}_arguments.delta", item, item.place, event.delta),)

    def _call_end(self, event: ToolCallEndEvent) -> Sequence[bytes]:
        item = self._items[_CALL, event.tool_call_id]
        done = self._arguments_done(item)
        return (done, self._done(item)) if item.kind == "function_call" else (done,)

    def _arguments_done(self, item: _Item) -> bytes:
        fields = {**item.place, "name": item.fields["name"], "arguments": item.json_text}
        return self._event(f"response.{item.kind}_arguments.done", fields)

    def _call_result(self, event: ToolCallResultEvent) -> Sequence[bytes]:
        id = event.tool_call_id
        item = self._items.get((_CALL, id))
        again: list[bytes] = []
        if item is not None and item.kind == "mcp_call" and item.status == "incomplete":  # its first result is void
            text = item.text
            again += self._call_start(ToolCallStartEvent(tool_call_id=id, tool_call_name=item.fields["name"]))
            item = self._items[_CALL, id]
            item.text = text
            again.append(self._arguments_done(item))
        if item is None or item.kind != "mcp_call" or item.status != "in_progress":
            return ()
        self._results[event.message_id] = id
        if event.error is not None:
            item.fields["error"] = _failure(event.error)
            return (*again, self._event("response.mcp_call.failed", item.place), self._done(item, "failed"))
        item.fields["output"] = text_of(event.content)
        return (*again, self._event("response.mcp_call.completed", item.place), self._done(item))


_HANDLERS: dict[type, Any] = {
    RunStartedEvent: ResponsesEncoder._run_started,
    RunFinishedEvent: ResponsesEncoder._finished,
    RunErrorEvent: ResponsesEncoder._error,
    CustomEvent: ResponsesEncoder._custom,
    TextMessageStartEvent: ResponsesEncoder._text_start,
    TextMessageContentEvent: ResponsesEncoder._text_delta,
    TextMessageEndEvent: ResponsesEncoder._text_end,
    ReasoningMessageStartEvent: ResponsesEncoder._reasoning_start,
    ReasoningMessageContentEvent: ResponsesEncoder._text_delta,
    ReasoningMessageEndEvent: ResponsesEncoder._reasoning_end,
    ReasoningEncryptedValueEvent: ResponsesEncoder._encrypted,
    ToolCallStartEvent: ResponsesEncoder._call_start,
    ToolCallArgsEvent: ResponsesEncoder._call_args,
    ToolCallEndEvent: ResponsesEncoder._call_end,
    ToolCallResultEvent: ResponsesEncoder._call_result,
}


def _failure(why: str) -> dict[str, Any]:
    """Return an error in the form of `McpToolExecutionError`."""
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": why}]}


def _usage(usage: list[TokenUsage] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    read, written = (sum(getattr(u, f) or 0 for u in usage) for f in ("input_tokens", "output_tokens"))
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": sum(u.cached_input_tokens or 0 for u in usage),
            "cache_write_tokens": sum(u.cache_write_input_tokens or 0 for u in usage),
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": sum(u.reasoning_tokens or 0 for u in usage)},
        "total_tokens": sum(u.total_tokens or 0 for u in usage) or read + written,
    }
