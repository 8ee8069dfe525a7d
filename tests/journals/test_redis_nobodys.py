"""Runs that are nobody's in Redis: what one worker gives up while another looks is found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless.journals import redis_nobodys_scripts as scripts
from gapless.journals.redis import RedisStore
from tests.journals.conformance import Worker


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
