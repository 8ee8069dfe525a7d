"""Plain Python as an agent; sync code never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.errors import AgentFailed, AgentInvalid
from gapless.events import CustomEvent, Interrupt
from gapless.records import RunStatus
from tests.support.waiting import HANG_S

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def text_of(agent: Any, message: str = "m") -> str:
    async with Runner(agent) as runner:
        return (await (await runner.start(message)).collect()).text


async def async_generator(message: str) -> AsyncIterator[str]:
    yield "got "
    yield message


def generator(message: str) -> Iterator[str]:
    yield "got "
    yield message


async def coroutine(message: str) -> str:
    return "got " + message


def function(message: str) -> str:
    return "got " + message


async def coroutine_of_list(message: str) -> list[str]:
    return ["got ", message]


async def coroutine_of_stream(message: str) -> AsyncIterator[str]:
    return async_generator(message)


class Callable:
    async def __call__(self, message: str) -> str:
        return "got " + message


@pytest.mark.parametrize(
    "agent",
    [
        async_generator,
        generator,
        coroutine,
        function,
        coroutine_of_list,
        coroutine_of_stream,
        Callable(),
        lambda m: "got " + m,
    ],
)
async def test_every_kind_of_callable(agent: Any):
    assert await text_of(agent) == "got m"


async def test_the_arguments_it_may_take():
    async def nothing() -> str:
        return "0"

    async def both(message: str, ctx: RunContext) -> str:
        return message + ctx.run_id[:0]

    async def context_only(ctx: RunContext) -> str:
        return ctx.message

    async def by_name(message, context):  # type: ignore[no-untyped-def]
        return context.message

    async def optional(message: str, temperature: float = 0.5) -> str:
        return f"{message}{temperature}"

    assert [await text_of(agent) for agent in (nothing, both, context_only, by_name, optional)] == [
        "0",
        "m",
        "m",
        "m",
        "m0.5",
    ]

    async def three(a: str, b: str, c: str) -> str:
        return ""

    with pytest.raises(AgentInvalid, match="takes 3 arguments"):
        Runner(three)


async def by_keyword(message: str, *, ctx: RunContext, tone: str, loud: bool = False) -> AsyncIterator[str]:
    yield "never"


async def test_what_must_be_given_by_keyword_is_refused_before_it_runs():
    with pytest.raises(AgentInvalid, match=r"by_keyword: must be given ctx=, tone=, .*\(message, ctx\)"):
        Runner(by_keyword)
    with pytest.raises(AgentInvalid, match="must be given ctx="):
        Runner(functools.partial(by_keyword, tone="friendly"))


def hiding(function: Any) -> Any:
    """Decorates as people write it, without `functools.wraps`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("agent", [async_generator, generator, coroutine, function, Callable()])
async def test_an_agent_behind_a_decorator_that_hides_its_parameters_is_given_the_message(agent: Any):
    assert await text_of(hiding(agent)) == "got m"


def asks(message: str, ctx: RunContext) -> Iterator[str]:
    yield "well "
    answers: Any = ctx.interrupt([Interrupt(id="i", reason="approval")])
    yield str(answers)


def saves(ctx: RunContext) -> str:
    return str(ctx.save(b"here"))


def emits(ctx: RunContext) -> str:
    return str(ctx.emit("x"))


def steps(ctx: RunContext) -> str:
    return str(ctx.step("name", function, "m"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("agent", "what"), [(asks, "interrupt"), (saves, "save"), (emits, "emit"), (steps, "step")])
async def test_a_sync_agent_that_awaits_nothing_is_told_so(agent: Any, what: str):
    async with Runner(agent) as runner:
        run = await runner.start("m")
        with pytest.raises(AgentInvalid, match=rf"^run {run.id}: ctx.{what} was called and not awaited: .*`async def`"):
            await run.collect()


async def test_a_blocking_agent_blocks_no_other_run():
    blocked, release = threading.Event(), threading.Event()

    def blocks(message: str) -> Iterator[str]:
        yield "a"
        blocked.set()
        release.wait()
        yield "b"

    async with Runner(agents={"blocks": blocks, "quick": coroutine}) as runner:
        slow = await runner.start("x", agent="blocks")
        await asyncio.to_thread(blocked.wait)
        assert (await (await runner.start("m", agent="quick")).collect()).text == "got m"
        release.set()
        assert (await slow.collect()).text == "ab"


async def test_cancelling_a_sync_agent_ends_its_run_at_once_and_its_thread_at_its_next_item():
    blocked, release, closed = threading.Event(), threading.Event(), threading.Event()

    def blocks(message: str) -> Iterator[str]:
        try:
            yield "a"
            blocked.set()
            release.wait()
            yield "never seen"
        finally:
            closed.set()

    async with Runner(blocks) as runner:
        run = await runner.start("x")
        await asyncio.to_thread(blocked.wait)
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        assert not closed.is_set()
        release.set()
        assert await asyncio.to_thread(closed.wait, 10)
        assert (await run.collect()).text == "a"


def raises_when_closed(message: str) -> Iterator[str]:
    try:
        while True:
            yield "a"
    finally:
        raise ValueError(message)


def yields_when_closed(message: str) -> Iterator[str]:
    try:
        while True:
            yield "a"
    except GeneratorExit:
        yield message


@pytest.mark.parametrize(("agent", "kind"), [(raises_when_closed, "ValueError"), (yields_when_closed, "RuntimeError")])
async def test_what_a_sync_generator_raises_when_it_is_closed_is_logged_by_class_and_place(
    agent: Any, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    unhandled: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    caplog.set_level(logging.INFO)
    async with Runner(agents={"a": agent}) as runner:
        run = await runner.start("what people wrote", run_id="r")
        async for _ in run.text():
            break
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        for thread in threading.enumerate():
            if thread.name == "gapless-agent":
                await asyncio.to_thread(thread.join, 10)
    assert f"run r: agent a, when it was closed, raised {kind} at " in caplog.text
    assert "what people wrote" not in caplog.text
    assert unhandled == []


async def test_a_sync_generator_does_not_run_far_ahead_of_the_journal():
    made = 0

    def eager(message: str) -> Iterator[str]:
        nonlocal made
        for _ in range(10_000):
            made += 1
            yield "x"

    from gapless.agents.functions import AHEAD_ITEMS_MAX, FunctionAgent

    ctx: Any = type("Ctx", (), {"message": "m"})()
    items = FunctionAgent(eager).run(ctx)
    await anext(items)
    await items.aclose()  # type: ignore[attr-defined]  # an async generator
    assert made <= AHEAD_ITEMS_MAX + 3


@pytest.mark.parametrize("kind", ["function", "generator"])
async def test_what_a_sync_agent_raises_ends_its_run(kind: str):
    def fails(message: str) -> str:
        raise StopIteration("odd")

    def fails_later(message: str) -> Iterator[str]:
        yield "a"
        raise ValueError("no")

    with pytest.raises(AgentFailed) as caught:
        await text_of(fails if kind == "function" else fails_later)
    assert caught.value.text == ("" if kind == "function" else "a")


async def test_context_variables_reach_sync_code():
    def reads(message: str) -> Iterator[str]:
        yield variable.get()

    variable.set("set")
    assert await text_of(reads) == "set"


async def test_events_come_through():
    def speaks(message: str) -> Iterator[Any]:
        yield CustomEvent(name="n", value=[1])
        yield "a"

    async with Runner(speaks) as runner:
        events = [event async for event in runner.run_async("x")]
        assert CustomEvent(name="n", value=[1]) in events


async def test_what_a_thread_hands_to_the_event_loop_is_done():
    """As a sync tool does that has something to tell while it works."""
    loop = asyncio.get_running_loop()

    def agent(ctx: RunContext) -> str:
        asyncio.run_coroutine_threadsafe(ctx.emit("first "), loop).result(HANG_S)
        found = asyncio.run_coroutine_threadsafe(ctx.step("look", function, "m"), loop).result(HANG_S)
        return f"then {found}"

    assert await text_of(agent) == "first then got m"
