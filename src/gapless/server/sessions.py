"""Routes of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import InputInvalid, NotAuthorized
from gapless.http.answers import (
    header,
    json_response,
    list_params,
    long_json_response,
    paged,
    public,
    read_body,
    read_optional_body,
    shown_session,
    wants_stream,
    whole_number,
)
from gapless.http.cursors import PAGE_LIMIT_MAX, session_place
from gapless.http.feed_stream import follow_feed
from gapless.http.openapi import BEHIND, Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.http.session_stream import follow_session
from gapless.protocols.ag_ui.wire import SessionAGUIEncoder
from gapless.protocols.starting import ClientRoutes, root_path
from gapless.records import SessionRecord
from gapless.runs.conversations import SessionPlace
from gapless.runs.feeds import EVERYONE
from gapless.runs.searching import search_sessions

__all__ = ["SessionRoutes"]

PLACE = Parameter("after", "query", "Go on after this event: an id as it came, or `latest`.")
SEARCH_CHARS_MAX = 200
_Q = Parameter("q", "query", "Only sessions in which this text is.")
_FEED = Parameter(
    "feed", "query", "Carry the feed on the same connection, too: `1`, or the cursor of the last `gapless.feed` event."
)
_FEED_PLACE = Parameter("after", "query", "Go on after this event: an id as it came.")
_EVERYONE = Parameter("everyone", "query", "`1`: of all users; for operators.", {"enum": ["0", "1"]})
_AGENT = Parameter("agent", "query", "Only sessions with this agent.")


class CreateSession(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /sessions`; it may be left out."""

    id: str | None = None
    state: dict[str, Any] | None = None


class RenameSession(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PATCH /sessions/{id}`."""

    title: str


class SessionRoutes(ClientRoutes):
    """`/sessions…` and `/feed`. Every route that names a session authorises its caller for it."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["sessions"], route_class=DirectRoute)
        router.get("/sessions", openapi_extra=parameter_docs("limit", BEHIND, _Q, _AGENT))(self.list_sessions)
        created = body_docs(CreateSession, required=False)
        router.post("/sessions", status_code=201, openapi_extra=created)(self.create_session)
        router.get("/sessions/{session_id}")(self.get_session)
        router.get("/sessions/{session_id}/messages")(self.get_messages)
        router.get("/feed", openapi_extra=parameter_docs("Last-Event-ID", _FEED_PLACE, _EVERYONE))(self.follow_feed)
        followed = parameter_docs("Accept", "Last-Event-ID", PLACE, "merge", "limit", _FEED, _EVERYONE)
        router.get("/sessions/{session_id}/events", openapi_extra=followed)(self.follow_session)
        router.patch("/sessions/{session_id}", openapi_extra=body_docs(RenameSession))(self.rename_session)
        router.delete("/sessions/{session_id}", status_code=204)(self.delete_session)
        return router

    async def list_sessions(self, request: Request) -> Response:
        """List the caller's sessions, without their states, latest used first; `?limit=`. Where there are more, `next`
        is the `?after=` of the next page.

        With `?q=` those that have this text in their title or in what was asked and answered, where `found` is the text
        around it; with `?agent=` that agent's. Either looks for half a second: a page may be short, or empty, and have
        a `next`."""
        user = await self.access.user(request)
        q, agent = request.query_params.get("q") or "", request.query_params.get("agent")
        if not q and agent is None:
            sessions = await self.runner.list_sessions(user_id=user, **list_params(request))
            return json_response(paged("sessions", await self._shown(sessions), sessions))
        if len(q) > SEARCH_CHARS_MAX:
            raise InputInvalid(f"q has {len(q)} characters: look for at most {SEARCH_CHARS_MAX}")
        listing, found = await search_sessions(self.runner, q, user_id=user, agent=agent, **list_params(request))
        shown = await self._shown(listing)
        for record in shown:
            if found[record["id"]]:
                record["found"] = found[record["id"]]
        return json_response(paged("sessions", shown, listing))

    async def create_session(self, request: Request) -> Response:
        """Create a session, or return the one that has the id already."""
        user = await self.access.user(request)
        body = await read_optional_body(request, CreateSession, self.runner.limits.body_bytes_max) or CreateSession()
        self.access.check_state(body.state)
        if body.id is not None:
            await self.check_session(body.id, user)
        return json_response(public(await self.runner.create_session(body.id, user_id=user, state=body.state)), 201)

    async def get_session(self, session_id: str, request: Request) -> Response:
        """Show one session, with the id and the status of its active run."""
        session = await self.access.find(request, "read", self.runner.get_session, session_id)
        return json_response((await self._shown([session]))[0])

    async def get_messages(self, session_id: str, request: Request) -> Response:
        """Return the messages of the session's ended runs, oldest first."""
        await self.access.find(request, "read", self.runner.get_session, session_id)
        return await long_json_response({"messages": await self.runner.messages(session_id)})

    async def follow_session(self, session_id: str, request: Request) -> Response:
        """Follow the session: the events of all its runs, run after run, as AG-UI's, and how it stands whenever that
        has changed, as a `CUSTOM` event named `gapless.session`. `Last-Event-ID` or `?after=` says from where;
        `latest` is the beginning of the run that has not ended, or what comes next. `?merge=0`: deltas are not merged
        while catching up. With `?feed=` it carries what `GET /feed` says, too, as `CUSTOM` events named `gapless.feed`,
        each with the `cursor` that `?feed=` takes; an operator's feed is that of all users with `?everyone=1`. With
        `Accept: application/json`: one page of events instead."""
        await self.access.find(request, "read", self.runner.get_session, session_id)
        place = session_place(request)
        if "application/json" in request.headers.get("accept", "") and not wants_stream(request):
            return await self._page(request, session_id, place)
        merge = request.query_params.get("merge", "1") != "0"
        query = [] if merge else ["merge=0"]
        feed, runner = None, self.runner
        if cursor := request.query_params.get("feed"):
            whose = await self._whose_feed(request)
            # Who only knows the place in the session there is told to read the list anew, as with no cursor.
            query += ["feed=1", *(["everyone=1"] if whose == EVERYONE else [])]
            feed = runner.worker.feeds.following(whose, cursor, runner.limits.followers_per_run_max)
        location = f"{root_path(request)}/sessions/{quote(session_id, safe='')}/events"
        location += f"?{'&'.join(query)}" if query else ""
        return follow_session(
            runner, self.streams, session_id, SessionAGUIEncoder, place, location=location, merge=merge, feed=feed
        )

    async def follow_feed(self, request: Request) -> Response:
        """Follow the caller's sessions: each that is created, used, renamed or deleted, and each of which a run begins,
        waits, goes on or ends, as the list has it, with the id and the status of its newest run. `type` is `session`,
        `deleted`, or `reset`: read the list anew, as with no cursor, or one that is too old, or another worker's.
        `Last-Event-ID` or `?after=` says from where. Who reads slowly gets each session once, as it is then.

        Operators follow all users' sessions with `?everyone=1`: `type` is `changed` then, with the `session_id`."""
        whose = await self._whose_feed(request)
        cursor = header(request, b"last-event-id") or request.query_params.get("after") or ""
        location = f"{root_path(request)}/feed" + ("?everyone=1" if whose == EVERYONE else "")
        return follow_feed(self.runner, self.streams, whose, cursor, location=location)

    async def _whose_feed(self, request: Request) -> str:
        """Return the user whose feed is asked for, or `EVERYONE`. Raises `NotAuthorized`."""
        user = await self.access.user(request)
        if request.query_params.get("everyone", "0") == "0":
            return user
        if not self.access.is_operator(user):
            raise NotAuthorized("the feed of all users is an operator's: leave out everyone")
        return EVERYONE

    async def _page(self, request: Request, session_id: str, after: SessionPlace) -> Response:
        limit = whole_number(request, "limit", 1000, least=1, most=PAGE_LIMIT_MAX)
        page = await self.runner.worker.conversations.page(session_id, after, limit)
        events = [{"id": str(place), "run_id": place.run_id, "event": msgspec.Raw(event)} for place, event in page]
        return json_response({"session_id": session_id, "events": events, "next": events[-1]["id"] if events else None})

    async def rename_session(self, session_id: str, request: Request) -> Response:
        """Give the session another title, one line of at most 200 characters, also while a run of it is active. With an
        empty one it has that of its first message again. It stays in its place in the list."""
        await self.access.find(request, "update", self.runner.get_session, session_id)
        body = await read_body(request, RenameSession, self.runner.limits.body_bytes_max)
        session = await self.runner.rename_session(session_id, body.title)
        return json_response((await self._shown([session]))[0])

    async def delete_session(self, session_id: str, request: Request) -> Response:
        """Drop the session, its runs and their journals. A run that was cancelled is waited for, for some seconds at
        most; 409 while another is active."""
        await self.access.find(request, "delete", self.runner.get_session, session_id)
        await self.runner.delete_session(session_id)
        return Response(status_code=204)

    async def _shown(self, sessions: Sequence[SessionRecord]) -> list[dict[str, Any]]:
        active = await self.runner.active_runs([session.id for session in sessions])
        return [shown_session(session, active.get(session.id)) for session in sessions]
