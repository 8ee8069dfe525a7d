"""The hot path: what followers see and when, what producers may buffer, and what a store's troubles do to both."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import pytest

from gapless import Runner
from gapless.errors import RunNotFound, StoreCorrupt, StoreUnavailable
from gapless.journals import journal as hot_path
from gapless.journals.contract import Append, Checkpoint
from gapless.journals.journal import Follower, Journal, Journals, Push
from gapless.journals.memory import Memory, MemoryStore
from tests.journals.conformance import LEASE_S, WAIT_S, Clock, Cluster, a_run, an_end, an_event
from tests.journals.test_memory import MemoryPlace


class DoubtfulStore(MemoryStore):
    """A store that takes its time, or fails, when told to."""

    commit_interval_s = 0.0  # what is appended is at the store when the loop has gone round

    def __init__(self, memory: Memory | None = None, clock: Clock | None = None) -> None:
        super().__init__(memory, monotonic=clock or Clock())
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.reached = asyncio.Event()
        self.answers_late = False
        self.troubles: list[Exception] = []
        self.always: Exception | None = None
        self.appends: list[list[str]] = []
        self.reads: list[tuple[str, int]] = []

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        self.appends.append([batch.run_id for batch in batches])
        if self.answers_late:
            refused = await super().append(batches)
            self.reached.set()
            await self.open_gate.wait()
            return refused
        self.reached.set()
        await self.open_gate.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        if self.always is not None:
            raise self.always
        return await super().append(batches)

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        self.reads.append((run_id, after))
        return await super().read(run_id, after, limit)


class Process:
    """One worker process: its journals and what it was told."""

    def __init__(self, store: DoubtfulStore, patience_s: float = 30.0) -> None:
        self.store = store
        self.refused: list[str] = []
        self.commands: list[tuple[str, bytes]] = []
        self.fenced = 0
        self.journals = Journals(
            store,
            on_refused=self.refused.append,
            on_command=lambda run_id, command, id: self.commands.append((run_id, command)),
            on_fenced=self._on_fenced,
            patience_s=patience_s,
        )

    def _on_fenced(self) -> None:
        self.fenced += 1

    async def start(self, run_id: str) -> Journal:
        _, created = await self.store.create_run(a_run(run_id, run_id), reject_busy=False)
        assert created
        return self.journals.create(run_id)


@pytest.fixture
async def memory() -> Memory:
    return Memory()


@pytest.fixture
async def process(memory: Memory) -> AsyncIterator[Process]:
    process = Process(DoubtfulStore(memory))
    await process.journals.open("a")
    yield process
    process.store.open_gate.set()
    await process.journals.close()


@pytest.fixture
async def other(memory: Memory) -> AsyncIterator[Process]:
    process = Process(DoubtfulStore(memory))
    await process.journals.open("b")
    yield process
    await process.journals.close()


async def everything(follower: Follower) -> list[bytes]:
    events: list[bytes] = []
    async with asyncio.timeout(WAIT_S):
        while (part := await follower.next()) is not None:
            assert part.first_seq == len(events) + 1
            events += part.events
    return events


async def settle() -> None:
    """Let everything that can happen without outside help happen."""
    for _ in range(50):
        await asyncio.sleep(0)


class PacedStore(DoubtfulStore):
    """Whose writer, once it has used up its credit, lets more come until the test has ended."""

    commit_interval_s = 3600.0


@pytest.fixture
async def paced(memory: Memory) -> AsyncIterator[Process]:
    process = Process(PacedStore(memory))
    await process.journals.open("a")
    yield process
    await process.journals.close()


# -- delivery ----------------------------------------------------------------------------------------------------------


async def test_what_is_held_is_accepted_with_what_comes_next(process: Process, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hot_path, "HELD_S", 3600.0)
    journal = await process.start("r")

    def write() -> None:
        journal.append(an_event("started"))
        journal.set_checkpoint(b"first")

    journal.hold(write)
    await settle()
    assert (process.store.appends, journal.last, journal.appended) == ([], 0, 1)
    journal.append(an_event("word"))
    await journal.drain()
    assert process.store.appends == [["r"]]
    assert await process.store.read("r", 0, 10) == [an_event("started"), an_event("word")]
    assert await process.store.checkpoint("r") == Checkpoint(1, b"first")


async def test_what_is_held_goes_by_itself_when_nothing_comes(process: Process):
    journal = await process.start("r")
    journal.hold(lambda: journal.append(an_event("started")))
    async with asyncio.timeout(WAIT_S):
        await journal.wait(0)
    assert await process.store.read("r", 0, 10) == [an_event("started")]


async def test_what_is_held_of_a_lost_run_is_not_written(process: Process, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hot_path, "HELD_S", 0.0)
    journal = await process.start("r")
    journal.hold(lambda: journal.append(an_event("started")))
    await process.journals.register_again("a2")
    await settle()
    assert (process.store.appends, process.refused) == ([], [])


async def test_what_is_held_when_the_writer_is_stopped_stays_where_it_is(
    process: Process, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hot_path, "HELD_S", 0.0)
    raised: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context))
    journal = await process.start("r")
    await settle()  # the writer waits for something to do
    journal.hold(lambda: journal.append(an_event("started")))
    await process.journals.close()
    await settle()
    assert (process.store.appends, raised) == ([], [])


async def test_what_an_agent_says_last_is_accepted_with_the_end(process: Process):
    journal = await process.start("r")
    journal.append(an_event("last word"))
    journal.hold_for_end()
    await settle()
    assert (process.store.appends, journal.last) == ([], 0)
    journal.close(an_event("finished"), an_end("r"))
    await journal.settled()
    assert (process.store.appends, journal.last, journal.closed) == ([["r"]], 2, True)


async def test_what_is_held_for_an_end_that_does_not_come_goes_by_itself(process: Process):
    journal = await process.start("r")
    journal.append(an_event("last word"))
    journal.hold_for_end()
    async with asyncio.timeout(WAIT_S):
        await journal.wait(0)
    assert await process.store.read("r", 0, 10) == [an_event("last word")]


async def test_a_command_that_is_held_for_an_end_that_does_not_come_goes_by_itself(process: Process):
    """A run that is left as its agent returns waits until it is settled: with nothing that goes, it would for ever."""
    journal = await process.start("r")
    journal.take(1)
    journal.hold_for_end()
    async with asyncio.timeout(WAIT_S):
        await journal.settled()
    assert process.store.appends == [["r"]]


async def test_what_others_wait_with_is_not_held_for_an_end(process: Process):
    journal, other = await process.start("r"), await process.start("other")
    journal.append(an_event("said before"))
    other.append(an_event("word"))
    journal.hold_for_end()
    await settle()
    assert (process.store.appends, journal.last, other.last) == ([["r", "other"]], 1, 1)


async def test_what_is_hurried_waits_for_no_credit(paced: Process):
    journal, other = await paced.start("r"), await paced.start("other")
    for number in range(hot_path.COMMIT_CREDIT):
        journal.append(an_event(str(number)))
        await settle()
    assert journal.last == hot_path.COMMIT_CREDIT
    journal.append(an_event("late"))
    await settle()
    assert journal.last == hot_path.COMMIT_CREDIT
    other.append(an_event("first word"))
    other.hurry()
    await settle()
    assert (other.last, journal.last) == (1, hot_path.COMMIT_CREDIT + 1)  # what waits goes along


async def test_no_follower_sees_what_the_store_has_not_accepted(process: Process) -> None:
    journal = await process.start("r")
    follower = Follower(journal)
    process.store.open_gate.clear()
    journal.append(an_event("1"))
    following = asyncio.create_task(follower.next())
    await process.store.reached.wait()
    await settle()
    assert not following.done()
    assert (journal.last, journal.appended) == (0, 1)
    assert await process.store.read("r", 0, 10) == []
    process.store.open_gate.set()
    part = await following
    assert part is not None
    assert part.events == [an_event("1")] == await process.store.read("r", 0, 10)
    assert not part.behind


async def test_no_follower_sees_what_the_store_refused(process: Process) -> None:
    journal = await process.start("r")
    following = asyncio.create_task(Follower(journal).next())
    run = process.store._memory.runs["r"]
    run.owner = "someone else"
    journal.append(an_event("1"))
    await settle()
    assert process.refused == ["r"]
    assert not following.done() or (await following).events == []  # type: ignore[union-attr]  # it has not ended
    assert journal.last == 0
    following.cancel()


async def test_followers_from_any_position_see_the_rest_and_the_end(process: Process) -> None:
    journal = await process.start("r")
    events = [an_event(str(i)) for i in range(10)]
    following = [asyncio.create_task(everything(Follower(journal))) for _ in range(5)]
    for event in events[:-1]:
        journal.append(event)
        await asyncio.sleep(0)
    journal.close(events[-1], an_end("r"))
    for task in following:
        assert await task == events
    late = Follower(journal, 7)
    part = await late.next()
    assert part is not None
    assert (part.first_seq, part.events, part.behind) == (8, events[7:], True)
    assert await late.next() is None


@pytest.mark.parametrize("ended_by", ["the journal's end", "a nudge"])
async def test_a_follower_that_lets_more_come_is_not_deaf(process: Process, ended_by: str) -> None:
    journal = await process.start("r")
    follower = Follower(journal, coalesce_s=1e6)
    following = asyncio.create_task(follower.next())
    for text in "12":
        journal.append(an_event(text))
        await settle()
    assert not following.done()
    if ended_by == "a nudge":
        follower.nudge()
    else:
        journal.close(an_event("3"), an_end("r"))
    async with asyncio.timeout(WAIT_S):
        part = await following
    assert part is not None
    assert (part.events[:2], part.behind) == ([an_event("1"), an_event("2")], True)
    assert len(part.events) == (2 if ended_by == "a nudge" else 3)


async def test_a_nudge_as_an_event_comes_lets_no_more_come(process: Process) -> None:
    journal = await process.start("r")
    follower = Follower(journal, coalesce_s=1e6)
    journal.waiter().add_done_callback(lambda _: follower.nudge())  # just before the follower sees that it came
    following = asyncio.create_task(follower.next())
    journal.append(an_event("1"))
    async with asyncio.timeout(WAIT_S):
        part = await following
    assert part is not None
    assert part.events == [an_event("1")]


async def test_events_appended_together_are_one_commit_of_all_runs_and_one_wake_up(process: Process) -> None:
    one, two = await process.start("r1"), await process.start("r2")
    following = asyncio.create_task(Follower(one).next())
    await settle()
    for i in range(3):
        one.append(an_event(str(i)))
        two.append(an_event(str(i)))
    part = await following
    assert part is not None
    assert len(part.events) == 3
    assert process.store.appends == [["r1", "r2"]]


async def test_a_follower_of_another_workers_run(process: Process, other: Process) -> None:
    journal = await process.start("r")
    journal.append(an_event("1"))
    await journal.drain()
    copy = await other.journals.attach("r")
    assert (copy.last, copy.owned) == (1, False)
    following = asyncio.create_task(everything(Follower(copy)))
    for i in range(2, 50):
        journal.append(an_event(str(i)))
        await asyncio.sleep(0)
    journal.close(an_event("end"), an_end("r"))
    assert await following == [*(an_event(str(i)) for i in range(1, 50)), an_event("end")]
    await other.journals.release(copy)
    assert other.journals._journals == {}
    assert process.store._memory.watchers == {}


async def test_holes_and_repeats_in_what_is_heard_are_made_good(process: Process, other: Process) -> None:
    journal = await process.start("r")
    copy = await other.journals.attach("r")
    await other.store.unwatch("r")  # what it hears from now on is what this test says
    events = [an_event(str(i)) for i in range(8)]
    for event in events[:-1]:
        journal.append(event)
    journal.close(events[-1], an_end("r"))
    await journal.drain()
    following = asyncio.create_task(everything(Follower(copy)))
    for first, last, closed in ((1, 2, False), (1, 1, False), (2, 3, False), (6, 6, False), (9, 8, True), (9, 8, True)):
        other.journals.on_events("r", first, events[first - 1 : last], closed)
        await settle()
    assert await following == events


async def test_attaching_to_an_unknown_run_leaves_nothing(process: Process) -> None:
    with pytest.raises(RunNotFound):
        await process.journals.attach("nobody")
    assert process.journals._journals == {}
    assert process.store._memory.watchers == {}


async def test_an_attach_that_failed_leaves_nothing(process: Process, other: Process, monkeypatch: Any) -> None:
    """Though the store had begun to tell of the run, and then could not say where it is."""
    journal = await process.start("r")

    async def fail(run_id: str) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(other.store, "get_run", fail)
        with pytest.raises(StoreUnavailable):
            await other.journals.attach("r")
    assert other.journals._journals == {}
    assert process.store._memory.watchers == {}
    copy = await other.journals.attach("r")
    with monkeypatch.context() as patch:
        patch.setattr(process.store, "get_run", fail)
        mine = await process.journals.attach("r")
        await process.journals.disown(journal)
    with pytest.raises(StoreUnavailable):
        await Follower(mine).next()
    await process.journals.release(mine)
    await other.journals.release(copy)
    assert process.journals._journals == other.journals._journals == {}
    assert process.store._memory.watchers == {}


async def test_commands_pass_through(process: Process, other: Process) -> None:
    await process.start("r")
    await other.store.send("r", b"cancel")
    await settle()
    assert process.commands == [("r", b"cancel")]


# -- followers that are given what is accepted ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
async def test_a_live_follower_has_every_event_once_whatever_it_refuses(process: Process, seed: int) -> None:
    chance = random.Random(seed)
    journal = await process.start("r")
    follower, seen = Follower(journal), list[bytes]()

    def take(first_seq: int, events: list[bytes]) -> bool:
        assert events
        assert first_seq == len(seen) + 1
        if chance.random() < 0.3:
            return False
        seen.extend(events)
        return True

    async def follow() -> None:
        while True:
            left: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
            if chance.random() < 0.5 and follower.go_live(take, left.set_result):
                assert follower.is_live
                assert await left is None
                assert not follower.is_live
            if (part := await follower.next(take if chance.random() < 0.8 else None)) is None:
                return
            assert part.first_seq == len(seen) + 1
            seen.extend(part.events)

    following = asyncio.create_task(follow())
    events = [an_event(str(number)) for number in range(200)]
    for event in events[:-1]:
        if chance.random() < 0.2:
            follower.nudge()
        if chance.random() < 0.2:
            journal.set_checkpoint(b"here")  # a group without an event
            await settle()
        journal.append(event)
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
    journal.close(events[-1], an_end("r"))
    async with asyncio.timeout(WAIT_S):
        await following
    assert seen == events
    assert not journal._live
    assert not journal._waiters


@pytest.mark.parametrize("alone", [False, True])
async def test_who_has_read_what_is_not_told_of_yet_is_given_nothing_twice(
    process: Process, other: Process, alone: bool
) -> None:
    """The store is ahead of what another worker says: a late follower has read there what is then told."""
    journal = await process.start("r")
    copy = await other.journals.attach("r")
    await other.store.unwatch("r")  # what it hears from now on is what this test says
    events = [an_event(str(number)) for number in range(1, 7)]
    for event in events[:-1]:
        journal.append(event)
    journal.close(events[-1], an_end("r"))
    await journal.drain()
    follower, seen = Follower(copy, 4), list[bytes]()

    def take(first_seq: int, events: list[bytes]) -> bool:
        assert first_seq == 5 + len(seen)
        seen.extend(events)
        return True

    async def follow() -> None:
        while True:
            if alone:
                assert copy.last == follower.after or not follower.go_live(take, lambda error: None)
            if (part := await follower.next(take)) is None:
                return
            assert not part.events or part.first_seq == 5 + len(seen)
            seen.extend(part.events)

    following = asyncio.create_task(follow())
    await settle()
    for first, last in ((1, 2), (3, 4), (5, 5)):
        other.journals.on_events("r", first, events[first - 1 : last], False)
        await settle()
    follower.nudge()
    await settle()
    other.journals.on_events("r", 6, events[5:], True)
    async with asyncio.timeout(WAIT_S):
        await following
    assert seen == events[4:]
    assert not copy._live
    assert not copy._waiters


async def test_who_follows_live_without_a_task_is_told_once_that_there_is_something_else(process: Process) -> None:
    journal = await process.start("r")
    told: list[Exception | None] = []
    fails = ValueError("a fault")

    def refuse(first_seq: int, events: list[bytes]) -> bool:
        return False

    def fail(first_seq: int, events: list[bytes]) -> bool:
        raise fails

    for push in (refuse, fail):
        follower = Follower(journal, journal.last)
        assert follower.go_live(push, told.append)
        journal.append(an_event("x"))
        await settle()
        assert not follower.go_live(push, told.append), "there is something to read"
        journal.append(an_event("y"))
        await settle()
    follower = Follower(journal, journal.last)
    assert follower.go_live(refuse, told.append)
    follower.nudge()
    follower.nudge()
    assert follower.go_live(refuse, told.append)
    follower.stay()
    follower.nudge()
    assert told == [None, fails, None]
    assert follower.go_live(refuse, told.append)
    journal.close(an_event("z"), an_end("r"))
    await settle()
    assert told == [None, fails, None, None]
    assert not follower.go_live(refuse, told.append), "and nothing more will come"
    assert not journal._live


@pytest.mark.parametrize("alone", [False, True])
async def test_who_followed_live_until_the_last_group_is_not_behind(process: Process, alone: bool) -> None:
    """Deltas of a reader that has kept up would be merged."""
    journal = await process.start("r")
    follower, left = Follower(journal, journal.last), asyncio.get_running_loop().create_future()

    def refuse(first_seq: int, events: list[bytes]) -> bool:
        return False

    following = None if alone else asyncio.create_task(follower.next(refuse))
    assert not alone or follower.go_live(refuse, left.set_result)
    await settle()
    for text in "123":
        journal.append(an_event(text))
    if following is None:
        await left
    part = await (following or follower.next())
    assert part is not None
    assert (len(part.events), part.behind) == (3, False)
    journal.append(an_event("4"))
    await settle()
    part = await follower.next()
    assert part is not None
    assert part.behind, "nobody has followed since"


async def test_a_live_follower_reads_from_the_store_what_it_was_not_told_of(
    process: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await process.start("r")
    copy = await other.journals.attach("r")
    follower, seen = Follower(copy), list[bytes]()

    def take(first_seq: int, events: list[bytes]) -> bool:
        seen.extend(events)
        return True

    following = asyncio.create_task(follower.next(take))
    await settle()
    with monkeypatch.context() as patch:
        patch.setattr(other.journals, "on_events", lambda *told: None)
        for text in "12":
            journal.append(an_event(text))
        await settle()
    journal.append(an_event("3"))
    async with asyncio.timeout(WAIT_S):
        part = await following
    assert part is not None
    assert (part.first_seq, part.events) == (1, [an_event(text) for text in "123"])
    assert not seen
    await other.journals.release(copy)


async def test_who_follows_live_no_more_is_given_nothing(process: Process) -> None:
    journal = await process.start("r")
    seen: dict[str, list[bytes]] = {"leaves": [], "stays": []}
    followers = {name: Follower(journal, journal.last) for name in seen}

    def take(name: str) -> Push:
        def push(first_seq: int, events: list[bytes]) -> bool:
            seen[name].extend(events)
            return True

        return push

    for name, follower in followers.items():
        assert follower.go_live(take(name), lambda error: None)
    for text in "12":
        journal.append(an_event(text))
        await settle()
        followers["leaves"].nudge()
    assert seen == {"leaves": [an_event("1")], "stays": [an_event("1"), an_event("2")]}


async def test_what_is_too_much_for_one_group_goes_in_parts_and_the_end_with_the_last(process: Process) -> None:
    journal = await process.start("r")
    events = [an_event(text * (hot_path.BATCH_BYTES_MAX // 2)) for text in "abc"]
    for event in events:
        journal.append(event)
    journal.close(an_event("d"), an_end("r"))
    async with asyncio.timeout(WAIT_S):
        await journal.drain()
    assert (process.store.appends, process.refused) == ([["r"]] * 3, [])
    assert await process.store.read("r", 0, 2) == events[:2]
    assert (journal.closed, journal.last) == (True, 4)


async def test_a_live_follower_is_not_woken_for_what_it_takes(process: Process) -> None:
    journal = await process.start("r")
    follower, seen = Follower(journal), list[bytes]()

    def take(first_seq: int, events: list[bytes]) -> bool:
        seen.extend(events)
        return True

    following = asyncio.create_task(follower.next(take))
    await settle()
    for text in "12":
        journal.append(an_event(text))
        await settle()
    assert seen == [an_event("1"), an_event("2")]
    assert not following.done()
    follower.nudge()
    async with asyncio.timeout(WAIT_S):
        part = await following
    assert part is not None
    assert (part.first_seq, part.events) == (3, [])


async def test_what_a_live_follower_raises_is_its_own(process: Process) -> None:
    journal = await process.start("r")

    def fails(first_seq: int, events: list[bytes]) -> bool:
        raise ValueError("a fault")

    failing = asyncio.create_task(Follower(journal).next(fails))
    following = asyncio.create_task(everything(Follower(journal)))
    await settle()
    journal.append(an_event("1"))
    with pytest.raises(ValueError, match="a fault"):
        await failing
    journal.close(an_event("2"), an_end("r"))
    assert await following == [an_event("1"), an_event("2")]


async def test_a_live_follower_hears_that_the_store_has_gone(process: Process) -> None:
    journal = await process.start("r")
    following = asyncio.create_task(Follower(journal).next(lambda first_seq, events: True))
    await settle()
    process.journals._lose(journal, StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable, match="gone"):
        await following


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_a_journal_keeps_a_window_and_reads_the_rest_from_the_store(process: Process) -> None:
    journal = await process.start("r")
    events = [an_event(str(i)) for i in range(5 * hot_path.WINDOW_EVENTS)]
    for event in events:
        journal.append(event)
        if journal.full:
            await journal.drain()
    await journal.drain()
    assert len(journal._window) <= 2 * hot_path.WINDOW_EVENTS
    follower = Follower(journal)
    seen: list[bytes] = []
    while len(seen) < len(events):
        part = await follower.next()
        assert part is not None
        assert part.behind
        seen += part.events
    assert seen == events
    assert process.store.reads
    assert len(process.store.reads) <= 5 * hot_path.WINDOW_EVENTS / hot_path.PAGE_EVENTS


async def test_the_window_is_bounded_in_bytes(process: Process) -> None:
    journal = await process.start("r")
    for i in range(50):
        journal.append(an_event(f"{i}" + "x" * 100_000))
        await journal.drain()
    assert sum(map(len, journal._window)) <= hot_path.WINDOW_BYTES_MAX
    assert journal._given_bytes - journal._gone_bytes == sum(map(len, journal._window))
    assert len(await everything_so_far(journal)) == 50


async def test_what_is_set_aside_takes_no_room_in_the_window(process: Process) -> None:
    journal = await process.start("r")
    journal.aside_bytes = 10 * hot_path.WINDOW_BYTES_MAX
    for text in "abc":
        journal.append(an_event(text))
        await journal.drain()
    assert journal.at_hand(0) == [an_event(text) for text in "abc"]
    assert journal.size_bytes == journal.aside_bytes + sum(len(an_event(text)) for text in "abc")


async def everything_so_far(journal: Journal) -> list[bytes]:
    follower, seen = Follower(journal), list[bytes]()
    while len(seen) < journal.last:
        part = await follower.next()
        assert part is not None
        seen += part.events
    return seen


async def test_a_stalled_follower_holds_nothing_and_slows_nobody(process: Process) -> None:
    journal = await process.start("r")
    stalled = Follower(journal)
    assert stalled.after == 0
    for i in range(10_000):
        journal.append(an_event(str(i)))
        if journal.full:
            await journal.drain()
    await journal.drain()
    assert journal._waiters == {}
    assert len(journal._window) <= 2 * hot_path.WINDOW_EVENTS
    assert await everything_so_far(journal) == [an_event(str(i)) for i in range(10_000)]


@pytest.mark.parametrize("size", [1, 10_000])
async def test_a_producer_that_outruns_the_store_is_held_back(process: Process, size: int) -> None:
    journal = await process.start("r")
    process.store.open_gate.clear()
    produced = 0

    async def produce() -> None:
        nonlocal produced
        for i in range(10_000):
            journal.append(an_event(f"{i}" + "x" * size))
            produced += 1
            if journal.full:
                await journal.drain()
        await journal.drain()

    producer = asyncio.create_task(produce())
    await process.store.reached.wait()
    await settle()
    held = produced
    assert held <= 2 * hot_path.PENDING_EVENTS_MAX
    assert held * size <= 3 * hot_path.PENDING_BYTES_MAX
    await settle()
    assert produced == held
    process.store.open_gate.set()
    async with asyncio.timeout(WAIT_S):
        await producer
    assert journal.last == produced == 10_000


async def test_journals_nobody_uses_are_let_go(process: Process) -> None:
    journal = await process.start("r")
    follower = await process.journals.attach("r")
    assert follower is journal
    journal.close(an_event("end"), an_end("r"))
    await journal.drain()
    await process.journals.disown(journal)
    assert process.journals._journals == {"r": journal}
    await process.journals.release(journal)
    assert process.journals._journals == {}


# -- a store in trouble ------------------------------------------------------------------------------------------------


async def test_a_short_outage_is_waited_out(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "RETRY_FIRST_S", 0.0)
    journal = await process.start("r")
    process.store.troubles = [StoreUnavailable("gone"), StoreUnavailable("still gone"), StoreCorrupt("looks odd")]
    following = asyncio.create_task(everything(Follower(journal)))
    journal.append(an_event("1"))
    await process.store.reached.wait()
    journal.append(an_event("2"))
    journal.close(an_event("end"), an_end("r"))
    await journal.drain()
    assert await following == [an_event("1"), an_event("2"), an_event("end")]
    assert journal.lost is None


async def test_a_long_outage_loses_every_run_that_waits_and_heals(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_path, "RETRY_FIRST_S", 0.001)
    process = Process(DoubtfulStore(memory), patience_s=0.01)
    await process.journals.open("a")
    one, two, idle = [await process.start(run_id) for run_id in ("r1", "r2", "idle")]
    process.store.always = StoreUnavailable("gone")
    one.append(an_event("1"))
    await process.store.reached.wait()
    two.append(an_event("1"))  # waits behind the append that is being tried
    following = asyncio.create_task(Follower(two).next())
    async with asyncio.timeout(WAIT_S):
        for journal in (one, two):
            with pytest.raises(StoreUnavailable, match=journal.run_id):
                await journal.drain()
        await asyncio.wait([following])
    assert idle.lost is None
    process.store.always = None
    async with asyncio.timeout(WAIT_S):
        while one.last + two.last < 2:
            await asyncio.sleep(0.001)
    assert one.lost is two.lost is None
    assert await process.store.read("r1", 0, 10) == [an_event("1")]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await process.journals.close()


async def test_a_run_that_was_lost_and_won_again_is_written_once(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood in the writer's queue when it was lost, and has more to write now than goes in one batch."""
    journal, run = await process.start("r"), process.store._memory.runs["r"]
    large = [an_event(letter * hot_path.BATCH_BYTES_MAX) for letter in "xyz"]

    def win(run_id: str) -> None:
        process.refused.append(run_id)
        run.owner = "a"
        for event in large:
            process.journals.create(run_id).append(event)
        monkeypatch.undo()

    monkeypatch.setattr(process.journals, "_on_refused", win)
    process.store.open_gate.clear()
    journal.append(an_event("in flight"))
    await process.store.reached.wait()
    journal.append(an_event("queued"))
    run.owner = "another"
    process.store.open_gate.set()
    async with asyncio.timeout(WAIT_S):
        await journal.drain()
    assert (process.store._memory.events["r"], journal.last, process.refused) == (large, 3, ["r"])


async def test_a_batch_accepted_after_its_journal_was_disowned_counts_once(process: Process) -> None:
    journal = await process.start("r")
    kept = await process.journals.attach("r")
    process.store.answers_late = True
    process.store.open_gate.clear()
    journal.append(an_event("1"))
    await process.store.reached.wait()
    disowning = asyncio.create_task(process.journals.disown(journal))
    await settle()
    process.store.open_gate.set()
    await disowning
    await settle()
    assert (kept.last, kept.owned) == (1, False)
    assert await everything_so_far(kept) == [an_event("1")]


async def test_a_fenced_journal_follows_its_new_owner() -> None:
    cluster = Cluster(MemoryPlace())
    assert isinstance(cluster.place, MemoryPlace)
    process = Process(DoubtfulStore(cluster.place.memory, cluster.clock))
    await process.journals.open("a")
    b = await cluster.worker("b")
    journal = await process.start("r")
    reader = await process.journals.attach("r")
    following = asyncio.create_task(everything(Follower(reader)))
    journal.append(an_event("1"))
    await journal.drain()
    assert [run.id for run in (await cluster.lapse(b))["b"]] == ["r"]
    journal.append(an_event("too late"))
    await settle()
    assert process.fenced == 1
    assert process.refused == ["r"]
    await process.journals.disown(journal)
    end = await b.end("r", 2)
    assert await following == [an_event("1"), end]
    await process.journals.release(reader)
    await process.journals.close()
    await cluster.close()


async def test_a_followed_run_that_is_taken_over_here_goes_on_for_its_followers() -> None:
    cluster = Cluster(MemoryPlace())
    assert isinstance(cluster.place, MemoryPlace)
    a = await cluster.worker("a")
    process = Process(DoubtfulStore(cluster.place.memory, cluster.clock))
    await process.journals.open("b")
    await a.create("r")
    first = await a.append("r", 1, "1", "2")
    reader = await process.journals.attach("r")
    following = asyncio.create_task(everything(Follower(reader)))
    await settle()
    taken = []
    for _ in range(4):
        cluster.clock.now += 0.4 * LEASE_S
        taken += await process.store.take_over(LEASE_S)
    [run] = taken
    journal = process.journals.create("r", last=run.last_seq)
    journal.close(an_event("lost"), an_end("r"))
    assert await following == [*first, an_event("lost")]
    await process.journals.disown(journal)
    await process.journals.release(reader)
    assert process.journals._journals == {}
    await process.journals.close()
    await cluster.close()


async def test_followers_of_what_the_store_has_lost_are_told(process: Process) -> None:
    journal = await process.start("r")
    reader = await process.journals.attach("r")
    for i in range(3):
        journal.append(an_event(str(i)))
    await journal.drain()
    following = asyncio.create_task(Follower(reader, 3).next())
    await settle()
    del process.store._memory.events["r"][1:]
    process.store._memory.runs["r"].last_seq = 1
    again = process.journals.create("r", last=1)
    with pytest.raises(StoreUnavailable, match="lost events"):
        await Follower(reader, 3).next()
    again.close(an_event("lost"), an_end("r"))
    await again.drain()
    assert await process.store.read("r", 0, 10) == [an_event("0"), an_event("lost")]
    await asyncio.wait([following])
    await process.journals.release(reader)
    await process.journals.disown(again)
    assert process.journals._journals == {}
    await asyncio.gather(following, return_exceptions=True)


async def test_followers_of_a_run_that_the_store_has_lost_are_told(process: Process, other: Process) -> None:
    journal = await process.start("r")
    reader = await process.journals.attach("r")
    following = asyncio.create_task(everything(Follower(reader)))
    await settle()
    process.store._memory.session_runs.clear()
    await other.store.delete_session("r")
    journal.append(an_event("1"))
    async with asyncio.timeout(WAIT_S):
        while process.refused != ["r"]:
            await asyncio.sleep(0)
    await process.journals.disown(journal)
    with pytest.raises(RunNotFound):
        await following
    await process.journals.release(reader)
    assert process.journals._journals == {}
    assert process.store._memory.watchers == {}


@pytest.mark.parametrize(
    ("first", "heard", "closed"),
    [(2, ["other", "end"], True), (2, ["other"], False), (3, [], True)],
    ids=["closed anew", "gone on anew", "closed, heard late"],
)
async def test_what_a_store_has_lost_and_has_other_events_for_is_not_gone_on_with(
    process: Process, other: Process, first: int, heard: list[str], closed: bool
) -> None:
    """As when a replica took over that had not yet got the newest events, and their writer was gone too."""
    journal = await process.start("r")
    copy = await other.journals.attach("r")
    following = asyncio.create_task(everything(Follower(copy)))
    for i in range(4):
        journal.append(an_event(str(i)))
    await journal.drain()
    await settle()
    assert copy.last == 4
    other.journals.on_events("r", first, [an_event(text) for text in heard], closed)
    with pytest.raises(StoreUnavailable, match="lost events"):
        await following
    assert other.journals._journals == {}, "whoever attaches next begins anew"
    await other.journals.release(copy)


async def test_who_joins_late_leaves_others_their_turn() -> None:
    """A store that answers at once, as memory and SQLite do, gave a late follower the loop until it had all."""

    async def agent(message: str) -> AsyncIterator[str]:
        for number in range(20_000):
            yield f"{number} "

    async with Runner(agent) as runner:
        run = await runner.start("x")
        await run.wait()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        waiting = asyncio.create_task(others())
        await asyncio.sleep(0)
        turns, seen = 0, 0
        async with runner.readers.reading(await runner.get_run(run.id)) as follower:
            while (part := await follower.next()) is not None:
                seen += len(part.events)
        waiting.cancel()
        assert seen > 20_000
        assert turns >= seen // 512


async def test_of_runs_that_end_at_the_same_time_so_many_are_written_at_once(process: Process):
    count = 2 * hot_path.ENDS_AT_ONCE + 10
    ending = [await process.start(f"e{number}") for number in range(count)]
    going_on = [await process.start(f"g{number}") for number in range(count)]
    for journal in (*ending, *going_on):
        journal.append(an_event("1"))
    for journal in ending:
        journal.close(an_event("2"), an_end(journal.run_id))
    async with asyncio.timeout(WAIT_S):
        for journal in (*going_on, *ending):
            await journal.drain()
    first, *others = process.store.appends
    assert len(first) == hot_path.ENDS_AT_ONCE + count, "all that goes on, and so many ends"
    assert [len(one) for one in others] == [hot_path.ENDS_AT_ONCE, 10]
    assert [run_id for one in process.store.appends for run_id in one if run_id[0] == "e"] == [
        journal.run_id for journal in ending
    ], "in their order"
    assert all(journal.closed and journal.last == 2 for journal in ending)


async def test_a_group_has_a_time_unless_one_just_before_it_has(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine come 60 ms apart, one after a pause that is short, one when the clock was set back, one behind what says
    nothing."""
    ms = [0]
    monkeypatch.setattr(time, "time_ns", lambda: ms[0] * 1_000_000)
    monkeypatch.setattr(process.journals.loop, "time", lambda: ms[0] / 1000)
    journal = await process.start("r")
    for ms[0] in (*range(1_000, 1_540, 60), 1_640, 400, 650, 660):
        if ms[0] == 650:
            await journal.save(b"here")
            continue
        journal.append(an_event("x"))
        await journal.drain()
    times = [(group.seq, group.at) for group in await process.store.times("r")]
    assert times == [(1, 1_000), (6, 1_300), (10, 1_640), (11, 400), (12, 660)]
