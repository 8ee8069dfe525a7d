"""ADK's endpoints: programs written for ADK's own server, and its web page.

A session of ADK belongs to an app and a user; here the app is the agent. Where authentication is configured, the user
in a request is the one who asks; where none is, users are told apart by the names that they give.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sys
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Message as ASGIMessage

from gapless import __version__
from gapless.agents.adk_turn import CREDENTIAL, decode_turn, without_secrets
from gapless.config import StreamingMode
from gapless.errors import (
    AgentNotFound,
    GaplessError,
    InputInvalid,
    NotAuthorized,
    SessionBusy,
    SessionExists,
    SessionNotFound,
)
from gapless.events import (
    AssistantMessage,
    ContentPart,
    DataSource,
    Message,
    ResumeEntry,
    TextPart,
    ToolMessage,
    UrlSource,
    UserMessage,
    text_of,
)
from gapless.http.answers import STARTING, answer, body_docs, chosen_run_id, parameter_docs, public, read_body
from gapless.http.auth import Access
from gapless.http.stream import Streams, check_cursor, check_start, cursor_of, follow, settled
from gapless.jsontext import decode_json
from gapless.live import Blob as LiveBlob
from gapless.live import LiveRequest
from gapless.message import media_part, simplest
from gapless.protocols.adk.wire import ADKEncoder, WholeADKEncoder, arguments_of, object_of
from gapless.protocols.conversations import answer_interrupts
from gapless.records import ACTIVE, RunRecord, RunStatus, SessionRecord, Turn
from gapless.runs.readers import has_said_all
from gapless.runs.request import new_id
from gapless.runs.runner import Runner
from gapless.server.live import LiveSocket
from gapless.wire import Cursor, wire

__all__ = ["routes"]

SESSIONS_MAX = 1000
"""Sessions that one list shows."""
OF_ONE_RUN = "temp:"
"""State under such keys is never kept (ADK's `State.TEMP_PREFIX`)."""
_T = TypeVar("_T")
_decode_messages = msgspec.json.Decoder(list[Message]).decode


class Blob(msgspec.Struct, rename="camel"):
    data: str
    mime_type: str = "application/octet-stream"


class File(msgspec.Struct, rename="camel"):
    file_uri: str
    mime_type: str | None = None


class FunctionResponse(msgspec.Struct, rename="camel"):
    id: str
    name: str | None = None
    response: dict[str, Any] | None = None


class Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    inline_data: Blob | None = None
    file_data: File | None = None
    function_response: FunctionResponse | None = None


class Content(msgspec.Struct, rename="camel"):
    parts: list[Part] = []
    role: str | None = None


class RunAgentRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /run_sse` and `POST /run`, in camelCase or snake_case."""

    user_id: str
    session_id: str
    app_name: str | None = None
    new_message: Content | None = None
    streaming: bool = False
    state_delta: dict[str, Any] | None = None


class ADKLiveRequest(msgspec.Struct, rename="camel"):
    """What clients of `/run_live` say, in camelCase or snake_case."""

    content: Content | None = None
    blob: Blob | None = None
    activity_start: dict[str, Any] | None = None
    activity_end: dict[str, Any] | None = None
    close: bool = False


class CreateSessionRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /apps/{app}/users/{user}/sessions`; it may be left out."""

    session_id: str | None = None
    state: dict[str, Any] | None = None
    events: list[Any] | None = None


class UpdateSessionRequest(msgspec.Struct, rename="camel"):
    """The body of `PATCH /apps/{app}/users/{user}/sessions/{session}`."""

    state_delta: dict[str, Any]


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["adk"])
    sessions = "/apps/{app}/users/{user}/sessions"

    async def claimed(request: HTTPConnection, user: str) -> str:
        """The user's id, if the one who asks is this user. Raises `NotAuthenticated`, `NotAuthorized`."""
        if not access.open and await access.user(request) != user:
            raise NotAuthorized(f"you are not the user {user[:100]!r}; the userId is your own")
        return user

    def known_app(name: str | None) -> str:
        if name is None:
            if len(runner.agents) != 1:
                raise InputInvalid(f"appName is missing; there are: {', '.join(sorted(runner.agents))}")
            return next(iter(runner.agents))
        if name not in runner.agents:
            raise AgentNotFound(f"no app {name[:100]!r}; there are: {', '.join(sorted(runner.agents)) or 'none'}")
        return name

    async def find(app: str, user: str, session_id: str) -> tuple[SessionRecord | None, str]:
        """The session, if there is one, and the id that it has or would get here: the same, unless another app or
        user has taken that."""
        own_id = session_id + _suffix(app, user)
        for id in (own_id, session_id):
            session = await runner.find_session(id)
            if session is None:
                continue
            if (session.user_id, session.agent) == (user, app):
                return session, id
            return None, own_id
        return None, session_id

    async def get(app: str, user: str, session_id: str) -> SessionRecord:
        """Raises `SessionNotFound`. A session that only the agent's own session service has is made known here."""
        session, id = await find(app, user, session_id)
        if session is not None:
            return session
        state = await runner.agents[app].session_state(app, user, id)
        if state is None:
            raise SessionNotFound(f"no session {session_id}")
        return await create(app, user, id, state)

    async def create(app: str, user: str, id: str, state: dict[str, Any] | None) -> SessionRecord:
        return await runner.create_session(id, user_id=user, state=state, agent=app)

    # -- running ----------------------------------------------------------------------------------------------------

    async def begin(request: Request) -> tuple[RunRecord, int, bool]:
        """The run that a request starts, repeats or answers; the position after which its answer begins; and whether
        it is wanted piece by piece."""
        await access.user(request)  # before anything is read
        body = _convert(await read_body(request, dict[str, Any], runner.limits.body_bytes_max))
        user = await claimed(request, body.user_id)
        run_id = request.headers.get("last-event-id", "").rpartition(":")[0]
        if run_id:  # a client that was cut off repeats its request
            return await readable(request, user, run_id), 0, body.streaming
        app = known_app(body.app_name)
        session = await get(app, user, body.session_id)
        parts = body.new_message.parts if body.new_message is not None else []
        answers = [part.function_response for part in parts if part.function_response is not None]
        current = await runner.current_run(session.id)
        if answers:
            if current is None:
                raise InputInvalid(f"session {body.session_id} has no run that waits for an answer")
            await access.check(request, "answer", current, user=user)
            check_cursor(current, cursor_of(request, current.id))
            after = await answer_interrupts(runner, current, [_entry(one) for one in answers])
            return await runner.get_run(current.id), after, body.streaming
        chosen_id = chosen_run_id(request, user)
        if (
            current is not None
            and current.status is RunStatus.WAITING
            and (chosen_id is None or await runner.find_run(chosen_id) is None)
        ):  # behind it a new message would stand in the queue for as long as nobody answers
            raise SessionBusy(
                f"session {body.session_id} has run {current.id}, which waits for the response to a function call: "
                "send that first, or cancel the run",
                run_id=current.id,
            )
        await check_start(runner, chosen_id, cursor_of(request, chosen_id))
        mode = StreamingMode.SSE if body.streaming else StreamingMode.NONE
        config = msgspec.structs.replace(runner.config, streaming_mode=mode, on_busy="queue")
        state = None if body.state_delta is None else {**session.state, **body.state_delta}
        run = await runner.start(
            _content(parts),
            agent=app,
            session_id=session.id,
            run_id=chosen_id,
            user_id=user,
            config=config,
            state=state,
            fingerprint=body.state_delta,
        )
        return run.started, 0, body.streaming

    async def readable(request: Request, user: str, run_id: str) -> RunRecord:
        record = await runner.get_run(run_id)
        await access.check(request, "read", record, user=user)
        return record

    def tail(request: Request, record: RunRecord, after: int, *, streaming: bool) -> Response:
        cursor = cursor_of(request, record.id)
        if cursor == Cursor(0):
            cursor = Cursor(after)
        if has_said_all(record, cursor.seq):
            return Response(status_code=204, headers={"x-run-id": record.id})
        location = f"{_events_of(request, record)}?streaming={'true' if streaming else 'false'}"
        location += f"&after={after}" if after else ""
        encoder = ADKEncoder if streaming else WholeADKEncoder
        return follow(runner, streams, record, encoder, cursor, location=location, merge=_merge(request))

    @router.post(
        "/run_sse",
        openapi_extra=body_docs(RunAgentRequest) | parameter_docs(*STARTING, "Last-Event-ID", "after", "merge"),
    )
    async def run_sse(request: Request) -> Response:
        """Run the agent and stream its events, as ADK's server does; also, with function responses as the message,
        answer what a run of the session waits for.

        Every frame has an id. Resume at the URL in `Content-Location`, or by the same request again, with
        `Last-Event-ID`. `X-Run-Id` makes the start itself safe to repeat.
        """
        record, after, streaming = await begin(request)
        return tail(request, record, after, streaming=streaming)

    @router.websocket("/run_live")
    async def run_live(websocket: WebSocket) -> None:
        """The agent live, as on ADK's server: `?user_id=`, `?session_id=`, `?app_name=`, `?modalities=`. A client that
        hangs up has said all: the run ends when the agent has answered. (On `/live` it may come back.)"""
        params = websocket.query_params
        await access.user(websocket)  # before anything is read
        if not params.get("user_id") or not params.get("session_id"):
            raise InputInvalid("say who speaks in which session: ?user_id= and ?session_id=")
        user = await claimed(websocket, params["user_id"])
        app = known_app(params.get("app_name"))
        session = await get(app, user, params["session_id"])
        modalities = params.getlist("modalities") or runner.config.response_modalities
        config = msgspec.structs.replace(
            runner.config, streaming_mode=StreamingMode.BIDI, response_modalities=modalities
        )
        run = await runner.start("", agent=app, session_id=session.id, user_id=user, config=config)
        stream = follow(runner, streams, run.started, ADKEncoder, Cursor(0), location="")
        await _ADKSocket(websocket, runner, streams, run.started).serve(stream)
        with contextlib.suppress(GaplessError):  # it has ended
            await run.send(LiveRequest(close=True))

    @router.get(
        "/apps/{app}/users/{user}/runs/{run_id}/events",
        openapi_extra=parameter_docs("Last-Event-ID", "after", "merge", "streaming", "wire"),
    )
    async def follow_run(app: str, user: str, run_id: str, request: Request) -> Response:
        """Go on with a run's stream, or follow it in another encoding."""
        record = await readable(request, await claimed(request, user), run_id)
        if "wire" in request.query_params:
            encoder = wire(request.query_params["wire"])
            location = f"{_events_of(request, record)}?wire={encoder.name}"
            cursor = cursor_of(request, run_id)
            return follow(runner, streams, record, encoder, cursor, location=location, merge=_merge(request))
        return tail(request, record, 0, streaming=request.query_params.get("streaming", "true") == "true")

    @router.post("/apps/{app}/users/{user}/runs/{run_id}/cancel", status_code=202)
    async def cancel_run(app: str, user: str, run_id: str, request: Request) -> Response:
        """End a run as cancelled; its id is its events' `invocationId`. Idempotent."""
        user = await claimed(request, user)
        await access.check(request, "cancel", await runner.get_run(run_id), user=user)
        return answer(public(await runner.cancel(run_id)), 202)

    @router.post("/run", openapi_extra=body_docs(RunAgentRequest) | parameter_docs(*STARTING))
    async def run(request: Request) -> Response:
        """Run the agent; all of its events at once, when it is done or waits for an answer."""
        record, after, _ = await begin(request)
        ended = await settled(runner, request, record)
        if ended is None:
            return Response(status_code=499)  # nobody reads it: the client has left
        return answer([msgspec.Raw(event) for event in await events_of(ended, after)])

    async def events_of(record: RunRecord, after: int = 0) -> list[bytes]:
        """The run's whole ADK events so far, after a position."""
        encoder, found, seq = WholeADKEncoder(record), list[bytes](), 0
        async for events in runner.readers.pages(record.id):
            for event in events:
                seq += 1
                frames = encoder.frames(event)
                if seq > after:
                    found += frames
        return found

    # -- sessions and apps ------------------------------------------------------------------------------------------

    async def shown(session: SessionRecord, *, events: bool = True) -> dict[str, Any]:
        """A session as ADK's clients see it."""
        suffix = _suffix(session.agent, session.user_id)
        found: list[Any] = []
        if events:
            for turn in await runner.turns(session.id):
                found += _turn_events(turn, session)
            record = await runner.current_run(session.id)
            if record is not None and record.status in ACTIVE and record.input is not None:
                found.append(_event(record.input, record.id, session))
                found += [msgspec.Raw(event) for event in await events_of(record)]
        return {
            "id": session.id.removesuffix(suffix),
            "appName": session.agent,
            "userId": session.user_id,
            "state": session.state,
            "events": found,
            "lastUpdateTime": session.updated_at / 1000,
        }

    @router.get(sessions)
    async def list_sessions(app: str, user: str, request: Request) -> Response:
        """The user's sessions with the app, without their events."""
        await claimed(request, user)
        known_app(app)
        found = await runner.list_sessions(user_id=user, limit=SESSIONS_MAX)
        return answer([await shown(session, events=False) for session in found if session.agent == app])

    @router.post(sessions, openapi_extra=body_docs(CreateSessionRequest, required=False))
    async def create_session(app: str, user: str, request: Request) -> Response:
        """A new session, with an id and a state of the client's choice."""
        await claimed(request, user)
        body = CreateSessionRequest()
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            given = await read_body(request, dict[str, Any], runner.limits.body_bytes_max)
            body = _as(CreateSessionRequest, _camel(given))
        if body.events:  # to leave them out would be to forget what the client thinks was said
            raise InputInvalid("events: a session begins empty here; its turns come from its runs")
        return await new_session(app, user, body.session_id, body.state)

    @router.post(sessions + "/{session_id}")
    async def create_session_with_id(app: str, user: str, session_id: str, request: Request) -> Response:
        """A new session under this id; the body is its state."""
        await claimed(request, user)
        state = None
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            state = await read_body(request, dict[str, Any], runner.limits.body_bytes_max)
        return await new_session(app, user, session_id, state)

    async def new_session(app: str, user: str, session_id: str | None, state: dict[str, Any] | None) -> Response:
        session, id = await find(known_app(app), user, session_id or new_id())
        if session is not None:
            raise SessionExists(f"session {session_id} exists already")
        return answer(await shown(await create(app, user, id, state)))

    @router.get(sessions + "/{session_id}")
    async def get_session(app: str, user: str, session_id: str, request: Request) -> Response:
        """One session with its events."""
        await claimed(request, user)
        session = await get(known_app(app), user, session_id)
        await access.check(request, "read", session, user=user)
        return answer(await shown(session))

    @router.patch(sessions + "/{session_id}", openapi_extra=body_docs(UpdateSessionRequest))
    async def update_session(app: str, user: str, session_id: str, request: Request) -> Response:
        """Set keys of a session's state. 409 while a run of it is active."""
        await claimed(request, user)
        body = _as(UpdateSessionRequest, _camel(await read_body(request, dict[str, Any], runner.limits.body_bytes_max)))
        session = await get(known_app(app), user, session_id)
        await access.check(request, "update", session, user=user)
        changes = {key: value for key, value in body.state_delta.items() if not key.startswith(OF_ONE_RUN)}
        session = await runner.update_state(session.id, changes)
        await runner.agents[app].update_state(app, user, session.id, changes)
        return answer(await shown(session))

    @router.delete(sessions + "/{session_id}")
    async def delete_session(app: str, user: str, session_id: str, request: Request) -> Response:
        """Drop a session. 409 while a run of it is active."""
        await claimed(request, user)
        session, _ = await find(known_app(app), user, session_id)
        if session is not None:
            await access.check(request, "delete", session, user=user)
            await runner.delete_session(session.id)
        return answer(None)

    @router.get("/list-apps", openapi_extra=parameter_docs("detailed"))
    async def list_apps(request: Request) -> Response:
        """The names of the agents."""
        await access.user(request)
        names = sorted(runner.agents)
        if request.query_params.get("detailed") != "true":
            return answer(names)
        apps = [{"name": name, "rootAgentName": name, "description": "", "language": "python"} for name in names]
        return answer({"apps": apps})

    @router.get("/version")
    async def version() -> Response:
        """What answers, in the form of ADK's server."""
        python = ".".join(str(number) for number in sys.version_info[:3])
        return answer({"version": f"gapless {__version__}", "language": "python", "language_version": python})

    return router


class _ADKSocket(LiveSocket):
    """As ADK's own server has it: each message is an event, or a request of ADK's form."""

    def frame(self, frame: bytes) -> bytes:
        return frame.partition(b"data: ")[2]

    def request(self, message: ASGIMessage) -> LiveRequest:
        sound, text = self.content(message)
        if sound is not None:
            return super().request(message)
        try:
            said = _camel(decode_json(text))
        except msgspec.DecodeError as error:
            raise InputInvalid(f"the message does not fit: {error}") from None
        if isinstance(said, dict):
            said |= {"content": _message(said.get("content")), "blob": _camel(said.get("blob"))}
        asked = _as(ADKLiveRequest, said)
        if asked.content is not None:
            return LiveRequest(content=_content(asked.content.parts))
        if asked.blob is not None:
            return LiveRequest(blob=LiveBlob(data=_decoded(asked.blob.data), mime_type=asked.blob.mime_type))
        start, end = asked.activity_start is not None, asked.activity_end is not None
        try:
            return LiveRequest(activity_start=start, activity_end=end, close=asked.close)
        except ValueError as error:
            raise InputInvalid(str(error)) from None


def _suffix(app: str, user: str) -> str:
    """What tells a session's id from the same id of another app or user."""
    return "@" + hashlib.sha256(f"{app}\0{user}".encode()).hexdigest()[:16]


def _events_of(request: Request, record: RunRecord) -> str:
    """The path of the run's stream."""
    root = request.scope.get("root_path", "")
    return f"{root}/apps/{_quoted(record.agent)}/users/{_quoted(record.user_id)}/runs/{record.id}/events"


def _merge(request: Request) -> bool:
    return request.query_params.get("merge") != "0"


def _quoted(text: str) -> str:
    return quote(text, safe="")


# -- what clients send ----------------------------------------------------------------------------------------------


def _camel(fields: Any) -> Any:
    """An object's own keys in camelCase; ADK takes both spellings."""
    if not isinstance(fields, dict):
        return fields
    camel = {}
    for key, value in fields.items():
        first, *rest = key.split("_")
        camel["".join([first, *(word.capitalize() for word in rest)])] = value
    return camel


def _convert(body: dict[str, Any]) -> RunAgentRequest:
    body = _camel(body)
    body["newMessage"] = _message(body.get("newMessage"))
    return _as(RunAgentRequest, body)


def _message(content: Any) -> Any:
    """A content object with its keys in camelCase."""
    content = _camel(content)
    if isinstance(content, dict) and isinstance(content.get("parts"), list):
        content["parts"] = parts = [_camel(part) for part in content["parts"]]
        for part in parts:
            for key in ("inlineData", "fileData", "functionResponse"):
                if isinstance(part, dict) and key in part:
                    part[key] = _camel(part[key])
    return content


def _as(type: type[_T], value: Any) -> _T:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise InputInvalid(f"the body does not fit: {error}") from None


def _content(parts: list[Part]) -> str | list[ContentPart]:
    """A message's content. Raises `InputInvalid` for an empty one."""
    found: list[ContentPart] = []
    for part in parts:
        if part.text:
            found.append(TextPart(text=part.text))
        elif part.inline_data is not None:
            data = _standard(part.inline_data.data)
            found.append(media_part(DataSource(value=data, mime_type=part.inline_data.mime_type)))
        elif part.file_data is not None:
            found.append(media_part(UrlSource(value=part.file_data.file_uri, mime_type=part.file_data.mime_type)))
    if not found:
        raise InputInvalid("the message is missing or empty")
    return simplest(found)


def _standard(data: str) -> str:
    """Base64 as it is mostly written; ADK writes that of RFC 4648, section 5."""
    data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(_standard(data), validate=True)
    except ValueError:
        raise InputInvalid("blob: the data is not base64") from None


def _entry(response: FunctionResponse) -> ResumeEntry:
    """An answer to what a run waits for; a confirmation says the same to every kind of agent."""
    payload = response.response or {}
    if isinstance(payload.get("response"), str) and len(payload) == 1:  # as ADK's own page wraps it
        payload = object_of(payload["response"])
    if "confirmed" in payload:
        payload = {**payload, "approved": payload["confirmed"]}
    return ResumeEntry(interrupt_id=response.id, status="resolved", payload=payload)


# -- what clients get -----------------------------------------------------------------------------------------------


def _turn_events(turn: Turn, session: SessionRecord) -> list[Any]:
    """A turn's ADK events: the agent's own, or its messages in their form."""
    native = None if turn.native is None else decode_turn(turn.native)
    if native is None:
        names: dict[str, str] = {}
        return [
            event
            for message in _decode_messages(turn.messages)
            if (event := _event(message, turn.run_id, session, names)) is not None
        ]
    if CREDENTIAL.encode() not in turn.native:  # type: ignore[operator]  # it has one
        return list(native.events)
    return [without_secrets(msgspec.json.decode(event)) for event in native.events]


def _event(
    message: Message, run_id: str, session: SessionRecord, names: dict[str, str] | None = None
) -> dict[str, Any] | None:
    """A message as an ADK event; None for one that ADK has no form for. `names` is of the calls before it."""
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
        response = object_of(text_of(message.content))
        id = message.tool_call_id
        parts = [{"functionResponse": {"id": id, "name": names.get(id, ""), "response": response}}]
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
