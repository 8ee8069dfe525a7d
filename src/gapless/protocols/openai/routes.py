"""OpenAI's API, for its clients and everyone who speaks like them. A registered agent is a model name.

A request that is sent again with the same `Idempotency-Key` or `X-Run-Id` comes back to its run; with `Last-Event-ID`
its stream goes on from there, as it does at the URL in `Content-Location`.

These protocols have no word for a run that waits for a person: it is answered at `/runs/{id}/input`. A stream stays
open until then. A request without one is not left waiting for so long: a response comes back in progress, to be
retrieved later, and a chat completion, which has no such state, is refused with what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import AgentNotFound, InputInvalid, RunFailed, RunWaits
from gapless.events import UserMessage
from gapless.http.answers import json_response
from gapless.http.openapi import body_docs
from gapless.protocols.openai.api import START_DOCS, ErrorRoute, OpenAIAPI, gone, names
from gapless.protocols.openai.chat_wire import OPTIONS, ChatEncoder
from gapless.protocols.openai.completions_wire import CompletionEncoder
from gapless.protocols.openai.requests import Chat, Completion, chat_messages, chat_settings, check_results
from gapless.protocols.openai.responses import ResponsesRoutes
from gapless.protocols.starting import StartRequest
from gapless.records import RunRecord, RunStatus
from gapless.sse import DONE
from gapless.wire import without_void

__all__ = ["OpenAIRoutes"]


class OpenAIRoutes(OpenAIAPI):
    """`/v1/…`: chat completions and models, and the responses."""

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["openai"], route_class=ErrorRoute)
        router.post("/chat/completions", openapi_extra=body_docs(Chat) | START_DOCS)(self.complete_chat)
        router.post("/completions", openapi_extra=body_docs(Completion) | START_DOCS)(self.complete_text)
        ResponsesRoutes(self.runner, self.streams, self.access).add_to(router)
        router.get("/models")(self.list_models)
        router.get("/models/{model:path}")(self.get_model)
        return router

    async def complete_chat(self, request: Request) -> Response:
        """Create a chat completion, streamed with `"stream": true`. The conversation is the request's own `messages`.
        Calls of the client's `tools` come back; the agent's own tools run here.
        """
        user, raw, body = await self.read_as(request, Chat)
        if body.n not in (None, 1):
            raise InputInvalid("n: one run gives one answer")
        if body.logprobs:
            raise InputInvalid("logprobs: no agent tells how likely its words were; ask without them")
        message, history = chat_messages(body)
        if not message.content:
            check_results(history)
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        options = {"tools": [tool.function.name for tool in body.tools or ()], "include_usage": include_usage}
        message.metadata = {OPTIONS: options}
        asked = StartRequest(message, config=self.config(chat_settings(body, raw)), history=history)
        begun = await self.begin(request, user, body, asked)
        if body.stream:
            return self.stream(request, begun, ChatEncoder)
        record = await self._settled(request, begun)
        if record is None:
            return gone()
        events = without_void(await self.runner.readers.merged(record.id))
        return json_response(_completion(record, [event for _, event in events]), headers=names(record))

    async def _settled(self, request: Request, begun: RunRecord) -> RunRecord | None:
        """Return the record of the run that has ended, None for a client that has left. Raises `RunWaits`."""
        record = await self.settled(request, begun)
        if record is not None and record.status is RunStatus.WAITING:
            raise RunWaits(
                f"run {record.id} waits for a person: answer it at /runs/{record.id}/input, then send this request "
                f"again, with the header X-Run-Id: {record.id}",
                run_id=record.id,
            )
        return record

    async def complete_text(self, request: Request) -> Response:
        """Answer a prompt as the older API does, streamed with `"stream": true`: the answer's text alone."""
        user, raw, body = await self.read_as(request, Completion)
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        message = UserMessage(id="", content=body.said(), metadata={OPTIONS: {"include_usage": include_usage}})
        asked = StartRequest(message, config=self.config(chat_settings(body, raw)))
        begun = await self.begin(request, user, body, asked)
        if body.stream:
            return self.stream(request, begun, CompletionEncoder)
        record = await self._settled(request, begun)
        if record is None:
            return gone()
        events = without_void(await self.runner.readers.merged(record.id))
        chat = _completion(record, [event for _, event in events])
        (choice,) = chat["choices"]
        text = {"index": 0, "text": choice["message"]["content"] or "", "logprobs": None}
        text["finish_reason"] = "stop" if choice["finish_reason"] == "tool_calls" else choice["finish_reason"]
        whole = chat | {"id": f"cmpl-{record.id}", "object": "text_completion", "choices": [text]}
        return json_response(whole, headers=names(record))

    async def list_models(self, request: Request) -> Response:
        """List the registered agents."""
        await self.access.user(request)
        return json_response(
            {"object": "list", "data": [_listed(name, agent.live) for name, agent in self.runner.agents.items()]}
        )

    async def get_model(self, model: str, request: Request) -> Response:
        """Show one registered agent."""
        await self.access.user(request)
        if model not in self.runner.agents:
            raise AgentNotFound(f"the model {model!r} does not exist")
        return json_response(_model(model))


def _completion(record: RunRecord, events: Iterable[bytes]) -> dict[str, Any]:
    """Return the chunks of a run that has ended, put together as a client would."""
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
            for details in delta.get("reasoning_details", ()):
                message.setdefault("reasoning_details", []).append(details)
            for call in delta.get("tool_calls", ()):
                known = calls.setdefault(call.pop("index"), call)
                if known is not call and "function" in call:
                    known["function"]["arguments"] += call["function"]["arguments"]
                known |= {key: call[key] for key in ("extra_content",) if key in call}
            whole["finish_reason"] = choice["finish_reason"]
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": whole.pop("finish_reason")}
    return whole | {"object": "chat.completion", "choices": [choice]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gapless"}


def _listed(name: str, live: bool) -> dict[str, Any]:
    """A model, and whether it may be one to talk to at `/live`, which is not OpenAI's."""
    return _model(name) | ({"live": True} if live else {})
