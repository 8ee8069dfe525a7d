"""An agent that goes on at another worker. What it does follows from its message, and each step is written to the
ledger `$GAPLESS_TEST_LEDGER` when it begins and when it has ended: a file that no server keeps.

Whoever serves it has a lease of `$GAPLESS_TEST_LEASE_S`, and parks runs at once.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import gapless
import gapless.runs.execution
from gapless import RunContext
from gapless.events import Interrupt
from gapless.runs.runner import Runner

PARTS = 4
WORDS = 3

if (lease_s := os.environ.get("GAPLESS_TEST_LEASE_S")) is not None:
    defaults = Runner.__init__.__kwdefaults__
    assert defaults is not None
    defaults["lease_s"] = float(lease_s)
    gapless.runs.execution.PARK_AFTER_S = 0.05


class Part(NamedTuple):
    """Some words, and then what is done."""

    number: int
    kind: str
    pause_s: float

    @property
    def steps(self) -> list[str]:
        names = {"model": ["model"], "tools": ["tool-a", "tool-b"]}.get(self.kind, [])
        return [f"{self.number}.{name}" for name in names]

    @property
    def text(self) -> str:
        words = "".join(f"{self.number}.{word} " for word in range(WORDS))
        return words + "".join(f"[{name}] " for name in self.steps or [f"{self.number}.yes"] * (self.kind == "ask"))


def parts(message: str) -> list[Part]:
    """What the agent does for this message."""
    rng = random.Random(message)
    kinds = ("model", "model", "tools", "talk", "ask")
    return [Part(number, rng.choice(kinds), rng.random() * 0.2) for number in range(PARTS)]


def text(message: str) -> str:
    """All that it says then."""
    return "".join(part.text for part in parts(message))


def note(*what: str) -> None:
    """One line of the ledger, which a killed process leaves whole."""
    ledger = os.open(os.environ["GAPLESS_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, (" ".join(what) + "\n").encode())
    os.close(ledger)


@gapless.replays
async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
    async def work(name: str, pause_s: float) -> str:
        note(ctx.run_id, name, "begins")
        await asyncio.sleep(pause_s)
        note(ctx.run_id, name, "ends")
        return name

    for part in parts(message):
        for word in range(WORDS):
            yield f"{part.number}.{word} "
            await asyncio.sleep(part.pause_s / 4)
        if part.kind == "ask":
            (answer,) = await ctx.interrupt([Interrupt(id=f"q{part.number}", reason="input_required")])
            yield f"[{part.number}.{answer.payload}] "
        done: list[Any] = await asyncio.gather(*(ctx.step(name, work, name, part.pause_s) for name in part.steps))
        for name in done:
            yield f"[{name}] "


@gapless.replays
async def ticker(message: str, ctx: RunContext) -> AsyncIterator[str]:
    """Says a word each half second, for so many seconds."""
    for number in range(2 * int(message)):
        yield f"{number} "
        await ctx.step(f"tick-{number}", asyncio.sleep, 0.5)
