"""How soon a server takes runs on a store that has many parked ones. `python -m tests.goes_on.parked --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from gapless.journals import open_store
from gapless.journals.contract import Append, Checkpoint
from gapless.records import RunStatus, now_ms
from tests.goes_on.rolling import STORES, store_of
from tests.journals.workers import Worker, an_event
from tests.support.processes import Server

AT_ONCE = 100
ANSWERED_IN_MS = 7 * 24 * 3600 * 1000
CHECKPOINT_BYTES = 2000


async def park(url: str, runs: int) -> None:
    """Put so many runs into the store, each in a session of its own: nobody's, and waiting for an answer for a week."""
    worker = Worker("parks", open_store(url))
    await worker.store.open(worker.id, worker.heard)
    try:
        for first in range(0, runs, AT_ONCE):
            await asyncio.gather(*(_park(worker, number) for number in range(first, min(first + AT_ONCE, runs))))
    finally:
        await worker.store.close()


async def _park(worker: Worker, number: int) -> None:
    run_id, now = f"run-{number}", now_ms()
    await worker.create(run_id, f"session-{number}", created_at=now)
    assert await worker.store.start_run(run_id, now) is None
    question = Append(run_id, 1, [an_event("begun"), an_event("question")], status=RunStatus.WAITING)
    question.checkpoint = Checkpoint(2, b"x" * CHECKPOINT_BYTES)
    assert not await worker.store.append([question])
    assert not await worker.store.release(run_id, now + ANSWERED_IN_MS), "it waits"


def start(folder: Path, store: str) -> tuple[float, float]:
    """Start a server and stop it; returns the seconds until it took runs, and the megabytes that it had then."""
    server = Server(folder, store=store, popen=subprocess.Popen)
    began = time.perf_counter()
    server.start()
    took_s = time.perf_counter() - began
    pages = int(Path(f"/proc/{server.pid}/statm").read_text(encoding="ascii").split()[1])
    server.terminate()
    return took_s, pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.goes_on.parked",
        description="Starts a server on an empty store, parks runs there, and starts it again: says after how many "
        "seconds it took runs (its process, its imports, the store, an answer of /ready) and how large it was. For a "
        "figure, leave the machine alone; it says its load.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--store", choices=(*STORES, "all"), default="all", help="where journals are kept")
    parser.add_argument("--runs", type=int, default=10_000, help="that are parked")
    parser.add_argument("--starts", type=int, default=5, help="on the empty store, and again on the full one")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    print(f"load {os.getloadavg()[0]:.1f}; seconds until a new process took runs, and its megabytes then")
    for kind in STORES if given.store == "all" else [given.store]:
        with tempfile.TemporaryDirectory() as name, store_of(kind, Path(name)) as store:
            for runs in (0, given.runs):
                if runs:
                    asyncio.run(park(store, runs))
                told = [start(Path(name), store) for _ in range(given.starts)]
                took = ", ".join(f"{took_s:.2f}" for took_s, _ in told)
                size = statistics.median(size_mb for _, size_mb in told)
                print(f"{kind:8} {runs:6} parked: {took}; {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
