"""Schedules: runs on two servers of one store that are killed, stopped and started again, with followers that are cut
at random.

A ledger outside shows what was done. `check` says what does not hold.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import httpx2

from gapless.client import GaplessClient
from gapless.errors import GaplessError
from gapless.events import AssistantMessage, ResumeEntry, decode_event
from gapless.fold import Fold
from gapless.onetext import PARAGRAPH
from gapless.records import RunRecord, RunStatus
from gapless.sse import EventStreamParser
from tests.goes_on import worked
from tests.support.processes import Server, client_of

__all__ = ["WIRES", "Schedules"]

WIRES = ("ag-ui", "vercel", "openai", "openai-responses", "adk", "text")
RETRY_S = 0.2
HANG_S = 300.0
ASK_S_MAX = 5.0
FAULT_S_MAX = 20.0
"""A fault comes by then, wherever the runs are."""
LEDGER_BYTES_PER_RUN = 160
SAID = re.compile(r'"(?:delta|content|text)":"((?:[^"\\]|\\.)*)"')

OPENING = '{"text":""}'
"""The first frame of the wire `text`, which says where the stream is before there is a word."""


class Follower:
    """Reads one run in one wire, over any number of connections to either server."""

    def __init__(self, run_id: str, wire: str) -> None:
        self.run_id = run_id
        self.wire = wire
        self.frames: list[tuple[str, str]] = []
        self.last = ""
        self.ended = False

    @property
    def text(self) -> str:
        """All of its text, whatever is void of it."""
        return "".join(json.loads(f'"{said}"') for _, data in self.frames for said in SAID.findall(data))


class Schedules:
    """`count` runs on two servers, `at_once` of them between two faults."""

    def __init__(self, folder: Path, store: str, count: int, *, seed: int, at_once: int = 50) -> None:
        self.rng = random.Random(seed)
        self.count, self.at_once = count, at_once
        self.seed = seed
        self.ledger = folder / "ledger"
        self.ledger.touch()
        environment = {"GAPLESS_TEST_LEDGER": str(self.ledger), "GAPLESS_TEST_LEASE_S": "1.5"}
        self.servers = [
            Server(
                folder,
                store=store,
                agent=f"{worked.__file__}:agent",
                environment=environment,
                arguments=("--drain", "2", "--log-level", "warning"),
            )
            for _ in range(2)
        ]
        self.followers: list[Follower] = []
        self.up = [True, True]
        self.faults: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        limits = httpx2.Limits(max_connections=None)
        self._http = httpx2.AsyncClient(trust_env=False, verify=False, timeout=20, limits=limits)

    async def main(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            await asyncio.to_thread(server.ready)
        self._clients = [client_of(server.url) for server in self.servers]
        try:
            for first in range(0, self.count, self.at_once):
                numbers = range(first, min(first + self.at_once, self.count))
                runs = [asyncio.ensure_future(self._run(f"{self.seed}-{number}")) for number in numbers]
                faults = asyncio.ensure_future(self._faults(len(runs)))
                await asyncio.wait_for(asyncio.gather(*runs), HANG_S)
                await faults
            await self._check_ledger()
        finally:
            for client in self._clients:
                await client.aclose()
            await self._http.aclose()
            for server in self.servers:
                server.close()

    # -- what goes wrong --------------------------------------------------------------------------------------------

    async def _faults(self, runs: int) -> None:
        """Two, each somewhere in what the runs do: when so many lines of the ledger are written."""
        written = self.ledger.stat().st_size
        for place in sorted(self.rng.random() * 0.7 for _ in range(2)):
            due = written + int(place * runs * LEDGER_BYTES_PER_RUN)
            deadline = asyncio.get_running_loop().time() + FAULT_S_MAX
            while self.ledger.stat().st_size < due and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.005)
            await self._fault()

    async def _fault(self) -> None:
        """One server is killed or stopped and started again; sometimes it is killed while it hands over."""
        rng = self.rng
        index = rng.randrange(2)
        server = self.servers[index]
        self.up[index] = False
        kind = rng.choice(["killed", "killed", "stopped", "killed while it stops"])
        self.faults[kind] += 1
        server.signal(signal.SIGKILL if kind == "killed" else signal.SIGTERM)
        if kind == "killed while it stops":
            await asyncio.sleep(rng.random() * 0.1)
            server.signal(signal.SIGKILL)
        await asyncio.to_thread(server.wait)
        server.launch()
        await asyncio.to_thread(server.ready)
        self.up[index] = True

    # -- clients ----------------------------------------------------------------------------------------------------

    def _client(self) -> GaplessClient:
        """One of a server that is up."""
        return self.rng.choice([client for client, up in zip(self._clients, self.up, strict=True) if up])

    async def _ask(self, what: Any) -> Any:
        """Ask either server, until one answers."""
        while True:
            with contextlib.suppress(GaplessError, httpx2.HTTPError, OSError):
                async with asyncio.timeout(ASK_S_MAX):
                    return await what(self._client())
            await asyncio.sleep(RETRY_S)

    async def _record(self, run_id: str) -> RunRecord:
        record: RunRecord = await self._ask(lambda client: client.record(run_id))
        return record

    async def _run(self, message: str) -> None:
        run_id = f"run-{message}"
        await self._ask(lambda client: client.start(message, run_id=run_id))
        follower = Follower(run_id, self.rng.choice(WIRES))
        self.followers.append(follower)
        following = asyncio.ensure_future(self._follow(follower))
        record = await self._to_its_end(run_id)
        await following
        await self._check_run(message, record, follower)

    async def _to_its_end(self, run_id: str) -> RunRecord:
        """Answer whatever it asks."""
        while not (record := await self._record(run_id)).status.ended:
            if record.status is RunStatus.WAITING:
                await asyncio.sleep(self.rng.random() * 0.2)
                with contextlib.suppress(GaplessError, httpx2.HTTPError, OSError, TimeoutError):
                    async with asyncio.timeout(ASK_S_MAX):
                        client = self._client()
                        (event,) = (await client.page(run_id, record.last_seq - 1, 1)).events
                        await client.answer(run_id, [yes(one.id) for one in event.outcome.interrupts])  # type: ignore[union-attr]
            await asyncio.sleep(RETRY_S)
        return record

    async def _follow(self, follower: Follower) -> None:
        while not follower.ended:
            url = self.rng.choice(self.servers).url
            cut_after = self.rng.randrange(1, 12) if self.rng.random() < 0.5 else None
            with contextlib.suppress(httpx2.HTTPError, OSError):
                await self._read(follower, url, cut_after)
            await asyncio.sleep(RETRY_S * self.rng.random())

    async def _read(self, follower: Follower, url: str, cut_after: int | None) -> None:
        """Read on; cut the connection after so many frames."""
        parser = EventStreamParser()
        headers = {"Last-Event-ID": follower.last} if follower.last else {}
        path = f"{url}/runs/{follower.run_id}/events?wire={follower.wire}"
        async with self._http.stream("GET", path, headers=headers) as response:
            if response.status_code == 204:
                follower.ended = (await self._record(follower.run_id)).status.ended
            if response.status_code != 200:
                return
            async for data in response.aiter_bytes():
                for frame in parser.feed(data):
                    if frame.event == "end":
                        record = await self._record(follower.run_id)
                        seen = place_of((frame.id or "0").removesuffix(".end"))[0]
                        follower.ended = record.status.ended and seen >= record.last_seq
                        return
                    if frame.data == OPENING and frame.id == follower.last:
                        continue  # nothing has come since: the stream begins as it did before
                    if frame.data and frame.id and frame.event != "reconnect":
                        if follower.last and place_of(frame.id) <= place_of(follower.last):
                            self.wrong.append(f"{follower.run_id} {follower.wire}: {frame.id} after {follower.last}")
                        follower.last = frame.id
                        follower.frames.append((frame.id, frame.data))
                        if cut_after is not None:
                            cut_after -= 1
                            if cut_after <= 0:
                                return

    # -- what must hold ---------------------------------------------------------------------------------------------

    async def _check_run(self, message: str, record: RunRecord, follower: Follower) -> None:
        run_id = f"run-{message}"
        if record.status is not RunStatus.FINISHED:
            self.wrong.append(f"{run_id} is {record.status.value}: {record.error}")
            return
        said = worked.text(message)
        messages = await self._ask(lambda client: client.messages(record.session_id))
        kept = "".join(str(one.content) for one in messages if isinstance(one, AssistantMessage))
        if kept != said:
            self.wrong.append(f"{run_id}: its session keeps {kept!r} and not {said!r}")
        if follower.wire == "ag-ui":
            fold = Fold()
            for _, data in follower.frames:
                fold.add(decode_event(data.encode()))
            if fold.text.replace(PARAGRAPH, "") != said:  # one stands where a message was not gone on with
                self.wrong.append(f"{run_id}: {follower.wire} folds to {fold.text!r} and not {said!r}")
            ends = [data for _, data in follower.frames if '"RUN_FINISHED"' in data and "interrupt" not in data]
            if len(ends) != 1:
                self.wrong.append(f"{run_id}: {len(ends)} terminal events")
        else:
            late = Follower(run_id, follower.wire)
            await self._follow(late)
            if late.text != follower.text:
                self.wrong.append(f"{run_id}: {follower.wire} got {follower.text!r}, who comes late {late.text!r}")

    async def _check_ledger(self) -> None:
        """A step that another has followed was finished, and is never begun again."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        at: dict[str, int] = {}
        begun: collections.Counter[tuple[str, str]] = collections.Counter()
        for run_id, name, what in lines:
            part = int(name.partition(".")[0])
            if what == "begins":
                begun[run_id, name] += 1
                if part < at.get(run_id, 0):
                    self.wrong.append(f"{run_id}: {name} was done again, {at[run_id]} had begun")
                at[run_id] = max(part, at.get(run_id, 0))
        self.repeated = sum(count - 1 for count in begun.values())
        self.steps = len(begun)


def yes(question: str) -> ResumeEntry:
    return ResumeEntry(interrupt_id=question, status="resolved", payload="yes")


def place_of(id: str) -> tuple[int, int]:
    """A frame's place: position and part. A frame that ends its event comes after its parts."""
    seq, _, part = id.rpartition(":")[2].partition(".")
    return int(seq), int(part) - 1_000_000 if part else 0
