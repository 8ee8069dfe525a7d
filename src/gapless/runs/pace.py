"""So many in one turn of the event loop, the rest in later ones: many at once are not to hold up all others."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from functools import partial

__all__ = ["TURNS", "Pace"]

TURNS = 3
"""Turns of the event loop from some that are let through to the next: an agent's word is recorded in one, written in
the next and read in the third, and waits for those and not for three times as many."""


class Pace:
    """Lets `count` through in one turn of the event loop; who comes later waits, in order, for one some turns later."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._passed = 0
        self._waiting: collections.deque[Callable[[], object]] = collections.deque()

    async def turn(self) -> None:
        """Wait for one's turn."""
        if not self.passes():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(partial(_end, waiting))
            await waiting

    def call(self, do: Callable[[], object]) -> None:
        """Call `do`, which raises nothing, when its turn has come: at once, or soon."""
        if self.passes():
            do()
        else:
            self._waiting.append(do)

    def passes(self) -> bool:
        """Tell whether it is one's turn at once."""
        if self._passed == 0 and not self._waiting:
            asyncio.get_running_loop().call_soon(self._next, TURNS)
        if self._passed >= self._count or self._waiting:
            return False
        self._passed += 1
        return True

    def _next(self, turns: int) -> None:
        if turns > 1 and self._waiting:
            asyncio.get_running_loop().call_soon(self._next, turns - 1)
            return
        self._passed = min(self._count, len(self._waiting))
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next, TURNS)
        for _ in range(self._passed):
            self._waiting.popleft()()


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # else it was cancelled
        waiting.set_result(None)
