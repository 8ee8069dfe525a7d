"""Agents make ready once, before their first run, with a server or without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import Agent, RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import AgentFailed, ModelFailed, ShuttingDown
from gapless.testing.place import Place
from tests.support.waiting import at_rest, until


class Heavy(Agent):
    """Takes as long as the test lets it to be ready."""

    name = "heavy"

    def __init__(self, *failures: Exception, gate: asyncio.Event | None = None) -> None:
        self.failures = list(failures)
        self.gate = gate
        self.loads = 0
        self.ready = False

    async def load(self) -> None:
        self.loads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.ready = True

    async def aclose(self) -> None:
        self.ready = False

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        yield f"ready: {self.ready}"


class Stranger:
    """The same duties, of an object that is no `Agent`."""

    name = "stranger"
    loads = 0

    async def load(self) -> None:
        self.loads += 1

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        yield f"ready: {self.loads}"


async def ask(runner: Runner, **options: Any) -> str:
    return (await (await runner.start("x", **options)).collect()).text


async def test_an_agent_is_ready_before_its_first_run(store: str):
    agent = Heavy()
    runner = Runner(agent, store=store)
    for opened in (1, 2):  # what was closed is made ready again
        async with runner:
            assert agent.loads == opened - 1, "only a run needs it"
            assert [await ask(runner) for _ in range(3)] == ["ready: True"] * 3
            assert agent.loads == opened


async def test_first_runs_at_the_same_time_wait_for_one_and_the_same():
    agent = Heavy(gate=asyncio.Event())
    async with Runner(agent) as runner:
        first, *others = [asyncio.create_task(ask(runner, user_id=f"u{number}")) for number in range(5)]
        await until(lambda: agent.loads == 1, "it makes ready")
        await at_rest()
        first.cancel()  # the others wait all the same
        assert not runner.executions
        agent.gate.set()
        assert await asyncio.gather(*others) == ["ready: True"] * 4
        assert agent.loads == 1


@pytest.mark.parametrize("kind", ["registered", "given"])
@pytest.mark.parametrize("make", [Heavy, Stranger])
async def test_each_agent_makes_ready_for_itself(make: Any, kind: str):
    agent, other = make(), make()
    async with Runner(agents={"a": agent, "b": other}) as runner:
        for _ in range(2):
            await ask(runner, agent="a" if kind == "registered" else agent)
        assert (agent.loads, other.loads) == (1, 0)
        await ask(runner, agent="b" if kind == "registered" else other)
        assert (agent.loads, other.loads) == (1, 1)


async def test_a_failure_is_told_to_who_starts_the_run_and_the_next_tries_again(caplog: pytest.LogCaptureFixture):
    agent = Heavy(ModelFailed("the file is damaged"), OSError("what was said"))
    async with Runner(agent) as runner:
        with pytest.raises(ModelFailed, match="the file is damaged"):
            await runner.start("x", run_id="r")
        with pytest.raises(AgentFailed, match="agent heavy is not ready: it raised OSError") as raised:
            await runner.start("x", run_id="r")
        assert isinstance(raised.value.__cause__, OSError)
        assert "what was said" not in f"{raised.value}{caplog.text}"
        assert await runner.find_run("r") is None, "nothing was begun"
        assert await ask(runner, run_id="r") == "ready: True"
        agent.failures.append(OSError())
        assert await ask(runner, run_id="r") == "ready: True", "who comes back needs no agent"


async def test_concurrent_first_runs_are_all_told_of_a_failure():
    agent = Heavy(ModelFailed("the file is damaged"), gate=asyncio.Event())
    async with Runner(agent) as runner:
        asked = [asyncio.create_task(ask(runner)) for _ in range(3)]
        await until(lambda: agent.loads == 1, "it makes ready")
        await at_rest()
        agent.gate.set()
        assert [type(one) for one in await asyncio.gather(*asked, return_exceptions=True)] == [ModelFailed] * 3


async def test_closing_does_not_wait_for_an_agent_that_makes_ready():
    agent = Heavy(gate=asyncio.Event())
    runner = await Runner(agent).open()
    asked = asyncio.create_task(ask(runner))
    await until(lambda: agent.loads == 1, "it makes ready")
    await runner.close()
    with pytest.raises(ShuttingDown):
        await asked


async def test_a_run_that_another_worker_left_is_gone_on_with_by_an_agent_that_is_ready():
    place = Place()
    blocking = Heavy()
    leaving = await place.worker(blocking)
    config = RunConfig(on_worker_lost="restart")

    async def run(ctx: RunContext) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    blocking.run = run  # type: ignore[method-assign]  # it never answers
    await leaving.start("x", session_id="s", run_id="r", agent="agent", config=config)
    agent = Heavy()
    other = await place.worker(agent)
    await place.lose(leaving, other)
    assert (await (await other.attach("r")).collect()).text == "ready: True"
    assert agent.loads == 1
    await place.close()
