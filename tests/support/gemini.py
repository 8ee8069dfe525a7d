"""Gemini behind HTTP, as strict as Gemini 3 is: on loopback, for ADK's own Gemini class."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

from google.adk.models import Gemini

__all__ = ["SIGNATURE", "GeminiService", "call", "shown", "signatures"]

SIGNATURE = "U0lHLUE="


class GeminiService:
    """Answers each request with what `reply(contents)` says: the parts of each chunk of a stream."""

    def __init__(self, reply: Callable[[list[dict[str, Any]]], list[list[dict[str, Any]]]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._reply = reply

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Gemini]:
        """Yields a model that asks this service."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with mock.patch.dict("os.environ", {"GOOGLE_API_KEY": "none", "GOOGLE_GENAI_USE_VERTEXAI": "0"}):
                yield Gemini(model="gemini-3-flash", base_url=url)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            body = json.loads(await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0])))
            self.requests.append(body)
            why = refusal(body["contents"])
            if why is not None:
                error = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": why}}
                _write(writer, 400, "application/json", json.dumps(error))
                return
            chunks = [_response(parts) for parts in self._reply(body["contents"])]
            chunks[-1]["candidates"][0]["finishReason"] = "STOP"
            if "streamgeneratecontent" in head:
                text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
                _write(writer, 200, "text/event-stream", text)
            else:
                whole = _response([part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]])
                whole["candidates"][0]["finishReason"] = "STOP"
                _write(writer, 200, "application/json", json.dumps(whole))
        finally:
            writer.close()


def refusal(contents: list[dict[str, Any]]) -> str | None:
    """What Gemini 3 refuses: calls without as many responses behind them, and in the current turn a step whose first
    call lacks its thought signature."""
    asked = [at for at, one in enumerate(contents) if one["role"] == "user" and any("text" in p for p in one["parts"])]
    for at, content in enumerate(contents):
        calls = [part for part in content["parts"] if "functionCall" in part]
        after = contents[at + 1]["parts"] if at + 1 < len(contents) else []
        if calls and sum("functionResponse" in part for part in after) != len(calls):
            return "the number of function response parts is not that of the function call parts"
        if calls and at > max(asked, default=0) and not calls[0].get("thoughtSignature"):
            return f"Function call `{calls[0]['functionCall']['name']}` is missing a thought_signature."
    return None


def call(name: str, signature: str | None = SIGNATURE, **args: Any) -> dict[str, Any]:
    """A part that calls a tool."""
    part: dict[str, Any] = {"functionCall": {"name": name, "args": args}}
    return part if signature is None else part | {"thoughtSignature": signature}


def shown(contents: list[dict[str, Any]]) -> list[Any]:
    """What a request tells: texts, calls by name and results."""
    found: list[Any] = []
    for part in [part for content in contents for part in content["parts"]]:
        if "functionCall" in part:
            found.append(f"{part['functionCall']['name']}()")
        elif "functionResponse" in part:
            found.append(part["functionResponse"]["response"])
        elif "text" in part:
            found.append(part["text"])
    return found


def signatures(contents: list[dict[str, Any]]) -> list[str | None]:
    """The thought signatures of the calls."""
    parts = [part for content in contents for part in content["parts"] if "functionCall" in part]
    return [part.get("thoughtSignature") for part in parts]


def _response(parts: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", "usageMetadata": usage, "responseId": "r"}


def _write(writer: asyncio.StreamWriter, status: int, kind: str, text: str) -> None:
    data = text.encode()
    head = f"HTTP/1.1 {status} So\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + data)
