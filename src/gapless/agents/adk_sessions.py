"""ADK sessions that live in Gapless's own store, for agents whose user brings no session service.

A session exists here while a run of it executes. It is rebuilt from the turns that the store keeps: each holds the
ADK events of its run as JSON; a turn without them (its worker was lost, or another kind of agent answered) is rebuilt
from its messages. So sessions persist with the journal, and any worker can take the next turn.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from google.adk.events import Event
from google.adk.sessions import BaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse
from google.adk.utils.content_utils import SKIP_THOUGHT_SIGNATURE_VALIDATOR
from google.genai import types

from gapless.agents.adk_turn import ADKTurn, decode_turn
from gapless.agents.conversation import BEGINNING, told_once, tools_called
from gapless.agents.turns import run_of, turns_of
from gapless.agents.values import dumped
from gapless.errors import InputInvalid
from gapless.events import (
    AssistantMessage,
    ContentPart,
    DataSource,
    DeveloperMessage,
    FileSource,
    Message,
    ReasoningMessage,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    text_of,
)
from gapless.jsontext import decode_json

__all__ = ["JournalSessions", "dump_event", "encode_dumped", "encode_turn", "history", "question", "result_part"]

TURN_EVENTS_MAX = 10_000
"""ADK events of stored turns that are kept decoded, for sessions that go on soon,"""
TURN_BYTES_MAX = 32 * 1024 * 1024
"""and the bytes of them as they are stored; decoded they take a few times that."""

_SHARED = ("app:", "user:")
"""Prefixes of state that belongs to more than one session."""


class JournalSessions(BaseSessionService):
    """The sessions of the runs that execute in this process.

    State under `app:` and `user:` is shared between sessions while this process lives; after that each session has
    it as it was when last used. Who needs more gives ADK a session service of their own.
    """

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str, str], Session] = {}
        self._turns: OrderedDict[bytes, tuple[str, list[Event]]] = OrderedDict()
        """Turns by their digests, the latest used last: decoding a long history costs more than all else."""
        self._turn_sizes: dict[bytes, int] = {}
        """Bytes of these turns as they are stored."""
        self._turn_events = self._turn_bytes = 0
        self._shared: dict[tuple[str, str], dict[str, Any]] = {}
        """State under `app:` by app, and under `user:` by app and user."""

    def turn(self, native: bytes) -> tuple[str, list[Event]] | None:
        """Return a stored turn's run id and events; None for what another kind of agent left."""
        digest = hashlib.blake2b(native, digest_size=16).digest()
        found = self._turns.get(digest)
        if found is not None:
            self._turns.move_to_end(digest)
            return found
        turn = decode_turn(native)
        if turn is None:
            return None
        found = turn.run_id, [Event.model_validate_json(bytes(raw)) for raw in turn.events]
        if len(native) > TURN_BYTES_MAX:
            return found
        self._turns[digest], self._turn_sizes[digest] = found, len(native)
        self._turn_events += len(found[1])
        self._turn_bytes += len(native)
        while (self._turn_events > TURN_EVENTS_MAX or self._turn_bytes > TURN_BYTES_MAX) and len(self._turns) > 1:
            oldest, (_, dropped) = self._turns.popitem(last=False)
            self._turn_events -= len(dropped)
            self._turn_bytes -= self._turn_sizes.pop(oldest)
        return found

    def load(self, session: Session) -> None:
        """Make a session known for as long as its run lasts."""
        state = session.state
        for key, value in state.items():
            if (scope := self._scope(session, key)) is not None:
                self._shared.setdefault(scope, {}).setdefault(key, value)
        state.update(self._shared.get((session.app_name, ""), {}))
        state.update(self._shared.get((session.app_name, session.user_id), {}))
        self._sessions[session.app_name, session.user_id, session.id] = session

    def unload(self, session: Session) -> None:
        self._sessions.pop((session.app_name, session.user_id, session.id), None)

    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        id = session_id or Event.new_id()
        session = Session(id=id, app_name=app_name, user_id=user_id, state=state or {}, last_update_time=time.time())
        self.load(session)
        return session

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        return self._sessions.get((app_name, user_id, session_id))

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        found = [
            session.model_copy(update={"events": []})
            for (app, user, _), session in self._sessions.items()
            if app == app_name and user_id in (None, user)
        ]
        return ListSessionsResponse(sessions=found)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        self._sessions.pop((app_name, user_id, session_id), None)

    async def append_event(self, session: Session, event: Event) -> Event:
        if event.partial:
            return event
        await super().append_event(session, event)
        session.last_update_time = event.timestamp
        known = self._sessions.get((session.app_name, session.user_id, session.id))
        if known is not None and known is not session:  # someone appends to a copy
            known.events.append(event)
            known.state.update(event.actions.state_delta)
        for key, value in event.actions.state_delta.items():
            if (scope := self._scope(session, key)) is not None:
                self._shared.setdefault(scope, {})[key] = value
        return event

    def _scope(self, session: Session, key: str) -> tuple[str, str] | None:
        if not key.startswith(_SHARED):
            return None
        return session.app_name, session.user_id if key.startswith("user:") else ""


def encode_turn(run_id: str, events: Iterable[Event], invocations: Iterable[str] = ()) -> bytes:
    """Return a run's ADK events, or the ids of one whose events are kept elsewhere → what `RunContext.native` takes."""
    return encode_dumped(run_id, map(dump_event, events), invocations)


def encode_dumped(run_id: str, events: Iterable[bytes], invocations: Iterable[str] = ()) -> bytes:
    """Return a run's ADK events, which are JSON already → what `RunContext.native` takes."""
    return msgspec.json.encode(ADKTurn(run_id, [msgspec.Raw(one) for one in events], list(invocations)))


def dump_event(event: Event) -> bytes:
    """Return an ADK event as JSON, as it is kept."""
    return dumped(event, by_alias=True, exclude_none=True)


def question(
    content: str | list[ContentPart], earlier: Sequence[Message]
) -> tuple[Sequence[Message], list[ToolMessage], types.Content | None]:
    """Return the history, the results of the client's own tools that come with the message, and the message; None where
    the run goes on from the results alone.
    """
    end = len(earlier)
    while end and isinstance(last := earlier[end - 1], ToolMessage) and not (content and run_of(last)):
        end -= 1
    results = [message for message in earlier[end:] if isinstance(message, ToolMessage)]
    message = types.Content(role="user", parts=parts_of(content)) if content else None
    return earlier[:end], results, message


def history(
    messages: Sequence[Message], turns: Mapping[str, list[Event]], author: str, *, signed: bool = False
) -> list[Event]:
    """Return the ADK events of a session's earlier turns: those that the turns hold by run, and the rest from the
    messages. `author` stands for the agent where a message does not name it. With `signed`, calls whose thought
    signature is lost get the one by which Gemini takes calls that it did not make.
    """
    messages = told_once(messages)
    names = tools_called(messages)
    events: list[Event] = []
    rebuilt: list[Event] = []
    asked = 0
    for turn in turns_of(messages, turns):
        if turn.native is not None:
            events += turn.native
            continue
        for message in turn.messages:
            asked += isinstance(message, UserMessage)
            speaker, content = _content_of(message, author, names)
            if not content.parts:
                continue
            id = run_of(message) or f"history-{asked}"
            last = events[-1] if events else None
            if last is not None and _goes_on(last, id, speaker, content):
                assert last.content is not None, "it has the role of its content"
                last.content.parts = [*(last.content.parts or ()), *content.parts]
            else:
                events.append(Event(invocation_id=id, author=speaker, content=content))
                rebuilt.append(events[-1])
    if events and events[0].content is not None and events[0].content.role == "model":
        begins = types.Content(role="user", parts=[types.Part(text=BEGINNING)])
        events.insert(0, Event(invocation_id=events[0].invocation_id, author="user", content=begins))
    for event in rebuilt if signed else ():
        calls = [part for part in (event.content.parts if event.content else None) or () if part.function_call]
        if calls and calls[0].thought_signature is None:
            calls[0].thought_signature = SKIP_THOUGHT_SIGNATURE_VALIDATOR
    return events


def _goes_on(last: Event, invocation_id: str, speaker: str, content: types.Content) -> bool:
    """Whether a message goes on with what a model said: clients divide that."""
    before = last.content.role if last.content is not None else None
    same = (last.invocation_id, last.author, before) == (invocation_id, speaker, content.role)
    return same and content.role == "model"


def _content_of(message: Message, author: str, names: dict[str, str]) -> tuple[str, types.Content]:
    """Return who said it, and what; without parts where no model is told of it: activities, and reasoning without its
    signature."""
    parts: list[types.Part] = []
    if isinstance(message, UserMessage | SystemMessage | DeveloperMessage):
        said = message.content
        blank = not said or (isinstance(said, str) and said.isspace())  # which some services refuse
        return "user", types.Content(role="user", parts=[] if blank else parts_of(said))
    if isinstance(message, ToolMessage):
        part = result_part(message, names.get(message.tool_call_id, ""))
        return author, types.Content(role="user", parts=[part])
    if isinstance(message, AssistantMessage):
        author = message.name or author
        text = message.content or ""
        parts = parts_of(text) if text.strip() else []
        for call in message.tool_calls or []:
            args = _object(call.function.arguments)
            function = types.FunctionCall(id=call.id, name=call.function.name, args=args)
            parts.append(types.Part(function_call=function, thought_signature=_signature(call.encrypted_value)))
    if isinstance(message, ReasoningMessage) and (signature := _signature(message.encrypted_value)) is not None:
        parts.append(types.Part(text=message.content, thought=True, thought_signature=signature))
    return author, types.Content(role="model", parts=parts)


def _signature(encrypted: object) -> bytes | None:
    """Return the thought signature that a client has kept; None for what another framework left there."""
    if not isinstance(encrypted, str) or not encrypted:
        return None
    try:
        return base64.b64decode(encrypted, validate=True)
    except binascii.Error:
        return None


def result_part(message: ToolMessage, name: str) -> types.Part:
    """Return a result of the client's own tool `name` in ADK's form."""
    response = {"error": message.error} if message.error else _object(text_of(message.content))
    told = types.FunctionResponse(id=message.tool_call_id, name=name, response=response)
    if isinstance(message.content, list):
        told.parts = [_media(part) for part in message.content if not isinstance(part, TextPart)] or None
    return types.Part(function_response=told)


def _media(part: ContentPart) -> types.FunctionResponsePart:
    """Return a picture or a file of a tool's result. Raises `InputInvalid` as `parts_of`."""
    (whole,) = parts_of([part])
    if (blob := whole.inline_data) is not None:
        return types.FunctionResponsePart(
            inline_data=types.FunctionResponseBlob(data=blob.data, mime_type=blob.mime_type)
        )
    file = whole.file_data
    assert file is not None, "a part that is no text is one of these"
    named = types.FunctionResponseFileData(file_uri=file.file_uri, mime_type=file.mime_type)
    return types.FunctionResponsePart(file_data=named)


def _object(text: str) -> dict[str, Any]:
    """JSON text as an object; anything else as the result it is."""
    try:
        value = decode_json(text)
    except msgspec.DecodeError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


def parts_of(content: str | list[ContentPart]) -> list[types.Part]:
    """Return a user message's content in ADK's form. Raises `InputInvalid` for media that are not valid base64."""
    if isinstance(content, str):
        return [types.Part(text=content)]
    parts = []
    for part in content:
        if isinstance(part, TextPart):
            parts.append(types.Part(text=part.text))
        elif isinstance(source := part.source, DataSource):
            try:
                data = base64.b64decode(source.value, validate=True)
            except binascii.Error as error:
                raise InputInvalid(f"message: its {source.mime_type} part is not base64: {error}") from None
            parts.append(types.Part(inline_data=types.Blob(data=data, mime_type=source.mime_type)))
        else:
            assert isinstance(source, FileSource) or source.value, "a URL or a file's name"
            file = types.FileData(file_uri=source.value, mime_type=source.mime_type)
            parts.append(types.Part(file_data=file))
    return parts
