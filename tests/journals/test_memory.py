"""The store in memory passes the suite of every store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gapless.journals.contract import Store
from gapless.journals.memory import Memory, MemoryStore
from tests.journals.conformance import Conformance, conforms_in_any_order


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
