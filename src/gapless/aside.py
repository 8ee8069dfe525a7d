"""Work on what people have said, which may be much: not on the event loop then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["ASIDE_BYTES", "aside"]

ASIDE_BYTES = 262_144
"""To decode so much takes a few milliseconds, in which no other run and no follower has its turn."""

_T = TypeVar("_T")


async def aside(size: int, work: Callable[[], _T]) -> _T:
    """Return what `work` does with `size` bytes: at once, or over `ASIDE_BYTES` in a thread, while others go on."""
    return await asyncio.to_thread(work) if size > ASIDE_BYTES else work()
