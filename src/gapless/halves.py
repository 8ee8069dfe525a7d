"""Characters that are divided between two pieces of a text, each of which has half a surrogate pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, get_args

import msgspec

from gapless.events import (
    Event,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
)
from gapless.jsontext import without_surrogates

__all__ = ["DELTAS", "Halves", "JoinedDeltas"]

Delta: TypeAlias = TextMessageContentEvent | ReasoningMessageContentEvent | ToolCallArgsEvent

DELTAS = frozenset(get_args(Delta))
"""Events that are one piece of a text."""


ALONE = "\ufffd"
"""What half a character is whose other half does not come."""


class Halves:
    """Joins a surrogate pair that was divided between two pieces of one text; half of one alone becomes U+FFFD."""

    def __init__(self) -> None:
        self.half = ""
        """What waits for the rest of its character."""

    def copy(self) -> Halves:
        """Return one that has the same waiting."""
        other = Halves()
        other.half = self.half
        return other

    def feed(self, piece: str) -> str:
        """Return what of the text can be shown now."""
        if not self.half and (not piece or piece.isascii()):
            return piece
        text, self.half = self.half + piece, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self.half = text[:-1], text[-1]
        joined: str = without_surrogates(text)
        return joined

    def end(self) -> str:
        """Return what is left: the other half did not come."""
        half, self.half = self.half, ""
        return ALONE if half else ""


class JoinedDeltas:
    """Joins the deltas of each message and call, which may come mixed."""

    def __init__(self) -> None:
        self.waiting: dict[str, Halves] = {}
        """Of those whose newest delta ended inside a character."""

    def copy(self) -> JoinedDeltas:
        """Return one that has the same waiting."""
        other = JoinedDeltas()
        other.waiting = {id: halves.copy() for id, halves in self.waiting.items()}
        return other

    def join(self, event: Delta) -> Delta:
        """Return a delta with what its message or call has left of a character; without text, if that is all it is."""
        delta = event.delta
        if not isinstance(delta, str):  # the recorder says what is wrong with it
            return event
        divided = "\ud800" <= delta[-1:] <= "\udbff"
        if not divided and not self.waiting:
            return event
        id = _id_of(event)
        halves = self.waiting.pop(id, None)
        if halves is None:
            if not divided:
                return event
            halves = Halves()
        joined = halves.feed(delta)
        if divided:
            self.waiting[id] = halves
        return msgspec.structs.replace(event, delta=joined)

    def end(self, event: Event) -> Iterator[Delta]:
        """Yield what a message or call that ends has left of one."""
        if isinstance(event, TextMessageEndEvent) and self.waiting.pop(event.message_id, None) is not None:
            yield TextMessageContentEvent(message_id=event.message_id, delta=ALONE)
        elif isinstance(event, ReasoningMessageEndEvent) and self.waiting.pop(event.message_id, None) is not None:
            yield ReasoningMessageContentEvent(message_id=event.message_id, delta=ALONE)
        elif isinstance(event, ToolCallEndEvent) and self.waiting.pop(event.tool_call_id, None) is not None:
            yield ToolCallArgsEvent(tool_call_id=event.tool_call_id, delta=ALONE)


def _id_of(event: Delta) -> str:
    return event.tool_call_id if isinstance(event, ToolCallArgsEvent) else event.message_id
