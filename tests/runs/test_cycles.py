"""A run that is over leaves nothing behind: a server lets the garbage collector come by rarely, and what refers to
itself would be kept until then, with all that the run was told and has said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gapless import LiveRequestQueue, RunConfig, Runner, StreamingMode
from gapless.agents.base import RunContext
from gapless.events import Interrupt, ResumeEntry
from gapless.records import RunStatus
from gapless.testing import ToolCall, words
from tests.support.collector import left_for_the_collector

QUEUEING = RunConfig(on_busy="queue")


async def finishes(ctx: RunContext) -> AsyncIterator[str]:
    yield f"{len(ctx.messages)} {len(ctx.native_history)}"


async def fails(ctx: RunContext) -> AsyncIterator[str]:
    yield "shown"
    raise ValueError("secret")


async def yields_a_number(ctx: RunContext) -> AsyncIterator[Any]:
    yield 5


async def never_ends(ctx: RunContext) -> AsyncIterator[str]:
    yield "shown"
    await asyncio.Event().wait()


async def asks(ctx: RunContext) -> AsyncIterator[str]:
    await ctx.interrupt([Interrupt(id="i", reason="approval")])
    yield "thanks"


class Parrot:
    name = "parrot"
    live = True

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        async for request in ctx.live:
            yield str(request.content)


async def finished(runner: Runner) -> None:
    await (await runner.start("x", agent="finishes", session_id="s")).collect()


async def read_as_it_comes(runner: Runner) -> None:
    async for _ in runner.run_async("x", "finishes"):
        pass


async def failed(runner: Runner) -> None:
    with contextlib.suppress(Exception):
        await (await runner.start("x", agent="fails")).collect()


async def failed_by_its_items(runner: Runner) -> None:
    await (await runner.start("x", agent="yields_a_number")).wait()


async def cancelled(runner: Runner) -> None:
    run = await runner.start("x", agent="never_ends")
    while (await run.record()).last_seq < 3:
        await asyncio.sleep(0)
    await run.cancel()
    await run.wait()


async def timed_out(runner: Runner) -> None:
    await (await runner.start("x", agent="never_ends", config=RunConfig(timeout=0.01))).wait()


async def answered(runner: Runner) -> None:
    run = await runner.start("x", agent="asks")
    while (await run.record()).status is not RunStatus.WAITING:
        await asyncio.sleep(0)
    await run.answer([ResumeEntry(interrupt_id="i", status="resolved")])
    await run.wait()


async def queued(runner: Runner) -> None:
    first = await runner.start("x", agent="never_ends", session_id="q", config=QUEUEING)
    others = [await runner.start("x", agent="finishes", session_id="q", config=QUEUEING) for _ in range(3)]
    await others[1].cancel()
    await first.cancel()
    for run in others:
        await run.wait()


async def live(runner: Runner) -> None:
    queue = LiveRequestQueue()
    queue.send_content("one")
    queue.close()
    async for _ in runner.run_live(queue, "parrot"):
        pass


async def live_and_cancelled(runner: Runner) -> None:
    run = await runner.start("", agent="parrot", config=RunConfig(streaming_mode=StreamingMode.BIDI))
    await run.send("one")
    await run.cancel()
    await run.wait()


async def settled(runner: Runner) -> None:
    while runner.executions or runner.worker._tasks or runner.journals._journals:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)


KINDS: list[Callable[[Runner], Awaitable[None]]] = [
    finished,
    read_as_it_comes,
    failed,
    failed_by_its_items,
    cancelled,
    timed_out,
    answered,
    queued,
    live,
    live_and_cancelled,
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
async def test_a_run_that_is_over_leaves_nothing_for_the_collector(kind: Callable[[Runner], Awaitable[None]]):
    functions = (finishes, fails, yields_a_number, never_ends, asks)
    agents = {**{function.__name__: function for function in functions}, "parrot": Parrot()}
    async with Runner(agents=agents) as runner:
        await kind(runner)  # what is made once is made now
        await settled(runner)
        with left_for_the_collector() as found:
            await kind(runner)
            await settled(runner)
    assert not found


def pydantic_ai_agent() -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    return Agent(TestModel(custom_output_text="hi there"), name="helper")


def adk_agent() -> Any:
    from google.adk.agents import LlmAgent

    from gapless.testing.adk import ADKModel

    script = [*words("well then"), ToolCall("look", {"at": "it"}), *words("there it is")]
    return LlmAgent(name="helper", model=ADKModel(script), tools=[look])


def langchain_agent() -> Any:
    from langchain.agents import create_agent

    from gapless.testing import langgraph_model

    return create_agent(langgraph_model("well ", ToolCall("look", {"at": "it"}), "there"), [look], name="helper")


def openai_agent() -> Any:
    from agents import Agent, function_tool

    from gapless.testing import openai_agents_model

    script = openai_agents_model("well ", ToolCall("look", {"at": "it"}), "there")
    return Agent(name="helper", model=script, tools=[function_tool(look)])


def look(at: str) -> str:
    """Looks."""
    return at


@pytest.mark.parametrize("make", [pydantic_ai_agent, adk_agent, langchain_agent, openai_agent])
async def test_a_run_of_a_framework_leaves_nothing_of_ours_for_the_collector(make: Callable[[], Any]):
    async with Runner(make()) as runner:
        for _ in range(2):
            await (await runner.start("hi", session_id="s")).wait()
        await settled(runner)
        with left_for_the_collector() as found:
            await (await runner.start("hi", session_id="s")).wait()
            await settled(runner)
    assert not {name: count for name, count in found.items() if name.startswith("gapless.runs")}
    assert not {name: count for name, count in found.items() if name.startswith("gapless")}
