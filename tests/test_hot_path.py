"""The hot path stays short: what one live word runs, from the agent to the socket, can be read in one sitting."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gapless
from gapless import Runner
from gapless.http.session_stream import SessionDelivery, SessionStream
from gapless.http.stream import Delivery, EventStream, Streams
from gapless.protocols.ag_ui.wire import AGUIEncoder, SessionAGUIEncoder
from gapless.runs.conversations import SessionPlace
from gapless.runs.run import Run
from gapless.wire import Cursor
from tests.support.runs import until

SOURCE = str(Path(gapless.__file__).parent)
SCREEN_LINES = 80
WORDS = 5
"""Before the one that is looked at: by then its message is open and nobody is behind."""
BURST_WORDS = 2_000
FOLLOWERS = 10
ALONE_WORDS = 50
CALLS_IN_BURST_MAX = 3.3
"""Calls of Gapless's own code per word of a burst: `add`, `_text`, `append`; the rest is shared."""
CALLS_ALONE_MAX = {("memory", True): 18, ("memory", False): 26, ("sqlite", True): 26, ("sqlite", False): 35}
"""And of a word that comes alone, from the agent to one follower's socket, by store and by whether it is written to at
once."""


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


class Counted:
    """The calls of Gapless's own functions while `on`, in this thread and those that start while it is entered."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.on = False

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and self.on and frame.f_code.co_filename.startswith(SOURCE):
            self.calls[frame.f_code.co_qualname] += 1

    def __enter__(self) -> Counted:
        threading.setprofile(self._count)
        sys.setprofile(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # how it is taken back


class Socket:
    """A connection that can be written to at once; it releases `sent` for each word."""

    def __init__(self, sent: asyncio.Semaphore) -> None:
        self._sent = sent
        self.transport = self

    ready = True

    def write(self, body: bytes) -> None:
        for _ in range(body.count(b"TEXT_MESSAGE_CONTENT")):
            self._sent.release()


@pytest.fixture(params=["written at once", "sent"])
def direct(request: pytest.FixtureRequest) -> bool:
    """Whether the server's connections can be written to without a task."""
    return bool(request.param == "written at once")


async def follow(
    runner: Runner,
    sent: asyncio.Semaphore,
    direct: bool,
    monkeypatch: pytest.MonkeyPatch,
    *,
    of: str = "run",
    run: Run | None = None,
) -> asyncio.Task[None]:
    """Start a run, or take this one, with one follower, of it or of its session, which releases `sent` for each word
    that reaches its socket."""
    socket = Socket(sent)
    monkeypatch.setattr("gapless.http.stream.LASTS_S", 0.0)  # what is looked at is an answer that lasts
    if direct:
        monkeypatch.setattr("gapless.http.stream.writer_of", lambda send: socket)

    async def send(message: Any) -> None:
        socket.write(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    run = run or await runner.start("x")
    if of == "session":
        session_id, place = run.session_id, SessionPlace()
        whole = SessionDelivery(runner, Streams(), session_id, SessionAGUIEncoder, place, merge=True)
        return asyncio.create_task(SessionStream(whole, location="/").stream(receive, send))
    delivery = Delivery(runner, Streams(), run.started, AGUIEncoder(run.started), Cursor(0), merge=True)
    stream = EventStream(delivery, location="/")
    return asyncio.create_task(stream.stream(receive, send))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'gapless.db'}"


async def test_a_live_word_runs_two_screens_of_code(direct: bool, monkeypatch: pytest.MonkeyPatch):
    gate = asyncio.Semaphore(0)
    sent = asyncio.Semaphore(0)

    async def agent(message: str) -> AsyncIterator[str]:
        while True:
            await gate.acquire()
            yield "word "

    async with Runner(agent) as runner:
        following = await follow(runner, sent, direct, monkeypatch)
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


async def test_a_word_of_a_burst_costs_few_calls(store: str):
    gate = asyncio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        await gate.wait()
        for _ in range(BURST_WORDS):
            yield "word "

    with Counted() as counted:
        async with Runner(agent, store=store) as runner:
            run = await runner.start("x")
            await until(run, 3)
            counted.on = True
            gate.set()
            await runner.readers.wait(run.id)
            counted.on = False
    assert counted.calls.total() / BURST_WORDS <= CALLS_IN_BURST_MAX, counted.calls.most_common(12)


async def test_a_word_for_many_followers_is_made_once_and_takes_one_call_for_each(monkeypatch: pytest.MonkeyPatch):
    gate, sent = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def agent(message: str) -> AsyncIterator[str]:
        while True:
            await gate.acquire()
            yield "word "

    with Counted() as counted:
        async with Runner(agent) as runner:
            run = await runner.start("x")
            following = [await follow(runner, sent, True, monkeypatch, run=run) for _ in range(FOLLOWERS)]
            for number in range(WORDS + ALONE_WORDS):
                counted.on = number >= WORDS
                gate.release()
                for _ in following:
                    await sent.acquire()
                await asyncio.sleep(0.01)  # until nobody has anything else to do
            counted.on = False
            for one in following:
                one.cancel()
            await asyncio.wait(following)
    assert counted.calls["Delivery._push"] == FOLLOWERS * ALONE_WORDS
    assert counted.calls["Delivery._shared"] == ALONE_WORDS
    calls = counted.calls.total() / ALONE_WORDS
    assert calls - FOLLOWERS <= CALLS_ALONE_MAX["memory", True] + 5, counted.calls.most_common(12)


@pytest.mark.parametrize("of", ["run", "session"])
async def test_a_word_that_comes_alone_costs_few_calls(
    store: str, of: str, direct: bool, monkeypatch: pytest.MonkeyPatch
):
    gate, sent = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def agent(message: str) -> AsyncIterator[str]:
        while True:
            await gate.acquire()
            yield "word "

    with Counted() as counted:
        async with Runner(agent, store=store) as runner:
            following = await follow(runner, sent, direct, monkeypatch, of=of)
            for number in range(WORDS + ALONE_WORDS):
                counted.on = number >= WORDS
                gate.release()
                await sent.acquire()
                await asyncio.sleep(0.01)  # until nobody has anything else to do
            counted.on = False
            following.cancel()
            await asyncio.wait({following})
    calls = counted.calls.total() / ALONE_WORDS
    most = CALLS_ALONE_MAX[store.partition(":")[0], direct]
    if of == "session" and not direct:  # two coroutines more are resumed, of the session around its run
        most += 2
    assert calls <= most, (calls, counted.calls.most_common(40))
