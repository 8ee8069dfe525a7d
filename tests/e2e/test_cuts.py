"""Whatever the network does, what a client has collected is what the journal holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from gapless import Limits, Runner, create_app
from gapless.client import ClientLimits, Cut
from gapless.events import Event
from gapless.fold import Fold
from gapless.testing import CutKind, Cutter, serving
from tests.support.processes import client_of
from tests.support.rich import rich

SCHEDULES = 210
BATCH = 15
LIMITS = ClientLimits(retry_max_s=0.005)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("cuts") / "gapless.db"
    return create_app(Runner(rich, store=f"sqlite:///{path}", limits=Limits()))


@pytest.fixture(scope="module")
def url(app: Any) -> Iterator[str]:
    with serving(app) as url:
        yield url


def state_of(events: list[Event]) -> tuple[object, ...]:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold.text, fold.messages(), fold.state, fold.finished, fold.error


@pytest.mark.parametrize("first_seed", range(0, SCHEDULES, BATCH))
async def test_random_cuts_leave_the_collected_answer_identical(url: str, first_seed: int):
    for seed in range(first_seed, first_seed + BATCH):
        chance = random.Random(seed)
        kind: CutKind = chance.choice(get_args(CutKind))
        message = chance.choice(["rich", "rich 0.2", "error", "error 0.2"])
        with Cutter(url, kind, cuts=chance.randint(1, 12), seed=seed) as proxy:
            cuts: list[Cut] = []
            async with client_of(proxy.url, cuts.append, limits=LIMITS) as client:
                run = await client.start(message)
                collected = [entry async for entry in client.follow(run.id)]
            async with client_of(url) as direct:
                journal = [entry async for entry in direct.follow(run.id)]
                last = (await direct.record(run.id)).last_seq
        told = f"seed {seed}: {kind}, {message!r}, cut {proxy.cuts[run.id]} times"
        positions = [seq for seq, _ in collected]
        assert positions == sorted(set(positions)), told
        assert positions[-1] == last, told
        assert state_of([event for _, event in collected]) == state_of([event for _, event in journal]), told
        assert proxy.cuts[run.id] > 0, told
        assert len(cuts) >= proxy.cuts[run.id] - 1, told  # a cut after the end marker is none
