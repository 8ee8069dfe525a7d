"""A scripted model for real Google ADK agents."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection, RealtimeInput
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import PrivateAttr

from gapless.testing.script import Chunk, Output, Reasoning, Text, ToolCall, pieces, response_at, wait_or_raise

__all__ = ["ADKModel"]

REQUESTS_KEPT = 100
"""How many of the latest requests are kept to look at."""
OUTPUT_TOOL = "set_model_response"
"""By which ADK takes the output of an agent that has tools as well."""
OTHERS_PREFIX = "For context:"
"""How ADK begins what other agents said, told as the user's."""
AUDIO = "audio/pcm;rate=24000"
"""What a live model says that is asked for sound: the UTF-8 of its text."""


class ADKModel(BaseLlm):
    """Says its chunks, streamed, in one piece or live, whichever way it is asked; see `gapless.testing.adk_model`."""

    model: str = "scripted"
    running: int = 0
    """Requests that are being answered and live connections: 0 once a cancel has reached the model."""
    hears_bytes: int | None = None
    """Live sound is answered after so many bytes, or at `activity_end`."""
    _chunks: tuple[Chunk, ...] = PrivateAttr()
    _requests: collections.deque[list[types.Content]] = PrivateAttr()

    def __init__(self, chunks: Sequence[Chunk], *, hears_bytes: int | None = None) -> None:
        super().__init__(model="scripted")
        self.hears_bytes = hears_bytes
        self._chunks = tuple(chunks)
        self._requests = collections.deque(maxlen=REQUESTS_KEPT)

    @property
    def requests(self) -> list[list[types.Content]]:
        """Returns what the model was given, the latest last."""
        return list(self._requests)

    def response(self, contents: Sequence[types.Content]) -> list[Chunk]:
        """Return what it says to them."""
        self._requests.append([content.model_copy(deep=True) for content in contents])
        turn, asked = -1, 0
        for content in contents:
            texts = [part.text for part in content.parts or [] if part.text]
            if content.role == "model":
                asked += 1
            elif texts and not texts[0].startswith(OTHERS_PREFIX):
                turn, asked = turn + 1, 0
        return response_at(self._chunks, max(turn, 0), asked)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        whole: list[types.Part] = []
        self.running += 1
        try:
            for chunk in self.response(llm_request.contents):
                if await wait_or_raise(chunk):
                    continue
                for part in _parts(chunk, llm_request):
                    if stream:
                        content = types.Content(role="model", parts=[part.model_copy()])
                        yield LlmResponse(content=content, partial=True)
                    _join(whole, part)
        finally:
            self.running -= 1
        yield LlmResponse(
            content=types.Content(role="model", parts=whole),
            partial=False,
            finish_reason=types.FinishReason.STOP,
            usage_metadata=_usage(llm_request.contents, whole),
            model_version="scripted",
        )

    @contextlib.asynccontextmanager
    async def connect(self, llm_request: LlmRequest) -> AsyncIterator[BaseLlmConnection]:
        """Open a live connection. Its sound is text in UTF-8, heard and said, with a transcription of either."""
        connection = _Connection(self, llm_request)
        self.running += 1
        try:
            yield connection
        finally:
            self.running -= 1
            await connection.close()


class _Connection(BaseLlmConnection):
    """Answers as Gemini's does: pieces, then the whole, then `turn_complete`. Whatever is said to it while it speaks
    interrupts it."""

    def __init__(self, model: ADKModel, request: LlmRequest) -> None:
        self._model = model
        self._request = request
        self._aloud = types.Modality.AUDIO in (request.live_connect_config.response_modalities or ())
        self._contents: list[types.Content] = []
        self._heard = bytearray()
        self._said: list[types.Part] = []
        self._speaking: asyncio.Task[None] | None = None
        self._out: asyncio.Queue[LlmResponse | Exception | None] = asyncio.Queue()

    async def send_history(self, history: list[types.Content]) -> None:
        self._contents = list(history)
        if history and history[-1].role == "user":
            self._answer()

    async def send_content(self, content: types.Content) -> None:
        if not any(part.function_response for part in content.parts or []):
            await self._interrupt()
        self._contents.append(content)
        self._answer()

    async def send_realtime(self, blob: RealtimeInput) -> None:
        if isinstance(blob, types.ActivityEnd):
            self._listened()
        elif isinstance(blob, types.ActivityStart):
            await self._interrupt()
        elif isinstance(blob, types.Blob) and blob.data:
            await self._interrupt()
            self._heard += blob.data
            self._put(input_transcription=_words(blob.data), partial=True)
            if self._model.hears_bytes is not None and len(self._heard) >= self._model.hears_bytes:
                self._listened()

    async def receive(self) -> AsyncGenerator[LlmResponse, None]:
        while (response := await self._out.get()) is not None:
            if isinstance(response, Exception):
                raise response
            yield response
        self._out.put_nowait(None)  # it is asked again

    async def close(self) -> None:
        if self._speaking is not None:
            self._speaking.cancel()
        while not self._out.empty():
            self._out.get_nowait()
        self._out.put_nowait(None)

    def _listened(self) -> None:
        if not self._heard:
            return
        words = _words(self._heard, finished=True)
        self._heard.clear()
        self._put(input_transcription=words, partial=False)
        self._contents.append(types.Content(role="user", parts=[types.Part(text=words.text)]))
        self._answer()

    def _answer(self) -> None:
        self._speaking = asyncio.create_task(self._speak())

    async def _speak(self) -> None:
        calls: list[types.Part] = []
        try:
            for chunk in self._model.response(self._contents):
                if await wait_or_raise(chunk):
                    continue
                for part in _parts(chunk, self._request):
                    if part.function_call is not None:
                        calls.append(part)
                    elif part.text:
                        self._say(part)
        except Exception as error:
            self._out.put_nowait(error)
            return
        self._put(usage_metadata=_usage(self._contents, self._said))
        self._say_whole(calls)
        if not calls:
            self._put(turn_complete=True)

    def _say(self, part: types.Part) -> None:
        if self._said and bool(self._said[-1].thought) != bool(part.thought):
            self._put_whole(self._said[-1])
        text = (part.text or "").encode()
        if self._aloud and not part.thought:
            sound = types.Part(inline_data=types.Blob(data=text, mime_type=AUDIO))
            self._put(content=types.Content(role="model", parts=[sound]))
            self._put(output_transcription=_words(text), partial=True)
        else:
            self._put(content=types.Content(role="model", parts=[part.model_copy()]), partial=True)
        _join(self._said, part)

    def _say_whole(self, calls: Sequence[types.Part] = ()) -> None:
        if self._said:
            self._put_whole(self._said[-1])
        if calls:
            self._put(content=types.Content(role="model", parts=list(calls)))
        if self._said or calls:
            self._contents.append(types.Content(role="model", parts=[*self._said, *calls]))
            self._said = []

    def _put_whole(self, part: types.Part) -> None:
        if self._aloud and not part.thought:
            words = _words((part.text or "").encode(), finished=True)
            self._put(output_transcription=words, partial=False)
        else:
            self._put(content=types.Content(role="model", parts=[part]), partial=False)

    async def _interrupt(self) -> None:
        if self._speaking is None or self._speaking.done():
            return
        self._speaking.cancel()
        await asyncio.wait({self._speaking})
        self._say_whole()
        self._put(interrupted=True)
        self._put(turn_complete=True)

    def _put(self, **fields: Any) -> None:
        self._out.put_nowait(LlmResponse(model_version="scripted", **fields))


def _words(sound: bytes | bytearray, *, finished: bool = False) -> types.Transcription:
    return types.Transcription(text=sound.decode(errors="replace"), finished=finished)


def _parts(chunk: Chunk, request: LlmRequest) -> list[types.Part]:
    if isinstance(chunk, Reasoning):
        return [types.Part(text=chunk.text, thought=True)]
    if isinstance(chunk, ToolCall):
        return [_call(chunk.name, chunk.args)]
    if isinstance(chunk, Output):
        if OUTPUT_TOOL in request.tools_dict:
            return [_call(OUTPUT_TOOL, chunk.value)]
        return [types.Part(text=piece) for piece in pieces(chunk.value)]
    return [types.Part(text=chunk.text if isinstance(chunk, Text) else str(chunk))]


def _usage(contents: Sequence[types.Content], answer: list[types.Part]) -> types.GenerateContentResponseUsageMetadata:
    """Count tokens: a word counts as one."""
    asked = sum(_tokens(content.parts or []) for content in contents)
    said = _tokens(answer)
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=asked, candidates_token_count=said, total_token_count=asked + said
    )


def _tokens(parts: Sequence[types.Part]) -> int:
    return sum(len((part.text or "").split()) for part in parts)


def _call(name: str, args: dict[str, Any]) -> types.Part:
    return types.Part(function_call=types.FunctionCall(name=name, args=dict(args)))


def _join(whole: list[types.Part], part: types.Part) -> None:
    last = whole[-1] if whole else None
    if last is not None and last.text is not None and part.text is not None and last.thought == part.thought:
        last.text += part.text
    else:
        whole.append(part.model_copy())
