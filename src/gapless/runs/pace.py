"""So many in one turn of the event loop, the rest in the next ones: many at once are not to hold up all others."""

from __future__ import annotations

import asyncio
import collections

__all__ = ["Pace"]


class Pace:
    """Lets `count` through in one turn of the event loop; who comes later waits, in order, for one of the next."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._passed = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def turn(self) -> None:
        """Wait for one's turn."""
        loop = asyncio.get_running_loop()
        if self._passed == 0 and not self._waiting:
            loop.call_soon(self._next)
        if self._passed < self._count and not self._waiting:
            self._passed += 1
            return
        waiting = loop.create_future()
        self._waiting.append(waiting)
        await waiting

    def _next(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._count:
            waiting = self._waiting.popleft()
            if not waiting.done():  # else it was cancelled
                waiting.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next)
