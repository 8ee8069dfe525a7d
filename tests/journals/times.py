"""The times of a journal's groups: the part of the suite of a store that says when events were accepted."""

from __future__ import annotations

import pytest

from gapless.errors import CursorExpired, RunNotFound
from gapless.journals.contract import TIMES_MAX, Append
from gapless.records import RunStatus
from tests.journals.workers import Cluster, Worker, an_end, an_event

WORDS = 700
"""More than two segments of SQLite's and several nodes of a stream of Redis's."""


async def append_at(worker: Worker, run_id: str, first_seq: int, at: int, n: int = 1) -> None:
    batch = Append(run_id, first_seq, [an_event(f"{first_seq + i}") for i in range(n)], at=at)
    assert not await worker.store.append([batch])


async def times_of(worker: Worker, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[tuple[int, int]]:
    return [(time.seq, time.at) for time in await worker.store.times(run_id, after, limit)]


async def all_times(worker: Worker, run_id: str, page: int = 100) -> list[tuple[int, int]]:
    times: list[tuple[int, int]] = []
    while part := await times_of(worker, run_id, times[-1][0] if times else 0, page):
        assert len(part) <= page
        times += part
    return times


class Times:
    async def test_the_times_of_groups_are_read_from_any_position_in_any_page_size(self, a: Worker) -> None:
        await a.create("r")
        await append_at(a, "r", 1, 101)
        await append_at(a, "r", 2, 0, 3)  # soon behind it: it has no time of its own
        await append_at(a, "r", 5, 5_301, 2)
        await append_at(a, "r", 7, 90_000_001)
        expected = [(1, 101), (5, 5_301), (7, 90_000_001)]
        for after in range(9):
            for limit in range(1, 5):
                assert await times_of(a, "r", after, limit) == [t for t in expected if t[0] > after][:limit]
        assert [event[-4:-2] for event in await a.read_all("r")] == [f'"{n}'.encode() for n in range(1, 8)]

    async def test_a_run_without_times_is_read_without(self, a: Worker) -> None:
        await a.create("r")
        assert await times_of(a, "r") == []
        await a.append("r", 1, "1", "2")
        assert await times_of(a, "r") == []
        await a.end("r", 3)
        assert await times_of(a, "r") == []

    async def test_what_says_nothing_has_no_time(self, a: Worker) -> None:
        await a.create("r")
        await append_at(a, "r", 1, 101)
        assert not await a.store.append([Append("r", 2, [], status=RunStatus.WAITING, at=201)])
        await append_at(a, "r", 2, 301)
        assert await times_of(a, "r") == [(1, 101), (2, 301)]

    async def test_a_clock_that_was_set_back_shows(self, a: Worker) -> None:
        await a.create("r")
        for seq, at in ((1, 60_001), (2, 201), (3, 401)):
            await append_at(a, "r", seq, at)
        await a.end("r", 4)
        assert await times_of(a, "r") == [(1, 60_001), (2, 201), (3, 401)]

    async def test_runs_that_are_appended_to_together_have_each_their_times(self, a: Worker) -> None:
        for run_id in ("timed", "untimed"):
            await a.create(run_id, run_id)
        batches = [Append("timed", 1, [an_event("1")], at=201), Append("untimed", 1, [an_event("1")])]
        assert not await a.store.append(batches)
        assert await times_of(a, "timed") == [(1, 201)]
        assert await times_of(a, "untimed") == []

    async def test_times_of_a_long_run_are_the_same_while_it_goes_on_and_afterwards(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        expected = []
        for seq in range(1, WORDS, 2):
            at = seq * 160 + 1 if seq % 5 else 0
            await append_at(a, "r", seq, at, 2)
            expected += [(seq, at)] if at else []
        for worker in (a, b):
            assert await all_times(worker, "r", 33) == expected
        end = Append("r", WORDS + 1, [an_event("end")], an_end("r"), at=999_991)
        assert not await a.store.append([end])
        for worker in (a, b):
            assert await all_times(worker, "r") == [*expected, (WORDS + 1, 999_991)]

    async def test_the_times_of_a_killed_worker_stay_with_the_run_and_those_of_the_next_follow(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        await append_at(a, "r", 1, 101)
        await append_at(a, "r", 2, 301)
        await cluster.crash(a)
        await cluster.lapse(b)
        await append_at(b, "r", 3, 40_001)
        assert await times_of(b, "r") == [(1, 101), (2, 301), (3, 40_001)]
        await b.end("r", 4)
        assert await times_of(b, "r") == [(1, 101), (2, 301), (3, 40_001)]

    async def test_times_outlive_being_nobodys(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await append_at(a, "r", 1, 101)
        await a.store.release("r", 0)
        assert await times_of(b, "r") == [(1, 101)]
        assert await b.store.claim("r") is not None
        await append_at(b, "r", 2, 501)
        assert await times_of(a, "r") == [(1, 101), (2, 501)]

    async def test_times_go_with_the_events(self, a: Worker) -> None:
        with pytest.raises(RunNotFound):
            await times_of(a, "nobody")
        await a.create("r")
        await append_at(a, "r", 1, 101)
        await a.end("r", 2, ended_at=5)
        assert await a.store.expire(10) == 1
        with pytest.raises(CursorExpired):
            await times_of(a, "r")
        assert await a.store.delete_session("s")
        with pytest.raises(RunNotFound):
            await times_of(a, "r")
