"""What every store must do with subscriptions: where users are told of their runs. Part of the suite."""

from __future__ import annotations

import asyncio

from gapless.journals.subscriptions import Subscription
from tests.journals.workers import Cluster, Worker

__all__ = ["Subscribed"]

DATA = '{"endpoint": "https://push.example.com/é\u2028👩🏽‍🚀 {x}"}'.encode()
ODD = "\x00 {a}:b é"
"""A user's id."""


def one(id: str, kept_at: int, user_id: str = "u", data: bytes = DATA) -> Subscription:
    return Subscription(id, user_id, data, kept_at)


async def ids(worker: Worker, user_id: str = "u") -> list[str]:
    return [kept.id for kept in await worker.store.subscriptions.of_user(user_id)]


class Subscribed:
    """Keeping subscriptions, a few for each user, and dropping them."""

    async def test_what_one_worker_keeps_is_the_user_s_at_another(self, a: Worker, b: Worker) -> None:
        assert await b.store.subscriptions.of_user("u") == []
        await a.store.subscriptions.keep(one("x", 10), 5)
        await a.store.subscriptions.keep(one("y", 20, data=b"{}"), 5)
        await a.store.subscriptions.keep(one("z", 5, ODD), 5)
        assert await b.store.subscriptions.of_user("u") == [one("y", 20, data=b"{}"), one("x", 10)]
        assert await b.store.subscriptions.of_user(ODD) == [one("z", 5, ODD)]

    async def test_what_is_kept_again_is_replaced(self, a: Worker, b: Worker) -> None:
        await a.store.subscriptions.keep(one("x", 10), 5)
        await b.store.subscriptions.keep(one("y", 20), 5)
        await b.store.subscriptions.keep(one("x", 30, data=b'{"n": 2}'), 5)
        assert await a.store.subscriptions.of_user("u") == [one("x", 30, data=b'{"n": 2}'), one("y", 20)]

    async def test_a_browser_is_of_the_user_who_used_it_last(self, a: Worker, b: Worker) -> None:
        await a.store.subscriptions.keep(one("x", 10), 5)
        await b.store.subscriptions.keep(one("x", 20, ODD), 5)
        assert await ids(a) == []
        assert await a.store.subscriptions.of_user(ODD) == [one("x", 20, ODD)]
        assert not await a.store.subscriptions.drop("u", "x"), "it is theirs no more"
        assert await ids(b, ODD) == ["x"]

    async def test_what_was_kept_longest_ago_makes_room(self, a: Worker, b: Worker) -> None:
        for n in range(4):
            await a.store.subscriptions.keep(one(f"x{n}", 10 * n), 3)
            await a.store.subscriptions.keep(one(f"other{n}", 10 * n, ODD), 9)
        assert await ids(b) == ["x3", "x2", "x1"]
        await b.store.subscriptions.keep(one("x1", 50), 3)
        await a.store.subscriptions.keep(one("late", 1), 3)
        assert await ids(b) == ["x1", "x3", "late"], "by a clock that is behind; what is kept now stays"
        await a.store.subscriptions.keep(one("alone", 60), 1)
        assert await ids(a) == ["alone"]
        assert len(await ids(a, ODD)) == 4
        await a.store.subscriptions.keep(one("x1", 1, ODD), 9)
        assert "x1" in await ids(a, ODD), "what was dropped may be kept anew"

    async def test_of_those_that_come_at_once_no_more_stay_than_may(self, a: Worker, b: Worker) -> None:
        workers = [a, b] * 6
        await asyncio.gather(*(worker.store.subscriptions.keep(one(f"x{n}", n), 3) for n, worker in enumerate(workers)))
        assert len(await ids(a)) == 3

    async def test_what_is_dropped_is_gone(self, a: Worker, b: Worker) -> None:
        await a.store.subscriptions.keep(one("x", 10), 5)
        await a.store.subscriptions.keep(one("y", 20), 5)
        assert not await b.store.subscriptions.drop("u", "unknown")
        assert not await b.store.subscriptions.drop(ODD, "x")
        assert await b.store.subscriptions.drop("u", "x")
        assert not await a.store.subscriptions.drop("u", "x")
        assert await ids(a) == ["y"]

    async def test_what_was_kept_outlives_its_worker(self, cluster: Cluster, a: Worker) -> None:
        await a.store.subscriptions.keep(one("x", 10), 5)
        await cluster.crash(a)
        later = await cluster.worker("later")
        assert await ids(later) == ["x"]
