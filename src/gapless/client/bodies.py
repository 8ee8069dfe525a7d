"""What a server answers with, as a client reads it."""

from __future__ import annotations

from typing import Literal

import msgspec

from gapless.events import Event, Message
from gapless.notify import NoticeRecord
from gapless.records import RunRecord, RunStatus, SessionRecord

__all__ = ["FeedChange", "Messages", "Notices", "Page", "Refusal", "Runs", "Session", "Sessions"]


class Session(SessionRecord, kw_only=True):
    """Is a session, with its run that has not ended, if any: `active_run_id` and `active_run_status`. In a feed it has
    its newest run too, also where that has ended: `newest_run_id` and `newest_run_status`. `found` is the text around
    what was searched for, "" where that is in the title."""

    active_run_id: str | None = None
    active_run_status: RunStatus | None = None
    newest_run_id: str | None = None
    newest_run_status: RunStatus | None = None
    found: str = ""


class FeedChange(msgspec.Struct, kw_only=True):
    """Says what has become of one of the user's sessions, by its `type`: `session` as it is now, or `deleted`, with its
    `session_id`; or `reset`: what came before is not known any more, read the list of sessions anew. Of everyone's
    sessions operators are told that one has `changed`, by its `session_id`."""

    type: Literal["session", "deleted", "changed", "reset"]
    session: Session | None = None
    session_id: str | None = None


class Page(msgspec.Struct, kw_only=True):
    """Is a part of the journal of run `run_id`: the `events` after position `after`, one for each position, and whether
    the run has `ended`.
    """

    run_id: str
    after: int
    events: list[Event]
    last_seq: int
    """Position of the run's newest event."""
    ended: bool


class Runs(msgspec.Struct):
    runs: list[RunRecord]
    next: str | None = None


class Sessions(msgspec.Struct):
    sessions: list[Session]
    next: str | None = None


class Notices(msgspec.Struct):
    notices: list[NoticeRecord]


class Messages(msgspec.Struct):
    messages: list[Message]


class ErrorBody(msgspec.Struct):
    code: str
    message: str
    run_id: str | None = None


class Refusal(msgspec.Struct):
    error: ErrorBody
