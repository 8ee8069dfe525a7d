"""AG-UI's order of events: what a run has open, what must end or begin before its next event, what chunks stand for.

Clients check that order at all times, and an agent need not know it. `Order` takes the events in the order in which
they are recorded and says what belongs around them; it writes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gapless.errors import AgentInvalid
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningEncryptedValueEvent,
    ReasoningEndEvent,
    ReasoningMessageChunkEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    StepFinishedEvent,
    StepStartedEvent,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)

__all__ = ["BESIDE_TEXT", "CHUNKS", "ENDS", "OPEN_MAX", "STARTS", "Order"]

OPEN_MAX = 1000
"""Messages, calls, steps and the like that a run may have open at once: all are closed in one go when it ends."""

STARTS: dict[type, tuple[str, str]] = {
    TextMessageStartEvent: ("text", "message_id"),
    ReasoningStartEvent: ("span", "message_id"),
    ReasoningMessageStartEvent: ("reasoning", "message_id"),
    ToolCallStartEvent: ("call", "tool_call_id"),
    StepStartedEvent: ("step", "step_name"),
    SubagentStartedEvent: ("subagent", "subagent_run_id"),
}
"""What an event opens, and the field with the id of it."""
ENDS: dict[type, tuple[str, str]] = {
    TextMessageEndEvent: ("text", "message_id"),
    ReasoningEndEvent: ("span", "message_id"),
    ReasoningMessageEndEvent: ("reasoning", "message_id"),
    ToolCallEndEvent: ("call", "tool_call_id"),
    StepFinishedEvent: ("step", "step_name"),
    SubagentFinishedEvent: ("subagent", "subagent_run_id"),
    SubagentErrorEvent: ("subagent", "subagent_run_id"),
}
"""What an event closes, and the field with the id of it."""
CHUNKS: dict[type, str] = {
    TextMessageChunkEvent: "text",
    ToolCallChunkEvent: "call",
    ReasoningMessageChunkEvent: "reasoning",
}
"""The shorthand without starts and ends, and what it stands for."""
BESIDE_TEXT = frozenset({CustomEvent})
"""Events that do not end the message that plain text goes to."""

_WITHIN_CHUNK = frozenset(
    {
        TextMessageStartEvent,
        TextMessageContentEvent,
        ToolCallStartEvent,
        ToolCallArgsEvent,
        ReasoningStartEvent,
        ReasoningMessageStartEvent,
        ReasoningMessageContentEvent,
        CustomEvent,
    }
)
_REASONING = frozenset(
    {
        ReasoningEncryptedValueEvent,
        ReasoningEndEvent,
        ReasoningMessageContentEvent,
        ReasoningMessageEndEvent,
        ReasoningMessageStartEvent,
        ReasoningStartEvent,
    }
)
_CLOSING: dict[type, Callable[[Any], Event]] = {
    TextMessageStartEvent: lambda event: TextMessageEndEvent(
        message_id=event.message_id, subagent_run_id=event.subagent_run_id
    ),
    ReasoningStartEvent: lambda event: ReasoningEndEvent(
        message_id=event.message_id, subagent_run_id=event.subagent_run_id
    ),
    ReasoningMessageStartEvent: lambda event: ReasoningMessageEndEvent(
        message_id=event.message_id, subagent_run_id=event.subagent_run_id or None
    ),
    ToolCallStartEvent: lambda event: ToolCallEndEvent(
        tool_call_id=event.tool_call_id, subagent_run_id=event.subagent_run_id
    ),
    StepStartedEvent: lambda event: StepFinishedEvent(step_name=event.step_name, subagent_run_id=event.subagent_run_id),
    SubagentStartedEvent: lambda event: SubagentErrorEvent(
        subagent_run_id=event.subagent_run_id,
        message="the run ended before the subagent did",
        code="run_ended",
    ),
}
"""The event that closes what an event opens, for a run that ends before it is closed."""


class Order:
    """What one run has open."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._open: dict[tuple[str, str], Event] = {}
        """What is open, with the event that closes it; insertion order is nesting order."""
        self._chunks: dict[type, str] = {}
        """The message or call that chunks of a kind go on with."""
        self._own_spans: set[str] = set()
        """Reasoning spans that were opened here because the agent did not."""
        self._ended_span: str | None = None
        """One of them whose message has ended: it ends before the next thing that is no reasoning."""

    def __len__(self) -> int:
        return len(self._open)

    def copy(self) -> Order:
        """Return one that has the same open, and goes on by itself."""
        other = Order(self._run_id)
        other._open, other._chunks, other._own_spans = dict(self._open), dict(self._chunks), set(self._own_spans)
        other._ended_span = self._ended_span
        return other

    def admit(self, event: Event) -> list[Event]:
        """Return what is to be recorded for an event that is no chunk: what ends or begins before it, and the event
        itself (last) unless it would open or close something twice. Raises `AgentInvalid` for arguments of a call that
        was not started."""
        kind = type(event)
        found: list[Event] = []
        if kind is ToolCallArgsEvent:
            self._check_call(event)
        if self._chunks and kind not in _WITHIN_CHUNK:
            self._end_chunks(found)
        if kind not in _REASONING and self._ended_span is not None:
            span, self._ended_span = self._ended_span, None
            found += self.close("span", span)
        prepare = _PREPARE.get(kind)
        if prepare is None or prepare(self, event, found):
            found.append(event)
        return found

    def expand(self, chunk: Any) -> tuple[list[Event], list[Event]]:
        """Return what ends before a chunk, and the events that the chunk stands for; these are to be admitted.

        Raises `AgentInvalid` for the first chunk of something that does not say of what."""
        kind = type(chunk)
        what, id_field, start = _EXPAND[kind]
        id = getattr(chunk, id_field) or self._chunks.get(kind)
        if id is None:
            raise AgentInvalid(f"run {self._run_id}: {_NAMELESS[kind]}")
        events = [] if (what, id) in self._open else start(self, chunk, id)
        if chunk.delta:
            events.append(_CONTENT[kind](id, chunk))
        ends: list[Event] = []
        self._end_chunks(ends, keep=(kind, id))
        self._chunks[kind] = id
        return ends, events

    def close(self, kind: str, id: str) -> list[Event]:
        """Return the event that closes it, if it is open."""
        closing = self._open.pop((kind, id), None)
        return [] if closing is None else [closing]

    def close_all(self) -> list[Event]:
        """Return the events that close all that is open, innermost first."""
        self._chunks.clear()
        closings = [*reversed(self._open.values())]
        self._open.clear()
        return closings

    def open_text(self) -> str | None:
        """Return the id of the text message that was opened last and is open."""
        return next((id for kind, id in reversed(self._open) if kind == "text"), None)

    def resume(self, event: Event) -> None:
        """Take up an event that has been recorded by another worker."""
        kind = type(event)
        if kind in STARTS or kind in ENDS or kind is ToolCallResultEvent:
            _PREPARE[kind](self, event, [])

    def _end_chunks(self, found: list[Event], keep: tuple[type, str] | None = None) -> None:
        """Switch chunks: one of another message or kind ends the one before it."""
        for kind, id in tuple(self._chunks.items()):
            if (kind, id) != keep:
                del self._chunks[kind]
                found += self.close(CHUNKS[kind], id)
                if kind is ReasoningMessageChunkEvent:
                    found += self.close("span", id)

    # Each of these is told of an event before it is recorded, adds what goes before it, and says whether to record it.

    def _start(self, event: Event, found: list[Event]) -> bool:
        kind = type(event)
        what, id_field = STARTS[kind]
        key = what, getattr(event, id_field)
        if key in self._open:
            return False
        self._open[key] = _CLOSING[kind](event)
        return True

    def _end(self, event: Event, found: list[Event]) -> bool:
        what, id_field = ENDS[type(event)]
        id = getattr(event, id_field)
        if self._open.pop((what, id), None) is None:
            return False
        if what == "reasoning" and id in self._own_spans:
            self._ended_span = id
        return True

    def _start_reasoning(self, event: ReasoningMessageStartEvent, found: list[Event]) -> bool:
        if ("reasoning", event.message_id) in self._open:
            return False
        if not any(kind == "span" for kind, _ in self._open):
            self._imply(
                ReasoningStartEvent(message_id=event.message_id, subagent_run_id=event.subagent_run_id or None), found
            )
            self._own_spans.add(event.message_id)
        return self._start(event, found)

    def _imply(self, start: Event, found: list[Event]) -> None:
        found += self.admit(start)

    def _ensure_text(self, event: TextMessageContentEvent, found: list[Event]) -> bool:
        if ("text", event.message_id) not in self._open:
            subagent = event.subagent_run_id
            self._imply(
                TextMessageStartEvent(message_id=event.message_id, role="assistant", subagent_run_id=subagent), found
            )
        return True

    def _ensure_reasoning(self, event: ReasoningMessageContentEvent, found: list[Event]) -> bool:
        if ("reasoning", event.message_id) not in self._open:
            subagent = event.subagent_run_id or msgspec.UNSET
            self._imply(ReasoningMessageStartEvent(message_id=event.message_id, subagent_run_id=subagent), found)
        return True

    def _check_call(self, event: Any) -> None:
        if ("call", event.tool_call_id) not in self._open:
            raise AgentInvalid(f"run {self._run_id}: TOOL_CALL_ARGS for {event.tool_call_id}, which was not started")

    def _end_call(self, event: ToolCallResultEvent, found: list[Event]) -> bool:
        found += self.close("call", event.tool_call_id)
        return True

    def _text_of_chunk(self, chunk: TextMessageChunkEvent, id: str) -> list[Event]:
        role, subagent = chunk.role or "assistant", chunk.subagent_run_id
        return [TextMessageStartEvent(message_id=id, role=role, name=chunk.name, subagent_run_id=subagent)]

    def _call_of_chunk(self, chunk: ToolCallChunkEvent, id: str) -> list[Event]:
        if chunk.tool_call_name is None:
            raise AgentInvalid(f"run {self._run_id}: the first TOOL_CALL_CHUNK of a call needs its toolCallName")
        return [
            ToolCallStartEvent(
                tool_call_id=id,
                tool_call_name=chunk.tool_call_name,
                parent_message_id=chunk.parent_message_id,
                subagent_run_id=chunk.subagent_run_id,
            )
        ]

    def _reasoning_of_chunk(self, chunk: ReasoningMessageChunkEvent, id: str) -> list[Event]:
        return []  # its content opens it


_PREPARE: dict[type, Any] = {
    **dict.fromkeys(STARTS, Order._start),
    **dict.fromkeys(ENDS, Order._end),
    ReasoningMessageStartEvent: Order._start_reasoning,
    TextMessageContentEvent: Order._ensure_text,
    ReasoningMessageContentEvent: Order._ensure_reasoning,
    ToolCallResultEvent: Order._end_call,
}
_EXPAND: dict[type, tuple[str, str, Any]] = {
    TextMessageChunkEvent: ("text", "message_id", Order._text_of_chunk),
    ToolCallChunkEvent: ("call", "tool_call_id", Order._call_of_chunk),
    ReasoningMessageChunkEvent: ("reasoning", "message_id", Order._reasoning_of_chunk),
}
_CONTENT: dict[type, Callable[[str, Any], Event]] = {
    TextMessageChunkEvent: lambda id, chunk: TextMessageContentEvent(
        message_id=id, delta=chunk.delta, subagent_run_id=chunk.subagent_run_id
    ),
    ToolCallChunkEvent: lambda id, chunk: ToolCallArgsEvent(
        tool_call_id=id, delta=chunk.delta, subagent_run_id=chunk.subagent_run_id
    ),
    ReasoningMessageChunkEvent: lambda id, chunk: ReasoningMessageContentEvent(
        message_id=id, delta=chunk.delta, subagent_run_id=chunk.subagent_run_id
    ),
}
_NAMELESS: dict[type, str] = {
    TextMessageChunkEvent: "the first TEXT_MESSAGE_CHUNK of a message needs its messageId",
    ToolCallChunkEvent: "the first TOOL_CALL_CHUNK of a call needs its toolCallId",
    ReasoningMessageChunkEvent: "the first REASONING_MESSAGE_CHUNK needs its messageId",
}
