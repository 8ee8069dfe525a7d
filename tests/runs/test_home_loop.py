"""A runner in one event loop after the other, and in two at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from gapless import Run, Runner
from gapless.errors import StoreUnavailable, UsageError
from gapless.journals.memory import MemoryStore

ELSEWHERE = r"this Runner .*event loop.*(close it there first|one Runner for each).*"


class Echo:
    """An agent that counts how often it was called."""

    def __init__(self) -> None:
        self.called = 0

    async def __call__(self, message: str) -> AsyncIterator[str]:
        self.called += 1
        await asyncio.sleep(0)
        yield message


async def ask(runner: Runner, run_id: str | None = None) -> str:
    return (await (await runner.start("said", run_id=run_id)).collect()).text


@contextmanager
def running() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.filterwarnings("ignore")  # what the loop leaves that ends
def test_another_loop_is_refused_before_anything_is_started(store: str):
    runner = Runner(agent := Echo(), store=store)
    with running() as home:
        assert asyncio.run_coroutine_threadsafe(ask(runner, "r"), home).result() == "said"
        handle = asyncio.run_coroutine_threadsafe(runner.attach("r"), home).result()
        refuses(runner, handle)
        assert asyncio.run_coroutine_threadsafe(ask(runner), home).result() == "said", "it works as before"
    refuses(runner, handle)
    assert agent.called == 2


def refuses(runner: Runner, handle: Run) -> None:
    """All that asks it from another loop is told why."""
    for asks in (
        lambda: ask(runner),
        runner.open,
        runner.close,
        lambda: runner.drain(0),
        lambda: runner.attach("r"),
        handle.collect,
        handle.wait,
        handle.record,
        handle.cancel,
        lambda: handle.send("more"),
    ):

        async def refused(asks: object = asks) -> None:
            with pytest.raises(UsageError, match=ELSEWHERE):
                await asks()  # type: ignore[operator]  # one of the above

        asyncio.run(refused())


def test_one_that_was_closed_opens_in_another_loop(store: str):
    runner = Runner(Echo(), store=store)

    async def converse() -> list[str]:
        async with runner:
            return await asyncio.gather(*(ask(runner) for _ in range(5)))

    for _ in range(3):
        assert asyncio.run(converse()) == ["said"] * 5


def test_one_whose_store_was_away_opens_in_another_loop(monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()
    runner = Runner(Echo(), store=store)

    async def away(*about: object) -> None:
        raise StoreUnavailable("away")

    async def fail() -> None:
        with pytest.raises(StoreUnavailable):
            await runner.open()

    async def works() -> str:
        async with runner:
            return await ask(runner)

    with monkeypatch.context() as patched:
        patched.setattr(store, "open", away)
        asyncio.run(fail())
    assert asyncio.run(works()) == "said"


@pytest.mark.filterwarnings("ignore")
def test_code_without_a_loop_is_told_of_the_loop_that_it_would_wait_for():
    """The loop stands still, or has ended: nothing would ever come from it."""
    for end in (True, False):
        agent = Echo()
        runner, loop = Runner(agent), asyncio.new_event_loop()
        assert loop.run_until_complete(ask(runner)) == "said"
        if end:
            loop.close()
        with pytest.raises(UsageError, match=ELSEWHERE):
            list(runner.run("more"))
        assert agent.called == 1
        if not end:
            loop.run_until_complete(runner.close())
            assert len(list(runner.run("more"))) > 1, "and in a thread of its own, once it is closed"
            loop.close()


def test_a_loop_that_runs_in_another_thread_is_used_by_code_without_one():
    runner = Runner(Echo())
    with running() as home:
        asyncio.run_coroutine_threadsafe(runner.open(), home).result()
        assert len(list(runner.run("more"))) > 1
        asyncio.run_coroutine_threadsafe(runner.close(), home).result()


def test_a_runner_that_lives_on_a_thread_refuses_a_loop():
    runner = Runner(agent := Echo())
    assert len(list(runner.run("first"))) > 1

    async def refused() -> None:
        with pytest.raises(UsageError, match=ELSEWHERE):
            await runner.start("second")

    asyncio.run(refused())
    assert len(list(runner.run("third"))) > 1
    assert agent.called == 2
