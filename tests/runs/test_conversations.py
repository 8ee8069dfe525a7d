"""Sessions that are followed: run after run, from any place, wherever the runs execute, and how the session stands."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import CursorExpired, CursorInvalid, SessionNotFound, StoreUnavailable
from gapless.events import CustomEvent, Event, ResumeEntry, RunStartedEvent
from gapless.fold import SESSION
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import SessionRecord
from gapless.runs.conversations import place_of
from tests.support.runs import ask, echo, ends, events_of
from tests.support.waiting import WAIT_S, until

Told = list[tuple[str, Event]]
PATIENT = RunConfig(on_busy="queue", on_waiting="reject")
"""A run that waits for its turn, whatever those before it wait for."""


async def journals(runner: Runner, session_id: str) -> Told:
    """The events of a session's runs as they are stored, one run after the other."""
    told: Told = []
    for run in await runner.store.session_runs(session_id):
        told += [(f"{run.id}:{seq}", event) for seq, event in enumerate(await events_of(runner, run.id), 1)]
    return told


def without_news(told: Told) -> Told:
    return [(place, event) for place, event in told if not is_news(event)]


def is_news(event: Event) -> bool:
    return isinstance(event, CustomEvent) and event.name == SESSION


def stands(told: Told) -> list[Any]:
    """Each time that it was told, the session's title and its runs that have not ended."""
    news: list[Any] = [event for _, event in told if is_news(event)]
    return [(event.value["session"]["title"], [(r["id"], r["status"]) for r in event.value["runs"]]) for event in news]


class Gated:
    """An agent that asks a person once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def agent(self, ctx: RunContext) -> AsyncIterator[str]:
        yield "first "
        await self.gate.wait()
        async for said in ask(ctx):
            yield said


class Follower:
    """Somebody who follows a session, in a task."""

    def __init__(self, runner: Runner, session_id: str = "s", after: str = "0") -> None:
        self.told: Told = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._follow(runner, session_id, after))

    async def _follow(self, runner: Runner, session_id: str, after: str) -> None:
        async with contextlib.aclosing(runner.follow_session(session_id, after)) as events:
            async for one in events:
                self.told.append(one)
                self._more.set()

    @property
    def events(self) -> Told:
        return without_news(self.told)

    async def until(self, happened: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while not happened():
                self._more.clear()
                waiting = asyncio.ensure_future(self._more.wait())
                await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                if self._task.done():
                    waiting.cancel()
                    self._task.result()
                    assert happened(), self.told

    async def end(self) -> None:
        await asyncio.wait({self._task}, timeout=WAIT_S)
        self._task.result()

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


def now(follower: Follower) -> Any:
    """How the session stands, as it was told last."""
    return (stands(follower.told) or [None])[-1]


async def test_a_session_is_followed_run_after_run_live_and_from_every_place(store: str):
    async with Runner(echo, store=store) as runner:
        await runner.create_session("s")
        live = Follower(runner)
        for n in range(3):
            await (await runner.start(f"message {n}", session_id="s", run_id=f"r{n}")).wait()
        whole = await journals(runner, "s")
        await live.until(lambda: len(live.events) == len(whole))
        assert live.events == whole
        for at in range(len(whole) + 1):
            late = Follower(runner, after=whole[at - 1][0] if at else "0")
            await late.until(lambda late=late, rest=whole[at:]: len(late.events) == len(rest) and late.told)
            assert late.events == whole[at:]
            await late.leave()
        await (await runner.start("one more", session_id="s")).wait()
        whole = await journals(runner, "s")
        await live.until(lambda: len(live.events) == len(whole))
        assert live.events == whole
        await runner.rename_session("s", "a title")
        await live.until(lambda: stands(live.told)[-1] == ("a title", []))
        await runner.delete_session("s")
        await live.end()


async def test_it_is_told_what_is_queued_runs_and_waits_as_it_is_and_every_change_of_the_title(store: str):
    asker = Gated()
    async with Runner(asker.agent, store=store) as runner:
        first = await runner.start("one", session_id="s", run_id="r1")
        follower = Follower(runner)
        await follower.until(lambda: now(follower) == ("one", [("r1", "running")]))
        await runner.start("two", session_id="s", run_id="r2", config=PATIENT)
        await follower.until(lambda: now(follower) == ("one", [("r1", "running"), ("r2", "queued")]))
        asker.gate.set()
        queued = [("r1", "waiting"), ("r2", "queued")]
        await follower.until(lambda: now(follower) == ("one", queued))
        await runner.rename_session("s", "another")
        await follower.until(lambda: now(follower) == ("another", queued))
        assert not [place for place, _ in follower.events if place.startswith("r2")], "its turn has not come"
        await runner.answer("r1", [ResumeEntry(interrupt_id="i", status="resolved", payload=1)])
        await first.wait()
        await follower.until(lambda: now(follower) == ("another", [("r2", "waiting")]))
        await runner.cancel("r2")
        await follower.until(lambda: now(follower) == ("another", []))
        whole = await journals(runner, "s")
        await follower.until(lambda: len(follower.events) == len(whole))
        assert follower.events == whole
        await follower.leave()
        late = Follower(runner)
        await late.until(lambda: len(late.events) == len(whole))
        assert stands(late.told) == [("another", [])], "once, and no more of what was before"
        await late.leave()


async def test_the_state_is_told_where_it_may_be_new_and_not_again_with_every_change(store: str):
    async with Runner(echo, store=store) as runner:
        await runner.create_session("s", state={"k": 1})
        follower = Follower(runner)
        news: list[Any] = []

        def states() -> list[Any]:
            news[:] = [event for _, event in follower.told if is_news(event)]
            return [event.value["session"].get("state") for event in news]

        await follower.until(lambda: states() == [{"k": 1}])
        await runner.rename_session("s", "t")
        await follower.until(lambda: states() == [{"k": 1}, None])
        await runner.update_state("s", {"k": 2})
        await follower.until(lambda: states() == [{"k": 1}, None, {"k": 2}])
        await follower.leave()


async def test_latest_begins_with_the_run_that_has_not_ended_or_with_what_comes_next(store: str):
    gate = asyncio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield message
        if message == "gated":
            await gate.wait()
        yield "end"

    async with Runner(agent, store=store) as runner:
        await runner.create_session("s")
        empty = Follower(runner, after="latest")
        await empty.until(lambda: empty.told)
        await (await runner.start("before", session_id="s", run_id="r1")).wait()
        idle = Follower(runner, after="latest")
        await idle.until(lambda: idle.told)
        run = await runner.start("gated", session_id="s", run_id="r2")
        await idle.until(lambda: len(idle.events) > 1)
        busy = Follower(runner, after="latest")
        await busy.until(lambda: len(busy.events) > 1)
        gate.set()
        await run.wait()
        whole = await journals(runner, "s")
        of_second = [one for one in whole if one[0].startswith("r2:")]
        for follower, expected in ((empty, whole), (idle, of_second), (busy, of_second)):
            await follower.until(lambda f=follower, e=expected: len(f.events) == len(e))
            assert follower.events == expected
            await follower.leave()


async def test_a_run_that_ends_before_its_turn_comes_after_those_before_it(store: str):
    asker = Gated()
    async with Runner(asker.agent, store=store) as runner:
        await runner.start("one", session_id="s", run_id="r1")
        follower = Follower(runner)
        second = await runner.start("two", session_id="s", run_id="r2", config=PATIENT)
        await follower.until(lambda: now(follower) == ("one", [("r1", "running"), ("r2", "queued")]))
        await second.cancel()
        await second.wait()
        await follower.until(lambda: now(follower) == ("one", [("r1", "running")]))
        assert {place.partition(":")[0] for place, _ in follower.events} == {"r1"}
        await runner.cancel("r1")
        await (await runner.attach("r1")).wait()
        whole = await journals(runner, "s")
        assert whole[-1][0].startswith("r2:")
        await follower.until(lambda: len(follower.events) == len(whole))
        assert follower.events == whole
        await follower.leave()


async def test_places_that_are_none_are_refused(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("x", session_id="s", run_id="r1")
        await run.wait()
        await (await runner.start("x", session_id="other", run_id="r2")).wait()
        last = (await run.record()).last_seq
        for bad in ("", "1", "x", "r1", "r1:", ":1", "r1:-1", "r1:é", f"r1:{last + 1}", "r2:1", "nobody:1", "r1:1.5"):
            with pytest.raises(CursorInvalid):
                await anext(runner.follow_session("s", bad))
        with pytest.raises(SessionNotFound):
            await anext(runner.follow_session("nobody's"))
        assert str(place_of("a:b:7")) == "a:b:7"
        assert str(place_of("r:7.end")) == str(place_of("r:7~5f")) == "r:7"
        assert str(place_of("a~b:7~5f")) == "a~b:7"
        assert str(place_of("0~1")) == "0"
        assert str(place_of("0")) == "0"
        assert not runner.worker.conversations.followers_of("s")


async def test_what_is_past_its_retention_is_passed_over_and_nobody_goes_on_in_its_middle(store: str):
    async with Runner(echo, store=store) as runner:
        for n in range(3):
            await (await runner.start("x", session_id="s", run_id=f"r{n}")).wait()
        await runner.store.expire(ended_before=2**50)
        kept = await runner.start("y", session_id="s", run_id="kept")
        await kept.wait()
        whole = [(f"kept:{seq}", event) for seq, event in enumerate(await events_of(runner, "kept"), 1)]
        last = (await runner.get_run("r1")).last_seq
        for after in ("0", f"r1:{last}", "r0:0"):
            follower = Follower(runner, after=after)
            await follower.until(lambda f=follower: len(f.events) == len(whole))
            assert follower.events == whole
            await follower.leave()
        with pytest.raises(CursorExpired):
            await anext(runner.follow_session("s", "r1:1"))


async def test_what_has_expired_since_it_was_new_here_is_passed_over_too(store: str):
    async with Runner(echo, store=store) as runner:
        await runner.create_session("s")
        stays = Follower(runner)
        await stays.until(lambda: stays.told)
        for n in range(3):
            await (await runner.start("x", session_id="s", run_id=f"r{n}")).wait()
        whole = await journals(runner, "s")
        await stays.until(lambda: len(stays.events) == len(whole))
        await runner.store.expire(ended_before=2**50)
        late = Follower(runner, after=f"r0:{(await runner.get_run('r0')).last_seq}")
        await late.until(lambda: late.told)
        await (await runner.start("y", session_id="s", run_id="kept")).wait()
        kept = [(f"kept:{seq}", event) for seq, event in enumerate(await events_of(runner, "kept"), 1)]
        await late.until(lambda: len(late.events) == len(kept))
        await stays.until(lambda: len(stays.events) == len(whole) + len(kept))
        assert late.events == stays.events[len(whole) :] == kept
        for follower in (late, stays):
            await follower.leave()


async def test_another_users_session_under_the_id_of_one_that_had_no_runs_is_told_to_nobody():
    async with Runner(echo) as runner:
        await runner.create_session("s", user_id="a")
        follower = Follower(runner)
        await follower.until(lambda: follower.told)
        await runner.store.delete_session("s")  # and before that was looked at:
        await runner.store.create_session(
            SessionRecord(id="s", user_id="b", agent="x", created_at=1, updated_at=1, state={"b": "alone"})
        )
        await follower.until(lambda: follower._task.done() or len(follower.told) > 1)
        assert len(follower.told) == 1
        await follower.end()
        assert not runner.worker.conversations._watched


async def test_many_follow_a_session_at_the_price_of_one_look_at_each_change():
    class Counting(MemoryStore):
        looks = 0

        async def get_session(self, session_id: str) -> Any:
            self.looks += 1
            return await super().get_session(session_id)

    store = Counting()
    async with Runner(echo, store=store) as runner:
        await runner.create_session("s")
        followers = [Follower(runner) for _ in range(50)]
        for follower in followers:
            await follower.until(lambda f=follower: f.told)
        store.looks = 0
        await (await runner.start("x", session_id="s", run_id="r")).wait()
        whole = await journals(runner, "s")
        for follower in followers:
            await follower.until(lambda f=follower: len(f.events) == len(whole) and stands(f.told)[-1][1] == [])
            await follower.leave()
        assert store.looks < 12, "created, started, ended"
        assert not runner.worker.conversations._watched
        assert not store._memory.session_watchers


async def test_a_session_is_looked_at_by_one_at_a_time():
    """Two looks at once would both find the same run behind the newest, and one of them behind itself."""

    class Slow(MemoryStore):
        at_once = most = looks = 0

        async def get_session(self, session_id: str) -> Any:
            self.looks += 1
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await gate.wait()
            self.at_once -= 1
            return await super().get_session(session_id)

    gate, store = asyncio.Event(), Slow()
    gate.set()
    async with Runner(echo, store=store) as runner:
        await (await runner.start("x", session_id="s", run_id="r0")).wait()
        gate.clear()
        store.looks = store.most = 0
        follower = Follower(runner)
        await until(lambda: store.looks == 1, "the first look")
        store._memory.sessions["s"].title = "another"  # as another worker would do it
        store._memory.tell_session(store._memory.sessions["s"])
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        await follower.until(lambda: now(follower) == ("another", []))
        assert store.most == 1
        await follower.leave()


async def test_a_store_that_is_away_for_a_while_costs_a_follower_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.conversations.LOOK_AGAIN_S", 0.001)

    class Failing(MemoryStore):
        fails = 0

        async def session_runs(self, *args: Any, **more: Any) -> Any:
            if self.fails:
                self.fails -= 1
                raise StoreUnavailable("away")
            return await super().session_runs(*args, **more)

    store = Failing()
    async with Runner(echo, store=store) as runner:
        await runner.create_session("s")
        follower = Follower(runner)
        await follower.until(lambda: follower.told)
        store.fails = 3
        await (await runner.start("x", session_id="s", run_id="r")).wait()
        whole = list(enumerate(await events_of(runner, "r"), 1))
        await follower.until(lambda: len(follower.events) == len(whole))
        assert follower.events == [(f"r:{seq}", event) for seq, event in whole]
        assert not store.fails
        await follower.leave()


@pytest.mark.parametrize("seed", range(6))
async def test_ten_followers_at_any_worker_under_any_cuts_read_the_same(seed: int):
    rng, memory = random.Random(seed), Memory()

    async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
        for n in range(rng.randrange(12)):
            yield f"{message} {n} "
            await asyncio.sleep(rng.choice((0, 0, 0.001)))

    async with contextlib.AsyncExitStack() as stack:
        runners = [await stack.enter_async_context(Runner(agent, store=MemoryStore(memory))) for _ in range(3)]
        await runners[0].create_session("s")

        async def tab(n: int) -> Told:
            """To the last run's end, and never at one worker for long."""
            of_tab, told = random.Random(seed * 100 + n), Told()
            while True:
                after = told[-1][0] if told else "0"
                left = of_tab.randrange(1, 30)
                async with contextlib.aclosing(of_tab.choice(runners).follow_session("s", after)) as events:
                    async for place, event in events:
                        if is_news(event):
                            continue
                        told.append((place, event))
                        if place.startswith("last:") and ends(event):
                            return told
                        left -= 1
                        if not left:
                            break

        tabs = [asyncio.create_task(tab(n)) for n in range(10)]

        async def talk(n: int) -> None:
            for m in range(4):
                run = await rng.choice(runners).start(f"m{n}.{m}", session_id="s", run_id=f"r{n}.{m}", config=PATIENT)
                if rng.random() < 0.3:
                    await run.cancel()
                await run.wait()

        await asyncio.gather(*map(talk, range(3)))
        await (await runners[1].start("last", session_id="s", run_id="last", config=PATIENT)).wait()
        whole = await journals(runners[0], "s")
        async with asyncio.timeout(WAIT_S):
            for told in await asyncio.gather(*tabs):
                assert [place for place, _ in told] == [place for place, _ in whole]
                assert told == whole
        assert sum(isinstance(event, RunStartedEvent) for _, event in whole) == 13
