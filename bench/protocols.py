"""How the load client asks each server for a run, and what marks the end of the answer. Pure functions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

DELTA = rb'"delta":\s?"([A-Za-z0-9+/]+)"'
LANGGRAPH_CHUNK = rb'"content":\s?"([A-Za-z0-9+/]{4})"'
AGNO_CHUNK = rb'"content":"([A-Za-z0-9+/]{4})"'
ADK_PARTIAL = rb'"text":"([A-Za-z0-9+/]{4})"'
"""The aggregate at the end of an ADK answer repeats the whole text: only 4-character parts are deltas."""


@dataclass(frozen=True)
class Protocol:
    path: str
    end: str
    """What the answer's last frames must hold; empty where the server marks no end."""
    text: bytes = DELTA
    line_end: bytes = b"\n"
    """Two of it end a frame; empty where the answer has none."""


PROTOCOLS = {
    "sse": Protocol("/stream", "event: end"),
    "fastapi": Protocol("/stream", ""),
    "broadcast": Protocol("/broadcast/1", "event: end"),
    "gapless": Protocol("/runs", "event: end"),
    "vercel": Protocol("/vercel", "[DONE]"),
    "ag-ui": Protocol("/ag-ui", "RUN_FINISHED"),
    "adk": Protocol("/run_sse", "", ADK_PARTIAL),
    "langgraph": Protocol("/runs/stream", "", LANGGRAPH_CHUNK, b"\r\n"),
    "agno": Protocol("/agents/scripted/runs", "event: RunCompleted", AGNO_CHUNK),
    "durable-streams": Protocol("/v1/stream", '"streamClosed":true'),
    "durable-streams-caught-up": Protocol("/v1/stream", "", line_end=b""),
}

BASE64_TEXT = rb'"(?:delta|text|content)":\s?"([A-Za-z0-9+/]+)"'
"""Text deltas on any wire of Gapless."""


def post(path: str, body: Any) -> str:
    """An HTTP/1.1 request for an event stream with a JSON body."""
    return _with("POST", path, json.dumps(body), "application/json")


def _with(method: str, path: str, content: str, content_type: str) -> str:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(content)}\r\n\r\n{content}"
    )


def get(path: str) -> str:
    """An HTTP/1.1 request for an event stream."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"


def start(protocol: str, key: str, message: str, session: str | None = None, history: int = 0) -> str:
    """The request that starts a run named `key`. `history` is sent along where the server keeps no session."""
    path = PROTOCOLS[protocol].path
    turns = [("user" if i % 2 == 0 else "assistant", f"m{i}") for i in range(history)]
    if protocol == "gapless":
        return post(path, {"message": message, "run_id": key, **({"session_id": session} if session else {})})
    if protocol == "vercel":
        messages = [
            {"id": f"m{i}", "role": role, "parts": [{"type": "text", "text": t}]} for i, (role, t) in enumerate(turns)
        ]
        messages.append({"id": "last", "role": "user", "parts": [{"type": "text", "text": message}]})
        return post(path, {"trigger": "submit-message", "id": session or key, "messages": messages})
    if protocol == "ag-ui":
        messages = [{"id": f"m{i}", "role": role, "content": t} for i, (role, t) in enumerate(turns)]
        messages.append({"id": "last", "role": "user", "content": message})
        body = {"threadId": session or key, "runId": key, "state": {}, "messages": messages, "tools": [], "context": []}
        return post(path, {**body, "forwardedProps": {}})
    if protocol == "adk":
        content = {"role": "user", "parts": [{"text": message}]}
        body = {"appName": "scripted", "userId": "u", "sessionId": session or key, "newMessage": content}
        return post(path, {**body, "streaming": True})
    if protocol == "langgraph":
        given = {"messages": [{"role": "user", "content": message}]}
        return post(path, {"assistant_id": "scripted", "input": given, "stream_mode": ["messages-tuple"]})
    if protocol == "agno":
        fields = {"message": message, "stream": "true", "session_id": session or key, "user_id": "u"}
        return _with("POST", path, urlencode(fields), "application/x-www-form-urlencoded")
    if protocol == "durable-streams":
        return _with("PUT", durable_stream(key, message), "", "application/json")
    return post(path, {"message": message})


def durable_stream(key: str, message: str) -> str:
    """The path of a stream: whoever makes it starts the run that its last part asks for."""
    return f"{PROTOCOLS['durable-streams'].path}/{key}/{quote(message, safe='')}"
