"""Many at once hold up nobody."""

from __future__ import annotations

import asyncio
import itertools

from gapless.runs.pace import TURNS, Pace


async def test_so_many_go_in_one_turn_of_the_loop_and_in_order() -> None:
    pace, turns, gone = Pace(10), [0], list[tuple[int, int]]()

    def tick() -> None:
        turns[0] += 1
        asyncio.get_running_loop().call_soon(tick)

    async def one(number: int) -> None:
        await pace.turn()
        gone.append((number, turns[0]))

    tick()
    tasks = [asyncio.create_task(one(number)) for number in range(95)]
    await asyncio.sleep(0)
    tasks[50].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number, _ in gone] == [number for number in range(95) if number != 50]
    at = [turn for _, turn in gone]
    assert max(at.count(turn) for turn in at) == 10
    assert at[-1] - at[0] <= 10 * TURNS
    assert all(later - turn >= TURNS for turn, later in itertools.pairwise(sorted(set(at)))), "others go on between"
    for _ in range(3):  # one after another waits for nothing
        before = turns[0]
        await pace.turn()
        assert turns[0] == before
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_what_is_called_goes_at_once_while_few_are_and_else_in_order() -> None:
    pace, called = Pace(2), list[int]()
    for number in range(5):
        pace.call(lambda number=number: called.append(number))  # type: ignore[misc]  # mypy infers no default's type
    assert called == [0, 1]
    for expected in ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
        assert called == expected
        for _ in range(TURNS):
            await asyncio.sleep(0)
