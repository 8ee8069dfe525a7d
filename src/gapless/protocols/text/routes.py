"""The simplest endpoint: ask and read text, also from a browser's own `EventSource`."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import CursorInvalid, InputInvalid
from gapless.http.answers import read_optional_body
from gapless.http.auth import check_own_page
from gapless.http.config import AskedConfig, config_for
from gapless.http.cursors import cursor_of
from gapless.http.openapi import STARTING, Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.starting import ClientRoutes, StartRequest, root_path
from gapless.protocols.text.wire import TextEncoder

__all__ = ["TextRoutes"]


class ChatStream(msgspec.Struct):
    """The body of `POST /chat/stream`; each field may be a query parameter instead."""

    query: str | None = None
    message: str | None = None
    agent: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    config: AskedConfig | None = None


_DOCS = parameter_docs(
    Parameter("query", "query", "The question."),
    Parameter("message", "query", "The same as `query`."),
    "agent",
    "session_id",
    *STARTING,
    "Last-Event-ID",
    "after",
)


class TextRoutes(ClientRoutes):
    """`/chat/stream`."""

    family = "text"

    def router(self) -> APIRouter:
        router = APIRouter(tags=["chat"], route_class=DirectRoute)
        router.get("/chat/stream", openapi_extra=_DOCS)(self.get_stream)
        router.post("/chat/stream", openapi_extra=body_docs(ChatStream) | _DOCS)(self.post_stream)
        return router

    async def get_stream(self, request: Request) -> Response:
        """`new EventSource("/chat/stream?query=Hello")`: the answer as `data: {"text": …}` to `data: [DONE]`.

        When the browser reconnects by itself it goes on with the same run. `?session_id=` keeps a conversation;
        `?run_id=` makes the start itself safe to repeat.
        """
        return await self._stream(request, await self.access.user(request), _from_query(request))

    async def post_stream(self, request: Request) -> Response:
        """Ask the same by a POST, with a JSON body or with query parameters."""
        user = await self.access.user(request)
        body = await read_optional_body(request, ChatStream, self.runner.limits.body_bytes_max)
        return await self._stream(request, user, body or _from_query(request))

    async def _stream(self, request: Request, user: str, body: ChatStream) -> Response:
        last_id = request.headers.get("last-event-id", "")
        if last_id:  # an EventSource that comes back: its id names the run
            run_id = last_id.rpartition(":")[0]
            if not run_id:
                raise CursorInvalid(f"{last_id[:64]!r} is not an id of this stream; send it back as it came")
            record = await self.access.find(request, "read", self.runner.get_run, run_id)
        else:
            if request.method != "POST":
                check_own_page(request)
            query = body.query or body.message
            if not query:
                raise InputInvalid("query is missing: /chat/stream?query=Hello")
            asked = StartRequest(
                query, agent=body.agent, session_id=body.session_id, config=config_for(self.runner, body.config)
            )
            record = await self.start(request, user, asked)
        location = f"{root_path(request)}/runs/{record.id}/events?wire=text"
        return self.follow(request, record, TextEncoder, cursor_of(request, record.id), location=location)


def _from_query(request: Request) -> ChatStream:
    params = request.query_params
    return ChatStream(
        query=params.get("query") or params.get("message"),
        agent=params.get("agent"),
        session_id=params.get("session_id"),
    )
