"""Questions that a run puts to people, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import (
    AgentInvalid,
    InputInvalid,
    RunFenced,
)
from gapless.events import (
    Interrupt,
    ResumeEntry,
    RunFinishedEvent,
    RunStartedEvent,
)
from gapless.journals.memory import MemoryStore
from gapless.records import RunStatus
from gapless.runs.commands import decode_command
from tests.support.runs import LoopClock, ask, echo, ends, events_of


async def test_an_interrupt_waits_for_its_answer(store: str):
    clock = LoopClock()
    async with Runner(ask, store=store) as runner:
        run = await runner.start("x", run_id="r", config=RunConfig(timeout=3000))
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
        assert (await run.record()).status is RunStatus.WAITING
        await clock.pass_(6000)  # past the timeout: waiting for a person does not count
        with pytest.raises(InputInvalid, match="waits for no answer"):
            await (await runner.start("y", agent=echo)).answer([])
        with pytest.raises(InputInvalid, match="waits for answers to i"):
            await run.answer([ResumeEntry(interrupt_id="j", status="resolved")])
        answer = ResumeEntry(interrupt_id="i", status="resolved", payload={"approved": True})
        with pytest.raises(InputInvalid, match="i is answered twice"):
            await run.answer([answer, ResumeEntry(interrupt_id="i", status="cancelled")])
        await run.answer([ResumeEntry(interrupt_id="j", status="resolved"), answer, answer])
        response = await run.collect()
        assert response.text == "may I? \n\nresolved {'approved': True}"
        assert (await run.record()).status is RunStatus.FINISHED
        events = await events_of(runner, "r")
        assert [type(e) for e in events].count(RunStartedEvent) == 2


async def test_several_answer_some_each_at_the_same_time(store: str):
    async def asks(message: str, ctx: RunContext) -> AsyncIterator[str]:
        answers = await ctx.interrupt([Interrupt(id=id, reason="input_required") for id in "abc"])
        yield " ".join(sorted(str(answer.payload) for answer in answers))

    def answer(id: str) -> ResumeEntry:
        return ResumeEntry(interrupt_id=id, status="resolved", payload=id.upper())

    async with Runner(asks, store=store) as runner:
        run = await runner.start("x", run_id="r")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
        await asyncio.gather(*(runner.answer("r", [answer(id)], some=True) for id in "abc"))
        assert (await run.collect()).text == "A B C"
        with pytest.raises(InputInvalid, match="waits for no answer"):
            await runner.answer("r", [answer("a")], some=True)


async def test_an_answer_that_comes_too_late_is_told_why(tmp_path: Path):
    store = f"sqlite:///{tmp_path}/late.db"
    async with Runner(ask, store=store) as runner:
        run = await runner.start("x", run_id="r")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
    async with Runner(ask, store=store) as runner:
        with pytest.raises(InputInvalid, match="stopped before the run had finished; ask again"):
            await runner.answer("r", [ResumeEntry(interrupt_id="i", status="resolved", payload=True)])


async def ask_nothing(ctx: RunContext) -> AsyncIterator[str]:
    yield "well "
    await ctx.interrupt([])


async def ask_while_asking(ctx: RunContext) -> AsyncIterator[str]:
    yield "well "
    await asyncio.gather(*(ctx.interrupt([Interrupt(id=name, reason="approval")]) for name in "ij"))


async def ask_twice_as_one(ctx: RunContext) -> AsyncIterator[str]:
    yield "well "
    await ctx.interrupt([Interrupt(id=id, reason="approval") for id in "iji"])


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (ask_nothing, "without a question"),
        (ask_while_asking, r"asks while it waits for an answer already: .* in one list"),
        (ask_twice_as_one, "two questions at once have the id 'i'"),
    ],
)
async def test_an_interrupt_that_cannot_be_answered_fails_the_run(agent: Any, why: str):
    async with Runner(agent) as runner:
        run = await runner.start("x", config=RunConfig(timeout=3000))
        with pytest.raises(AgentInvalid, match=why):
            await run.collect()


async def test_an_agent_that_waits_no_longer_for_its_answer_goes_on(store: str):
    async def impatient(ctx: RunContext) -> AsyncIterator[str]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await ctx.interrupt([Interrupt(id="i", reason="approval")])
        yield "nobody said no"

    async with Runner(impatient, store=store) as runner:
        run = await runner.start("x", run_id="r")
        assert (await run.collect()).text == "nobody said no"
        assert (await run.record()).status is RunStatus.FINISHED
        events = await events_of(runner, "r")
        assert [type(e) for e in events].count(RunStartedEvent) == 2


class Undecided(MemoryStore):
    """Takes its time for the decision that nobody answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.decides = asyncio.Event(), asyncio.Event()

    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        if decode_command(command).kind == "left":
            self.asked.set()
            await self.decides.wait()
        return await super().answer(run_id, seq, command)


async def turns() -> None:
    """Let those that are cancelled be so again."""
    for _ in range(20):
        await asyncio.sleep(0)


Leaves = Callable[[Undecided, Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


async def cancels_twice(store: Undecided, asking: Coroutine[Any, Any, Any]) -> Any:
    """Do as what is under several timeouts."""
    task = asyncio.create_task(asking)
    await asyncio.sleep(0)
    task.cancel()
    await store.asked.wait()
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def cancels_in_each_turn(_: Undecided, asking: Coroutine[Any, Any, Any]) -> Any:
    """Do as anyio does, until its block is left."""
    with anyio.move_on_after(0):
        return await asking


@pytest.fixture(params=[cancels_twice, cancels_in_each_turn])
def impatient(request: pytest.FixtureRequest) -> Callable[[Undecided], Any]:
    """An agent that is cancelled again while the store decides that its question is left off."""
    leaves: Leaves = request.param

    def agent_on(store: Undecided) -> Any:
        async def agent(ctx: RunContext) -> AsyncIterator[str]:
            answers = await leaves(store, ctx.interrupt([Interrupt(id="i", reason="approval")]))
            yield f"{[answer.payload for answer in answers]}" if answers else "nobody said no"

        return agent

    return agent_on


async def test_an_agent_that_is_cancelled_again_while_its_question_is_left_off_goes_on(impatient: Any):
    store = Undecided()
    async with Runner(impatient(store), store=store) as runner:
        run = await runner.start("x", run_id="r")
        await store.asked.wait()
        await turns()
        assert (await run.record()).status is RunStatus.WAITING
        store.decides.set()
        assert (await run.collect()).text == "nobody said no"
        assert (await run.record()).status is RunStatus.FINISHED
        events = await events_of(runner, "r")
        assert [type(e) for e in events].count(RunStartedEvent) == 2


async def test_an_answer_that_was_faster_than_an_agent_that_is_cancelled_again_is_heard(impatient: Any):
    store = Undecided()
    async with Runner(impatient(store), store=store) as runner:
        run = await runner.start("x", run_id="r")
        await store.asked.wait()
        await turns()
        await run.answer([ResumeEntry(interrupt_id="i", status="resolved", payload="yes")])
        store.decides.set()
        assert (await run.collect()).text == "['yes']"


async def test_a_run_is_cancelled_while_its_question_is_left_off(impatient: Any):
    store = Undecided()
    async with Runner(impatient(store), store=store) as runner:
        run = await runner.start("x", run_id="r")
        await store.asked.wait()
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        store.decides.set()
        assert ends((await events_of(runner, "r"))[-1])


@pytest.mark.parametrize("turns", range(0, 16, 3))
async def test_what_an_agent_leaves_running_asks_nothing_once_its_run_has_ended(store: str, turns: int):
    left: list[asyncio.Task[Any]] = []

    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        async def later() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await ctx.interrupt([Interrupt(id="i", reason="late")])

        yield "done"
        left.append(asyncio.create_task(later()))

    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", run_id="r")
        await run.wait()
        (task,) = left
        with pytest.raises(RunFenced, match="run r has ended"):
            await task
        assert ends((await events_of(runner, "r"))[-1])
        assert (await run.record()).status is RunStatus.FINISHED


@pytest.mark.parametrize("turns", range(6))
async def test_an_answer_that_comes_as_the_run_ends_adds_nothing_after_its_end(store: str, turns: int):
    left: list[asyncio.Task[Any]] = []

    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        async def answer() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            execution.questions.resolve([ResumeEntry(interrupt_id="i", status="resolved")])

        execution = runner.executions["r"]
        yield "done"
        left.append(asyncio.create_task(ctx.interrupt([Interrupt(id="i", reason="late")])))
        for _ in range(50):  # until nobody has anything else to do
            await asyncio.sleep(0)
        left.append(asyncio.create_task(answer()))

    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", run_id="r")
        await run.wait()
        await asyncio.gather(*left, return_exceptions=True)
        assert ends((await events_of(runner, "r"))[-1])
        assert (await run.record()).status is RunStatus.FINISHED
