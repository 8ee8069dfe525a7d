"""Waiting for what has no signal of its own, with a bound: what does not come fails the test there."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

WAIT_S = 120.0
"""Far more than anything takes on a slow and busy machine, and less than a test may take (pyproject.toml)."""
HANG_S = 200.0
"""How long a process is waited for that hangs. One that imports an agent framework may take a minute to start."""
LOOK_S = 0.005
SOON_S = 0.05
"""A timer that fires within it is somebody's pause, as the writer's between two groups. Later ones are bounds."""


async def until(holds: Callable[[], Any | Awaitable[Any]], what: str) -> Any:
    """Look until it is true; returns what is found then."""
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                found = holds()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"for {WAIT_S:.0f} s never: {what}") from None


async def at_rest(soon_s: float = SOON_S) -> None:
    """Wait until nobody in this event loop goes on by himself: what was begun has gone as far as it goes without the
    test. Timers that fire later than in `soon_s` are not waited for. Of the work of threads and processes this knows
    nothing: a store in a file is never at rest."""
    loop: Any = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                await asyncio.sleep(0)
                soon = loop.time() + soon_s
                if any(timer.when() <= soon and not timer.cancelled() for timer in loop._scheduled):
                    await asyncio.sleep(LOOK_S)
                elif not loop._ready:
                    return
    except TimeoutError:
        raise AssertionError(f"for {WAIT_S:.0f} s somebody has always had something to do") from None
