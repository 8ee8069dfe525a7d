"""The AI SDK's endpoints: `useChat` and every other client of its UI message stream."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import InputInvalid, RunNotFound
from gapless.events import Message, ResumeEntry, UserMessage
from gapless.journals.contract import ACTIVE, RunRecord
from gapless.runner import Runner
from gapless.server.auth import Access
from gapless.server.follow import Streams, check_cursor, check_start, cursor_of, follow
from gapless.server.history import answer_interrupts, current_run, has_said_all, history_unless_ours, known_run, runs_of
from gapless.server.http import STARTING, answer, body_docs, chosen_run_id, parameter_docs, public, read_body
from gapless.server.uimessages import UIMessage, approvals, to_messages
from gapless.wires.base import Cursor
from gapless.wires.vercel import CONTINUES, VercelEncoder

__all__ = ["routes"]

RUNS_STOPPED_MAX = 100
"""Active runs of one chat that one request stops."""


class ChatRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /vercel/chat`, as the AI SDK's `DefaultChatTransport` sends it. `agent` is for its `body`."""

    id: str
    messages: list[UIMessage]
    trigger: str = "submit-message"
    message_id: str | None = None
    agent: str | None = None


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router. A chat is a session."""
    router = APIRouter(tags=["vercel"])

    @router.post(
        "/vercel/chat",
        openapi_extra=body_docs(ChatRequest) | parameter_docs("agent", *STARTING, "Last-Event-ID", "after"),
    )
    async def chat(request: Request) -> Response:
        """`new DefaultChatTransport({ api: "/vercel/chat" })`: a new message, a regenerated answer, the results of
        the client's own tools, or answers to approval requests; `?agent=` names one of several agents."""
        user = await access.user(request)
        body = await read_body(request, ChatRequest, runner.limits.body_bytes_max)
        if not body.messages:
            raise InputInvalid("messages is empty; its last one is the question")
        last = body.messages[-1]
        if last.role != "user":
            entries = approvals(last)
            if entries:
                return await _go_on(request, body.id, entries)
        # A client that has run tools of its own asks nothing new: the run goes on from what they found, in its message.
        run_id = chosen_run_id(request, user)
        await check_start(runner, run_id, cursor_of(request, run_id))
        sent = to_messages(body.messages)
        history: list[Message] | None = sent
        message: Message = UserMessage(id="", content="", metadata={CONTINUES: last.id})
        if last.role == "user":
            *before, message = sent
            if not message.content:
                raise InputInvalid("the message is empty")
            if (known := await known_run(runner, access, request, run_id, body.id, message)) is not None:
                return _tail(request, known)
            sent, history = before, await history_unless_ours(runner, body.id, user, before)
        config = runner.config
        if body.trigger == "regenerate-message":  # the answer that may still be coming has been dropped by the user
            config = msgspec.structs.replace(config, on_busy="interrupt")
        run = await runner.start(
            message,
            agent=body.agent or request.query_params.get("agent"),
            session_id=body.id,
            run_id=run_id,
            user_id=user,
            config=config,
            messages=history,
            fingerprint=sent,
        )
        return _tail(request, run.started)

    @router.get("/vercel/chat/{chat_id}/stream", openapi_extra=parameter_docs("runId", "Last-Event-ID", "after"))
    async def resume(chat_id: str, request: Request) -> Response:
        """The chat's answer that is coming, from its start or after `Last-Event-ID`; 204 if there is none. `?runId=`
        means that run and no later one, also when it has ended."""
        run_id = request.query_params.get("runId")
        if run_id is None:
            current = await current_run(runner, access, request, chat_id, "read")
            if current is None or (current.status.ended and cursor_of(request, current.id) == Cursor(0)):
                return Response(status_code=204)
            return _tail(request, current)
        record = await access.find(request, "read", runner.get_run, run_id)
        if record.session_id != chat_id:
            raise RunNotFound(f"no run {record.id} in chat {chat_id}", run_id=record.id)
        return _tail(request, record)

    @router.post("/vercel/chat/{chat_id}/stop", status_code=202)
    async def stop(chat_id: str, request: Request) -> Response:
        """End the chat's runs as cancelled; 204 if none is active. (`useChat().stop()` itself only hangs up.)"""
        runs = await runs_of(runner, access, request, chat_id, "cancel", RUNS_STOPPED_MAX)
        stopped = [public(await runner.cancel(record.id)) for record in runs if record.status in ACTIVE]
        return answer({"runs": stopped}, 202) if stopped else Response(status_code=204)

    async def _go_on(request: Request, chat_id: str, entries: list[ResumeEntry]) -> Response:
        """The rest of the run that these answers let go on."""
        record = await current_run(runner, access, request, chat_id, "answer")
        if record is None:
            raise InputInvalid(f"chat {chat_id} has no run that waits for an answer")
        check_cursor(record, cursor_of(request, record.id))
        after = await answer_interrupts(runner, record, entries)
        return _tail(request, await runner.get_run(record.id), after)

    def _tail(request: Request, record: RunRecord, after: int = 0) -> Response:
        """The chunks after the request's cursor, or after this position if it has none."""
        cursor = cursor_of(request, record.id)
        if cursor == Cursor(0):
            cursor = Cursor(after)
        if has_said_all(record, cursor):
            return Response(status_code=204, headers={"x-run-id": record.id})
        return follow(runner, streams, record, VercelEncoder, cursor, location=_location(request, record, after))

    return router


def _location(request: Request, record: RunRecord, after: int) -> str:
    """Where the stream goes on."""
    root: Any = request.scope.get("root_path", "")
    query = urlencode({"runId": record.id, "after": after} if after else {"runId": record.id})
    return f"{root}/vercel/chat/{quote(record.session_id, safe='')}/stream?{query}"
