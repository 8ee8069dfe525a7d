"""A scripted model for real LangGraph graphs and LangChain agents."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from gapless.testing.script import Chunk, Output, Reasoning, Text, ToolCall, call_id, pieces, response_at, wait_or_raise

__all__ = ["LangGraphModel"]

REQUESTS_KEPT = 100
"""How many of the latest requests are kept to look at."""


class LangGraphModel(BaseChatModel):
    """Says its chunks, streamed or in one piece, whichever way it is asked; see `gapless.testing.langgraph_model`.

    The pieces of tool calls that stand side by side are interleaved, as some services stream them.
    """

    running: int = 0
    """Requests that are being answered: 0 once a cancel has reached the model."""
    _chunks: tuple[Chunk, ...] = PrivateAttr()
    _requests: collections.deque[list[BaseMessage]] = PrivateAttr()

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        super().__init__()
        self._chunks = tuple(chunks)
        self._requests = collections.deque(maxlen=REQUESTS_KEPT)

    @property
    def requests(self) -> list[list[BaseMessage]]:
        """Returns what the model was given, the latest last."""
        return list(self._requests)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer `tools` to the model; an output is a call of the last of them where an agent takes it that way."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _response(self, messages: list[BaseMessage]) -> list[Chunk]:
        self._requests.append(list(messages))
        turn, request = -1, 0
        for message in messages:
            if isinstance(message, HumanMessage):
                turn, request = turn + 1, 0
            elif isinstance(message, AIMessage):
                request += 1
        return response_at(self._chunks, max(turn, 0), request)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.running += 1
        try:
            calls: list[list[ChatGenerationChunk]] = []
            for chunk in self._response(messages):
                if await wait_or_raise(chunk):
                    continue
                if (call := _call(chunk, kwargs)) is not None:
                    calls.append(_call_chunks(len(calls), call))
                    continue
                if isinstance(chunk, Reasoning):
                    thought: Any = [{"type": "reasoning", "reasoning": chunk.text, "index": 0}]
                    yield ChatGenerationChunk(message=AIMessageChunk(content=thought))
                    continue
                for text in _texts(chunk):
                    yield ChatGenerationChunk(message=AIMessageChunk(content=text))
            for together in itertools.zip_longest(*calls):
                for one in together:
                    if one is not None:
                        yield one
            yield ChatGenerationChunk(
                message=AIMessageChunk(
                    content="",
                    usage_metadata=_usage(messages),
                    response_metadata={
                        "model_name": "scripted",
                        "model_provider": "scripted",
                        "finish_reason": "tool_calls" if calls else "stop",
                    },
                )
            )
        finally:
            self.running -= 1

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Answer code that is not async: a node's function, which is called in a thread."""
        chunks: Any = self._astream(messages, stop, None, **kwargs)

        async def step() -> ChatGenerationChunk | None:
            return await anext(chunks, None)

        with asyncio.Runner() as loop:
            try:
                while (chunk := loop.run(step())) is not None:
                    yield chunk
            finally:
                loop.run(chunks.aclose())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole = AIMessageChunk(content="")
        async for chunk in self._astream(messages, stop, None, **kwargs):
            if isinstance(chunk.message, AIMessageChunk):
                whole = whole + chunk.message
        message = AIMessage(
            whole.content,
            tool_calls=whole.tool_calls,
            usage_metadata=whole.usage_metadata,
            response_metadata=whole.response_metadata,
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return asyncio.run(self._agenerate(messages, stop, None, **kwargs))


def _call(chunk: Chunk, options: dict[str, Any]) -> ToolCall | None:
    """Return the tool call that a chunk is; an output is one where the agent takes its output that way."""
    if isinstance(chunk, ToolCall):
        return chunk
    tools = options.get("tools")
    if isinstance(chunk, Output) and tools:
        return ToolCall(tools[-1]["function"]["name"], chunk.value)
    return None


def _call_chunks(index: int, call: ToolCall) -> list[ChatGenerationChunk]:
    def chunk(**fields: Any) -> ChatGenerationChunk:
        piece = tool_call_chunk(index=index, **fields)
        return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))

    return [
        chunk(name=call.name, args="", id=call_id()),
        *(chunk(args=piece) for piece in pieces(call.args)),
    ]


def _texts(chunk: Chunk) -> list[str]:
    if isinstance(chunk, Output):
        return pieces(chunk.value)
    return [chunk.text if isinstance(chunk, Text) else str(chunk)]


def _usage(messages: Sequence[BaseMessage]) -> UsageMetadata:
    """Count tokens: a message counts as one, and so does an answer."""
    return UsageMetadata(input_tokens=len(messages), output_tokens=1, total_tokens=len(messages) + 1)
