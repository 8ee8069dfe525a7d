"""The threads that ADK's sync tools run in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

try:  # it has no public name
    from google.adk.utils import _sync_runner

    _pools: Any = _sync_runner._TOOL_THREAD_POOLS
except (ImportError, AttributeError):
    _pools = None  # then ADK makes its own

__all__ = ["use_tool_threads"]

_T = TypeVar("_T")


def use_tool_threads(threads_max: int) -> None:
    """Let ADK take these threads in the event loop that runs."""
    if _pools is not None:
        pools = _pools.setdefault(asyncio.get_running_loop(), {})
        if threads_max not in pools:
            pools[threads_max] = _Threads(max_workers=threads_max, thread_name_prefix="adk_tool_executor")


class _Threads(ThreadPoolExecutor):
    """Ends calls that raise `StopIteration`, as a bare `next()` does: no future of asyncio's can hold it, and whoever
    waits for one would wait for ever."""

    def submit(self, function: Callable[..., _T], /, *args: Any, **options: Any) -> Future[_T]:
        return super().submit(_call, function, *args, **options)


def _call(function: Callable[..., _T], /, *args: Any, **options: Any) -> _T:
    try:
        return function(*args, **options)
    except StopIteration as error:
        raise RuntimeError("a tool raised StopIteration") from error
