"""The agent of the servers that a test of moves kills and stops: it goes on at another one, step by step, each as soon
as a file of its name is there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import gapless
from gapless.agents.base import RunContext

LOOK_S = 0.01


async def done(step: str) -> str:
    while not (Path(os.environ["GAPLESS_TEST_STEPS"]) / step).exists():
        await asyncio.sleep(LOOK_S)
    return f"{step} "


@gapless.replays
async def agent(ctx: RunContext) -> AsyncIterator[str]:
    for step in ("one", "two"):
        yield await ctx.step(step, done, step)
