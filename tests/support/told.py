"""What clients make of a run's frames, wire by wire: as strict as the vendors' own are, and in one form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.adk.events import Event as ADKEvent
from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gapless.events import AssistantMessage, ReasoningMessage, ToolMessage, decode_event, text_of
from gapless.fold import Fold
from tests.support.agui import check_order
from tests.support.sse import frames

__all__ = ["READERS", "Told"]

_RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PARAGRAPH = "\n\n"


@dataclass
class Told:
    """What a client has of a run in the end; nothing where its wire has no place for it."""

    texts: list[str] = field(default_factory=list)
    """Messages, or parts of one; a wire of one text has one."""
    thoughts: str = ""
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By id: name and arguments."""
    results: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """By call: what it gave, and whether it failed."""
    finish: str | None = None
    error: str | None = None

    @property
    def text(self) -> str:
        return PARAGRAPH.join(filter(None, self.texts))


def _data(body: bytes) -> list[Any]:
    return [json.loads(frame.data) for frame in frames(body) if frame.data and frame.data != "[DONE]"]


def _ends_with_done(body: bytes) -> None:
    datas = [frame.data for frame in frames(body) if frame.data]
    assert datas.count("[DONE]") == 1, "[DONE] comes once"
    assert datas[-1] == "[DONE]", "and last"


def ag_ui(body: bytes) -> Told:
    events = [decode_event(frame.data) for frame in frames(body) if frame.data]
    check_order(events)
    fold, told = Fold(), Told()
    for event in events:
        fold.add(event)
    for message in fold.messages():
        if isinstance(message, AssistantMessage):
            told.texts.append(message.content or "")
            for call in message.tool_calls or ():
                told.calls[call.id] = (call.function.name, call.function.arguments)
        elif isinstance(message, ReasoningMessage):
            told.thoughts += message.content
        elif isinstance(message, ToolMessage):
            given = text_of(message.content) if message.error is None else message.error
            told.results[message.tool_call_id] = (given, message.error is not None)
    told.error = fold.error.message if fold.error is not None else None
    return told


# -- the AI SDK --------------------------------------------------------------------------------------------------------

_MORE = {"providerExecuted", "providerMetadata", "dynamic", "title", "preliminary"}
_CHUNKS: dict[str, tuple[set[str], set[str]]] = {
    **{f"{kind}-start": ({"id"}, {"providerMetadata"}) for kind in ("text", "reasoning")},
    **{f"{kind}-delta": ({"id", "delta"}, {"providerMetadata"}) for kind in ("text", "reasoning")},
    **{f"{kind}-end": ({"id"}, {"providerMetadata"}) for kind in ("text", "reasoning")},
    "error": ({"errorText"}, set()),
    "tool-input-start": ({"toolCallId", "toolName"}, _MORE),
    "tool-input-delta": ({"toolCallId", "inputTextDelta"}, set()),
    "tool-input-available": ({"toolCallId", "toolName", "input"}, _MORE),
    "tool-input-error": ({"toolCallId", "toolName", "input", "errorText"}, _MORE),
    "tool-approval-request": ({"approvalId", "toolCallId"}, set()),
    "tool-output-available": ({"toolCallId", "output"}, _MORE),
    "tool-output-error": ({"toolCallId", "errorText"}, _MORE),
    "tool-output-denied": ({"toolCallId"}, set()),
    "source-url": ({"sourceId", "url"}, {"title", "providerMetadata"}),
    "source-document": ({"sourceId", "mediaType", "title"}, {"filename", "providerMetadata"}),
    "file": ({"url", "mediaType"}, {"providerMetadata"}),
    "start-step": (set(), set()),
    "finish-step": (set(), set()),
    "start": (set(), {"messageId", "messageMetadata"}),
    "finish": (set(), {"finishReason", "messageMetadata"}),
    "abort": (set(), {"reason"}),
    "message-metadata": ({"messageMetadata"}, set()),
}
"""The AI SDK's chunks: what each must have and what it may have; anything else is refused."""
_REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}


def ai_sdk(body: bytes) -> Told:
    _ends_with_done(body)
    told, open_parts = Told(), dict[tuple[str, str], int]()
    inputs: dict[str, list[str]] = {}
    for chunk in _data(body):
        kind = chunk.pop("type")
        must, may = ({"data"}, {"id", "transient"}) if kind.startswith("data-") else _CHUNKS[kind]
        assert must <= chunk.keys() <= must | may, (kind, chunk)
        call = chunk.get("toolCallId")
        match kind.rpartition("-"):
            case ("text" | "reasoning" as part, _, "start"):
                assert (part, chunk["id"]) not in open_parts, chunk
                open_parts[part, chunk["id"]] = len(told.texts)
                if part == "text":
                    told.texts.append("")
            case ("text", _, "delta"):
                told.texts[open_parts["text", chunk["id"]]] += chunk["delta"]
            case ("reasoning", _, "delta"):
                assert ("reasoning", chunk["id"]) in open_parts
                told.thoughts += chunk["delta"]
            case ("text" | "reasoning" as part, _, "end"):
                del open_parts[part, chunk["id"]]
            case ("finish", _, "step"):
                assert not open_parts, "the client forgets open parts with a step"
            case ("tool-input", _, "start"):
                inputs[call] = []
            case ("tool-input", _, "delta"):
                inputs[call].append(chunk["inputTextDelta"])
            case ("tool-input", _, _):
                told.calls[call] = (chunk["toolName"], "".join(inputs[call]))
                if kind == "tool-input-available":
                    assert chunk["input"] == json.loads("".join(inputs[call]).strip() or "{}")
            case ("tool-output", _, _) | ("tool-approval", _, _):
                assert call in told.calls, f"no tool invocation {call}"
                if "output" in chunk:
                    output = chunk["output"]
                    if isinstance(output, list) and output and isinstance(output[0], dict) and "type" in output[0]:
                        output = "".join(part.get("text", "") for part in output)
                    told.results[call] = (output if isinstance(output, str) else json.dumps(output), False)
                elif "errorText" in chunk:
                    told.results[call] = (chunk["errorText"], True)
        if kind == "finish":
            assert chunk["finishReason"] in _REASONS, chunk
            told.finish = chunk["finishReason"]
        elif kind == "error":
            told.error = chunk["errorText"]
    assert not open_parts, "nothing is open in the end"
    return told


# -- OpenAI ------------------------------------------------------------------------------------------------------------


def chat(body: bytes) -> Told:
    _ends_with_done(body)
    state: Any = ChatCompletionStreamState()
    told = Told()
    for data in _data(body):
        if "error" in data:
            told.error = data["error"]["message"]
            continue
        chunk = ChatCompletionChunk.model_validate(data)
        state.handle_chunk(chunk)
        for choice in chunk.choices:
            told.thoughts += getattr(choice.delta, "reasoning_content", None) or ""
    (choice,) = state.current_completion_snapshot.choices
    told.texts = [choice.message.content or ""]
    told.calls = {one.id: (one.function.name, one.function.arguments) for one in choice.message.tool_calls or ()}
    told.finish = choice.finish_reason
    assert (told.finish is None) == (told.error is not None)
    return told


def responses(body: bytes) -> Told:
    _ends_with_done(body)
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    told, said = Told(), dict[str, str]()
    last: Any
    last, number = None, -1
    for data in _data(body):
        assert data["sequence_number"] > number
        number = data["sequence_number"]
        last = _RESPONSE_EVENT.validate_python(data, strict=False)
        state.handle_event(last)
        if data["type"] == "response.output_text.delta":
            said[data["item_id"]] = said.get(data["item_id"], "") + data["delta"]
    assert last.type in ("response.completed", "response.incomplete", "response.failed"), last.type
    for item in last.response.output:
        if item.type == "message":
            text = "".join(part.text for part in item.content)
            assert said.get(item.id, "") == text
            told.texts.append(text)
        elif item.type == "reasoning":
            told.thoughts += "".join(part.text for part in item.content)
        elif item.type == "function_call":
            told.calls[item.call_id] = (item.name, item.arguments)
        else:
            assert item.type == "mcp_call"
            id = item.id.removeprefix("mcp_")
            told.calls[id] = (item.name, item.arguments)
            if item.status in ("completed", "failed"):
                failed = item.status == "failed"
                error: Any = item.error
                told.results[id] = (error.content[0]["text"] if failed else item.output, failed)
    details = last.response.incomplete_details
    told.finish = details.reason if details is not None else last.response.status
    told.error = last.response.error.message if last.response.error is not None else None
    return told


# -- ADK, text ---------------------------------------------------------------------------------------------------------


def adk(body: bytes) -> Told:
    told, partial = Told(), ""
    for data in _data(body):
        if set(data) <= {"error", "error_details"}:
            told.error = data["error"]
            continue
        event = ADKEvent.model_validate(data)
        parts = (event.content.parts if event.content else None) or []
        assert parts or event.content is None
        if event.partial:
            partial += "".join(part.text or "" for part in parts if not part.thought)
            continue
        texts = []
        for part in parts:
            if part.text and part.thought:
                told.thoughts += part.text
            elif part.text:
                texts.append(part.text)
            elif part.function_call is not None:
                called = part.function_call
                told.calls[called.id or ""] = (called.name or "", json.dumps(called.args))
            elif part.function_response is not None:
                response = part.function_response.response or {}
                failed = "error" in response
                value = response.get("error" if failed else "result", response)
                given = value if isinstance(value, str) else json.dumps(value)
                told.results[part.function_response.id or ""] = (given, failed)
        if partial:
            assert "".join(texts) == partial, "the whole is what came in pieces"
        partial = ""
        told.texts += texts
        if event.finish_reason is not None:
            told.finish = event.finish_reason.value
        if event.error_code:
            told.error = event.error_message or event.error_code
    assert not partial, "each piece is in a whole"
    return told


def text(body: bytes) -> Told:
    _ends_with_done(body)
    told = Told()
    pieces = []
    for data in _data(body):
        pieces.append(data.get("text", ""))
        told.error = data.get("error", told.error)
    told.texts = ["".join(pieces)]
    return told


READERS: dict[str, Callable[[bytes], Told]] = {
    "ag-ui": ag_ui,
    "vercel": ai_sdk,
    "openai": chat,
    "openai-responses": responses,
    "adk": adk,
    "text": text,
}
"""By wire."""
