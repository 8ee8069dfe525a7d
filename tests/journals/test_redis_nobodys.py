"""Runs that are nobody's in Redis: whose a run is and where that is listed are in different hash slots, so no script
sees both. What is tested here is the protocol between the scripts, in any order of its steps.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from gapless.journals import redis_nobodys_scripts as scripts
from gapless.journals.contract import NotWaiting
from gapless.journals.redis import RedisStore
from gapless.records import RunStatus
from tests.journals.conformance import Cluster, Worker
from tests.journals.gate import STEPS_MAX, Gate

ORDERS = int(os.environ.get("GAPLESS_TEST_ORDERS", "40"))
"""Of steps, each from its number."""


async def test_a_run_that_is_given_up_while_its_entry_is_dropped_is_found_all_the_same(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looker has read the list after the run was offered, and its record before it was given up."""
    assert isinstance(a.store, RedisStore)
    assert isinstance(b.store, RedisStore)
    await a.create("r", "s")
    await a.store.start_run("r", 1)
    offered, looked = asyncio.Event(), asyncio.Event()
    call, each = a.store._server.call, b.store._server.each

    async def held(script: Any, *arguments: Any) -> Any:
        if script is scripts.RELEASE:
            offered.set()
            await looked.wait()
        return await call(script, *arguments)

    async def slowly(*arguments: Any) -> Any:
        found = await each(*arguments)
        looked.set()
        assert await releasing
        return found

    monkeypatch.setattr(a.store._server, "call", held)
    monkeypatch.setattr(b.store._server, "each", slowly)
    releasing = asyncio.create_task(a.store.release("r", 0))
    await offered.wait()
    found = await b.store.wanted(10) or await b.store.wanted(10)
    assert [run.id for run in found] == ["r"]


async def test_a_run_that_is_wanted_is_found_in_any_order_of_steps(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker parks it, a person answers it at another, two more look for what is nobody's, one of which has not its
    agent and leaves it again: whoever looks at last finds it."""
    c, d = await cluster.worker("c"), await cluster.worker("d")

    async def answer(run_id: str) -> None:
        for _ in range(2):
            try:
                await b.store.answer(run_id, 1, b"yes")
            except NotWaiting:
                return

    async def look(run_id: str) -> None:
        for _ in range(3):
            await c.store.wanted(10)

    async def pass_on(run_id: str) -> None:
        for _ in range(3):
            if await d.store.wanted(10) and await d.store.claim(run_id) is not None:
                await d.store.release(run_id, None)

    for number in range(ORDERS):
        rng, run_id = random.Random(number), f"r{number}"
        await a.create(run_id, f"s{number}")
        await a.store.start_run(run_id, 1)
        await a.append(run_id, 1, "question", status=RunStatus.WAITING)
        with monkeypatch.context() as patch:
            gate = Gate(patch)
            gate.hold(a, a.store.release(run_id, None))
            gate.hold(b, answer(run_id))
            gate.hold(c, look(run_id))
            gate.hold(d, pass_on(run_id))
            schedule: list[tuple[int, str]] = []
            while len(schedule) < STEPS_MAX:  # some steps of one, then some of another
                schedule += [(rng.randrange(4), "")] * rng.randrange(1, 5)
            await gate.play(schedule)
        for task in gate.tasks.values():
            await task
        found = await c.store.wanted(10) or await c.store.wanted(10)
        assert run_id in [run.id for run in found], f"order {number}"
        assert await c.store.claim(run_id)
        await c.append(run_id, 2, "goes on")
        await c.end(run_id, 3)
