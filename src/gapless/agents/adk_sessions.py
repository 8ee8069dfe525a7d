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
from google.genai import types

from gapless.agents.adk_turn import ADKTurn, decode_turn
from gapless.errors import InputInvalid
from gapless.events import (
    AssistantMessage,
    ContentPart,
    DataSource,
    DeveloperMessage,
    FileSource,
    Message,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    text_of,
)
from gapless.jsontext import decode_json

__all__ = ["JournalSessions", "dump_event", "encode_dumped", "encode_turn", "history", "question"]

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


def encode_turn(run_id: str, events: Iterable[Event]) -> bytes:
    """Return a run's ADK events → what `RunContext.native` takes."""
    return encode_dumped(run_id, map(dump_event, events))


def encode_dumped(run_id: str, events: Iterable[bytes]) -> bytes:
    """Return a run's ADK events, which are JSON already → what `RunContext.native` takes."""
    return msgspec.json.encode(ADKTurn(run_id, [msgspec.Raw(one) for one in events]))


def dump_event(event: Event) -> bytes:
    """Return an ADK event as JSON, as it is kept."""
    return event.model_dump_json(by_alias=True, exclude_none=True, fallback=repr).encode()


def question(content: str | list[ContentPart], earlier: Sequence[Message]) -> tuple[Sequence[Message], types.Content]:
    """Return the history, and what the run is to answer: the user's message, or where there is none the results of the
    client's own tools that the history ends with.
    """
    if content:
        return earlier, types.Content(role="user", parts=parts_of(content))
    end = len(earlier)
    while end and isinstance(earlier[end - 1], ToolMessage):
        end -= 1
    names = _call_names(earlier)
    results = [_result(message, names) for message in earlier[end:] if isinstance(message, ToolMessage)]
    return earlier[:end], types.Content(role="user", parts=results or parts_of(content))


def history(messages: Sequence[Message], turns: Mapping[str, list[Event]], author: str) -> list[Event]:
    """Return the ADK events of a session's earlier turns: those that the turns hold by run, and the rest from the
    messages. `author` stands for the agent where a message does not name it.
    """
    names = _call_names(messages)
    events: list[Event] = []
    done: set[str] = set()
    asked = 0
    for message in messages:
        run_id = str((message.metadata or {}).get("run_id") or "")
        if run_id in done:
            continue
        if run_id in turns:
            done.add(run_id)
            events += turns[run_id]
            continue
        asked += isinstance(message, UserMessage)
        speaker, content = _content_of(message, author, names)
        if content.parts:
            events.append(Event(invocation_id=run_id or f"history-{asked}", author=speaker, content=content))
    return events


def _content_of(message: Message, author: str, names: dict[str, str]) -> tuple[str, types.Content]:
    """Return who said it, and what; without parts where no model is told of it: reasoning and activities."""
    parts: list[types.Part] = []
    if isinstance(message, UserMessage | SystemMessage | DeveloperMessage):
        return "user", types.Content(role="user", parts=parts_of(message.content))
    if isinstance(message, ToolMessage):
        return author, types.Content(role="user", parts=[_result(message, names)])
    if isinstance(message, AssistantMessage):
        author = message.name or author
        parts = parts_of(message.content) if message.content else []
        for call in message.tool_calls or []:
            args = _object(call.function.arguments)
            function = types.FunctionCall(id=call.id, name=call.function.name, args=args)
            parts.append(types.Part(function_call=function))
    return author, types.Content(role="model", parts=parts)


def _result(message: ToolMessage, names: dict[str, str]) -> types.Part:
    id = message.tool_call_id
    response = types.FunctionResponse(id=id, name=names.get(id, ""), response=_object(text_of(message.content)))
    return types.Part(function_response=response)


def _call_names(messages: Sequence[Message]) -> dict[str, str]:
    """Return the tools' names by the ids of their calls."""
    return {
        call.id: call.function.name
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls or []
    }


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
