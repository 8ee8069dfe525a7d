"""How soon another process sees an event. `python -m tests.goes_on.soon --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from gapless import Runner
from gapless.events import TextMessageContentEvent
from tests.goes_on.rolling import STORES, store_of
from tests.support.postgres import Postgres

ON_DISK = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}
FIRST = 10
"""Events of each run that are not counted: not all runs have begun, and not all followers."""


async def clock(message: str) -> AsyncIterator[str]:
    """Say what time it is, on the machine's monotonic clock, so many times."""
    count, every_s = message.split()
    due = time.monotonic()
    for _ in range(int(count)):
        yield f"{time.monotonic():.6f} "
        due += float(every_s)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def write(store: str, runs: int, events: int, every_s: float) -> None:
    """Begin so many runs, one after the other within an interval, and stay until they have ended."""
    async with Runner(clock, store=store) as runner:
        begun = []
        for number in range(runs):
            begun.append(await runner.start(f"{events} {every_s}", run_id=f"r{number}", session_id=f"s{number}"))
            print(number, flush=True)
            await asyncio.sleep(every_s / runs)
        for run in begun:
            await run.collect()


async def read(store: str, runs: int, begun: asyncio.StreamReader) -> list[float]:
    """Follow the runs of another process; the seconds after which each event was here."""
    late: list[float] = []

    async def follow(run_id: str) -> None:
        async for event in (await runner.attach(run_id)).events():
            if isinstance(event, TextMessageContentEvent):
                seen.setdefault(run_id, []).extend(time.monotonic() - float(at) for at in event.delta.split())

    seen: dict[str, list[float]] = {}
    async with Runner(clock, store=store) as runner, asyncio.TaskGroup() as following:
        for number in range(runs):
            await begun.readline()
            following.create_task(follow(f"r{number}"))
    for delays in seen.values():
        late += delays[FIRST:]
    return sorted(late)


async def measure(store: str, runs: int, events: int, every_s: float) -> list[float]:
    """Write in another process and read here."""
    writing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.goes_on.soon", "--write", store),
        *("--runs", str(runs), "--events", str(events), "--every", str(every_s)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert writing.stdout is not None
    late = await read(store, runs, writing.stdout)
    await writing.wait()
    return late


@contextmanager
def on_disk(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a store of this kind; a PostgreSQL flushes each commit to the disk."""
    if kind == "postgres":
        with Postgres(config=ON_DISK) as server:
            yield server.url
    else:
        with store_of(kind, folder) as store:
            yield store


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.goes_on.soon",
        description="Runs of one process say what time it is, and another process that follows them compares it with "
        "its own: median, 99th percentile and maximum of all events. For a figure, leave the machine alone.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--store", choices=(*STORES, "all"), default="all", help="where journals are kept")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--events", type=int, default=200, help="of each run")
    parser.add_argument("--every", type=float, default=0.02, metavar="S", help="seconds between two events of a run")
    parser.add_argument("--write", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        asyncio.run(write(given.write, given.runs, given.events, given.every))
        return
    for kind in STORES if given.store == "all" else [given.store]:
        with tempfile.TemporaryDirectory() as folder, on_disk(kind, Path(folder)) as store:
            late = asyncio.run(measure(store, given.runs, given.events, given.every))
        median, p99, most = (late[min(len(late) - 1, int(len(late) * part))] * 1000 for part in (0.5, 0.99, 1))
        print(
            f"{kind:8} {len(late)} events, load {os.getloadavg()[0]:.1f}: median {median:.1f} ms, p99 {p99:.1f} ms, "
            f"at most {most:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
