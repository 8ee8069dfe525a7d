"""What an app does as soon as its process is told to stop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

from gapless.http.stream import Streams
from gapless.runs.runner import Runner

__all__ = ["at_sigterm", "close_at_sigterm"]


def close_at_sigterm(streams: Streams, runner: Runner) -> None:
    """For an app that is mounted in another one, which does not run its lifespan: end streams and runs as soon as the
    process is told to stop, because nobody will later."""

    def close() -> None:
        streams.drain()
        streams.closing = asyncio.ensure_future(runner.close())

    at_sigterm(runner, close)


def at_sigterm(runner: Runner, drain: Callable[[], None]) -> Callable[[], None]:
    """Call `drain` on the runner's loop as soon as the process is told to stop; returns what undoes that.

    A server first waits for its connections, and those of followers would not end by themselves; so this goes in front
    of the server's own signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # signals go to the main thread; whoever runs a server elsewhere calls `streams.drain`
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        runner.refuse_new()
        runner.call_soon(drain)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
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
