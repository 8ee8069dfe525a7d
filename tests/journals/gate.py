"""Holds the calls of several workers to a Redis server back, and lets them go in an order that a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from tests.journals.conformance import WAIT_S, Worker
from tests.journals.redis_place import put_between

__all__ = ["STEPS_MAX", "Gate"]

STEPS_MAX = 400


class Gate:
    """Holds the calls of several workers back, and lets them go one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._news = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def hold(self, worker: Worker, work: Any) -> None:
        async def held(execute: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            if asyncio.current_task() is not self.tasks[worker.id]:
                return await execute(*arguments, **options)
            turn = self._waiting[worker.id] = asyncio.get_running_loop().create_future()
            self._news.set()
            how = await turn
            if how == "cut before":
                raise ConnectionLost("cut before the call")
            answer = await execute(*arguments, **options)
            if how == "cut after":
                raise ConnectionLost("cut before the answer")
            return answer

        put_between(worker.store, held, self._patch)
        task = self.tasks[worker.id] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._news.set())

    async def all_held(self) -> list[str]:
        """Who waits for its turn, once everyone does or has ended."""
        async with asyncio.timeout(WAIT_S):
            while True:
                self._news.clear()
                going = [worker_id for worker_id, task in self.tasks.items() if not task.done()]
                if all(worker_id in self._waiting for worker_id in going):
                    return going
                await self._news.wait()

    async def play(self, schedule: Sequence[tuple[int, str]]) -> None:
        """As the schedule says; who has no turn left in it goes on when it is through."""
        for turn, how in schedule:
            if not await self.step(turn, how):
                return
        for _ in range(STEPS_MAX):
            if not await self.step(0):
                return
        raise AssertionError("the requests go on for ever")

    async def step(self, turn: int, how: str = "") -> bool:
        """One call of that worker, or of another that has not ended; False when all have."""
        going = await self.all_held()
        if not going:
            return False
        worker_ids = list(self.tasks)
        worker_id = worker_ids[turn % len(worker_ids)]
        self._waiting.pop(worker_id if worker_id in going else going[0]).set_result(how)
        return True
