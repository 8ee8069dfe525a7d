"""The store in memory: for tests, demonstrations and single-process use. Everything goes with the process."""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec

from gapless.errors import CursorExpired, RunNotFound, StoreUnavailable
from gapless.journals.contract import (
    EVERYONE,
    READ_BYTES_MAX,
    TIMES_MAX,
    WANTED_MAX,
    Append,
    Checkpoint,
    GroupTime,
    Listener,
    NotWaiting,
    Store,
    WorkerFenced,
)
from gapless.journals.finding import Search
from gapless.journals.lease import LeaseWatch, log_lost
from gapless.journals.memory_failed import FailedRuns
from gapless.journals.memory_outbox import MemoryOutbox
from gapless.journals.memory_pieces import Pieces
from gapless.journals.memory_subscriptions import MemorySubscriptions
from gapless.moves import HANDED_OVER, TAKEN_OVER, Move, Moves
from gapless.records import (
    ACTIVE,
    Listing,
    RunRecord,
    RunStatus,
    SessionRecord,
    Turn,
    changed_state,
    listed_run,
    listed_session,
    now_ms,
    place_in_runs,
    place_in_sessions,
    place_of_session,
    session_busy,
    session_of,
    session_taken,
    title_of,
)
from gapless.sought import FAILED, Found, Sought

__all__ = ["Memory", "MemoryStore"]

_RecordT = TypeVar("_RecordT", RunRecord, SessionRecord)

LOOKED_AT_ONCE = 500
"""Runs that a search looks at before others have their turn."""


class Memory:
    """What is kept. Several `MemoryStore`s on one `Memory` are several workers on one store."""

    def __init__(self) -> None:
        self.runs: dict[str, RunRecord] = {}
        self.numbers: dict[str, int] = {}
        """Of each run, in the order in which they began."""
        self.failed = FailedRuns()
        self.run_numbers = itertools.count(1)
        self.events: dict[str, list[bytes]] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.turns: dict[str, list[Turn]] = {}
        self.session_runs: dict[str, dict[str, None]] = {}
        """Active runs per session, oldest first."""
        self.beats: dict[str, int] = {}
        """Renewals per registered worker."""
        self.workers: dict[str, MemoryStore] = {}
        self.watchers: dict[str, dict[MemoryStore, None]] = {}
        self.checkpoints: dict[str, Checkpoint] = {}
        self.blobs: dict[str, dict[tuple[str, int], bytes]] = {}
        self.times: dict[str, list[GroupTime]] = {}
        self.moves: dict[str, Moves] = {}
        self.commands: dict[str, dict[int, bytes]] = {}
        """What was sent to each run and is not taken, by its id."""
        self.command_ids = itertools.count(1)
        self.sizes: dict[str, int] = {}
        """Of ended runs' events and blobs, where they were counted, in bytes."""
        self.wanted: dict[str, int | None] = {}
        """The active runs that are nobody's, and when each wants somebody."""
        self.session_watchers: dict[str, dict[MemoryStore, None]] = {}
        self.user_watchers: dict[str, dict[MemoryStore, None]] = {}
        self.outbox = MemoryOutbox()
        self.subscriptions = MemorySubscriptions()

    def drop(self, run_id: str) -> list[bytes]:
        """Delete all that is kept of a run that has ended, but its events: they are returned, to be let go of."""
        self.failed.drop(self.numbers[run_id])
        del self.runs[run_id], self.numbers[run_id]
        self.blobs.pop(run_id, None)
        self.times.pop(run_id, None)
        self.moves.pop(run_id, None)
        self.sizes.pop(run_id, None)
        self.outbox.drop(run_id)
        return self.events.pop(run_id)

    def runs_behind(self, session_id: str, after: str | None, *, active: bool) -> Iterator[RunRecord]:
        """Give the runs of a session behind that run, or all, oldest first. Raises `RunNotFound`."""
        place = 0
        if after is not None:
            run = self.runs.get(after)
            if run is None or run.session_id != session_id:
                raise RunNotFound(f"no run {after} in session {session_id}", run_id=after)
            place = self.numbers[after]
        newer = itertools.takewhile(lambda id: self.numbers[id] > place, reversed(self.runs))
        ids = self.session_runs.get(session_id, ()) if active else reversed(list(newer))
        return (run for id in ids if (run := self.runs[id]).session_id == session_id and self.numbers[id] > place)

    async def find(self, sought: Sought, limit: int, place: int | None) -> Found:
        """Find runs as `Store.find_runs` does, those before a place or all. What is dropped meanwhile is left out."""
        search, found = Search(sought, limit), list[RunRecord]()
        ids = list(self.failed.before(place) if sought.states is FAILED else reversed(self.runs))
        if place is not None:
            del ids[: bisect_right(ids, -place, key=lambda id: -self.numbers[id])]
        for n, id in enumerate(ids, 1):
            if (run := self.runs.get(id)) is not None and sought.is_among(run):
                goes_on = search.sees(self.numbers[id], run.status, run)
                if len(search.places) > len(found):
                    found.append(listed_run(run))
                if not goes_on:
                    break
            if n % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)  # others have their turn
        return search.page(found)

    def tell_session(self, session: SessionRecord | None) -> None:
        """Tell those who watch a session, or its user, that it has changed."""
        if session is None or not (self.session_watchers or self.user_watchers):
            return
        for worker in tuple(self.session_watchers.get(session.id, ())):
            if worker._listener is not None:
                worker._listener.on_session(session.id)
        for user_id in (session.user_id, EVERYONE):
            for worker in tuple(self.user_watchers.get(user_id, ())):
                if worker._listener is not None:
                    worker._listener.on_user_session(user_id, session.id)

    def add(self, run: RunRecord) -> None:
        """Add a new run, and its session where that is new."""
        if run.session_id not in self.sessions:
            self.sessions[run.session_id] = session_of(run)
        self.runs[run.id] = _copy(run)
        self.numbers[run.id] = next(self.run_numbers)
        self.events[run.id] = []
        self.session_runs.setdefault(run.session_id, {})[run.id] = None
        self.tell_session(self.sessions[run.session_id])

    def save(self, run: RunRecord, checkpoint: Checkpoint) -> None:
        """Replace the run's checkpoint; without data it has none any more."""
        assert checkpoint.seq <= run.last_seq, "a checkpoint is never ahead of the journal"
        if checkpoint.data:
            self.checkpoints[run.id] = checkpoint
            run.takeovers = 0
        else:
            self.checkpoints.pop(run.id, None)

    def leave(self, run: RunRecord, what: str, to_worker: str = "") -> None:
        """Take a run from its owner: for that worker, or for nobody."""
        self.moves.setdefault(run.id, Moves()).add(Move.now(run.last_seq, what, run.owner, to_worker))
        run.owner = to_worker

    def end(self, run: RunRecord, batch: Append) -> None:
        """Close the run, as the batch that ends it says."""
        end = batch.end
        assert end is not None
        run.status, run.ended_at, run.error, run.usage = end.status, end.ended_at, end.error, end.usage
        if end.status in FAILED:
            self.failed.add(self.numbers[run.id], run.id)
        self.session_runs[run.session_id].pop(run.id, None)
        self.commands.pop(run.id, None)
        self.checkpoints.pop(run.id, None)
        if (session := self.sessions.get(run.session_id)) is not None:
            self.turns.setdefault(run.session_id, []).append(end.turn)
            session.updated_at = end.ended_at
            session.title = session.title or title_of(run.message)
            if end.state is not None:
                session.state = end.state

    def check_kept(self, run_id: str) -> None:
        """Raises `RunNotFound`, `CursorExpired`."""
        run = self.runs.get(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        if run.expired:
            raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)

    async def expire(self, ended_before: int, bytes_max: int | None) -> int:
        """Drop events as `Store.expire` does, piece by piece: others have their turn between."""
        ended = [(run.ended_at, run.id) for run in self.runs.values() if run.ended_at is not None and not run.expired]
        ended.sort(key=lambda kept: kept[0])
        pieces, sizes, over = Pieces(), dict[str, int](), 0
        if bytes_max is not None:
            sizes = {run_id: await self._size(run_id, pieces) for _, run_id in ended}
            over = sum(sizes.values()) - bytes_max
        expired = 0
        for ended_at, run_id in ended:
            if ended_at >= ended_before and over <= 0:
                break
            over -= sizes.get(run_id, 0)
            run = self.runs.get(run_id)
            if run is None or run.expired:  # meanwhile
                continue
            run.expired = True
            self.sizes.pop(run_id, None)
            events, self.events[run_id] = self.events[run_id], []
            self.blobs.pop(run_id, None)
            self.times.pop(run_id, None)
            self.moves.pop(run_id, None)
            self.outbox.expire(run_id)
            expired += 1
            await pieces.let_go(events)
        return expired

    async def _size(self, run_id: str, pieces: Pieces) -> int:
        """Give how many bytes an ended run's events and blobs have; they are counted once."""
        size = self.sizes.get(run_id)
        if size is None:
            size = sum(map(len, self.blobs.get(run_id, {}).values()))
            size += await pieces.size(self.events.get(run_id, []))
            if run_id in self.runs:
                self.sizes[run_id] = size
        return size


class MemoryStore(Store):
    """`memory://`, or a `Memory` shared with others."""

    shared: ClassVar[bool] = False
    commit_interval_s: ClassVar[float] = 0.001  # fewer, larger groups: 4 µs less per event at 500 streams

    def __init__(self, memory: Memory | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.alone = memory is None
        self._memory = memory or Memory()
        self.outbox = self._memory.outbox
        self.subscriptions = self._memory.subscriptions
        self._worker_id = ""
        self._listener: Listener | None = None
        self._lease_watch = LeaseWatch(monotonic)

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        return cls()

    # -- the worker -------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        self._memory.workers.pop(self._worker_id, None)
        self._worker_id, self._listener = worker_id, listener
        self._memory.workers[worker_id] = self
        self._memory.beats[worker_id] = 0

    async def close(self) -> None:
        self._memory.workers.pop(self._worker_id, None)
        self._memory.beats.pop(self._worker_id, None)
        memory = self._memory
        for watchers in (
            *memory.watchers.values(),
            *memory.session_watchers.values(),
            *memory.user_watchers.values(),
        ):
            watchers.pop(self, None)
        self._listener = None

    async def renew(self) -> None:
        self._check_lease()
        self._memory.beats[self._worker_id] += 1

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        self._check_lease()
        memory = self._memory
        others = {worker_id: beat for worker_id, beat in memory.beats.items() if worker_id != self._worker_id}
        dead = self._lease_watch.expired(others, lease_s)
        self.others = len(others) - len(dead)
        taken, owners = [], []
        for worker_id in dead:
            del memory.beats[worker_id]
        for run in memory.runs.values():
            if run.status in ACTIVE and run.owner and run.owner not in memory.beats:
                owners.append(run.owner)
                memory.leave(run, TAKEN_OVER, self._worker_id)
                run.takeovers += 1
                taken.append(_copy(run))
                self._tell_kept(run.id)
        log_lost(self._worker_id, dead, owners)
        return taken

    def _tell_kept(self, run_id: str) -> None:
        """Hear, a moment later, the commands of a run that has come to this worker."""
        for id, command in self._memory.commands.get(run_id, {}).items():
            self._tell_command(run_id, command, id)

    def _tell_command(self, run_id: str, command: bytes, id: int) -> None:
        """A moment later, so that commands are heard in the order of their ids."""
        asyncio.get_running_loop().call_soon(self._command, run_id, command, id)

    def _command(self, run_id: str, command: bytes, id: int) -> None:
        if self._listener is not None:
            self._listener.on_command(run_id, command, id)

    def _check_lease(self) -> None:
        if self._listener is None:
            raise StoreUnavailable("the memory store is closed")
        if self._worker_id not in self._memory.beats:
            raise WorkerFenced(self._worker_id)

    # -- runs -------------------------------------------------------------------------------------------------------

    async def create_run(
        self, run: RunRecord, *, reject_busy: bool, started_at: int | None = None
    ) -> tuple[RunRecord, bool]:
        self._check_lease()
        memory = self._memory
        if (known := memory.runs.get(run.id)) is not None:
            return _copy(known), False
        session = memory.sessions.get(run.session_id)
        if session is not None and session.user_id != run.user_id:
            raise session_taken(run.session_id)
        active = memory.session_runs.get(run.session_id)
        if active and reject_busy:
            raise session_busy(run.session_id, next(iter(active)))
        run.owner = self._worker_id
        if started_at is not None and not active:
            run.status, run.started_at = RunStatus.RUNNING, started_at
        memory.add(run)
        return run, True

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        self._check_lease()
        run = self._memory.runs.get(run_id)
        if run is None or run.owner != self._worker_id or run.status is not RunStatus.QUEUED:
            raise RunNotFound(f"run {run_id} is not queued here", run_id=run_id)
        ahead = None
        for other in self._memory.session_runs[run.session_id]:
            if other == run_id:
                break
            ahead = other
        if ahead is None:
            run.status, run.started_at = RunStatus.RUNNING, started_at
            self._memory.tell_session(self._memory.sessions.get(run.session_id))
        return ahead

    async def get_run(self, run_id: str) -> RunRecord | None:
        run = self._memory.runs.get(run_id)
        return None if run is None else _copy(run)

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        place, numbers = place_in_runs(after), self._memory.numbers
        found = Listing[RunRecord]()
        for run in reversed(self._memory.runs.values()):
            if (
                (user_id is None or run.user_id == user_id)
                and (session_id is None or run.session_id == session_id)
                and (status is None or run.status is status)
                and (place is None or numbers[run.id] < place)
            ):
                if len(found) >= limit:
                    found.next = str(numbers[found[-1].id]) if found else None
                    break
                found.append(listed_run(run))
        return found

    async def find_runs(self, sought: Sought, *, limit: int = 100, after: str | None = None) -> Found:
        return await self._memory.find(sought, limit, place_in_runs(after))

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        runs = self._memory.session_runs
        oldest = ((session_id, next(iter(runs.get(session_id, ())), "")) for session_id in session_ids)
        return {session_id: listed_run(self._memory.runs[run_id]) for session_id, run_id in oldest if run_id}

    async def session_runs(
        self, session_id: str, after: str | None = None, limit: int = 100, *, active: bool = False
    ) -> list[RunRecord]:
        found = self._memory.runs_behind(session_id, after, active=active)
        return [listed_run(run) for run in itertools.islice(found, limit)]

    # -- runs that are nobody's -------------------------------------------------------------------------------------

    async def release(self, run_id: str, wanted_at: int | None, what: str = HANDED_OVER) -> bool:
        self._check_lease()
        memory = self._memory
        run = memory.runs.get(run_id)
        if run is None or run.owner != self._worker_id or run.status not in ACTIVE:
            return False
        wanted_now = wanted_at == 0 or run.status is not RunStatus.WAITING or bool(memory.commands.get(run_id))
        memory.leave(run, what)
        memory.wanted[run_id] = 0 if wanted_now else wanted_at
        if wanted_now:
            self._tell_wanted()
        return wanted_now

    async def claim(self, run_id: str) -> RunRecord | None:
        self._check_lease()
        run = self._memory.runs.get(run_id)
        if run is None or run.owner or run.status not in ACTIVE:
            return None
        run.owner = self._worker_id
        self._memory.wanted.pop(run_id, None)
        if (moves := self._memory.moves.get(run_id)) is not None:
            moves.arrive(self._worker_id, now_ms())
        self._tell_kept(run_id)
        return _copy(run)

    async def wanted(self, now: int, limit: int = WANTED_MAX) -> list[RunRecord]:
        found = [(at, run_id) for run_id, at in self._memory.wanted.items() if at is not None and at <= now]
        found.sort(key=lambda at_and_id: at_and_id[0])
        return [_copy(self._memory.runs[run_id]) for _, run_id in found[:limit]]

    def _tell_wanted(self) -> None:
        for worker in tuple(self._memory.workers.values()):
            if worker is not self and worker._listener is not None:
                worker._listener.on_wanted()

    # -- journals ---------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        self._check_lease()
        memory, worker_id, refused = self._memory, self._worker_id, []
        runs, journals, watchers = memory.runs, memory.events, memory.watchers
        for batch in batches:
            run_id = batch.run_id
            run = runs.get(run_id)
            if run is None or run.owner != worker_id or run.status not in ACTIVE:
                refused.append(run_id)
                continue
            events = journals[run_id]
            assert batch.first_seq == len(events) + 1, "a journal has no holes"
            events += batch.events
            if batch.at and batch.events:
                memory.times.setdefault(run_id, []).append(GroupTime(batch.first_seq, batch.at))
            run.last_seq = len(events)
            if batch.end is not None or batch.status is not None or batch.checkpoint is not None or batch.taken:
                self._append_beside(run, batch)
            elif run_id in watchers:
                self._tell(run, batch)
        return refused

    def _append_beside(self, run: RunRecord, batch: Append) -> None:
        """Take what comes with a batch's events."""
        memory = self._memory
        if batch.status is not None:
            run.status = batch.status
        if batch.checkpoint is not None:
            memory.save(run, batch.checkpoint)
        for id in batch.taken:
            memory.commands.get(run.id, {}).pop(id, None)
        if batch.end is not None:
            memory.end(run, batch)
        if batch.events and run.id in memory.watchers:
            self._tell(run, batch)
        if batch.status is not None or batch.end is not None:
            memory.outbox.add(batch.notices)
            memory.tell_session(memory.sessions.get(run.session_id))

    def _tell(self, run: RunRecord, batch: Append) -> None:
        for worker in tuple(self._memory.watchers[run.id]):
            if worker is not self and worker._listener is not None:
                worker._listener.on_events(run.id, batch.first_seq, batch.events, batch.end is not None)

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        self._memory.check_kept(run_id)
        events = self._memory.events[run_id][after : after + limit]
        sizes = itertools.accumulate(map(len, events))
        return events[: 1 + next((n for n, size in enumerate(sizes) if size >= READ_BYTES_MAX), len(events))]

    async def times(self, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[GroupTime]:
        self._memory.check_kept(run_id)
        times = self._memory.times.get(run_id, ())
        return list(itertools.islice((time for time in times if time.seq > after), limit))

    async def moves(self, run_id: str) -> Moves:
        return copy.deepcopy(self._memory.moves.get(run_id, Moves()))

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        return self._memory.checkpoints.get(run_id)

    async def commands(self, run_id: str) -> list[bytes]:
        return list(self._memory.commands.get(run_id, {}).values())

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        run = self._memory.runs.get(run_id)
        if run is None or run.owner != self._worker_id or run.status not in ACTIVE:
            raise RunNotFound(f"run {run_id} is not this worker's", run_id=run_id)
        self._memory.blobs.setdefault(run_id, {}).setdefault((blob_id, piece), data)

    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        return self._memory.blobs.get(run_id, {}).get((blob_id, piece))

    async def watch(self, run_id: str) -> None:
        self._memory.watchers.setdefault(run_id, {})[self] = None

    async def unwatch(self, run_id: str) -> None:
        watchers = self._memory.watchers.get(run_id)
        if watchers is not None:
            watchers.pop(self, None)
            if not watchers:
                del self._memory.watchers[run_id]

    async def send(self, run_id: str, command: bytes) -> str:
        run = self._memory.runs.get(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        return self._send(run, command) if run.status in ACTIVE else ""

    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        run = self._memory.runs.get(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        if run.status is not RunStatus.WAITING or run.last_seq != seq:
            raise NotWaiting(run_id)
        run.status = RunStatus.RUNNING
        self._memory.tell_session(self._memory.sessions.get(run.session_id))
        return self._send(run, command)

    def _send(self, run: RunRecord, command: bytes) -> str:
        memory = self._memory
        id = next(memory.command_ids)
        memory.commands.setdefault(run.id, {})[id] = command
        owner = memory.workers.get(run.owner)
        if not run.owner:
            memory.wanted[run.id] = 0
            self._tell_wanted()
        elif owner is not None and run.owner in memory.beats:
            owner._tell_command(run.id, command, id)
        return run.owner

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        return await self._memory.expire(ended_before, bytes_max)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        self._check_lease()
        known = self._memory.sessions.setdefault(session.id, _copy(session))
        self._memory.tell_session(known)
        return _copy(known)

    async def get_session(self, session_id: str) -> SessionRecord | None:
        session = self._memory.sessions.get(session_id)
        return None if session is None else _copy(session)

    async def list_sessions(
        self, *, user_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[SessionRecord]:
        place = place_in_sessions(after)
        behind = [
            session
            for session in self._memory.sessions.values()
            if (user_id is None or session.user_id == user_id)
            and (place is None or (session.updated_at, session.id) < place)
        ]
        behind.sort(key=lambda session: (session.updated_at, session.id), reverse=True)
        found = Listing(map(listed_session, behind[:limit]))
        found.next = place_of_session(found[-1].updated_at, found[-1].id) if found and len(behind) > limit else None
        return found

    async def update_state(
        self, session_id: str, changes: dict[str, Any], updated_at: int, bytes_max: int | None = None
    ) -> SessionRecord | None:
        self._check_idle(session_id)
        session = await self.get_session(session_id)
        if session is None:
            return None
        session.state = changed_state(session, changes, bytes_max)
        session.updated_at = updated_at
        self._memory.sessions[session_id] = _copy(session)
        self._memory.tell_session(session)
        return session

    async def rename_session(self, session_id: str, title: str) -> SessionRecord | None:
        session = self._memory.sessions.get(session_id)
        if session is not None:
            session.title = title
            self._memory.tell_session(session)
        return await self.get_session(session_id)

    def _check_idle(self, session_id: str) -> None:
        if active := self._memory.session_runs.get(session_id):
            raise session_busy(session_id, next(iter(active)))

    async def delete_session(self, session_id: str) -> bool:
        memory = self._memory
        self._check_idle(session_id)
        session = memory.sessions.pop(session_id, None)
        if session is None:
            return False
        memory.turns.pop(session_id, None)
        memory.session_runs.pop(session_id, None)
        dropped, pieces = list[list[bytes]](), Pieces()
        for run_id in [run.id for run in memory.runs.values() if run.session_id == session_id]:
            dropped.append(memory.drop(run_id))
        memory.tell_session(session)
        for events in dropped:
            await pieces.let_go(events)
        return True

    async def watch_session(self, session_id: str) -> None:
        self._memory.session_watchers.setdefault(session_id, {})[self] = None

    async def unwatch_session(self, session_id: str) -> None:
        watchers = self._memory.session_watchers.get(session_id, {})
        watchers.pop(self, None)
        if not watchers:
            self._memory.session_watchers.pop(session_id, None)

    async def watch_user(self, user_id: str) -> None:
        self._memory.user_watchers.setdefault(user_id, {})[self] = None

    async def unwatch_user(self, user_id: str) -> None:
        watchers = self._memory.user_watchers.get(user_id, {})
        watchers.pop(self, None)
        if not watchers:
            self._memory.user_watchers.pop(user_id, None)

    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        return self._memory.turns.get(session_id, [])[skip:]


def _copy(record: _RecordT) -> _RecordT:
    """Copy a record: what a caller does with its copy stays with the caller. What is in a run's record is never changed
    in place.
    """
    copied = msgspec.structs.replace(record)
    if isinstance(copied, SessionRecord) and copied.state:
        copied.state = copy.deepcopy(copied.state)
    return copied
