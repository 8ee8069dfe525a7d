"""The longest gap that others see, while one client or one step of housekeeping does something large.

`python -m bench.gaps STORE QUICK` prints one JSON object: milliseconds by what was done. The others are a run that says
a word every 5 ms, and its follower, in the same process on the same store.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from gapless import Runner
from gapless.cli.listen import collect_garbage_rarely
from gapless.config import Limits
from gapless.events import CustomEvent
from gapless.http.direct import Direct
from gapless.http.stream import Streams, delivery_of
from gapless.records import now_ms
from gapless.runs.run import Run
from gapless.wire import Cursor, wire

SUBJECTS = ("rest", "join", "lists", "backup", "ends", "expire", "delete")
"""In this order: the last ones take away what the first ones need."""
EVERY_S = 0.005
REST_S = 1.0

JOINED_EVENTS, LISTED, ENDS, EXPIRED = 1_000_000, 200, 1_000, 50
QUICK_SHARE = 0.1
STATE_BYTES = 256 * 1024
EXPIRED_EVENTS, EXPIRED_EVENT_BYTES = 20, 100_000
SETTLE_S = 2.0
"""For what was prepared to come to rest."""


async def agent(message: str) -> AsyncIterator[Any]:
    kind, _, count = message.partition(" ")
    if kind == "ticks":
        while True:
            yield "tick "
            await asyncio.sleep(EVERY_S)
    if kind == "wait":
        await all_at_once.wait()
        yield "done"
    for number in range(int(count) if count.isdigit() else 0):
        if kind == "words":
            yield f"word{number} "
        else:
            yield CustomEvent(name="large", value="x" * EXPIRED_EVENT_BYTES)


all_at_once = asyncio.Event()


class Nobody:
    """Carries a delivery to a client that is never slow: nothing waits for it."""

    direct: Direct | None = None

    def __init__(self, encoder: Any) -> None:
        self.encode = encoder.encode

    def take(self, on_lost: Any) -> bool:
        return False

    def drop(self) -> None: ...
    async def begin(self, after: int) -> None: ...
    async def write(self, group: Any) -> None: ...
    async def end(self, last: int, group: Any = None) -> None: ...
    async def cut(self, id: bytes) -> None: ...
    async def ping(self) -> None: ...


class Others:
    """A follower of a run that goes on all the time."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.held_s = 0.0
        """The most CPU that the process used between two words: what a busy machine adds is not in it."""

    async def follow(self, run: Run) -> None:
        before, cpu_before = time.perf_counter(), time.thread_time()
        async for _ in run.entries():
            now, cpu = time.perf_counter(), time.thread_time()
            self.longest_s = max(self.longest_s, now - before - EVERY_S)
            self.held_s = max(self.held_s, cpu - cpu_before)
            before, cpu_before = now, cpu


async def measure(store: str, share: float = 1.0) -> dict[str, dict[str, float]]:
    """Do each of it, this share of it, and return the longest gaps, ms."""
    many = Limits(runs_active_max=2 * ENDS, journal_bytes_max=1 << 30, journal_events_max=2 * JOINED_EVENTS)
    found = {}
    rest_s, settle_s = REST_S * share**0.5, SETTLE_S * share**0.5  # a quick run has less to come to rest from
    async with AsyncExitStack() as stack:
        back_up = await backup(store, stack)  # first: this process is still small, and a fork of it short
        runner = await stack.enter_async_context(Runner(agent, store=store, limits=many))
        doings = {**await prepared(runner, share), **back_up}
        others, ticks = Others(), await runner.start("ticks")
        following = asyncio.create_task(others.follow(ticks))
        await asyncio.sleep(settle_s)
        for subject in filter(doings.__contains__, SUBJECTS):
            do = doings[subject]
            await asyncio.sleep(rest_s)
            others.longest_s = others.held_s = 0.0
            await do()
            await asyncio.sleep(3 * EVERY_S)
            found[subject] = {"gap_ms": others.longest_s * 1e3, "held_ms": others.held_s * 1e3}
        await ticks.cancel()
        await following
    return found


async def backup(store: str, stack: AsyncExitStack) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    """Start what is to back the store up, where it is one that can be."""
    if store.startswith("memory:"):
        return {}
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.backup", store, f"{folder}/copy"), stdin=asyncio.subprocess.PIPE
    )

    async def back_up() -> None:
        await process.communicate(b"\n")
        assert process.returncode == 0, "it could not be backed up"

    return {"backup": back_up}


async def prepared(runner: Runner, share: float) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    """Make what is needed; what is to be done with it, by subject."""
    long = await runner.start(f"words {int(JOINED_EVENTS * share)}", session_id="long")
    await long.collect()
    record = await long.record()
    state = {"kept": "x" * STATE_BYTES}
    for number in range(int(LISTED * share)):
        await runner.create_session(f"s{number}", state=state)
    for _ in range(int(EXPIRED * share)):
        await (await runner.start(f"large {EXPIRED_EVENTS}")).collect()
    waiting: Sequence[Run] = [await runner.start("wait") for _ in range(int(ENDS * share))]
    collect_garbage_rarely()

    async def join() -> None:
        delivery = delivery_of(runner, Streams(), record, wire("ag-ui"), Cursor(0))
        assert delivery is not None, "nothing of it was seen"
        await delivery.open()
        await delivery.run(Nobody(delivery.encoder))
        await delivery.close()

    async def lists() -> None:
        await runner.list_sessions(limit=1000)
        await runner.list_runs(limit=1000)

    async def ends() -> None:
        all_at_once.set()
        for run in waiting:
            await run.collect()

    async def expire() -> None:
        await runner.store.expire(now_ms() + 1)

    return {
        "rest": lambda: asyncio.sleep(REST_S * share**0.5),
        "join": join,
        "lists": lists,
        "ends": ends,
        "expire": expire,
        "delete": lambda: runner.delete_session("long"),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1], QUICK_SHARE if sys.argv[2] == "quick" else 1.0))))
