"""The responses of OpenAI's API: what each goes on from, and what it amounts to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import CursorInvalid, InputInvalid, RunNotFound
from gapless.events import Message, SystemMessage, ToolMessage, UserMessage
from gapless.http.answers import json_response, whole_number
from gapless.http.cursors import cursor_of
from gapless.http.openapi import Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.conversations import answer_interrupts, current_run, results_as_answers
from gapless.protocols.openai.api import START_DOCS, OpenAIAPI, gone, names
from gapless.protocols.openai.chat_wire import OPTIONS, Options, options_of
from gapless.protocols.openai.requests import Responses, check_results, response_messages, response_settings
from gapless.protocols.openai.responses_wire import ID_PREFIX, ResponsesEncoder
from gapless.protocols.starting import StartRequest
from gapless.records import AFTER, RunRecord, branch
from gapless.user_message import mark_results
from gapless.wire import Cursor

__all__ = ["ResponsesRoutes"]

CANCEL_WAIT_S = 6.0
"""How long the answer to a cancel waits for the run's end."""

_GET_DOCS = parameter_docs(
    Parameter("stream", "query", "`true`: its events.", {"enum": ["true", "false"]}),
    Parameter(
        "starting_after",
        "query",
        "Go on after the event with this sequence number.",
        {"type": "integer", "minimum": 0},
    ),
    "Last-Event-ID",
    "after",
    "merge",
)
_decode_messages = msgspec.json.Decoder(list[Message]).decode


class ResponsesRoutes(OpenAIAPI):
    """`/v1/responses…`. A conversation is a session, a response one of its runs."""

    def router(self) -> APIRouter:
        router = APIRouter(route_class=DirectRoute)
        self.add_to(router)
        return router

    def add_to(self, router: APIRouter) -> None:
        """Add the routes to OpenAI's router."""
        router.post("/responses", openapi_extra=body_docs(Responses) | START_DOCS)(self.create_response)
        router.get("/responses/{response_id}", openapi_extra=_GET_DOCS)(self.get_response)
        router.post("/responses/{response_id}/cancel")(self.cancel_response)

    async def create_response(self, request: Request) -> Response:
        """Create a response: streamed with `"stream": true`, at once and still in progress with `"background": true`.
        It goes on from `previous_response_id`, or in the session that `conversation` names.
        """
        user, raw, body = await self.read_as(request, Responses)
        waiting = await self._answered(request, body)
        if waiting is not None:
            return await self._show(request, body, waiting)
        asked = await self._asked(request, body)
        asked.config = self.config(response_settings(body, raw))
        return await self._show(request, body, await self.begin(request, user, body, asked))

    async def _show(self, request: Request, body: Responses, begun: RunRecord) -> Response:
        """Answer with the response in the way that was asked for."""
        if body.stream:
            return self.stream(request, begun, ResponsesEncoder)
        if body.background:
            return await self._response(begun)
        record = await self.settled(request, begun)
        return gone() if record is None else await self._response(record)

    async def _answered(self, request: Request, body: Responses) -> RunRecord | None:
        """Return the run that waited for these outputs of calls, and goes on; None where none did. It is still the
        response that it was."""
        if isinstance(body.input, str) or (body.previous_response_id is None and body.conversation is None):
            return None
        message, before = response_messages(body)
        if body.previous_response_id is not None:
            run: RunRecord | None = await self._record(request, "answer", body.previous_response_id)
        else:
            run = await current_run(self.runner, self.access, request, _session_of(body) or "", "answer")
        if run is None or message.content:
            return None
        for one in before:
            if isinstance(one, ToolMessage):  # the id of the call's item stands for the call's
                one.tool_call_id = one.tool_call_id.removeprefix("mcp_")
        entries = await results_as_answers(self.runner, run, before)
        if not entries:
            return None
        await answer_interrupts(self.runner, run, entries)
        return await self.runner.get_run(run.id)

    async def _asked(self, request: Request, body: Responses) -> StartRequest:
        """Return the message, what is told of it to whoever reads the response, and what it goes on from."""
        message, before = response_messages(body)
        past = await self._past(request, body)
        if not message.content:
            check_results([*past.messages(), *before])
        options: dict[str, Any] = {"tools": [tool.name for tool in body.tools or ()]}
        if body.conversation is None:
            options["previous"] = past.previous
        instructions = [SystemMessage(id="instructions", content=body.instructions)] if body.instructions else []
        brought = [one for one in before if isinstance(one, ToolMessage)]
        goes_on = not message.content and not instructions and len(brought) == len(before) and past.history() is None
        if before and not goes_on:
            options["input"] = msgspec.to_builtins(before)
        if body.background:
            options["background"] = True
        if "reasoning.encrypted_content" in (body.include or ()):
            options["encrypted"] = True
        if body.metadata:
            options["metadata"] = body.metadata
        message.metadata = {OPTIONS: options}
        if goes_on and brought:
            mark_results(message, brought)
        if past.previous is not None and not past.whole and past.told:
            message.metadata = {**(message.metadata or {}), AFTER: past.previous}
        own = goes_on or not (before or instructions)
        return StartRequest(
            message,
            session_id=past.session_id,
            history=past.history() if own else [*instructions, *past.messages(), *before],
            fingerprint=[body.previous_response_id, body.instructions, before, body.metadata],
        )

    async def get_response(self, response_id: str, request: Request) -> Response:
        """Show the response as it stands; with `?stream=true` its events, from the start or after
        `?starting_after=`.
        """
        record = await self._record(request, "read", response_id)
        params = request.query_params
        if params.get("stream", "false").lower() != "true":
            return await self._response(record)
        cursor = cursor_of(request, record.id)
        if "starting_after" in params:
            cursor = await self._after_number(record, whole_number(request, "starting_after", 0))
            record = await self.runner.get_run(record.id)  # it may have grown meanwhile
        return self.stream(request, record, ResponsesEncoder, cursor)

    async def cancel_response(self, response_id: str, request: Request) -> Response:
        """End a response as cancelled. Idempotent."""
        record = await self._record(request, "cancel", response_id)
        await self.runner.cancel(record.id)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.runner.readers.wait(record.id), CANCEL_WAIT_S)
        return await self._response(await self.runner.get_run(record.id))

    async def _response(self, record: RunRecord) -> Response:
        encoder = ResponsesEncoder(record)
        encoder.skip(await self.merged(record))  # what the response amounts to does not depend on how it was divided
        return json_response(encoder.response(), headers=names(record))

    async def _record(self, request: Request, action: str, response_id: str) -> RunRecord:
        try:
            run_id = response_id.removeprefix(ID_PREFIX)
            return await self.access.find(request, action, self.runner.get_run, run_id)
        except RunNotFound:
            raise RunNotFound(f"no response {response_id}") from None

    async def _after_number(self, record: RunRecord, number: int) -> Cursor:
        encoder = ResponsesEncoder(record)
        async for events in self.runner.readers.pages(record.id):
            cursor = encoder.locate(events, number)
            if cursor is not None:
                return cursor
        raise CursorInvalid(f"response {ID_PREFIX}{record.id} has no event {number} yet", run_id=record.id)

    async def _past(self, request: Request, body: Responses) -> _Past:
        """Return what the request goes on from. Raises `RunNotFound`, `SessionNotFound` for what the caller may not
        read.
        """
        if body.conversation is not None:
            if body.previous_response_id is not None:
                raise InputInvalid("say either conversation or previous_response_id")
            session_id = _session_of(body) or ""
            session = await self.runner.find_session(session_id)
            if session is not None:
                await self.access.check(request, "read", session)
            return _Past(session_id, None, list((await self._turns(session_id)).values()), True)
        if body.previous_response_id is None:
            return _Past(None, None, [], True)
        record = await self._record(request, "read", body.previous_response_id)
        if not record.status.ended:
            raise InputInvalid(f"response {body.previous_response_id} has not ended yet", run_id=record.id)
        turns = await self._turns(record.session_id)
        line = _line(turns, record.id)
        probe = UserMessage(id="", content="", metadata={AFTER: record.id})
        told = [turn.run_id for turn in branch(await self.runner.turns(record.session_id), probe)] == line
        return _Past(record.session_id, record.id, [turns[id] for id in line], len(line) == len(turns), told)

    async def _turns(self, session_id: str) -> dict[str, list[Message]]:
        return {turn.run_id: _decode_messages(turn.messages) for turn in await self.runner.turns(session_id)}


def _session_of(body: Responses) -> str | None:
    return body.conversation if isinstance(body.conversation, str | None) else body.conversation.id


class _Past(NamedTuple):
    """What a response goes on from."""

    session_id: str | None
    previous: str | None
    """Id of the run before."""
    turns: list[list[Message]]
    whole: bool
    """`turns` are all that the session has."""
    told: bool = False
    """The session knows by itself which of them go before."""

    def history(self) -> list[Message] | None:
        """Return the messages so far; None where they are the session's own, which has them in the agent's form too."""
        if (self.whole or self.told) and not any("input" in _options(turn) for turn in self.turns):
            return None
        return self.messages()

    def messages(self) -> list[Message]:
        return [message for turn in self.turns for message in _with_input(turn)]


def _line(turns: dict[str, list[Message]], run_id: str) -> list[str]:
    """Return the runs up to that one, along its own line where responses went on from one several times."""
    line: dict[str, None] = {}  # each run once, whatever they say of each other
    at: str | None = run_id
    while at in turns and at not in line:
        line[at] = None
        options = _options(turns[at])
        if "previous" not in options:  # not a response: it goes on from what came before it in the session
            earlier = list(turns)
            line |= dict.fromkeys(reversed(earlier[: earlier.index(at)]))
            break
        at = options["previous"]
    return list(reversed(line))


def _options(turn: list[Message]) -> Options:
    return options_of(turn[0]) if turn else {}


def _with_input(turn: list[Message]) -> list[Message]:
    """Return a turn with the messages that came with its request, such as results of the client's tools."""
    if not turn:  # its run ended before it began
        return []
    user, *rest = turn
    return [*_options(turn).get("input", []), *([user] if user.content else []), *rest]
