"""The end of tasks, and of futures that nobody may wait for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["end_tasks", "retrieve"]

CANCEL_AGAIN_S = 1.0


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], again_s: float | None = None) -> None:
    """Cancel tasks and wait for them. Again and again, every `again_s` seconds (`CANCEL_AGAIN_S`): a cancel that
    arrives while a client library is at work inside of one may be swallowed there, or cut short what it does itself."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s or CANCEL_AGAIN_S)


def retrieve(done: asyncio.Future[Any]) -> None:
    """Retrieve the error of what is `done`: it is for those who wait, if anybody still does. Else asyncio would log it,
    with its text."""
    if not done.cancelled():
        done.exception()
