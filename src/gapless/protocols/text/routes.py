"""The simplest endpoint: ask and read text, also from a browser's own `EventSource`."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import CursorInvalid, InputInvalid
from gapless.http.answers import STARTING, body_docs, chosen_run_id, parameter_docs, read_body
from gapless.http.auth import Access
from gapless.http.stream import Streams, check_start, cursor_of, follow
from gapless.protocols.text.wire import TextEncoder
from gapless.runs.runner import Runner
from gapless.server.runs import AskedConfig, config_for

__all__ = ["routes"]


class ChatStream(msgspec.Struct):
    """The body of `POST /chat/stream`; each field may be a query parameter instead."""

    query: str | None = None
    message: str | None = None
    agent: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    config: AskedConfig | None = None


_DOCS = parameter_docs("query", "message", "agent", "session_id", *STARTING, "Last-Event-ID", "after")


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["chat"])

    async def stream(request: Request, body: ChatStream) -> Response:
        user = await access.user(request)
        last_id = request.headers.get("last-event-id", "")
        if last_id:  # an EventSource that comes back: its id names the run
            run_id = last_id.rpartition(":")[0]
            if not run_id:
                raise CursorInvalid(f"{last_id[:64]!r} is not an id of this stream; send it back as it came")
            record = await access.find(request, "read", runner.get_run, run_id)
        else:
            query = body.query or body.message
            if not query:
                raise InputInvalid("query is missing: /chat/stream?query=Hello")
            chosen_id = chosen_run_id(request, user)
            await check_start(runner, chosen_id, cursor_of(request, chosen_id))
            run = await runner.start(
                query,
                agent=body.agent,
                session_id=body.session_id,
                run_id=chosen_id,
                user_id=user,
                config=config_for(runner, body.config),
            )
            record = run.started
        location = f"{request.scope.get('root_path', '')}/runs/{record.id}/events?wire=text"
        cursor = cursor_of(request, record.id)
        return follow(runner, streams, record, TextEncoder, cursor, location=location)

    def from_query(request: Request) -> ChatStream:
        params = request.query_params
        return ChatStream(
            query=params.get("query") or params.get("message"),
            agent=params.get("agent"),
            session_id=params.get("session_id"),
        )

    @router.get("/chat/stream", openapi_extra=_DOCS)
    async def get_stream(request: Request) -> Response:
        """`new EventSource("/chat/stream?query=Hello")`: the answer as `data: {"text": …}` to `data: [DONE]`.

        When the browser reconnects by itself it goes on with the same run. `?session_id=` keeps a conversation;
        `?run_id=` makes the start itself safe to repeat.
        """
        return await stream(request, from_query(request))

    @router.post("/chat/stream", openapi_extra=body_docs(ChatStream) | _DOCS)
    async def post_stream(request: Request) -> Response:
        """The same as a POST, with a JSON body or with query parameters."""
        body = from_query(request)
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            body = await read_body(request, ChatStream, runner.limits.body_bytes_max)
        return await stream(request, body)

    return router
