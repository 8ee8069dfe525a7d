"""What runs do in a schedule: a plan for each, and the agents that follow it.

`scripted` cannot be gone on with. `replaying` is run again, and `saving` says itself where it stands. What is costly is
done in steps, and the plan keeps book of them apart from everything that Gapless keeps.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

import gapless
from gapless import Agent, RunConfig
from gapless.agents.base import AgentItem, RunContext
from gapless.errors import OutcomeUnknown, RunFenced
from gapless.events import CustomEvent, Interrupt
from tests.simulation.clock import current_process

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["CONTINUING", "Plan", "agents"]

CONTINUING = ("replaying", "saving")
"""Agents whose runs go on at another worker."""
SECOND_TIMEOUT_S = 0.001
PLACES_OF_QUESTIONS = {"ask": 1, "ask briefly": 1, "hurry": 4}
"""Where in a step of the script its question stands."""


class Plan:
    """One run as its clients want it, and what is known of it beside its journal."""

    def __init__(
        self, run_id: str, session_id: str, agent: str, script: list[tuple[Any, ...]], config: RunConfig
    ) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.agent = agent
        self.script = script
        self.config = config
        self.calls = 0
        """How often the agent was run for it."""
        self.begun: collections.Counter[str] = collections.Counter()
        """How often each step was begun."""
        self.finished: set[str] = set()
        """Steps of which the agent was told that they are kept."""
        self.acknowledged: set[str] = set()
        """Questions whose answers were accepted."""
        self.cancelled = False
        """Someone wanted it to end."""
        self.starters = 0
        """Who still tries to start it."""
        self.known = False
        """Someone was told that it is there."""

    @property
    def refused(self) -> bool:
        """It was never begun: its session was busy."""
        return not self.starters and not self.known

    @property
    def when_lost(self) -> str:
        """What becomes of it when its worker is lost."""
        wanted = self.config.on_worker_lost
        return "fail" if wanted == "continue" and self.agent not in CONTINUING else wanted

    @property
    def continues(self) -> bool:
        return self.when_lost == "continue"

    @property
    def text(self) -> re.Pattern[str]:
        """What it says if it finishes."""
        return re.compile("".join(map(_text_of, self.script)))

    @property
    def fails(self) -> bool:
        return any(step[0] == "fail" for step in self.script)

    @property
    def endless(self) -> bool:
        return any(step[0] == "forever" for step in self.script)

    @property
    def questions(self) -> list[str]:
        return [step[PLACES_OF_QUESTIONS[step[0]]] for step in self.script if step[0] in PLACES_OF_QUESTIONS]


def _text_of(step: tuple[Any, ...]) -> str:
    kind, *rest = step
    if kind == "say":
        return re.escape(str(rest[0]))
    if kind == "steps":
        return "".join(rf"{name}=\d+ " for name in rest[0])
    if kind == "once":
        return rf"{rest[0]}=(?:\d+|unknown) "
    if kind == "hurry":
        return rf"(?:{rest[0]}=(?:\d+|unknown)|<{rest[3]}>) "
    if kind in ("ask", "ask briefly"):
        return rf"<{rest[0]}> " if kind == "ask" else rf"(?:<{rest[0]}>|nobody) "
    return ""


def agents(world: World) -> dict[str, Any]:
    """Make one server's agents."""

    @gapless.replays
    async def replaying(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
        async with contextlib.aclosing(_Playing(world, ctx, remembers=True).all(0)) as items:
            async for item in items:
                yield item

    return {"scripted": Scripted(world), "replaying": replaying, "saving": Saving(world)}


class Scripted(Agent):
    """It does what the plan of its run says."""

    name = "scripted"

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        return _Playing(self.world, ctx).all(0)


class Saving(Agent):
    """It saves after most of what it does, and always before it asks."""

    name = "saving"
    continues = "from_checkpoint"

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        begin = 0 if ctx.checkpoint is None else msgspec.json.decode(ctx.checkpoint, type=int)
        playing = _Playing(self.world, ctx)

        async def save(number: int, step: tuple[Any, ...], following: tuple[Any, ...]) -> None:
            if step[0] in ("steps", "once") or number % 3 or following[0].startswith("ask"):
                await ctx.save(msgspec.json.encode(number + 1))
                playing.keep(step)

        return playing.all(begin, save)


_Save = Callable[[int, tuple[Any, ...], tuple[Any, ...]], Awaitable[None]]


class _Playing:
    """One call of an agent. `remembers`: its steps are kept by the time that they return."""

    def __init__(self, world: World, ctx: RunContext, *, remembers: bool = False) -> None:
        self.world = world
        self.ctx = ctx
        self.plan: Plan = world.plans[ctx.run_id]
        self.remembers = remembers and self.plan.continues
        self.plan.calls += 1

    async def all(self, begin: int, save: _Save | None = None) -> AsyncGenerator[AgentItem, None]:
        script, cleanup_s = self.plan.script, 0.0
        try:
            for number, step in enumerate(script[begin:], begin):
                if step[0] == "cleanup":
                    cleanup_s = step[1]
                async with contextlib.aclosing(self.one(*step)) as items:
                    async for item in items:
                        yield item
                if save is not None:
                    await save(number, step, script[number + 1] if number + 1 < len(script) else ("end",))
        except asyncio.CancelledError:
            await asyncio.sleep(cleanup_s)
            if cleanup_s:
                with contextlib.suppress(RunFenced):
                    await self.tidy()
            raise

    async def tidy(self) -> None:
        """What a cancelled agent does is not where others go on."""
        if self.plan.agent == "saving":
            await self.ctx.save(b"0")
        else:
            await self.ctx.step("tidy", asyncio.sleep, 0)

    async def one(self, kind: str, *rest: Any) -> AsyncGenerator[AgentItem, None]:
        if kind == "say":
            yield rest[0]
        elif kind == "wait":
            await asyncio.sleep(rest[0])
        elif kind == "event":
            yield CustomEvent(name="mark", value=1)
        elif kind == "steps":
            names, seconds = rest
            for name, value in zip(
                names, await asyncio.gather(*(self.step(name, seconds) for name in names)), strict=True
            ):
                yield f"{name}={value} "
        elif kind == "once":
            try:
                yield f"{rest[0]}={await self.step(*rest, repeatable=False)} "
            except OutcomeUnknown:
                yield f"{rest[0]}=unknown "
        elif kind == "hurry":
            name, seconds, hurry_s, question, repeatable = rest
            try:
                async with asyncio.timeout(hurry_s):
                    said = f"{name}={await self.step(name, seconds, repeatable=repeatable)} "
            except OutcomeUnknown:
                said = f"{name}=unknown "
            except TimeoutError:
                said = f"<{await self.ask(question)}> "
            yield said
        elif kind == "ask":
            yield f"<{await self.ask(rest[0])}> "
        elif kind == "ask briefly":
            try:
                # The second comes while the first has the store decide.
                async with asyncio.timeout(rest[1] + SECOND_TIMEOUT_S), asyncio.timeout(rest[1]):
                    answer = f"<{await self.ask(rest[0])}> "
            except TimeoutError:
                answer = "nobody "
            yield answer
        elif kind == "fail":
            raise ValueError("scripted")
        elif kind == "forever":
            await asyncio.sleep(1e9)

    async def ask(self, id: str) -> Any:
        (answer,) = await self.ctx.interrupt([Interrupt(id=id, reason="input_required")])
        return answer.payload

    async def step(self, name: str, seconds: float, *, repeatable: bool = True) -> int:
        plan = self.plan

        async def work() -> int:
            if self.world.is_owner(current_process(), plan.run_id):  # one that was stopped meanwhile may not know
                plan.begun[name] += 1
                if plan.continues and name in plan.finished:
                    self.world.report(f"run {plan.run_id}: {name} was finished, and is done again")
                if plan.continues and self.remembers and not repeatable and plan.begun[name] > 1:
                    self.world.report(f"run {plan.run_id}: {name} is not repeatable, and is done again")
            await asyncio.sleep(seconds)
            return plan.begun[name]

        value: int = await self.ctx.step(name, work, repeatable=repeatable)
        if self.remembers:
            plan.finished.add(name)
        return value

    def keep(self, step: tuple[Any, ...]) -> None:
        """What the step did is kept."""
        if self.plan.continues and step[0] in ("steps", "once"):
            self.plan.finished.update(step[1] if step[0] == "steps" else [step[1]])
