"""What every store must do with notices: what is to be told of runs, kept until it is told. Part of the suite."""

from __future__ import annotations

import asyncio

from gapless.journals.contract import Append
from gapless.journals.outbox import Notice
from gapless.records import RunStatus
from tests.journals.workers import Cluster, Worker, an_end, an_event

__all__ = ["Outboxes"]

DATA = '{"n": 1, "text": "é\u2028👩🏽‍🚀"}'.encode()


def a_notice(id: str, run_id: str, due_at: int | None = 0, data: bytes = DATA) -> Notice:
    return Notice(id, run_id, data, due_at)


async def ends(worker: Worker, run_id: str, *notices: Notice, session_id: str = "", ended_at: int = 100) -> None:
    """Let a run begin and end, with these notices."""
    await worker.create(run_id, session_id or run_id)
    end = an_end(run_id, ended_at=ended_at)
    assert not await worker.store.append([Append(run_id, 1, [an_event("end")], end, notices=notices)])


class Outboxes:
    """Writing notices with what they tell of, taking them one worker at a time, and settling them."""

    async def test_a_notice_is_due_once_what_it_tells_of_is_accepted(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await b.store.outbox.take(10**13, 10**13 + 1) == []
        batch = Append("r", 1, [an_event("?")], status=RunStatus.WAITING, notices=[a_notice("n1", "r", 50)])
        assert not await a.store.append([batch])
        assert await b.store.outbox.take(49, 100) == []
        assert await b.store.outbox.take(50, 100) == [a_notice("n1", "r", 100)]
        last = Append(
            "r", 2, [an_event("end")], an_end("r"), notices=[a_notice("n2", "r", 60), a_notice("n3", "r", 55)]
        )
        assert not await a.store.append([last])
        assert [notice.id for notice in await a.store.outbox.take(60, 100)] == ["n3", "n2"]
        assert {notice.id for notice in await b.store.outbox.of_run("r")} == {"n1", "n2", "n3"}
        assert await b.store.outbox.of_run("unknown") == []

    async def test_what_is_refused_is_not_told(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.append("r", 1, "1")
        other = Append("r", 2, [an_event("end")], an_end("r"), notices=[a_notice("n", "r")])
        assert list(await b.store.append([other])) == ["r"]
        assert await b.store.outbox.take(1, 2) == []
        assert await b.store.outbox.of_run("r") == []

    async def test_one_worker_at_a_time_has_a_notice(self, a: Worker, b: Worker) -> None:
        for n in range(20):
            await ends(a, f"r{n}", a_notice(f"n{n}", f"r{n}", n))
        taken = await asyncio.gather(*(worker.store.outbox.take(100, 200, 7) for worker in (a, b, a, b)))
        taken.append(await a.store.outbox.take(100, 200))  # at the same instant, one may get fewer than there are
        assert sorted(notice.id for part in taken for notice in part) == sorted(f"n{n}" for n in range(20))
        assert max(map(len, taken[:-1])) == 7
        assert await a.store.outbox.take(199, 300) == []
        again = [notice.id for notice in await b.store.outbox.take(200, 300)]
        assert sorted(again) == sorted(f"n{n}" for n in range(20)), "who has taken them did not say what became of them"

    async def test_a_settled_notice_is_due_when_its_worker_says(self, a: Worker, b: Worker) -> None:
        await ends(a, "r", a_notice("later", "r"), a_notice("told", "r"))
        later, told = sorted(await a.store.outbox.take(10, 20), key=lambda notice: notice.id)
        later.data, told.data = b'{"tried": 1}', b'{"told": true}'
        assert await a.store.outbox.settle(later, 70)
        assert await a.store.outbox.settle(told, None)
        assert await b.store.outbox.take(69, 100) == []
        assert await b.store.outbox.take(70, 100) == [Notice("later", "r", b'{"tried": 1}', 100)]
        assert await b.store.outbox.take(10**13, 10**13 + 1) == [Notice("later", "r", b'{"tried": 1}', 10**13 + 1)]
        kept = {notice.id: notice for notice in await b.store.outbox.of_run("r")}
        assert kept["told"] == Notice("told", "r", b'{"told": true}', None)

    async def test_who_comes_late_settles_nothing(self, a: Worker, b: Worker) -> None:
        await ends(a, "r", a_notice("n", "r"))
        (late,) = await a.store.outbox.take(10, 20)
        (second,) = await b.store.outbox.take(20, 30)
        late.data, second.data = b'"late"', b'"second"'
        assert not await a.store.outbox.settle(late, None)
        assert (await a.store.outbox.of_run("r"))[0] == a_notice("n", "r", 30)
        assert await b.store.outbox.settle(second, None)
        assert not await a.store.outbox.settle(late, 40)
        assert (await a.store.outbox.of_run("r"))[0] == Notice("n", "r", b'"second"', None)
        assert not await a.store.outbox.settle(a_notice("unknown", "r"), None)

    async def test_what_was_told_is_told_again_when_that_is_asked_for(self, a: Worker, b: Worker) -> None:
        await ends(a, "r", a_notice("n", "r"))
        (taken,) = await a.store.outbox.take(10, 20)
        assert await a.store.outbox.settle(taken, None)
        (kept,) = await b.store.outbox.of_run("r")
        assert await b.store.outbox.settle(kept, 50)
        assert not await a.store.outbox.settle(kept, 60), "one asks, not two"
        assert await a.store.outbox.take(50, 60) == [a_notice("n", "r", 60)]

    async def test_a_lost_worker_s_notices_are_told_by_others(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await ends(a, "ended", a_notice("n1", "ended"))
        await a.create("waits")
        batch = Append("waits", 1, [an_event("?")], status=RunStatus.WAITING, notices=[a_notice("n2", "waits")])
        assert not await a.store.append([batch])
        await cluster.crash(a)
        assert {notice.id for notice in await b.store.outbox.take(1, 2)} == {"n1", "n2"}
        await cluster.lapse(b)
        assert {notice.id for notice in await b.store.outbox.take(2, 3)} == {"n1", "n2"}

    async def test_notices_go_with_their_session(self, a: Worker, b: Worker) -> None:
        await ends(a, "r", a_notice("n1", "r"), a_notice("n2", "r"), session_id="s")
        taken = await a.store.outbox.take(1, 10)
        assert await a.store.outbox.settle(taken[0], None)
        assert await b.store.delete_session("s")
        assert await b.store.outbox.take(10, 20) == []
        assert await b.store.outbox.of_run("r") == []
        assert not await a.store.outbox.settle(taken[1], 5)
        await a.create("r", "s")
        assert await a.store.outbox.of_run("r") == []

    async def test_notices_go_with_their_run_s_events_once_they_are_told(self, a: Worker, b: Worker) -> None:
        await ends(a, "r", a_notice("n1", "r"), a_notice("n2", "r"), ended_at=10)
        first, second = await a.store.outbox.take(1, 100)
        assert await a.store.outbox.settle(first, None)
        assert await b.store.expire(15) == 1
        assert [notice.id for notice in await b.store.outbox.of_run("r")] == [second.id]
        assert await b.store.outbox.settle(second, None)
        assert await a.store.outbox.of_run("r") == []
        assert await a.store.get_run("r") is not None

    async def test_notices_wait_through_a_change_of_workers(self, cluster: Cluster, a: Worker) -> None:
        await ends(a, "r", a_notice("n", "r"))
        (taken,) = await a.store.outbox.take(10, 20)
        b = await cluster.worker("b")
        await cluster.stop(a)
        assert await b.store.outbox.take(19, 30) == []
        assert await b.store.outbox.take(20, 30) == [a_notice("n", "r", 30)]
        assert taken.due_at == 20
