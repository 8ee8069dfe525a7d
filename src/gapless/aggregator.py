"""The whole response out of a stream's events, complete or not.

Takes the events of Gapless and those of Google ADK, which repeat in one aggregate what they sent in pieces.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gapless.events import (
    CustomEvent,
    ReasoningMessageChunkEvent,
    ReasoningMessageContentEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    text_of,
)
from gapless.fold import RESTARTED, Void, void_of

__all__ = ["AggregatedResponse", "Content", "FunctionCall", "FunctionResponse", "Part", "StreamingResponseAggregator"]


class FunctionCall(msgspec.Struct):
    """Is a tool call whose arguments are complete: the call `id` of tool `name`; `args` is {} where the model wrote no
    JSON object.
    """

    id: str
    name: str
    args: dict[str, Any]


class FunctionResponse(msgspec.Struct, omit_defaults=True):
    """Is a tool's result: the `response` of tool `name` to the call `id`; `error` says why it failed, if it did."""

    id: str
    name: str
    response: Any
    error: str | None = None


class Part(msgspec.Struct, omit_defaults=True):
    """Is one piece of the response: `text` (a thought, where `thought` is set), `function_call`, its
    `function_response`, or media.
    """

    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    inline_data: Any = None
    """ADK's own object."""


class Content(msgspec.Struct):
    """Holds the `parts` of a message whose `role` is "model"."""

    parts: list[Part]
    role: str = "model"


_PLACE = Part()
"""Where a tool call will be, once it is complete."""


class AggregatedResponse(msgspec.Struct):
    """Is the response so far: `content.parts` in the order of the stream, adjacent parts of one kind merged."""

    content: Content

    @property
    def text(self) -> str:
        """Joins the answer's text, thoughts apart."""
        return "".join(part.text for part in self.content.parts if part.text is not None and not part.thought)

    @property
    def thoughts(self) -> str:
        """Joins what the model thought."""
        return "".join(part.text for part in self.content.parts if part.text is not None and part.thought)

    @property
    def function_calls(self) -> list[FunctionCall]:
        """Lists the tool calls, each complete."""
        return [part.function_call for part in self.content.parts if part.function_call is not None]


class _Said:
    """Text of one kind and message, in pieces that are joined when it is read."""

    __slots__ = ("id", "pieces", "thought")

    def __init__(self, id: str, thought: bool) -> None:
        self.id = id
        self.thought = thought
        self.pieces: list[str] = []

    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0]


class _Parts:
    """Parts in order, each with the id of the message or call that it is of."""

    def __init__(self) -> None:
        self._entries: list[_Said | tuple[str, Part]] = []

    def text(self, text: str, *, thought: bool, id: str = "") -> None:
        if not text:
            return
        last = self._entries[-1] if self._entries else None
        if not isinstance(last, _Said) or last.thought != thought or last.id != id:
            last = _Said(id, thought)
            self._entries.append(last)
        last.pieces.append(text)

    def add(self, part: Part, id: str = "") -> None:
        self._entries.append((id, part))

    def complete(self, call: FunctionCall) -> None:
        """Put the call where its place was kept."""
        for index in range(len(self._entries) - 1, -1, -1):
            if self._entries[index] == (call.id, _PLACE):
                self._entries[index] = (call.id, Part(function_call=call))
                return

    def extend(self, other: _Parts) -> None:
        for part in other.whole():
            if part.text is not None:
                self.text(part.text, thought=bool(part.thought))
            elif part != _PLACE:
                self.add(part)

    def whole(self) -> list[Part]:
        parts: list[Part] = []
        for entry in self._entries:
            if not isinstance(entry, _Said):
                parts.append(entry[1])
            elif parts and parts[-1].text is not None and bool(parts[-1].thought) == entry.thought:
                parts[-1].text += entry.text()
            else:
                parts.append(Part(text=entry.text(), thought=entry.thought or None))
        return parts

    def take_back(self, void: Void) -> None:
        """Take back what is named: text by its message, calls by their own id, results by their message."""
        messages, calls, left = set(void.message_ids), set(void.tool_call_ids), dict(void.cut)
        kept: list[_Said | tuple[str, Part]] = []
        for entry in self._entries:
            if isinstance(entry, _Said):
                if entry.id in left:
                    text = entry.text()
                    entry.pieces = [text[: left[entry.id]]]
                    left[entry.id] = max(0, left[entry.id] - len(text))
                if entry.id not in messages and entry.text():
                    kept.append(entry)
            elif entry[0] not in (messages if entry[1].function_response is not None else calls):
                kept.append(entry)
        self._entries = kept


class StreamingResponseAggregator:
    """Collects a response from its events: `add` each, `get_response` at any time.

    Time and memory are linear in the stream's length.
    """

    def __init__(self) -> None:
        self._parts = _Parts()
        self._pieces: dict[str, _Parts] = {}
        """ADK: what partial events brought since the last aggregate, by the id that they share with it."""
        self._calls: dict[str, tuple[str, list[str]]] = {}
        """Open tool calls by id: name, and pieces of the arguments."""
        self._names: dict[str, str] = {}
        self._chunked_call = self._chunked_text = ""
        self._others: set[str] = set()
        """Messages that are not the assistant's."""

    def add(self, event: Any) -> None:
        """Take one `event`, of Gapless or of ADK. Events without content are ignored."""
        handle = _HANDLERS.get(type(event))
        if handle is not None:
            handle(self, event)
            return
        content = getattr(event, "content", None)
        parts = getattr(content, "parts", None)
        if parts:
            if getattr(event, "author", None) == "user":  # what tools returned may be told in the user's name
                parts = [part for part in parts if getattr(part, "function_response", None) is not None]
            self._add_adk(parts, getattr(event, "id", None) or "", partial=bool(getattr(event, "partial", None)))

    def get_response(self) -> AggregatedResponse:
        """Return the response so far. Tool calls whose arguments are not complete are not in it yet."""
        whole = _Parts()
        whole.extend(self._parts)
        for pieces in self._pieces.values():
            whole.extend(pieces)
        return AggregatedResponse(Content(whole.whole()))

    # -- events of Gapless ------------------------------------------------------------------------------------------

    def _text_start(self, event: TextMessageStartEvent) -> None:
        self._of_role(event.message_id, event.role)

    def _of_role(self, id: str, role: str | None) -> None:
        if role in (None, "assistant"):
            self._others.discard(id)
        else:
            self._others.add(id)

    def _text(self, event: TextMessageContentEvent) -> None:
        if event.message_id not in self._others:
            self._parts.text(event.delta, thought=False, id=event.message_id)

    def _text_chunk(self, event: TextMessageChunkEvent) -> None:
        if event.message_id is not None:
            self._chunked_text = event.message_id
            if event.role is not None:
                self._of_role(event.message_id, event.role)
        if self._chunked_text not in self._others:
            self._parts.text(event.delta or "", thought=False, id=self._chunked_text)

    def _thought(self, event: ReasoningMessageContentEvent | ReasoningMessageChunkEvent) -> None:
        self._parts.text(event.delta or "", thought=True, id=event.message_id or "")

    def _call_start(self, event: ToolCallStartEvent) -> None:
        self._open_call(event.tool_call_id, event.tool_call_name)

    def _open_call(self, id: str, name: str) -> None:
        if id not in self._calls:
            self._names[id] = name
            self._parts.add(_PLACE, id)
            self._calls[id] = (name, [])

    def _call_args(self, event: ToolCallArgsEvent) -> None:
        if event.tool_call_id in self._calls:
            self._calls[event.tool_call_id][1].append(event.delta)

    def _call_chunk(self, event: ToolCallChunkEvent) -> None:
        if event.tool_call_id is not None and event.tool_call_id != self._chunked_call:
            self._close_call(self._chunked_call)
            self._chunked_call = event.tool_call_id
            self._open_call(event.tool_call_id, event.tool_call_name or "")
        if self._chunked_call in self._calls:
            self._calls[self._chunked_call][1].append(event.delta or "")

    def _call_end(self, event: ToolCallEndEvent) -> None:
        self._close_call(event.tool_call_id)

    def _close_call(self, id: str) -> None:
        call = self._calls.pop(id, None)
        if call is not None:
            name, pieces = call
            self._parts.complete(FunctionCall(id, name, _arguments("".join(pieces))))

    def _call_result(self, event: ToolCallResultEvent) -> None:
        self._close_call(event.tool_call_id)
        name = self._names.get(event.tool_call_id, "")
        response = FunctionResponse(event.tool_call_id, name, text_of(event.content), event.error)
        self._parts.add(Part(function_response=response), event.message_id)

    def _custom(self, event: CustomEvent) -> None:
        if event.name == RESTARTED:
            self._parts, self._calls = _Parts(), {}
        elif (void := void_of(event)) is not None:
            self._parts.take_back(void)
            for id in void.tool_call_ids:
                self._calls.pop(id, None)

    # -- events of ADK ----------------------------------------------------------------------------------------------

    def _add_adk(self, parts: list[Any], id: str, *, partial: bool) -> None:
        given = _Parts()
        for part in parts:
            call, result = getattr(part, "function_call", None), getattr(part, "function_response", None)
            media = getattr(part, "inline_data", None)
            if getattr(part, "text", None):
                given.text(part.text, thought=bool(getattr(part, "thought", None)))
            elif call is not None and not partial:  # in partial events they may be incomplete, and they come again
                given.add(Part(function_call=FunctionCall(call.id or "", call.name or "", dict(call.args or {}))))
            elif result is not None:
                given.add(Part(function_response=FunctionResponse(result.id or "", result.name or "", result.response)))
            elif media is not None and not partial:
                given.add(Part(inline_data=media))
        if partial:
            self._pieces.setdefault(id, _Parts()).extend(given)
            return
        pieces = self._pieces.pop(id, None)
        if pieces is not None and not _repeats(given, pieces):
            self._parts.extend(pieces)
        self._parts.extend(given)


def _repeats(aggregate: _Parts, pieces: _Parts) -> bool:
    """Return whether the aggregate holds the text that came in pieces before."""
    return _texts(aggregate) == _texts(pieces)


def _texts(parts: _Parts) -> tuple[str, str]:
    response = AggregatedResponse(Content(parts.whole()))
    return response.text, response.thoughts


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text) if text else {}
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


_HANDLERS: dict[type, Any] = {
    CustomEvent: StreamingResponseAggregator._custom,
    TextMessageStartEvent: StreamingResponseAggregator._text_start,
    TextMessageContentEvent: StreamingResponseAggregator._text,
    TextMessageChunkEvent: StreamingResponseAggregator._text_chunk,
    ReasoningMessageContentEvent: StreamingResponseAggregator._thought,
    ReasoningMessageChunkEvent: StreamingResponseAggregator._thought,
    ToolCallStartEvent: StreamingResponseAggregator._call_start,
    ToolCallArgsEvent: StreamingResponseAggregator._call_args,
    ToolCallChunkEvent: StreamingResponseAggregator._call_chunk,
    ToolCallEndEvent: StreamingResponseAggregator._call_end,
    ToolCallResultEvent: StreamingResponseAggregator._call_result,
}
