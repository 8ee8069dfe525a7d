"""Reading runs: the one place that attaches to journals, counts who follows, and lets go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType

import msgspec

from gapless.aside import aside
from gapless.config import RunConfig
from gapless.errors import CursorInvalid, RunNotFound, StoreUnavailable
from gapless.events import decode_event
from gapless.given import check_given
from gapless.journals.journal import PAGE_EVENTS, Follower, Journal, Journals
from gapless.journals.merge import merge_deltas
from gapless.records import RunRecord, RunStatus
from gapless.runs.asked import Question, question_of
from gapless.runs.blobs import Blobs
from gapless.runs.commands import Command
from gapless.runs.retrying import patiently
from gapless.sought import Found, Sought
from gapless.tasks import end_tasks
from gapless.timeline import Timeline, TimelineMaker

__all__ = [
    "PAGE_EVENTS",
    "Follower",
    "Journal",
    "Readers",
    "Reading",
    "check_position",
    "ends_unread",
    "has_said_all",
    "merge_deltas",
]

TIMELINES_MAX = 8
"""Runs that go on and whose timelines are kept here, for whoever looks at them again."""
_FINISHED = b'{"type":"RUN_FINISHED"'
"""How the event begins with which a run ends, or waits for a person."""


def ends_unread(config: RunConfig | None) -> bool:
    """Tell whether a run is cancelled when its last follower leaves."""
    return config is not None and config.on_disconnect == "cancel"


def has_said_all(record: RunRecord, seq: int) -> bool:
    """Tell whether there are no more events after position `seq`, or none before a person answers."""
    return seq == record.last_seq and (record.status.ended or record.status is RunStatus.WAITING)


def check_position(record: RunRecord, after: int, part: int = 0) -> None:
    """Raises `CursorInvalid` for a position, or a `part` of the event behind it, that the run has not come to."""
    if after < 0:
        raise CursorInvalid(f"run {record.id}: a position is a whole number from 0 on, not {after}", run_id=record.id)
    if after + (part > 0) > record.last_seq:
        raise CursorInvalid(
            f"run {record.id}: the cursor {after} is past its last event, {record.last_seq}", run_id=record.id
        )


class Readers:
    """Reads any run of the store, wherever it executes.

    A run with `on_disconnect="cancel"` ends with its last follower at any worker. `executes(run_id)` says whether this
    worker executes it; `on_left(run_id)` is called then when the last follower here has left. Another worker that
    executes it is told how many follow here, before one of them can leave.
    """

    def __init__(self, journals: Journals, executes: Callable[[str], bool], on_left: Callable[[str], None]) -> None:
        self.blobs = Blobs(journals.store)
        self._journals = journals
        self._executes = executes
        self._on_left = on_left
        self._counts: dict[str, int] = {}
        """Run id → followers here, of runs that end with their last one."""
        self._timelines: dict[tuple[str, int], _Making] = {}
        """Of runs, by their ids and when they were made; the one that was asked for last is last."""
        self._numbers = itertools.count(1)
        self._telling: set[asyncio.Task[None]] = set()

    def reading(self, run: RunRecord, after: int = 0, *, coalesce_s: float = 0.0) -> Reading:
        """Follow a run: `async with readers.reading(run, after=41) as follower`.

        `coalesce_s` lets what comes within that time be delivered together. Entering raises `RunNotFound`,
        `StoreUnavailable`; `Follower.next` also `CursorExpired`."""
        return Reading(self, run.id, run.config, after, coalesce_s)

    async def find(self, run_id: str) -> RunRecord | None:
        """Return the run's record, or None where there is no such run. Raises `StoreUnavailable`."""
        check_given("run_id", run_id, str, "a run's id")
        return await self._journals.store.get_run(run_id)

    async def record(self, run_id: str) -> RunRecord:
        """Return the run's record. Raises `RunNotFound`, `StoreUnavailable`."""
        record = await self.find(run_id)
        if record is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        return record

    async def search(self, sought: Sought, *, limit: int = 100, after: str | None = None) -> Found:
        """Find at most `limit` of the runs that are `sought`, newest first, as lists have them. A page looks at so many
        runs, or for 50 ms: it may have fewer, or none, and a `next` all the same, which is the `after` of
        the page behind. Raises `CursorInvalid`, `StoreUnavailable`."""
        return await self._journals.store.find_runs(sought, limit=limit, after=after)

    async def question(self, run: RunRecord) -> Question:
        """Read what a waiting run asks. Raises what `page` raises."""
        return await question_of(self._journals.store, run)

    async def page(self, run_id: str, after: int = 0, limit: int = PAGE_EVENTS) -> list[bytes]:
        """Read the accepted events after position `after`, at most `limit` and about 1 MiB of them; only the end is
        empty. Raises `RunNotFound`, `CursorExpired`, `StoreUnavailable`."""
        return await self._journals.store.read(run_id, after, limit)

    async def pages(
        self, run_id: str, after: int = 0, until: int | None = None, *, patience_s: float = 0.0
    ) -> AsyncGenerator[list[bytes], None]:
        """Read the accepted events after position `after`, to `until` (included) or the journal's present end, page by
        page; other tasks get their turn between two pages. A store that is away is asked again for `patience_s`
        seconds. Raises what `page` raises."""
        while until is None or after < until:
            limit = PAGE_EVENTS if until is None else min(PAGE_EVENTS, until - after)
            events = await patiently(self.page, run_id, after, limit, patience_s=patience_s)
            if not events:
                return
            after += len(events)
            yield events
            await asyncio.sleep(0)

    async def merged(self, run_id: str, after: int = 0, until: int | None = None) -> list[tuple[int, bytes]]:
        """Read the accepted events after position `after`, to `until` (included) or the journal's present end, as
        (position, event) pairs with adjacent deltas merged. Raises what `page` raises."""
        merged: list[tuple[int, bytes]] = []
        async for events in self.pages(run_id, after, until):
            merged += merge_deltas(after + 1, events)
            after += len(events)
        return merged

    async def timeline(self, run: RunRecord, after: int = 0) -> Timeline:
        """Read what happened in a run, as far as it has come, with the times of its journal; only the entries of which
        something came behind position `after`. What was read of a run that goes on is kept for whoever looks again:
        then only what is new is read. Raises what `page` raises."""
        key = run.id, run.created_at
        making = self._timelines.pop(key, None) or _Making()
        if not run.status.ended:
            self._timelines[key] = making
            while len(self._timelines) > TIMELINES_MAX:
                del self._timelines[next(iter(self._timelines))]
        async with making.lock:
            maker = making.maker
            if run.expired or (not maker.cut and maker.last_seq < run.last_seq):
                merged = await self.merged(run.id, maker.last_seq)
                while part := await self._journals.store.times(run.id, maker.clock.known):
                    # Behind the events, so that each finds its own.
                    maker.clock.learn((time.seq, time.at) for time in part)
                size = sum(len(event) for _, event in merged)
                await aside(size, lambda: maker.extend((seq, decode_event(event)) for seq, event in merged))
            made = maker.timeline(after)
        return made.moved(await self._journals.store.moves(run.id), run.owner)

    async def settled(self, run: RunRecord) -> RunRecord:
        """Follow a run until it has ended or waits for a person, and return its record then. Who waits for the whole
        answer counts as one who reads it. Raises what following raises."""
        async with self.reading(run, run.last_seq) as follower:
            while not has_said_all(run, follower.after):
                part = await follower.next()
                if part is None or (part.events and part.events[-1].startswith(_FINISHED)):
                    run = await self.record(run.id)
                if part is None:
                    break
        return run

    async def wait_past(self, run_id: str, seq: int) -> None:
        """Wait until the run has an event after position `seq`, or has ended. It does not count as following. Raises
        `RunNotFound`, `StoreUnavailable`."""
        journal = await self._journals.attach(run_id)
        try:
            await journal.wait(seq)
        finally:
            await self._journals.release(journal)

    async def wait(self, run_id: str) -> None:
        """Wait until the run has ended, whoever executes it. It does not count as following. Raises `RunNotFound`."""
        journal = await self._journals.attach(run_id)
        try:
            while not journal.closed:
                await journal.wait(journal.last)
        finally:
            await self._journals.release(journal)

    def followers_of(self, run_id: str) -> int:
        """Count those who follow a run at this worker."""
        return self._journals.followers_of(run_id)

    def counted(self, run_id: str) -> int:
        """Count the followers here of a run that ends with its last one."""
        return self._counts.get(run_id, 0)

    async def close(self) -> None:
        """End what still tells other workers. Idempotent."""
        await end_tasks(list(self._telling))

    async def came(self, run_id: str, config: RunConfig | None) -> None:
        """Count one more follower; `left` has to follow, also where this raises."""
        if ends_unread(config):
            self._counts[run_id] = self._counts.get(run_id, 0) + 1
            if not self._executes(run_id):
                await self._tell(run_id)

    def left(self, run_id: str, config: RunConfig | None) -> None:
        """Count one follower less."""
        if not ends_unread(config):
            return
        self._counts[run_id] -= 1
        if not self._counts[run_id]:
            del self._counts[run_id]
        if self._executes(run_id):
            self._on_left(run_id)
        else:
            task = asyncio.create_task(self._tell(run_id), name=f"gapless-followers-{run_id}")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def hand_on(self, run_id: str, elsewhere: Mapping[str, tuple[int, int]]) -> None:
        """Tell whoever owns the run next who follows it: here, and `elsewhere` as the workers there had told this one
        (worker id → number of the report, followers)."""
        for worker_id, (number, followers) in elsewhere.items():
            if followers:
                await self._send(run_id, Command("followers", worker_id=worker_id, followers=followers, number=number))
        if self.counted(run_id):
            await self._tell(run_id)

    async def _tell(self, run_id: str) -> None:
        told = Command(
            kind="followers",
            worker_id=self._journals.worker_id,
            followers=self.counted(run_id),
            number=next(self._numbers),
        )
        await self._send(run_id, told)

    async def _send(self, run_id: str, told: Command) -> None:
        with contextlib.suppress(RunNotFound, StoreUnavailable):
            await patiently(self._journals.store.send, run_id, msgspec.json.encode(told))


class _Making:
    """A timeline as far as it was made."""

    def __init__(self) -> None:
        self.maker = TimelineMaker()
        self.lock = asyncio.Lock()


class Reading:
    """One follower's stay at a journal: attached and counted while it is entered."""

    __slots__ = ("_after", "_coalesce_s", "_config", "_follower", "_readers", "_run_id")

    def __init__(self, readers: Readers, run_id: str, config: RunConfig | None, after: int, coalesce_s: float) -> None:
        self._readers = readers
        self._run_id = run_id
        self._config = config
        self._after = after
        self._coalesce_s = coalesce_s
        self._follower: Follower | None = None

    async def __aenter__(self) -> Follower:
        journal = await self._readers._journals.attach(self._run_id)
        self._follower = Follower(journal, self._after, coalesce_s=self._coalesce_s)
        try:
            await self._readers.came(self._run_id, self._config)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self._follower

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._follower is not None, "it was entered"
        journal, self._follower = self._follower.journal, None
        try:
            await self._readers._journals.release(journal)
        finally:
            self._readers.left(self._run_id, self._config)
