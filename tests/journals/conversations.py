"""What is told of a session as a whole, in every store: a part of the conformance suite."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gapless.errors import RunNotFound
from gapless.journals.contract import EVERYONE
from gapless.records import RunRecord, RunStatus, SessionRecord, listed_run
from tests.journals.workers import Cluster, Worker


class Conversations:
    """Tests with two workers, `a` and `b`, of one store."""

    async def test_the_runs_of_a_session_are_read_in_the_order_of_their_creation(self, a: Worker, b: Worker) -> None:
        for n in range(9):
            await (a, b)[n % 2].create(f"r{n}", created_at=9 - n)
            await (b, a)[n % 2].create(f"other{n}", "s2")
        await a.end("r0", 1)
        await b.end("r5", 1, status=RunStatus.CANCELLED)
        for worker in (a, b):
            ask = worker.store.session_runs
            whole = await ask("s")
            assert ids(whole) == [f"r{n}" for n in range(9)]
            assert whole == [listed_run(run) for run in [await worker.store.get_run(run.id) for run in whole] if run]
            assert ids(await ask("s", active=True)) == ["r1", "r2", "r3", "r4", "r6", "r7", "r8"]
            for n in range(9):
                for limit in (1, 3, 100):
                    assert ids(await ask("s", f"r{n}", limit)) == [f"r{m}" for m in range(n + 1, 9)][:limit]
            assert ids(await ask("s", "r5", 2, active=True)) == ["r6", "r7"]
            assert await ask("nobody's") == []
            for unknown in ("nobody", "other3"):
                with pytest.raises(RunNotFound):
                    await ask("s", unknown)
        await a.store.delete_session("nobody's")
        for n in (1, 2, 3, 4, 6, 7, 8):
            await (a, b)[n % 2].end(f"r{n}", 1)
        assert await b.store.session_runs("s", active=True) == []
        await a.store.delete_session("s")
        assert await b.store.session_runs("s") == []
        with pytest.raises(RunNotFound):
            await b.store.session_runs("s", "r0")

    async def test_runs_that_many_workers_create_at_once_have_one_order_for_all(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        async def create(worker: Worker, n: int) -> None:
            await worker.create(f"{worker.id}{n}")

        await asyncio.gather(*(create(worker, n) for n in range(10) for worker in (a, b)))
        order = ids(await a.store.session_runs("s"))
        assert len(order) == 20
        assert ids(await b.store.session_runs("s")) == order
        c = await cluster.worker("c")
        read: list[str] = []
        while page := ids(await c.store.session_runs("s", read[-1] if read else None, 3)):
            read += page
        assert read == order

    async def test_who_watches_a_session_is_told_of_every_change_whoever_makes_it(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        for worker in (a, b):
            await worker.store.watch_session("s")

        async def told_of(change: Callable[[], Awaitable[Any]]) -> None:
            for worker in (a, b):
                worker.heard.sessions.clear()
            await change()
            for worker in (a, b):
                await until_told(worker)

        await told_of(lambda: a.store.start_run("r", 5))
        await told_of(lambda: b.create("next"))
        await told_of(lambda: a.append("r", 1, "asks", status=RunStatus.WAITING))
        await told_of(lambda: b.store.answer("r", 1, b"yes"))
        await told_of(lambda: b.store.rename_session("s", "new"))
        await told_of(lambda: a.end("r", 2))
        await told_of(lambda: b.end("next", 1))
        await told_of(lambda: a.store.update_state("s", {"k": 1}, 7))
        await told_of(lambda: b.store.delete_session("s"))
        assert a.heard.sessions.keys() == b.heard.sessions.keys() == {"s"}

    async def test_who_watches_a_session_hears_of_no_other_and_of_nothing_once_it_has_stopped(
        self, a: Worker, b: Worker
    ) -> None:
        await a.create("r", "s")
        await a.create("q", "s2")
        await b.store.watch_session("s2")
        await a.store.start_run("r", 1)
        await a.store.start_run("q", 1)
        await b.heard.until(lambda: "s2" in b.heard.sessions)
        assert b.heard.sessions.keys() == {"s2"}
        await b.store.watch_session("s")
        await b.store.unwatch_session("s2")
        await b.store.unwatch_session("s2")
        await b.store.unwatch_session("never watched")
        before = b.heard.sessions["s2"]
        await a.end("q", 1)
        await a.end("r", 1)
        await b.heard.until(lambda: "s" in b.heard.sessions)
        assert b.heard.sessions["s2"] <= before + 1, "one that was under way"
        assert not a.heard.sessions

    async def test_a_session_is_watched_before_there_is_anything_of_it(self, a: Worker, b: Worker) -> None:
        await b.store.watch_session("s\x00{é}")
        await a.create("r", "s\x00{é}")
        await b.heard.until(lambda: bool(b.heard.sessions))
        assert b.heard.sessions.keys() == {"s\x00{é}"}

    async def test_who_watches_a_user_is_told_of_every_change_of_each_of_their_sessions(
        self, a: Worker, b: Worker
    ) -> None:
        user = "é {u}:1"
        for worker in (a, b):
            await worker.store.watch_user(user)

        async def told_of(change: Callable[[], Awaitable[Any]], session_id: str = "s") -> None:
            for worker in (a, b):
                worker.heard.of_users.clear()
            await change()
            for worker in (a, b):
                await worker.heard.until(functools.partial(worker.heard.of_users.__contains__, (user, session_id)))

        await told_of(lambda: a.create("r", user_id=user))
        await told_of(lambda: a.store.start_run("r", 5))
        await told_of(lambda: b.create("other", "s2", user_id=user), "s2")
        await told_of(lambda: a.append("r", 1, "asks", status=RunStatus.WAITING))
        await told_of(lambda: b.store.answer("r", 1, b"yes"))
        await told_of(lambda: b.store.rename_session("s", "new"))
        await told_of(lambda: a.end("r", 2))
        await told_of(lambda: b.end("other", 1), "s2")
        await told_of(lambda: a.store.update_state("s", {"k": 1}, 7))
        empty = SessionRecord(id="s3", user_id=user, agent="agent", created_at=1, updated_at=1)
        await told_of(lambda: b.store.create_session(empty), "s3")
        await told_of(lambda: b.store.delete_session("s"))
        assert not a.heard.sessions

    async def test_who_watches_a_user_hears_of_no_other_user_and_of_nothing_once_it_has_stopped(
        self, a: Worker, b: Worker
    ) -> None:
        await b.store.watch_user("u1")
        await b.store.watch_user("u2")
        await b.store.unwatch_user("u1")
        await b.store.unwatch_user("never watched")
        await a.create("r", "s1", user_id="u1")
        await a.create("q", "s3", user_id="u3")
        await a.create("p", "s2", user_id="u2")
        await b.heard.until(lambda: ("u2", "s2") in b.heard.of_users)
        assert {user_id for user_id, _ in b.heard.of_users} == {"u2"}
        assert not a.heard.of_users

    async def test_who_watches_everyone_is_told_of_all_users_sessions(self, a: Worker, b: Worker) -> None:
        for worker in (a, b):
            await worker.store.watch_user(EVERYONE)
        await b.store.watch_user("u1")
        await a.create("r", "s1", user_id="u1")
        await b.create("q", "s2", user_id="u2")
        for worker in (a, b):
            for session_id in ("s1", "s2"):
                told = (EVERYONE, session_id)
                await worker.heard.until(functools.partial(worker.heard.of_users.__contains__, told))
        await b.heard.until(lambda: ("u1", "s1") in b.heard.of_users)
        assert {user_id for user_id, _ in a.heard.of_users} == {EVERYONE}
        await a.store.unwatch_user(EVERYONE)
        a.heard.of_users.clear()
        b.heard.of_users.clear()
        await b.end("q", 1)
        await b.heard.until(lambda: (EVERYONE, "s2") in b.heard.of_users)


async def until_told(worker: Worker) -> None:
    await worker.heard.until(lambda: "s" in worker.heard.sessions)


def ids(runs: list[RunRecord]) -> list[str]:
    return [run.id for run in runs]
