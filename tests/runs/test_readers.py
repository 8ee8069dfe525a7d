"""Followers: what slow ones cost, and runs that end with their last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

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


async def test_of_a_run_that_goes_on_a_timeline_reads_what_is_new(monkeypatch: pytest.MonkeyPatch):
    agent = Gated("One ", "two ", "three")
    async with Runner(agent) as runner:
        run = await runner.start("x")
        reads: list[int] = []
        read = runner.store.read

        async def counted(run_id: str, after: int, limit: int) -> list[bytes]:
            reads.append(after)
            return await read(run_id, after, limit)

        monkeypatch.setattr(runner.store, "read", counted)
        after, texts = 0, list[str]()
        for seq in (3, 4, 5):
            agent.let()
            await runner.readers.wait_past(run.id, seq - 1)
            reads.clear()
            made = await runner.readers.timeline(await run.record(), after)
            assert min(reads) == after, "not from the beginning"
            texts += [entry.text for entry in made.entries if entry.what == "says"]
            after = made.last_seq
        assert (after, texts) == (5, ["One ", "One two ", "One two three"])
        assert not (await runner.readers.timeline(await run.record(), after)).entries
        agent.let()
        await run.wait()
        whole = await runner.readers.timeline(await run.record())
        assert [entry.what for entry in whole.entries] == ["starts", "says", "finished"]
        assert whole == await runner.readers.timeline(await run.record()), "and of one that has ended, anew"
