"""What a framework's agent costs as a run, beside itself alone: in turns, in one process, without sockets.

`python -m bench.adapters AGENT N TURNS` prints one JSON object: µs of CPU per chunk `alone`, and as a run of Gapless,
by store. A run is journaled and followed as a server's client follows it, up to the frames that would be sent.

A ratio is the median of those of many short turns: each is of runs that came right after one another, whom a busy
neighbour on the machine has met alike. Every other turn goes backwards, so that none is always the first.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from bench import agents, alone, process
from bench.servers.gapless_app import AGENTS
from gapless import Runner
from gapless.http.stream import Delivery, EventStream, Streams
from gapless.protocols.ag_ui.wire import AGUIEncoder
from gapless.wire import Cursor

STORES = ("memory", "sqlite")


async def follow(runner: Runner, message: str) -> int:
    """Run it, and follow it on AG-UI's wire; returns the bytes of its frames."""
    sent = 0

    async def send(part: Any) -> None:
        nonlocal sent
        sent += len(part.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    run = await runner.start(message)
    delivery = Delivery(runner, Streams(), run.started, AGUIEncoder(run.started), Cursor(0), merge=True)
    await EventStream(delivery, location="/").stream(receive, send)
    return sent


async def measure(name: str, n: int, turns: int) -> dict[str, Any]:
    """Take them in turns, so that a busy neighbour is met by all."""
    message = agents.script(n)
    ways: dict[str, Callable[[], Awaitable[object]]] = {}
    async with AsyncExitStack() as stack:
        run = alone.AGENTS[name]()
        ways["alone"] = lambda: run(message)
        for store in STORES:
            url = stack.enter_context(process.fresh_store(store))
            runner = await stack.enter_async_context(Runner(AGENTS[name](), store=url))
            ways[store] = lambda runner=runner: follow(runner, message)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(turns + 1):
            for way, once in [*ways.items()][:: -1 if number % 2 else 1]:
                gc.collect()
                before, cpu = alone.events, time.process_time()
                done = await once()
                cost_us = (time.process_time() - cpu) / n * 1e6
                told = alone.events - before if way == "alone" else done
                assert told == n if way == "alone" else told > n * agents.CHUNK_CHARS, f"{way}: {told} of {n}"
                if number:  # the first imports and builds
                    found[way].append(cost_us)
            if not number:
                gc.freeze()  # else most of the time goes into collecting before each, and none of it counts
    ratios = {f"{store}_ratio": [b / a for a, b in zip(found["alone"], found[store], strict=True)] for store in STORES}
    return {way: statistics.median(of) for way, of in {**found, **ratios}.items()}


def main() -> None:
    name, n, turns = sys.argv[1:]
    print(json.dumps(uvloop.run(measure(name, int(n), int(turns)))))


if __name__ == "__main__":
    main()
