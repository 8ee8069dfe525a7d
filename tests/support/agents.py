"""Scripted agents whose pace the test sets: nothing here sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Gated:
    """Yields its items one by one, each when the test lets it."""

    name = "gated"

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.runs = 0
        self._gate = asyncio.Semaphore(0)
        self._moved = asyncio.Condition()
        self._at = -1

    async def waits_for(self, position: int) -> None:
        """Until it has yielded `position` items and waits to be let on."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._at >= position)

    def let(self, count: int = 1) -> None:
        """Let the next `count` items go."""
        for _ in range(count):
            self._gate.release()

    async def __call__(self, message: str) -> AsyncIterator[Any]:
        self.runs += 1
        self.started.set()
        try:
            for position, item in enumerate(self.items):
                await self._wait(position)
                yield item
            await self._wait(len(self.items))
        finally:
            self.stopped.set()

    async def _wait(self, position: int) -> None:
        async with self._moved:
            self._at = position
            self._moved.notify_all()
        await self._gate.acquire()
