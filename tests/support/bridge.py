"""An object that speaks AG-UI, on a scripted model. It keeps nothing between runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

import ag_ui.core as ag_ui

from gapless.testing.script import Chunk, Output, Reasoning, Text, ToolCall, pieces, response_at, wait_or_raise

__all__ = ["Bridge"]

Tools = Sequence[Callable[..., Awaitable[Any]]]


class Bridge:
    """Asks its model, calls its `tools`, and asks before those in `approve`; what it goes on from is the client's."""

    name = "bridge"

    def __init__(self, chunks: Sequence[Chunk], tools: Tools, approve: Collection[str]) -> None:
        self.running = 0
        self.requests: list[str] = []
        self._chunks = chunks
        self._tools = {tool.__name__: tool for tool in tools}
        self._approve = approve

    async def run(self, given: ag_ui.RunAgentInput) -> AsyncIterator[ag_ui.BaseEvent]:
        place = {"thread_id": given.thread_id, "run_id": given.run_id}
        yield ag_ui.RunStartedEvent(**place)
        told = [message.model_dump(exclude_none=True) for message in given.messages]
        answers = {entry.interrupt_id: entry.payload for entry in given.resume or ()}
        self._tokens, self._result = 0, None
        while True:
            calls = _open(told)
            asked = [call for call in calls if call["function"]["name"] in self._approve]
            if unclear := [call for call in asked if not isinstance(_decision(answers.get(call["id"])), bool)]:
                interrupts = [_question(call) for call in unclear]
                yield ag_ui.RunFinishedEvent(**place, outcome=ag_ui.RunFinishedInterruptOutcome(interrupts=interrupts))
                return
            own = [call for call in calls if call["function"]["name"] not in self._tools]
            for call in calls:
                if call in own:
                    continue
                try:
                    content = await self._call(call, call not in asked or _decision(answers[call["id"]]) is True)
                except ValueError:
                    yield ag_ui.RunErrorEvent(message=f"tool {call['function']['name']} failed", code="tool_failed")
                    return
                result = {"message_id": f"{call['id']}-result", "tool_call_id": call["id"], "content": content}
                yield ag_ui.ToolCallResultEvent(**result)
                told.append({"role": "tool", "tool_call_id": call["id"], "content": content})
            if own or (told[-1]["role"] == "assistant" and not calls):
                tokens = ag_ui.TokenUsage(input_tokens=self._tokens, output_tokens=0, total_tokens=self._tokens)
                yield ag_ui.RunFinishedEvent(**place, result=self._result, usage=[tokens])
                return
            async for event in self._say(told, given.run_id):
                yield event

    async def _call(self, call: dict[str, Any], is_allowed: bool) -> str:
        arguments = json.loads(call["function"]["arguments"] or "{}")
        return str(await self._tools[call["function"]["name"]](**arguments)) if is_allowed else "not allowed"

    async def _say(self, told: list[dict[str, Any]], run_id: str) -> AsyncIterator[ag_ui.BaseEvent]:
        """Ask the model, and add what it says to what is told."""
        self.requests.append(json.dumps([{**one, "id": None} for one in told], ensure_ascii=False))
        self._tokens += 2
        turn = sum(one["role"] == "user" for one in told) - 1
        last = max(at for at, one in enumerate(told) if one["role"] == "user")
        request = sum(one["role"] == "assistant" for one in told[last:])
        id, text, calls = f"{run_id}-{len(told)}", "", list[dict[str, Any]]()
        self.running += 1
        try:
            for chunk in response_at(self._chunks, turn, request):
                if await wait_or_raise(chunk):
                    continue
                if isinstance(chunk, Reasoning):
                    yield ag_ui.ReasoningMessageChunkEvent(message_id=f"{id}-thought", delta=chunk.text)
                elif isinstance(chunk, Output):
                    self._result = chunk.value
                elif isinstance(chunk, ToolCall):
                    function = {"name": chunk.name, "arguments": json.dumps(chunk.args)}
                    calls.append({"id": f"{id}-call-{len(calls)}", "type": "function", "function": function})
                else:
                    said = chunk.text if isinstance(chunk, Text) else str(chunk)
                    text += said
                    yield ag_ui.TextMessageChunkEvent(message_id=id, role="assistant", delta=said)
        finally:
            self.running -= 1
        for call in calls:
            name = call["function"]["name"]
            for piece in pieces(json.loads(call["function"]["arguments"])):
                yield ag_ui.ToolCallChunkEvent(
                    tool_call_id=call["id"], tool_call_name=name, parent_message_id=id, delta=piece
                )
        told.append({"role": "assistant", "content": text, "tool_calls": calls})


def _open(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls that have no result yet."""
    done = {one.get("tool_call_id") for one in told if one["role"] == "tool"}
    calls = [call for one in told if one["role"] == "assistant" for call in one.get("tool_calls") or ()]
    return [call for call in calls if call["id"] not in done]


def _decision(payload: Any) -> Any:
    return payload.get("approved") if isinstance(payload, dict) else None


def _question(call: dict[str, Any]) -> ag_ui.Interrupt:
    arguments = json.loads(call["function"]["arguments"])
    told = {"kind": "approval", "toolName": call["function"]["name"], "arguments": arguments}
    return ag_ui.Interrupt(id=call["id"], reason="tool_call", tool_call_id=call["id"], metadata=told)
