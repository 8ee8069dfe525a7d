"""What is done a time later, with one timer for all."""

from __future__ import annotations

import asyncio

import pytest

from gapless.http import later
from gapless.http.later import Later
from tests.support.waiting import until


async def test_each_is_seen_to_in_order_unless_it_is_taken_out_before():
    seen: list[str] = []
    waiting = Later(seen.append)
    for name in ("a", "b", "c"):
        waiting.add(name, 0.0)
    del waiting.due["b"]
    await until(lambda: len(seen) == 2, "both are seen to")
    assert seen == ["a", "c"]
    assert not waiting.due


async def test_one_that_is_added_again_is_seen_to_again():
    seen: list[str] = []

    def see(name: str) -> None:
        seen.append(name)
        if len(seen) < 3:
            waiting.add(name, 0.0)

    waiting = Later(see)
    waiting.add("a", 0.0)
    await until(lambda: seen == ["a"] * 3, "it is seen to three times")


async def test_others_have_their_turn_between_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(later, "AT_ONCE", 10)
    turns: list[int] = []
    turn = 0
    waiting: Later[int] = Later(lambda one: turns.append(turn))
    for one in range(25):
        waiting.add(one, 0.0)
    while waiting.due:
        turn += 1
        await asyncio.sleep(0)
    assert [turns.count(at) for at in sorted(set(turns))] == [10, 10, 5]


async def test_one_may_take_out_another_whose_time_has_come():
    seen: list[str] = []

    def see(name: str) -> None:
        seen.append(name)
        waiting.due.pop("b", None)

    waiting = Later(see)
    for name in ("a", "b"):
        waiting.add(name, 0.0)
    await until(lambda: not waiting.due, "all are seen to")
    assert seen == ["a"]


async def test_one_that_fails_holds_no_other_back():
    seen: list[str] = []
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def see(name: str) -> None:
        if name == "bad":
            raise ZeroDivisionError
        seen.append(name)

    waiting = Later(see)
    for name in ("bad", "good"):
        waiting.add(name, 0.0)
    await until(lambda: seen == ["good"], "the other is seen to")
    waiting.add("next", 0.0)
    await until(lambda: seen == ["good", "next"], "and the next")
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_it_goes_on_in_another_loop():
    seen: list[str] = []
    waiting = Later(seen.append)

    async def leave_one() -> None:
        waiting.add("a", 3600.0)
        waiting.due.clear()

    async def see() -> None:
        waiting.add("b", 0.0)
        await until(lambda: bool(seen), "it is seen to")

    asyncio.run(leave_one())
    asyncio.run(see())
    assert seen == ["b"]
