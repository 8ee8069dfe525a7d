"""One text out of a run's messages, for readers who get nothing but text.

Two messages are two paragraphs, with a blank line between them. Of messages that come at the same time, as agents side
by side say them, the one that spoke first goes on until it has ended; then come the others, in the order in which they
began to speak.
"""

from __future__ import annotations

from gapless.events import (
    CustomEvent,
    Event,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
)
from gapless.fold import RESTARTED, void_of

__all__ = ["PARAGRAPH", "OneText"]

PARAGRAPH = "\n\n"
"""Stands between two messages."""


class OneText:
    """Takes a run's events in order; what it returns of each, joined, is the text. It takes only those about text."""

    __slots__ = ("_ended", "_gap", "_held", "_others", "current")

    def __init__(self) -> None:
        self.current: str | None = None
        """The message whose deltas are given out as they come."""
        self._gap = ""
        """What stands before the next message."""
        self._held: dict[str, list[str]] = {}
        """What was said in messages that wait for this one's end."""
        self._ended: set[str] = set()
        """Those of them that have ended."""
        self._others: set[str] = set()
        """Messages that are not the assistant's."""

    def add(self, event: Event) -> str:
        """Take one `event`; returns the text that is to be given out."""
        if isinstance(event, TextMessageContentEvent):
            return self._delta(event.message_id, event.delta)
        if isinstance(event, TextMessageStartEvent):
            if event.role in (None, "assistant"):
                self._others.discard(event.message_id)
                self._ended.discard(event.message_id)
            else:
                self._others.add(event.message_id)
        elif isinstance(event, TextMessageEndEvent):
            return self._end(event.message_id)
        elif isinstance(event, CustomEvent):
            self._take_back(event)
        return ""

    def _delta(self, id: str, delta: str) -> str:
        if not delta or id in self._others:
            return ""
        if id == self.current:
            return delta
        if self.current is not None:
            self._held.setdefault(id, []).append(delta)
            return ""
        self.current = id
        return self._paragraph(delta)

    def _paragraph(self, text: str) -> str:
        gap, self._gap = self._gap, PARAGRAPH
        return gap + text

    def _end(self, id: str) -> str:
        if id == self.current:
            return self._next()
        if id in self._held:
            self._ended.add(id)
        return ""

    def _next(self) -> str:
        self.current = None
        text = ""
        for id in list(self._held):
            text += self._paragraph("".join(self._held.pop(id)))
            if id not in self._ended:
                self.current = id
                break
            self._ended.discard(id)
        return text

    def _take_back(self, event: CustomEvent) -> None:
        if event.name == RESTARTED:
            self.__init__()  # type: ignore[misc]  # as new
        elif (void := void_of(event)) is not None:
            for id in void.message_ids:
                self._held.pop(id, None)

    def begin_anew(self) -> None:
        """Put nothing before the next message: something else has made the paragraph."""
        self._gap = ""
