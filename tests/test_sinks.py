"""Sinks: one run copied to several places; each is on its own."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gapless import Runner, sinks
from gapless.errors import AgentFailed, UsageError
from gapless.sinks import console
from tests.support.agents import Gated
from tests.support.runs import LoopClock
from tests.support.waiting import WAIT_S, until


async def agent(message: str) -> AsyncIterator[str]:
    for word in ("one ", "two ", "three"):
        yield word


class Socket:
    """What a web framework's WebSocket is to a sink."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send_text(self, text: str) -> None:
        self.sent.append(text)


async def test_every_kind_of_sink_gets_the_whole_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sync, awaited, socket, file = list[str](), list[str](), Socket(), io.StringIO()

    async def asynchronous(text: str) -> None:
        awaited.append(text)

    path = tmp_path / "answer.txt"
    path.write_text("before ", encoding="utf-8")
    async with Runner(agent) as runner:
        run = await runner.start("m")
        targets = (console, path, str(tmp_path / "other.txt"), sync.append, asynchronous, socket, file)
        assert await run.stream_to(*targets) == []
    text = "one two three"
    assert capsys.readouterr().out == text
    assert path.read_text(encoding="utf-8") == "before " + text
    assert (tmp_path / "other.txt").read_text(encoding="utf-8") == text
    assert ["".join(sync), "".join(awaited), "".join(socket.sent), file.getvalue()] == [text] * 4


async def test_text_comes_while_the_agent_is_still_speaking() -> None:
    gated, got, first = Gated("one ", "two"), list[str](), asyncio.Event()

    async def sink(text: str) -> None:
        got.append(text)
        first.set()

    async with Runner(gated) as runner:
        copying = asyncio.create_task((await runner.start("m")).stream_to(sink))
        gated.let()
        await first.wait()
        assert got == ["one "]
        gated.let(2)
        assert await copying == []
    assert got == ["one ", "two"]


async def test_a_failing_sink_is_reported_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    gated, got, failed = Gated("one ", "two"), list[str](), asyncio.Event()

    def broken(text: str) -> None:
        asyncio.run_coroutine_threadsafe(_set(failed), loop)
        raise OSError("secret: disk full")

    loop = asyncio.get_running_loop()
    async with Runner(gated) as runner:
        copying = asyncio.create_task((await runner.start("m")).stream_to(broken, got.append))
        gated.let()
        await failed.wait()
        gated.let(2)
        (failure,) = await copying
    assert "".join(got) == "one two"
    assert failure.sink is broken
    assert isinstance(failure.error, OSError)
    assert failure.chars == 0
    assert "sink broken failed after 0 characters: OSError" in caplog.text
    assert "secret" not in caplog.text


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_a_file_that_cannot_be_opened_is_a_failed_sink(tmp_path: Path) -> None:
    got: list[str] = []
    async with Runner(agent) as runner:
        (failure,) = await (await runner.start("m")).stream_to(tmp_path / "no" / "where.txt", got.append)
    assert isinstance(failure.error, FileNotFoundError)
    assert "".join(got) == "one two three"


async def test_a_sink_that_blocks_blocks_neither_the_loop_nor_the_others() -> None:
    released, got = threading.Event(), list[str]()

    def blocked(text: str) -> None:
        assert released.wait(WAIT_S)
        got.append(text)

    async def other(text: str) -> None:
        released.set()  # runs although the first one blocks

    async with Runner(agent) as runner:
        assert await (await runner.start("m")).stream_to(blocked, other) == []
    assert "".join(got) == "one two three"


async def test_a_sink_that_stalls_is_given_up() -> None:
    got, clock, stalling = list[str](), LoopClock(), asyncio.Event()

    async def stalled(text: str) -> None:
        stalling.set()
        await asyncio.Event().wait()

    async with Runner(agent) as runner:
        copying = asyncio.create_task((await runner.start("m")).stream_to(stalled, got.append))
        await stalling.wait()
        await until(lambda: "".join(got) == "one two three", "the other has it all")
        assert not copying.done()
        await clock.pass_(sinks.WRITE_S_MAX)
        (failure,) = await copying
    assert failure.sink is stalled
    assert isinstance(failure.error, TimeoutError)
    assert "".join(got) == "one two three"


async def test_a_slow_sink_gets_what_it_missed_in_one_piece() -> None:
    gated, got, slow = Gated("one ", "two ", "three"), list[str](), asyncio.Event()

    async def sink(text: str) -> None:
        got.append(text)
        await slow.wait()

    async with Runner(gated) as runner:
        run = await runner.start("m")
        copying = asyncio.create_task(run.stream_to(sink))
        gated.let(4)
        await run.wait()
        slow.set()
        await copying
    assert "".join(got) == "one two three"
    assert len(got) <= 2


async def test_the_sinks_have_the_text_before_the_runs_failure_is_raised() -> None:
    async def failing(message: str) -> AsyncIterator[str]:
        yield "half"
        raise ValueError("no")

    got: list[str] = []
    async with Runner(failing) as runner:
        run = await runner.start("m")
        with pytest.raises(AgentFailed):
            await run.stream_to(got.append)
    assert got == ["half"]


async def test_what_can_be_no_sink_is_refused_at_once() -> None:
    async with Runner(agent) as runner:
        run = await runner.start("m")
        with pytest.raises(UsageError, match="int is no sink"):
            await run.stream_to(3)
