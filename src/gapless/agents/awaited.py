"""What an agent calls from a thread, and has to have awaited: it may be handed to the event loop, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from gapless.errors import AgentInvalid

__all__ = ["awaited", "check_awaited"]

_T = TypeVar("_T")


def check_awaited(run_id: str, forgotten: str) -> None:
    """Raises `AgentInvalid` where the run's agent has `forgotten` to await what it called, as sync code cannot: nothing
    came of that, and nothing else would say so."""
    if forgotten:
        what = "make the code `async def`, or hand the call to the run's event loop (asyncio.run_coroutine_threadsafe)"
        raise AgentInvalid(f"run {run_id}: ctx.{forgotten} was called and not awaited: {what}", run_id=run_id)


def awaited(work: Coroutine[Any, Any, _T], on_forgotten: Callable[[], None]) -> Coroutine[Any, Any, _T]:
    """Return `work` as it is where an event loop runs. Elsewhere, as in a sync tool's thread, it may be given to the
    loop (`asyncio.run_coroutine_threadsafe`); when it is dropped without having begun, `on_forgotten` is called."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _Work(work, on_forgotten)
    return work


class _Work(Coroutine[Any, Any, _T]):
    __slots__ = ("_begun", "_on_forgotten", "_work")

    def __init__(self, work: Coroutine[Any, Any, _T], on_forgotten: Callable[[], None]) -> None:
        self._work, self._on_forgotten = work, on_forgotten
        self._begun = False

    def __await__(self) -> Generator[Any, Any, _T]:
        self._begun = True
        return self._work.__await__()

    def send(self, value: Any) -> Any:
        self._begun = True
        return self._work.send(value)

    def throw(self, *raised: Any) -> Any:
        self._begun = True
        return self._work.throw(*raised)

    def close(self) -> None:
        self._begun = True
        self._work.close()

    def __del__(self) -> None:
        if not self._begun:
            self._work.close()
            self._on_forgotten()
