"""Routes of runs: start, list, follow, cancel, answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import InputInvalid, NotAuthorized
from gapless.events import ContentPart, ResumeEntry
from gapless.given import one_of
from gapless.http.answers import (
    json_response,
    list_params,
    paged,
    public,
    read_body,
    wants_stream,
    whole_number,
)
from gapless.http.config import AskedConfig, config_for
from gapless.http.cursors import cursor_of, page_params
from gapless.http.openapi import BEHIND, STARTING, Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.live import LiveRequest
from gapless.notify import Webhook
from gapless.prices import cost_usd
from gapless.producing import PRODUCER, Batch
from gapless.protocols.starting import ClientRoutes, StartRequest, root_path
from gapless.records import AFTER, RunRecord, RunStatus
from gapless.server.blobs import blob_response
from gapless.server.pages import runs_page, wants_page
from gapless.sought import Sought
from gapless.user_message import user_message
from gapless.wire import wire

__all__ = ["RunRoutes"]


_LISTED = ("session_id", "status", "agent", "since", "until", "error", "user_id")


class StartRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /runs`."""

    message: str | list[ContentPart]
    agent: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    config: AskedConfig | None = None
    producer: bool = False
    """The run is executed elsewhere: `POST /runs/{id}/events` writes it, and no agent here is asked."""
    after_run_id: str | None = None
    """The run of the session after which the message is asked, "" for none: it takes the place of what followed, which
    is kept. Without it, the newest of the conversation."""
    notify: Webhook | None = None
    """Who is told when the run waits and when it has ended."""


BEHIND_ENTRY = Parameter("after", "query", "Only what came behind this position.", {"type": "integer", "minimum": 0})
ANSWER_SHAPE = (
    'send either {"resume": [{"interruptId": "…", "status": "resolved", "payload": …}]}, an entry for each question '
    'of a waiting run, or {"live": {"content": "…"}} to a live one'
)
"""What `POST /runs/{id}/input` takes, for whoever has sent something else."""


class AnswerRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /runs/{id}/input`: one of these."""

    resume: list[ResumeEntry] | None = None
    """Answers to what a waiting run asks."""
    live: LiveRequest | None = None
    """Something that is said to a live run."""


class RunRoutes(ClientRoutes):
    """`/runs…`."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["runs"], route_class=DirectRoute)
        started = parameter_docs("Accept", *STARTING, "Last-Event-ID", "after", "wire", "merge")
        router.post("/runs", status_code=202, openapi_extra=body_docs(StartRun) | started)(self.start_run)
        router.get("/runs", openapi_extra=parameter_docs(*_LISTED, "limit", BEHIND))(self.list_runs)
        router.get("/runs/{run_id}")(self.get_run)
        router.get("/runs/{run_id}/timeline", openapi_extra=parameter_docs(BEHIND_ENTRY))(self.show_timeline)
        followed = parameter_docs("Accept", "Last-Event-ID", "after", "wire", "merge", "limit")
        router.get("/runs/{run_id}/events", openapi_extra=followed)(self.follow_run)
        router.post("/runs/{run_id}/events", openapi_extra=body_docs(Batch))(self.produce)
        router.head("/runs/{run_id}/blobs/{blob_id}", include_in_schema=False)(self.read_blob)
        router.get("/runs/{run_id}/blobs/{blob_id}")(self.read_blob)
        router.post("/runs/{run_id}/cancel", status_code=202)(self.cancel_run)
        router.post("/runs/{run_id}/input", status_code=202, openapi_extra=body_docs(AnswerRun))(self.answer_run)
        router.get("/runs/{run_id}/notices")(self.list_notices)
        router.post("/runs/{run_id}/notices/{notice_id}", status_code=202)(self.send_notice)
        return router

    async def start_run(self, request: Request) -> Response:
        """Start a run, or come back to the one that has the given `run_id`.

        `Accept: application/json`: 202 and the run's record. `Accept: text/event-stream`: its events. Both name the
        stream in `Content-Location`.
        """
        user, body = await self.read(request, StartRun)
        if body.producer and body.agent is not None:
            raise InputInvalid("a run is an agent's or a producer's: leave out one of both")
        encoder = wire(request.query_params.get("wire", "ag-ui"))
        message: object = body.message if isinstance(body.message, str) else msgspec.to_builtins(body.message)
        if body.after_run_id is not None:
            message = user_message(message)
            message.metadata = {AFTER: await self._checked_place(request, body)}
        asked = StartRequest(
            message,
            agent=PRODUCER if body.producer else body.agent,
            session_id=body.session_id,
            config=config_for(self.runner, body.config),
            notify=body.notify,
            fingerprint=None if body.after_run_id is None else {"after_run_id": body.after_run_id},
        )
        streams = wants_stream(request)
        record = await self.start(request, user, asked, cursor=cursor_of if streams else None)
        location = _location(request, record.id)
        if not streams:
            names = {"content-location": location, "location": location, "x-run-id": record.id}
            return json_response(public(record), 202, names)
        return self.follow(request, record, encoder, cursor_of(request, record.id), location=location)

    async def _checked_place(self, request: Request, body: StartRun) -> str:
        """Return the run to ask the message after. Raises `RunNotFound`, `InputInvalid` for another session's."""
        if not body.after_run_id:
            return ""
        before = await self.access.find(request, "read", self.runner.get_run, body.after_run_id)
        if before.session_id != body.session_id:
            raise InputInvalid(f"after_run_id: run {before.id} is of another session", run_id=before.id)
        return before.id

    async def list_runs(self, request: Request) -> Response:
        """List the caller's runs, newest first: those of `?session_id=`, `?status=`, `?agent=`, made `?since=` and
        `?until=` (ms), with `?error=` in their error; at most `?limit=`. An operator's are all, or `?user_id=`'s (and
        `operator` is true).
        Long texts are cut. Where there are more, `next` is the `?after=` of the next page. A page takes some 50 ms
        at most: it may be without runs. So many were `looked` at for it, and about `left` are behind it.
        Browsers that open the address get the page for people."""
        if wants_page(request):
            return runs_page()
        user = await self.access.user(request)
        params = request.query_params
        owner: str | None = user
        if self.access.is_operator(user):
            owner = params.get("user_id")
        elif params.get("user_id", user) != user:
            raise NotAuthorized("runs of other users are an operator's to list: leave out user_id")
        sought = Sought(
            user_id=owner,
            session_id=params.get("session_id"),
            status=one_of("status", params.get("status"), RunStatus),
            agent=params.get("agent"),
            since=_time(request, "since"),
            until=_time(request, "until"),
            error=params.get("error"),
        )
        runs = await self.runner.readers.search(sought, **list_params(request))
        shown = paged("runs", [public(run) for run in runs], runs)
        if runs.next is not None:
            shown |= {"looked": runs.looked, "left": runs.left}
        return json_response(shown | {"operator": True} if self.access.is_operator(user) else shown)

    async def get_run(self, run_id: str, request: Request) -> Response:
        """Show one run's record; of a run that waits for a person, with the questions (`interrupts`); of one that has
        ended, with what each model took (`usage`) and, where the prices are known, `cost_usd`. Operators are told
        which `worker` has it or had it last, and of the `takeovers` since its last checkpoint."""
        record = await self.access.find(request, "read", self.runner.get_run, run_id)
        shown = public(record)
        if self.access.is_operator(await self.access.user(request)):
            shown |= {"worker": record.owner, "takeovers": record.takeovers}
        if record.status is RunStatus.WAITING:
            shown["interrupts"] = (await self.runner.readers.question(record)).interrupts
        if record.usage and (cost := cost_usd(record.usage)) is not None:
            shown["cost_usd"] = cost
        return json_response(shown)

    async def show_timeline(self, run_id: str, request: Request) -> Response:
        """Show what happened in a run, in order and with times: what was said and thought, calls and their results,
        waiting, the end; and how it came from worker to worker (`moves`, each behind the entries up to its `seq`), of
        which to which for operators alone. With `?after=`, a `last_seq` as it came, only the entries of which something
        came behind it: each stands for what was there under its `seq`."""
        record = await self.access.find(request, "read", self.runner.get_run, run_id)
        after = whole_number(request, "after", 0, least=0, most=2**53)
        made = await self.runner.readers.timeline(record, after)
        if not self.access.is_operator(await self.access.user(request)):
            made = made.without_workers()
        return json_response(msgspec.to_builtins(made))

    async def follow_run(self, run_id: str, request: Request) -> Response:
        """Follow a run: `Last-Event-ID` or `?after=` says from where, `?wire=` in which encoding, `?merge=0` that
        deltas are not merged while catching up. With `Accept: application/json`: one page of events instead."""
        record = await self.access.find(request, "read", self.runner.get_run, run_id)
        if "application/json" in request.headers.get("accept", "") and not wants_stream(request):
            return await self._page(request, record)
        encoder = wire(request.query_params.get("wire", "ag-ui"))
        location = _location(request, run_id)
        return self.follow(request, record, encoder, cursor_of(request, run_id), location=location)

    async def produce(self, run_id: str, request: Request) -> Response:
        """Write events of a run that is executed elsewhere: a batch is accepted whole, or refused. One that comes again
        is answered as it was the first time; one out of turn, or of a producer that another has followed, gets 409. The
        answer says how far the run's producers are."""
        await self.access.find(request, "produce", self.runner.get_run, run_id)
        taken = await self.runner.take(run_id, await read_body(request, Batch, self.runner.limits.body_bytes_max))
        return json_response({"producer": taken.producer, "epoch": taken.epoch, "number": taken.number})

    async def _page(self, request: Request, record: RunRecord) -> Response:
        after, limit = page_params(request)
        events = await self.runner.readers.page(record.id, after, limit)
        page = {
            "run_id": record.id,
            "after": after,
            "events": [msgspec.Raw(event) for event in events],
            "last_seq": record.last_seq,
            "ended": record.status.ended,
        }
        return json_response(page)

    async def read_blob(self, run_id: str, blob_id: str, request: Request) -> Response:
        """Fetch a file or another large part of a run's events, whole or a range of it: the address is in the event."""
        await self.access.find(request, "read", self.runner.get_run, run_id)
        return await blob_response(request, self.runner.readers, run_id, blob_id)

    async def cancel_run(self, run_id: str, request: Request) -> Response:
        """End a run as cancelled. Idempotent; whichever worker executes it acts."""
        record = await self.access.find(request, "cancel", self.runner.get_run, run_id)
        return json_response(public(await self.runner.cancel(record)), 202)

    async def answer_run(self, run_id: str, request: Request) -> Response:
        """Answer the interrupts of a waiting run, or some of them: it goes on when it has all. Or say something to a
        live one."""
        record = await self.access.find(request, "answer", self.runner.get_run, run_id)
        try:
            body = await read_body(request, AnswerRun, self.runner.limits.body_bytes_max)
        except InputInvalid as error:
            raise InputInvalid(f"{error.message}; {ANSWER_SHAPE}") from None
        if (body.resume is None) == (body.live is None):
            raise InputInvalid(ANSWER_SHAPE)
        if body.live is not None:
            await self.runner.send(run_id, body.live)
        else:
            await self.runner.answer(record, body.resume or [], some=True)
        return json_response(public(record), 202)

    async def list_notices(self, run_id: str, request: Request) -> Response:
        """Show who was told that the run waits or has ended, or is to be told still: what each attempt came to, and
        when the next one is. Kept as long as the run's events."""
        await self.access.find(request, "read", self.runner.get_run, run_id)
        return json_response({"notices": await self.runner.notices(run_id)})

    async def send_notice(self, run_id: str, notice_id: str, request: Request) -> Response:
        """Send a notice once more, under the same id, whatever became of it."""
        await self.access.find(request, "notify", self.runner.get_run, run_id)
        return json_response(await self.runner.notify_again(run_id, notice_id), 202)


def _time(request: Request, name: str) -> int | None:
    """Raises `InputInvalid`."""
    return whole_number(request, name, 0, least=0, most=2**53) if name in request.query_params else None


def _location(request: Request, run_id: str) -> str:
    """Return the stream's path, with the prefix that the app is mounted under, in the encoding that was asked for."""
    asked: dict[str, Any] = {name: value for name in ("wire", "merge") if (value := request.query_params.get(name))}
    return f"{root_path(request)}/runs/{run_id}/events" + (f"?{urlencode(asked)}" if asked else "")
