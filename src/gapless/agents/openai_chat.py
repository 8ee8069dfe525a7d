"""An OpenAI-compatible chat completions service as an agent: OpenAI, vLLM, Ollama, llama.cpp, any gateway.

Source of the format: OpenAI API reference, chat completions. The tools that a service calls are the client's: they are
shown as calls, the run finishes with them pending, and the client's next request brings their results.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import httpx2
import msgspec

from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.conversation import conversation
from gapless.agents.endpoint_http import OPENAI_HOST, Refused, Service, cut, events_of, read_body
from gapless.config import StreamingMode
from gapless.errors import AgentInvalid, InputInvalid, ModelFailed, OutputInvalid, StreamingUnavailable
from gapless.events import (
    AssistantMessage,
    AudioPart,
    ContentPart,
    CustomEvent,
    DataSource,
    DeveloperMessage,
    DocumentPart,
    ImagePart,
    Message,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    SystemMessage,
    TextPart,
    TokenUsage,
    Tool,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
    ToolMessage,
    UrlSource,
    UserMessage,
    VideoPart,
)
from gapless.jsontext import decode_json

__all__ = ["OpenAIChat", "chat_messages"]

MODEL_VARIABLE = "GAPLESS_MODEL_NAME"
_COMPLETIONS = "/chat/completions"


class OpenAIChat(Agent):
    """An agent that is a chat completions service.

    The model: the run's `model_settings["model"]`, the URL's `?model=`, `GAPLESS_MODEL_NAME`, or the only one that the
    service lists. The other `model_settings` go to the service as they are.
    """

    def __init__(self, service: Service, model: str | None = None, *, provider: str | None = None) -> None:
        path = service.url.path.rstrip("/").removesuffix(_COMPLETIONS)
        self._service = service
        self._completions = service.url.copy_with(path=path + _COMPLETIONS)
        self._models = service.url.copy_with(path=path + "/models")
        self._model = model
        self._only_model: str | None = None
        self.name = model or service.host
        self._provider = provider or ("openai" if service.host == OPENAI_HOST else service.host)

    async def aclose(self) -> None:
        await self._service.aclose()

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        """Stream the answer to `ctx.messages`, ending with `gapless.finish`.

        Raises `ModelFailed` when the service refuses or cannot be reached, `InputInvalid`/`InputTooLarge` when it
        refuses the request itself, `AgentFailed` (code `endpoint_cut`) when it broke off, `OutputInvalid` when the
        answer is not the JSON that was asked for.
        """
        stream = ctx.config.streaming_mode is not StreamingMode.NONE
        async with aclosing(self.ask(ctx, await self._request(ctx), stream=stream)) as items:
            async for item in items:
                yield item

    async def ask(self, ctx: RunContext, request: dict[str, Any], *, stream: bool) -> AsyncGenerator[AgentItem, None]:
        """Send one request, as chat completions defines it, and stream what comes back. Raises as `run` does."""
        answer = _Answer(ctx, self._provider, request["model"])
        chunks = self._chunks(ctx, request) if stream else self._in_one_piece(ctx, request)
        # `aclosing`: a run that is left in the middle closes its connection now, not when the garbage is collected.
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if isinstance(chunk, CustomEvent):
                        yield chunk
                        continue
                    for item in answer.take(chunk):
                        yield item
        finally:
            answer.account()
        for item in answer.end("response_format" in request):
            yield item

    async def _request(self, ctx: RunContext) -> dict[str, Any]:
        settings = dict(ctx.config.model_settings)
        settings.pop("stream", None)  # streaming_mode says that
        model = settings.pop("model", None) or self._model or os.environ.get(MODEL_VARIABLE)
        request = settings | {
            "model": model or await self._single_model(ctx.run_id),
            "messages": chat_messages(ctx.messages),
        }
        if ctx.tools:
            request["tools"] = [_tool(tool) for tool in ctx.tools]
        if ctx.output_type not in (None, str) and "response_format" not in request:
            request["response_format"] = _response_format(ctx.output_type)
        return request

    async def _single_model(self, run_id: str) -> str:
        if self._only_model is None:
            async with self._service.request("GET", self._models, None, run_id=run_id) as response:
                body = await self._body(response, run_id)
            try:
                names = [model.id for model in decode_json(body, _Models).data]
            except msgspec.MsgspecError:
                names = []
            if len(names) != 1:
                few = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
                raise AgentInvalid(
                    f"say which model of {self._service.host}: ?model=NAME after the URL, or {MODEL_VARIABLE}"
                    + (f"; it has {few}" if names else ""),
                    run_id=run_id,
                )
            self._only_model = names[0]
        return self._only_model

    async def _chunks(self, ctx: RunContext, request: dict[str, Any]) -> AsyncGenerator[_Chunk | CustomEvent, None]:
        """Yield the answer's chunks, and a notice where it had to be asked for in one piece."""
        streaming = request | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._service.request(
                "POST", self._completions, streaming, run_id=ctx.run_id, accept="text/event-stream"
            ) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip()
                if kind == "text/html":
                    raise ModelFailed(
                        f"{self._service.host} answered a web page: check the URL, it mostly ends in /v1",
                        run_id=ctx.run_id,
                    )
                if kind == "application/json":
                    yield self._cannot_stream(ctx)
                    yield await self._completion(response, ctx.run_id)
                    return
                async with aclosing(self._streamed(response, ctx.run_id)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        except InputInvalid as refusal:
            cause = refusal.__cause__
            if not isinstance(cause, Refused) or cause.parameter != "stream":
                raise
            # It refused to stream and has done nothing yet: asking again costs nothing twice.
            yield self._cannot_stream(ctx)
            yield await self._whole(ctx, request)

    async def _streamed(self, response: httpx2.Response, run_id: str) -> AsyncGenerator[_Chunk, None]:
        host, complete = self._service.host, False
        try:
            async with aclosing(events_of(response)) as events:
                async for data in events:
                    if data == "[DONE]":
                        return
                    chunk = _decode(data, host, run_id)
                    complete = complete or any(choice.finish_reason for choice in chunk.choices or ())
                    yield chunk
            how = "the stream ended without a finish reason"
        except httpx2.HTTPError as error:
            how = type(error).__name__
        if not complete:
            raise cut(host, run_id, how)

    async def _in_one_piece(self, ctx: RunContext, request: dict[str, Any]) -> AsyncGenerator[_Chunk, None]:
        yield await self._whole(ctx, request)

    async def _whole(self, ctx: RunContext, request: dict[str, Any]) -> _Chunk:
        async with self._service.request("POST", self._completions, request, run_id=ctx.run_id) as response:
            return await self._completion(response, ctx.run_id)

    async def _completion(self, response: httpx2.Response, run_id: str) -> _Chunk:
        completion = _decode(await self._body(response, run_id), self._service.host, run_id)
        if not completion.choices:
            raise ModelFailed(f"{self._service.host} sent JSON that is not a chat completion", run_id=run_id)
        return completion

    async def _body(self, response: httpx2.Response, run_id: str) -> bytes:
        try:
            return await read_body(response)
        except httpx2.HTTPError as error:
            raise cut(self._service.host, run_id, type(error).__name__) from error

    def _cannot_stream(self, ctx: RunContext) -> CustomEvent:
        message = f"{self._service.host} cannot stream this answer: it comes in one piece."
        if not ctx.config.fallback:
            raise StreamingUnavailable(f"{message} Allow that with fallback=True.", run_id=ctx.run_id)
        return CustomEvent(name="gapless.notice", value={"code": "streaming_unavailable", "message": message})


# ---------------------------------------------------------------------------------------------------- what comes back


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    """A streamed chunk or a whole completion: they differ in `delta` and `message`."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def _decode(data: str | bytes, host: str, run_id: str) -> _Chunk:
    try:
        chunk = decode_json(data, _Chunk)
    except msgspec.DecodeError as error:
        raise ModelFailed(f"{host} sent what is not a chat completion: {error}", run_id=run_id) from None
    if chunk.error is not None:
        said = chunk.error.get("message") if isinstance(chunk.error, dict) else chunk.error
        raise ModelFailed(f"{host} failed: {str(said)[:500]}", run_id=run_id)
    return chunk


class _Answer:
    """Chunks → what the run records."""

    def __init__(self, ctx: RunContext, provider: str, model: str) -> None:
        self._ctx = ctx
        self._provider = provider
        self._model = model
        self._text: list[str] = []
        self._calls: dict[int, str] = {}
        """Position → id of the call that its deltas belong to now."""
        self._called: dict[str, str] = {}
        """Id → name of every call."""
        self._reasoning: str | None = None
        self._thoughts = 0
        self._finish_reason = "stop"
        self._usage: _Usage | None = None
        """The newest count: a service that sends one with each chunk sends what it has come to."""

    def take(self, chunk: _Chunk) -> Iterator[AgentItem]:
        for choice in chunk.choices or ():
            if choice.index:
                continue  # n > 1: one run, one answer
            if choice.finish_reason:
                self._finish_reason = choice.finish_reason
            delta = choice.delta or choice.message
            if delta is not None:
                yield from self._delta(delta)
        self._usage = chunk.usage or self._usage

    def account(self) -> None:
        """Count the tokens, also those of an answer that was cut short."""
        if self._usage is not None:
            self._ctx.add_usage(_usage(self._usage, self._provider, self._model))

    def _delta(self, delta: _Delta) -> Iterator[AgentItem]:
        thought = delta.reasoning_content or delta.reasoning
        if thought and isinstance(thought, str):
            if self._reasoning is None:
                self._thoughts += 1
                self._reasoning = f"{self._ctx.run_id}-reasoning-{self._thoughts}"
            yield ReasoningMessageContentEvent(message_id=self._reasoning, delta=thought)
        text = delta.content or delta.refusal
        if text:
            yield from self._end_reasoning()
            self._text.append(text)
            yield text
        for call in delta.tool_calls or ():
            yield from self._end_reasoning()
            yield from self._call(call)

    def _call(self, delta: _CallDelta) -> Iterator[AgentItem]:
        id = self._calls.get(delta.index)
        if id is None or (delta.id and delta.id != id):
            id = delta.id or f"{self._ctx.run_id}-call-{len(self._called) + 1}"
            self._calls[delta.index] = id
            self._called[id] = delta.function.name or "unnamed"
            yield ToolCallStartEvent(tool_call_id=id, tool_call_name=self._called[id])
        if delta.function.arguments:
            yield ToolCallArgsEvent(tool_call_id=id, delta=delta.function.arguments)

    def _end_reasoning(self) -> Iterator[AgentItem]:
        if self._reasoning is not None:
            id, self._reasoning = self._reasoning, None
            yield ReasoningMessageEndEvent(message_id=id)
            yield ReasoningEndEvent(message_id=id)

    def end(self, wants_json: bool) -> Iterator[AgentItem]:
        ctx = self._ctx
        yield from self._end_reasoning()
        for id in self._called:
            yield ToolCallEndEvent(tool_call_id=id)
        yield CustomEvent(name="gapless.finish", value={"reason": self._finish_reason})
        if wants_json and not self._called:
            ctx.result = _parsed("".join(self._text), self._finish_reason, ctx.run_id)
        if self._called:
            offered = {tool.name for tool in ctx.tools}
            pending = [id for id, name in self._called.items() if name in offered]
            outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=pending)
            yield RunFinishedEvent(thread_id=ctx.session_id, run_id=ctx.run_id, outcome=outcome)


def _usage(usage: _Usage, provider: str, model: str) -> TokenUsage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return TokenUsage(
        provider=provider,
        model=model,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_input_tokens=prompt.cached_tokens if prompt is not None else None,
        reasoning_tokens=completion.reasoning_tokens if completion is not None else None,
    )


def _parsed(answer: str, finish_reason: str, run_id: str) -> Any:
    try:
        return decode_json(answer)
    except msgspec.DecodeError:
        why = "it was cut; raise max_tokens or ask for less" if finish_reason == "length" else "the model wrote no JSON"
        raise OutputInvalid(f"the answer is not the JSON that was asked for: {why}", run_id=run_id) from None


# ------------------------------------------------------------------------------------------------------ what is asked


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a history as chat completions takes it."""
    return [_chat_message(message) for message in conversation(messages)]


def _chat_message(message: Message) -> dict[str, Any]:
    match message:
        case AssistantMessage(content=content, tool_calls=calls):
            shown: dict[str, Any] = {"role": "assistant", "content": content}
            if calls:
                shown["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": call.function.arguments or "{}"},
                    }
                    for call in calls
                ]
            return shown
        case ToolMessage(content=content, tool_call_id=id):
            return {"role": "tool", "tool_call_id": id, "content": _content(content)}
        case UserMessage(content=content):
            return {"role": "user", "content": _content(content)}
        case SystemMessage(content=content) | DeveloperMessage(content=content):
            return {"role": "system", "content": content}  # few services know OpenAI's own "developer"
        case _:
            raise AssertionError("a conversation has no other messages")


def _content(content: str | list[ContentPart]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: ContentPart) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ImagePart(source=UrlSource(value=url)):
            return {"type": "image_url", "image_url": {"url": url}}
        case ImagePart(source=DataSource(value=data, mime_type=mime_type)):
            return {"type": "image_url", "image_url": {"url": f"data:{mime_type};base64,{data}"}}
        case AudioPart(source=DataSource(value=data, mime_type=mime_type)):
            format = mime_type.partition("/")[2].replace("mpeg", "mp3").removeprefix("x-")
            return {"type": "input_audio", "input_audio": {"data": data, "format": format}}
        case DocumentPart(source=DataSource(value=data, mime_type=mime_type)):
            file = {"filename": part.id or "document", "file_data": f"data:{mime_type};base64,{data}"}
            return {"type": "file", "file": file}
        case ImagePart() | AudioPart() | DocumentPart() | VideoPart():
            kind = type(part).__name__.removesuffix("Part").lower()
            source = type(part.source).__name__.removesuffix("Source").lower()
            raise InputInvalid(f"chat completions has no form for {kind} by {source}: send its bytes, or leave it out")


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _response_format(output_type: Any) -> dict[str, Any]:
    """Return the type that was asked for, as a JSON Schema."""
    of_pydantic = getattr(output_type, "model_json_schema", None)
    if of_pydantic is not None:
        schema = of_pydantic()
    else:
        (root,), components = msgspec.json.schema_components([output_type], ref_template="#/$defs/{name}")
        name = root.get("$ref", "").rpartition("/")[2]  # services want the object itself at the root
        schema = {**components.get(name, root), **({"$defs": components} if components else {})}
    name = getattr(output_type, "__name__", "output")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
