"""Restarts under runs that go on. `python -m tests.goes_on.rolling --help`."""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2

from gapless.errors import GaplessError
from gapless.events import TextMessageContentEvent
from gapless.fold import RESTARTED, VOID
from tests.goes_on import worked
from tests.support import preloaded
from tests.support.balancer import Balancer
from tests.support.postgres import Postgres
from tests.support.processes import Server, client_of
from tests.support.valkey import Valkey
from tests.support.waiting import WAIT_S

KINDS = {
    "one": "one server, replaced on SIGHUP",
    "workers": "one server of two workers, which are replaced on SIGHUP",
    "replicas": "two servers behind a balancer, stopped and started again one after the other",
}
STORES = ("sqlite", "valkey", "postgres")
KNOCK_EVERY_S = 0.02
LEFT = "serves in this one's place"
"""What a server says of its successor when it has left all of its runs to it."""
WORDS_MAX = 10_000
WRONG_SHOWN = 10
SETTLE_S = 0.5
"""Between two restarts."""


class Rolling:
    """`runs` runs of `shortest_s` to `longest_s` seconds that say a word each `tick_s`, begun within a second, under so
    many restarts of a kind; where `longest_s` is 0, they end after the last of these. Afterwards it is told how they
    ended, and what who followed them noticed."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        store: str,
        *,
        runs: int,
        restarts: int = 1,
        shortest_s: float = 5,
        longest_s: float = 60,
        tick_s: float = 0.5,
        drain_s: float = 5,
        seed: int = 1,
    ) -> None:
        self.ends: collections.Counter[str] = collections.Counter()
        """How the runs ended: by status, or by code where they failed."""
        self.wrong: list[str] = []
        self.gaps_s: list[float] = []
        """Between two words, for each follower."""
        self.restarts_s: list[float] = []
        """How long each restart took."""
        self._kind, self._runs, self._restarts = kind, runs, restarts
        self._shortest_s, self._longest_s, self._tick_s = shortest_s, longest_s, tick_s
        self._rng = random.Random(seed)
        self._over = folder / "over"
        self.servers = [
            Server(
                folder,
                store=store,
                agent=f"{worked.__file__}:ticker",
                arguments=(
                    *("--drain", str(drain_s)),
                    *(("--workers", "2") if kind == "workers" else ()),
                ),
                environment={"GAPLESS_TEST_OVER": str(self._over)},
                # What is preloaded would fork its successor, with an event loop that runs.
                popen=subprocess.Popen if kind == "one" else preloaded.Popen,
            )
            for _ in range(2 if kind == "replicas" else 1)
        ]

    @property
    def pause_s(self) -> float:
        """The longest that a follower waited for a word that was due."""
        return max(self.gaps_s, default=0.0) - self._tick_s

    async def main(self) -> None:
        for server in self.servers:
            await asyncio.to_thread(server.start)
        try:
            async with self._door() as url:
                knocking = asyncio.ensure_future(self._knock(url))
                following = [asyncio.ensure_future(self._follow(url, number)) for number in range(self._runs)]
                await asyncio.sleep(1 + self._shortest_s / 4)
                for _ in range(self._restarts):
                    began = time.monotonic()
                    await self._restart()
                    self.restarts_s.append(time.monotonic() - began)
                    await asyncio.sleep(SETTLE_S)
                if not self._longest_s:
                    self._over.touch()
                await asyncio.gather(*following)
                knocking.cancel()
        finally:
            for server in self.servers:
                await asyncio.to_thread(server.terminate)

    @contextlib.asynccontextmanager
    async def _door(self) -> AsyncIterator[str]:
        if self._kind != "replicas":
            yield self.servers[0].url
            return
        async with Balancer([server.url for server in self.servers]) as balancer:
            yield balancer.url

    async def _restart(self) -> None:
        if self._kind == "replicas":
            for server in self.servers:
                await asyncio.to_thread(server.terminate)
                await asyncio.to_thread(server.start)
            return
        (server,) = self.servers
        before = set(server.workers())
        server.signal(signal.SIGHUP)
        while True:
            await asyncio.sleep(0.01)
            now = set(server.workers())
            new = not now & before and len(now) == max(len(before), 1)
            if new and (before or LEFT in server.log.read_text()):
                return

    async def _follow(self, url: str, number: int) -> None:
        seconds = self._rng.uniform(self._shortest_s, self._longest_s)
        await asyncio.sleep(self._rng.random())
        words = max(int(seconds / self._tick_s), 1) if self._longest_s else WORDS_MAX
        async with client_of(url) as client:
            try:
                run = await client.start(f"{words} {self._tick_s}", run_id=f"run-{number}")
                last, said = time.monotonic(), ""
                async for _, event in client.follow(run.id):
                    if isinstance(event, TextMessageContentEvent):
                        self.gaps_s.append(time.monotonic() - last)
                        last = time.monotonic()
                        said += event.delta
                    if getattr(event, "name", "") in (VOID, RESTARTED):
                        self.wrong.append(f"{run.id}: something was taken back")
                record = await client.record(run.id)
            except (GaplessError, OSError) as error:
                self.wrong.append(f"run-{number}: {error!r}")
                return
        self.ends[(record.error or {}).get("code", record.status.value)] += 1
        count = words if self._longest_s else len(said.split())
        if said != "".join(f"{word} " for word in range(count)):
            self.wrong.append(f"{run.id}: {said!r} is not {count} words")

    async def _knock(self, url: str) -> None:
        """Open a connection again and again: none may be refused where the socket stays open."""
        while self._kind != "replicas":
            try:
                async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=WAIT_S) as http:
                    (await http.get(f"{url}/health")).raise_for_status()
            except httpx2.HTTPError as error:
                self.wrong.append(f"a connection was not served: {error!r}")
            await asyncio.sleep(KNOCK_EVERY_S)


@contextlib.contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a store of this kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'gapless.db'}"
    elif kind == "valkey":
        with Valkey() as valkey:
            yield f"redis://127.0.0.1:{valkey.port}/0"
    else:
        with Postgres() as postgres:
            yield postgres.url


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.goes_on.rolling",
        description="Restarts servers under runs that go on, followed by a client each, and says how the runs ended "
        "and how long their followers waited at most. For a figure, leave the machine alone; it says its load.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="kinds: " + "; ".join(f"{kind}: {what}" for kind, what in KINDS.items()),
    )
    parser.add_argument("kind", choices=KINDS, nargs="?", default="workers", help="what is restarted")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="where journals are kept")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--shortest", type=float, default=5, metavar="S", help="of the shortest run")
    parser.add_argument("--longest", type=float, default=60, metavar="S", help="of the longest run")
    parser.add_argument("--tick", type=float, default=0.5, metavar="S", help="between two words of a run")
    parser.add_argument("--drain", type=float, default=5, metavar="S", help="what runs get to come to a checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    with tempfile.TemporaryDirectory() as name, store_of(given.store, Path(name)) as store:
        rolling = Rolling(
            Path(name),
            given.kind,
            store,
            runs=given.runs,
            restarts=given.restarts,
            shortest_s=given.shortest,
            longest_s=given.longest,
            tick_s=given.tick,
            drain_s=given.drain,
            seed=given.seed,
        )
        load = os.getloadavg()[0]
        asyncio.run(rolling.main())
        took = ", ".join(f"{restart_s:.1f}" for restart_s in rolling.restarts_s)
        print(f"{KINDS[given.kind]}, {given.store}, {given.runs} runs of {given.shortest:g} to {given.longest:g} s")
        print(f"  restarts took {took} s; load {load:.1f} before, {os.getloadavg()[0]:.1f} after")
        median_s = sorted(rolling.gaps_s)[len(rolling.gaps_s) // 2]
        print(f"  ended: {dict(rolling.ends)}; a word each {given.tick:g} s, median {median_s:.2f} s", end="")
        print(f", the longest pause on top {rolling.pause_s:.2f} s")
        print("\n".join(rolling.wrong[:WRONG_SHOWN]) or "  nothing was lost, taken back or refused")


if __name__ == "__main__":
    main()
