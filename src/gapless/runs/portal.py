"""For code without an event loop: a runner that lives on a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from gapless.errors import UsageError
from gapless.runs.home_loop import elsewhere

__all__ = ["call", "iterate"]

_T = TypeVar("_T")
_loops: weakref.WeakKeyDictionary[Any, asyncio.AbstractEventLoop] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _loop_of(runner: Any) -> asyncio.AbstractEventLoop:
    """Return the event loop that the runner lives on: its own, or a new one in a thread when it has none yet. Raises
    `UsageError` inside an event loop, and where its own does not run: nothing would ever come from it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError("run() blocks, and this is an event loop: use `async for event in runner.run_async(…)`")
    with _lock:
        if runner._open:
            home: asyncio.AbstractEventLoop = runner.journals.loop
            if not home.is_running():
                raise elsewhere(home)
            return home
        loop = _loops.get(runner)
        if loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="gapless-portal", daemon=True).start()
            _loops[runner] = loop
            atexit.register(_close, weakref.ref(runner), loop)
        return loop


def _close(reference: weakref.ref[Any], loop: asyncio.AbstractEventLoop) -> None:
    runner = reference()
    if runner is not None and loop.is_running() and runner.journals.loop is loop:  # else it was opened elsewhere since
        asyncio.run_coroutine_threadsafe(runner.close(), loop).result(timeout=10)


def call(runner: Any, work: Coroutine[Any, Any, _T]) -> _T:
    """Run one coroutine on the runner's loop and wait for it."""
    return asyncio.run_coroutine_threadsafe(work, _loop_of(runner)).result()


def iterate(runner: Any, make: Callable[[], AsyncIterator[_T]]) -> Iterator[_T]:
    """Iterate an async iterator of the runner's loop from this thread. It begins with the first step, as ADK's does."""
    loop = _loop_of(runner)
    items = make()

    async def step() -> tuple[bool, Any]:
        try:
            return True, await items.__anext__()
        except StopAsyncIteration:
            return False, None

    try:
        while True:
            more, item = asyncio.run_coroutine_threadsafe(step(), loop).result()
            if not more:
                return
            yield item
    finally:
        asyncio.run_coroutine_threadsafe(items.aclose(), loop).result()  # type: ignore[attr-defined]  # a generator
