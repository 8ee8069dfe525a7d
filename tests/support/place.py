"""Several workers on one store in memory, and the loss of one of them."""

from __future__ import annotations

from typing import Any

from gapless import Runner
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord
from tests.support.waiting import until


class Place:
    """One store and its workers."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = 0.0
        self.runners: list[Runner] = []

    async def worker(self, agent: Any, **options: Any) -> Runner:
        store = MemoryStore(self.memory, monotonic=lambda: self.now)
        runner = Runner(agents={"agent": agent}, store=store, lease_s=1000, **options)
        self.runners.append(runner)
        return await runner.open()

    async def lose(self, lost: Runner, *others: Runner) -> None:
        """`lost` renews no more, and others notice."""
        self.runners.remove(lost)
        await lost._keeper.close()
        for _ in range(6):
            self.now += 250
            for other in others:
                await other.sweep()
        lost.worker.on_fenced()
        await until(lambda: not lost.executions, "what was lost has stopped")

    def record(self, run_id: str = "r") -> RunRecord:
        return self.memory.runs[run_id]

    async def is_parked(self, run_id: str = "r") -> None:
        await until(lambda: self.record(run_id).owner == "", "the run is nobody's")
