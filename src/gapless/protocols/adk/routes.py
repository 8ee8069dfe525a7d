"""ADK's endpoints: programs written for ADK's own server, and its web page.

A session of ADK belongs to an app and a user; here the app is the agent. Where authentication is configured, the user
in a request is the one who asks; where none is, users are told apart by the names that they give.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request, WebSocket
from starlette.responses import Response

from gapless.config import StreamingMode
from gapless.errors import GaplessError, InputInvalid, SessionBusy
from gapless.http.answers import chosen_run_id, json_response, public, settled
from gapless.http.config import config_with, live_config
from gapless.http.cursors import check_cursor, cursor_of
from gapless.http.openapi import STARTING, Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.http.stream import delivery_of
from gapless.live import LiveRequest
from gapless.protocols.adk.artifacts import ArtifactRoutes
from gapless.protocols.adk.live import ADKSocket
from gapless.protocols.adk.requests import FunctionResponse, RunAgentRequest, content_of, entry_of, run_request
from gapless.protocols.adk.sessions import ADKAPI, SessionRoutes
from gapless.protocols.adk.wire import ADKEncoder, WholeADKEncoder
from gapless.protocols.conversations import answer_interrupts
from gapless.protocols.starting import StartRequest, root_path
from gapless.records import RunRecord, RunStatus, SessionRecord
from gapless.runs.request import new_id
from gapless.wire import Cursor, wire

__all__ = ["ADKRoutes"]

_RUN = "/apps/{app}/users/{user}/runs/{run_id}"


class ADKRoutes(ADKAPI):
    """`/run_sse`, `/run`, `/run_live`, `/apps/…`."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["adk"], route_class=DirectRoute)
        started = body_docs(RunAgentRequest) | parameter_docs(*STARTING, "Last-Event-ID", "after", "merge")
        router.post("/run_sse", openapi_extra=started)(self.run_sse)
        router.websocket("/run_live")(self.run_live)
        streaming = Parameter("streaming", "query", "`false`: whole events only.", {"enum": ["true", "false"]})
        followed = parameter_docs("Last-Event-ID", "after", "merge", streaming, "wire")
        router.get(_RUN + "/events", openapi_extra=followed)(self.follow_run)
        router.post(_RUN + "/cancel", status_code=202)(self.cancel_run)
        router.post("/run", openapi_extra=body_docs(RunAgentRequest) | parameter_docs(*STARTING))(self.run)
        SessionRoutes(self.runner, self.streams, self.access).add_to(router)
        ArtifactRoutes(self.runner, self.streams, self.access).add_to(router)
        detailed = Parameter("detailed", "query", "`true`: with their descriptions.", {"enum": ["true", "false"]})
        router.get("/list-apps", openapi_extra=parameter_docs(detailed))(self.list_apps)
        router.get("/version")(self.version)
        return router

    async def run_sse(self, request: Request) -> Response:
        """Run the agent and stream its events, as ADK's server does; also, with function responses as the message,
        answer what a run of the session waits for.

        Every frame has an id. Resume at the URL in `Content-Location`, or by the same request again, with
        `Last-Event-ID`. `X-Run-Id` makes the start itself safe to repeat.
        """
        record, after, streaming = await self._begin(request)
        return self._tail(request, record, after, streaming=streaming)

    async def run(self, request: Request) -> Response:
        """Run the agent; all of its events at once, when it is done or waits for an answer."""
        record, after, _ = await self._begin(request)
        ended = await settled(self.runner, request, record)
        if ended is None:
            return Response(status_code=499)  # nobody reads it: the client has left
        return json_response([msgspec.Raw(event) for event in await self.events_of(ended, after)])

    async def _begin(self, request: Request) -> tuple[RunRecord, int, bool]:
        """Return the run that a request starts, repeats or answers; the position after which its answer begins; and
        whether it is wanted piece by piece.
        """
        _, given = await self.read(request, dict[str, Any])
        body = run_request(given)
        user = await self.claimed(request, body.user_id)
        self.access.check_state(body.state_delta)
        run_id = request.headers.get("last-event-id", "").rpartition(":")[0]
        if run_id:  # a client that was cut off repeats its request
            return await self._readable(request, user, run_id), 0, body.streaming
        app = self.known_app(body.app_name)
        session = await self.get(app, user, body.session_id)
        parts = body.new_message.parts if body.new_message is not None else []
        answers = [part.function_response for part in parts if part.function_response is not None]
        current = await self.runner.current_run(session.id)
        if answers:
            record, after = await self._answer(request, user, body.session_id, current, answers)
            return record, after, body.streaming
        await self._check_turn(request, user, body.session_id, current)
        asked = self._asked(body, session, content_of(parts))
        return await self.start(request, user, asked), 0, body.streaming

    def _asked(self, body: RunAgentRequest, session: SessionRecord, message: object) -> StartRequest:
        mode = StreamingMode.SSE if body.streaming else StreamingMode.NONE
        return StartRequest(
            message,
            agent=session.agent,
            session_id=session.id,
            config=config_with(self.runner, streaming_mode=mode, on_busy="queue"),
            state=None if body.state_delta is None else {**session.state, **body.state_delta},
            fingerprint=body.state_delta,
        )

    async def _answer(
        self, request: Request, user: str, session_id: str, current: RunRecord | None, answers: list[FunctionResponse]
    ) -> tuple[RunRecord, int]:
        """Return the run that these answers let go on, and the position after which it does."""
        if current is None:
            raise InputInvalid(f"session {session_id} has no run that waits for an answer")
        await self.access.check(request, "answer", current, user=user)
        check_cursor(current, cursor_of(request, current.id))
        after = await answer_interrupts(self.runner, current, [entry_of(one) for one in answers])
        return await self.runner.get_run(current.id), after

    async def _check_turn(self, request: Request, user: str, session_id: str, current: RunRecord | None) -> None:
        """Refuse a message behind a run that waits: it would stand in the queue for as long as nobody answers. Raises
        `SessionBusy`."""
        if current is None or current.status is not RunStatus.WAITING or self.runner.config.on_waiting == "decline":
            return
        chosen_id = chosen_run_id(request, user)
        if chosen_id is None or await self.runner.find_run(chosen_id) is None:
            raise SessionBusy(
                f"session {session_id} has run {current.id}, which waits for the response to a function call: "
                "send that first, or cancel the run",
                run_id=current.id,
            )

    async def run_live(self, websocket: WebSocket) -> None:
        """Speak with the agent live, as on ADK's server: `?user_id=`, `?session_id=`, `?app_name=`, `?modalities=`. A
        client that hangs up has said all: the run ends when the agent has answered. (On `/live` it may come back.)
        """
        params = websocket.query_params
        await self.access.user(websocket)  # before anything is read
        if not params.get("user_id") or not params.get("session_id"):
            raise InputInvalid("say who speaks in which session: ?user_id= and ?session_id=")
        user = await self.claimed(websocket, params["user_id"])
        app = self.known_app(params.get("app_name"))
        session = await self.get(app, user, params["session_id"])
        modalities = params.getlist("modalities") or self.runner.config.response_modalities
        config = msgspec.structs.replace(live_config(self.runner), response_modalities=modalities)
        asked = StartRequest("", agent=app, session_id=session.id, config=config)
        record = await self.start(websocket, user, asked, run_id=new_id(), cursor=None)  # nobody comes back to it
        delivery = delivery_of(self.runner, self.streams, record, ADKEncoder, Cursor(0))
        assert delivery is not None, "a run that has just begun has more to say"
        await ADKSocket(websocket, self.runner, record, delivery.encoder).serve(delivery)
        with contextlib.suppress(GaplessError):  # it has ended
            await self.runner.send(record.id, LiveRequest(close=True))

    async def follow_run(self, app: str, user: str, run_id: str, request: Request) -> Response:
        """Go on with a run's stream, or follow it in another encoding."""
        record = await self._readable(request, await self.claimed(request, user), run_id)
        if "wire" in request.query_params:
            encoder = wire(request.query_params["wire"])
            location = f"{_events_of(request, record)}?wire={encoder.name}"
            return self.follow(request, record, encoder, cursor_of(request, run_id), location=location)
        return self._tail(request, record, 0, streaming=request.query_params.get("streaming", "true") == "true")

    async def cancel_run(self, app: str, user: str, run_id: str, request: Request) -> Response:
        """End a run as cancelled; its id is its events' `invocationId`. Idempotent."""
        user = await self.claimed(request, user)
        await self.access.check(request, "cancel", await self.runner.get_run(run_id), user=user)
        return json_response(public(await self.runner.cancel(run_id)), 202)

    async def _readable(self, request: Request, user: str, run_id: str) -> RunRecord:
        record = await self.runner.get_run(run_id)
        await self.access.check(request, "read", record, user=user)
        return record

    def _tail(self, request: Request, record: RunRecord, after: int, *, streaming: bool) -> Response:
        location = f"{_events_of(request, record)}?streaming={'true' if streaming else 'false'}"
        location += f"&after={after}" if after else ""
        encoder = ADKEncoder if streaming else WholeADKEncoder
        return self.go_on(request, record, encoder, location=location, after=after)

    async def list_apps(self, request: Request) -> Response:
        """List the names of the agents."""
        await self.access.user(request)
        names = sorted(self.runner.agents)
        if request.query_params.get("detailed") != "true":
            return json_response(names)
        apps = [{"name": name, "rootAgentName": name, "description": "", "language": "python"} for name in names]
        return json_response({"apps": apps})

    async def version(self, request: Request) -> Response:
        """Say what answers, in the form of ADK's server."""
        await self.access.user(request)
        python = ".".join(str(number) for number in sys.version_info[:3])
        ours = f"gapless {importlib.metadata.version('gapless')}"
        return json_response({"version": ours, "language": "python", "language_version": python})


def _events_of(request: Request, record: RunRecord) -> str:
    """Return the path of the run's stream."""
    return f"{root_path(request)}/apps/{_quoted(record.agent)}/users/{_quoted(record.user_id)}/runs/{record.id}/events"


def _quoted(text: str) -> str:
    return quote(text, safe="")
