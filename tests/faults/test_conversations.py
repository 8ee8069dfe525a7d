"""Workers are killed while tabs, cut at random, follow one conversation whose runs begin at any of them: all see the
same, whole and in one order.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from gapless import RunConfig
from gapless.client import GaplessClient
from gapless.errors import GaplessError
from gapless.events import CustomEvent, Event, RunErrorEvent, RunFinishedEvent, TextMessageContentEvent
from gapless.fold import SESSION
from tests.faults.conftest import Connect, Serve
from tests.support.following import Seen, merged
from tests.support.wanderer import RETRY_S, Wanderer, tolerate

TABS, RUNS, KILLS, STAY_S = 6, 8, 2, 1.0
WORDS, PACE_S = 20, 0.03
END_S_MAX = 240.0

Told = list[tuple[str, Event]]


async def a_tab(clients: list[GaplessClient], seed: int, last_run: str) -> Told:
    """What a tab is told to the end of the last run; it stays nowhere for long."""
    rng, told = random.Random(seed), Told()
    while True:
        stream = rng.choice(clients).follow_session("s", told[-1][0] if told else "0")
        try:
            async with asyncio.timeout(STAY_S * 2 * rng.random()):
                async for place, event in stream:
                    if isinstance(event, CustomEvent) and event.name == SESSION:
                        continue
                    told.append((place, event))
                    if place.startswith(f"{last_run}:") and isinstance(event, RunErrorEvent | RunFinishedEvent):
                        return told
        except TimeoutError:
            pass
        except GaplessError as error:
            tolerate(error)
            await asyncio.sleep(RETRY_S)
        finally:
            await stream.aclose()


def by_run(told: Told) -> dict[str, Seen]:
    """The events of each run, in the order in which they came; a run that comes again is an error."""
    runs: dict[str, Seen] = {}
    before = ""
    for place, event in told:
        run_id, _, seq = place.rpartition(":")
        assert run_id == before or run_id not in runs, "one run after the other"
        runs.setdefault(run_id, []).append((int(seq), event))
        before = run_id
    return runs


@pytest.mark.timeout(400)
async def test_all_tabs_see_one_conversation_though_workers_die(store: str, serve: Serve, connect: Connect):
    servers = [serve(store) for _ in range(3)]
    for server in servers:
        await asyncio.to_thread(server.ready)
    clients = connect(*servers)
    config = RunConfig(on_busy="queue", on_worker_lost="restart")
    await clients[0].create_session("s")
    tabs = [asyncio.create_task(a_tab(clients, seed, f"run-{RUNS - 1}")) for seed in range(TABS)]
    wanderer = Wanderer(clients, 99)

    async def talk() -> None:
        for number in range(RUNS):
            await wanderer.start(f"{WORDS} {PACE_S}", f"run-{number}", config, session_id="s")

    async def storm() -> None:
        for number in range(KILLS):
            await asyncio.sleep(1.5)
            await asyncio.to_thread(servers[number].kill)
            servers[number].launch()

    async with asyncio.timeout(END_S_MAX):
        await asyncio.gather(talk(), storm())
        seen = [by_run(told) for told in await asyncio.gather(*tabs)]
        journals = {run_id: await wanderer.journal(run_id) for run_id in seen[0]}
    assert list(seen[0]) == [f"run-{number}" for number in range(RUNS)], "in the order in which they were begun"
    for runs in seen:
        assert list(runs) == list(journals)
        for run_id, journal in journals.items():
            assert merged(runs[run_id]) == merged(journal), run_id
    assert any(isinstance(event, TextMessageContentEvent) for _, event in journals["run-0"])
