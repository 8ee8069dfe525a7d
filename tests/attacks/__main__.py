"""`scripts/attack`: an hour, or less, of all that `tests/attacks` does for seconds."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.attacks import attackers
from tests.attacks.siege import CPU_SHARE_MAX, KILL_EVERY_S, Siege
from tests.support.postgres import Postgres
from tests.support.valkey import Valkey

PROGRESS_EVERY_S = 30.0
STORES = ("sqlite", "valkey", "postgres")
EPILOG = """\
what is done, at random and from the seed:
  requests that no client makes, over every route and method (bodies, headers, cursors, ids, depth, chunks, WebSockets);
  readers on every wire that are cut at any byte, or read slowly; cancels, answers, conversations, large lists;
  a user who asks for another's things; workers killed with SIGKILL, whose runs others take over

what must hold:
  no 5xx (503 and 507, which say that the server is overloaded, are counted apart), no error or traceback in the log,
  no process gone that was not killed, every reader exact to the journal, nothing of another's seen,
  memory of the worker that is never killed within 10 % between when it is warm and the end (from 10 minutes on)

examples:
  scripts/attack --store sqlite --minutes 5
  scripts/attack --store all --minutes 60 --out results
  scripts/attack --store redis://127.0.0.1:6379/9 --seed 4711

It uses at most half a processor for each store. A request that did harm is in the report with its bytes. Ctrl-C ends it
early, with a report of what there was. Exit code 0: all held; 1: something did not.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/attack",
        description="Attacks real `gapless serve` processes for long, and says what did not hold.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--store", default="all", help="sqlite, valkey or postgres (one is started), all, or a store's URL"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, help="what all that is random follows from; by default another each time")
    parser.add_argument("--load", type=float, default=CPU_SHARE_MAX, help="of one processor, for each store (0.5)")
    parser.add_argument("--kill-every", type=float, default=KILL_EVERY_S, help="seconds between two kills (45)")
    parser.add_argument("--out", type=Path, help="where reports and logs are written; by default a new folder in /tmp")
    asked = parser.parse_args()
    seed = random.randrange(10**6) if asked.seed is None else asked.seed  # it is printed
    out = asked.out or Path(tempfile.mkdtemp(prefix="gapless-attack-"))
    print(f"seed {seed}, reports in {out}", flush=True)
    with contextlib.ExitStack() as stack:
        sieges = []
        for name in STORES if asked.store == "all" else (asked.store,):
            folder = out / (name if name in STORES else "store")
            folder.mkdir(parents=True, exist_ok=True)
            url = stack.enter_context(store_of(name, folder))
            siege = Siege(
                url, folder, seed=seed, seconds=asked.minutes * 60, share_max=asked.load, kill_every_s=asked.kill_every
            )
            stack.callback(siege.server.close)
            sieges.append(siege)
        asyncio.run(attack(sieges))
        reports = [siege.report() for siege in sieges]
    for siege, report in zip(sieges, reports, strict=True):
        (siege.server.folder / "report.json").write_text(json.dumps(report, indent=1))
        text = told(report)
        (siege.server.folder / "report.txt").write_text(text)
        print(text)
    return 0 if all(report["holds"] for report in reports) else 1


@contextlib.contextmanager
def store_of(name: str, folder: Path) -> Iterator[str]:
    """The URL of a store: a file in the folder, a Valkey or PostgreSQL that is started, or what was given."""
    if name == "sqlite":
        yield f"sqlite:///{folder / 'gapless.db'}"
    elif name == "valkey":
        with Valkey() as valkey:
            yield f"redis://127.0.0.1:{valkey.port}/0"
    elif name == "postgres":
        with Postgres() as postgres:
            yield postgres.url
    else:
        yield name


async def attack(sieges: Sequence[Siege]) -> None:
    """Lay the sieges side by side until their time is up, or the program is told to end."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        for siege in sieges:
            siege.ending.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    for siege in sieges:
        await asyncio.to_thread(siege.start)
    progress = asyncio.create_task(_progress(sieges))
    try:
        await asyncio.gather(*(siege.run(attackers.ALL) for siege in sieges))
    finally:
        progress.cancel()
        for siege in sieges:
            judged = siege.elapsed_s >= siege.seconds  # Ctrl-C on a terminal ends the servers too
            await asyncio.to_thread(siege.stop, judged=judged)


async def _progress(sieges: Sequence[Siege]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        for siege in sieges:
            counts, statuses = siege.tally.counts, siege.tally.statuses
            memory = siege.memory.get(siege.spared, [(0.0, 0)])[-1][1]
            print(
                f"{siege.elapsed_s / 60:5.1f} min {siege.store.partition(':')[0]:6} {statuses.total()} requests, "
                f"{sum(count for status, count in statuses.items() if status >= 500)} with 5xx, "
                f"{counts['readers exact']} of {counts['readers']} readers exact, {counts['cuts']} cuts, "
                f"{counts['kills']} kills, {memory / 1e6:.0f} MB, {siege.pace.share:.0%} of a processor, "
                f"{siege.tally.fault_count} faults",
                flush=True,
            )


def told(report: dict[str, Any]) -> str:
    """A report as text."""
    lines = [
        f"{report['store']}, seed {report['seed']}: {report['minutes']} of {report['minutes_asked']} minutes, "
        + ("all held" if report["holds"] else f"{report['fault_count']} FAULTS")
    ]
    for name, memory in report["memory"].items():
        judged = "" if memory["judged"] else ", too short to be judged"
        lines.append(
            f"  memory of the {name}: {memory['warm_mb']} MB warm, {memory['end_mb']} MB at the end "
            f"({memory['growth']:+.1%}{judged})"
        )
    lines.append("  statuses: " + ", ".join(f"{count} × {status}" for status, count in report["statuses"].items()))
    lines += [f"  {count:8} {name}" for name, count in report["counts"].items()]
    for fault in report["faults"][:20]:
        lines.append("  FAULT " + json.dumps(fault)[:2000])
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
