"""The hot path: journals as this process sees them, the writer that gets events accepted, the followers that read them.

An event goes `Journal.append` → pending → `Journals._write` (one group for all runs of the process) → the store accepts
→ the journal's window → each live follower's `Push`, called there, or a future that wakes it. A follower holds a cursor
and nothing else: what has left the window it reads from the store.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import msgspec

from gapless.errors import GaplessError, RunFenced, RunNotFound, StoreCorrupt, StoreUnavailable
from gapless.journals.contract import Append, Checkpoint, Store, WorkerFenced
from gapless.journals.outbox import Notice
from gapless.metrics import Metrics
from gapless.records import RunEnd, RunStatus
from gapless.tasks import end_tasks, retrieve

__all__ = ["Follower", "Journal", "Journals", "Push", "Slice"]

WINDOW_EVENTS, WINDOW_EVENTS_MAX = 256, 512
"""Accepted events that a journal keeps at hand, when there have been so many that the older half goes."""
WINDOW_BYTES_MAX = 256 * 1024
"""Bytes of accepted events kept at hand."""
PENDING_EVENTS_MAX = 256
PENDING_BYTES_MAX = 1024 * 1024
"""What a producer may have written and the store not yet accepted; past it the producer is held back."""
BATCH_BYTES_MAX = 1024 * 1024
"""What one run hands to the store at once; one item that was split into many events may be more."""
ENDS_AT_ONCE = 50
"""Runs that end in one group. An end wakes the run's execution and all that wait for it, 0.1 ms of work: a thousand at
once would hold up everybody else."""
PAGE_EVENTS = 512
"""Events read at once by a follower that is behind."""
COMMIT_CREDIT = 8
"""Groups that are written at once after a quiet time, each for half of the store's `commit_interval_s`: the first words
of an answer need not wait, and a busy process writes large groups all the same."""
HELD_S = 0.005
"""How long RUN_STARTED waits for the agent's first event, and its last one for the end, to be accepted with it."""
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 1.0
"""Pause between attempts while the store is unavailable, doubling."""
TIMES_APART_MS, PAUSE_S = 250, 0.1
"""Of a run's groups in one such stretch of the clock the first has a time of its own, and each behind such a pause:
so times cost less than a byte per word of a model, and what was waited for is known."""
STRETCHES = 256
"""Stretches are told apart by numbers up to this, which Python has ready: one of a run's own would have to be fetched
for each event."""
STORE_PATIENCE_S = 30.0
"""A store unavailable for this long fails the runs that wait for it."""

log = logging.getLogger("gapless.journal")


Push: TypeAlias = Callable[[int, list[bytes]], bool]
"""Takes the events from a position on as they are accepted, and says whether it could: what it could not take, and what
follows, `Follower.next` returns."""


Left: TypeAlias = Callable[[Exception | None], None]
"""Is told that a follower follows live no more, and what its `Push` has raised."""


class Slice(msgspec.Struct, gc=False):
    """Consecutive events of one journal. `behind` says that they were there before the follower asked."""

    first_seq: int
    events: list[bytes]
    behind: bool


class _Touched:
    """Has what each event of a journal touches, side by side: a class lays its slots out by name, behind its base's.

    Where hundreds of runs take turns, nothing of a run is in a processor's nearest caches when its turn comes, and each
    line of 64 bytes that is fetched costs as much as ten bytecodes."""

    __slots__ = (
        "_beside",
        "_bytes",
        "_given_bytes",
        "_gone_bytes",
        "_hub",
        "_in_flight",
        "_live_now",
        "_pause_noted_s",
        "_pending",
        "_queued",
        "_taken_at",
        "_timed_in",
        "_waiters",
        "_window",
        "appended",
        "followers",
        "full",
        "last",
        "lost",
        "owned",
        "run_id",
    )


class Journal(_Touched):
    """One run's journal in this process: the newest accepted events, and who waits for more.

    `last` is the newest accepted position, `closed` says that it is the terminal event's. `append` and `close` are for
    the run's owner alone.
    """

    __slots__ = (
        "_checkpoint",
        "_end",
        "_first",
        "_held",
        "_live",
        "_notices",
        "_saved",
        "_saves",
        "_saves_in_flight",
        "_status",
        "_taken",
        "aside_bytes",
        "closed",
        "encoded",
        "gap_max_s",
        "opening",
    )

    def __init__(self, hub: Journals, run_id: str, *, owned: bool, last: int = 0, closed: bool = False) -> None:
        self.run_id = run_id
        self.last = last
        self.appended = last
        """Position of the newest event that the owner handed over, accepted or not."""
        self.full = False
        """As much is pending as may be: the producer must `drain`."""
        self.closed = closed
        self.owned = owned
        self.lost: Exception | None = None
        """Why nothing more will come from here: the store stayed away too long."""
        self.opening: asyncio.Task[None] | None = None
        """Under way while it is not yet known where the journal is."""
        self.followers = 0
        self.encoded: tuple[object, object, Any] = (None, None, b"")
        """What was encoded last, as which kind, and what came of it: followers at the same position share it."""
        self.aside_bytes = 0
        """Bytes that this owner has set aside: they are named in the journal, and not in it."""
        self.gap_max_s = 0.0
        """The longest pause between two groups of this owner's events."""
        self._taken_at = math.inf
        """When the last group was given to the store, by the loop's clock."""
        self._pause_noted_s = 0.0
        """What a pause has to be longer than to be of interest."""
        self._timed_in = -1
        """The stretch of the clock in which a group was last given a time."""
        self._hub = hub
        self._window: list[bytes] = []
        self._first = last + 1
        self._bytes = 0
        """Bytes of the events that were handed over here, or heard of."""
        self._given_bytes = 0
        """Of these, what the store was given, or has told."""
        self._gone_bytes = 0
        """Of those, what is not in the window any more."""
        self._pending: list[bytes] | tuple[()] = ()
        """What was handed over since; the list is made for the first of it: a run that is silent keeps none."""
        self._in_flight: Append | None = None
        """What the store has been given and has not answered yet."""
        self._held: asyncio.TimerHandle | None = None
        """Hands over what is held, if nothing comes that takes it along."""
        self._beside = False
        """One of the four below is to go with the events appended last, or they were held."""
        self._end: RunEnd | None = None
        self._status: RunStatus | None = None
        self._checkpoint: Checkpoint | None = None
        self._taken: list[int] = []
        self._saves = self._saves_in_flight = self._saved = 0
        """Checkpoints that were handed over, how many of them the store was given, and how many it has accepted."""
        self._notices: Sequence[Notice] = ()
        self._queued = False
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._live: dict[Follower, None] = {}
        """Who has seen all up to `last`, is given what is new as it is accepted, and woken for anything else."""
        self._live_now: tuple[Follower, ...] | None = ()
        """The same, to go through; None since it has changed."""

    # -- the owner's side -------------------------------------------------------------------------------------------

    def append(self, event: bytes) -> None:
        """Hand one event to the writer. It is delivered once the store has accepted it."""
        self.appended += 1
        self._bytes += len(event)
        pending = self._pending
        if pending:
            pending.append(event)
            if len(pending) >= PENDING_EVENTS_MAX or self._bytes - self._given_bytes >= PENDING_BYTES_MAX:
                self.full = True
        else:
            self._pending = [event]
        if not self._queued:
            self._queued = True
            hub = self._hub
            hub._dirty.append(self)
            if hub._sleeper is not None:
                hub._wake_writer()

    @property
    def size_bytes(self) -> int:
        """Returns the bytes that this owner has handed over, and set aside."""
        return self._bytes + self.aside_bytes

    def hold(self, write: Callable[[], None]) -> None:
        """Hold what `write` hands over back for what comes next; after `HELD_S` it goes by itself."""
        if self._queued:
            write()
            return
        self._queued = True
        try:
            write()
        finally:
            self._hold()

    def hold_for_end(self) -> None:
        """Hold what was handed over just now back for the end, which is about to come: they go as one group. After
        `HELD_S` it goes by itself."""
        dirty = self._hub._dirty
        if dirty and dirty[-1] is self:
            dirty.pop()
            self._hold()

    def _hold(self) -> None:
        self._queued, self._beside = False, True
        if self._held is None:
            self._held = self._hub.loop.call_later(HELD_S, self._let_go)

    def hurry(self) -> None:
        """Have what was handed over accepted at once, credit or not: nothing is missed as much as a first word."""
        self._hub._hurry()

    def _let_go(self) -> None:
        self._held = None
        if self._beside and not self._hub.stopped:  # which is not only events: a command that has had its effect
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._queued:
            self._queued = True
            self._hub._enqueue(self)

    async def save(self, data: bytes) -> None:
        """Replace the run's checkpoint, in one step with all that was appended before, and wait until it is accepted.

        Raises `RunFenced` when the run is another worker's meanwhile, `StoreUnavailable` when the store stays away."""
        if self._end is not None:
            raise RunFenced(f"run {self.run_id} has ended", run_id=self.run_id)
        self.set_checkpoint(data)
        wanted = self._saves
        while self._saved < wanted:
            if not self.owned or not (self._checkpoint or self._in_flight):
                raise RunFenced(f"run {self.run_id} is another worker's", run_id=self.run_id)
            if self.lost is not None:
                raise self.lost
            await self._changed()

    def set_checkpoint(self, data: bytes) -> None:
        """Replace the run's checkpoint together with the events appended last."""
        self._beside, self._checkpoint = True, Checkpoint(self.appended, data)
        self._saves += 1
        self._enqueue()

    def take(self, command_id: int) -> None:
        """Say, with the events appended last, that a command has had its effect: the store keeps it no longer."""
        if self._end is None:  # else all of them go with the run's end
            self._beside = True
            self._taken.append(command_id)
            self._enqueue()

    def set_status(self, status: RunStatus) -> None:
        """Change the run's status together with the events appended last."""
        self._beside, self._status = True, status

    def tell(self, notices: Sequence[Notice]) -> None:
        """Put these into the outbox together with the events appended last: with the status or the end that they tell
        of, in the same turn of the event loop."""
        if notices:
            self._beside = True
            self._notices = (*self._notices, *notices)
            self._hub.expect_notices(self)

    def close(self, event: bytes, end: RunEnd) -> None:
        """Append the terminal event and close the journal in one step."""
        self._beside, self._end = True, end
        self.append(event)

    async def drain(self) -> None:
        """Wait until all that was appended is accepted. Raises `StoreUnavailable` when the store stays away."""
        while self._is_unsettled() and self.owned:
            if self.lost is not None:
                raise self.lost
            await self._changed()

    async def settled(self) -> None:
        """Wait until all that was appended is accepted, or refused for good, however long the store stays away."""
        while self._is_unsettled() and self.owned:
            await self._changed()

    def _is_unsettled(self) -> bool:
        return bool(self._pending or self._in_flight or self._checkpoint or self._taken)

    def _discard(self) -> None:
        """Drop what has not been accepted: another worker owns the run."""
        if self._queued:  # won again, it would stand there twice, and be given to the store twice at once
            self._hub._dirty.remove(self)
        self._pending, self._queued, self._beside = (), False, False
        self._bytes = self._given_bytes = self._gone_bytes + sum(map(len, self._window))
        self._end = self._status = self._checkpoint = None
        self._taken, self._notices, self._in_flight = [], (), None
        self.appended, self.full = self.last, False
        self._wake()

    def _take(self, now: float, now_ms: int, stretch: int) -> Append:
        """Return what is pending, to be given to the store `now`, which is in that stretch of the clock."""
        if self.full or self._beside:
            return self._take_more(now, now_ms, stretch)
        self._in_flight = batch = Append(self.run_id, self.last + 1, self._pending or [])
        self._given_bytes, self._pending, self._queued = self._bytes, (), False
        pause_s, self._taken_at = now - self._taken_at, now
        if pause_s > self._pause_noted_s or stretch != self._timed_in:
            self._note_time(batch, pause_s, now_ms, stretch)
        return batch

    def _note_time(self, batch: Append, pause_s: float, now_ms: int, stretch: int) -> None:
        """Keep the time of a batch that needs one, and the pause before it, if it was the longest."""
        self.gap_max_s = max(self.gap_max_s, pause_s)
        self._pause_noted_s = min(self.gap_max_s, PAUSE_S)
        if batch.events and (pause_s > PAUSE_S or stretch != self._timed_in):
            batch.at, self._timed_in = now_ms, stretch

    def _take_more(self, now: float, now_ms: int, stretch: int) -> Append:
        """Return what is pending, with what goes with the newest events; or the first of it."""
        beside, self._beside, self.full = self._beside, False, False
        if self._bytes - self._given_bytes > BATCH_BYTES_MAX and len(self._pending) > 1:
            return self._take_part(now, now_ms, stretch, beside=beside)
        batch = self._take(now, now_ms, stretch)
        if beside:
            batch.end, batch.status, batch.notices = self._end, self._status, self._notices
            batch.checkpoint, batch.taken, self._saves_in_flight = self._checkpoint, self._taken, self._saves
            self._status, self._checkpoint, self._taken, self._notices = None, None, [], ()
            if self._held is not None:
                self._held.cancel()
                self._held = None
        return batch

    def _take_part(self, now: float, now_ms: int, stretch: int, *, beside: bool) -> Append:
        """Return the first of what is pending: it is more than a batch may be. What goes with the newest waits."""
        pending, size = list(self._pending), self._bytes
        count, room = 1, BATCH_BYTES_MAX - len(pending[0])
        while (room := room - len(pending[count])) >= 0:  # all of them are more
            count += 1
        rest = pending[count:]
        self._pending, self._bytes = pending[:count], size - sum(map(len, rest))
        batch = self._take(now, now_ms, stretch)
        self._pending, self._bytes, self._beside, self.full = rest, size, beside, sum(map(len, rest)) > BATCH_BYTES_MAX
        self._enqueue()
        return batch

    # -- every reader's side ----------------------------------------------------------------------------------------

    async def wait(self, after: int) -> None:
        """Wait until there is an event past `after`, or the journal is closed. Raises `StoreUnavailable`."""
        while self.last <= after and not self.closed:
            if self.lost is not None:
                raise self.lost
            await self._changed()

    async def read(self, after: int, limit: int = PAGE_EVENTS) -> list[bytes]:
        """Accepted events after `after`, from the window or else from the store."""
        events = self.at_hand(after, limit)
        return await self._hub.store.read(self.run_id, after, limit) if events is None else events

    def at_hand(self, after: int, limit: int = PAGE_EVENTS) -> list[bytes] | None:
        """Accepted events after `after` from the window; None if they have left it."""
        start = after + 1 - self._first
        return self._window[start : start + limit] if start >= 0 else None

    def waiter(self) -> asyncio.Future[None]:
        """Return a future that is done when the journal next changes; `forget` it when it is no longer awaited."""
        waiter = self._hub.loop.create_future()
        self._waiters[waiter] = None
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.pop(waiter, None)

    async def _changed(self) -> None:
        waiter = self.waiter()
        try:
            await waiter
        finally:
            self.forget(waiter)

    def _wake(self) -> None:
        waiters = self._waiters
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()
        if self._live and (self.closed or self.lost is not None):
            self._end_live()

    def _advance(self, events: list[bytes], closed: bool) -> None:
        """Deliver what was accepted: the window has it, and who follows live is given it. Who cannot take it reads on
        by itself."""
        window, before = self._window, self.last
        window += events
        self.last = last = before + len(events)
        if len(window) > WINDOW_EVENTS_MAX or self._given_bytes - self._gone_bytes > WINDOW_BYTES_MAX:
            self._trim()
        if closed:
            self.closed = True
        if events:
            live = self._live_now
            if live is None:
                self._live_now = live = tuple(self._live)
            for follower in live:
                try:
                    if follower.push(before + 1, events):
                        follower.after = last
                        continue
                except Exception as error:  # the follower's, and no other's
                    follower.fail(error)
                self._leave(follower)
                follower.wake()
        if self._waiters or closed:
            self._wake()

    def _join(self, follower: Follower) -> None:
        self._live[follower] = self._live_now = None

    def _leave(self, follower: Follower) -> None:
        self._live.pop(follower, None)
        self._live_now = None

    def _trim(self) -> None:
        window = self._window
        dropped = max(0, len(window) - WINDOW_EVENTS)
        self._gone_bytes += sum(map(len, window[:dropped]))
        while self._given_bytes - self._gone_bytes > WINDOW_BYTES_MAX and dropped < len(window) - 1:
            self._gone_bytes += len(window[dropped])
            dropped += 1
        del window[:dropped]
        self._first += dropped

    def _end_live(self) -> None:
        """Let everyone who follows live look what there is."""
        live, self._live, self._live_now = self._live, {}, ()
        for follower in live:
            follower.wake()

    def contradicts(self, first_seq: int, events: list[bytes], closed: bool) -> bool:
        """Return whether what another worker appended is not what is known here at the same positions: the store went
        back.
        """
        if first_seq > self.last:
            return False
        if closed and not self.closed and first_seq + len(events) - 1 < self.last:
            return True
        known = self._window[max(0, first_seq - self._first) :][: len(events)] if first_seq >= self._first else []
        return known != events[: len(known)]

    def _catch_up(self, first_seq: int, events: list[bytes], closed: bool) -> None:
        """Take over what another worker appended; positions tell repeats and holes."""
        last = first_seq + len(events) - 1
        if last <= self.last:
            if closed and last == self.last and not self.closed:
                self.closed = True
                self._wake()
            return
        if first_seq > self.last + 1:
            self._end_live()
            self._window.clear()
            self._gone_bytes = self._given_bytes
            self._first, self.last = first_seq, first_seq - 1
        events = events[self.last + 1 - first_seq :]
        size = sum(map(len, events))
        self._bytes, self._given_bytes = self._bytes + size, self._given_bytes + size
        self._advance(events, closed)


class _TouchedOfFollower:
    __slots__ = ("after", "push")


class Follower(_TouchedOfFollower):
    """One reader of a journal: a cursor that moves."""

    __slots__ = ("_kept_up", "_left", "_nudged", "_waiter", "coalesce_s", "journal")

    def __init__(self, journal: Journal, after: int = 0, *, coalesce_s: float = 0.0) -> None:
        self.journal = journal
        self.after = after
        self.coalesce_s = coalesce_s
        self._waiter: asyncio.Future[None] | None = None
        self._left: Left | None = None
        self._kept_up = False
        """It has followed live until it was woken just now: what is unread has come since."""
        self.push: Push
        """Is given what is accepted while this follower is live, which is while it has seen all that there is."""
        self._nudged = False

    def nudge(self) -> None:
        """Make `next` return now, with no events if there are none."""
        self._nudged = True
        self.journal._leave(self)
        self.wake()

    def wake(self) -> None:
        """Let `next` look again, if it waits; or whoever follows live without it."""
        self._settle(None)

    def fail(self, error: Exception) -> None:
        """Have whoever is woken know that `push` has raised this."""
        self._settle(error)

    def _settle(self, error: Exception | None) -> None:
        if self._left is not None:
            left, self._left, self._kept_up = self._left, None, True
            left(error)
        elif self._waiter is None or self._waiter.done():
            pass
        elif error is None:
            self._waiter.set_result(None)
        else:
            self._waiter.set_exception(error)

    @property
    def is_live(self) -> bool:
        """Returns whether `push` is given what is accepted."""
        return self in self.journal._live

    def go_live(self, push: Push, left: Left) -> bool:
        """Follow live, without anybody who waits: `push` is given what is accepted from here on. As soon as there is
        anything else (it cannot take it, it has raised an error, somebody nudges, the journal ends), `left` is called
        with that error or None, once; `next` goes on from there.

        False where `next` is to be called first."""
        journal = self.journal
        if journal.last != self.after or journal.closed or journal.lost is not None or self.coalesce_s:
            return False
        self.push, self._left, self._nudged = push, left, False
        journal._join(self)
        return True

    def stay(self) -> None:
        """Take `go_live` back, before anything has come: `next` is called after all."""
        self._left = None
        self.journal._leave(self)

    async def next(self, push: Push | None = None) -> Slice | None:
        """Return the next events past the cursor, waiting for them; None at the end of the journal.

        With `push`, what comes while this waits goes to it, in the task that accepts it, as long as it says that it
        could take it: then no task is woken for an event. What coalesces is not pushed.

        Raises `CursorExpired`, `StoreUnavailable`, and what `push` raised.
        """
        journal, behind = self.journal, False
        if journal.last > self.after:
            behind, self._kept_up = not self._kept_up, False
            if behind:
                journal._hub.metrics.follower_lag.observe(journal.last - self.after)
        elif push is not None and not self.coalesce_s:
            if not await self._live(push):
                if journal.lost is not None and not journal.closed:
                    raise journal.lost
                return None
        else:
            if journal.closed:
                return None
            if journal.lost is not None:
                raise journal.lost
            self._nudged = self._kept_up = False
            self._waiter = waiter = journal._hub.loop.create_future()
            journal._waiters[waiter] = None
            try:
                await waiter
            except BaseException:
                journal.forget(waiter)
                raise
            self._waiter = None
            if self._nudged:
                journal.forget(waiter)
            if self.coalesce_s and journal.last > self.after:
                await self._let_more_come()
                behind = True
        after = self.after
        start = after + 1 - journal._first
        if start >= 0:
            events = journal._window[start : start + PAGE_EVENTS]
        else:
            await asyncio.sleep(0)  # a store that answers at once would let a late follower have the loop to the end
            events = await journal.read(after)
        self.after = after + len(events)
        return Slice(after + 1, events, behind)

    async def _live(self, push: Push) -> bool:
        """Let `push` have what comes, until it cannot take it or somebody nudges; False at the end of the journal.

        One that is ahead, since it has read from the store what another worker has not told of yet, waits for that."""
        journal = self.journal
        self.push, self._nudged, self._kept_up = push, False, False
        while not (journal.closed or journal.lost):
            self._waiter = waiter = journal._hub.loop.create_future()
            if journal.last == self.after:
                journal._join(self)
            else:
                journal._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiter = None
                journal._leave(self)
                journal.forget(waiter)
            if self._nudged or journal.last > self.after:
                return True
        return False

    async def _let_more_come(self) -> None:
        """Wait for `coalesce_s`, unless the journal ends or somebody wants `next` to return."""
        journal = self.journal
        timer = journal._hub.loop.call_later(self.coalesce_s, self.nudge)
        try:
            while not (self._nudged or journal.closed or journal.lost):
                self._waiter = waiter = journal.waiter()
                try:
                    await waiter
                finally:
                    journal.forget(waiter)
        finally:
            self._waiter = None
            timer.cancel()


class Journals:
    """All journals that this process writes or follows, and the one writer of them."""

    def __init__(
        self,
        store: Store,
        *,
        on_refused: Callable[[str], None],
        on_command: Callable[[str, bytes, int], None],
        on_fenced: Callable[[], None],
        on_wanted: Callable[[], None] = lambda: None,
        on_session: Callable[[str], None] = lambda session_id: None,
        on_user_session: Callable[[str, str | None], None] = lambda user_id, session_id: None,
        metrics: Metrics | None = None,
        patience_s: float = STORE_PATIENCE_S,
    ) -> None:
        self.store = store
        self.worker_id = ""
        self.loop: asyncio.AbstractEventLoop
        self._on_refused = on_refused
        self._on_command = on_command
        self._on_fenced = on_fenced
        self._on_wanted = on_wanted
        self._on_session = on_session
        self._on_user_session = on_user_session
        self.on_notices: Callable[[], None] = lambda: None
        """Called when notices were accepted."""
        self._expecting: set[asyncio.Task[None]] = set()
        """Who waits for that."""
        self._patience_s = patience_s
        self.metrics = metrics or Metrics()
        self.failing = False
        """The store takes nothing at the moment."""
        self._journals: dict[str, Journal] = {}
        self._dirty: list[Journal] = []
        self._urgent = False
        """The next group waits for no credit."""
        self._sleeper: asyncio.Future[None] | None = None
        self._pausing: asyncio.Future[None] | None = None
        """What the writer waits for, when it has nothing to do, and when it has no credit."""
        self._writer: asyncio.Task[None] | None = None
        self._registrations = 0

    async def open(self, worker_id: str) -> None:
        """Open the store and start the writer. Raises `StoreUnavailable`, `StoreCorrupt`."""
        self.loop = asyncio.get_running_loop()
        self.worker_id = worker_id
        await self.store.open(worker_id, self)
        self._writer = asyncio.create_task(self._write(), name="gapless-writer")
        self._writer.add_done_callback(self._writer_ended)

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        """Nothing is written any more: by a bug, unless it was closed. Say so to everyone who waits."""
        if writer.cancelled() or (error := writer.exception()) is None:
            return
        log.critical("the writer has failed, this worker must be restarted: %s", type(error).__name__, exc_info=error)
        self.failing = True
        self._give_up(StoreUnavailable("this worker's writer has failed"))

    @property
    def stopped(self) -> bool:
        """Whether the writer was stopped while it had nothing to do."""
        return self._sleeper is not None and self._sleeper.done()

    async def register_again(self, worker_id: str) -> None:
        """Come back under a new id after the lease was lost. What was not accepted under the old one never is, also
        when this worker should own the same run again. Raises `StoreUnavailable`."""
        self._registrations += 1
        for journal in self._journals.values():
            if journal.owned:
                journal._discard()
        self.worker_id = worker_id
        await self.store.open(worker_id, self)

    def expect_notices(self, journal: Journal) -> None:
        """Call `on_notices` once what the journal has pending is accepted: a task, as it is rare."""

        async def expect() -> None:
            await journal.settled()
            self.on_notices()

        task = asyncio.create_task(expect(), name=f"gapless-notices-{journal.run_id}")
        self._expecting.add(task)
        task.add_done_callback(self._expecting.discard)

    async def close(self) -> None:
        """Stop the writer and close the store. What is pending is not waited for: drain first."""
        await end_tasks(list(self._expecting))
        if self._writer is not None:
            await end_tasks([self._writer])
            self._writer = None
        await self.store.close()

    # -- who uses which journal -------------------------------------------------------------------------------------

    def create(self, run_id: str, *, last: int = 0) -> Journal:
        """Return the journal of a run that this worker owns: a new one, or the one that is followed here already."""
        journal = self._journals.get(run_id)
        if journal is not None and journal.last > last:
            self._lose(journal, _went_back(run_id))
            journal = None
        if journal is None:
            journal = self._journals[run_id] = Journal(self, run_id, owned=True, last=last)
        else:
            journal._catch_up(last + 1, [], False)
            journal.appended = journal.last
            journal.owned = True
        return journal

    async def attach(self, run_id: str) -> Journal:
        """Return the journal of any run, counted as used until `release`. Raises `RunNotFound`, `StoreUnavailable`."""
        while True:
            journal = self._journals.get(run_id)
            asked_before = journal is not None
            if journal is None:
                journal = self._journals[run_id] = Journal(self, run_id, owned=False)
                journal.opening = asyncio.create_task(self._open_journal(journal), name=f"gapless-attach-{run_id}")
                journal.opening.add_done_callback(retrieve)
            journal.followers += 1
            if journal.opening is None:
                return journal
            try:
                await asyncio.shield(journal.opening)  # others wait for it too
            except BaseException as error:
                await self.release(journal)
                if isinstance(error, RunNotFound) and asked_before:
                    continue  # what was asked before may be out of date
                raise
            return journal

    async def _open_journal(self, journal: Journal) -> None:
        """Find out where a journal is that others write. It is known here before it is asked for, so that nothing that
        is told of it meanwhile is lost."""
        try:
            if not await self._look(journal) and not journal.owned:
                raise RunNotFound(f"no run {journal.run_id}", run_id=journal.run_id)
        except GaplessError as error:
            if not journal.owned:
                self._lose(journal, error)
                await self._unwatch(journal.run_id)
            raise
        finally:
            journal.opening = None
        await self._drop_if_unused(journal)  # who asked may have left meanwhile

    async def _look(self, journal: Journal) -> bool:
        """Watch a run and catch up with its record; False where there is none."""
        await self.store.watch(journal.run_id)  # before the record is read, so that nothing falls between
        record = await self.store.get_run(journal.run_id)
        if record is not None and not journal.owned:
            self._hear(journal, record.last_seq + 1, [], record.status.ended)
        return record is not None

    def _lose(self, journal: Journal, error: GaplessError) -> None:
        """Let a journal's followers fail: they cannot go on here; whoever attaches next begins anew."""
        journal.lost = error
        if self._journals.get(journal.run_id) is journal:
            del self._journals[journal.run_id]
        journal._wake()

    def followers_of(self, run_id: str) -> int:
        """Return how many in this process follow the run."""
        journal = self._journals.get(run_id)
        return 0 if journal is None else journal.followers

    async def release(self, journal: Journal) -> None:
        """Count one user less; the last one of a journal that is not being written here lets it go."""
        journal.followers -= 1
        await self._drop_if_unused(journal)

    async def disown(self, journal: Journal) -> None:
        """Note that the owner has finished with a journal, or lost it: from now on it is read like anyone else's."""
        was_owned, journal.owned = journal.owned, False
        if was_owned and not journal.closed:
            journal._discard()
            if journal.followers:
                try:
                    if not await self._look(journal):
                        raise RunNotFound(f"the store has lost run {journal.run_id}", run_id=journal.run_id)
                except GaplessError as error:
                    self._lose(journal, error)
                    await self._unwatch(journal.run_id)
        await self._drop_if_unused(journal)

    async def _drop_if_unused(self, journal: Journal) -> None:
        if journal.followers > 0 or journal.owned or journal.opening is not None:
            return
        if self._journals.get(journal.run_id) is journal:
            del self._journals[journal.run_id]
            await self._unwatch(journal.run_id)

    async def _unwatch(self, run_id: str) -> None:
        try:
            await self.store.unwatch(run_id)
        except StoreUnavailable as error:  # what is still told of it is dropped
            log.warning("run %s: %s", run_id, error)

    # -- the writer -------------------------------------------------------------------------------------------------

    def _enqueue(self, journal: Journal) -> None:
        self._dirty.append(journal)
        if self._sleeper is not None:
            self._wake_writer()

    def _wake_writer(self) -> None:
        """Wake the writer, which sleeps."""
        assert self._sleeper is not None, "it sleeps"
        self._sleeper.set_result(None)
        self._sleeper = None

    def _hurry(self) -> None:
        self._urgent = True
        self._end_pause()

    async def _write(self) -> None:
        interval_s = self.store.commit_interval_s
        credit, committed_at = float(COMMIT_CREDIT), self.loop.time()
        while True:
            self.failing = False
            while not self._dirty:
                self._sleeper = self.loop.create_future()
                await self._sleeper
            if interval_s:
                since_s = self.loop.time() - committed_at
                credit = min(credit + 2 * since_s / interval_s, COMMIT_CREDIT) - 1
                if credit < 0 or self._urgent:
                    credit = await self._pause(credit, interval_s - since_s)
            dirty, self._dirty = self._dirty, []
            if len(dirty) > ENDS_AT_ONCE:
                dirty, self._dirty = _with_few_ends(dirty)
            await self._commit(dirty)
            committed_at = self.loop.time()

    async def _pause(self, credit: float, pause_s: float) -> float:
        """Let more come, unless something cannot wait, or until it cannot. Returns the credit that is left."""
        if self._urgent:
            self._urgent = False
            return max(credit, 0.0)
        self._pausing = self.loop.create_future()
        timer = self.loop.call_later(pause_s, self._end_pause)
        try:
            await self._pausing
        finally:
            timer.cancel()
            self._pausing, self._urgent = None, False
        return 0.0

    def _end_pause(self) -> None:
        if self._pausing is not None and not self._pausing.done():
            self._pausing.set_result(None)

    async def _commit(self, dirty: list[Journal]) -> None:
        began, now_ms = self.loop.time(), time.time_ns() // 1_000_000
        stretch = now_ms // TIMES_APART_MS % STRETCHES
        taken: list[Journal] = []
        batches: list[Append] = []
        for journal in dirty:
            if journal.owned and journal._queued:
                taken.append(journal)
                batches.append(journal._take(began, now_ms, stretch))
        if not taken:
            return
        refused = await self._append(batches)
        now = self.loop.time()
        self.metrics.append_s.observe(now - began)
        accepted = 0
        for journal, batch in zip(taken, batches, strict=True):
            if refused and batch.run_id in refused:
                if journal._in_flight is not None:  # else it was lost and won again while this was under way
                    journal._discard()
                    self._on_refused(batch.run_id)
                continue
            accepted += len(batch.events)
            if batch.checkpoint is not None and journal._in_flight is not None:
                journal._saved = journal._saves_in_flight
            journal._in_flight = journal.lost = None
            if batch.first_seq == journal.last + 1:
                journal._advance(batch.events, batch.end is not None)
            else:  # disowned meanwhile, and has caught up with what was just accepted
                journal._catch_up(batch.first_seq, batch.events, batch.end is not None)
        self.metrics.events_accepted += accepted

    async def _append(self, batches: list[Append]) -> Collection[str]:
        """Append, and wait until the store has answered. Every run is refused when the worker itself is fenced."""
        pause_s, failing_since, registrations = RETRY_FIRST_S, 0.0, self._registrations
        while registrations == self._registrations:
            try:
                return await self.store.append(batches)
            except WorkerFenced:
                if registrations == self._registrations:
                    self._on_fenced()
                return {batch.run_id for batch in batches}
            except (StoreUnavailable, StoreCorrupt) as error:
                if isinstance(error, StoreCorrupt) and any(batch.run_id == error.run_id for batch in batches):
                    return await self._append_without(error, batches)
                self.metrics.store_failures += 1
                self.failing = True
                now = time.monotonic()
                if not failing_since:
                    failing_since = now
                    log.warning("store unavailable, holding %d runs back: %s", len(batches), error)
                elif now - failing_since > self._patience_s:
                    self._give_up(error)
            except Exception as error:  # a bug; it must cost the run that meets it and no other
                if len(batches) > 1:
                    return [run_id for batch in batches for run_id in await self._append([batch])]
                log.critical("run %s: the store failed on it: %s", batches[0].run_id, type(error).__name__)
                log.debug("run %s", batches[0].run_id, exc_info=error)
                return [batches[0].run_id]
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
        return {batch.run_id for batch in batches}

    async def _append_without(self, error: StoreCorrupt, batches: list[Append]) -> Collection[str]:
        """Append what is not of the run that the store cannot keep any more: others do not wait for it."""
        assert error.run_id is not None, "it is one of the batches'"
        log.error("run %s is given up: %s", error.run_id, error)
        self.metrics.store_failures += 1
        others = [batch for batch in batches if batch.run_id != error.run_id]
        return {error.run_id, *(await self._append(others) if others else ())}

    def _give_up(self, error: GaplessError) -> None:
        for journal in self._journals.values():
            if journal.lost is None and journal._is_unsettled():
                journal.lost = StoreUnavailable(
                    f"run {journal.run_id}: the store has been unavailable for {self._patience_s:.0f} s ({error.told})",
                    run_id=journal.run_id,
                )
                journal._wake()

    # -- what other workers did (Listener) --------------------------------------------------------------------------

    def on_events(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        journal = self._journals.get(run_id)
        if journal is not None and not journal.owned:
            self._hear(journal, first_seq, events, closed)

    def _hear(self, journal: Journal, first_seq: int, events: list[bytes], closed: bool) -> None:
        if journal.contradicts(first_seq, events, closed):
            self._lose(journal, _went_back(journal.run_id))
        else:
            journal._catch_up(first_seq, events, closed)

    def on_command(self, run_id: str, command: bytes, id: int = 0) -> None:
        self._on_command(run_id, command, id)

    def on_wanted(self) -> None:
        self._on_wanted()

    def on_session(self, session_id: str) -> None:
        self._on_session(session_id)

    def on_user_session(self, user_id: str, session_id: str | None) -> None:
        self._on_user_session(user_id, session_id)


def _with_few_ends(dirty: list[Journal]) -> tuple[list[Journal], list[Journal]]:
    """Part what is to be written into what goes now and what goes next: of runs that end, so many at once."""
    late = {journal.run_id for journal in [one for one in dirty if one._end is not None][ENDS_AT_ONCE:]}
    return [one for one in dirty if one.run_id not in late], [one for one in dirty if one.run_id in late]


def _went_back(run_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"run {run_id}: the store has lost events that it had accepted", run_id=run_id)
