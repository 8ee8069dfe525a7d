"""Cancels, whenever they come."""

from __future__ import annotations

import asyncio
from typing import Any

from gapless import Runner
from gapless.events import (
    CustomEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from tests.support.agents import Gated
from tests.support.runs import ask, echo, events_of


async def test_cancel_at_every_position(store: str):
    items = [
        "a",
        ToolCallStartEvent(tool_call_id="t", tool_call_name="f"),
        ToolCallArgsEvent(tool_call_id="t", delta='{"x": 1}'),
        ToolCallResultEvent(message_id="m", tool_call_id="t", content="ok"),
        "b",
        CustomEvent(name="n", value=1),
        "c",
    ]
    async with Runner(echo, store=store) as runner:
        for position in range(len(items) + 1):
            agent = Gated(*items)
            run = await runner.start("x", agent=agent, session_id="s", run_id=f"r{position}")
            agent.let(position)
            await agent.waits_for(position)
            await run.cancel()
            await run.cancel()
            record = await run.wait()
            assert agent.stopped.is_set()
            assert record.status is RunStatus.CANCELLED
            last = (await events_of(runner, run.id))[-1]
            assert isinstance(last, RunFinishedEvent)
            assert isinstance(last.outcome, RunFinishedCancelledOutcome)
            response = await run.collect()
            assert "".join(response.chunks) == "".join(item for item in items[:position] if isinstance(item, str))
            assert response.cancelled
            assert (await (await runner.start("next", session_id="s")).collect()).text == "you said next"


async def test_cancel_of_an_ended_run_changes_nothing(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("x")
        before = await run.wait()
        await run.cancel()
        assert await run.record() == before


async def test_a_waiting_run_can_be_cancelled(store: str):
    async with Runner(ask, store=store) as runner:
        run = await runner.start("x", run_id="r")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        await events_of(runner, "r")


async def test_a_cancel_that_comes_before_the_answer_to_the_creation_counts():
    created, answers = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def create_run(self, run: RunRecord, **more: Any) -> tuple[RunRecord, bool]:
            answer = await super().create_run(run, **more)
            created.set()
            await answers.wait()
            return answer

    memory, agent = Memory(), Gated("never said")
    async with Runner(agent, store=Slow(memory)) as owner, Runner(agent, store=MemoryStore(memory)) as other:
        starting = asyncio.create_task(owner.start("x", run_id="r"))
        await created.wait()
        await other.cancel("r")
        answers.set()
        assert (await (await starting).wait()).status is RunStatus.CANCELLED
