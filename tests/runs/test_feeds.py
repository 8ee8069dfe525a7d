"""A user's feed: which sessions have changed, as they are now, from any cursor, whoever changes them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import LimitReached, StoreUnavailable
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunStatus
from gapless.runs import feeds
from gapless.runs.feeds import Change, FeedFollower
from tests.support.runs import ask, echo
from tests.support.waiting import WAIT_S

MANY = 100
QUEUED = RunConfig(on_busy="queue")


class Reader:
    """Somebody who reads a feed, now and then."""

    def __init__(self, follower: FeedFollower) -> None:
        self.follower = follower
        self.told: list[tuple[str, Change]] = []
        self.stands: dict[str, str] = {}
        """Each session that is known of, and how it stands."""
        self.resets = 0

    def read(self, listed: dict[str, str] | None = None) -> None:
        """`listed` is what the list would say, where it is to be read anew."""
        for cursor, change in self.follower.read():
            self.told.append((cursor, change))
            if not change.session_id:
                self.resets += 1
                self.stands = self.stands if listed is None else dict(listed)
            elif change.session is None:
                self.stands.pop(change.session_id, None)
            else:
                newest = "" if change.newest is None else change.newest.status.value
                active = "" if change.active is None else change.active.status.value
                self.stands[change.session_id] = f"{change.session.title}|{active}|{newest}"

    async def until(self, stands: dict[str, str]) -> None:
        async with asyncio.timeout(WAIT_S):
            self.read()
            while self.stands != stands:
                await self.follower.wait()
                self.read()


@contextlib.asynccontextmanager
async def reading(runner: Runner, user_id: str = "u", cursor: str = ""):
    async with runner.worker.feeds.following(user_id, cursor, MANY) as follower:
        yield Reader(follower)


async def test_each_change_of_a_users_sessions_is_told_and_no_other_users():
    async with Runner(ask) as runner, reading(runner) as reader:
        await reader.until({})
        assert reader.resets == 1, "who knows nothing reads the list"
        run = await runner.start("Hello", session_id="s", user_id="u")
        await runner.start("Hello", session_id="other", user_id="v")
        await reader.until({"s": "Hello|waiting|waiting"})
        await runner.rename_session("s", "Called so")
        await reader.until({"s": "Called so|waiting|waiting"})
        await run.cancel()
        await reader.until({"s": "Called so||cancelled"})
        await runner.create_session("empty", user_id="u")
        await reader.until({"s": "Called so||cancelled", "empty": "||"})
        await runner.delete_session("s")
        await reader.until({"empty": "||"})
        assert reader.resets == 1


async def test_workers_hear_of_each_others_runs():
    memory = Memory()
    async with (
        Runner(echo, store=MemoryStore(memory)) as here,
        Runner(echo, store=MemoryStore(memory)) as there,
        reading(here) as reader,
    ):
        await (await there.start("One two", session_id="s", user_id="u")).record()
        await reader.until({"s": "One two||finished"})


async def test_from_every_cursor_the_rest_leads_to_the_same_and_what_is_told_twice_is_told_once():
    async with Runner(echo) as runner, reading(runner) as reader:
        for n in range(12):
            run = await runner.start(f"m{n}", session_id=f"s{n % 5}", user_id="u", run_id=f"r{n}")
            await run.text().__anext__()
            await runner.readers.wait(run.id)
            reader.read()
        whole = {f"s{n}": f"m{n}||finished" for n in range(5)}
        await reader.until(whole)
        for at, (cursor, _) in enumerate(reader.told):
            async with reading(runner, cursor=cursor) as late:
                late.read()
                ids = [change.session_id for _, change in late.told]
                assert len(set(ids)) == len(ids), "each session once, as it is now"
                assert set(ids) == {change.session_id for _, change in reader.told[at + 1 :]}
                assert all(late.stands[id] == whole[id] for id in ids)
                assert not late.resets


@pytest.fixture
def few_are_kept(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(feeds, "FEED_SESSIONS_MAX", 3)
    return 3


async def test_who_comes_back_too_late_or_to_another_worker_is_told_to_read_the_list(few_are_kept: int):
    memory = Memory()
    async with (
        Runner(echo, store=MemoryStore(memory)) as runner,
        Runner(echo, store=MemoryStore(memory)) as other,
        reading(runner) as reader,
    ):
        reader.read()
        stands: dict[str, str] = {}
        for n in range(6):
            await runner.create_session(f"s{n}", user_id="u")
            stands[f"s{n}"] = "||"
            await reader.until(stands)
        cursors = [cursor for cursor, _ in reader.told]
        for cursor in cursors[:3]:
            async with reading(runner, cursor=cursor) as late:
                late.read()
                assert [change.session_id for _, change in late.told] == [""], "too old"
                assert late.told[0][0] == cursors[-1], "the list is as new as this"
        for cursor in cursors[-3:]:
            async with reading(runner, cursor=cursor) as late:
                late.read()
                assert not late.resets
        for unknown in ("0", "-", "x-1", f"{cursors[-1]}9", "é-٣", cursors[-1].replace("-", "--")):
            async with reading(runner, cursor=unknown) as late:
                late.read()
                assert late.resets == 1
        async with reading(other, cursor=cursors[-1]) as late:
            late.read()
            assert late.resets == 1


async def test_a_feed_that_nobody_reads_goes_on_for_a_while_and_then_lets_the_user_go(monkeypatch: pytest.MonkeyPatch):
    memory = Memory()
    async with Runner(echo, store=MemoryStore(memory)) as runner:
        async with reading(runner) as reader:
            reader.read()
            cursor = reader.follower.cursor
        await runner.create_session("s", user_id="u")
        async with reading(runner, cursor=cursor) as reader:
            await reader.until({"s": "||"})
            assert not reader.resets
        monkeypatch.setattr(feeds, "FEEDS_KEPT_MAX", 0)
        async with reading(runner) as reader:
            pass
        async with asyncio.timeout(WAIT_S):
            while memory.user_watchers:
                await asyncio.sleep(0)


async def test_what_was_missed_is_told_as_such_and_an_absent_store_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feeds, "LOOK_AGAIN_S", 0.0)
    async with Runner(echo) as runner, reading(runner) as reader:
        reader.read()
        runner.worker.feeds.hear("u", None)
        runner.worker.feeds.hear("of whom nobody reads", None)
        reader.read()
        assert reader.resets == 2
        asked, away = runner.store.active_runs, iter([True, True, False])

        async def active_runs(ids):
            if next(away, False):
                raise StoreUnavailable("away")
            return await asked(ids)

        monkeypatch.setattr(runner.store, "active_runs", active_runs)
        await runner.create_session("s", user_id="u")
        await reader.until({"s": "||"})


async def test_so_many_follow_a_feed_and_no_more():
    async with Runner(echo) as runner, reading(runner):
        with pytest.raises(LimitReached):
            runner.worker.feeds.following("u", "", 1)
        runner.worker.feeds.following("v", "", 1)


def changes(rng: random.Random) -> Iterator[str]:
    while True:
        yield rng.choice(["run", "run", "rename", "delete", "read", "come back"])


async def test_whoever_reads_when_and_comes_back_from_where_knows_how_all_sessions_stand_in_the_end(few_are_kept: int):
    """With a small ring: some are told to read the list, which is then all that they know."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def agent(ctx: RunContext):
        yield "word"

    async with Runner(agent) as runner, contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reading(runner)) for _ in range(4)]

        async def listed() -> dict[str, str]:
            stands = {}
            for session in await runner.list_sessions(user_id="u"):
                runs = await runner.list_runs(session_id=session.id, limit=1)
                active = [run.status.value for run in runs if not run.status.ended]
                newest = runs[0].status.value if runs else ""
                stands[session.id] = f"{session.title}|{active[0] if active else ''}|{newest}"
            return stands

        for step, what in zip(range(150), changes(rng), strict=False):
            session_id = f"s{rng.randrange(5)}"
            if what == "run":
                run = await runner.start(f"m{step}", session_id=session_id, user_id="u", config=QUEUED)
                if rng.random() < 0.5:
                    await runner.readers.wait(run.id)
            elif what == "rename" and await runner.find_session(session_id):
                await runner.rename_session(session_id, f"title {step}")
            elif what == "delete" and await runner.find_session(session_id):
                if not await runner.active_runs([session_id]):
                    await runner.delete_session(session_id)
            elif what == "read":
                rng.choice(readers).read(await listed())
            elif what == "come back":
                at = rng.randrange(4)
                cursor, stands = readers[at].follower.cursor, readers[at].stands
                readers[at] = await stack.enter_async_context(reading(runner, cursor=cursor))
                readers[at].stands = stands
        for listed_run in await runner.list_runs(limit=1000):
            if listed_run.status in (RunStatus.QUEUED, RunStatus.RUNNING):
                await runner.readers.wait(listed_run.id)
        wanted = await listed()
        for reader in readers:
            async with asyncio.timeout(WAIT_S):
                reader.read(wanted)
                while reader.stands != wanted:
                    await reader.follower.wait()
                    reader.read(wanted)
