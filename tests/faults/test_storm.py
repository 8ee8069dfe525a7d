"""Workers are killed one after another while many clients, cut at random, follow many runs: nothing is lost, nothing is
repeated, nothing hangs.

Here a short one; the long one, 200 runs for 30 s, is `GAPLESS_FAULTS=full python -m pytest tests/faults/test_storm.py`.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import os
import random

import pytest

from gapless import RunConfig
from gapless.events import Event, RunErrorEvent, RunFinishedEvent, RunFinishedInterruptOutcome
from tests.faults.conftest import Connect, Serve
from tests.support.following import merged, text_in
from tests.support.paced import words
from tests.support.wanderer import Wanderer

FULL = os.environ.get("GAPLESS_FAULTS") == "full"
RUNS, KILLS, KILL_EVERY_S, RUN_S_MAX = (200, 15, 2.0, 30.0) if FULL else (30, 4, 1.5, 6.0)
PACE_S = 0.15 if FULL else 0.05
END_S_MAX = 300.0
"""Once nobody is killed any more."""
LOST = 1
"""One of the runs that are not begun anew. It goes on until its worker is killed: every one is."""


def ends(event: Event) -> bool:
    return isinstance(event, RunErrorEvent) or (
        isinstance(event, RunFinishedEvent) and not isinstance(event.outcome, RunFinishedInterruptOutcome)
    )


@pytest.mark.timeout(400)
async def test_every_client_gets_the_whole_journal_though_workers_die(store: str, serve: Serve, connect: Connect):
    servers = [serve(store) for _ in range(3)]
    for server in servers:
        await asyncio.to_thread(server.ready)
    clients = connect(*servers)
    rng = random.Random(5)
    wanderers = [Wanderer(clients, seed, stay_s=2.0) for seed in range(RUNS)]
    begun, all_have_begun = set[int](), asyncio.Event()

    async def one(number: int, wanderer: Wanderer) -> str:
        run_id = f"run-{number}"
        count = 10**6 if number == LOST else int(rng.uniform(0.5, RUN_S_MAX) / PACE_S)
        config = RunConfig(on_worker_lost="restart" if number % 3 == 0 else "fail")
        await wanderer.start(f"{count} {PACE_S}", run_id, config)
        begun.add(number)
        if len(begun) == RUNS:
            all_have_begun.set()
        seen = await wanderer.follow(run_id)
        journal = await wanderer.journal(run_id)
        assert merged(seen) == merged(journal), run_id
        assert [seq for seq, event in journal if ends(event)] == [len(journal)], run_id
        end = journal[-1][1]
        if isinstance(end, RunErrorEvent):
            assert end.code == "worker_lost", (run_id, end)
            return end.code
        assert text_in(journal).endswith(words(count)), run_id
        return "finished"

    async def storm() -> None:
        await all_have_begun.wait()
        for victim in itertools.islice(itertools.cycle(servers), KILLS):
            await asyncio.sleep(KILL_EVERY_S)
            await asyncio.to_thread(victim.kill)
            victim.launch()

    storming = asyncio.create_task(storm())
    async with asyncio.timeout(KILLS * KILL_EVERY_S + END_S_MAX):
        outcomes = await asyncio.gather(*(one(number, wanderer) for number, wanderer in enumerate(wanderers)))
    await storming
    counted = collections.Counter(outcomes)
    cuts = sum(wanderer.cuts for wanderer in wanderers)
    print(f"{RUNS} runs, {KILLS} workers killed, {cuts} cuts: {dict(counted)}")
    assert cuts > RUNS / 2
    assert counted["finished"] > 0
    assert counted["worker_lost"] > 0
