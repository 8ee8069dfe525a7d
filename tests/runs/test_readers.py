"""Followers: what slow ones cost, and runs that end with their last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gapless import RunConfig, Runner
from gapless.journals.journal import WINDOW_EVENTS
from gapless.records import RunStatus
from tests.support.agents import Gated
from tests.support.runs import until


async def test_on_disconnect_cancel_ends_a_run_nobody_follows():
    agent = Gated("a", "b")
    async with Runner(agent) as runner:
        run = await runner.start("x", config=RunConfig(on_disconnect="cancel"))
        agent.let()
        await until(run, 3)  # follows, and leaves
        assert (await run.wait()).status is RunStatus.CANCELLED
        assert agent.stopped.is_set()


async def test_a_slow_follower_costs_a_cursor(store: str):
    """A follower that stops reading while 100,000 events pass catches up exactly, from the store."""
    count = 100_000
    agent_done = asyncio.Event()

    async def torrent(message: str) -> AsyncIterator[str]:
        for n in range(count):
            yield f"{n},"
        agent_done.set()

    async with Runner(torrent, store=store) as runner:
        run = await runner.start("x", config=RunConfig(timeout=None))
        follower = run.text()
        pieces = [await anext(follower)]
        await agent_done.wait()
        journal = runner.journals._journals[run.id]
        assert len(journal._window) <= 2 * WINDOW_EVENTS
        assert len(journal._waiters) <= 1
        pieces += [piece async for piece in follower]
        assert "".join(pieces) == "".join(f"{n}," for n in range(count))
