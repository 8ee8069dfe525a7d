"""A ledger of what was done, `$GAPLESS_TEST_LEDGER`: a file that no server keeps. An agent that takes its time, and
goes on at another worker.

Whoever serves it has a lease of `$GAPLESS_TEST_LEASE_S`, and parks runs at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import gapless
import gapless.runs.execution
from gapless import RunContext
from gapless.runs.runner import Runner

if (lease_s := os.environ.get("GAPLESS_TEST_LEASE_S")) is not None:
    defaults = Runner.__init__.__kwdefaults__
    assert defaults is not None
    defaults["lease_s"] = float(lease_s)
    gapless.runs.execution.PARK_AFTER_S = 0.05


def note(*what: str) -> None:
    """One line of the ledger, which a killed process leaves whole."""
    ledger = os.open(os.environ["GAPLESS_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, (" ".join(what) + "\n").encode())
    os.close(ledger)


@gapless.replays
async def ticker(message: str, ctx: RunContext) -> AsyncIterator[str]:
    """Says so many words, one each so many seconds ("10 0.5"), or fewer when there is a file `$GAPLESS_TEST_OVER`."""
    words, tick_s = message.split()
    for number in range(int(words)):
        yield f"{number} "
        if await ctx.step(f"tick-{number}", _tick, float(tick_s)):
            break


async def _tick(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return Path(os.environ["GAPLESS_TEST_OVER"]).exists()
