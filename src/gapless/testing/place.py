"""Several workers on one store in memory, and the loss of one of them: for tests of agents that go on elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from gapless.runs.runner import Runner

__all__ = ["Place"]

LEASE_S = 1000
WAIT_S = 120.0
"""Far more than anything takes on a slow and busy machine."""
LOOK_S = 0.005


class Place:
    """One store and its workers; its clock stands still unless a worker is lost."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = 0.0
        self.runners: list[Runner] = []

    async def worker(self, agent: Any, **options: Any) -> Runner:
        """Start another worker that has `agent`, under the name "agent"; `options` are those of `Runner`."""
        store = MemoryStore(self.memory, monotonic=lambda: self.now)
        runner = Runner(agents={"agent": agent}, store=store, lease_s=LEASE_S, **options)
        self.runners.append(runner)
        return await runner.open()

    async def lose(self, lost: Runner, *others: Runner) -> None:
        """Let the worker `lost` renew no more, and `others` notice."""
        self.runners.remove(lost)
        await lost._keeper.close()
        for _ in range(6):
            self.now += LEASE_S / 4
            for other in others:
                await other.sweep()
        lost.worker.on_fenced()
        await _until(lambda: not lost.executions, "what was lost has stopped")

    def record(self, run_id: str = "r") -> RunRecord:
        """Return what the store knows of the run `run_id`."""
        return self.memory.runs[run_id]

    async def is_parked(self, run_id: str = "r") -> None:
        """Wait until the run `run_id` is nobody's, and waits for a person."""

        def holds() -> bool:
            record = self.record(run_id)
            return record.owner == "" and record.status is RunStatus.WAITING

        await _until(holds, "the run is nobody's and waits")

    async def close(self) -> None:
        """Stop all workers."""
        for runner in self.runners:
            await runner.close()


async def _until(holds: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                if holds():
                    return
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"for {WAIT_S:.0f} s never: {what}") from None
