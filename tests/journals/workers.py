"""The workers of a store's tests: several instances of it on the same place, and what they hear of each other.

A worker that crashes is one that is dropped without `close`. Leases run on a clock that the tests move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gapless.events import UserMessage
from gapless.journals.contract import Append, Store
from gapless.records import ModelUsage, RunEnd, RunRecord, RunStatus, Turn

LEASE_S = 10.0
WAIT_S = 120.0
"""How long a test waits for what must happen: far more than it takes on a slow machine."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place(Protocol):
    """Where the stores of one test keep what they keep."""

    def store(self, clock: Callable[[], float]) -> Store: ...

    async def crash(self, store: Store) -> None:
        """End the instance as the death of its process would."""


class Heard:
    """A listener that notes what it is told, and keeps a copy of each watched journal by the rules of positions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._news = asyncio.Event()
        self.last: dict[str, int] = {}
        self.closed: set[str] = set()
        self.events: dict[str, dict[int, bytes]] = {}
        self.commands: list[tuple[str, bytes]] = []
        self.command_ids: list[int] = []
        self.wanted = 0
        self.sessions: dict[str, int] = {}
        """How often each watched session was told of."""
        self.of_users: list[tuple[str, str | None]] = []
        """Watched users, and which of their sessions was told of."""

    def on_events(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        for seq, event in enumerate(events, first_seq):
            assert self.events.setdefault(run_id, {}).setdefault(seq, event) == event, "a position never changes"
        self.last[run_id] = max(self.last.get(run_id, 0), first_seq + len(events) - 1)
        if closed:
            self.closed.add(run_id)
        self._news.set()

    def on_command(self, run_id: str, command: bytes, id: int = 0) -> None:
        self.commands.append((run_id, command))
        self.command_ids.append(id)
        self._news.set()

    def on_wanted(self) -> None:
        self.wanted += 1
        self._news.set()

    def on_session(self, session_id: str) -> None:
        self.sessions[session_id] = self.sessions.get(session_id, 0) + 1
        self._news.set()

    def on_user_session(self, user_id: str, session_id: str | None) -> None:
        self.of_users.append((user_id, session_id))
        self._news.set()

    def is_past(self, run_id: str, seq: int) -> bool:
        return run_id in self.closed or self.last.get(run_id, 0) > seq

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not happened():
                self._news.clear()
                await self._news.wait()


class Worker:
    def __init__(self, worker_id: str, store: Store) -> None:
        self.id = worker_id
        self.store = store
        self.heard = Heard(store)

    async def create(self, run_id: str, session_id: str = "s", *, reject_busy: bool = False, **more: Any) -> RunRecord:
        record, created = await self.store.create_run(a_run(run_id, session_id, **more), reject_busy=reject_busy)
        assert created
        return record

    async def append(self, run_id: str, first_seq: int, *texts: str, status: RunStatus | None = None) -> list[bytes]:
        events = [an_event(text) for text in texts]
        assert not await self.store.append([Append(run_id, first_seq, events, status=status)])
        return events

    async def end(self, run_id: str, first_seq: int, text: str = "end", **more: Any) -> bytes:
        event = an_event(text)
        assert not await self.store.append([Append(run_id, first_seq, [event], an_end(run_id, **more))])
        return event

    async def read_all(self, run_id: str, after: int = 0, page: int = 100) -> list[bytes]:
        events: list[bytes] = []
        while part := await self.store.read(run_id, after + len(events), page):
            assert len(part) <= page
            events += part
        return events


class Cluster:
    """The workers of one test."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.clock = Clock()
        self.workers: dict[str, Worker] = {}

    async def worker(self, worker_id: str) -> Worker:
        worker = Worker(worker_id, self.place.store(self.clock))
        await worker.store.open(worker_id, worker.heard)
        self.workers[worker_id] = worker
        return worker

    async def crash(self, worker: Worker) -> None:
        del self.workers[worker.id]
        await self.place.crash(worker.store)

    async def stop(self, worker: Worker) -> None:
        del self.workers[worker.id]
        await worker.store.close()

    async def lapse(self, *beating: Worker) -> dict[str, list[RunRecord]]:
        """Let a lease pass in which only these workers renew and look for dead ones; what each took over."""
        taken: dict[str, list[RunRecord]] = {worker.id: [] for worker in beating}
        for _ in range(4):  # the last one finds that a beat seen in the first has stood still
            self.clock.now += 0.4 * LEASE_S
            for worker in beating:
                await worker.store.renew()
            for worker in beating:
                taken[worker.id] += await worker.store.take_over(LEASE_S)
        return taken

    async def lose_and_win(self, loser: Worker, winner: Worker, run_id: str) -> list[RunRecord]:
        """Have one lose its lease to another and come back under a new id, to win one of its runs again; what the other
        took over."""
        taken = (await self.lapse(winner))[winner.id]
        await winner.store.release(run_id, 0)
        await loser.store.open(f"{loser.id}2", loser.heard)
        assert await loser.store.claim(run_id) is not None
        return taken

    async def close(self) -> None:
        for worker in self.workers.values():
            await worker.store.close()


def a_run(run_id: str, session_id: str = "s", *, user_id: str = "u", created_at: int = 1, **more: Any) -> RunRecord:
    message, agent = more.pop("message", "hello"), more.pop("agent", "agent")
    return RunRecord(
        id=run_id,
        session_id=session_id,
        user_id=user_id,
        agent=agent,
        message=message,
        created_at=created_at,
        input=UserMessage(id=f"{run_id}-in", content=message),
        **more,
    )


def an_event(text: str) -> bytes:
    return msgspec.json.encode({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": text})


def a_turn(run_id: str, text: str = "hi") -> Turn:
    messages = [{"id": f"{run_id}-out", "role": "assistant", "content": text}]
    return Turn(run_id=run_id, messages=msgspec.Raw(msgspec.json.encode(messages)), native=b"\x00\xffnative")


def an_end(
    run_id: str,
    status: RunStatus = RunStatus.FINISHED,
    *,
    ended_at: int = 100,
    state: dict[str, Any] | None = None,
    error: dict[str, str] | None = None,
    usage: list[ModelUsage] | None = None,
) -> RunEnd:
    return RunEnd(status=status, ended_at=ended_at, turn=a_turn(run_id), state=state, error=error, usage=usage)
