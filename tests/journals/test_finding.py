"""Finding runs by what a store may have no list of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gapless.journals import finding
from gapless.journals.finding import Search, find_by_pages
from gapless.records import Listing, RunRecord, RunStatus
from gapless.sought import Found, Sought

MINUTE_MS = 60_000
RUNS = [
    RunRecord(
        id=f"r{n}",
        session_id="s",
        user_id="u",
        agent="odd" if n % 2 else "even",
        message="m",
        created_at=n * MINUTE_MS,
        status=RunStatus.FAILED if n % 3 == 0 else RunStatus.FINISHED,
        error={"code": "agent_failed", "message": f"Number {n}"} if n % 3 == 0 else None,
    )
    for n in range(30, 0, -1)
]


def still() -> float:
    return 0.0


async def listed(limit: int, after: str | None) -> Listing[RunRecord]:
    start = int(after or 0)
    end = start + limit
    return Listing(RUNS[start:end], str(end) if end < len(RUNS) else None)


async def by_pages(sought: Sought, limit: int, after: str | None) -> Found:
    return await find_by_pages(listed, sought, limit, after, monotonic=still)


async def by_search(sought: Sought, limit: int, after: str | None) -> Found:
    search = Search(sought, limit, monotonic=still)
    for run in RUNS:
        place = int(run.id[1:])
        if (after is None or place < int(after)) and not search.sees(place, run.status, run):
            break
    return search.page([run for run in RUNS if int(run.id[1:]) in search.places])


@pytest.mark.parametrize("find", [by_pages, by_search])
async def test_pages_of_any_size_have_the_same_runs(find: Callable[..., Found]) -> None:
    async def found(sought: Sought, limit: int) -> list[int]:
        numbers: list[int] = []
        after = None
        while True:
            part = await find(sought, limit, after)  # type: ignore[misc]  # it is awaited
            assert len(part) <= limit
            numbers += [run.created_at // MINUTE_MS for run in part]
            if part.next is None:
                return numbers
            after = part.next

    for limit in (1, 2, 7, 100):
        assert await found(Sought(agent="odd"), limit) == list(range(29, 0, -2))
        assert await found(Sought(error="NUMBER 1"), limit) == [18, 15, 12]
        assert await found(Sought(since=10 * MINUTE_MS, until=12 * MINUTE_MS), limit) == [12, 11, 10]
        assert await found(Sought(status=RunStatus.FAILED, agent="odd"), limit) == [27, 21, 15, 9, 3]
        assert await found(Sought(user_id="nobody"), limit) == []


async def test_what_is_too_old_is_not_looked_at() -> None:
    part = await by_search(Sought(since=28 * MINUTE_MS), 4, None)
    assert (len(part), part.next) == (3, None)
    assert part.looked == 5, "clocks differ by a minute"
    assert (await by_pages(Sought(since=28 * MINUTE_MS), 5, None)).next is None


async def test_a_page_takes_so_long_and_the_next_goes_on() -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            yield (now := now + finding.LOOK_S_MAX * 0.3)

    part = await find_by_pages(listed, Sought(agent="nobody"), 5, None, monotonic=clock().__next__)
    assert (list(part), part.next, part.looked, part.left) == ([], "20", 20, 19)
    search = Search(Sought(agent="nobody"), 5, monotonic=clock().__next__)
    assert [search.sees(place, "", None) for place in (9, 8, 7, 6)] == [True, True, True, False]
    assert (search.next, search.page([]).left) == ("6", 5)


async def test_a_page_looks_at_so_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "LOOKED_MAX", 10)
    for find in (by_pages, by_search):
        part = await find(Sought(agent="nobody"), 5, None)
        assert (list(part), part.looked) == ([], 10)
        assert part.next is not None
    assert len(await by_search(Sought(user_id="u"), 20, None)) == 20, "what is found is no search"
