"""What an app does between the signal that stops its process and its server's own handler."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from gapless import Runner, create_app
from gapless.http.stream import Streams
from gapless.server.signals import at_sigterm, close_at_sigterm
from tests.support.agents import Gated
from tests.support.waiting import until


@pytest.fixture
def told() -> Iterator[list[int]]:
    """The signals that come to the server's own handler."""
    told: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: told.append(number)) for number in SIGNALS}
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def test_the_server_is_told_when_all_is_done_and_a_signal_that_is_repeated_changes_nothing(told: list[int]):
    runner, go = Runner(), asyncio.Event()  # nobody has opened it

    async def stop(stop_listening: Callable[[], None]) -> None:
        stop_listening()  # where the server is another one, nothing can be done
        await go.wait()

    undo = at_sigterm(runner, stop)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.02)
    assert (told, runner.draining) == ([], True)
    go.set()
    await until(lambda: told == [signal.SIGTERM], "the server is told")
    undo()
    os.kill(os.getpid(), signal.SIGTERM)
    assert told == [signal.SIGTERM] * 2, "it is the server's own again"


async def test_ctrl_c_twice_does_not_wait(told: list[int]):
    async def stop(stop_listening: Callable[[], None]) -> None:
        await asyncio.sleep(60)

    undo = at_sigterm(Runner(), stop)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0)
    assert told == []
    os.kill(os.getpid(), signal.SIGINT)
    assert told == [signal.SIGINT]
    undo()


async def test_what_fails_while_it_stops_keeps_nothing_running(told: list[int]):
    async def stop(stop_listening: Callable[[], None]) -> None:
        raise OSError("the store is gone")

    undo = at_sigterm(Runner(), stop)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: told == [signal.SIGTERM], "the server is told")
    undo()


async def test_an_app_whose_lifespan_nobody_runs_ends_at_once_also_before_its_first_run(told: list[int]):
    streams, runner = Streams(), Runner()
    close_at_sigterm(streams, runner)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: told == [signal.SIGTERM], "the server is told")
    assert streams.draining


async def test_who_reads_is_cut_when_the_runs_have_ended_and_not_before(told: list[int]):
    agent = Gated("a", "b")
    app = create_app(Runner(agent), drain_s=60)
    async with app.router.lifespan_context(app):
        run = await app.state.runner.start("x")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert not app.state.streams.draining
        assert told == []
        agent.let(3)
        await run.wait()
        await until(lambda: told == [signal.SIGTERM], "the server is told")
        assert app.state.streams.draining
