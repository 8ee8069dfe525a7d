"""Where a client wants to go on, and whether it can."""

from __future__ import annotations

from starlette.requests import HTTPConnection, Request

from gapless.errors import CursorInvalid, RunNotFound
from gapless.http.answers import header, whole_number
from gapless.records import RunRecord
from gapless.runs.conversations import SessionPlace, place_of
from gapless.runs.readers import check_position
from gapless.runs.runner import Runner
from gapless.wire import Cursor, parse_cursor

__all__ = ["PAGE_LIMIT_MAX", "START", "check_cursor", "check_start", "cursor_of", "page_params", "session_place"]

START = Cursor(0)
PAGE_LIMIT_MAX = 10_000
"""Events in one JSON page."""


def cursor_of(request: HTTPConnection, run_id: str | None) -> Cursor:
    """Return where the client wants to go on: `Last-Event-ID` or `?after=`, else the start. Raises `CursorInvalid`."""
    text = header(request, b"last-event-id") or request.query_params.get("after")
    return parse_cursor(text, run_id) if text else START


def session_place(request: HTTPConnection) -> SessionPlace:
    """Return where in a session the client wants to go on: `Last-Event-ID` or `?after=`, else the start. Raises
    `CursorInvalid`."""
    text = header(request, b"last-event-id") or request.query_params.get("after")
    return place_of(text) if text else SessionPlace()


async def check_start(runner: Runner, run_id: str | None, cursor: Cursor) -> None:
    """Refuse a cursor before its request starts a run that the client would not get: there is something to go on from
    only where the run has been started before. Raises `CursorInvalid`."""
    if cursor == START:
        return
    try:
        if run_id is not None:
            await runner.get_run(run_id)
            return
    except RunNotFound:
        pass
    raise CursorInvalid("the cursor is past the start of a run that there is not yet; leave it out", run_id=run_id)


def check_cursor(record: RunRecord, cursor: Cursor) -> None:
    """Raises `CursorInvalid` for a cursor that the run has not come to."""
    check_position(record, cursor.seq, cursor.part)


def page_params(request: Request) -> tuple[int, int]:
    """`?after=` and `?limit=` of a JSON page of events. Raises `InputInvalid`."""
    return whole_number(request, "after", 0), whole_number(request, "limit", 1000, least=1, most=PAGE_LIMIT_MAX)
