"""How runs come from worker to worker: the part of the suite of a store that says what it keeps of that."""

from __future__ import annotations

import pytest

from gapless.errors import RunNotFound
from gapless.journals.contract import WorkerFenced
from gapless.moves import MOVES_MAX, PARKED, PASSED_ON, Move, Moves
from gapless.records import RunStatus, now_ms
from tests.journals.workers import Cluster, Worker


async def ways(worker: Worker, run_id: str = "r") -> list[tuple[int, str, str, str]]:
    """Where, why, from whom and to whom the run has moved, oldest first."""
    kept = await worker.store.moves(run_id)
    assert kept.left_out == 0
    return [(move.seq, move.what, move.from_worker, move.to_worker) for move in kept.moves]


class Moved:
    async def test_a_run_that_stays_has_no_moves(self, a: Worker) -> None:
        assert await a.store.moves("nobody") == Moves()
        await a.create("r")
        await a.append("r", 1, "1")
        assert await a.store.moves("r") == Moves()
        await a.end("r", 2)
        assert await a.store.moves("r") == Moves()

    async def test_one_that_is_taken_over_says_from_whom_where_and_when(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        await a.create("other", "another")
        await a.append("r", 1, "1", "2", "3")
        began = now_ms()
        await cluster.crash(a)
        await cluster.lapse(b)
        (move,) = (await b.store.moves("r")).moves
        assert move == Move(seq=3, what="taken over", at=move.at, ended_at=move.at, from_worker="a", to_worker="b")
        assert began <= move.at <= now_ms()
        assert await ways(b, "other") == [(0, "taken over", "a", "b")]
        c = await cluster.worker("c")
        await b.append("r", 4, "4")
        await cluster.crash(b)
        await cluster.lapse(c)
        await c.end("r", 5)
        assert await ways(c) == [(3, "taken over", "a", "b"), (4, "taken over", "b", "c")], "also when it has ended"

    async def test_one_that_is_handed_over_is_nobodys_in_between(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await a.store.start_run("r", 1) is None
        await a.append("r", 1, "1", "2")
        began = now_ms()
        await a.store.release("r", 0)
        (left,) = (await b.store.moves("r")).moves
        assert left == Move(seq=2, what="handed over", at=left.at, from_worker="a")
        assert await b.store.claim("r") is not None
        (move,) = (await a.store.moves("r")).moves
        assert (move.at, move.from_worker, move.to_worker) == (left.at, "a", "b")
        assert move.ended_at is not None
        assert began <= move.at <= move.ended_at <= now_ms()

    async def test_one_that_waits_is_parked_and_continued_by_whoever_hears_the_answer(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        assert await a.store.start_run("r", 1) is None
        await a.append("r", 1, "asks", status=RunStatus.WAITING)
        assert await a.store.release("r", None, PARKED) is False
        assert await ways(b) == [(1, "parked", "a", "")]
        await b.store.answer("r", 1, b"yes")
        assert await b.store.claim("r") is not None
        assert await ways(b) == [(1, "parked", "a", "b")]
        await b.append("r", 2, "goes on")
        await b.store.release("r", 0)
        assert await a.store.claim("r") is not None
        await cluster.crash(a)
        await cluster.lapse(b)
        assert await ways(b) == [(1, "parked", "a", "b"), (2, "handed over", "b", "a"), (2, "taken over", "a", "b")]

    async def test_why_a_run_is_released_is_kept_as_it_is_said(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await a.store.start_run("r", 1) is None
        assert await a.store.release("r", 0, PASSED_ON) is True
        assert await b.store.claim("r") is not None
        await b.append("r", 1, "asks", status=RunStatus.WAITING)
        await b.store.answer("r", 1, b"yes")
        assert await b.store.release("r", None, PARKED) is True, "it was answered meanwhile"
        assert await ways(a) == [(0, "passed on", "a", "b"), (1, "parked", "b", "")]

    async def test_what_is_refused_moves_nothing(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await b.store.release("r", 0) is False
        assert await b.store.claim("r") is None
        assert await a.store.moves("r") == Moves()
        await cluster.lapse(b)
        moved = await ways(b)
        assert moved == [(0, "taken over", "a", "b")]
        for move in (a.store.release("r", 0), a.store.claim("r"), a.store.take_over(10)):
            with pytest.raises(WorkerFenced):
                await move
        assert await ways(b) == moved

    async def test_of_very_many_the_newest_are_kept_and_the_others_counted(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.create("other", "another")
        await a.store.release("other", 0)
        owner, other = a, b
        for _ in range(MOVES_MAX + 3):
            await owner.store.release("r", 0)
            owner, other = other, owner
            assert await owner.store.claim("r") is not None
        kept = await a.store.moves("r")
        assert (len(kept.moves), kept.left_out) == (MOVES_MAX, 3)
        assert (kept.moves[0].from_worker, kept.moves[-1].to_worker) == ("b", owner.id)
        assert await ways(a, "other") == [(0, "handed over", "a", "")], "of each run"

    async def test_they_go_with_the_runs_events(self, a: Worker, b: Worker) -> None:
        for run_id in ("expires", "deleted"):
            await a.create(run_id, run_id)
            await a.append(run_id, 1, "1")
            await a.store.release(run_id, 0)
            assert await b.store.claim(run_id) is not None
            await b.end(run_id, 2, ended_at=5)
            assert len(await ways(a, run_id)) == 1
        assert await a.store.delete_session("deleted")
        assert await a.store.moves("deleted") == Moves()
        assert await a.store.expire(10) == 1
        assert await a.store.moves("expires") == Moves()
        with pytest.raises(RunNotFound):
            await a.store.read("deleted", 0, 1)
        await a.create("deleted", "deleted")
        assert await a.store.moves("deleted") == Moves(), "another run of that id"
