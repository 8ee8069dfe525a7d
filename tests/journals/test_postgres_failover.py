"""The primary of a PostgreSQL store is killed under load, and a standby is promoted at its address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from gapless import Run, Runner
from gapless.events import TextMessageContentEvent
from gapless.records import RunStatus
from tests.support.network import Network
from tests.support.postgres import Postgres
from tests.support.waiting import WAIT_S

RUNS = 12
WORDS = 60
PACE_S = 0.05


async def talk(message: str) -> AsyncIterator[str]:
    for number in range(int(message)):
        await asyncio.sleep(PACE_S)
        yield f"{number} "


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def follow(run: Run, begun: asyncio.Event) -> str:
    text = ""
    async for event in run.events():
        begun.set()
        if isinstance(event, TextMessageContentEvent):
            text += event.delta
    return text


async def reached(runner: Runner, position: int) -> None:
    """Until each run has so many events."""
    async with asyncio.timeout(WAIT_S):
        for number in range(RUNS):
            while (await runner.get_run(f"r{number}")).last_seq < position:
                await asyncio.sleep(PACE_S)


@pytest.fixture(params=["synchronous", "asynchronous"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Postgres, Network, Postgres]]:
    """A primary, a standby, and the network between them."""
    with Postgres() as primary, Network(primary.port) as network:
        standby = primary.standby(network.port)
        try:
            deadline = time.monotonic() + WAIT_S
            while not primary.run("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"):
                assert time.monotonic() < deadline, standby.log
                time.sleep(0.02)
            if request.param == "synchronous":
                primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
                primary.run("SELECT pg_reload_conf()")
            yield primary, network, standby
        finally:
            standby.stop()


async def test_runs_go_on_when_the_primary_is_killed_and_a_standby_promoted(
    pair: tuple[Postgres, Network, Postgres], caplog: pytest.LogCaptureFixture
) -> None:
    """Followers on another worker get every event once. What a standby had not got, it is given again."""
    primary, network, standby = pair
    is_synchronous = primary.run("SHOW synchronous_standby_names") == [("*",)]
    patient = partial(Runner, talk, store=primary.url, lease_s=2 * WAIT_S)
    async with patient() as one, patient() as other:
        one.journals._patience_s = other.journals._patience_s = WAIT_S
        runs = [await one.start(str(WORDS), run_id=f"r{number}", session_id=f"s{number}") for number in range(RUNS)]
        begun = [asyncio.Event() for _ in runs]
        followed = [await other.attach(run.id) for run in runs]
        following = [asyncio.create_task(follow(*one)) for one in zip(followed, begun, strict=True)]
        async with asyncio.timeout(WAIT_S):
            for one_begun in begun:  # only who has begun waits for a store that goes away
                await one_begun.wait()
        await reached(other, 10)
        if not is_synchronous:
            network.silence()
            shown = (await other.get_run("r0")).last_seq
            await reached(other, shown + 4)
        primary.kill()
        promoted = await asyncio.to_thread(standby.promoted, primary.port)
        try:
            async with asyncio.timeout(WAIT_S):
                assert await asyncio.gather(*following) == [said(WORDS)] * RUNS
            for run in runs:  # and who comes later reads the same
                assert (await (await other.attach(run.id)).collect()).text == said(WORDS)
            assert (await (await other.start("3", session_id="s0")).collect()).text == said(3)
            assert await other.list_runs(status=RunStatus.RUNNING) == []
            assert ("lacks its events" in caplog.text) != is_synchronous
        finally:
            await one.close()
            await other.close()
            promoted.stop()
