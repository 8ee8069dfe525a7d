"""Long journals in memory: counted and let go of in pieces, between which others have their turn."""

from __future__ import annotations

import asyncio

__all__ = ["AT_ONCE_EVENTS", "Pieces"]

AT_ONCE_EVENTS = 10_000
"""Events that are counted or let go of before others have their turn: half a millisecond."""


class Pieces:
    """Knows how much was done since others had their turn."""

    def __init__(self) -> None:
        self._events = 0

    async def _did(self, events: int) -> None:
        self._events += events + 1
        if self._events >= AT_ONCE_EVENTS:
            self._events = 0
            await asyncio.sleep(0)

    async def size(self, events: list[bytes]) -> int:
        """Count the bytes of these events."""
        size = 0
        for start in range(0, len(events), AT_ONCE_EVENTS):
            piece = events[start : start + AT_ONCE_EVENTS]
            size += sum(map(len, piece))
            await self._did(len(piece))
        return size

    async def let_go(self, events: list[bytes]) -> None:
        """Let go of events that nobody can ask for any more."""
        while events:
            piece = min(len(events), AT_ONCE_EVENTS)
            del events[-piece:]
            await self._did(piece)
