"""AG-UI's chunk events as the events that they stand for, for what is to be known of them before they are recorded."""

from __future__ import annotations

from gapless.events import (
    Event,
    ReasoningMessageChunkEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageStartEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallStartEvent,
)

__all__ = ["Chunks"]


class Chunks:
    """Knows what the chunks of one run have begun: one without an id goes on with the last of its kind."""

    def __init__(self) -> None:
        self._begun: set[tuple[type, str]] = set()
        self._last: dict[type, str] = {}

    def meant(self, event: Event) -> list[Event]:
        """Return what a chunk begins and adds; any other event as it is."""
        if isinstance(event, TextMessageChunkEvent):
            id, is_new = self._id(event, event.message_id)
            begins: list[Event] = [
                TextMessageStartEvent(message_id=id, role=event.role or "assistant", name=event.name)
            ]
            adds: list[Event] = [TextMessageContentEvent(message_id=id, delta=event.delta or "")]
        elif isinstance(event, ToolCallChunkEvent):
            id, is_new = self._id(event, event.tool_call_id)
            name, parent = event.tool_call_name or "", event.parent_message_id
            begins = [ToolCallStartEvent(tool_call_id=id, tool_call_name=name, parent_message_id=parent)]
            adds = [ToolCallArgsEvent(tool_call_id=id, delta=event.delta or "")]
        elif isinstance(event, ReasoningMessageChunkEvent):
            id, is_new = self._id(event, event.message_id)
            begins = [ReasoningMessageStartEvent(message_id=id)]
            adds = [ReasoningMessageContentEvent(message_id=id, delta=event.delta or "")]
        else:
            return [event]
        return [*(begins if is_new else ()), *(adds if event.delta else ())]

    def _id(self, event: Event, id: str | None) -> tuple[str, bool]:
        kind = type(event)
        found = id or self._last.get(kind, "")
        self._last[kind] = found
        is_new = (kind, found) not in self._begun
        self._begun.add((kind, found))
        return found, is_new
