"""The turns that a worker keeps: it reads what is new, and never tells another session's."""

from __future__ import annotations

import msgspec
import pytest

from gapless.journals.memory import Memory, MemoryStore
from gapless.records import Turn
from gapless.runs import turns as module
from gapless.runs.turns import KeptTurns


class Counting(MemoryStore):
    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.reads: list[int] = []

    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        found = await super().turns(session_id, skip)
        self.reads.append(len(found))
        return found


def a_turn(run_id: str, text: str = "x") -> Turn:
    return Turn(run_id=run_id, messages=msgspec.Raw(b'["%b"]' % text.encode()), native=b"native")


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def store(memory: Memory) -> Counting:
    return Counting(memory)


async def test_only_what_is_new_is_read(memory: Memory, store: Counting) -> None:
    turns = KeptTurns(store)
    assert await turns.of("s") == []
    memory.turns["s"] = [a_turn(str(number)) for number in range(100)]
    assert len(await turns.of("s")) == 100
    store.reads.clear()
    before = await turns.of("s")
    memory.turns["s"] += [a_turn("100"), a_turn("101")]
    assert await turns.of("s") == memory.turns["s"]
    assert store.reads == [1, 3], "the last one known, and what came behind it"
    assert len(before) == 100, "what was given out stays as it was"


@pytest.mark.parametrize("again", [0, 3, 5, 9])
async def test_a_session_that_was_dropped_and_begun_anew_is_read_anew(
    memory: Memory, store: Counting, again: int
) -> None:
    turns = KeptTurns(store)
    memory.turns["s"] = [a_turn(f"old-{number}") for number in range(5)]
    await turns.of("s")
    memory.turns["s"] = [a_turn(f"new-{number}") for number in range(again)]
    assert await turns.of("s") == memory.turns["s"]
    memory.turns["s"] = [a_turn(f"new-{number}", "other") for number in range(again)]
    assert await turns.of("s") == memory.turns["s"]


async def test_what_was_read_longest_ago_is_dropped_first(
    memory: Memory, store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES_MAX", 20_000)
    turns = KeptTurns(store)
    for name in "abc":
        memory.turns[name] = [a_turn(f"{name}-{number}", "y" * 400) for number in range(8)]
        await turns.of(name)
    await turns.of("b")
    memory.turns["d"] = [a_turn("d", "z" * 30_000)]
    assert await turns.of("d") == memory.turns["d"]
    assert turns._bytes == 0, "one that is larger than all may be leaves nothing"
    for name in "abc":
        assert await turns.of(name) == memory.turns[name]
    await turns.of("a")
    assert list(turns._kept) == ["c", "a"]
