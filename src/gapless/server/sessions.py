"""Routes of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.http.answers import LIST_LIMIT_MAX, answer, body_docs, parameter_docs, public, read_body, whole_number
from gapless.http.auth import Access
from gapless.records import SessionRecord, title_of
from gapless.runs.runner import Runner

__all__ = ["routes"]


class CreateSession(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /sessions`; it may be left out."""

    id: str | None = None
    state: dict[str, Any] | None = None


def routes(runner: Runner, access: Access) -> APIRouter:
    """The router. Every route that names a session authorises its caller for it."""
    router = APIRouter(tags=["sessions"])

    async def shown(sessions: Sequence[SessionRecord]) -> list[dict[str, Any]]:
        active = await runner.active_runs([session.id for session in sessions])
        records = []
        for session in sessions:
            record = public(session)
            if (run := active.get(session.id)) is not None:
                record["active_run_id"] = run.id
                record.setdefault("title", title_of(run.message))  # it gets its title when its first run ends
            records.append(record)
        return records

    @router.get("/sessions", openapi_extra=parameter_docs("limit"))
    async def list_sessions(request: Request) -> Response:
        """The caller's sessions, latest used first; `?limit=`."""
        user = await access.user(request)
        limit = whole_number(request, "limit", 100, least=1, most=LIST_LIMIT_MAX)
        sessions = await runner.list_sessions(user_id=user, limit=limit)
        return answer({"sessions": await shown(sessions)})

    @router.post("/sessions", status_code=201, openapi_extra=body_docs(CreateSession, required=False))
    async def create_session(request: Request) -> Response:
        """A new session, or the one that has the id already."""
        user = await access.user(request)
        body = CreateSession()
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            body = await read_body(request, CreateSession, runner.limits.body_bytes_max)
        return answer(public(await runner.create_session(body.id, user_id=user, state=body.state)), 201)

    @router.get("/sessions/{session_id}")
    async def get_session(session_id: str, request: Request) -> Response:
        """One session, with the id of its active run."""
        session = await access.find(request, "read", runner.get_session, session_id)
        return answer((await shown([session]))[0])

    @router.get("/sessions/{session_id}/messages")
    async def get_messages(session_id: str, request: Request) -> Response:
        """The messages of the session's ended runs, oldest first."""
        await access.find(request, "read", runner.get_session, session_id)
        return answer({"messages": await runner.messages(session_id)})

    @router.delete("/sessions/{session_id}", status_code=204)
    async def delete_session(session_id: str, request: Request) -> Response:
        """Drop the session, its runs and their journals. 409 while a run of it is active."""
        await access.find(request, "delete", runner.get_session, session_id)
        await runner.delete_session(session_id)
        return Response(status_code=204)

    return router
