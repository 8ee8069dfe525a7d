"""The adapter seam: an agent's duties, and objects that merely have a name and `run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import pytest

from gapless import RunConfig, Runner, StreamingMode
from gapless.agents import Agent, adapt
from gapless.agents.base import RunContext
from gapless.errors import AgentInvalid, InputInvalid, UsageError
from gapless.events import Interrupt, ResumeEntry


class Least(Agent):
    """No duty but the two that every agent has."""

    name = "least"

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        yield f"heard {ctx.message}"


class Stranger:
    """Derives from nothing of ours."""

    def __init__(self) -> None:
        self.name = "stranger"

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        yield f"heard {ctx.message}"


class Dutiful(Stranger):
    """Derives from nothing of ours, and does every duty."""

    live = True

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []

    async def load(self) -> None:
        self.done.append("load")

    async def aclose(self) -> None:
        self.done.append("aclose")

    def use_session_service(self, service: object) -> None:
        self.done.append(service)

    async def session_state(self, app_name: str, user_id: str, session_id: str) -> dict[str, object] | None:
        return {"of": (app_name, user_id, session_id)}

    async def update_state(self, app_name: str, user_id: str, session_id: str, changes: dict[str, object]) -> None:
        self.done.append(changes)


@pytest.mark.parametrize("agent", [Least(), Stranger()])
async def test_an_agent_that_has_a_name_and_run_is_enough(agent: Agent | Stranger):
    adapted = adapt(agent)
    async with Runner(agent) as runner:
        await runner.load()
        assert list(runner.agents) == [agent.name]
        run = await runner.start("you")
        assert (await run.collect()).text == "heard you"
        with pytest.raises(InputInvalid, match="cannot be spoken to"):
            await runner.start("you", config=RunConfig(streaming_mode=StreamingMode.BIDI))
    assert not adapted.live
    assert await adapted.session_state("app", "user", "session") is None
    await adapted.update_state("app", "user", "session", {"a": 1})
    with pytest.raises(UsageError, match="session_service= is for ADK agents"):
        Runner(agent, session_service=object())


def test_an_agent_of_ours_is_run_as_it_is():
    agent = Least()
    assert adapt(agent) is agent


async def test_an_objects_own_duties_are_done():
    agent, service = Dutiful(), object()
    adapted = adapt(agent)
    async with Runner(agent, session_service=service) as runner:
        await runner.load()
    assert adapted.live
    assert await adapted.session_state("app", "user", "session") == {"of": ("app", "user", "session")}
    await adapted.update_state("app", "user", "session", {"a": 1})
    assert agent.done == [service, "load", "aclose", {"a": 1}]


def a_context(**more: Any) -> RunContext:
    async def interrupt(interrupts: list[Interrupt]) -> list[ResumeEntry]:
        return []

    return RunContext(
        run_id="r",
        session_id="s",
        user_id="u",
        agent_name="least",
        content="hello",
        messages=[],
        config=RunConfig(),
        interrupt=interrupt,
        **more,
    )


async def test_a_run_that_cannot_go_on_saves_nothing_and_one_that_can_does():
    ctx = a_context()
    await ctx.save(b"x")
    assert (ctx.continues, ctx.checkpoint) == (False, None)
    with pytest.raises(UsageError, match="run r does not execute here"):
        await ctx.emit("x")
    saved, emitted = list[bytes](), list[object]()

    async def save(make_data: Callable[[], bytes], half: Collection[str], leave: bool) -> None:
        saved.append(make_data())

    async def emit(item: object) -> None:
        emitted.append(item)

    told: list[str] = []
    ctx = a_context(unkept=told.append)
    await ctx.save(b"x")
    assert (await ctx.step("double", lambda n: 2 * n, 2), told) == (4, ["save", "step"])
    ctx = a_context(checkpoint=b"before", save=save, emit=emit)
    await ctx.emit("said")
    await ctx.save(b"x")
    assert (ctx.continues, ctx.checkpoint, saved, emitted) == (True, b"before", [b"x"], ["said"])


async def test_what_is_saved_is_bytes_also_where_nothing_is_kept():
    saved: list[bytes] = []

    async def save(make_data: Callable[[], bytes], half: Collection[str], leave: bool) -> None:
        saved.append(make_data())

    for ctx in (a_context(), a_context(save=save)):
        for wrong in ({"x": 1}, "text", None):
            with pytest.raises(AgentInvalid, match=f"run r: ctx.save takes bytes, not {type(wrong).__name__}"):
                await ctx.save(wrong)  # type: ignore[arg-type]  # that is what is tried
        await ctx.save(bytearray(b"x"))
    assert saved == [b"x"]
    assert type(saved[0]) is bytes


def test_ids_are_told_from_those_of_an_earlier_worker_and_keys_are_the_same():
    first, second = a_context(), a_context(ids_after=7)
    assert [first.new_id("tool"), first.new_id("tool"), second.new_id("tool")] == ["r-tool-1", "r-tool-2", "r-tool-8"]
    assert first.call_key("c") == second.call_key("c") == "r:c"
