"""Plain Python as an agent: an async generator, a sync generator, an async function or a function.

It takes the message, or the message and the `RunContext`, or nothing; it yields or returns text, events, or a
list of them. Sync code runs in a thread and never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from gapless.agents.base import Agent, AgentItem, RunContext, log_raised
from gapless.agents.replaying import Replay, is_replaying, refuse_saves, steps_unkept
from gapless.errors import AgentInvalid, LimitReached
from gapless.tasks import retrieve

__all__ = ["FunctionAgent"]

SYNC_THREADS_MAX = 256
"""Sync agents that run at once in this process; a further one is refused."""
AHEAD_ITEMS_MAX = 64
"""How far a sync generator may run ahead of the journal."""

log = logging.getLogger("gapless.agents.functions")

_threads = threading.BoundedSemaphore(SYNC_THREADS_MAX)


class FunctionAgent(Agent):
    """Adapts one callable. Raises `AgentInvalid` for one whose parameters it can't fill. One that hides them (`*args`),
    as a decorator without `functools.wraps` does, is given the message."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.name: str = name or str(getattr(function, "__name__", type(function).__name__))
        self._function = function
        self._arguments = _arguments(function, self.name)
        self._is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        call = getattr(function, "__call__", None)  # noqa: B004  # an object with an async __call__ is async too
        self._is_async = self._is_async or inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)
        self._yields = inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(call)
        self._replays = is_replaying(function)
        if self._replays:
            self.continues = "from_checkpoint"
        self.reads_messages = _takes_context(function)
        self.live = self._yields and self.reads_messages
        """True if it can be spoken to while it speaks: `ctx.live`."""

    def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        if self._replays and ctx.continues:
            replay = Replay(ctx)
            return replay.run(self._start(ctx))
        if self._replays:
            refuse_saves(ctx)
            steps_unkept(ctx)
        return self._start(ctx)

    def _start(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        arguments = self._arguments(ctx)
        if self._yields:  # as it is: a generator around it would cost each event a step
            generator: AsyncIterator[AgentItem] = self._function(*arguments)
            return generator
        return self._run(ctx, arguments)

    async def _run(self, ctx: RunContext, arguments: tuple[Any, ...]) -> AsyncIterator[AgentItem]:
        if self._is_async:
            result = self._function(*arguments)
            if inspect.isawaitable(result):
                result = await result
        else:
            result = await _in_thread(self._function, *arguments)
            if inspect.isawaitable(result):
                result = await result
        if isinstance(result, AsyncIterator):
            items = result
        elif isinstance(result, Iterator):
            items = _iterate_in_thread(result, ctx)
        else:
            items = _several(result)
        try:
            async for item in items:
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


def _start_thread(work: Callable[[], None]) -> None:
    """Run `work` in a daemon thread: one that hangs must not keep the process from ending.

    Raises `LimitReached` when `SYNC_THREADS_MAX` are running."""
    if not _threads.acquire(blocking=False):
        raise LimitReached(f"{SYNC_THREADS_MAX} sync agents are running in this process", retry_after_s=1)

    def run(context: contextvars.Context) -> None:
        try:
            context.run(work)
        finally:
            _threads.release()

    threading.Thread(target=run, args=(contextvars.copy_context(),), name="gapless-agent", daemon=True).start()


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    result.add_done_callback(retrieve)  # the run may be stopped at the same time

    def deliver(value: Any, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)

    def work() -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = function(*arguments)
        except StopIteration as stop:  # which no future can carry
            error = RuntimeError(f"the agent raised {stop!r}")
        except BaseException as raised:  # delivered to the run, whatever it is
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(deliver, value, error)

    _start_thread(work)
    return await result


def _signature(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters; None for a callable written in C."""
    try:
        return [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return None


def _positional(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _takes_context(function: Callable[..., Any]) -> bool:
    """Say whether it is called with the context, as `_arguments` calls it."""
    parameters = _positional(_signature(function) or [])[:2]
    return any(map(_is_context, parameters)) or sum(p.default is p.empty for p in parameters) == 2


def _arguments(function: Callable[..., Any], name: str) -> Callable[[RunContext], tuple[Any, ...]]:
    """Return how to call it: with nothing, the message, the context, or both."""
    signature = _signature(function)
    if signature is None:  # assume the simplest form
        return lambda ctx: (ctx.message,)
    by_name = [f"{p.name}=" for p in signature if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if by_name:
        raise AgentInvalid(
            f"agent {name}: must be given {', '.join(by_name)}, and nothing is given by name; it may take (message), "
            "(message, ctx), (ctx) or ()"
        )
    parameters = _positional(signature)
    if not parameters and any(p.kind is p.VAR_POSITIONAL for p in signature):
        return lambda ctx: (ctx.message,)
    required = [p for p in parameters if p.default is p.empty]
    if len(required) > 2:
        raise AgentInvalid(
            f"agent {name}: takes {len(required)} arguments; it may take (message), (message, ctx), (ctx) or ()"
        )
    if not parameters:
        return lambda ctx: ()
    if len(parameters) == 1 or (len(required) == 1 and not _is_context(parameters[1])):
        if _is_context(parameters[0]):
            return lambda ctx: (ctx,)
        return lambda ctx: (ctx.message,)
    if _is_context(parameters[0]):
        return lambda ctx: (ctx, ctx.message)
    return lambda ctx: (ctx.message, ctx)


def _is_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.rpartition(".")[2] == "RunContext" or parameter.name in ("ctx", "context")


async def _several(result: Any) -> AsyncIterator[AgentItem]:
    if result is None:
        return
    if isinstance(result, list | tuple):  # and no other iterable: a dict's keys are no answer
        for item in result:
            yield item
    else:
        yield result


class _Ahead:
    """Items on their way from a thread to the event loop, at most `AHEAD_ITEMS_MAX` of them."""

    def __init__(self) -> None:
        self.items: collections.deque[Any] = collections.deque()
        self.room = threading.Semaphore(AHEAD_ITEMS_MAX)
        self.stopped = False
        self.done = False
        self.error: BaseException | None = None
        self.wake: asyncio.Event = asyncio.Event()


async def _iterate_in_thread(iterator: Iterator[Any], ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Iterate in a thread. When this generator is closed, the thread stops at its next item; what blocks until then
    blocks that thread alone. What closing the iterator raises is logged: its run has ended."""
    loop = asyncio.get_running_loop()
    ahead = _Ahead()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(ahead.wake.set)

    def work() -> None:
        try:
            for item in iterator:
                ahead.room.acquire()
                if ahead.stopped:
                    break
                ahead.items.append(item)
                tell()
        except BaseException as error:  # delivered to the run, whatever it is
            ahead.error = error
        finally:
            ahead.done = True
            if not ahead.stopped:
                tell()
            elif (close := getattr(iterator, "close", None)) is not None:
                try:
                    close()
                except BaseException as error:  # left to Python, its text would be on standard error
                    log_raised(log, ctx.run_id, f"agent {ctx.agent_name}, when it was closed,", error)

    _start_thread(work)
    try:
        while True:
            if ahead.items:
                item = ahead.items.popleft()
                ahead.room.release()
                yield item
            elif ahead.done:
                if ahead.items:
                    continue
                if ahead.error is not None:
                    raise ahead.error
                return
            else:
                ahead.wake.clear()
                if not ahead.items and not ahead.done:
                    await ahead.wake.wait()
    finally:
        ahead.stopped = True
        ahead.room.release()
