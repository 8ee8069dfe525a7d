"""Stores that take a moment, for tests of what comes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from gapless.journals.contract import Append
from gapless.journals.memory import MemoryStore

__all__ = ["SlowToEnd"]


class SlowToEnd(MemoryStore):
    """Accepts no run's end before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.ending, self.let = asyncio.Event(), asyncio.Event()

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        if any(batch.end is not None for batch in batches):
            self.ending.set()
            await self.let.wait()
        return await super().append(batches)
