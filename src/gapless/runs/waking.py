"""A reader that sleeps until it is woken, for what it reads or for something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Sleeper"]


class Sleeper:
    """Sleeps in one task. Who wakes it before it sleeps is heard, too."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self.on_change: Callable[[], None] | None = None
        """Called, in place of `wake`, when what it reads has changed."""

    async def _sleep(self, *, awake: bool) -> None:
        """Wait for `wake`, unless it was called already or the reader is `awake`: it has something to do."""
        if not self._woken and not awake:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._woken = False

    def changed(self) -> None:
        """Hear that what it reads has changed."""
        (self.on_change or self.wake)()

    def wake(self) -> None:
        """Let `wait` return, now or when it is next called."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
