"""The AG-UI endpoint, for `HttpAgent`, CopilotKit, TanStack AI and every other client of the protocol."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from gapless.errors import InputInvalid
from gapless.events import Message, ResumeEntry, RunAgentInput, ToolMessage, UserMessage, decode_event, interrupts_in
from gapless.fold import Fold
from gapless.http.answers import long_json_response
from gapless.http.cursors import check_cursor
from gapless.http.openapi import Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.http.stream import follow
from gapless.protocols.ag_ui.tanstack import to_tanstack
from gapless.protocols.ag_ui.wire import ChatAGUIEncoder, JoinEncoder, OldAGUIEncoder, OldJoinEncoder, Prefix
from gapless.protocols.conversations import (
    answer_interrupts,
    current_run,
    from_client,
    history_unless_ours,
    results_as_answers,
)
from gapless.protocols.starting import ClientRoutes, StartRequest, root_path
from gapless.records import RunRecord, RunStatus, Turn, branch
from gapless.runs.readers import has_said_all
from gapless.user_message import results_of
from gapless.wire import Cursor, parse_cursor

__all__ = ["AGUIRoutes"]

_EVENT_STREAM = "text/event-stream"
_OFFSET = Parameter("offset", "query", "Go on after this event; -1 is the start.")
_OLD = {"protocolVersion": "0"}
"""In the query of a stream that goes on for a client whose AG-UI is older than 1.0. Such a client's request says no
version; its `GET` after a cut has nothing else to say it by."""
_TERMINAL = (b'{"type":"RUN_FINISHED"', b'{"type":"RUN_ERROR"')
_decode_messages = msgspec.json.Decoder(list[Message]).decode


class AGUIRoutes(ClientRoutes):
    """`/ag-ui`. A thread is a session."""

    family = "ag-ui"

    def router(self) -> APIRouter:
        router = APIRouter(tags=["ag-ui"], route_class=DirectRoute)
        posted = body_docs(RunAgentInput) | parameter_docs("agent", "Last-Event-ID", _OFFSET, "after")
        router.post("/ag-ui", openapi_extra=posted)(self.run_agent)
        got = parameter_docs(
            Parameter("runId", "query", "The run to follow."),
            "Last-Event-ID",
            _OFFSET,
            "after",
            Parameter("join", "query", "What was said comes as one MESSAGES_SNAPSHOT.", {"enum": ["snapshot"]}),
            Parameter("threadId", "query", "The conversation, for a page that opens on it."),
            Parameter("protocolVersion", "query", "0: the client's AG-UI is older than 1.0.", {"enum": ["0"]}),
        )
        router.get("/ag-ui", openapi_extra=got)(self.join_run)
        return router

    async def run_agent(self, request: Request) -> Response:
        """Run the agent on a `RunAgentInput`; `?agent=` names one of several. Posted again with the same `runId` it
        goes on with that run, after `Last-Event-ID`. With `resume` it answers the thread's waiting run, whose events
        from there on are the answer."""
        user, body = await self.read(request, RunAgentInput)
        if body.resume:
            return await self._answer(request, body, body.resume)
        if results := await self._results(request, body):
            return await self._answer(request, body, results)
        message, history = _asked(body)
        for tool in body.tools or ():
            if not isinstance(tool.parameters, dict | None):
                raise InputInvalid(f"tools: the parameters of {tool.name[:100]} are no JSON Schema of an object")
        asked = StartRequest(
            message,
            agent=request.query_params.get("agent"),
            session_id=body.thread_id,
            history=functools.partial(history_unless_ours, self.runner, body.thread_id, user, history, message),
            state=(self.access.own_state(body.state) or None) if isinstance(body.state, dict) else None,
            tools=body.tools,
            context=body.context,
            forwarded_props=body.forwarded_props,
            fingerprint=history,
        )
        record = await self.start(request, user, asked, run_id=body.run_id, cursor=_cursor_or_start)
        return await self._tail(request, record, old=body.protocol_version is None)

    async def _results(self, request: Request, body: RunAgentInput) -> list[ResumeEntry]:
        """Return the answers of a client that sends what a run of the thread waits for as tools' results."""
        if not (body.messages and isinstance(body.messages[-1], ToolMessage)):
            return []
        run = await current_run(self.runner, self.access, request, body.thread_id, "read")
        return [] if run is None else await results_as_answers(self.runner, run, body.messages)

    async def _answer(self, request: Request, body: RunAgentInput, entries: list[ResumeEntry]) -> Response:
        waiting = await current_run(self.runner, self.access, request, body.thread_id, "answer")
        if waiting is None:
            raise InputInvalid(f"thread {body.thread_id} has no run that waits for an answer")
        check_cursor(waiting, _cursor_or_start(request, waiting.id))
        after = await answer_interrupts(self.runner, waiting, entries)
        record = await self.runner.get_run(waiting.id)
        return await self._tail(request, record, after, old=body.protocol_version is None)

    async def join_run(self, request: Request) -> Response:
        """Follow the run `?runId=`, from its start or after `Last-Event-ID` or `?offset=`. `?join=snapshot`: what has
        been said comes as one MESSAGES_SNAPSHOT, with the session's messages before it, and then what follows.

        `?threadId=` alone: what TanStack AI's client asks for when a page opens, as JSON. Its `messages` are those of
        the ended runs and the newest question; `activeRun` is the run to join, `interrupts` what one waits for.
        """
        await self.access.user(request)
        params = request.query_params
        run_id = params.get("runId") or request.headers.get("x-run-id")
        if not run_id and "threadId" in params:
            return await self._hydration(request, params["threadId"])
        if not run_id:
            raise InputInvalid("runId is missing: GET /ag-ui?runId=…")
        record = await self.access.find(request, "read", self.runner.get_run, run_id)
        old = params.get("protocolVersion") == _OLD["protocolVersion"]
        if params.get("join") == "snapshot":
            cursor = _cursor(request, run_id)
            if cursor is None or cursor.part:
                return await self._join(request, record, cursor, old=old)
        return await self._tail(request, record, old=old)

    async def _tail(self, request: Request, record: RunRecord, after: int = 0, *, old: bool) -> Response:
        """Return the events after the request's cursor, or after this position if it has none, as a client of this
        AG-UI knows them."""
        cursor = _cursor(request, record.id) or Cursor(after)
        encoder = OldAGUIEncoder if old else ChatAGUIEncoder
        location = _location(request, record.id, {"after": after} if after else {}, old=old)
        if not has_said_all(record, cursor.seq):
            return self.follow(request, record, encoder, cursor, location=location)
        last_id = request.headers.get("last-event-id", "")
        if last_id.endswith(".end") or not (request.method == "POST" or "offset" in request.query_params):
            return Response(status_code=204, headers={"x-run-id": record.id})
        # TanStack AI was cut between the last event and the end of the body. It takes neither a 204 nor an event that
        # it knows for the end; so the last event comes again, under the end marker's id.
        (event,) = await self.runner.readers.page(record.id, cursor.seq - 1, 1)
        wire = encoder(record)
        body = b"id: %d.end\ndata: %b\n\n%b" % (cursor.seq, wire.frames(event)[0], wire.end(cursor.seq))
        return Response(body, headers={"content-location": location, "x-run-id": record.id}, media_type=_EVENT_STREAM)

    async def _join(self, request: Request, record: RunRecord, cursor: Cursor | None, *, old: bool) -> Response:
        at = cursor.seq if cursor is not None else record.last_seq
        prefix, after = Prefix(), 0
        async for events in self.runner.readers.pages(record.id, until=at):
            after += len(events)
            if after == at and events[-1].startswith(_TERMINAL):
                after -= 1  # how it ended is told by the event itself
                events = events[:-1]
            prefix.add(events)
        if after == 0:
            return await self._tail(request, record, old=old)
        compact = prefix.events(await self._before(record))
        joined = OldJoinEncoder if old else JoinEncoder
        encoder = functools.partial(joined, prefix=compact, seen=cursor.part if cursor is not None else 0)
        location = _location(request, record.id, {"join": "snapshot"}, old=old)
        return follow(self.runner, self.streams, record, encoder, Cursor(after), location=location)

    async def _hydration(self, request: Request, thread_id: str) -> Response:
        shown: dict[str, Any] = {"messages": [], "activeRun": None, "interrupts": None}
        record = await current_run(self.runner, self.access, request, thread_id, "read")
        if record is None:
            messages = []
        elif record.status.ended:
            messages = _messages(branch(await self.runner.turns(thread_id)))
        else:
            messages = await self._before(record)
            if record.status is RunStatus.WAITING:  # there is nothing to join: what it has said comes here
                fold, pending = Fold(), []
                async for events in self.runner.readers.pages(record.id):
                    for event in events:
                        fold.add(decode_event(event))
                        pending = interrupts_in(event)
                messages += fold.messages()
                shown["interrupts"] = {"runId": record.id, "pending": pending}
            else:
                shown["activeRun"] = {"runId": record.id}
        shown["messages"] = to_tanstack(messages)
        return await long_json_response(shown)

    async def _before(self, record: RunRecord) -> list[Message]:
        """Return the session's messages up to and with this run's question."""
        turns = await self.runner.turns(record.session_id)
        ended = next((at for at, turn in enumerate(turns) if turn.run_id == record.id), len(turns))
        messages = _messages(branch(turns[:ended], record.input))
        if record.input is None:
            return messages
        return [*messages, record.input, *results_of(record.input)]


def _messages(turns: Sequence[Turn]) -> list[Message]:
    return [message for turn in turns for message in _decode_messages(turn.messages)]


def _asked(body: RunAgentInput) -> tuple[UserMessage, list[Message]]:
    """Return the new message, and the history before it. Where the last message is not the user's there is no new
    one.
    """
    if not body.messages:
        raise InputInvalid("messages is empty; its last one is the question")
    messages = from_client(body.messages)
    *history, last = messages
    if isinstance(last, UserMessage):
        if not last.content:
            raise InputInvalid("the message is empty")
        return last, history
    return UserMessage(id="", content=""), messages


def _cursor(request: HTTPConnection, run_id: str | None) -> Cursor | None:
    """`Last-Event-ID`, or `?offset=` (TanStack AI: -1 is the start) or `?after=`. Raises `CursorInvalid`."""
    params = request.query_params
    text = request.headers.get("last-event-id") or params.get("offset") or params.get("after")
    return None if text is None or text == "-1" else parse_cursor(text, run_id)


def _cursor_or_start(request: HTTPConnection, run_id: str | None) -> Cursor:
    return _cursor(request, run_id) or Cursor(0)


def _location(request: Request, run_id: str, more: dict[str, Any], *, old: bool) -> str:
    """Return where the stream goes on, as it was begun."""
    query = urlencode({"runId": run_id} | more | (_OLD if old else {}))
    return f"{root_path(request)}/ag-ui?{query}"
