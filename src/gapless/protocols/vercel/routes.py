"""The AI SDK's endpoints: `useChat` and every other client of its UI message stream."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.config import RunConfig
from gapless.errors import CursorExpired, InputInvalid, RunNotFound, SessionNotFound
from gapless.events import Interrupt, Message, ResumeEntry, UserMessage
from gapless.http.answers import json_response, long_json_response, public
from gapless.http.config import config_with
from gapless.http.cursors import check_cursor, cursor_of
from gapless.http.openapi import STARTING, Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.live import is_live
from gapless.protocols.conversations import (
    answer_interrupts,
    current_run,
    history_unless_ours,
    own_history,
    runs_of,
)
from gapless.protocols.starting import ClientRoutes, StartRequest, root_path
from gapless.protocols.vercel.messages import (
    RESULTS,
    Transcript,
    UIMessage,
    approvals,
    outputs,
    remains,
    results,
    to_messages,
)
from gapless.protocols.vercel.wire import CONTINUES, VercelEncoder
from gapless.records import ACTIVE, RunRecord, RunStatus, branch, now_ms
from gapless.user_message import mark_of
from gapless.wire import Cursor, without_void

__all__ = ["VercelRoutes"]

RUNS_STOPPED_MAX = 100
"""Active runs of one chat that one request stops."""
REPLAYED_S = 30
"""For so long after its end an answer is replayed to a page that does not name its run. The page may have loaded the
chat before that end, or have begun to replay the answer when it was cut off, and has no other way to get the rest."""
TURNS_SHOWN_MAX = 100
"""A page is given those of a chat's messages that are of its newest turns, so many."""

_decode_messages = msgspec.json.Decoder(list[Message]).decode


class ChatRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /vercel/chat`, as the AI SDK's `DefaultChatTransport` sends it, or with `message` or one of
    `messages` alone, as its documentation has it for servers that keep the chat. `agent` is for its `body`."""

    id: str
    messages: list[UIMessage] = []
    message: UIMessage | None = None
    trigger: str = "submit-message"
    message_id: str | None = None
    agent: str | None = None

    def said(self) -> list[UIMessage]:
        """Return the messages, however they were sent. Raises `InputInvalid`."""
        said = self.messages or ([self.message] if self.message is not None else [])
        if not said:
            raise InputInvalid("messages is empty; its last one is the question")
        return said


class VercelRoutes(ClientRoutes):
    """`/vercel/chat…`. A chat is a session."""

    family = "vercel"

    def router(self) -> APIRouter:
        router = APIRouter(tags=["vercel"], route_class=DirectRoute)
        posted = body_docs(ChatRequest) | parameter_docs("agent", *STARTING, "Last-Event-ID", "after")
        router.post("/vercel/chat", openapi_extra=posted)(self.chat)
        router.get("/vercel/chat/{chat_id}/messages")(self.get_messages)
        got = parameter_docs(Parameter("runId", "query", "The run to follow."), "Last-Event-ID", "after")
        router.get("/vercel/chat/{chat_id}/stream", openapi_extra=got)(self.resume)
        router.post("/vercel/chat/{chat_id}/stop", status_code=202)(self.stop)
        return router

    async def chat(self, request: Request) -> Response:
        """`new DefaultChatTransport({ api: "/vercel/chat" })`: a new message, a regenerated answer, the results of
        the client's own tools, or answers to approval requests; `?agent=` names one of several agents. A message that
        comes alone is asked after what the chat has said before it."""
        user, body = await self.read(request, ChatRequest)
        said = body.said()
        last = said[-1]
        entries = [] if last.role == "user" else [*approvals(last), *outputs(last, await self._asked(request, body.id))]
        if entries:
            return await self._answer(request, body.id, entries)
        sent: list[Message] = to_messages(said)
        # A client that has run tools of its own asks nothing new: the run goes on from what they found, in its message.
        message = UserMessage(id="", content="", metadata={CONTINUES: last.id})
        config = self.runner.config
        if last.role == "user":
            asked = sent.pop()
            assert isinstance(asked, UserMessage), "a user's message becomes exactly one"
            if not asked.content:
                raise InputInvalid("the message is empty")
            message = asked
            config = self._replacing(body, message, said[:-1])
        history = functools.partial(self._history, body, user, message, sent)
        run = StartRequest(
            message,
            agent=body.agent or request.query_params.get("agent"),
            session_id=body.id,
            config=config,
            history=history if last.role == "user" else await history(),  # its message alone does not tell it
            fingerprint=sent,
        )
        return self._tail(request, await self.start(request, user, run))

    async def _asked(self, request: Request, chat_id: str) -> list[Interrupt]:
        """Return what the chat's run waits for."""
        current = await current_run(self.runner, self.access, request, chat_id, "answer")
        return [] if current is None else (await self.runner.readers.question(current)).interrupts

    def _replacing(self, body: ChatRequest, message: UserMessage, before: list[UIMessage]) -> RunConfig:
        """Return the run's config. Where the message is asked again or was edited, the answer that may still be coming
        has been dropped by the user.
        """
        replaces = body.trigger == "regenerate-message"
        if body.message_id is not None and not replaces and all(one.id != body.message_id for one in before):
            message.id, replaces = body.message_id, True  # edited; in `ai` 7 it may have got another id
        return config_with(self.runner, on_busy="interrupt") if replaces else self.runner.config

    async def _history(
        self, body: ChatRequest, user: str, message: UserMessage, sent: list[Message]
    ) -> list[Message] | None:
        """Return the messages before this one; None where they are the session's own. What the client's tools have come
        to is put on the message.
        """
        said = body.said()
        ours = await own_history(self.runner, body.id, user, message)
        if found := results(said, ours):
            message.metadata = {**(message.metadata or {}), RESULTS: found}
        if len(said) == 1 and said[-1].role == "user":
            return None
        if len(said) == 1 and ours:
            sent = to_messages(await self._before(body.id, said[-1].id)) + sent
        return await history_unless_ours(self.runner, body.id, user, sent, message)

    async def get_messages(self, chat_id: str, request: Request) -> Response:
        """Load the chat as a page opens on it, for `useChat({ messages, resume: true })`: the UI messages of its newest
        turns, without what was regenerated or edited away. `activeRunId` is the run whose answer is still coming, and
        comes to who resumes; null if there is none. A run that waits for an approval is in the messages. A new chat is
        empty, and so is another's.
        """
        try:
            await self.access.find(request, "read", self.runner.get_session, chat_id)
        except SessionNotFound:
            return json_response({"messages": [], "activeRunId": None})
        messages, active_run_id = await self._load(chat_id)
        return await long_json_response({"messages": messages, "activeRunId": active_run_id})

    async def resume(self, chat_id: str, request: Request) -> Response:
        """Follow the chat's answer that is coming or has just come, from its start or after `Last-Event-ID`; 204 if
        there is none. `?runId=` means that run and no later one, also when it has ended long ago.
        """
        run_id = request.query_params.get("runId")
        if run_id is None:
            current = await current_run(self.runner, self.access, request, chat_id, "read")
            if current is None or (cursor_of(request, current.id) == Cursor(0) and not _is_replayed(current)):
                return Response(status_code=204)
            # Where it goes on from the client's tools, what was before it would give way to it as the same message.
            return self._tail(request, msgspec.structs.replace(current, input=None))
        record = await self.access.find(request, "read", self.runner.get_run, run_id)
        if record.session_id != chat_id:
            raise RunNotFound(f"no run {record.id} in chat {chat_id}", run_id=record.id)
        return self._tail(request, record)

    async def stop(self, chat_id: str, request: Request) -> Response:
        """End the chat's runs as cancelled; 204 if none is active. (`useChat().stop()` itself only hangs up.)"""
        runs = await runs_of(self.runner, self.access, request, chat_id, "cancel", RUNS_STOPPED_MAX)
        stopped = [public(await self.runner.cancel(record.id)) for record in runs if record.status in ACTIVE]
        return json_response({"runs": stopped}, 202) if stopped else Response(status_code=204)

    async def _load(self, chat_id: str) -> tuple[list[dict[str, Any]], str | None]:
        """Return the chat's messages, and the id of the run whose answer is still coming."""
        current = await self.runner.current_run(chat_id)  # before the turns: what ends meanwhile is in one of the two
        turns = await self.runner.turns(chat_id)
        if current is not None and (current.status.ended or any(turn.run_id == current.id for turn in turns)):
            current = None
        asked = None if current is None else current.input
        transcript = Transcript()
        for turn in branch(turns, asked)[-TURNS_SHOWN_MAX:]:
            run = RunRecord(id=turn.run_id, session_id=chat_id, user_id="", agent="", message="", created_at=0)
            await self._show_turn(transcript, run, _exchanges(_decode_messages(turn.messages)))
        if current is None or asked is None:
            return transcript.messages, None
        transcript.ask(asked)
        if current.status is not RunStatus.WAITING:
            return transcript.messages, current.id
        await self._replay(transcript, current, until=current.last_seq)  # and not beyond: it may have gone on
        return transcript.messages, None

    async def _show_turn(
        self, transcript: Transcript, run: RunRecord, exchanges: list[tuple[UserMessage | None, list[Message]]]
    ) -> None:
        for number, (question, said) in enumerate(exchanges):
            if question is not None:
                transcript.ask(question)
            if len(exchanges) == 1 and question is not None:
                await self._replay(transcript, msgspec.structs.replace(run, input=question), said)
            elif said:  # of a live run, whose stream does not say what the user said
                answer_to = msgspec.structs.replace(run, id=f"{run.id}-{number}")
                transcript.begin(answer_to)
                transcript.add(remains(answer_to, said))

    async def _replay(
        self, transcript: Transcript, run: RunRecord, said: Sequence[Message] = (), until: int | None = None
    ) -> None:
        """Replay the run's answer, up to this event: as it was streamed, or what the session has kept of it."""
        transcript.begin(run)
        with contextlib.suppress(CursorExpired, RunNotFound, msgspec.DecodeError):  # the last: of another version
            events = without_void(await self.runner.readers.merged(run.id, until=until))
            transcript.add([event for _, event in events])
            if events:
                return
        transcript.void()
        transcript.add(remains(run, said))

    async def _before(self, chat_id: str, message_id: str) -> list[UIMessage]:
        """Return the chat's messages before this one."""
        shown, _ = await self._load(chat_id)
        before = itertools.takewhile(lambda one: one["id"] != message_id, shown)
        return [msgspec.convert(one, UIMessage) for one in before]

    async def _answer(self, request: Request, chat_id: str, entries: list[ResumeEntry]) -> Response:
        """Return the rest of the run that these answers let go on."""
        record = await current_run(self.runner, self.access, request, chat_id, "answer")
        if record is None:
            raise InputInvalid(f"chat {chat_id} has no run that waits for an answer")
        check_cursor(record, cursor_of(request, record.id))
        after = await answer_interrupts(self.runner, record, entries)
        return self._tail(request, await self.runner.get_run(record.id), after)

    def _tail(self, request: Request, record: RunRecord, after: int = 0) -> Response:
        """Return the chunks after the request's cursor, or after this position if it has none."""
        location = _location(request, record, after)
        return self.go_on(request, record, VercelEncoder, location=location, after=after)


def _is_replayed(run: RunRecord) -> bool:
    """Tell whether a page that names no run is given this one's answer from its start. The answer takes the place of
    what the page has of it; so none that the page has as a part of another message, or as several."""
    if not run.status.ended:
        return True
    in_one = mark_of(run.input, CONTINUES) is None and not is_live(run.config)
    return in_one and now_ms() - (run.ended_at or 0) < REPLAYED_S * 1000


def _exchanges(messages: Sequence[Message]) -> list[tuple[UserMessage | None, list[Message]]]:
    """Return what the user said, each time with what was said to it. A turn is one, unless its run was live."""
    found: list[tuple[UserMessage | None, list[Message]]] = []
    for message in messages:
        if isinstance(message, UserMessage):
            found.append((message, []))
        elif found:
            found[-1][1].append(message)
        else:
            found.append((None, [message]))
    return found


def _location(request: Request, record: RunRecord, after: int) -> str:
    """Return where the stream goes on."""
    query = urlencode({"runId": record.id, "after": after} if after else {"runId": record.id})
    return f"{root_path(request)}/vercel/chat/{quote(record.session_id, safe='')}/stream?{query}"
