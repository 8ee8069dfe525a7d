"""Scripted models of Strands, Agno and LlamaIndex."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agno.models.base import Model as OfAgno
from agno.models.response import ModelResponse
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.llms.mock import MockFunctionCallingLLM
from pydantic import PrivateAttr
from strands.models.model import Model as OfStrands

from gapless.testing.script import Chunk, Reasoning, Text, ToolCall, pieces, response_at, wait_or_raise

__all__ = ["AgnoModel", "LlamaModel", "StrandsModel"]


class Script:
    """What a model says to a conversation, given as the roles of its messages."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self.running = 0
        self.requests: list[str] = []

    def response(self, roles: Sequence[str], told: object) -> list[Any]:
        self.requests.append(str(told))
        last = max(at for at, role in enumerate(roles) if role == "user")
        turn = sum(role == "user" for role in roles) - 1
        return response_at(self.chunks, turn, roles[last:].count("assistant"))


class StrandsModel(OfStrands):
    def __init__(self, *chunks: Chunk) -> None:
        self.script = Script(chunks)

    def update_config(self, **options: Any) -> None: ...

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def stream(self, messages: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        roles = ["tool" if any("toolResult" in part for part in one["content"]) else one["role"] for one in messages]
        chunks = self.script.response(roles, messages)
        self.script.running += 1
        try:
            begun, stop = "", "end_turn"
            yield {"messageStart": {"role": "assistant"}}
            for number, chunk in enumerate(chunks):
                if await wait_or_raise(chunk):
                    continue
                kind = type(chunk).__name__ if isinstance(chunk, Reasoning | ToolCall) else "text"
                if begun and (begun != kind or kind == "ToolCall"):
                    yield {"contentBlockStop": {}}
                    begun = ""
                if not begun:
                    id = f"tool-{len(self.script.requests)}-{number}"
                    start = {"toolUse": {"name": chunk.name, "toolUseId": id}} if isinstance(chunk, ToolCall) else {}
                    yield {"contentBlockStart": {"start": start}}
                begun = kind
                for delta in _deltas(chunk):
                    yield {"contentBlockDelta": {"delta": delta}}
                stop = "tool_use" if isinstance(chunk, ToolCall) else stop
            yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": stop}}
            usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
            yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}
        finally:
            self.script.running -= 1


def _deltas(chunk: Any) -> list[Any]:
    if isinstance(chunk, ToolCall):
        return [{"toolUse": {"input": piece}} for piece in pieces(chunk.args)]
    text = chunk.text if isinstance(chunk, Text | Reasoning) else str(chunk)
    return [{"reasoningContent": {"text": text}} if isinstance(chunk, Reasoning) else {"text": text}]


@dataclass
class AgnoModel(OfAgno):
    id: str = "scripted"
    script: Script = field(default_factory=lambda: Script(()))

    def invoke(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    invoke_stream = ainvoke = invoke

    def _parse_provider_response(self, response: Any, **options: Any) -> Any:
        return response

    def _parse_provider_response_delta(self, response: Any) -> Any:
        return response

    async def ainvoke_stream(self, messages: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        told = [one for one in messages if one.role != "system"]
        chunks = self.script.response([one.role for one in told], [(one.role, one.content) for one in told])
        self.script.running += 1
        try:
            calls = []
            for number, chunk in enumerate(chunks):
                if await wait_or_raise(chunk):
                    continue
                if isinstance(chunk, ToolCall):
                    function = {"name": chunk.name, "arguments": json.dumps(chunk.args)}
                    id = f"call-{len(self.script.requests)}-{number}"
                    calls.append({"id": id, "type": "function", "function": function})
                elif isinstance(chunk, Reasoning):
                    yield ModelResponse(role="assistant", reasoning_content=chunk.text)
                else:
                    yield ModelResponse(role="assistant", content=chunk.text if isinstance(chunk, Text) else str(chunk))
            if calls:
                yield ModelResponse(role="assistant", tool_calls=calls)
        finally:
            self.script.running -= 1


class LlamaModel(MockFunctionCallingLLM):
    """What it has said so far comes with each piece, as from the real ones."""

    _script: Script = PrivateAttr()

    def __init__(self, *chunks: Chunk) -> None:
        super().__init__(is_chat_model=True)
        self._script = Script(chunks)

    @property
    def script(self) -> Script:
        return self._script

    async def astream_chat(self, messages: Any, **options: Any) -> AsyncIterator[Any]:
        return self._say([one for one in messages if one.role.value != "system"])

    async def _say(self, told: Sequence[Any]) -> AsyncIterator[Any]:
        script = self._script
        chunks = script.response([one.role.value for one in told], [(one.role.value, one.content) for one in told])
        script.running += 1
        text, thought, calls = "", "", []
        try:
            for number, chunk in enumerate(chunks):
                if await wait_or_raise(chunk):
                    continue
                delta, more = "", {}
                if isinstance(chunk, ToolCall):
                    id = f"call-{len(script.requests)}-{number}"
                    calls.append(ToolCallBlock(tool_call_id=id, tool_name=chunk.name, tool_kwargs=chunk.args))
                elif isinstance(chunk, Reasoning):
                    thought += chunk.text
                    more = {"thinking_delta": chunk.text}
                else:
                    delta = chunk.text if isinstance(chunk, Text) else str(chunk)
                    text += delta
                blocks = [*([ThinkingBlock(content=thought)] if thought else ()), TextBlock(text=text), *calls]
                message = ChatMessage(role="assistant", blocks=blocks)
                yield ChatResponse(message=message, delta=delta, additional_kwargs=more)
        finally:
            script.running -= 1
