"""What a store of journals must do. The normative page is docs/journal.md; tests/journals/conformance.py is its suite.

A store knows bytes and positions. It keeps, for each run, a record and a journal: events numbered 1, 2, 3 … without
holes, closed once by the append that carries the terminal event. It knows which worker owns a run and refuses appends
of any other. It keeps sessions: their records and, per ended run, one turn.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from gapless.journals.finding import find_by_pages
from gapless.journals.outbox import Notice, Outbox
from gapless.journals.subscriptions import Subscriptions
from gapless.moves import HANDED_OVER, Moves
from gapless.records import Listing, RunEnd, RunRecord, RunStatus, SessionRecord, Turn
from gapless.sought import Found, Sought

__all__ = [
    "BLOB_PIECE_BYTES",
    "EVERYONE",
    "READ_BYTES_MAX",
    "TIMES_MAX",
    "WANTED_MAX",
    "Advice",
    "Append",
    "Checkpoint",
    "GroupTime",
    "Listener",
    "NotWaiting",
    "Store",
    "WorkerFenced",
    "shown_url",
]

BLOB_PIECE_BYTES = 512 * 1024
"""A blob is kept in pieces of this, so that no step of a store is as long as the blob."""
EVERYONE = "\n"
"""In the place of a user whose sessions are watched: those of all. No user is called so, a name is one line."""
READ_BYTES_MAX = 1024 * 1024
"""One `Store.read` stops at the event that takes it past this."""
TIMES_MAX = 10_000
"""Times in one answer of `Store.times`."""
WANTED_MAX = 100
"""Runs in one answer of `Store.wanted`."""


class Advice(NamedTuple):
    """Something about a store's set-up that may lose what it keeps."""

    risk: str
    """What is set how, and what that may lose."""
    fix: str
    """What to change."""


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """Says from where a run can be gone on with: what was accepted up to `seq` stays, and `data` is what its agent
    needs to know of where it stands.

    With empty `data` the run has no checkpoint any more.
    """

    seq: int
    data: bytes


class GroupTime(msgspec.Struct, frozen=True, gc=False):  # four a second and run, which a long run keeps
    """Says when a group of a run's events was given to the store to be accepted."""

    seq: int
    """The position of the group's first event."""
    at: int
    """Milliseconds since 1970 by its worker's clock, to 10 ms. Another worker's may be behind it."""


class Append(msgspec.Struct, gc=False):  # one per run and group: thousands a second that no cycle can hold
    """Asks for events of the run `run_id` to be accepted as one: all of them in order, or none.

    An event is JSON in one line (no byte below 0x20). `first_seq` is the position of `events[0]`, which must be the
    journal's last + 1. With `end` the journal is closed. With `status` the run's record is updated in the same step,
    with `checkpoint` the run's checkpoint is replaced, and the commands whose ids are in `taken` are kept no longer. A
    batch that has one of these three may be without events. The `notices` that come with a status or an end are added
    to the outbox. `at` is when it was given to the store (ms), or 0: it came so soon behind the run's last group that
    has a time, without a pause, that none is kept.
    """

    run_id: str
    first_seq: int
    events: list[bytes]
    end: RunEnd | None = None
    status: RunStatus | None = None
    checkpoint: Checkpoint | None = None
    taken: Sequence[int] = ()
    at: int = 0
    notices: Sequence[Notice] = ()


class NotWaiting(Exception):
    """Is raised for an answer that the run does not wait for: it has another, was cancelled, timed out or went on."""


class WorkerFenced(Exception):
    """Says that this worker's lease was lost: its runs belong to others and it can append nothing under its id."""


class Listener(Protocol):
    """Is told by a store what other workers did. Called on the event loop; must not block."""

    def on_events(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        """Take `events` of the watched run `run_id` that another worker appended, from position `first_seq` on; after
        them the journal is `closed`, or not.

        May repeat or skip: positions tell. A run that is no longer there, as the store has forgotten it, is told as
        closed before its first event: `first_seq` is 0.
        """

    def on_command(self, run_id: str, command: bytes, id: int = 0) -> None:
        """Take a `command` for the run `run_id`, which this worker owns. The same `id` may come again; a run's ids
        grow. With 0 the store no longer has it.
        """

    def on_wanted(self) -> None:
        """Hear that there may be a run that is nobody's and wants somebody: ask `Store.wanted`."""

    def on_session(self, session_id: str) -> None:
        """Hear that something of the watched session `session_id` may have changed, whoever did it: look at it."""

    def on_user_session(self, user_id: str, session_id: str | None) -> None:
        """Hear that something of the session `session_id` of the watched user `user_id` may have changed, whoever did
        it: look at it. None: what has changed of some of the user's sessions may have been missed."""


class Store(ABC):
    """Keeps journals, runs and sessions, as one worker sees them.

    Every method raises `StoreUnavailable` when the store cannot be reached or written: nothing has changed then, or
    what was asked for may be asked for again.
    """

    shared: ClassVar[bool] = True
    """Several processes can use it at a time, and what it keeps outlives each of them."""
    commit_interval_s: ClassVar[float] = 0.0
    """Appends are grouped: two calls of `append` are at least this far apart while there is much traffic."""

    alone: bool = False
    """Nothing of it outlives this worker: no other could go on with its runs."""
    others: int = 0
    """How many other workers were alive when `take_over` last looked."""
    path: Path | None = None
    """The file that the store is, if it is one: opening makes it where it is not yet there."""
    outbox: Outbox
    """What is to be told of runs to others than their followers."""
    subscriptions: Subscriptions
    """Where users are told of their runs."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Store:
        """Make the store that `url`, of one of its schemes, names, not yet opened. Raises `UsageError`."""

    # -- the worker -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self, worker_id: str, listener: Listener) -> None:
        """Make the store ready and register the worker `worker_id`; what others do is told to `listener`. Raises
        `StoreCorrupt`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything and unregister the worker. Idempotent."""

    @abstractmethod
    async def renew(self) -> None:
        """Renew the worker's lease. Raises `WorkerFenced` when another worker has taken its runs."""

    @abstractmethod
    async def take_over(self, lease_s: float) -> list[RunRecord]:
        """Fence every worker that has not renewed for `lease_s` seconds, as observed by this worker's own monotonic
        clock, and become the owner of its active runs, whose `takeovers` go up by 1. Exactly one worker gets each run;
        a run that is nobody's stays so. One that this worker may have created, as an answer was lost, is among them,
        but not while another answer to its creation is still to come: that one says whose it is.

        Call it several times a lease. Commands that the old owner did not take come to the listener afterwards.
        """

    async def description(self) -> str:
        """Say what this store is kept in, for people: its version, whether connections are encrypted; or nothing."""
        return ""

    async def advice(self) -> list[Advice]:
        """Say what about the set-up of what this store is kept in may lose what was accepted. Nothing is said of what
        cannot be found out."""
        return []

    # -- runs -------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_run(
        self, run: RunRecord, *, reject_busy: bool, started_at: int | None = None
    ) -> tuple[RunRecord, bool]:
        """Record the new `run`, owned by this worker and queued, and its session where that is new. With `started_at`
        (ms) it is set running since then, in the same step, where its session has no other active run.

        Returns the record and True, or the record that already has the id and False. Raises `SessionNotFound` when the
        session is another user's: of several users who begin it at the same instant, one has it. With `reject_busy`,
        raises `SessionBusy` when the session has an active run. Either is found out in the step that creates.
        """

    @abstractmethod
    async def start_run(self, run_id: str, started_at: int) -> str | None:
        """Set the queued run `run_id` running since `started_at` (ms) if it is the oldest active run of its session:
        None; else return the id of the run just ahead of it. Raises `RunNotFound` when it is no longer queued, or not
        this worker's.
        """

    @abstractmethod
    async def get_run(self, run_id: str) -> RunRecord | None:
        """Return the record of the run `run_id`, or None."""

    @abstractmethod
    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        """Return at most `limit` runs as lists have them, newest first: those of `user_id`, of `session_id`, of this
        `status`, or all. `after` is the `next` of the page before, asked for with the same filters: the page is
        found by that place and not by counting, so what came or went before it changes nothing. Raises `CursorInvalid`.
        """

    async def find_runs(self, sought: Sought, *, limit: int = 100, after: str | None = None) -> Found:
        """Return at most `limit` of the runs that are `sought`, as lists have them, newest first. What a page costs has
        a bound, however few there are among however many: it may have fewer, or none, and a `next` all the same, which
        is the `after` of the page that goes on where it stopped. Raises `CursorInvalid`.
        """

        async def page(limit: int, after: str | None) -> Listing[RunRecord]:
            return await self.list_runs(user_id=sought.user_id, session_id=sought.session_id, limit=limit, after=after)

        return await find_by_pages(page, sought, limit, after)

    @abstractmethod
    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find the oldest active run of each of the sessions `session_ids`, as lists have it: the one that executes or
        waits, or else the one that is next. A session without an active run is not in the answer. Asks once, however
        many sessions there are.
        """

    @abstractmethod
    async def session_runs(
        self, session_id: str, after: str | None = None, limit: int = 100, *, active: bool = False
    ) -> list[RunRecord]:
        """Return at most `limit` runs of the session `session_id` as lists have them, in the order of their creation:
        from the first on, or those behind the run `after`; with `active` only those that have not ended. Raises
        `RunNotFound` where `after` is no run of the session.
        """

    # -- runs that are nobody's -------------------------------------------------------------------------------------

    @abstractmethod
    async def release(self, run_id: str, wanted_at: int | None, what: str = HANDED_OVER) -> bool:
        """Give up the active run `run_id` of this worker: it is nobody's then, its owner is "". It wants somebody from
        `wanted_at` on (ms; 0: now; None: not by itself), and at once where it does not wait for a person or a command
        is kept for it. `what` says why, as in the `Move` that is kept of it. Returns whether it wants somebody now;
        False too, and nothing changes, where it is not this worker's.

        Other workers are told of a run that wants somebody now. Raises `WorkerFenced`.
        """

    @abstractmethod
    async def claim(self, run_id: str) -> RunRecord | None:
        """Become the owner of the active run `run_id` that is nobody's: exactly one worker gets the record, others
        None. The commands that are kept for it come to the listener afterwards. Raises `WorkerFenced`.
        """

    @abstractmethod
    async def wanted(self, now: int, limit: int = WANTED_MAX) -> list[RunRecord]:
        """Find active runs that are nobody's and want somebody at the time `now` (ms), longest wanted first, at most
        `limit`. Costs nothing for those that do not.
        """

    # -- journals ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        """Accept each of `batches`, durably and atomically; returns the ids of the runs that were refused because this
        worker does not own them or they are closed. At most one batch per run. A checkpoint with data sets the run's
        `takeovers` to 0; with `end` the checkpoint and all commands go. Raises `WorkerFenced`.

        After `StoreUnavailable` the same call is made again. A store whose answer can get lost on its way recognises a
        batch that it has already accepted, and accepts it without writing it twice.
        """

    @abstractmethod
    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        """Return the accepted events of run `run_id` from `after` + 1 on, at most `limit` of them and about
        `READ_BYTES_MAX`; only the end is empty. Raises `CursorExpired` when the events are past their retention,
        `RunNotFound`.
        """

    @abstractmethod
    async def times(self, run_id: str, after: int = 0, limit: int = TIMES_MAX) -> list[GroupTime]:
        """Return when groups of events of the run `run_id` were accepted: those behind position `after` whose time is
        kept, in order, at most `limit`; only the end is empty. Raises what `read` raises.
        """

    @abstractmethod
    async def moves(self, run_id: str) -> Moves:
        """Return how the run `run_id` came from worker to worker, as `release`, `claim` and `take_over` have kept it in
        their own steps; none where it has always been its first worker's, is past its retention or not there.
        """

    @abstractmethod
    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return the newest accepted checkpoint of the run `run_id`; None where it has none or is not active."""

    @abstractmethod
    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        """Keep `data` durably as the `piece` (from 0 on) of the blob `blob_id` of the run `run_id`, for as long as the
        run's events, and count it as one of their bytes. A piece that is there stays as it is.

        Raises `RunNotFound` where the run has ended or is not this worker's.
        """

    @abstractmethod
    async def blob(self, run_id: str, blob_id: str, piece: int) -> bytes | None:
        """Return the `piece` of the blob `blob_id` of the run `run_id`, as `keep_blob` took it; None where there is
        none, or none any more.
        """

    @abstractmethod
    async def watch(self, run_id: str) -> None:
        """Tell the listener of what others append to the run `run_id` from now on, until `unwatch`."""

    @abstractmethod
    async def unwatch(self, run_id: str) -> None:
        """Undo `watch` of `run_id`, also one that raised: it may be in force."""

    @abstractmethod
    async def send(self, run_id: str, command: bytes) -> str:
        """Deliver `command` (cancel, input) to the worker that owns the run `run_id`, at least once; a run that has
        ended takes none. It is kept until a batch names it in `taken` or the run ends: whoever owns the run next hears
        it again.

        Returns the owner; "" where the run is nobody's, which then wants somebody, or has ended. Raises `RunNotFound`.
        """

    @abstractmethod
    async def answer(self, run_id: str, seq: int, command: bytes) -> str:
        """Deliver `command`, which decides how the waiting run `run_id` goes on, and set it running, in one step: only
        where it waits and `seq`, the question's position, is its last. Of several exactly one is taken; the others
        raise `NotWaiting`.

        Otherwise like `send`. Raises `RunNotFound`.
        """

    async def commands(self, run_id: str) -> list[bytes]:
        """Return the commands that are kept for the run `run_id`, in no order; none where it is not active."""
        return []

    @abstractmethod
    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        """Drop the events of runs that ended before `ended_before` (ms), then of those that ended first until the
        events of all ended runs are at most `bytes_max` bytes; their records stay. Returns how many runs.
        """

    # -- sessions ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_session(self, session: SessionRecord) -> SessionRecord:
        """Record the new `session`; returns the one that already has the id, if any."""

    @abstractmethod
    async def get_session(self, session_id: str) -> SessionRecord | None:
        """Return the record of the session `session_id`, or None."""

    @abstractmethod
    async def list_sessions(
        self, *, user_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[SessionRecord]:
        """Return at most `limit` sessions as lists have them, of `user_id` or of all, latest used first. `after` as for
        `list_runs`; a session that is used meanwhile goes to the beginning. Raises `CursorInvalid`."""

    @abstractmethod
    async def update_state(
        self, session_id: str, changes: dict[str, Any], updated_at: int, bytes_max: int | None = None
    ) -> SessionRecord | None:
        """Set the keys `changes` of the state of session `session_id`, in one step, at `updated_at` (ms).

        Returns the session as it is then, or None where there is none. Raises `SessionBusy` when a run of it is active,
        as that run's end says what the state is; `InputTooLarge` where the state would have more than `bytes_max`.
        """

    @abstractmethod
    async def rename_session(self, session_id: str, title: str) -> SessionRecord | None:
        """Give the session `session_id` this `title`, in one step, also while a run of it is active: its end leaves a
        title that is there. With "" there is none, until a run ends. The session stays in its place in lists.

        Returns the session as it is then, or None where there is none.
        """

    @abstractmethod
    async def delete_session(self, session_id: str) -> bool:
        """Delete the session `session_id`, its turns, its ended runs and their journals. Raises `SessionBusy` when a
        run of it is active.
        """

    @abstractmethod
    async def watch_session(self, session_id: str) -> None:
        """Tell the listener, from now on, until `unwatch_session`, when a run of the session `session_id` is created or
        has another status, and when the session has another title or state or is deleted: what this worker does too. It
        may be told for nothing, and of several changes at once.
        """

    @abstractmethod
    async def unwatch_session(self, session_id: str) -> None:
        """Undo `watch_session` of `session_id`, also one that raised."""

    @abstractmethod
    async def watch_user(self, user_id: str) -> None:
        """Tell the listener, from now on, until `unwatch_user`, of every session of the user `user_id` what
        `watch_session` tells of one, and when one is created. `EVERYONE` is the user of all sessions: it is told by
        that name."""

    @abstractmethod
    async def unwatch_user(self, user_id: str) -> None:
        """Undo `watch_user` of `user_id`, also one that raised."""

    @abstractmethod
    async def turns(self, session_id: str, skip: int = 0) -> list[Turn]:
        """Return the turns of session `session_id`, oldest first, without the first `skip`."""


_PASSWORD = re.compile(r"^(\w*:(?://)?[^:@/?#]*):.*@", re.DOTALL)
_PASSWORD_ASKED = re.compile(r"(?<=[?&])([^=&#]*(?:pass|secret|token)[^=&#]*)=[^&#]*", re.IGNORECASE)


def shown_url(url: str) -> str:
    """Give a store's `url` as it may be printed: without the password in it, whatever characters that has."""
    return _PASSWORD.sub(r"\1:***@", _PASSWORD_ASKED.sub(r"\1=***", url))  # this first: it may have an @ in it
