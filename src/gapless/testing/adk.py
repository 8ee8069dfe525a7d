"""A scripted model for real Google ADK agents."""

from __future__ import annotations

import collections
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from google.adk.models.base_llm import BaseLlm
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


class ADKModel(BaseLlm):
    """Says its chunks, streamed or in one piece, whichever way it is asked; see `gapless.testing.adk_model`."""

    model: str = "scripted"
    running: int = 0
    """Requests that are being answered: 0 once a cancel has reached the model."""
    _chunks: tuple[Chunk, ...] = PrivateAttr()
    _requests: collections.deque[list[types.Content]] = PrivateAttr()

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        super().__init__(model="scripted")
        self._chunks = tuple(chunks)
        self._requests = collections.deque(maxlen=REQUESTS_KEPT)

    @property
    def requests(self) -> list[list[types.Content]]:
        """What the model was given, the latest last."""
        return list(self._requests)

    def _response(self, request: LlmRequest) -> list[Chunk]:
        self._requests.append([content.model_copy(deep=True) for content in request.contents])
        turn, asked = -1, 0
        for content in request.contents:
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
            for chunk in self._response(llm_request):
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
            usage_metadata=_usage(llm_request, whole),
            model_version="scripted",
        )


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


def _usage(request: LlmRequest, answer: list[types.Part]) -> types.GenerateContentResponseUsageMetadata:
    """A word counts as a token."""
    asked = sum(_tokens(content.parts or []) for content in request.contents)
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
