"""An agent for tests with several server processes: each message is a talk of its own, whose pace the test sets.

The message names a file in `$GAPLESS_TEST_TALKS`, and the agent says a word per line of it as it grows. Some lines are
not said but done: `end` ends the answer, `ask` asks a person and says what came back, `count` says how many messages of
the user's it knows. What happened is a line in the file `log` there: `began` or `stopped`, process, run, talk and time
(the machine's monotonic clock, in ns, the same for all processes).

Whoever serves it gets a lease of `$GAPLESS_TEST_LEASE_S`: a worker that a test stops for a while is to keep its runs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gapless.agents.base import RunContext
from gapless.events import Interrupt, UserMessage
from gapless.runs.runner import Runner

LOOK_S = 0.005

DEFAULTS: Any = Runner.__init__.__kwdefaults__

if (lease_s := os.environ.get("GAPLESS_TEST_LEASE_S")) is not None:
    DEFAULTS["lease_s"] = float(lease_s)


async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
    folder = Path(os.environ["GAPLESS_TEST_TALKS"])
    talk = folder / message

    def log(what: str) -> None:
        with (folder / "log").open("a") as file:
            file.write(f"{what} {os.getpid()} {ctx.run_id} {message} {time.monotonic_ns()}\n")

    log("began")
    try:
        done = 0
        while True:
            lines = talk.read_text().split("\n")[:-1] if talk.exists() else []
            for line in lines[done:]:
                match line:
                    case "end":
                        return
                    case "ask":
                        (answer,) = await ctx.interrupt([Interrupt(id="i", reason="approval", message="May I?")])
                        yield f"{answer.status} "
                    case "count":
                        yield f"{sum(isinstance(one, UserMessage) for one in ctx.messages)} "
                    case word:
                        yield f"{word} "
            done = len(lines)
            await asyncio.sleep(LOOK_S)
    finally:
        log("stopped")
