"""What is dropped of runs that have ended."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gapless import Limits, Runner
from gapless.errors import (
    CursorExpired,
    StoreUnavailable,
)
from tests.support.runs import echo
from tests.support.waiting import HANG_S, WAIT_S, until


async def test_events_past_their_retention_are_gone_and_the_session_stays(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("x", session_id="s")
        record = await run.wait()
        assert record.ended_at is not None
        while run.id in runner.executions:  # its journal is at hand until then
            await asyncio.sleep(0)
        assert await runner.store.expire(record.ended_at + 1) == 1
        with pytest.raises(CursorExpired):
            await run.collect()
        assert len(await runner.messages("s")) == 2


async def test_ended_runs_keep_no_more_than_kept_bytes_max(store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.keeper.EXPIRE_EVERY_S", 0.0)
    monkeypatch.setattr("gapless.runs.keeper.WATCH_S", 0.01)  # how often it looks: the lease stays long
    async with Runner(echo, store=store, limits=Limits(kept_bytes_max=1), retention_s=None) as runner:
        run = await runner.start("x", session_id="s")

        async def expired() -> bool:
            return (await run.record()).expired

        await until(expired, "its events are dropped")
        assert len(await runner.messages("s")) == 2


async def test_it_ends_though_its_cancel_is_swallowed_in_the_store(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.tasks.CANCEL_AGAIN_S", HANG_S)
    at_work = asyncio.Event()

    async def renew() -> None:
        at_work.set()
        with contextlib.suppress(asyncio.CancelledError):  # as `asyncio.wait_for` does that has its answer already
            await asyncio.Event().wait()

    runner = Runner(echo)
    monkeypatch.setattr(runner.store, "renew", renew)
    await runner.open()
    await at_work.wait()
    await asyncio.wait_for(runner.close(), WAIT_S)


async def test_a_store_that_is_away_is_told_once_and_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("gapless.runs.keeper.WATCH_S", 0.001)
    runner, tries = Runner(echo), 0
    renewed, back = runner.store.renew, asyncio.Event()

    async def renew() -> None:
        nonlocal tries
        tries += 1
        if tries <= 5:
            raise StoreUnavailable(f"try {tries} refused")
        await renewed()
        back.set()

    monkeypatch.setattr(runner.store, "renew", renew)
    async with runner:
        await asyncio.wait_for(back.wait(), WAIT_S)
        await until(lambda: len(caplog.messages) > 1, "it is told")
    away, over = caplog.messages
    assert away.endswith("the store is unavailable: try 1 refused")
    assert "the store is unavailable: that is over, after " in over


async def test_a_store_that_keeps_a_renewal_waiting_takes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.keeper.LATE_S", 0.01)
    runner, go_on = Runner(echo), asyncio.Event()
    renewed = runner.store.renew

    async def renew() -> None:
        await go_on.wait()
        await renewed()

    monkeypatch.setattr(runner.store, "renew", renew)
    async with runner:
        await until(lambda: runner.failing, "it is late")
        go_on.set()
        await until(lambda: not runner.failing, "it is taken")
