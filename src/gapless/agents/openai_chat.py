"""An OpenAI-compatible chat completions service as an agent: OpenAI, vLLM, Ollama, llama.cpp, any gateway.

Source of the format: OpenAI API reference, chat completions. The tools that a service calls are the client's: they are
shown as calls, the run finishes with them pending, and the client's next request brings their results.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import httpx2
import msgspec

from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.call_names import CallNames, call_names
from gapless.agents.client_tools import as_function, left_to_client
from gapless.agents.conversation import conversation, with_a_beginning
from gapless.agents.endpoint_http import OPENAI_HOST, Refused, Service, cut, events_of, read_body
from gapless.agents.openai_chunks import (
    Calls,
    Chunk,
    Delta,
    decode_chunk,
    failure_of,
    finish_of,
    pictures_of,
    texts_of,
    usage_of,
)
from gapless.agents.writing import Said, notice
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
    SystemMessage,
    TextPart,
    TokenUsage,
    ToolMessage,
    UrlSource,
    UserMessage,
    VideoPart,
    text_of,
)
from gapless.jsontext import decode_json, without_surrogates

__all__ = ["OpenAIChat", "chat_messages"]

MODEL_VARIABLE = "GAPLESS_MODEL_NAME"
END_WAIT_S = 3.0
"""How long each further event may take once the finish reason has come: the count of tokens, and [DONE], which some
services never send, though they keep the connection."""
_COMPLETIONS = "/chat/completions"
_PROVIDERS = {"api.anthropic.com": "anthropic", "api.mistral.ai": "mistral"}
"""By host: whose rules go beyond OpenAI's."""


class OpenAIChat(Agent):
    """An agent that is a chat completions service.

    The model: the run's `model_settings["model"]`, the URL's `?model=`, `GAPLESS_MODEL_NAME`, or the only one that the
    service lists. The other `model_settings` go to the service as they are.
    """

    continues = "anew"

    def __init__(self, service: Service, model: str | None = None, *, provider: str | None = None) -> None:
        path = service.url.path.rstrip("/").removesuffix(_COMPLETIONS)
        self._service = service
        self._completions = service.url.copy_with(path=path + _COMPLETIONS)
        self._models = service.url.copy_with(path=path + "/models")
        self._model = model
        self._only_model: str | None = None
        self.name = model or service.host
        self._provider = provider or ("openai" if service.host == OPENAI_HOST else service.host)
        self._names = call_names([_PROVIDERS.get(service.url.host, "openai")])

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
        answer = _Answer(ctx, self._service.host, self._provider, request["model"])
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
            "messages": chat_messages(ctx.messages, self._names),
        }
        if ctx.tools:
            request["tools"] = [as_function(tool) for tool in ctx.tools]
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

    async def _chunks(self, ctx: RunContext, request: dict[str, Any]) -> AsyncGenerator[Chunk | CustomEvent, None]:
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

    async def _streamed(self, response: httpx2.Response, run_id: str) -> AsyncGenerator[Chunk, None]:
        host, complete = self._service.host, False
        try:
            async with aclosing(events_of(response)) as events:
                while (data := await (_soon(events) if complete else anext(events, None))) is not None:
                    if data.startswith("[DONE]"):
                        return
                    chunk = decode_chunk(data, host, run_id)
                    complete = complete or any(choice and finish_of(choice) for choice in chunk.choices or ())
                    yield chunk
            how = "the stream ended without a finish reason"
        except httpx2.HTTPError as error:
            how = type(error).__name__
        if not complete:
            raise cut(host, run_id, how)

    async def _in_one_piece(self, ctx: RunContext, request: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        yield await self._whole(ctx, request)

    async def _whole(self, ctx: RunContext, request: dict[str, Any]) -> Chunk:
        async with self._service.request("POST", self._completions, request, run_id=ctx.run_id) as response:
            return await self._completion(response, ctx.run_id)

    async def _completion(self, response: httpx2.Response, run_id: str) -> Chunk:
        completion = decode_chunk(await self._body(response, run_id), self._service.host, run_id)
        if not completion.choices and failure_of(completion) is None:
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
        return notice("streaming_unavailable", message)


async def _soon(events: AsyncGenerator[str, None]) -> str | None:
    """Return the next event of an answer that has its finish reason; None where there is none, or none in time."""
    try:
        async with asyncio.timeout(END_WAIT_S):
            return await anext(events, None)
    except TimeoutError:
        return None


# ---------------------------------------------------------------------------------------------------- what comes back


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Answer:
    """Chunks → what the run records."""

    def __init__(self, ctx: RunContext, host: str, provider: str, model: str) -> None:
        self._ctx = ctx
        self._host = host
        self._provider = provider
        self._model = model
        self._text: list[str] = []
        self._said = Said("", ctx.new_id)
        """What is thought; text goes by it, as it is."""
        taken = {call.id for m in ctx.messages if isinstance(m, AssistantMessage) for call in m.tool_calls or ()}
        self._calls = Calls(ctx.run_id, taken)
        self._finish_reason: str | None = None
        self._chosen = self._streamed = False
        """Whether a choice has come, and in deltas."""
        self._usage: TokenUsage | None = None
        """The newest count: a service that sends one with each chunk sends what it has come to."""

    def take(self, chunk: Chunk) -> Iterator[AgentItem]:
        """Take a chunk. Raises `ModelFailed` when it says that the answer has failed."""
        self._usage = usage_of(chunk, self._provider, self._model) or self._usage
        choice = chunk.choice
        if choice is not None:
            self._chosen = True
            self._finish_reason = finish_of(choice) or self._finish_reason
            self._streamed = self._streamed or choice.delta is not None
            # Some services end a stream with the whole message, which has come in deltas already.
            delta = choice.delta or (None if self._streamed else choice.message)
            if delta is not None:
                yield from self._delta(delta)
        failure = failure_of(chunk)
        if failure is not None:
            raise ModelFailed(f"{self._host} failed: {failure}", run_id=self._ctx.run_id)

    def account(self) -> None:
        """Count the tokens, also those of an answer that was cut short."""
        if self._usage is not None:
            self._ctx.add_usage(self._usage)

    def _delta(self, delta: Delta) -> Iterator[AgentItem]:
        thought, text = texts_of(delta)
        yield from self._said.reasoning(thought)
        if text:
            yield from self._said.end_reasoning()
            self._text.append(text)
            yield text
        for url in pictures_of(delta):
            yield from self._said.file("image/*", url=url)
        for event in self._calls.take(delta):
            yield from self._said.end_reasoning()
            yield event

    def end(self, wants_json: bool) -> Iterator[AgentItem]:
        """End the answer. Raises `ModelFailed` where it is none or broke off in a call, `OutputInvalid`."""
        ctx = self._ctx
        yield from self._said.end_reasoning()
        yield from self._calls.end()
        if not self._chosen:
            raise ModelFailed(f"{self._host} ended its stream without an answer", run_id=ctx.run_id)
        reason = self._finish_reason or "stop"
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        yield CustomEvent(name="gapless.finish", value={"reason": reason})
        cut = _CUT.get(reason)
        if cut is not None:
            yield notice(cut.code, f"The answer was cut: {cut.why}.")
            name = self._calls.cut()
            if name is not None:
                # Nobody is to execute half a call; the next turn is not told of it.
                raise ModelFailed(f"{self._host} broke off in its call of {name}: {cut.why}", run_id=ctx.run_id)
        if wants_json and not self._calls:
            ctx.result = _parsed(without_surrogates("".join(self._text)), reason, ctx.run_id)
        if self._calls:
            offered = {tool.name for tool in ctx.tools}
            yield left_to_client(ctx, [id for id, name in self._calls.names().items() if name in offered])


class _Cut(NamedTuple):
    """What a person is told of an answer that ended before its end."""

    code: str
    why: str


_CUT = {
    "length": _Cut("answer_cut", "it reached max_tokens or the end of the model's window"),
    "content_filter": _Cut("answer_filtered", "the service's content filter stopped it"),
}


def _parsed(answer: str, finish_reason: str, run_id: str) -> Any:
    try:
        return decode_json(answer)
    except msgspec.DecodeError:
        why = "it was cut; raise max_tokens or ask for less" if finish_reason == "length" else "the model wrote no JSON"
        raise OutputInvalid(f"the answer is not the JSON that was asked for: {why}", run_id=run_id) from None


# ------------------------------------------------------------------------------------------------------ what is asked


def chat_messages(messages: Sequence[Message], names: CallNames | None = None) -> list[dict[str, Any]]:
    """Return a history as chat completions takes it, its calls as `names` has them."""
    names = names or call_names(["openai"])
    told: list[dict[str, Any]] = []
    media: list[ContentPart] = []
    for message in with_a_beginning(names.messages(conversation(messages))):
        if media and not isinstance(message, ToolMessage):
            told.append({"role": "user", "content": _content(media)})
            media = []
        told.append(_chat_message(message))
        if isinstance(message, ToolMessage) and isinstance(message.content, list):
            media += [part for part in message.content if not isinstance(part, TextPart)]
    if media:
        told.append({"role": "user", "content": _content(media)})
    return told


def _chat_message(message: Message) -> dict[str, Any]:
    match message:
        case AssistantMessage(content=content, tool_calls=calls):
            shown: dict[str, Any] = {"role": "assistant", "content": content}
            if calls:
                shown["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": call.function.arguments.strip() or "{}"},
                    }
                    for call in calls
                ]
            return shown
        case ToolMessage(content=content, tool_call_id=id):
            # The API has no media in a tool's result: they follow as the user's.
            return {"role": "tool", "tool_call_id": id, "content": text_of(content) or message.error or ""}
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
