"""Model services behind HTTP as they are: as strict about what they are asked as the real ones document, as loose in
what they send. On loopback, for the frameworks' own model classes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.support.gemini import refusal as refusal_of_gemini
from tests.support.upstream import Reply, Request, upstream

__all__ = ["ANTHROPIC", "CHAT", "GEMINI", "RESPONSES", "Protocol", "Script", "Service", "service"]

Script: TypeAlias = "Sequence[Reply | list[Any]]"
"""What each model call in turn is answered with: a reply as it is, or the chunks of a stream, text as it is."""


@dataclass(frozen=True)
class Protocol:
    """A family of services: what it refuses, how it streams, what it says when it fails."""

    refusal: Callable[[dict[str, Any]], str | None]
    answer: Callable[[str], list[Any]]
    frame: Callable[[Any], str]
    error: Callable[[str], Any]

    def body(self, chunks: Sequence[Any]) -> bytes:
        return "".join(one if isinstance(one, str) else self.frame(one) for one in chunks).encode()


class Service:
    """Answers its calls by a script, and with "Done." after its end. What it should never be asked it refuses."""

    def __init__(self, protocol: Protocol, script: Script) -> None:
        self.protocol = protocol
        self.asked: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.url = ""
        self.left: Callable[[], Awaitable[Any]]
        """Waits until the client has closed a connection that was held open."""
        self.script = list(script)

    def again(self) -> list[dict[str, Any]]:
        """Return what was asked, and begin anew."""
        asked, self.asked = self.asked, []
        return asked

    def reply(self, request: Request) -> Reply:
        body = request.body
        self.asked.append(body)
        if (why := self.protocol.refusal(body)) is not None:
            self.refused.append(why)
            return Reply(json.dumps(self.protocol.error(why)).encode(), status=400, content_type="application/json")
        at = len(self.asked) - 1
        said = self.script[at] if at < len(self.script) else self.protocol.answer("Done.")
        return said if isinstance(said, Reply) else Reply(self.protocol.body(said))


@asynccontextmanager
async def service(protocol: Protocol, script: Script) -> AsyncIterator[Service]:
    found = Service(protocol, script)
    async with upstream(found.reply) as up:
        found.url, found.left = up.url, up.left.wait
        yield found


def _named(chunk: dict[str, Any]) -> str:
    return f"event: {chunk['type']}\ndata: {json.dumps(chunk)}\n\n"


def _bare(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


# -- Gemini ------------------------------------------------------------------------------------------------------------


def gemini_chunk(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [*parts]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", "responseId": "r", **more}


def _refusal_of_gemini(body: dict[str, Any]) -> str | None:
    contents = body["contents"]
    for content in contents:
        if not content.get("parts"):
            return "contents.parts must not be empty"
        for part in content["parts"]:
            data = set(part) - {"thought", "thoughtSignature", "partMetadata", "videoMetadata"}
            if len(data) != 1:
                return "required oneof field 'data' must have one initialized field"
            if "functionResponse" in part and not part["functionResponse"].get("name"):
                return "function_response.name: name cannot be empty"
    if not contents or contents[0]["role"] != "user":
        return "please ensure that the first content is of the role user"
    for before, content in itertools.pairwise(contents):
        calls = any("functionCall" in part for part in content["parts"])
        if calls and before["role"] != "user":
            return "function call turn comes immediately after a user turn or after a function response turn"
        answers = any("functionResponse" in part for part in content["parts"])
        if answers and not any("functionCall" in part for part in before["parts"]):
            return "function response turn comes immediately after a function call turn"
    return refusal_of_gemini(contents)


def _gemini_error(message: str) -> Any:
    return {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": message}}


GEMINI = Protocol(_refusal_of_gemini, lambda text: [gemini_chunk({"text": text}, finish="STOP")], _bare, _gemini_error)

# -- Anthropic ---------------------------------------------------------------------------------------------------------

_ID = re.compile(r"[a-zA-Z0-9_-]+")


def claude(*blocks: Any, stop: str | None = "end_turn", tail: bool = True, **usage: Any) -> list[dict[str, Any]]:
    """Return a message as a stream. A block is text, or (its start, its deltas)."""
    counts = {"input_tokens": 9, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": counts}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(blocks):
        start, deltas = ({"type": "text", "text": ""}, [text_delta(block)]) if isinstance(block, str) else block
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        found += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        found.append({"type": "content_block_stop", "index": index})
    if tail:
        delta = {"stop_reason": stop, "stop_sequence": None}
        found.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7, **usage}})
        found.append({"type": "message_stop"})
    return found


def text_delta(text: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": text}


def tool_use(id: str, name: str, *pieces: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    start = {"type": "tool_use", "id": id, "name": name, "input": {}}
    return start, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def thinking(text: str, signature: str = "c2ln") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    deltas = [{"type": "thinking_delta", "thinking": text}, {"type": "signature_delta", "signature": signature}]
    return {"type": "thinking", "thinking": "", "signature": ""}, deltas


def _refusal_of_claude(body: dict[str, Any]) -> str | None:
    messages = body["messages"]
    if not messages or messages[0]["role"] != "user":
        return "messages: first message must use the user role"
    open_ids: list[str] = []
    for at, message in enumerate(messages):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not blocks:
            return f"messages.{at}: all messages must have non-empty content"
        results = [block for block in blocks if block["type"] == "tool_result"]
        if sorted(block["tool_use_id"] for block in results) != sorted(open_ids):
            return f"messages.{at}: `tool_use` ids {open_ids} without `tool_result` blocks immediately after, or others"
        if results and any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            return f"messages.{at}: tool_result blocks must come first"
        open_ids = []
        for block in blocks:
            if block["type"] == "text" and not block["text"].strip():
                return f"messages.{at}: text content blocks must contain non-whitespace text"
            if block["type"] == "thinking" and not block.get("signature"):
                return f"messages.{at}: thinking.signature: Field required"
            if block["type"] == "tool_use":
                if not _ID.fullmatch(block["id"]) or not isinstance(block["input"], dict):
                    return f"messages.{at}: tool_use.id or input is not as it should be"
                if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", block["name"]):
                    return f"messages.{at}: tool_use.name is not as it should be"
                open_ids.append(block["id"])
        said = [block["type"] for block in blocks]
        if message["role"] == "assistant" and said[-1] in ("thinking", "redacted_thinking"):
            return f"messages.{at}: the final block in an assistant message cannot be `thinking`"
    last = messages[-1]
    return f"tool_use ids without results: {open_ids}" if open_ids or last["role"] != "user" else None


def _claude_error(message: str) -> Any:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


ANTHROPIC = Protocol(_refusal_of_claude, claude, _named, _claude_error)

# -- chat completions --------------------------------------------------------------------------------------------------


def chat(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def call(index: Any, id: str | None = None, name: str | None = None, arguments: Any = "", **more: Any) -> Any:
    function = {"name": name, "arguments": arguments} if name is not None else {"arguments": arguments}
    return chat(tool_calls=[{"index": index, "id": id, "type": "function", "function": function, **more}])


def _refusal_of_chat(body: dict[str, Any]) -> str | None:
    open_ids: list[str] = []
    for at, message in enumerate(body["messages"]):
        role, content = message["role"], message.get("content")
        calls = message.get("tool_calls") or []
        if role == "tool":
            if not isinstance(content, str) and any(part["type"] != "text" for part in content):
                return f"messages.{at}: a tool message has no media"
            if message["tool_call_id"] not in open_ids:
                return f"messages.{at}: no call {message['tool_call_id']}"
            open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            return f"messages.{at}: calls without a result: {open_ids}"
        if not calls and (not content or (isinstance(content, str) and not content.strip())):
            return f"messages.{at}: a {role} message must have content"
        for one in calls:
            try:
                json.loads(one["function"]["arguments"])
            except ValueError:
                return f"messages.{at}: arguments of {one['function']['name']} are no JSON"
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one["function"]["name"]) or not 0 < len(one["id"]) <= 40:
                return f"messages.{at}: {one} is not as it should be"
        open_ids = [one["id"] for one in calls]
        if len(set(open_ids)) < len(open_ids):
            return f"messages.{at}: two calls of one id"
    return f"calls without a result: {open_ids}" if open_ids else None


def _openai_error(message: str) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


CHAT = Protocol(
    _refusal_of_chat, lambda text: [chat(content=text), chat("stop"), "data: [DONE]\n\n"], _bare, _openai_error
)

# -- responses ---------------------------------------------------------------------------------------------------------


def item_event(kind: str, index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": item}


def said(index: int, *texts: str, whole: bool = True) -> list[dict[str, Any]]:
    """Return the events of a message."""
    at: dict[str, Any] = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    item: dict[str, Any] = {"type": "message", "id": f"msg_{index}", "role": "assistant", "content": []}
    part: dict[str, Any] = {"type": "output_text", "text": "".join(texts), "annotations": []}
    return [
        item_event("added", index, item | {"status": "in_progress"}),
        {"type": "response.content_part.added", **at, "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": text, "logprobs": []} for text in texts),
        *(
            [
                {"type": "response.output_text.done", **at, "text": "".join(texts), "logprobs": []},
                {"type": "response.content_part.done", **at, "part": part},
                item_event("done", index, item | {"status": "completed", "content": [part]}),
            ]
            if whole
            else []
        ),
    ]


def function_item(index: int, id: str, name: str, *pieces: str) -> list[dict[str, Any]]:
    item: dict[str, Any] = {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": name}
    at = {"item_id": f"fc_{id}", "output_index": index}
    arguments = "".join(pieces)
    return [
        item_event("added", index, item | {"arguments": "", "status": "in_progress"}),
        *({"type": "response.function_call_arguments.delta", **at, "delta": piece} for piece in pieces),
        {"type": "response.function_call_arguments.done", **at, "arguments": arguments, "name": name},
        item_event("done", index, item | {"arguments": arguments, "status": "completed"}),
    ]


def response(status: str, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": []}
    fields |= {"tools": [], "parallel_tool_calls": True, "tool_choice": "auto", "status": status}
    usage: dict[str, Any] = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return fields | {"usage": usage if status == "completed" else None} | more


def responses(*events: list[dict[str, Any]], end: str = "completed", **more: Any) -> list[Any]:
    """Return a response as a stream of `events`."""
    begun = {"type": "response.created", "response": response("in_progress")}
    ended = [{"type": f"response.{end}", "response": response(end, **more)}] if end else []
    every = [begun, *(one for several in events for one in several), *ended]
    return [event | {"sequence_number": number} for number, event in enumerate(every)]


def _refusal_of_responses(body: dict[str, Any]) -> str | None:
    calls: list[str] = []
    items = body["input"]
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "function_call":
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", item["name"]) or not 0 < len(item["call_id"]) <= 64:
                return f"input.{at}: name or call_id is not as it should be"
            calls.append(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in calls:
                return f"No tool call found for function call output with call_id {item['call_id']}."
            calls.remove(item["call_id"])
        elif kind == "message" and not item.get("content"):
            return f"input.{at}: a message must have content"
        elif kind == "reasoning" and items[at + 1 :][:1] and items[at + 1].get("role") == "user":
            return f"Item {item.get('id')!r} of type 'reasoning' was provided without its required following item."
    return f"No tool output found for function calls {calls}." if calls else None


RESPONSES = Protocol(_refusal_of_responses, lambda text: responses(said(0, text)), _named, _openai_error)
