"""What an app does as soon as its process is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeAlias

from gapless.http.stream import Streams
from gapless.runs.runner import Runner

__all__ = ["Stop", "at_sigterm", "close_at_sigterm"]

Stop: TypeAlias = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Ends what the process does, in order. Is given what has the server, if that is uvicorn, take no more connections;
those that are open stay so."""

log = logging.getLogger("gapless.server")


def close_at_sigterm(streams: Streams, runner: Runner) -> None:
    """For an app that is mounted in another one, which does not run its lifespan: end streams and runs as soon as the
    process is told to stop, because nobody will later."""

    async def close(stop_listening: Callable[[], None]) -> None:
        streams.drain()
        streams.closing = asyncio.ensure_future(runner.close())

    at_sigterm(runner, close)


def at_sigterm(runner: Runner, stop: Stop, hurry: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Take no new runs as soon as the process is told to stop, let `stop` finish on this loop, and only then tell the
    server, which closes its socket first of all; returns what undoes that. Ctrl-C a second time leaves `stop` where it
    is, calls `hurry`, and tells the server at once.

    This goes in front of the server's own signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # signals go to the main thread; whoever runs a server elsewhere calls `streams.drain`
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    told: list[int] = []
    stopping: list[asyncio.Task[None]] = []

    def handle(number: int, frame: FrameType | None) -> None:
        again = bool(told)
        told.append(number)
        runner.refuse_new()
        if loop.is_closed():
            proceed(number)
        elif again and number == signal.SIGINT:
            loop.call_soon_threadsafe(leave)
            proceed(number)
        elif not again:  # a supervisor repeats what its workers were told with it
            loop.call_soon_threadsafe(begin, number)

    def leave() -> None:
        for task in stopping:
            task.cancel()
        hurry()

    def stop_listening() -> None:
        server = getattr(previous[signal.SIGTERM], "__self__", None)
        for listening in getattr(server, "servers", ()):
            listening.close()

    def begin(number: int) -> None:
        if number == signal.SIGINT:
            log.info("stopping: runs get to finish; Ctrl-C again ends at once")
        task = loop.create_task(stop(stop_listening), name="gapless-stopping")
        stopping.append(task)
        task.add_done_callback(lambda task: done(task, number))

    def done(task: asyncio.Task[None], number: int) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("the server could not stop in order: %s", type(error).__name__, exc_info=error)
        proceed(number)

    def proceed(number: int) -> None:
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, None)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number, handler in previous.items():
        if handler is not None:
            signal.signal(number, handle)

    def undo() -> None:
        for number, handler in previous.items():
            if handler is not None and signal.getsignal(number) is handle:
                signal.signal(number, handler)

    return undo
