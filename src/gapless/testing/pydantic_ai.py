"""A scripted model for real Pydantic AI agents."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator, Sequence

from pydantic_ai import messages as m
from pydantic_ai.models.function import (
    AgentInfo,
    DeltaThinkingCalls,
    DeltaThinkingPart,
    DeltaToolCall,
    DeltaToolCalls,
    FunctionModel,
)

from gapless.testing.script import Chunk, Output, Reasoning, Text, ToolCall, pieces, response_at, wait_or_raise

__all__ = ["PydanticAIModel"]

REQUESTS_KEPT = 100
"""How many of the latest requests are kept to look at."""


class PydanticAIModel(FunctionModel):
    """Says its chunks, streamed or in one piece, whichever way it is asked; see `gapless.testing.pydantic_ai_model`."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        super().__init__(self._whole, stream_function=self._streamed, model_name="scripted")
        self.requests: collections.deque[list[m.ModelMessage]] = collections.deque(maxlen=REQUESTS_KEPT)
        """What the model was given, the latest last."""
        self.running = 0
        """Requests that are being answered: 0 once a cancel has reached the model."""
        self._chunks = tuple(chunks)

    def _response(self, messages: list[m.ModelMessage]) -> list[Chunk]:
        self.requests.append(list(messages))
        turn, request = -1, 0
        run_id: str | None = None
        for message in messages:
            # Within a run, the framework words its own feedback and the contents of tools' results as the user's.
            goes_on = message.run_id is not None and message.run_id == run_id
            run_id = message.run_id
            if isinstance(message, m.ModelResponse):
                request += 1
            elif not goes_on and any(isinstance(part, m.UserPromptPart) for part in message.parts):
                turn, request = turn + 1, 0
        return response_at(self._chunks, max(turn, 0), request)

    async def _streamed(
        self, messages: list[m.ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | DeltaToolCalls | DeltaThinkingCalls]:
        self.running += 1
        try:
            for index, chunk in enumerate(self._response(messages)):
                if await wait_or_raise(chunk):
                    continue
                if isinstance(chunk, Reasoning):
                    yield {0: DeltaThinkingPart(content=chunk.text)}
                elif (call := _call(chunk, info)) is not None:
                    yield {index + 1: DeltaToolCall(name=call.tool_name, json_args="", tool_call_id=call.tool_call_id)}
                    for piece in pieces(call.args):
                        yield {index + 1: DeltaToolCall(json_args=piece)}
                else:
                    for text in _texts(chunk):
                        yield text
        finally:
            self.running -= 1

    async def _whole(self, messages: list[m.ModelMessage], info: AgentInfo) -> m.ModelResponse:
        parts: list[m.ModelResponsePart] = []
        self.running += 1
        try:
            for chunk in self._response(messages):
                if await wait_or_raise(chunk):
                    continue
                last = parts[-1] if parts else None
                if isinstance(chunk, Reasoning):
                    if isinstance(last, m.ThinkingPart):
                        last.content += chunk.text
                    else:
                        parts.append(m.ThinkingPart(chunk.text))
                elif (call := _call(chunk, info)) is not None:
                    parts.append(call)
                elif isinstance(last, m.TextPart):
                    last.content += "".join(_texts(chunk))
                else:
                    parts.append(m.TextPart("".join(_texts(chunk))))
        finally:
            self.running -= 1
        return m.ModelResponse(parts=parts, finish_reason="stop")


def _call(chunk: Chunk, info: AgentInfo) -> m.ToolCallPart | None:
    """Return the tool call that a chunk is; an output is one where the agent takes its output that way."""
    if isinstance(chunk, ToolCall):
        return m.ToolCallPart(chunk.name, dict(chunk.args))
    if isinstance(chunk, Output) and info.output_tools:
        tool = info.output_tools[0]
        key = tool.outer_typed_dict_key
        return m.ToolCallPart(tool.name, chunk.value if key is None else {key: chunk.value})
    return None


def _texts(chunk: Chunk) -> list[str]:
    if isinstance(chunk, Output):
        return pieces(chunk.value)
    return [chunk.text if isinstance(chunk, Text) else str(chunk)]
