"""The AG-UI endpoint, for `HttpAgent`, CopilotKit, TanStack AI and every other client of the protocol."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import InputInvalid
from gapless.events import Message, RunAgentInput, UserMessage, decode_event, interrupts_in
from gapless.fold import Fold
from gapless.http.answers import answer, body_docs, parameter_docs, read_body
from gapless.http.auth import Access
from gapless.http.stream import Streams, check_cursor, check_start, follow
from gapless.protocols.ag_ui.tanstack import to_tanstack
from gapless.protocols.ag_ui.wire import AGUIEncoder, JoinEncoder, Prefix
from gapless.protocols.conversations import (
    answer_interrupts,
    current_run,
    from_client,
    history_unless_ours,
    known_run,
)
from gapless.records import RunRecord, RunStatus
from gapless.runs.readers import has_said_all
from gapless.runs.runner import Runner
from gapless.wire import Cursor, parse_cursor

__all__ = ["routes"]

_EVENT_STREAM = "text/event-stream"
_decode_messages = msgspec.json.Decoder(list[Message]).decode


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["ag-ui"])

    @router.post(
        "/ag-ui",
        openapi_extra=body_docs(RunAgentInput) | parameter_docs("agent", "Last-Event-ID", "offset", "after"),
    )
    async def run_agent(request: Request) -> Response:
        """Run the agent on a `RunAgentInput`; `?agent=` names one of several. Posted again with the same `runId` it
        goes on with that run, after `Last-Event-ID`. With `resume` it answers the thread's waiting run, whose events
        from there on are the answer."""
        user = await access.user(request)
        body = await read_body(request, RunAgentInput, runner.limits.body_bytes_max)
        if body.resume:
            waiting = await current_run(runner, access, request, body.thread_id, "answer")
            if waiting is None:
                raise InputInvalid(f"thread {body.thread_id} has no run that waits for an answer")
            check_cursor(waiting, _cursor(request, waiting.id) or Cursor(0))
            after = await answer_interrupts(runner, waiting, body.resume)
            return await _tail(request, await runner.get_run(waiting.id), after)
        await check_start(runner, body.run_id, _cursor(request, body.run_id) or Cursor(0))
        message, history = _asked(body)
        record = await known_run(runner, access, request, body.run_id, body.thread_id, message)
        if record is None:
            run = await runner.start(
                message,
                agent=request.query_params.get("agent"),
                session_id=body.thread_id,
                run_id=body.run_id,
                user_id=user,
                # Without a new message the run goes on from the client's own results of its tools: its history counts.
                messages=await history_unless_ours(runner, body.thread_id, user, history, message)
                if message.content
                else history,
                state=body.state if isinstance(body.state, dict) and body.state else None,
                tools=body.tools,
                context=body.context,
                forwarded_props=body.forwarded_props,
                fingerprint=history,
            )
            record = run.started
        return await _tail(request, record)

    @router.get("/ag-ui", openapi_extra=parameter_docs("runId", "Last-Event-ID", "offset", "after", "join", "threadId"))
    async def join_run(request: Request) -> Response:
        """Follow the run `?runId=`, from its start or after `Last-Event-ID` or `?offset=`. `?join=snapshot`: what has
        been said comes as one MESSAGES_SNAPSHOT, with the session's messages before it, and then what follows.

        `?threadId=` alone: what TanStack AI's client asks for when a page opens, as JSON. Its `messages` are those of
        the ended runs and the newest question; `activeRun` is the run to join, `interrupts` what one waits for.
        """
        await access.user(request)
        params = request.query_params
        run_id = params.get("runId") or request.headers.get("x-run-id")
        if not run_id and "threadId" in params:
            return await _hydration(request, params["threadId"])
        if not run_id:
            raise InputInvalid("runId is missing: GET /ag-ui?runId=…")
        record = await access.find(request, "read", runner.get_run, run_id)
        if params.get("join") == "snapshot":
            cursor = _cursor(request, run_id)
            if cursor is None or cursor.part:
                return await _join(request, record, cursor)
        return await _tail(request, record)

    async def _tail(request: Request, record: RunRecord, after: int = 0) -> Response:
        """The events after the request's cursor, or after this position if it has none."""
        cursor = _cursor(request, record.id) or Cursor(after)
        location = _location(request, record.id, after)
        if not has_said_all(record, cursor.seq):
            return follow(runner, streams, record, AGUIEncoder, cursor, location=location)
        last_id = request.headers.get("last-event-id", "")
        if last_id.endswith(".end") or not (request.method == "POST" or "offset" in request.query_params):
            return Response(status_code=204, headers={"x-run-id": record.id})
        # TanStack AI was cut between the last event and the end of the body. It takes neither a 204 nor an event that
        # it knows for the end; so the last event comes again, under the end marker's id.
        (event,) = await runner.readers.page(record.id, cursor.seq - 1, 1)
        end = AGUIEncoder(record).end(cursor.seq)
        body = b"id: %d.end\ndata: %b\n\n%b" % (cursor.seq, event, end)
        return Response(body, headers={"content-location": location, "x-run-id": record.id}, media_type=_EVENT_STREAM)

    async def _join(request: Request, record: RunRecord, cursor: Cursor | None) -> Response:
        at = cursor.seq if cursor is not None else record.last_seq
        prefix, after = Prefix(), 0
        async for events in runner.readers.pages(record.id, until=at):
            after += len(events)
            if after == at and events[-1].startswith((b'{"type":"RUN_FINISHED"', b'{"type":"RUN_ERROR"')):
                after -= 1  # how it ended is told by the event itself
                events = events[:-1]
            prefix.add(events)
        if after == 0:
            return await _tail(request, record)
        compact = prefix.events(await _before(record))
        encoder = functools.partial(JoinEncoder, prefix=compact, seen=cursor.part if cursor is not None else 0)
        location = _location(request, record.id) + "&join=snapshot"
        return follow(runner, streams, record, encoder, Cursor(after), location=location)

    async def _hydration(request: Request, thread_id: str) -> Response:
        shown: dict[str, Any] = {"messages": [], "activeRun": None, "interrupts": None}
        record = await current_run(runner, access, request, thread_id, "read")
        if record is None:
            messages = []
        elif record.status.ended:
            messages = await runner.messages(thread_id)
        else:
            messages = await _before(record)
            if record.status is RunStatus.WAITING:  # there is nothing to join: what it has said comes here
                fold, asked = Fold(), []
                for event in await _events(record):
                    fold.add(decode_event(event))
                    asked = interrupts_in(event)
                messages += fold.messages()
                shown["interrupts"] = {"runId": record.id, "pending": asked}
            else:
                shown["activeRun"] = {"runId": record.id}
        shown["messages"] = to_tanstack(messages)
        return answer(shown, headers={"cache-control": "no-store"})

    async def _events(record: RunRecord) -> list[bytes]:
        return [event async for page in runner.readers.pages(record.id) for event in page]

    async def _before(record: RunRecord) -> list[Message]:
        """The session's messages up to and with this run's question."""
        messages: list[Message] = []
        for turn in await runner.turns(record.session_id):
            if turn.run_id == record.id:
                break
            messages += _decode_messages(turn.messages)
        return [*messages, record.input] if record.input is not None else messages

    return router


def _asked(body: RunAgentInput) -> tuple[UserMessage, list[Message]]:
    """The new message, and the history before it. Where the last message is not the user's there is no new one."""
    if not body.messages:
        raise InputInvalid("messages is empty; its last one is the question")
    messages = from_client(body.messages)
    *history, last = messages
    if isinstance(last, UserMessage):
        if not last.content:
            raise InputInvalid("the message is empty")
        return last, history
    return UserMessage(id="", content=""), messages


def _cursor(request: Request, run_id: str) -> Cursor | None:
    """`Last-Event-ID`, or `?offset=` (TanStack AI: -1 is the start) or `?after=`. Raises `CursorInvalid`."""
    params = request.query_params
    text = request.headers.get("last-event-id") or params.get("offset") or params.get("after")
    return None if text is None or text == "-1" else parse_cursor(text, run_id)


def _location(request: Request, run_id: str, after: int = 0) -> str:
    """Where the stream goes on."""
    root: Any = request.scope.get("root_path", "")
    query = urlencode({"runId": run_id, "after": after} if after else {"runId": run_id})
    return f"{root}/ag-ui?{query}"
