"""The tasks that are made in a run, with their exits contained.

asyncio lets `SystemExit` and `KeyboardInterrupt` out of a task's step and so out of the loop, whoever waits for the
task. Frameworks run tools, nodes and hooks in tasks of their own, and so may agents: it is there that exits are caught.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from gapless.agents.base import current_run, run_in
from gapless.agents.exits import as_error

__all__ = ["contain"]


def contain(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Contain the exits of tasks that runs on `loop` make, until what this returns is called. A task factory that the
    loop has makes them as before."""
    factory = loop.get_task_factory()
    if not isinstance(factory, _Tasks):
        factory = _Tasks(factory)
        loop.set_task_factory(factory)
    factory.users += 1
    return functools.partial(_let_go, loop, factory)


def _let_go(loop: asyncio.AbstractEventLoop, factory: _Tasks) -> None:
    factory.users -= 1
    if not factory.users and loop.get_task_factory() is factory:
        loop.set_task_factory(factory.before)


class _Tasks:
    """Makes a loop's tasks, as `before` does or else asyncio."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.users = 0
        self._make = before or _task

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        context = options.get("context")
        run = current_run() if context is None else run_in(context)
        if run is None or not isinstance(coro, Coroutine):  # asyncio takes generators too, up to Python 3.11
            return self._make(loop, coro, **options)
        contained: Any = _contained(coro)
        # What shows tasks shows them as they are known.
        contained.__name__ = getattr(coro, "__name__", contained.__name__)
        contained.__qualname__ = getattr(coro, "__qualname__", contained.__qualname__)
        task = self._make(loop, contained, **options)
        # One that is cancelled before its first step never comes to the coroutine, which Python would warn of.
        task.add_done_callback(functools.partial(_close, coro))
        return task


def _task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


async def _contained(coro: Coroutine[Any, Any, Any]) -> Any:
    # Python's own frame, and no object with `send`: each step of the task goes through it, most without a call.
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as raised:
        error = as_error(raised)
        if error is None:
            raise
        raise error from raised
    except asyncio.CancelledError as raised:
        _note(raised)  # not here: what was raised refers to this frame, and so to the run and the task
        raise


def _note(raised: BaseException) -> None:
    run, task = current_run(), asyncio.current_task()
    if run is not None and run._cancelled is not None and task is not None and not task.cancelling():
        run._cancelled(raised)


def _close(coro: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
    coro.close()
