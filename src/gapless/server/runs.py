"""Routes of runs: start, list, follow, cancel, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.config import RunConfig
from gapless.errors import InputInvalid
from gapless.events import ContentPart, ResumeEntry, interrupts_in
from gapless.http.answers import (
    LIST_LIMIT_MAX,
    STARTING,
    answer,
    body_docs,
    chosen_run_id,
    parameter_docs,
    public,
    read_body,
    wants_stream,
    whole_number,
)
from gapless.http.auth import Access
from gapless.http.stream import Streams, check_start, cursor_of, follow, page_params
from gapless.live import LiveRequest
from gapless.records import RunStatus
from gapless.runs.runner import Runner
from gapless.wire import wire

__all__ = ["AskedConfig", "config_for", "routes"]

if TYPE_CHECKING:
    AskedConfig = Any
else:
    # A `RunConfig` of which it is known what was left out: that is the operator's to say.
    AskedConfig = msgspec.defstruct(
        "RunConfig",
        [(field.name, field.type | msgspec.UnsetType, msgspec.UNSET) for field in msgspec.structs.fields(RunConfig)],
        forbid_unknown_fields=True,
    )


class StartRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /runs`."""

    message: str | list[ContentPart]
    agent: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    config: AskedConfig | None = None


class AnswerRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /runs/{id}/input`: one of these."""

    resume: list[ResumeEntry] | None = None
    """Answers to what a waiting run asks."""
    live: LiveRequest | None = None
    """Something that is said to a live run."""


def config_for(runner: Runner, asked: AskedConfig | None) -> RunConfig | None:
    """The config of a run of whoever asks for this one. Raises `InputInvalid`."""
    if asked is None:
        return None
    fields = msgspec.structs.asdict(asked)
    return runner.config.narrowed(
        {name: value for name, value in fields.items() if value is not msgspec.UNSET}, runner.client_settings
    )


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router. Every route that names a run authorises its caller for it."""
    router = APIRouter(tags=["runs"])

    @router.post(
        "/runs",
        status_code=202,
        openapi_extra=body_docs(StartRun)
        | parameter_docs("Accept", *STARTING, "Last-Event-ID", "after", "wire", "merge"),
    )
    async def start_run(request: Request) -> Response:
        """Start a run, or come back to the one that has the given `run_id`.

        `Accept: application/json`: 202 and the run's record. `Accept: text/event-stream`: its events. Both name the
        stream in `Content-Location`.
        """
        user = await access.user(request)
        body = await read_body(request, StartRun, runner.limits.body_bytes_max)
        encoder = wire(request.query_params.get("wire", "ag-ui"))
        run_id = chosen_run_id(request, user)
        if wants_stream(request):
            await check_start(runner, run_id, cursor_of(request, run_id))
        message = body.message if isinstance(body.message, str) else msgspec.to_builtins(body.message)
        run = await runner.start(
            message,
            agent=body.agent,
            session_id=body.session_id,
            run_id=run_id,
            user_id=user,
            config=config_for(runner, body.config),
        )
        record = run.started
        location = _location(request, run.id)
        if not wants_stream(request):
            return answer(public(record), 202, {"content-location": location, "location": location, "x-run-id": run.id})
        cursor = cursor_of(request, run.id)
        return follow(runner, streams, record, encoder, cursor, location=location, merge=_merge(request))

    @router.get("/runs", openapi_extra=parameter_docs("session_id", "status", "limit"))
    async def list_runs(request: Request) -> Response:
        """The caller's runs, newest first; `?session_id=`, `?status=`, `?limit=`."""
        user = await access.user(request)
        params = request.query_params
        try:
            status = RunStatus(params["status"]) if "status" in params else None
        except ValueError:
            raise InputInvalid(f"status is one of {', '.join(RunStatus)}") from None
        limit = whole_number(request, "limit", 100, least=1, most=LIST_LIMIT_MAX)
        runs = await runner.list_runs(user_id=user, session_id=params.get("session_id"), status=status, limit=limit)
        return answer({"runs": [public(run) for run in runs]})

    @router.get("/runs/{run_id}")
    async def get_run(run_id: str, request: Request) -> Response:
        """One run's record; of a run that waits for a person, with the questions (`interrupts`)."""
        record = await access.find(request, "read", runner.get_run, run_id)
        shown = public(record)
        if record.status is RunStatus.WAITING:
            asked = await runner.readers.page(run_id, record.last_seq - 1, 1)
            shown["interrupts"] = [interrupt for event in asked for interrupt in interrupts_in(event)]
        return answer(shown)

    @router.get(
        "/runs/{run_id}/events",
        openapi_extra=parameter_docs("Accept", "Last-Event-ID", "after", "wire", "merge", "limit"),
    )
    async def follow_run(run_id: str, request: Request) -> Response:
        """Follow a run: `Last-Event-ID` or `?after=` says from where, `?wire=` in which encoding, `?merge=0` that
        deltas are not merged while catching up. With `Accept: application/json`: one page of events instead."""
        record = await access.find(request, "read", runner.get_run, run_id)
        if "application/json" in request.headers.get("accept", "") and not wants_stream(request):
            after, limit = page_params(request)
            events = await runner.readers.page(run_id, after, limit)
            page = {
                "run_id": run_id,
                "after": after,
                "events": [msgspec.Raw(event) for event in events],
                "last_seq": record.last_seq,
                "ended": record.status.ended,
            }
            return answer(page)
        encoder = wire(request.query_params.get("wire", "ag-ui"))
        location = _location(request, run_id)
        cursor = cursor_of(request, run_id)
        return follow(runner, streams, record, encoder, cursor, location=location, merge=_merge(request))

    @router.post("/runs/{run_id}/cancel", status_code=202)
    async def cancel_run(run_id: str, request: Request) -> Response:
        """End a run as cancelled. Idempotent; whichever worker executes it acts."""
        await access.find(request, "cancel", runner.get_run, run_id)
        return answer(public(await runner.cancel(run_id)), 202)

    @router.post("/runs/{run_id}/input", status_code=202, openapi_extra=body_docs(AnswerRun))
    async def answer_run(run_id: str, request: Request) -> Response:
        """Answer the interrupts of a waiting run; it goes on. Or say something to a live one."""
        record = await access.find(request, "answer", runner.get_run, run_id)
        body = await read_body(request, AnswerRun, runner.limits.body_bytes_max)
        if (body.resume is None) == (body.live is None):
            raise InputInvalid("say either resume or live")
        if body.live is not None:
            await runner.send(run_id, body.live)
        else:
            await runner.answer(run_id, body.resume or [])
        return answer(public(record), 202)

    return router


def _location(request: Request, run_id: str) -> str:
    """The stream's path, with the prefix that the app is mounted under, in the encoding that was asked for."""
    root: Any = request.scope.get("root_path", "")
    asked = {name: value for name in ("wire", "merge") if (value := request.query_params.get(name))}
    return f"{root}/runs/{run_id}/events" + (f"?{urlencode(asked)}" if asked else "")


def _merge(request: Request) -> bool:
    return request.query_params.get("merge", "1") != "0"
