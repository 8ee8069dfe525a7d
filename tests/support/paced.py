"""An agent for tests with faults: it says as many words as it is told to, at the pace it is told: the message "40 0.05"
is 40 words, 0.05 s apart.

Whoever serves it gets a lease of `$GAPLESS_TEST_LEASE_S`, so that a lost worker is noticed within a test's patience,
and has a wall clock that is off by the seconds in the file `$GAPLESS_TEST_CLOCK`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gapless.runs.runner import Runner

DEFAULTS: Any = Runner.__init__.__kwdefaults__

if (lease_s := os.environ.get("GAPLESS_TEST_LEASE_S")) is not None:
    DEFAULTS["lease_s"] = float(lease_s)

if (clock := os.environ.get("GAPLESS_TEST_CLOCK")) is not None:
    true_time, true_time_ns, offset = time.time, time.time_ns, Path(clock)
    time.time = lambda: true_time() + float(offset.read_text())
    time.time_ns = lambda: true_time_ns() + int(float(offset.read_text()) * 1e9)


def words(count: int) -> str:
    """What it says then."""
    return "".join(f"{number} " for number in range(count))


async def agent(message: str) -> AsyncIterator[str]:
    count, pace_s = message.split()
    for number in range(int(count)):
        yield f"{number} "
        await asyncio.sleep(float(pace_s))
