"""An agent for tests with a server process: it speaks on as a file grows, so that the test sets its pace.

It says one word per line of the file `$GAPLESS_TEST_GATE`; the line `end` ends the answer. Every call is a line in
`$GAPLESS_TEST_CALLS`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

LOOK_S = 0.005


async def agent(message: str) -> AsyncIterator[str]:
    with Path(os.environ["GAPLESS_TEST_CALLS"]).open("a") as calls:
        calls.write(message + "\n")
    gate = Path(os.environ["GAPLESS_TEST_GATE"])
    said = 0
    while True:
        lines = gate.read_text().split("\n")[:-1]
        for line in lines[said:]:
            if line == "end":
                return
            yield line + " "
        said = len(lines)
        await asyncio.sleep(LOOK_S)
