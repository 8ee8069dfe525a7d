"""A scripted model for real agents of the Claude Agent SDK: a messages service on loopback, which its CLI asks."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from gapless.testing.script import Chunk, Fail, Output, Reasoning, Text, ToolCall, pieces, response_at, wait_or_raise

__all__ = ["ClaudeModel"]

REQUESTS_KEPT = 100
"""How many of the latest requests are kept to look at."""
REQUEST_BYTES_MAX = 1 << 24
"""Of one line of a request's head; its body may be longer."""
SIGNATURE = "signed"
"""Signs whatever it thinks."""
OUTPUT_TOOL = "StructuredOutput"
"""The tool by which the CLI takes a typed output."""
MARKS = ("<system-reminder>", "[Request interrupted", "Continue from where you left off")
"""What begins texts of the CLI's that are no message of a user."""
NOTIFICATION = "[SYSTEM NOTIFICATION"
"""In what the CLI tells of work in the background that has ended: that is answered as a message is."""


class ClaudeModel:
    """Says its chunks to whoever asks it as Anthropic's messages service is asked; see `gapless.testing.claude_model`.

    It listens from now on, in a thread of its own, until `close`.
    """

    def __init__(self, chunks: Sequence[Chunk], agents: Mapping[str, Sequence[Chunk]] | None = None) -> None:
        self.requests: collections.deque[dict[str, Any]] = collections.deque(maxlen=REQUESTS_KEPT)
        """The bodies of the requests for an answer, the latest last."""
        self._chunks = tuple(chunks)
        self._agents = {prompt: tuple(said) for prompt, said in (agents or {}).items()}
        self._asking: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Returns the service's address, `ANTHROPIC_BASE_URL`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """Returns the environment in which the CLI asks this model and nobody else."""
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
        }

    @property
    def running(self) -> int:
        """Returns how many requests are being answered: 0 once a cancel has reached the model."""
        return sum(not _is_gone(writer.get_extra_info("socket")) for writer in [*self._asking])

    def close(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # -- HTTP -------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connected, sock=self._socket, limit=REQUEST_BYTES_MAX))
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._socket.close()
            self._loop.close()

    @property
    def _port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0]) if "content-length:" in head else 0
                body = await reader.readexactly(length)
                await self._answer(head.split(" ")[1], body, reader, writer)
        writer.close()

    async def _answer(self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not path.startswith("/v1/messages") or "count_tokens" in path:
            writer.write(_whole(200, {"input_tokens": 1}))
            return
        asked = json.loads(body)
        self.requests.append(asked)
        if not asked.get("stream"):
            writer.write(_whole(200, await self._message(asked)))
            return
        self._asking.add(writer)
        gone = asyncio.ensure_future(reader.read(1))
        says = asyncio.ensure_future(self._say(asked, writer))
        try:
            await asyncio.wait({gone, says}, return_when=asyncio.FIRST_COMPLETED)
            if not says.done():
                raise ConnectionResetError
            says.result()
        finally:
            self._asking.discard(writer)
            for task in (gone, says):
                task.cancel()
            await asyncio.wait({gone, says})

    async def _say(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        begun = False
        try:
            async for event in _events(self._response(asked), asked):
                if not begun:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    begun = True
                frame = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
                writer.write(b"%x\r\n%s\r\n" % (len(frame), frame))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        except Exception as error:
            status = getattr(error, "status_code", 400)
            if begun:
                raise ConnectionResetError from error
            told = {"type": "error", "error": {"type": "invalid_request_error", "message": str(error)}}
            writer.write(_whole(status, told))
        await writer.drain()

    async def _message(self, asked: dict[str, Any]) -> dict[str, Any]:
        text = "".join(_text(chunk) for chunk in self._response(asked) if isinstance(chunk, str | Text))
        return {**_head(asked), "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}

    def _response(self, asked: dict[str, Any]) -> list[Chunk]:
        turn, request, answering = -1, 0, False
        for message in asked["messages"]:
            content = message["content"]
            if message["role"] == "user" and _is_said(content):
                turn, request, answering = turn + 1, 0, False
            request += message["role"] == "assistant" and not answering
            answering = message["role"] == "assistant"
        first = json.dumps(asked["messages"][0]["content"])
        chunks = next((said for prompt, said in self._agents.items() if prompt in first), self._chunks)
        return response_at(chunks, max(turn, 0), request)


async def _events(chunks: Sequence[Chunk], asked: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield an answer as the service streams it: blocks, one after another."""
    names = [tool["name"] for tool in asked.get("tools", ())]
    begun, at, kind, stop = False, -1, "", "end_turn"
    for chunk in chunks:
        if isinstance(chunk, Fail) and not begun:
            raise chunk.error.with_traceback(None)
        if not begun:
            yield {"type": "message_start", "message": {**_head(asked), "content": []}}
            begun = True
        if await wait_or_raise(chunk):
            continue
        of = type(chunk).__name__ if isinstance(chunk, Reasoning | ToolCall | Output) else "text"
        if of != kind or of in ("ToolCall", "Output"):
            for event in _stopped(at, kind):
                yield event
            at, kind = at + 1, of
            yield {"type": "content_block_start", "index": at, "content_block": _block(chunk, names)}
        for delta in _deltas(chunk):
            yield {"type": "content_block_delta", "index": at, "delta": delta}
        stop = "tool_use" if of in ("ToolCall", "Output") else stop
    if not begun:
        yield {"type": "message_start", "message": {**_head(asked), "content": []}}
    for event in _stopped(at, kind):
        yield event
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": None},
        "usage": {"output_tokens": 2},
    }
    yield {"type": "message_stop"}


def _stopped(at: int, kind: str) -> list[dict[str, Any]]:
    if at < 0:
        return []
    signed = {"type": "content_block_delta", "index": at, "delta": {"type": "signature_delta", "signature": SIGNATURE}}
    return [*([signed] if kind == "Reasoning" else []), {"type": "content_block_stop", "index": at}]


def _id(kind: str) -> str:
    """Make an id that no other process makes, in a run that goes on there: what has one that is there, the CLI takes
    for the same."""
    return f"{kind}_{uuid.uuid4().hex[:16]}"


def _block(chunk: Chunk, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(chunk, Reasoning):
        return {"type": "thinking", "thinking": "", "signature": ""}
    if isinstance(chunk, ToolCall | Output):
        wanted = chunk.name if isinstance(chunk, ToolCall) else OUTPUT_TOOL
        name = next((name for name in names if name == wanted or name.endswith(f"__{wanted}")), wanted)
        return {"type": "tool_use", "id": _id("toolu"), "name": name, "input": {}}
    return {"type": "text", "text": ""}


def _deltas(chunk: Chunk) -> list[dict[str, Any]]:
    if isinstance(chunk, Reasoning):
        return [{"type": "thinking_delta", "thinking": chunk.text}]
    if isinstance(chunk, ToolCall | Output):
        value = chunk.args if isinstance(chunk, ToolCall) else chunk.value
        return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(value)]
    return [{"type": "text_delta", "text": _text(chunk)}]


def _text(chunk: Any) -> str:
    return chunk.text if isinstance(chunk, Text) else str(chunk)


def _head(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": asked.get("model"),
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": len(asked["messages"]), "output_tokens": 1},
    }


def _is_said(content: Any) -> bool:
    """Return whether a user's message holds what somebody has said, and not results and reminders alone."""
    parts = [{"text": content}] if isinstance(content, str) else content
    texts = [str(part.get("text", "")) for part in parts if part.get("type") != "tool_result"]
    return any(not text.startswith(MARKS) or NOTIFICATION in text for text in texts)


def _whole(status: int, value: Any) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _is_gone(connection: Any) -> bool:
    """Return whether the other side has closed its connection; the loop may not have come to it."""
    try:
        with socket.socket(fileno=socket.dup(connection.fileno())) as own:
            return own.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
