"""Runs that take too long."""

from __future__ import annotations

import pytest

from gapless import RunConfig, Runner
from gapless.errors import (
    RunTimeout,
)
from tests.support.agents import Gated
from tests.support.runs import LoopClock, until


@pytest.mark.parametrize(
    ("config", "items", "named"),
    [
        (RunConfig(timeout=3000), ["a"], "timeout=3000 s"),
        (RunConfig(first_event_timeout=3000, timeout=None), [], "first_event_timeout=3000 s"),
        (RunConfig(idle_timeout=3000, timeout=None), ["a"], "idle_timeout=3000 s"),
    ],
)
async def test_timeouts_are_named_and_keep_what_was_shown(store: str, config: RunConfig, items: list[str], named: str):
    agent, clock = Gated(*items), LoopClock()
    agent.let(len(items))
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", config=config)
        await agent.waits_for(len(items))
        await clock.pass_(2500)
        assert not (await run.record()).status.ended
        await clock.pass_(3500)  # idleness counts from when progress was looked for
        with pytest.raises(RunTimeout, match=named) as caught:
            await run.collect()
        assert caught.value.text == "".join(items)
        assert agent.stopped.is_set()


async def test_a_first_event_in_time_ends_the_first_event_timeout():
    agent, clock = Gated("a", "b"), LoopClock()
    async with Runner(agent) as runner:
        run = await runner.start("x", config=RunConfig(first_event_timeout=3000, timeout=None))
        agent.let()
        await until(run, 3)
        await clock.pass_(6000)
        agent.let(2)
        assert (await run.collect()).text == "ab"


def test_durations_are_positive():
    for name in ("timeout", "first_event_timeout", "idle_timeout", "max_llm_calls", "coalesce_ms"):
        with pytest.raises(ValueError, match=name):
            RunConfig(**{name: 0})
    with pytest.raises(ValueError, match="coalesce_ms must be at most 10000"):
        RunConfig(coalesce_ms=10_001)
