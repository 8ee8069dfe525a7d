"""A scripted model for real agents of the OpenAI Agents SDK."""

from __future__ import annotations

import collections
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents import Handoff, Model, ModelResponse, ModelSettings, Tool, Usage
from agents.agent_output import AgentOutputSchemaBase
from agents.items import TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from agents.models.interface import ModelTracing
from openai.types import responses as r
from openai.types.responses.response_reasoning_item import ResponseReasoningItem, Summary
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from gapless.testing.script import Chunk, Output, Reasoning, Text, ToolCall, call_id, pieces, response_at, wait_or_raise

__all__ = ["OpenAIAgentsModel"]

REQUESTS_KEPT = 100
"""How many of the latest requests are kept to look at."""
FAKE_ID = "__fake_id__"
"""The id that every item has which the SDK makes of a chat model's answer."""


class OpenAIAgentsModel(Model):
    """Says its chunks, streamed or in one piece, whichever way it is asked; see `gapless.testing.openai_agents_model`.

    The pieces of tool calls that stand side by side are interleaved, as some services stream them.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.requests: collections.deque[list[TResponseInputItem]] = collections.deque(maxlen=REQUESTS_KEPT)
        """What the model was given, the latest last."""
        self.running = 0
        """Requests that are being answered: 0 once a cancel has reached the model."""
        self._chunks = tuple(chunks)

    def _response(self, given: str | list[TResponseInputItem]) -> list[Chunk]:
        items: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        self.requests.append(items)
        turn, request, answering = -1, 0, False
        for item in items:
            if item.get("role") == "user":
                turn, request, answering = turn + 1, 0, False
                continue
            answers = item.get("type") in ("function_call", "reasoning") or item.get("role") == "assistant"
            request += answers and not answering
            answering = answers
        return response_at(self._chunks, max(turn, 0), request)

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        self.running += 1
        try:
            writer = _Writer()
            yield r.ResponseCreatedEvent(type="response.created", response=_response([], input), sequence_number=0)
            calls: list[ToolCall] = []
            for chunk in self._response(input):
                if await wait_or_raise(chunk):
                    continue
                if isinstance(chunk, ToolCall):
                    calls.append(chunk)
                elif isinstance(chunk, Reasoning):
                    for event in writer.reasoning(chunk.text):
                        yield event
                else:
                    for text in _texts(chunk):
                        for event in writer.text(text):
                            yield event
            for event in writer.calls(calls):
                yield event
            yield r.ResponseCompletedEvent(
                type="response.completed", response=_response(writer.items(), input), sequence_number=0
            )
        finally:
            self.running -= 1

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        response: r.Response | None = None
        async for event in self.stream_response(*args, **kwargs):
            if isinstance(event, r.ResponseCompletedEvent):
                response = event.response
        assert response is not None, "it ends so"
        usage = response.usage
        assert usage is not None, "it counts"
        counted = Usage(
            requests=1,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
        )
        return ModelResponse(output=response.output, usage=counted, response_id=None)


class _Writer:
    """Writes one response: its items in the order in which they begin."""

    def __init__(self) -> None:
        self._items: list[tuple[str, Any]] = []
        """Kind, and what it says so far."""

    def _at(self, kind: str) -> tuple[int, bool]:
        for index, (known, _) in enumerate(self._items):
            if known == kind:
                return index, False
        self._items.append((kind, ""))
        return len(self._items) - 1, True

    def _say(self, index: int, text: str) -> None:
        kind, said = self._items[index]
        self._items[index] = kind, said + text

    def text(self, delta: str) -> list[TResponseStreamEvent]:
        index, is_new = self._at("message")
        found: list[TResponseStreamEvent] = [_added(index, _message(""))] if is_new else []
        self._say(index, delta)
        found.append(
            r.ResponseTextDeltaEvent(
                type="response.output_text.delta",
                content_index=0,
                delta=delta,
                item_id=FAKE_ID,
                logprobs=[],
                output_index=index,
                sequence_number=0,
            )
        )
        return found

    def reasoning(self, delta: str) -> list[TResponseStreamEvent]:
        index, is_new = self._at("reasoning")
        found: list[TResponseStreamEvent] = [_added(index, _thought(""))] if is_new else []
        self._say(index, delta)
        found.append(
            r.ResponseReasoningSummaryTextDeltaEvent(
                type="response.reasoning_summary_text.delta",
                delta=delta,
                item_id=FAKE_ID,
                output_index=index,
                sequence_number=0,
                summary_index=0,
            )
        )
        return found

    def calls(self, calls: Sequence[ToolCall]) -> list[TResponseStreamEvent]:
        """Say all calls, their arguments in turns."""
        streams: list[list[TResponseStreamEvent]] = []
        for call in calls:
            index, id = len(self._items), call_id()
            parts = pieces(call.args)
            self._items.append(("call", _call(id, call.name, "".join(parts))))
            streams.append(
                [
                    _added(index, _call(id, call.name, "")),
                    *(
                        r.ResponseFunctionCallArgumentsDeltaEvent(
                            type="response.function_call_arguments.delta",
                            delta=part,
                            item_id=FAKE_ID,
                            output_index=index,
                            sequence_number=0,
                        )
                        for part in parts
                    ),
                ]
            )
        return [event for together in itertools.zip_longest(*streams) for event in together if event is not None]

    def items(self) -> list[TResponseOutputItem]:
        found: list[TResponseOutputItem] = []
        for kind, said in self._items:
            found.append(said if kind == "call" else _message(said) if kind == "message" else _thought(said))
        return found


def _added(index: int, item: Any) -> r.ResponseOutputItemAddedEvent:
    return r.ResponseOutputItemAddedEvent(
        type="response.output_item.added", item=item, output_index=index, sequence_number=0
    )


def _message(text: str) -> r.ResponseOutputMessage:
    content = r.ResponseOutputText(text=text, type="output_text", annotations=[], logprobs=[])
    return r.ResponseOutputMessage(id=FAKE_ID, type="message", role="assistant", status="completed", content=[content])


def _thought(text: str) -> ResponseReasoningItem:
    return ResponseReasoningItem(id=FAKE_ID, type="reasoning", summary=[Summary(text=text, type="summary_text")])


def _call(id: str, name: str, arguments: str) -> r.ResponseFunctionToolCall:
    return r.ResponseFunctionToolCall(id=FAKE_ID, call_id=id, type="function_call", name=name, arguments=arguments)


def _response(items: list[TResponseOutputItem], given: str | list[TResponseInputItem]) -> r.Response:
    """Make a response; an item counts as a token, and so does an answer."""
    asked = 1 if isinstance(given, str) else len(given)
    return r.Response(
        id="response",
        created_at=0,
        model="scripted",
        object="response",
        output=items,
        tool_choice="auto",
        tools=[],
        parallel_tool_calls=True,
        usage=r.ResponseUsage(
            input_tokens=asked,
            output_tokens=1,
            total_tokens=asked + 1,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        ),
    )


def _texts(chunk: Chunk) -> list[str]:
    if isinstance(chunk, Output):
        return pieces(chunk.value)
    return [chunk.text if isinstance(chunk, Text) else str(chunk)]
