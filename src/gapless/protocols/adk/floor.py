"""Who has the floor: of an agent's messages that come at the same time, one is given out, and the others after it.

ADK's pieces of text do not name their message, so those of two would be one text, word by word.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from gapless.events import (
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
)

__all__ = ["Floor", "SaidEvent"]

SaidEvent: TypeAlias = TextMessageContentEvent | ReasoningMessageContentEvent
_Place: TypeAlias = tuple[str, type]
"""An agent, and whether it is text or thought."""


class Floor:
    """Takes pieces of messages in the order in which they come, and says when they are given out."""

    __slots__ = ("_held", "_over", "_speaking")

    def __init__(self) -> None:
        self._speaking: dict[_Place, str] = {}
        """The message that is given out."""
        self._held: dict[str, tuple[_Place, list[str]]] = {}
        """What was said in messages that wait for its end, and"""
        self._over: set[str] = set()
        """those of them that have ended."""

    def has(self, speaker: str, event: SaidEvent) -> bool:
        """Return whether the piece is given out now; else it is held."""
        place = speaker, type(event)
        if self._speaking.setdefault(place, event.message_id) == event.message_id:
            return True
        self._held.setdefault(event.message_id, (place, []))[1].append(event.delta)
        return False

    def end(self, event: TextMessageEndEvent | ReasoningMessageEndEvent) -> list[tuple[str, SaidEvent]]:
        """Note that a message has ended, and return what is given out then: agents and what they have said."""
        id = event.message_id
        kind = TextMessageContentEvent if isinstance(event, TextMessageEndEvent) else ReasoningMessageContentEvent
        if id in self._held:
            self._over.add(id)
        place = next((one for one, message in self._speaking.items() if (one[1], message) == (kind, id)), None)
        if place is None:
            return []
        del self._speaking[place]
        found: list[tuple[str, SaidEvent]] = []
        for next_id, (its_place, deltas) in list(self._held.items()):
            if its_place == place:
                del self._held[next_id]
                found.append((place[0], kind(message_id=next_id, delta="".join(deltas))))
                if next_id not in self._over:
                    self._speaking[place] = next_id
                    break
                self._over.discard(next_id)
        return found

    def forget(self, message_ids: Collection[str]) -> None:
        """Let these messages go: they were taken back."""
        self._speaking = {place: id for place, id in self._speaking.items() if id not in message_ids}
        self._held = {id: held for id, held in self._held.items() if id not in message_ids}
