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
from typing import Any, ClassVar, Protocol

import msgspec

from gapless.records import RunEnd, RunRecord, RunStatus, SessionRecord, Turn

__all__ = [
    "READ_BYTES_MAX",
    "Append",
    "Listener",
    "Store",
    "WorkerFenced",
    "shown_url",
]

READ_BYTES_MAX = 1024 * 1024
"""One `Store.read` stops at the event that takes it past this."""


class Append(msgspec.Struct, gc=False):  # one per run and group: thousands a second that no cycle can hold
    """Events of one run to be accepted as one: all of them in order, or none.

    An event is JSON in one line (no byte below 0x20). `first_seq` is the position of `events[0]`, which must be the
    journal's last + 1. With `end` the journal is closed. With `status` the run's record is updated in the same step.
    """

    run_id: str
    first_seq: int
    events: list[bytes]
    end: RunEnd | None = None
    status: RunStatus | None = None


class WorkerFenced(Exception):
    """This worker's lease was lost: its runs belong to others and it can append nothing under its id."""


class Listener(Protocol):
    """Who a store tells of what other workers did. Called on the event loop; must not block."""

    def on_events(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        """Events of a watched run that another worker appended. May repeat or skip: positions tell. A run that is no
        longer there, as the store has forgotten it, is told as closed before its first event: `first_seq` is 0."""

    def on_command(self, run_id: str, command: bytes) -> None:
        """A command for a run that this worker owns."""


class Store(ABC):
    """A keeper of journals, runs and sessions, as one worker sees it.

    Every method raises `StoreUnavailable` when the store cannot be reached or written: nothing has changed then, or
    what was asked for may be asked for again.
    """

    shared: ClassVar[bool] = True
    """Several processes can use it at a time, and what it keeps outlives each of them."""
    commit_interval_s: ClassVar[float] = 0.0
    """Appends are grouped: two calls of `append` are at least this far apart while there is traffic."""

    path: Path | None = None
    """The file that the store is, if it is one: opening makes it where it is not yet there."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Store:
        """Make the store that a URL of one of its schemes names, not yet opened. Raises `UsageError`."""

    # -- the worker -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self, worker_id: str, listener: Listener) -> None:
        """Make the store ready and register the worker. Raises `StoreCorrupt`."""

    @abstractmethod
    async def close(self) -> None:
        """Release everything and unregister the worker. Idempotent."""

    @abstractmethod
    async def renew(self) -> None:
        """Renew the worker's lease. Raises `WorkerFenced` when another worker has taken its runs."""

    @abstractmethod
    async def take_over(self, lease_s: float) -> list[RunRecord]:
        """Fence every worker that has not renewed for `lease_s` seconds, as observed by this worker's own monotonic
        clock, and become the owner of its active runs. Exactly one worker gets each run.

        Call it several times a lease. Commands that the old owner did not take come to the listener afterwards."""

    # -- runs -------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_run(self, run: RunRecord, *, reject_busy: bool) -> tuple[RunRecord, bool]:
        """Record a new run, owned by this worker and queued, and its session where that is new.

        Returns the record and True, or the record that already has the id and False. Raises `SessionNotFound` when the
        session is another user's: of several users who begin it at the same instant, one has it. With `reject_busy`,
        raises `SessionBusy` when the session has an active run. Either is found out in the step that creates."""

    @abstractmethod
    async def start_run(self, run_id: str, started_at: int) -> str | None:
        """Set a queued run running if it is the oldest active run of its session: None; else the id of the run just
        ahead of it. Raises `RunNotFound` when it is no longer queued, or not this worker's."""

    @abstractmethod
    async def get_run(self, run_id: str) -> RunRecord | None: ...

    @abstractmethod
    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """Newest first."""

    @abstractmethod
    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find the oldest active run of each of these sessions: the one that executes or waits, or else the one that
        is next. A session without an active run is not in the answer. Asks once, however many sessions there are."""

    # -- journals ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        """Accept each batch, durably and atomically; returns the ids of the runs that were refused because this worker
        does not own them or they are closed. At most one batch per run. Raises `WorkerFenced`.

        After `StoreUnavailable` the same call is made again. A store whose answer can get lost on its way recognises
        a batch that it has already accepted, and accepts it without writing it twice."""

    @abstractmethod
    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        """The accepted events after + 1 … at most `limit` of them and about `READ_BYTES_MAX`; only the end is empty.
        Raises `CursorExpired` when the events are past their retention, `RunNotFound`."""

    @abstractmethod
    async def watch(self, run_id: str) -> None:
        """Tell the listener of what others append to this run from now on, until `unwatch`."""

    @abstractmethod
    async def unwatch(self, run_id: str) -> None:
        """Undo `watch`, also one that raised: it may be in force."""

    @abstractmethod
    async def send(self, run_id: str, command: bytes) -> None:
        """Deliver a command (cancel, input) to the worker that owns the run, at least once; a run that has ended takes
        none. Raises `RunNotFound`."""

    @abstractmethod
    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        """Drop the events of runs that ended before that time (ms), then of those that ended first until the events of
        all ended runs are at most `bytes_max` bytes; their records stay. Returns how many runs."""

    # -- sessions ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_session(self, session: SessionRecord) -> SessionRecord:
        """Record a new session; returns the one that already has the id, if any."""

    @abstractmethod
    async def get_session(self, session_id: str) -> SessionRecord | None: ...

    @abstractmethod
    async def list_sessions(self, *, user_id: str | None = None, limit: int = 100) -> list[SessionRecord]:
        """Latest used first."""

    @abstractmethod
    async def update_state(self, session_id: str, changes: dict[str, Any], updated_at: int) -> SessionRecord | None:
        """Set these keys of the session's state, in one step; the session as it is then, or None where there is none.
        Raises `SessionBusy` when a run of it is active, as that run's end says what the state is."""

    @abstractmethod
    async def delete_session(self, session_id: str) -> bool:
        """Drop the session, its turns, its ended runs and their journals. Raises `SessionBusy` when a run of it is
        active."""

    @abstractmethod
    async def turns(self, session_id: str) -> list[Turn]:
        """The session's turns, oldest first."""


_PASSWORD = re.compile(r"^(\w*:(?://)?[^:@/?#]*):.*@", re.DOTALL)
_PASSWORD_ASKED = re.compile(r"(?<=[?&])([^=&#]*(?:pass|secret|token)[^=&#]*)=[^&#]*", re.IGNORECASE)


def shown_url(url: str) -> str:
    """Give a store's URL as it may be printed: without the password in it, whatever characters that has."""
    return _PASSWORD_ASKED.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", url))
