"""Schedules: runs on two servers of one store that are struck, each at a point that its plan has chosen, with followers
that are cut at random.

All runs of a group stand still, each where it is to be struck; then one server is killed, stopped, or killed while it
hands over, and is started again; then the other; until each run was struck as often as its plan says. A ledger outside
shows what was done, and when. `wrong` says what does not hold.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gapless.client import GaplessClient
from gapless.errors import GaplessError
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
)
from gapless.fold import VOID, Fold
from gapless.onetext import PARAGRAPH
from gapless.records import RunRecord, RunStatus
from gapless.sse import EventStreamParser
from tests.goes_on.followers import Follower, place_of
from tests.goes_on.plans import (
    FAULTS,
    FRAMEWORKS,
    HANDOVERS,
    RUNS_AT_ONCE,
    Plan,
    first_server,
    plan_of,
    run_id_of,
)
from tests.support import preloaded
from tests.support.processes import Server, client_of

__all__ = ["Schedules"]

RETRY_S = 0.2
READ_BYTES_MAX = 65_536
LOOK_S = 0.02
LOOK_AGAIN_S = 3.0
"""A run of which nothing is heard for so long is looked at."""
QUIET_MAX = 3
"""One that waits, and is to be struck before it is answered, is answered after so many looks all the same."""
HANG_S = 900.0
ASK_S_MAX = 5.0
BETWEEN_S = 0.03
"""Runs are started one after the other."""
STAND_S_MAX = 120.0
"""By then a server is struck, whether or not all runs stand still."""
HAND_OVER_S_MAX = 60.0
"""By then a server that hands over is killed, whether or not all runs are where that is to come."""
WRONG_MAX = 50
"""It is enough then."""
UNHEARD = 99
"""The part of a question that the ledger does not have: a server was killed as it was stored."""
FAULTS_MAX = 12
"""Of a group: each of its runs has been struck as often as it is to be long before."""
DRAIN_S = 60
"""Far more than a run takes to come to a checkpoint, on a machine that does much else."""


class Watched:
    """One run, as the ledger and its clients see it."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.plan: Plan = plan_of(run_id)
        self.struck: list[tuple[str, str]] = []
        """How, and where it stood."""
        self.blows = 0
        self.spared = 0
        """Blows that did not come."""
        self.stands: tuple[str, int] | None = None
        """At which point, in which process."""
        self.handed = ""
        self.asks = -1
        """In which part its newest question is."""
        self.ended = False
        self.news = asyncio.Event()
        self.begun: dict[str, list[int]] = {}
        self.finished: set[str] = set()
        self.kept: set[str] = set()

    @property
    def may_be_answered(self) -> bool:
        """It has asked, and is not to be struck before it is answered."""
        if self.asks < 0 or (self.stands is not None and self.stands[0] in ("asked", "parked")):
            return False
        return self.plan.aims[self.blows : self.blows + 1] not in ([(self.asks, "asked")], [(self.asks, "parked")])

    def answered(self, part: int) -> None:
        """Its question of this part is."""
        if self.asks == part:
            self.asks = -1

    @property
    def at_rest(self) -> bool:
        return self.ended or self.stands is not None


class Schedules:
    """The runs `numbers` of a `seed` on the store called `name`."""

    def __init__(self, folder: Path, store: str, name: str, numbers: Iterable[int], *, seed: int) -> None:
        self.seed, self.name, self.numbers = seed, name, list(numbers)
        self.rng = random.Random(f"{seed}-{name}")
        self.runs: dict[str, Watched] = {}
        self.table: collections.Counter[tuple[str, str, str]] = collections.Counter()
        """How often a run of each framework was struck how and where."""
        self.wrong: list[str] = []
        self.log_errors: list[str] = []
        self.faults: collections.Counter[str] = collections.Counter()
        self.ledger = folder / "ledger"
        self.ledger.touch()
        environment = {"GAPLESS_TEST_LEDGER": str(self.ledger), "GAPLESS_TEST_LEASE_S": "4"}
        agents = [f"{framework}=tests.goes_on.agents:{framework}" for framework in FRAMEWORKS]
        self.servers = [
            Server(
                folder,
                store=store,
                agent=agents[0],
                environment=environment,
                arguments=(*agents[1:], "--drain", str(DRAIN_S), "--log-level", "warning"),
                popen=preloaded.PopenWithAllFrameworks,
            )
            for _ in range(2)
        ]
        self.up = [True, True]
        self._killed: set[int] = set()
        """Processes that did not stop in order, or had lost their lease."""
        self.starved: set[int] = set()
        """Those that had lost it: the machine did not let them renew it."""
        self._struck = 0
        """How many servers were struck, of this group."""
        self._read = 0

    async def main(self, told: Callable[[str], None] = lambda line: None) -> None:
        """Run them all; `told` hears how far they are."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            await asyncio.to_thread(server.ready)
        self._clients = [client_of(server.url) for server in self.servers]
        watching = asyncio.ensure_future(self._watch())
        began = time.monotonic()
        try:
            for group in groups(self.numbers):
                runs = [Watched(run_id_of(self.seed, self.name, number)) for number in group]
                self.runs = {run.id: run for run in runs}
                tasks = [asyncio.ensure_future(self._run(run, at * BETWEEN_S)) for at, run in enumerate(runs)]
                self._struck = 0
                async with asyncio.timeout(HANG_S):
                    await self._strike(runs)
                    await asyncio.gather(*tasks)
                self._look()
                for run in runs:
                    self._check_steps(run)
                done = self.numbers.index(group[-1]) + 1
                told(
                    f"{self.name}: {done} of {len(self.numbers)} in {time.monotonic() - began:.0f} s, "
                    f"{len(self.wrong)} wrong"
                )
                if len(self.wrong) > WRONG_MAX:
                    return
        except TimeoutError:
            self.wrong += [await self._hanging(run) for run in runs if not run.ended]
        finally:
            watching.cancel()
            for client in self._clients:
                await client.aclose()
            for server in self.servers:
                server.close()
                self.log_errors += [line for line in server.log.read_text().splitlines() if "Z error " in line]

    async def _hanging(self, run: Watched) -> str:
        """What is known of a run that does not end."""
        found = f"{run.id} hangs: stands at {run.stands}, {run.struck}, began {run.begun}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_S_MAX):
                record = await self._record(run.id)
                found += f", is {record.status.value} at {record.last_seq}, of worker {record.owner!r}"
        return found

    # -- what goes wrong --------------------------------------------------------------------------------------------

    async def _strike(self, runs: list[Watched]) -> None:
        """Strike one server after the other, until each run was struck as often as it is to be."""
        number = group_of(runs[0].id)
        rng = random.Random(f"{self.seed}-{self.name}-{number}")
        first = first_server(self.seed, self.name, number)
        # In the first group: each point of each framework by SIGKILL on one server, in order on the other.
        kinds = [*FAULTS] if number == 0 else rng.sample(FAULTS, 3)
        if number > 0:  # in others there is one more before, wherever the runs are then
            await asyncio.sleep(rng.random() * RUNS_AT_ONCE * BETWEEN_S)
            await self._fault(1 - first, rng.choice(FAULTS))
        for turn in range(FAULTS_MAX):
            self._struck = turn
            await self._until(lambda: all(run.at_rest or run.plan.after > turn for run in runs), STAND_S_MAX)  # noqa: B023
            if all(run.ended or (run.blows == len(run.plan.aims) and run.stands is None) for run in runs):
                return
            await self._fault((first + turn) % 2, kinds[turn] if turn < len(kinds) else rng.choice(FAULTS))

    async def _fault(self, index: int, kind: str) -> None:
        """One server is struck, with all that stands still there, and started again."""
        server = self.servers[index]
        pid = server.pid
        self.faults[kind] += 1
        hit = self._standing_at(pid)
        self.up[index] = False
        if kind != "stopped":
            self._killed.add(pid)
        if kind == "killed":
            server.signal(signal.SIGKILL)
        elif kind == "stopped":
            server.signal(signal.SIGTERM)
        else:
            self.ledger.with_name(f"kills-{pid}").touch()
            server.signal(signal.SIGTERM)
            await asyncio.sleep(self.rng.random() * 0.1)
            await self._until(lambda: all(run.handed for run in hit if not parked(run)), HAND_OVER_S_MAX)
            server.signal(signal.SIGKILL)
        await asyncio.to_thread(server.wait)
        self._look()
        hit |= self._standing_at(pid)
        for run, stood in hit.items():
            point = run.handed if kind == FAULTS[2] else stood
            run.struck.append((kind, point))
            run.handed = ""
            if run.stands == (stood, pid):  # else it has gone on meanwhile, and stands elsewhere
                run.stands = None
            self.table[run.plan.framework, kind, point] += 1
            run.news.set()
        server.launch()
        await asyncio.to_thread(server.ready)
        self.up[index] = True

    def _standing_at(self, pid: int) -> dict[Watched, str]:
        return {run: run.stands[0] for run in self.runs.values() if run.stands is not None and run.stands[1] == pid}

    # -- the ledger -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    async def _until(self, holds: Callable[[], bool], s_max: float) -> None:
        deadline = time.monotonic() + s_max
        while not holds() and time.monotonic() < deadline:
            await asyncio.sleep(2 * LOOK_S)

    def _look(self) -> None:
        """Read on in the ledger."""
        if self.ledger.stat().st_size == self._read:
            return
        with self.ledger.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")  # a line may be seen while it is being written
        self._read += len(whole + end)
        for line in whole.decode().splitlines():
            run_id, step, what, pid = line.split()
            if what == "fenced":
                self._killed.add(int(pid))
                self.starved.add(int(pid))
                for one in self.runs.values():
                    if one.stands is not None and one.stands[1] == int(pid):
                        one.stands = None
                        one.spared += 1  # its worker had lost it before
            elif (run := self.runs.get(run_id)) is not None:
                self._take(run, step, what, int(pid))

    def _take(self, run: Watched, step: str, what: str, pid: int) -> None:
        if what == "begins":
            run.begun.setdefault(step, []).append(pid)
            if step in run.kept:
                self.wrong.append(f"{run.id}: {step} was done again, its result was kept; {run.struck}")
        elif what == "ends":
            run.finished.add(step)
        elif what == "kept":
            run.kept.add(step)
        elif what == "asks":
            run.asks = int(step.partition(".")[0])
            run.news.set()
        elif (point := step.replace("-", " ")) in HANDOVERS:
            run.handed = point
        else:
            run.blows += 1
            run.stands = point, pid

    # -- clients ----------------------------------------------------------------------------------------------------

    def _client(self) -> GaplessClient:
        """One of a server that is up."""
        return self.rng.choice([client for client, up in zip(self._clients, self.up, strict=True) if up])

    async def _ask(self, what: Any) -> Any:
        """Ask either server, until one answers."""
        while True:
            with contextlib.suppress(GaplessError, OSError, IndexError):
                async with asyncio.timeout(ASK_S_MAX):
                    return await what(self._client())
            await asyncio.sleep(RETRY_S)

    async def _record(self, run_id: str) -> RunRecord:
        record: RunRecord = await self._ask(lambda client: client.record(run_id))
        return record

    async def _run(self, run: Watched, delay_s: float) -> None:
        rng = random.Random(f"clients of {run.id}")
        client = self._clients[run.plan.server]
        while self._struck < run.plan.after:
            await asyncio.sleep(RETRY_S)
        await asyncio.sleep(delay_s)
        await self._ask(lambda _: client.start(run.id, run_id=run.id, agent=run.plan.framework))
        follower = Follower(run.id, run.plan.wire)
        following = asyncio.ensure_future(self._follow(follower, rng))
        answering = asyncio.ensure_future(self._answer(run, rng))
        try:
            await following
        finally:
            answering.cancel()
        run.ended = True
        await self._check_run(run, await self._record(run.id), follower, rng)

    async def _answer(self, run: Watched, rng: random.Random) -> None:
        """Answer whatever it asks, as soon as that does not keep it from being struck."""
        quiet = 0
        while True:
            run.news.clear()
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await run.news.wait()
                quiet = 0
            except TimeoutError:
                quiet += 1
                missed = run.asks >= 0 and quiet >= QUIET_MAX  # parked as its server stopped, it stands nowhere
                looks = run.stands is None and (run.asks < 0 or missed)
                if looks and (await self._record(run.id)).status is RunStatus.WAITING:
                    run.asks, run.spared = UNHEARD, run.spared + missed
            await asyncio.sleep(rng.random() * 0.1)  # before it is parked, or after
            while run.may_be_answered and await self._answer_if_waiting(run):
                await asyncio.sleep(RETRY_S)

    async def _answer_if_waiting(self, run: Watched) -> bool:
        """False where it does not wait any more, or the answer was taken."""
        asked, record = run.asks, await self._record(run.id)
        if record.status is not RunStatus.WAITING:
            run.answered(asked)
            return False
        with contextlib.suppress(GaplessError, OSError, TimeoutError, IndexError):
            async with asyncio.timeout(ASK_S_MAX):
                client = self._client()
                (event,) = (await client.page(run.id, record.last_seq - 1, 1)).events
                if run.may_be_answered:
                    await client.answer(run.id, [yes(one.id) for one in event.outcome.interrupts])  # type: ignore[union-attr]
                    run.answered(asked)
                return False
        return True

    async def _follow(self, follower: Follower, rng: random.Random, *, cut: bool = True) -> None:
        while not follower.ended:
            port = rng.choice(self.servers).port
            cut_after = rng.randrange(1, 20) if cut and rng.random() < 0.5 else None
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._read_on(follower, port, cut_after)
            await asyncio.sleep(RETRY_S * rng.random())

    async def _read_on(self, follower: Follower, port: int, cut_after: int | None) -> None:
        """Read on; cut the connection after so many frames."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(follower.request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status == 204:
                follower.ended = (await self._record(follower.run_id)).status.ended
            if status != 200:
                return
            parser = EventStreamParser()
            while data := await reader.read(READ_BYTES_MAX):
                for frame in parser.feed(data):
                    if frame.event == "end":
                        record = await self._record(follower.run_id)
                        seen = place_of((frame.id or "0").removesuffix(".end"))[0]
                        follower.ended = record.status.ended and seen >= record.last_seq
                        return
                    if not follower.is_new(frame):
                        continue
                    if follower.last and place_of(frame.id or "") <= place_of(follower.last):
                        self.wrong.append(f"{follower.run_id} {follower.wire}: {frame.id} after {follower.last}")
                    follower.take(frame)
                    if cut_after is not None and (cut_after := cut_after - 1) <= 0:
                        return
        finally:
            writer.transport.abort()

    # -- what must hold ---------------------------------------------------------------------------------------------

    async def _check_run(self, run: Watched, record: RunRecord, follower: Follower, rng: random.Random) -> None:
        said = run.plan.text
        found = await self._journal_faults(run, record, said)
        if self.name == "sqlite":  # the frames are the same on others, and the vendors' types take long to import
            found += follower.check()
        self.wrong += [f"{what}; {run.struck}" for what in found]
        if follower.wire == "ag-ui":
            if follower.folded != said:
                self.wrong.append(f"{run.id}: ag-ui folds to {follower.folded!r} and not {said!r}; {run.struck}")
        else:
            late = Follower(run.id, follower.wire)
            await self._follow(late, rng, cut=False)
            if late.text != follower.text:
                self.wrong.append(
                    f"{run.id}: {follower.wire} got {follower.text!r}, who comes late {late.text!r}; {run.struck}"
                )

    async def _journal_faults(self, run: Watched, record: RunRecord, said: str) -> list[str]:
        """What is wrong with the run as it is stored, and with what its session keeps of it."""
        found = []
        if record.status is not RunStatus.FINISHED:
            return [f"{run.id} is {record.status.value}: {record.error}"]
        events = (await self._ask(lambda client: client.page(run.id, 0, 1000))).events
        fold, questions, ends, void = Fold(), 0, [], 0
        for seq, event in enumerate(events, 1):
            fold.add(event)
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                questions += 1
            elif isinstance(event, RunFinishedEvent | RunErrorEvent):
                ends.append(seq)
            void += isinstance(event, CustomEvent) and event.name == VOID
        text = fold.text.replace(PARAGRAPH, "")
        if ends != [record.last_seq]:
            found.append(f"{run.id}: terminal events at {ends} of {record.last_seq}")
        if questions != run.plan.questions:
            found.append(f"{run.id}: asked {questions} times and not {run.plan.questions}")
        if text != said:
            found.append(f"{run.id}: its journal folds to {text!r} and not {said!r}")
        if void and all(kind == "stopped" for kind, _ in run.struck) and not self._lost(run):
            found.append(f"{run.id}: {void} times something is void, and it was only handed over")
        messages = await self._ask(lambda client: client.messages(record.session_id))
        kept = "".join(str(one.content) for one in messages if isinstance(one, AssistantMessage) and one.content)
        if kept != said:
            found.append(f"{run.id}: its session keeps {kept!r} and not {said!r}")
        return found

    def _lost(self, run: Watched) -> bool:
        """A process that had it did not stop in order."""
        return any(pid in self._killed for pids in run.begun.values() for pid in pids)

    def _check_steps(self, run: Watched) -> None:
        """Each step was done, by nobody twice, and again only where the process that had begun it was killed, or had
        lost its lease. A step that another has followed was finished, and is not begun again."""
        if missing := run.plan.steps - run.finished:
            self.wrong.append(f"{run.id}: never did {sorted(missing)}; {run.struck}")
        for step, pids in run.begun.items():
            again = {pid for pid, count in collections.Counter(pids).items() if count > 1}
            if again - self._killed:
                self.wrong.append(f"{run.id}: {step} was begun twice by one process; {run.struck}")
            if not self._killed.issuperset(pids[:-1]):
                self.wrong.append(f"{run.id}: {step} was done again after a stop in order; {run.struck}")
        # In other groups a server that stops before all stand still lets some pass.
        if group_of(run.id) == 0 and len(run.struck) + run.spared < len(run.plan.aims):
            self.wrong.append(f"{run.id}: was struck {run.struck}, and was to be at {run.plan.aims}")


def groups(numbers: list[int]) -> Iterator[list[int]]:
    """Those that run at once."""
    found: dict[int, list[int]] = {}
    for number in numbers:
        found.setdefault(number // RUNS_AT_ONCE, []).append(number)
    yield from found.values()


def group_of(run_id: str) -> int:
    return int(run_id.rpartition("-")[2]) // RUNS_AT_ONCE


def parked(run: Watched) -> bool:
    return run.stands is not None and run.stands[0] == "parked"


def yes(question: str) -> ResumeEntry:
    return ResumeEntry(interrupt_id=question, status="resolved", payload={"approved": True})
