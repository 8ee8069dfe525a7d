"""OpenAI's API, for its clients and everyone who speaks like them. A registered agent is a model name.

A request that is sent again with the same `Idempotency-Key` or `X-Run-Id` comes back to its run; with `Last-Event-ID`
its stream goes on from there, as it does at the URL in `Content-Location`.

These protocols have no word for a run that waits for a person: it is answered at `/runs/{id}/input`. A stream stays
open until then. A request without one is not left waiting for so long: a response comes back in progress, to be
retrieved later, and a chat completion, which has no such state, is refused with what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gapless.config import RunConfig
from gapless.errors import (
    AgentNotFound,
    CursorInvalid,
    GaplessError,
    InputInvalid,
    RunFailed,
    RunNotFound,
    RunWaits,
    error_for_code,
)
from gapless.events import Message, SystemMessage, UserMessage
from gapless.http.answers import (
    STARTING,
    answer,
    answer_error,
    body_docs,
    chosen_run_id,
    parameter_docs,
    read_body,
    whole_number,
)
from gapless.http.auth import Access
from gapless.http.stream import Streams, check_start, cursor_of, follow, settled
from gapless.protocols.openai.chat_wire import OPTIONS, ChatEncoder, Options, error_json, options_of
from gapless.protocols.openai.requests import (
    Chat,
    Responses,
    chat_messages,
    chat_settings,
    response_messages,
    response_settings,
    tools_of,
)
from gapless.protocols.openai.responses_wire import ID_PREFIX, ResponsesEncoder
from gapless.records import RunRecord, RunStatus
from gapless.runs.run import Run
from gapless.runs.runner import Runner
from gapless.sse import DONE
from gapless.wire import Cursor, Encoder

__all__ = ["routes"]

CANCEL_WAIT_S = 6.0
"""How long the answer to a cancel waits for the run's end."""

_decode_messages = msgspec.json.Decoder(list[Message]).decode


_DOCS = parameter_docs(*STARTING, "Last-Event-ID", "after", "merge")


class _Route(APIRoute):
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
                return Response(body, error.status_code, media_type="application/json")

        return handle_or_say


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router. Every route that names a run authorises its caller for it."""
    router = APIRouter(prefix="/v1", tags=["openai"], route_class=_Route)

    # -- chat completions -------------------------------------------------------------------------------------------

    @router.post("/chat/completions", openapi_extra=body_docs(Chat) | _DOCS)
    async def complete_chat(request: Request) -> Response:
        """A chat completion, streamed with `"stream": true`. The conversation is the request's own `messages`. Calls
        of the client's `tools` come back; the agent's own tools run here."""
        user = await access.user(request)
        raw, body = await _body(request, Chat)
        if body.n not in (None, 1):
            raise InputInvalid("n: one run gives one answer")
        if body.logprobs:
            raise InputInvalid("logprobs: no agent tells how likely its words were; ask without them")
        message, history = chat_messages(body)
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        options = {"tools": [tool.function.name for tool in body.tools or ()], "include_usage": include_usage}
        message.metadata = {OPTIONS: options}
        run = await _start(request, user, body, message, config=_config(chat_settings(body, raw)), messages=history)
        if body.stream:
            return _follow(request, run.started, ChatEncoder, cursor_of(request, run.id))
        record = await _settled(request, run)
        if record is None:
            return _gone()
        if record.status is RunStatus.WAITING:
            raise RunWaits(
                f"run {run.id} waits for a person: answer it at /runs/{run.id}/input, then send this request again, "
                f"with the header X-Run-Id: {run.id}",
                run_id=run.id,
            )
        return answer(_completion(record, await _merged(record)), headers=_names(record))

    # -- responses --------------------------------------------------------------------------------------------------

    @router.post("/responses", openapi_extra=body_docs(Responses) | _DOCS)
    async def create_response(request: Request) -> Response:
        """A response: streamed with `"stream": true`, at once and still in progress with `"background": true`. It goes
        on from `previous_response_id`, or in the session that `conversation` names."""
        user = await access.user(request)
        raw, body = await _body(request, Responses)
        message, before = response_messages(body)
        past = await _past(request, body)
        options: dict[str, Any] = {"tools": [tool.name for tool in body.tools or ()]}
        if body.conversation is None:
            options["previous"] = past.previous
        if before:
            options["input"] = msgspec.to_builtins(before)
        if body.background:
            options["background"] = True
        if body.metadata:
            options["metadata"] = body.metadata
        message.metadata = {OPTIONS: options}
        instructions = [SystemMessage(id="instructions", content=body.instructions)] if body.instructions else []
        history = [*instructions, *past.messages(), *before] if before or instructions else past.history()
        run = await _start(
            request,
            user,
            body,
            message,
            session_id=past.session_id,
            config=_config(response_settings(body, raw)),
            messages=history,
            fingerprint=[body.previous_response_id, body.instructions, before, body.metadata],
        )
        if body.stream:
            return _follow(request, run.started, ResponsesEncoder, cursor_of(request, run.id))
        if body.background:
            return await _response(run.started)
        record = await _settled(request, run)
        return _gone() if record is None else await _response(record)

    @router.get(
        "/responses/{response_id}",
        openapi_extra=parameter_docs("stream", "starting_after", "Last-Event-ID", "after", "merge"),
    )
    async def get_response(response_id: str, request: Request) -> Response:
        """The response as it stands; with `?stream=true` its events, from the start or after `?starting_after=`."""
        record = await _record(request, "read", response_id)
        params = request.query_params
        if params.get("stream", "false").lower() != "true":
            return await _response(record)
        cursor = cursor_of(request, record.id)
        if "starting_after" in params:
            cursor = await _after_number(record, whole_number(request, "starting_after", 0))
            record = await runner.get_run(record.id)  # it may have grown meanwhile
        return _follow(request, record, ResponsesEncoder, cursor)

    @router.post("/responses/{response_id}/cancel")
    async def cancel_response(response_id: str, request: Request) -> Response:
        """End a response as cancelled. Idempotent."""
        record = await _record(request, "cancel", response_id)
        await runner.cancel(record.id)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for((await runner.attach(record.id)).wait(), CANCEL_WAIT_S)
        return await _response(await runner.get_run(record.id))

    # -- models -----------------------------------------------------------------------------------------------------

    @router.get("/models")
    async def list_models(request: Request) -> Response:
        """The registered agents."""
        await access.user(request)
        return answer({"object": "list", "data": [_model(name) for name in runner.agents]})

    @router.get("/models/{model:path}")
    async def get_model(model: str, request: Request) -> Response:
        """One registered agent."""
        await access.user(request)
        if model not in runner.agents:
            raise AgentNotFound(f"the model {model!r} does not exist")
        return answer(_model(model))

    # -- their parts ------------------------------------------------------------------------------------------------

    async def _body(request: Request, type: Any) -> tuple[dict[str, Any], Any]:
        raw = await read_body(request, dict[str, Any], runner.limits.body_bytes_max)
        try:
            return raw, msgspec.convert(raw, type)
        except msgspec.ValidationError as error:
            raise InputInvalid(f"the body does not fit: {error}") from None

    async def _start(request: Request, user: str, body: Chat | Responses, message: UserMessage, **options: Any) -> Run:
        run_id = chosen_run_id(request, user)
        if body.stream:
            await check_start(runner, run_id, cursor_of(request, run_id))
        tools = tools_of(body.tools) or None
        run = await runner.start(message, agent=body.model, run_id=run_id, user_id=user, tools=tools, **options)
        request.state.begun = run_id is None
        return run

    def _config(settings: dict[str, Any]) -> RunConfig | None:
        return runner.config.narrowed({"model_settings": settings}, runner.client_settings) if settings else None

    async def _settled(request: Request, run: Run) -> RunRecord | None:
        """The run's record once it has ended or waits for a person; None when the client has left before. Raises what
        the run failed with."""
        record = await settled(runner, request, run.started)
        if record is not None and record.status is RunStatus.FAILED and record.error is not None:
            raise _failure(run.id, **record.error)
        return record

    async def _merged(record: RunRecord) -> list[bytes]:
        """The run's events with adjacent deltas merged."""
        return [event for _, event in await runner.readers.merged(record.id)]

    async def _response(record: RunRecord) -> Response:
        encoder = ResponsesEncoder(record)
        encoder.skip(await _merged(record))  # what the response amounts to does not depend on how it was divided
        return answer(encoder.response(), headers=_names(record))

    def _follow(request: Request, record: RunRecord, encoder: type[Encoder], cursor: Cursor) -> Response:
        location = f"{request.scope.get('root_path', '')}/runs/{record.id}/events?wire={encoder.name}"
        merge = request.query_params.get("merge", "1") != "0"
        on_error = functools.partial(_error, begun=_has_begun(request))
        return follow(runner, streams, record, encoder, cursor, location=location, merge=merge, on_error=on_error)

    async def _record(request: Request, action: str, response_id: str) -> RunRecord:
        try:
            return await access.find(request, action, runner.get_run, response_id.removeprefix(ID_PREFIX))
        except RunNotFound:
            raise RunNotFound(f"no response {response_id}") from None

    async def _after_number(record: RunRecord, number: int) -> Cursor:
        encoder = ResponsesEncoder(record)
        async for events in runner.readers.pages(record.id):
            cursor = encoder.locate(events, number)
            if cursor is not None:
                return cursor
        raise CursorInvalid(f"response {ID_PREFIX}{record.id} has no event {number} yet", run_id=record.id)

    async def _past(request: Request, body: Responses) -> _Past:
        """What the request goes on from. Raises `RunNotFound`, `SessionNotFound` for what the caller may not read."""
        if body.conversation is not None:
            if body.previous_response_id is not None:
                raise InputInvalid("say either conversation or previous_response_id")
            session_id = body.conversation if isinstance(body.conversation, str) else body.conversation.id
            session = await runner.find_session(session_id)
            if session is not None:
                await access.check(request, "read", session)
            return _Past(session_id, None, list((await _turns(session_id)).values()), True)
        if body.previous_response_id is None:
            return _Past(None, None, [], True)
        record = await _record(request, "read", body.previous_response_id)
        if not record.status.ended:
            raise InputInvalid(f"response {body.previous_response_id} has not ended yet", run_id=record.id)
        turns = await _turns(record.session_id)
        line = _line(turns, record.id)
        return _Past(record.session_id, record.id, [turns[id] for id in line], len(line) == len(turns))

    async def _turns(session_id: str) -> dict[str, list[Message]]:
        return {turn.run_id: _decode_messages(turn.messages) for turn in await runner.turns(session_id)}

    return router


class _Past(NamedTuple):
    """What a response goes on from."""

    session_id: str | None
    previous: str | None
    """Id of the run before."""
    turns: list[list[Message]]
    whole: bool
    """`turns` are all that the session has."""

    def history(self) -> list[Message] | None:
        """The messages so far; None where they are the session's own, which has them in the agent's form too."""
        if self.whole and not any("input" in _options(turn) for turn in self.turns):
            return None
        return self.messages()

    def messages(self) -> list[Message]:
        return [message for turn in self.turns for message in _with_input(turn)]


def _line(turns: dict[str, list[Message]], run_id: str) -> list[str]:
    """The runs up to that one, along its own line where responses went on from one several times."""
    line: dict[str, None] = {}  # each run once, whatever they say of each other
    at: str | None = run_id
    while at in turns and at not in line:
        line[at] = None
        options = _options(turns[at])
        if "previous" not in options:  # not a response: it goes on from what came before it in the session
            earlier = list(turns)
            line |= dict.fromkeys(reversed(earlier[: earlier.index(at)]))
            break
        at = options["previous"]
    return list(reversed(line))


def _options(turn: list[Message]) -> Options:
    return options_of(turn[0]) if turn else {}


def _with_input(turn: list[Message]) -> list[Message]:
    """A turn with the messages that came with its request, such as results of the client's tools."""
    if not turn:  # its run ended before it began
        return []
    user, *rest = turn
    return [*_options(turn).get("input", []), *([user] if user.content else []), *rest]


def _completion(record: RunRecord, events: Iterable[bytes]) -> dict[str, Any]:
    """The chunks of a run that has ended, put together as a client would."""
    encoder = ChatEncoder(record)
    encoder.include_usage = True
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for data in (data for event in events for data in encoder.frames(event) if data is not DONE):
        chunk = msgspec.json.decode(data)
        if "error" in chunk:
            raise RunFailed(chunk["error"]["message"], run_id=record.id, code=chunk["error"]["code"])
        whole |= chunk
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = (message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls", ()):
                index = call.pop("index")
                if index in calls:
                    calls[index]["function"]["arguments"] += call["function"]["arguments"]
                else:
                    calls[index] = call
            whole["finish_reason"] = choice["finish_reason"]
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": whole.pop("finish_reason")}
    return whole | {"object": "chat.completion", "choices": [choice]}


def _failure(run_id: str, code: str, message: str) -> RunFailed:
    """What the run failed with. An agent chooses its codes: none of them is about this request."""
    failure = RunFailed(message, run_id=run_id, code=code)
    failure.status = max(failure.status, error_for_code(code, message).status)
    return failure


def _has_begun(request: Request) -> bool:
    """The request has started a run, and sent again it would start another."""
    return bool(getattr(request.state, "begun", False))


def _error(error: GaplessError, *, begun: bool) -> Response:
    told = answer_error(error).headers
    headers = {name: told[name] for name in ("retry-after", "www-authenticate") if name in told}
    if begun or isinstance(error, RunFailed | RunWaits):
        headers["x-should-retry"] = "false"  # OpenAI's clients would start, and pay for, another run
    if error.run_id is not None:
        headers["x-run-id"] = error.run_id
    code = "model_not_found" if isinstance(error, AgentNotFound) else error.code
    body = error_json(code, error.told, error.status)
    return Response(body, error.status, headers, media_type="application/json")


def _names(record: RunRecord) -> dict[str, str]:
    return {"x-run-id": record.id}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gapless"}


def _gone() -> Response:
    return Response(status_code=499)  # nobody reads it: the client has left
