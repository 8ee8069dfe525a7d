"""A primary of PostgreSQL that is killed under runs of two servers. `python -m tests.faults.failover --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from gapless.client import GaplessClient
from gapless.errors import GaplessError
from gapless.events import TextMessageContentEvent
from gapless.records import RunStatus
from tests.support import preloaded
from tests.support.network import Network
from tests.support.postgres import Postgres
from tests.support.processes import Server, client_of
from tests.support.waiting import WAIT_S, until


async def follow(client: GaplessClient, run_id: str) -> tuple[str, float]:
    """Give all that the run says, and the longest time between two words."""
    said, longest_s, last, seen = "", 0.0, time.monotonic(), 0
    async for seq, event in client.follow(run_id):
        assert seq > seen, f"{run_id}: {seq} comes after {seen}"
        seen = seq
        if isinstance(event, TextMessageContentEvent):
            now = time.monotonic()
            said, longest_s, last = said + event.delta, max(longest_s, now - last), now
    return said, longest_s


async def reached(client: GaplessClient, runs: list[str], position: int) -> None:
    """Wait until each of the runs has so many events."""

    async def has(run_id: str) -> bool:
        return (await client.record(run_id)).last_seq >= position

    for run_id in runs:
        await until(partial(has, run_id), f"{run_id} is at {position}")


async def kill_under(folder: Path, runs: int, words: int, tick_s: float, *, synchronous: bool) -> list[str]:
    """Kill the primary under so many runs, promote its standby, and say what is wrong with what clients were told."""
    with Postgres() as primary, Network(primary.port) as network:
        standby = primary.standby(network.port)
        streaming = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        await until(lambda: primary.run(streaming), "the standby streams")
        if synchronous:
            primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.run("SELECT pg_reload_conf()")
        environment = {"GAPLESS_TEST_LEDGER": str(folder / "ledger"), "GAPLESS_TEST_OVER": str(folder / "over")}
        servers = [
            Server(
                folder,
                store=primary.url,
                agent="tests.goes_on.worked:ticker",
                environment=environment,
                popen=preloaded.Popen,
            )
            for _ in range(2)
        ]
        promoted = standby
        try:
            for server in servers:
                await asyncio.to_thread(server.start)
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(client_of(server.url)) for server in servers]
                ids = [f"run-{number}" for number in range(runs)]
                for number, run_id in enumerate(ids):
                    await clients[number % 2].start(f"{words} {tick_s}", run_id=run_id, session_id=run_id)
                following = [
                    asyncio.ensure_future(follow(clients[1 - number % 2], run_id)) for number, run_id in enumerate(ids)
                ]
                await reached(clients[0], ids, 10)
                if not synchronous:
                    network.silence()  # what comes now the standby has not got
                    await reached(clients[0], ids, (await clients[0].record(ids[0])).last_seq + 4)
                at = [(await clients[0].record(run_id)).last_seq for run_id in ids]
                primary.kill()
                print(f"killed at events {min(at)} to {max(at)}: ", end="", flush=True)
                promoted = await asyncio.to_thread(standby.promoted, primary.port)
                async with asyncio.timeout(2 * WAIT_S):
                    found = await asyncio.gather(*following, return_exceptions=True)
                return await wrong(clients[0], ids, found, "".join(f"{number} " for number in range(words)))
        finally:
            for server in servers:
                server.close()
            promoted.stop()


async def wrong(client: GaplessClient, ids: list[str], found: list[object], said: str) -> list[str]:
    """Compare what clients were told with what is kept, and both with what was `said`."""
    complaints, pauses = [], []
    for run_id, told in zip(ids, found, strict=True):
        if not isinstance(told, tuple):
            complaints.append(f"{run_id}: its client ended with {told!r}")
            continue
        pauses.append(told[1])
        if told[0] != said:
            complaints.append(f"{run_id}: its client was told {told[0]!r}")
        with contextlib.suppress(GaplessError):
            if (await client.record(run_id)).status is not RunStatus.FINISHED:
                complaints.append(f"{run_id} is {(await client.record(run_id)).status.value}")
        if (late := (await follow(client, run_id))[0]) != said:
            complaints.append(f"{run_id}: who comes late is told {late!r}")
    print(f"{len(ids)} runs, {len(complaints)} wrong; the longest pause {max(pauses, default=0):.1f} s", flush=True)
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.failover",
        description="Kills the primary under runs of two servers, each followed at the other; promotes its standby.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--words", type=int, default=40, help="that each run says")
    parser.add_argument("--tick", type=float, default=0.5, metavar="S", help="between two words of a run")
    given = parser.parse_args()
    for synchronous in (True, False):
        print(
            f"{'synchronous' if synchronous else 'asynchronous'}, load {os.getloadavg()[0]:.1f}: ", end="", flush=True
        )
        with tempfile.TemporaryDirectory() as folder:
            found = kill_under(Path(folder), given.runs, given.words, given.tick, synchronous=synchronous)
            for line in asyncio.run(found):
                print(line)


if __name__ == "__main__":
    main()
