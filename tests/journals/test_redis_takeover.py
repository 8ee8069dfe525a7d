"""Taking over in Redis, cut short at every step."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.errors import StoreUnavailable
from gapless.journals import redis_scripts as scripts
from tests.journals.conformance import LEASE_S, Cluster, Worker
from tests.journals.redis_place import Losses, warm


@pytest.mark.parametrize("lost", ["FENCE", "TAKE", "SETTLE"])
@pytest.mark.parametrize("when", ["calls", "answers"])
async def test_a_takeover_that_is_cut_short_is_made_again(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any, lost: str, when: str
) -> None:
    c = await cluster.worker("c")
    await warm(b)
    for i in range(3):
        await a.create(f"r{i}", f"s{i}")
    await cluster.stop(a)
    getattr(Losses(b.store, monkeypatch), when).append(getattr(scripts, lost))
    taken: list[str] = []
    for _ in range(4):
        try:
            taken += [run.id for run in await b.store.take_over(LEASE_S)]
        except StoreUnavailable:
            continue
    assert sorted(taken) == ["r0", "r1", "r2"]
    assert await c.store.take_over(LEASE_S) == []
    for run_id in taken:
        await b.end(run_id, 1)


@pytest.mark.parametrize("lost", ["FENCE", "TAKE", "SETTLE"])
async def test_a_takeover_that_its_worker_did_not_outlive_is_made_by_another(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any, lost: str
) -> None:
    c = await cluster.worker("c")
    await warm(b)
    for i in range(3):
        await a.create(f"r{i}", f"s{i}")
    await cluster.stop(a)
    Losses(b.store, monkeypatch).answers.append(getattr(scripts, lost))
    with pytest.raises(StoreUnavailable):
        await b.store.take_over(LEASE_S)
    first = [run.id for run in await c.store.take_over(LEASE_S)]
    await cluster.crash(b)
    rest = [run.id for run in (await cluster.lapse(c))["c"]]
    assert sorted(first + rest) == ["r0", "r1", "r2"]
    for run_id in ("r0", "r1", "r2"):
        await c.end(run_id, 1)
