"""What chat completions and responses share: how a body is read, a run started and waited for, an error said."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gapless.config import RunConfig
from gapless.errors import AgentNotFound, GaplessError, InputInvalid, InputTooLarge, RunFailed, RunWaits, error_for_code
from gapless.http.answers import answer_error, chosen_run_id, raw_json_response, settled
from gapless.http.cursors import cursor_of
from gapless.http.openapi import STARTING, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.openai.chat_wire import error_json
from gapless.protocols.openai.requests import Chat, Completion, Responses, tools_of
from gapless.protocols.starting import ClientRoutes, StartRequest, root_path
from gapless.records import RunRecord, RunStatus
from gapless.runs.request import is_id
from gapless.wire import Cursor, Encoder

__all__ = ["START_DOCS", "ErrorRoute", "OpenAIAPI", "gone", "names"]

START_DOCS = parameter_docs(*STARTING, "Last-Event-ID", "after", "merge")
"""What the routes read that start a run."""


class ErrorRoute(DirectRoute):
    """Answers errors in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_say(request: Request) -> Response:
            try:
                return await handle(request)
            except GaplessError as error:
                return _error(error, begun=_has_begun(request))
            except HTTPException as error:
                body = error_json("input_invalid", str(error.detail), error.status_code)
                return raw_json_response(body, error.status_code)

        return handle_or_say


class OpenAIAPI(ClientRoutes):
    """Routes that start a run as OpenAI's clients ask for it."""

    family = "openai"

    async def read_as(self, request: Request, type: Any) -> tuple[str, dict[str, Any], Any]:
        """Return the id of the user who asks, and the body: as it came, and as `type`. Raises what `read` raises."""
        user, raw = await self.read(request, dict[str, Any])
        try:
            return user, raw, msgspec.convert(raw, type)
        except msgspec.ValidationError as error:
            raise InputInvalid(f"the body does not fit: {error}") from None

    async def begin(
        self, request: Request, user: str, body: Chat | Completion | Responses, asked: StartRequest
    ) -> RunRecord:
        """Start the run of a body, or come back to it."""
        asked.agent, asked.tools = body.model, tools_of(body.tools) or None
        record = await self.start(request, user, asked, cursor=cursor_of if body.stream else None)
        request.state.begun = chosen_run_id(request, user) is None
        return record

    def config(self, settings: dict[str, Any]) -> RunConfig | None:
        """Return the config of a run with these settings of its model."""
        runner = self.runner
        return runner.config.narrowed({"model_settings": settings}, runner.client_settings) if settings else None

    async def settled(self, request: Request, record: RunRecord) -> RunRecord | None:
        """Return the run's record once it has ended or waits for a person; None when the client has left before. Raises
        what the run failed with.
        """
        ended = await settled(self.runner, request, record)
        if ended is not None and ended.status is RunStatus.FAILED and ended.error is not None:
            raise _failure(ended.id, **ended.error)
        return ended

    async def merged(self, record: RunRecord) -> list[bytes]:
        """Return the run's events with adjacent deltas merged."""
        return [event for _, event in await self.runner.readers.merged(record.id)]

    def stream(
        self, request: Request, record: RunRecord, encoder: type[Encoder], cursor: Cursor | None = None
    ) -> Response:
        """Answer with the run's stream from the request's cursor, or this one."""
        location = f"{root_path(request)}/runs/{record.id}/events?wire={encoder.name}"
        on_error = functools.partial(_error, begun=_has_begun(request))
        cursor = cursor_of(request, record.id) if cursor is None else cursor
        return self.follow(request, record, encoder, cursor, location=location, on_error=on_error)


def names(record: RunRecord) -> dict[str, str]:
    """Return the header that names the run of an answer."""
    return {"x-run-id": record.id}


def gone() -> Response:
    """Return the answer to a client that has left: nobody reads it."""
    return Response(status_code=499)


def _failure(run_id: str, code: str, message: str) -> RunFailed:
    """Return what the run failed with. An agent chooses its codes: none of them is about this request, but for those
    that say what of it the agent could not take. The API has 400 for that."""
    failure = RunFailed(message, run_id=run_id, code=code)
    known = error_for_code(code, message)
    if isinstance(known, InputInvalid | InputTooLarge):
        failure.status = 400 if isinstance(known, InputInvalid) else known.status
    else:
        failure.status = max(failure.status, known.status)
    return failure


def _has_begun(request: Request) -> bool:
    """Return whether the request has started a run, and sent again it would start another."""
    return bool(getattr(request.state, "begun", False))


def _error(error: GaplessError, *, begun: bool) -> Response:
    told = answer_error(error).headers
    headers = {name: told[name] for name in ("retry-after", "www-authenticate") if name in told}
    if begun or isinstance(error, RunFailed | RunWaits):
        headers["x-should-retry"] = "false"  # OpenAI's clients would start, and pay for, another run
    if error.run_id is not None and is_id(error.run_id):  # what a client calls an id may be no header
        headers["x-run-id"] = error.run_id
    code = "model_not_found" if isinstance(error, AgentNotFound) else error.code
    body = error_json(code, error.told, error.status)
    return raw_json_response(body, error.status, headers)
