"""A store across a network that delays, loses and cuts, and a ledger of what it really accepted.

Behind it is the store in memory; what is faulty is the way to it. A call travels, is served in the world's time and not
the caller's (who may be paused or dead by then), and its answer travels back. What other workers did and commands come
in order, late, perhaps twice; what a cut lost is asked for afterwards, as the contract wants it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, ClassVar

from gapless.errors import StoreUnavailable
from gapless.journals.contract import (
    TIMES_MAX,
    WANTED_MAX,
    Append,
    Checkpoint,
    GroupTime,
    Listener,
    Store,
    WorkerFenced,
)
from gapless.journals.memory import Memory, MemoryStore
from gapless.moves import HANDED_OVER, Moves
from gapless.records import ACTIVE, Listing, RunRecord, RunStatus, SessionRecord, Turn
from tests.simulation.clock import Process, SimulatedLoop

__all__ = ["FaultyStore", "Ledger", "Weather"]

TIMEOUT_S = 0.5
"""After which a call over a cut connection fails."""


class Weather:
    """How the network is, for all."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.slow = 0.0
        """Of this share of the messages, each takes up to fifty times as long."""
        self.fails = 0.0
        """So many calls fail before they are served …"""
        self.loses = 0.0
        """… and so many answers are lost."""
        self.repeats = 0.0
        """So many messages come twice."""


class Ledger:
    """What the store did, written down apart from it."""

    def __init__(
        self, loop: SimulatedLoop, report: Callable[[str], None], trace: Callable[[str], None], tracing: bool
    ) -> None:
        self.loop = loop
        self.weather = Weather()
        self.memory = Memory()
        self.report = report
        """Say that an invariant does not hold."""
        self.trace = trace
        self.tracing = tracing
        """Somebody will read the trace."""
        self.owners: dict[str, str] = {}
        """Worker ids by run, as creating and taking over made them."""
        self.taken: dict[str, int] = {}
        """How often each run was taken over."""
        self.claimed: dict[str, int] = {}
        """How often each run was claimed."""
        self.checkpoints: dict[str, list[int]] = {}
        """The positions of all its checkpoints that were accepted, in order."""
        self.workers: dict[str, FaultyStore] = {}


class FaultyStore(Store):
    """What one process has of the store."""

    shared: ClassVar[bool] = False
    commit_interval_s: ClassVar[float] = 0.001

    @classmethod
    def from_url(cls, url: str) -> Store:
        raise NotImplementedError

    def __init__(self, ledger: Ledger, process: Process) -> None:
        self.ledger = ledger
        self.process = process
        self.outbox = ledger.memory.outbox
        self.subscriptions = ledger.memory.subscriptions
        self.cut = False
        """The network between this process and the store is gone."""
        self._missed: set[str] = set()
        """Runs of which a command was not heard while it was."""
        self.appends = 0
        self._loop = ledger.loop
        self._in_world = ledger.loop.in_world
        self._inner = MemoryStore(ledger.memory, monotonic=ledger.loop.time)
        self._listener: Listener | None = None
        self._worker_id = ""
        self._doubtful: dict[str, object] = {}
        """Runs that are this worker's without anyone here knowing, as an answer was lost."""
        self._coming: Counter[str] = Counter()
        """Those of which an answer is still to come."""
        self._calls: dict[str, object] = {}
        """Which call created a run."""
        self._mine: set[str] = set()
        """Runs that are known to be this worker's."""
        self._heard_until = 0.0
        self._watching_until = 0.0

    # -- the way there and back -------------------------------------------------------------------------------------

    def _delay(self) -> float:
        weather, rng = self.ledger.weather, self.process.rng
        delay = weather.latency_s * rng.random()
        if weather.slow and rng.random() < weather.slow:
            delay *= 50 * rng.random()
        return delay

    async def _ask(
        self, serve: Callable[[], Any], name: str, about: object = "", *, at: float | None = None, leased: bool = False
    ) -> Any:
        """`serve` is called when the request arrives, if it does. A `leased` one is of the id it was sent under."""
        if self.process.dead:
            raise asyncio.CancelledError
        answer = self._loop.create_future()
        rng, weather = self.process.rng, self.ledger.weather
        chance = rng.random()
        fails, loses = chance < weather.fails, weather.fails <= chance < weather.fails + weather.loses
        delay = self._delay() if at is None else at - self._loop.time()
        sender = self._worker_id

        def arrive() -> None:
            if self.cut or fails:
                self.ledger.trace(f"{self.process.name} {name} {about}: never arrives")
                self._in_world(TIMEOUT_S * rng.random(), lose)
                return
            try:
                if leased and sender != self._worker_id:
                    raise WorkerFenced(sender)
                result, error = serve(), None
            except Exception as raised:
                result, error = None, raised
            if self.ledger.tracing:
                shown = error if error is not None else _short(result)
                self.ledger.trace(f"{self.process.name} {name} {about}: {shown!s}{' (answer lost)' if loses else ''}")
            if loses:
                self._in_world(TIMEOUT_S * rng.random(), lose)
            else:
                self._in_world(self._delay(), come_back, result, error)

        def come_back(result: Any, error: Exception | None) -> None:
            if self.cut:
                lose()
            elif not answer.done():
                answer.set_result(result) if error is None else answer.set_exception(error)

        def lose() -> None:
            if not answer.done():
                answer.set_exception(StoreUnavailable(f"simulated: no answer to {name}"))

        self._in_world(delay, arrive)
        return await answer

    # -- the worker -------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        def serve() -> None:
            _now(self._inner.open(worker_id, self))
            self._worker_id, self._listener = worker_id, listener
            self._doubtful.clear()
            self._mine.clear()
            self.ledger.workers[worker_id] = self
            self._in_world(self._delay(), self._catch_up)

        await self._ask(serve, "open", worker_id)

    async def close(self) -> None:
        await self._ask(lambda: _now(self._inner.close()), "close")

    async def renew(self) -> None:
        await self._ask(lambda: _now(self._inner.renew()), "renew", leased=True)

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        def serve() -> list[RunRecord]:
            ledger = self.ledger
            taken: list[RunRecord] = _now(self._inner.take_over(lease_s))
            for run in taken:
                ledger.owners[run.id] = self._worker_id
                ledger.taken[run.id] = ledger.taken.get(run.id, 0) + 1
            known = {run.id for run in taken}
            for run_id in self._doubtful:
                mine = ledger.memory.runs.get(run_id)
                if mine is None or run_id in known | self._mine or self._coming[run_id]:
                    continue
                if mine.owner == self._worker_id and mine.status in ACTIVE:
                    ledger.taken[run_id] = ledger.taken.get(run_id, 0) + 1
                    taken.append(_now(self._inner.get_run(run_id)))
            self._doubtful.update(dict.fromkeys((run.id for run in taken), object()))  # until the caller has them
            return taken

        taken: list[RunRecord] = await self._ask(serve, "take_over", leased=True)
        for run in taken:
            self._doubtful.pop(run.id, None)
            self._mine.add(run.id)
            self._in_world(self._delay(), self._deliver_commands, run.id)
        return taken

    async def release(self, run_id: str, wanted_at: int | None, what: str = HANDED_OVER) -> bool:
        def serve() -> bool:
            wanted = _now(self._inner.release(run_id, wanted_at, what))
            run = self.ledger.memory.runs.get(run_id)
            if run is not None and not run.owner and self.ledger.owners[run_id] == self._worker_id:
                self.ledger.owners[run_id] = ""
            return bool(wanted)

        wanted: bool = await self._ask(serve, "release", run_id, leased=True)
        self._mine.discard(run_id)
        return wanted

    async def claim(self, run_id: str) -> RunRecord | None:
        def serve() -> RunRecord | None:
            run: RunRecord | None = _now(self._inner.claim(run_id))
            if run is not None:
                ledger = self.ledger
                if ledger.owners[run_id]:
                    ledger.report(f"run {run_id}: claimed by {self._worker_id}, it is {ledger.owners[run_id]}'s")
                ledger.owners[run_id] = self._worker_id
                ledger.claimed[run_id] = ledger.claimed.get(run_id, 0) + 1
            return run

        try:
            run: RunRecord | None = await self._ask(serve, "claim", run_id, leased=True)
        except (StoreUnavailable, asyncio.CancelledError):
            self._doubtful[run_id] = object()
            raise
        if run is not None:
            self._mine.add(run_id)
            self._in_world(self._delay(), self._deliver_commands, run_id)
        return run

    async def wanted(self, now: int, limit: int = WANTED_MAX) -> list[RunRecord]:
        found: list[RunRecord] = await self._ask(lambda: _now(self._inner.wanted(now, limit)), "wanted")
        return found

    # -- runs -------------------------------------------------------------------------------------------------------

    async def create_run(
        self, run: RunRecord, *, reject_busy: bool, started_at: int | None = None
    ) -> tuple[RunRecord, bool]:
        # A call whose answer was lost may be repeated, and is then one with it.
        call = self._doubtful.pop(run.id, None) or object()

        def serve() -> tuple[RunRecord, bool]:
            if self._calls.get(run.id) is call:
                known = _now(self._inner.get_run(run.id))
                run.status, run.started_at = known.status, known.started_at
                return run, True
            record, created = _now(self._inner.create_run(run, reject_busy=reject_busy, started_at=started_at))
            if created:
                self.ledger.owners[run.id] = self._worker_id
                self._calls[run.id] = call
            return record, created

        self._coming[run.id] += 1
        try:
            record, created = await self._ask(serve, "create_run", run.id, leased=True)
        except (StoreUnavailable, asyncio.CancelledError):
            self._doubtful[run.id] = call
            raise
        finally:
            self._coming[run.id] -= 1
        if created:
            self._mine.add(run.id)
            self._in_world(self._delay(), self._deliver_commands, run.id)
        return record, created

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        def serve() -> str | None:
            run = self.ledger.memory.runs.get(run_id)
            if run is not None and (run.owner, run.started_at) == (self._worker_id, started_at):
                return None  # the answer was lost
            ahead: str | None = _now(self._inner.start_run(run_id, started_at))
            if ahead is None:
                runs = self.ledger.memory.runs
                for other in runs.values():
                    if other.id == run_id:
                        break
                    if other.session_id == runs[run_id].session_id and other.status in ACTIVE:
                        self.ledger.report(f"run {run_id} began while {other.id} before it was active")
                if self.ledger.owners[run_id] != self._worker_id:
                    self.ledger.report(f"run {run_id} was begun by {self._worker_id}, which does not own it")
            return ahead

        result: str | None = await self._ask(serve, "start_run", run_id, leased=True)
        return result

    async def get_run(self, run_id: str) -> RunRecord | None:
        record: RunRecord | None = await self._ask(lambda: _now(self._inner.get_run(run_id)), "get_run", run_id)
        return record

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        where = {"user_id": user_id, "session_id": session_id, "status": status, "limit": limit, "after": after}
        found: Listing[RunRecord] = await self._ask(
            lambda: _now(self._inner.list_runs(**where)),  # type: ignore[arg-type]  # as they came
            "list_runs",
        )
        return found

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        found: dict[str, RunRecord] = await self._ask(lambda: _now(self._inner.active_runs(session_ids)), "active_runs")
        return found

    async def session_runs(
        self, session_id: str, after: str | None = None, limit: int = 100, *, active: bool = False
    ) -> list[RunRecord]:
        def serve() -> list[RunRecord]:
            runs: list[RunRecord] = _now(self._inner.session_runs(session_id, after, limit, active=active))
            return runs

        found: list[RunRecord] = await self._ask(serve, "session_runs", session_id)
        return found

    # -- journals ---------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        self.appends += 1
        about = [f"{batch.run_id}@{batch.first_seq}+{len(batch.events)}" for batch in batches]
        refused: Collection[str] = await self._ask(lambda: self._serve_append(batches), "append", about, leased=True)
        return refused

    def _serve_append(self, batches: Sequence[Append]) -> Collection[str]:
        memory, ledger = self.ledger.memory, self.ledger
        refused, fresh = [], []
        for batch in batches:
            run, events = memory.runs.get(batch.run_id), memory.events.get(batch.run_id, [])
            last = batch.first_seq + len(batch.events) - 1
            if (
                run is None
                or run.owner != self._worker_id
                or (run.status in ACTIVE and len(events) + 1 == batch.first_seq)
            ):
                fresh.append(batch)
            elif last != len(events) or events[batch.first_seq - 1 :] != batch.events:
                refused.append(batch.run_id)  # not what was accepted before
        ended = {run.id for run in memory.runs.values() if run.status.ended}
        refused += _now(self._inner.append(fresh))
        for batch in fresh:
            if batch.run_id in refused:
                continue
            if ledger.owners.get(batch.run_id) != self._worker_id:
                ledger.report(f"run {batch.run_id}: {self._worker_id} appended to it and does not own it")
            if batch.run_id in ended:
                ledger.report(f"run {batch.run_id}: events were accepted after its end")
            if batch.checkpoint is not None:
                ledger.checkpoints.setdefault(batch.run_id, []).append(batch.checkpoint.seq)
        for run_id, kept in memory.checkpoints.items():
            if kept.seq > memory.runs[run_id].last_seq:
                ledger.report(f"run {run_id}: its checkpoint at {kept.seq} is ahead of its journal")
        return refused

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        events: list[bytes] = await self._ask(
            lambda: _now(self._inner.read(run_id, after, limit)), "read", f"{run_id}>{after}"
        )
        return events

    async def times(self, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[GroupTime]:
        times: list[GroupTime] = await self._ask(
            lambda: _now(self._inner.times(run_id, after, limit)), "times", f"{run_id}>{after}"
        )
        return times

    async def moves(self, run_id: str) -> Moves:
        found: Moves = await self._ask(lambda: _now(self._inner.moves(run_id)), "moves", run_id)
        return found

    async def watch(self, run_id: str) -> None:
        await self._ask(lambda: _now(self._inner.watch(run_id)), "watch", run_id, at=self._in_order())

    async def unwatch(self, run_id: str) -> None:
        await self._ask(lambda: _now(self._inner.unwatch(run_id)), "unwatch", run_id, at=self._in_order())

    def _in_order(self) -> float:
        """Watching and no longer watching arrive in the order of the calls."""
        self._watching_until = max(self._watching_until + 1e-9, self._loop.time() + self._delay())
        return self._watching_until

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        kept: Checkpoint | None = await self._ask(lambda: _now(self._inner.checkpoint(run_id)), "checkpoint", run_id)
        return kept

    async def send(self, run_id: str, command: bytes) -> str:
        owner: str = await self._ask(lambda: _now(self._inner.send(run_id, command)), "send", run_id)
        return owner

    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        about = f"{run_id}@{seq} {command.decode()}"
        owner: str = await self._ask(lambda: _now(self._inner.answer(run_id, seq, command)), "answer", about)
        return owner

    async def commands(self, run_id: str) -> list[bytes]:
        kept: list[bytes] = await self._ask(lambda: _now(self._inner.commands(run_id)), "commands", run_id)
        return kept

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        expired: int = await self._ask(lambda: _now(self._inner.expire(ended_before, bytes_max)), "expire")
        return expired

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        await self._ask(
            lambda: _now(self._inner.keep_blob(run_id, blob_id, piece, data)), "keep_blob", run_id, leased=True
        )

    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        data: bytes | None = await self._ask(lambda: _now(self._inner.blob(run_id, blob_id, piece)), "blob", run_id)
        return data

    # -- what others did --------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """The network is back."""
        self.cut = False
        self._in_world(self._delay(), self._catch_up)

    def on_events(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        """The store says it, in the world's time: it has yet to travel."""
        for _ in range(2 if self.process.rng.random() < self.ledger.weather.repeats else 1):
            self._travel(self._hear, run_id, first_seq, events, closed)

    def on_command(self, run_id: str, command: bytes, id: int = 0) -> None:
        """The store says it, in the world's time. In the order of the ids, as everything that is heard."""
        for _ in range(2 if self.process.rng.random() < self.ledger.weather.repeats else 1):
            self._travel(self._hear_command, run_id, command, id)

    def on_wanted(self) -> None:
        self._travel(self._hear_wanted)

    def on_session(self, session_id: str) -> None:
        self._travel(self._hear_session, session_id)

    def on_user_session(self, user_id: str, session_id: str | None) -> None:
        self._travel(self._hear_user_session, user_id, session_id)

    def _travel(self, hear: Callable[..., object], *about: Any) -> None:
        self._heard_until = max(self._heard_until + 1e-9, self._loop.time() + self._delay())
        self._loop.call_at(self._heard_until, hear, *about, context=self._loop.world.context)

    def _hear(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        if self._listener is not None and not self.cut and not self.process.dead:
            self.ledger.trace(f"{self.process.name} hears of {run_id}@{first_seq}+{len(events)} {'end' * closed}")
            self._tell(self._listener.on_events, run_id, first_seq, events, closed)

    def _tell(self, hear: Callable[..., object], *about: Any) -> None:
        """In the process, which may be dead by then."""
        self._loop.call_soon(
            lambda: None if self.process.dead else hear(*about),
            context=self.process.context,
        )

    def _hear_command(self, run_id: str, command: bytes, id: int) -> None:
        """With those before it where one was missed, as a run's ids grow."""
        if self.cut:
            self._missed.add(run_id)
        elif self._listener is not None and not self.process.dead:
            commands = {id: command}
            if run_id in self._missed:
                self._missed.remove(run_id)
                kept = self.ledger.memory.commands.get(run_id, {}).items()
                commands = {earlier: one for earlier, one in kept if earlier < id} | commands
            for told_id, told in commands.items():
                self.ledger.trace(f"{self.process.name} is told of {run_id}: {told_id} {told.decode()}")
                self._tell(self._listener.on_command, run_id, told, told_id)

    def _hear_wanted(self) -> None:
        if self._listener is not None and not self.cut and not self.process.dead:
            self._tell(self._listener.on_wanted)

    def _hear_session(self, session_id: str) -> None:
        if self._listener is not None and not self.cut and not self.process.dead:
            self._tell(self._listener.on_session, session_id)

    def _hear_user_session(self, user_id: str, session_id: str | None) -> None:
        if self._listener is not None and not self.cut and not self.process.dead:
            self._tell(self._listener.on_user_session, user_id, session_id)

    def _catch_up(self) -> None:
        """After a cut: where the watched runs are now, and which commands there are."""
        memory = self.ledger.memory
        for run_id, watchers in memory.watchers.items():
            if self._inner in watchers:
                run = memory.runs.get(run_id)
                if run is None:
                    continue
                self.on_events(run_id, run.last_seq + 1, [], run.status.ended)
        for session_id, workers in memory.session_watchers.items():
            if self._inner in workers:
                self.on_session(session_id)
        for user_id, workers in memory.user_watchers.items():
            if self._inner in workers:
                self.on_user_session(user_id, None)
        for run_id in tuple(memory.commands):
            self._deliver_commands(run_id)

    def _deliver_commands(self, run_id: str) -> None:
        """All that are kept for a run of this worker."""
        memory = self.ledger.memory
        if memory.runs[run_id].owner == self._worker_id and self._worker_id in memory.beats:
            for id, command in memory.commands.get(run_id, {}).items():
                self.on_command(run_id, command, id)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def watch_session(self, session_id: str) -> None:
        watch = self._inner.watch_session
        await self._ask(lambda: _now(watch(session_id)), "watch_session", session_id, at=self._in_order())

    async def unwatch_session(self, session_id: str) -> None:
        unwatch = self._inner.unwatch_session
        await self._ask(lambda: _now(unwatch(session_id)), "unwatch_session", session_id, at=self._in_order())

    async def watch_user(self, user_id: str) -> None:
        watch = self._inner.watch_user
        await self._ask(lambda: _now(watch(user_id)), "watch_user", user_id, at=self._in_order())

    async def unwatch_user(self, user_id: str) -> None:
        unwatch = self._inner.unwatch_user
        await self._ask(lambda: _now(unwatch(user_id)), "unwatch_user", user_id, at=self._in_order())

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        known: SessionRecord = await self._ask(
            lambda: _now(self._inner.create_session(session)), "create_session", session.id
        )
        return known

    async def get_session(self, session_id: str) -> SessionRecord | None:
        session: SessionRecord | None = await self._ask(
            lambda: _now(self._inner.get_session(session_id)), "get_session", session_id
        )
        return session

    async def list_sessions(
        self, *, user_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[SessionRecord]:
        found: Listing[SessionRecord] = await self._ask(
            lambda: _now(self._inner.list_sessions(user_id=user_id, limit=limit, after=after)), "list_sessions"
        )
        return found

    async def update_state(
        self, session_id: str, changes: dict[str, Any], updated_at: int, bytes_max: int | None = None
    ) -> SessionRecord | None:
        session: SessionRecord | None = await self._ask(
            lambda: _now(self._inner.update_state(session_id, changes, updated_at, bytes_max)),
            "update_state",
            session_id,
        )
        return session

    async def rename_session(self, session_id: str, title: str) -> SessionRecord | None:
        session: SessionRecord | None = await self._ask(
            lambda: _now(self._inner.rename_session(session_id, title)), "rename_session", session_id
        )
        return session

    async def delete_session(self, session_id: str) -> bool:
        deleted: bool = await self._ask(
            lambda: _now(self._inner.delete_session(session_id)), "delete_session", session_id
        )
        return deleted

    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        turns: list[Turn] = await self._ask(lambda: _now(self._inner.turns(session_id, skip)), "turns", session_id)
        return turns


def _now(work: Coroutine[Any, Any, Any]) -> Any:
    """What the store in memory answers; it never waits."""
    try:
        work.send(None)
    except StopIteration as answered:
        return answered.value
    raise AssertionError("the store in memory waits for nothing")


def _short(result: Any) -> str:
    if isinstance(result, RunRecord):
        return f"{result.status.value} last={result.last_seq} owner={result.owner}"
    if isinstance(result, list | tuple):
        return "[" + ", ".join(_short(one) for one in result) + "]"
    if isinstance(result, bytes):
        return f"{len(result)} bytes"
    if isinstance(result, Turn | SessionRecord):
        return type(result).__name__
    return str(result)
