"""ADK's sessions: of an app and a user, by ids that are each app's and user's own."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from gapless.agents.adk_turn import CREDENTIAL, decode_turn, hide_exception, without_secrets
from gapless.errors import AgentNotFound, InputInvalid, NotAuthorized, SessionExists, SessionNotFound
from gapless.events import (
    AssistantMessage,
    ContentPart,
    DataSource,
    Message,
    TextPart,
    ToolMessage,
    UserMessage,
)
from gapless.http.answers import json_response, long_json_response, read_body, read_optional_body
from gapless.http.openapi import body_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.adk.requests import (
    CreateSessionRequest,
    UpdateMemoryRequest,
    UpdateSessionRequest,
    as_type,
    camel,
)
from gapless.protocols.adk.wire import PageADKEncoder, arguments_of, media_of, result_of
from gapless.protocols.conversations import is_scoped, scoped
from gapless.protocols.starting import ClientRoutes
from gapless.records import ACTIVE, RunRecord, SessionRecord, Turn, branch
from gapless.runs.request import new_id
from gapless.wire import without_void

__all__ = ["ADKAPI", "SessionRoutes"]

SESSIONS_MAX = 1000
"""Sessions that one list shows."""
OF_ONE_RUN = "temp:"
"""State under such keys is never kept (ADK's `State.TEMP_PREFIX`)."""
_SESSIONS = "/apps/{app}/users/{user}/sessions"
_MEMORY = "/apps/{app}/users/{user}/memory"
_decode_messages = msgspec.json.Decoder(list[Message]).decode


class ADKAPI(ClientRoutes):
    """Routes that name an app, a user and a session as ADK's clients do."""

    async def claimed(self, request: HTTPConnection, user: str) -> str:
        """Return the user's id, if the one who asks is this user. Raises `NotAuthenticated`, `NotAuthorized`."""
        if not self.access.open and await self.access.user(request) != user:
            raise NotAuthorized(f"you are not the user {user[:100]!r}; the userId is your own")
        return user

    def known_app(self, name: str | None) -> str:
        """Return the agent's name. Raises `InputInvalid`, `AgentNotFound`."""
        agents = self.runner.agents
        if name is None:
            if len(agents) != 1:
                raise InputInvalid(f"appName is missing; there are: {', '.join(sorted(agents))}")
            return next(iter(agents))
        if name not in agents:
            raise AgentNotFound(f"no app {name[:100]!r}; there are: {', '.join(sorted(agents)) or 'none'}")
        return name

    async def find(self, app: str, user: str, session_id: str) -> tuple[SessionRecord | None, str]:
        """Return the session, if there is one, and the id that it has or would get here: the same, unless another app
        or user has taken that.
        """
        own_id = scoped(session_id, app, user)
        for id in (own_id, session_id):
            session = await self.runner.find_session(id)
            if session is None:
                continue
            if (session.user_id, session.agent) == (user, app):
                return session, id
            return None, own_id
        return None, own_id if is_scoped(session_id) else session_id

    async def get(self, app: str, user: str, session_id: str) -> SessionRecord:
        """Raises `SessionNotFound`. A session that only the agent's own session service has is made known here."""
        session, id = await self.find(app, user, session_id)
        if session is not None:
            return session
        state = await self.runner.agents[app].session_state(app, user, id)
        if state is None:
            raise SessionNotFound(f"no session {session_id}")
        return await self.create(app, user, id, state)

    async def create(self, app: str, user: str, id: str, state: dict[str, Any] | None) -> SessionRecord:
        """Return a new session under this id."""
        return await self.runner.create_session(id, user_id=user, state=state, agent=app)

    async def events_of(self, record: RunRecord, after: int = 0) -> list[bytes]:
        """Return the run's whole ADK events so far, after a position, without what was taken back."""
        encoder, found = PageADKEncoder(record), list[bytes]()
        for seq, event in without_void(await self.runner.readers.merged(record.id)):
            frames = encoder.frames(event)
            if seq > after:
                found += frames
        return found


class SessionRoutes(ADKAPI):
    """`/apps/{app}/users/{user}/sessions…` and `…/memory`."""

    def router(self) -> APIRouter:
        router = APIRouter(route_class=DirectRoute)
        self.add_to(router)
        return router

    def add_to(self, router: APIRouter) -> None:
        """Add the routes to ADK's router."""
        one = _SESSIONS + "/{session_id}"
        router.get(_SESSIONS)(self.list_sessions)
        created = body_docs(CreateSessionRequest, required=False)
        router.post(_SESSIONS, openapi_extra=created)(self.create_session)
        router.post(one)(self.create_session_with_id)
        router.get(one)(self.get_session)
        router.patch(one, openapi_extra=body_docs(UpdateSessionRequest))(self.update_session)
        router.delete(one)(self.delete_session)
        router.patch(_MEMORY, openapi_extra=body_docs(UpdateMemoryRequest))(self.remember)

    async def list_sessions(self, app: str, user: str, request: Request) -> Response:
        """List the user's sessions with the app, latest used first, without their events and states."""
        await self.claimed(request, user)
        self.known_app(app)
        found = await self.runner.list_sessions(user_id=user, limit=SESSIONS_MAX)
        return json_response([await self._shown(session, events=False) for session in found if session.agent == app])

    async def create_session(self, app: str, user: str, request: Request) -> Response:
        """Create a session, with an id and a state of the client's choice."""
        await self.claimed(request, user)
        given = await read_optional_body(request, dict[str, Any], self.runner.limits.body_bytes_max)
        body = as_type(CreateSessionRequest, camel(given or {}))
        if body.events:  # to leave them out would be to forget what the client thinks was said
            raise InputInvalid("events: a session begins empty here; its turns come from its runs")
        return await self._new(app, user, body.session_id, body.state)

    async def create_session_with_id(self, app: str, user: str, session_id: str, request: Request) -> Response:
        """Create a session under this id; the body is its state."""
        await self.claimed(request, user)
        state = await read_optional_body(request, dict[str, Any], self.runner.limits.body_bytes_max)
        return await self._new(app, user, session_id, state)

    async def _new(self, app: str, user: str, session_id: str | None, state: dict[str, Any] | None) -> Response:
        self.access.check_state(state)
        session, id = await self.find(self.known_app(app), user, session_id or new_id())
        if session is not None:
            raise SessionExists(f"session {session_id} exists already")
        return json_response(await self._shown(await self.create(app, user, id, state)))

    async def get_session(self, app: str, user: str, session_id: str, request: Request) -> Response:
        """Show one session with its events."""
        await self.claimed(request, user)
        session = await self.get(self.known_app(app), user, session_id)
        await self.access.check(request, "read", session, user=user)
        return await long_json_response(await self._shown(session))

    async def update_session(self, app: str, user: str, session_id: str, request: Request) -> Response:
        """Set keys of a session's state. 409 while a run of it is active."""
        await self.claimed(request, user)
        given = await read_body(request, dict[str, Any], self.runner.limits.body_bytes_max)
        body = as_type(UpdateSessionRequest, camel(given))
        self.access.check_state(body.state_delta)
        session = await self.get(self.known_app(app), user, session_id)
        await self.access.check(request, "update", session, user=user)
        changes = {key: value for key, value in body.state_delta.items() if not key.startswith(OF_ONE_RUN)}
        session = await self.runner.update_state(session.id, changes)
        await self.runner.agents[app].update_state(app, user, session.id, changes)
        return await long_json_response(await self._shown(session))

    async def delete_session(self, app: str, user: str, session_id: str, request: Request) -> Response:
        """Drop a session. 409 while a run of it is active."""
        await self.claimed(request, user)
        session, id = await self.find(self.known_app(app), user, session_id)
        if session is None:  # only the agent's own session service may have it
            await self.runner.agents[app].delete_session(app, user, id)
        else:
            await self.access.check(request, "delete", session, user=user)
            await self.runner.delete_session(session.id)
        return json_response(None)

    async def remember(self, app: str, user: str, request: Request) -> Response:
        """Give a session to the memory of the app's agent, which its tools look into."""
        await self.claimed(request, user)
        given = await read_body(request, dict[str, Any], self.runner.limits.body_bytes_max)
        body = as_type(UpdateMemoryRequest, camel(given))
        session = await self.get(self.known_app(app), user, body.session_id)
        await self.access.check(request, "update", session, user=user)
        if not await self.runner.agents[app].remember(app, msgspec.json.encode(await self._shown(session))):
            raise InputInvalid(f"app {app}: its agent has no memory service")
        return json_response(None)

    async def _shown(self, session: SessionRecord, *, events: bool = True) -> dict[str, Any]:
        """Return a session as ADK's clients see it."""
        found: list[Any] = []
        agent = self.runner.agents.get(session.agent)
        own = None
        if events and agent is not None:
            own = await agent.session_events(session.agent, session.user_id, session.id)
        state = session.state
        if agent is not None and own is not None:
            found = [_public(event) for event in own]
            state = await agent.session_state(session.agent, session.user_id, session.id) or state
        elif events:
            for turn in branch(await self.runner.turns(session.id)):
                found += _turn_events(turn, session)
            record = await self.runner.current_run(session.id)
            if record is not None and record.status in ACTIVE and record.input is not None:
                found.append(_event(record.input, record.id, session))
                found += [msgspec.Raw(event) for event in await self.events_of(record)]
        return {
            "id": session.id.removesuffix(scoped("", session.agent, session.user_id)),
            "appName": session.agent,
            "userId": session.user_id,
            "state": state,
            "events": found,
            "lastUpdateTime": session.updated_at / 1000,
        }


def _turn_events(turn: Turn, session: SessionRecord) -> list[Any]:
    """Return a turn's ADK events: the agent's own, or its messages in their form."""
    native = None if turn.native is None else decode_turn(turn.native)
    if native is None or not native.events:
        names: dict[str, str] = {}
        return [
            event
            for message in _decode_messages(turn.messages)
            if (event := _event(message, turn.run_id, session, names)) is not None
        ]
    return [_public(bytes(event)) for event in native.events]


def _public(event: bytes) -> Any:
    """Return an ADK event without what only the server may know."""
    if CREDENTIAL.encode() not in event and b'"errorCode"' not in event:
        return msgspec.Raw(event)
    found = msgspec.json.decode(event)
    hide_exception(found)
    return without_secrets(found) if CREDENTIAL.encode() in event else found


def _event(
    message: Message, run_id: str, session: SessionRecord, names: dict[str, str] | None = None
) -> dict[str, Any] | None:
    """Return a message as an ADK event; None for one that ADK has no form for. `names` is of the calls before it."""
    names = {} if names is None else names
    parts: list[dict[str, Any]] = []
    author, role = session.agent, "model"
    if isinstance(message, UserMessage):
        author = role = "user"
        parts = [{"text": message.content}] if isinstance(message.content, str) else _parts(message.content)
    elif isinstance(message, AssistantMessage):
        author = message.name or author
        parts = [{"text": message.content}] if message.content else []
        for call in message.tool_calls or []:
            names[call.id] = call.function.name
            function = {"id": call.id, "name": call.function.name, "args": arguments_of(call.function.arguments)}
            parts.append({"functionCall": function})
    elif isinstance(message, ToolMessage):
        role = "user"
        id = message.tool_call_id
        told = {"response": result_of(message), **media_of(message)}
        parts = [{"functionResponse": {"id": id, "name": names.get(id, ""), **told}}]
    if not parts:
        return None
    return {
        "content": {"parts": parts, "role": role},
        "invocationId": run_id,
        "author": author,
        "actions": {
            "stateDelta": {},
            "artifactDelta": {},
            "requestedAuthConfigs": {},
            "requestedToolConfirmations": {},
        },
        "nodeInfo": {"path": ""},
        "id": message.id,
        "timestamp": session.updated_at / 1000,
    }


def _parts(content: list[ContentPart]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, TextPart):
            parts.append({"text": part.text})
        elif isinstance(part.source, DataSource):
            parts.append({"inlineData": {"data": part.source.value, "mimeType": part.source.mime_type}})
        else:
            file = {"fileUri": part.source.value, "mimeType": part.source.mime_type}
            parts.append({"fileData": {key: value for key, value in file.items() if value is not None}})
    return parts
