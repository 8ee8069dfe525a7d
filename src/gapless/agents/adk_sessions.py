"""ADK sessions that live in Gapless's own store, for agents whose user brings no session service.

A session exists here while a run of it executes. It is rebuilt from the turns that the store keeps: each holds the
ADK events of its run as JSON; a turn without them (its worker was lost, or another kind of agent answered) is rebuilt
from its messages. So sessions persist with the journal, and any worker can take the next turn.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterable, Sequence
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

__all__ = ["JournalSessions", "encode_turn", "history", "parts_of"]

_SHARED = ("app:", "user:")
"""Prefixes of state that belongs to more than one session."""


class JournalSessions(BaseSessionService):
    """The sessions of the runs that execute in this process.

    State under `app:` and `user:` is shared between sessions while this process lives; after that each session has
    it as it was when last used. Who needs more gives ADK a session service of their own.
    """

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str, str], Session] = {}
        self._shared: dict[tuple[str, str], dict[str, Any]] = {}
        """State under `app:` by app, and under `user:` by app and user."""

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
    """A run's ADK events → what `RunContext.native` takes."""
    dumped = [event.model_dump_json(by_alias=True, exclude_none=True, fallback=repr).encode() for event in events]
    return msgspec.json.encode(ADKTurn(run_id, [msgspec.Raw(one) for one in dumped]))


def history(messages: Sequence[Message], native: Sequence[bytes], author: str) -> list[Event]:
    """The ADK events of a session's earlier turns. `author` stands for the agent where a message does not name it."""
    turns = {turn.run_id: turn.events for turn in map(decode_turn, native) if turn is not None}
    events: list[Event] = []
    done: set[str] = set()
    for message in messages:
        run_id = (message.metadata or {}).get("run_id", "")
        if run_id in done:
            continue
        if run_id in turns:
            done.add(run_id)
            events += [Event.model_validate_json(bytes(raw)) for raw in turns[run_id]]
        elif (event := _event_of(message, run_id or "history", author, messages)) is not None:
            events.append(event)
    return events


def _event_of(message: Message, invocation_id: str, author: str, messages: Sequence[Message]) -> Event | None:
    if isinstance(message, UserMessage):
        content = types.Content(role="user", parts=parts_of(message.content))
        return Event(invocation_id=invocation_id, author="user", content=content)
    if isinstance(message, SystemMessage | DeveloperMessage):
        content = types.Content(role="user", parts=[types.Part(text=message.content)])
        return Event(invocation_id=invocation_id, author="user", content=content)
    if isinstance(message, AssistantMessage):
        parts = [types.Part(text=message.content)] if message.content else []
        for call in message.tool_calls or []:
            args = _object(call.function.arguments)
            function = types.FunctionCall(id=call.id, name=call.function.name, args=args)
            parts.append(types.Part(function_call=function))
        content = types.Content(role="model", parts=parts)
        return Event(invocation_id=invocation_id, author=message.name or author, content=content) if parts else None
    if isinstance(message, ToolMessage):
        name = next(
            (
                call.function.name
                for other in messages
                if isinstance(other, AssistantMessage)
                for call in other.tool_calls or []
                if call.id == message.tool_call_id
            ),
            "",
        )
        response = types.FunctionResponse(
            id=message.tool_call_id, name=name, response=_object(text_of(message.content))
        )
        content = types.Content(role="user", parts=[types.Part(function_response=response)])
        return Event(invocation_id=invocation_id, author=author, content=content)
    return None  # reasoning and activities are not sent to a model


def _object(text: str) -> dict[str, Any]:
    """JSON text as an object; anything else as the result it is."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


def parts_of(content: str | list[ContentPart]) -> list[types.Part]:
    """A user message's content in ADK's form. Raises `InputInvalid` for media that are not valid base64."""
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
