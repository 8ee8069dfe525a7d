"""Finding runs by what no store has a list of."""

from __future__ import annotations

from gapless.records import Listing, RunRecord
from gapless.runs.finding import Sought, find_runs

RUNS = [
    RunRecord(
        id=f"r{n}",
        session_id="s",
        user_id="u",
        agent="odd" if n % 2 else "even",
        message="m",
        created_at=n,
        error={"code": "agent_failed", "message": f"Number {n}"} if n % 3 == 0 else None,
    )
    for n in range(30, 0, -1)
]


async def page(limit: int, after: str | None) -> Listing[RunRecord]:
    start = int(after or 0)
    end = start + limit
    return Listing(RUNS[start:end], str(end) if end < len(RUNS) else None)


async def found(sought: Sought, limit: int) -> list[int]:
    ids: list[int] = []
    after = None
    while True:
        part = await find_runs(page, sought, limit=limit, after=after)
        assert len(part) <= limit
        ids += [run.created_at for run in part]
        if part.next is None:
            return ids
        after = part.next


async def test_pages_of_any_size_have_the_same_runs() -> None:
    for limit in (1, 2, 7, 100):
        assert await found(Sought(agent="odd"), limit) == list(range(29, 0, -2))
        assert await found(Sought(error="NUMBER 1"), limit) == [18, 15, 12]
        assert await found(Sought(since=10, until=12), limit) == [12, 11, 10]


async def test_what_is_too_old_is_not_looked_at() -> None:
    looked: list[str | None] = []

    async def watched(limit: int, after: str | None) -> Listing[RunRecord]:
        looked.append(after)
        return await page(limit, after)

    assert len(await find_runs(watched, Sought(since=28), limit=4)) == 3
    assert looked == [None]


async def test_a_page_takes_so_long_and_the_next_goes_on() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.06
        return now

    part = await find_runs(page, Sought(agent="nobody"), limit=5, monotonic=clock)
    assert list(part) == []
    assert part.next == "10"
