"""A copy of a PostgreSQL store that pg_dump made while it was in use, served in the place of the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import gapless
from gapless import Run, RunContext, Runner
from gapless.errors import CursorInvalid
from gapless.records import RunStatus
from tests.support.postgres import USER, Postgres, run
from tests.support.waiting import WAIT_S, until

WORDS = 8
DUMPED_AT = 4
"""Steps that were done when the copy was made."""


def agents(begin: Callable[[int], Any]) -> dict[str, Any]:
    @gapless.replays
    async def steps(message: str, ctx: RunContext) -> AsyncIterator[str]:
        """Says a word before each step."""
        for number in range(WORDS):
            yield f"{number} "
            await ctx.step(f"step-{number}", begin, number)

    return {"steps": steps, "plain": plain, "quick": quick}


async def quick(message: str) -> AsyncIterator[str]:
    yield "once "


async def plain(message: str) -> AsyncIterator[str]:
    yield "begun "
    await asyncio.Event().wait()


def copied(server: Postgres, file: Path) -> str:
    """Copy the store's schema with pg_dump, and put it into a new database; returns its URL."""
    at = ("-h", "127.0.0.1", "-p", server.port, "-U", USER)
    run("pg_dump", *at, "-d", "postgres", "--schema=gapless", "-f", file)
    server.run("CREATE DATABASE restored")
    run("psql", *at, "-d", "restored", "-v", "ON_ERROR_STOP=1", "-q", "-f", file)
    return server.url.replace("/postgres", "/restored")


async def text_of(found: Run) -> str:
    async with asyncio.timeout(WAIT_S):
        return (await found.collect()).text


async def test_a_copy_that_was_made_under_way_is_served() -> None:
    """What had ended is there; what can goes on from where the copy has it and does later steps again; what cannot is
    closed. Who has seen more than the copy knows is told so."""
    done: list[int] = []
    open_again = asyncio.Event()

    async def step(number: int) -> None:
        if number >= DUMPED_AT:
            await open_again.wait()
        done.append(number)

    with Postgres() as server:
        file = server.folder / "dump.sql"
        whole = "".join(f"{number} " for number in range(WORDS))
        async with Runner(agents=agents(step), store=server.url) as first:
            ended = await first.start("x", agent="quick", run_id="ended", session_id="a")
            assert await text_of(ended) == "once "
            active = await first.start("x", agent="steps", run_id="active", session_id="b")
            await first.start("x", agent="plain", run_id="lost", session_id="c")
            await until(lambda: len(done) == DUMPED_AT, "so many steps are done")

            async def has_said() -> bool:
                return (await first.get_run("lost")).last_seq > 1

            await until(has_said, "the other one has begun")
            url = await asyncio.to_thread(copied, server, file)
            open_again.set()
            assert await text_of(active) == whole
            seen = (await first.get_run("active")).last_seq
            await (await first.attach("lost")).cancel()
        assert done == list(range(WORDS))

        async def at_once(number: int) -> None:
            done.append(number)

        # Its runs are still those of the first one's process.
        async with Runner(agents=agents(at_once), store=url, lease_s=10 * WAIT_S) as patient:
            with pytest.raises(CursorInvalid):
                async for _ in (await patient.attach("active")).events(after=seen):
                    pass
        done.clear()
        async with Runner(agents=agents(at_once), store=url, lease_s=0.5) as second:
            assert await text_of(await second.attach("ended")) == "once "
            assert await text_of(await second.attach("active")) == whole
            assert done == list(range(DUMPED_AT, WORDS)), "what the copy has is not done again"

            async def is_closed() -> bool:
                return (await second.get_run("lost")).status is RunStatus.FAILED

            await until(is_closed, "what cannot go on is closed")
            error = (await second.get_run("lost")).error
            assert error is not None
            assert error["code"] == "worker_lost"
