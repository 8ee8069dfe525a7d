"""Sinks: where a run's text is copied to while it streams.

Each sink is a follower of its own. A slow one lags behind by itself and gets what it missed in one piece; a failing
one is dropped and reported; neither holds up the agent or the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from gapless.errors import UsageError

__all__ = ["SinkFailure", "check", "console", "copy"]

WRITE_S_MAX = 30.0
"""A sink that takes longer for one piece has failed."""

log = logging.getLogger("gapless.sinks")


class SinkFailure(NamedTuple):
    """Tells of a `sink` that failed with `error`, after `chars` characters."""

    sink: object
    error: Exception
    chars: int


def console(text: str) -> None:
    """Print `text`: the sink for a terminal."""
    sys.stdout.write(text)
    sys.stdout.flush()


def check(sink: object) -> None:
    """Raise `UsageError` if `sink` can be no sink."""
    if not (isinstance(sink, str | Path) or callable(sink) or hasattr(sink, "send_text") or hasattr(sink, "write")):
        raise UsageError(
            f"a {type(sink).__name__} is no sink: give a path, a callable that takes text, an open file, or an object "
            "with send_text"
        )


async def copy(pieces: AsyncGenerator[str, None], sink: object, run_id: str) -> SinkFailure | None:
    """Copy the `pieces` of run `run_id` to one `sink`; returns what it failed with, or None. Raises only what `pieces`
    raises.
    """
    chars = 0
    async with contextlib.AsyncExitStack() as stack:
        try:
            write = await _opened(sink, stack)
        except Exception as error:
            return _failed(sink, error, chars, run_id)
        await stack.enter_async_context(contextlib.aclosing(pieces))
        async for piece in pieces:
            try:
                async with asyncio.timeout(WRITE_S_MAX):
                    await write(piece)
            except Exception as error:  # whatever it is, it is this sink's alone
                return _failed(sink, error, chars, run_id)
            chars += len(piece)
    return None


def _failed(sink: object, error: Exception, chars: int, run_id: str) -> SinkFailure:
    name = getattr(sink, "__name__", type(sink).__name__)
    log.warning("run %s: sink %s failed after %d characters: %s", run_id, name, chars, type(error).__name__)
    return SinkFailure(sink, error, chars)


async def _opened(sink: Any, stack: contextlib.AsyncExitStack) -> Callable[[str], Awaitable[None]]:
    """Return what writes one piece to the sink. What blocks is called on a thread of the sink's own."""
    if hasattr(sink, "send_text"):
        write = sink.send_text
    elif isinstance(sink, str | Path):
        file = await asyncio.to_thread(Path(sink).open, "a", encoding="utf-8", newline="")
        stack.push_async_callback(asyncio.to_thread, file.close)
        write = _writer(file)
    elif callable(sink):
        write = sink
    else:
        write = _writer(sink)
    if inspect.iscoroutinefunction(write) or inspect.iscoroutinefunction(getattr(write, "__call__", None)):  # noqa: B004
        return write  # type: ignore[no-any-return]  # looked up by name
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gapless-sink")
    stack.callback(thread.shutdown, wait=False)

    async def write_in_thread(text: str) -> None:
        result = await asyncio.get_running_loop().run_in_executor(thread, write, text)
        if inspect.isawaitable(result):
            await result

    return write_in_thread


def _writer(file: Any) -> Callable[[str], Any]:
    if inspect.iscoroutinefunction(file.write):
        return file.write  # type: ignore[no-any-return]  # looked up by name

    def write(text: str) -> Any:
        written = file.write(text)
        flush = getattr(file, "flush", None)
        if flush is not None and not inspect.isawaitable(written):
            flush()
        return written

    return write
