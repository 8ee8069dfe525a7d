"""The hot path stays short: what one live word runs, from the agent to the socket, can be read in one sitting."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import gapless
from gapless import Runner
from gapless.http.stream import EventStream, Streams
from gapless.protocols.ag_ui.wire import AGUIEncoder
from gapless.wire import Cursor

SOURCE = str(Path(gapless.__file__).parent)
SCREEN_LINES = 80
WORDS = 5
"""Before the one that is looked at: by then its message is open and nobody is behind."""


class Traced:
    """The lines of Gapless that run while it is entered, in frames that are suspended at its beginning too."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._trace

    def __enter__(self) -> Traced:
        self._before = sys.gettrace()
        for task in asyncio.all_tasks():
            awaited: Any = task.get_coro()
            while awaited is not None:
                frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
                if frame is not None and frame.f_code.co_filename.startswith(SOURCE):
                    frame.f_trace = self._trace
                awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)


async def test_a_live_word_runs_two_screens_of_code():
    gate = asyncio.Semaphore(0)
    sent = asyncio.Semaphore(0)

    async def agent(message: str) -> AsyncIterator[str]:
        while True:
            await gate.acquire()
            yield "word "

    async def send(message: Any) -> None:
        if b"TEXT_MESSAGE_CONTENT" in message.get("body", b""):
            sent.release()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with Runner(agent) as runner:
        run = await runner.start("x")
        stream = EventStream(runner, Streams(), run.started, AGUIEncoder(run.started), Cursor(0), location="/")
        following = asyncio.create_task(stream.stream(receive, send))
        for _ in range(WORDS):
            gate.release()
            await sent.acquire()
        with Traced() as traced:
            gate.release()
            await sent.acquire()
        following.cancel()
        await asyncio.wait({following})
    files = {Path(name).name for name, _ in traced.lines}
    assert files >= {"execution.py", "recorder.py", "journal.py", "memory.py", "stream.py", "wire.py"}
    assert len(traced.lines) <= 2 * SCREEN_LINES, sorted(traced.lines)
