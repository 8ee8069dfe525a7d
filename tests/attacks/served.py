"""The agents that are attacked. What they say follows from their message, so that nothing has to be set up beside it.

Whoever serves them keeps events for `$GAPLESS_ATTACK_KEPT_S` seconds instead of days: an hour of attacks is to show
what grows, and nothing may.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent

import gapless
from gapless import testing
from gapless.agents.base import RunContext
from gapless.events import CustomEvent, Interrupt
from gapless.runs import keeper
from gapless.runs.runner import Runner

WORDS_MAX, PACE_S_MAX, SIZE_MAX = 400, 0.1, 64 * 1024
SECRET = "what only the agent knows"
"""In the text of what `fails` raises: no client and no log line may have it."""

if (kept := os.environ.get("GAPLESS_ATTACK_KEPT_S")) is not None:
    kept_s = float(kept)
    keeper.EXPIRE_EVERY_S = kept_s / 10
    defaults = Runner.__init__.__kwdefaults__
    assert defaults is not None, "its arguments are named"
    defaults["retention_s"] = kept_s


def asked(message: str) -> tuple[int, float, int]:
    """How many words, how far apart and how long a message like "40 0.05 10" asks for; few of any other."""
    try:
        count, pace_s, size = message.split()[:3]
        return min(int(count), WORDS_MAX), min(float(pace_s), PACE_S_MAX), min(int(size), SIZE_MAX)
    except ValueError:
        return 3, 0.0, 5


async def words(message: str) -> AsyncIterator[str]:
    count, pace_s, size = asked(message)
    for number in range(count):
        yield f"{number} ".rjust(size, "·")
        await asyncio.sleep(max(pace_s, 0))
    for word in message.split()[3:4]:
        yield word


async def asks(message: str, ctx: RunContext) -> AsyncIterator[str]:
    yield "before "
    (answer,) = await ctx.interrupt([Interrupt(id="q", reason="approval", message="May I?")])
    yield f"after {answer.status} "
    async for word in words(message):
        yield word


@gapless.replays
async def steps(message: str, ctx: RunContext) -> AsyncIterator[str]:
    count, pace_s, _ = asked(message)
    for number in range(min(count, 20)):
        yield f"{await ctx.step(f'step {number}', _step, number, pace_s)} "


async def _step(number: int, pace_s: float) -> int:
    await asyncio.sleep(max(pace_s, 0))
    return number


async def live(ctx: RunContext) -> AsyncIterator[str]:
    async for request in ctx.live:
        yield f"heard {str(request.content)[:100]} "


async def state(message: str, ctx: RunContext) -> AsyncIterator[Any]:
    ctx.state["turns"] = ctx.state.get("turns", 0) + 1
    yield CustomEvent(name="turn", value=ctx.state["turns"])
    async for word in words(message):
        yield word


async def fails(message: str) -> AsyncIterator[str]:
    yield "so far "
    raise ValueError(f"{SECRET}: {message}")


def look_up(what: str) -> str:
    return f"all about {what}"


_said = [testing.Text("some "), testing.ToolCall("look_up", {"what": "it"}), *testing.words("text of a model ")]
model = Agent(testing.pydantic_ai_model(*_said * 3), instructions="Say something.", tools=[look_up])
AGENTS = ("words", "asks", "steps", "live", "state", "fails", "model")
