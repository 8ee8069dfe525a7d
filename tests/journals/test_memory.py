"""The store in memory passes the suite of every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gapless.errors import CursorExpired
from gapless.journals import memory, memory_pieces
from gapless.journals.contract import Store
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from gapless.sought import Sought
from tests.journals.conformance import Cluster, Conformance, conforms_in_any_order


class MemoryPlace:
    def __init__(self) -> None:
        self.memory = Memory()

    def store(self, clock: Callable[[], float]) -> Store:
        return MemoryStore(self.memory, monotonic=clock)

    async def crash(self, store: Store) -> None:
        pass


class TestMemoryStore(Conformance):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        return MemoryPlace()


def test_conforms_in_any_order() -> None:
    conforms_in_any_order(MemoryPlace, examples=200)


@pytest.mark.parametrize("what", ["expire", "delete"])
async def test_a_long_journal_is_let_go_piece_by_piece(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_pieces, "AT_ONCE_EVENTS", 10)
    cluster = Cluster(MemoryPlace())
    a = await cluster.worker("a")
    await a.create("r")
    await a.append("r", 1, *["x"] * 99)
    await a.end("r", 100, ended_at=1)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going = asyncio.create_task(others())
    if what == "expire":
        assert await a.store.expire(0, bytes_max=0) == 1
        with pytest.raises(CursorExpired):
            await a.store.read("r", 0, 1)
    else:
        assert await a.store.delete_session("s")
        assert await a.store.get_run("r") is None
    going.cancel()
    assert turns >= 9
    await cluster.close()


async def test_runs_with_an_error_are_found_without_a_look_at_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(MemoryPlace())
    a = await cluster.worker("a")
    for n in range(50):
        await a.create(f"r{n}", f"s{n}")
        failed = {"status": RunStatus.FAILED, "error": {"code": "agent_failed", "message": "ValueError"}}
        await a.end(f"r{n}", 1, **(failed if n in (3, 40) else {}))
    looked = list[str]()
    is_among = Sought.is_among

    def look(sought: Sought, run: RunRecord) -> bool:
        looked.append(run.id)
        return is_among(sought, run)

    monkeypatch.setattr(Sought, "is_among", look)
    assert [run.id for run in await a.store.find_runs(Sought(error="valueerror"))] == ["r40", "r3"]
    assert looked == ["r40", "r3"]
    await cluster.close()


async def test_others_have_their_turn_beside_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOKED_AT_ONCE", 5)
    cluster = Cluster(MemoryPlace())
    a = await cluster.worker("a")
    for n in range(50):
        await a.create(f"r{n}", f"s{n}", agent="rare" if n in (1, 30) else "often")
        await a.end(f"r{n}", 1)
    searching = asyncio.create_task(a.store.find_runs(Sought(agent="rare")))
    await asyncio.sleep(0)
    assert not searching.done()
    assert await a.store.delete_session("s30")  # what has gone meanwhile is not found
    await a.create("r50", "s50", agent="rare")
    assert [run.id for run in await searching] == ["r1"]
    assert [run.id for run in await a.store.find_runs(Sought(agent="rare"))] == ["r50", "r1"]
    await cluster.close()
