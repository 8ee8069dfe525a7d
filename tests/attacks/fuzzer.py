"""Requests as no client makes them: over every route and method, each from a seed, so that one that did harm can be
made again."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.attacks.connection import ws_frame

LONG_CHARS = 100_000
HUGE_BYTES = 5 * 1024 * 1024
"""Over `body_bytes_max`."""
DEPTHS = (5, 41, 200, 20_000)
METHODS = ("GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "get", "FOO", "PROPFIND", "CONNECT")
_TEXT = {"type": "text", "text": "3 0 5"}

BODIES: dict[str, Callable[[random.Random, Ids], Any]] = {
    "/runs": lambda rng, ids: {
        "message": rng.choice(["3 0 5", [_TEXT]]),
        "agent": rng.choice(ids.agents),
        "session_id": ids.session(rng),
        "config": {
            "on_busy": rng.choice(["queue", "reject", "interrupt"]),
            "timeout": 20,
            "model_settings": {"seed": 1},
        },
    },
    "/runs/{run_id}/input": lambda rng, ids: rng.choice(
        [
            {"resume": [{"interruptId": "q", "status": "resolved", "payload": {"yes": True}}]},
            {"live": {"content": "hello", "id": "one"}},
            {"live": {"blob": {"data": "AAAA"}}},
        ]
    ),
    "/sessions": lambda rng, ids: {"id": ids.session(rng), "state": {"a": {"b": [1, 2, {"c": "d"}]}}},
    "/sessions/{session_id}": lambda rng, ids: {"title": "another"},
    "/run_sse": lambda rng, ids: {
        "appName": rng.choice(ids.agents),
        "userId": ids.user,
        "sessionId": ids.session(rng),
        "newMessage": {"role": "user", "parts": [{"text": "3 0 5"}]},
        "streaming": True,
        "stateDelta": {"a": 1},
    },
    "/apps/{app}/users/{user}/sessions": lambda rng, ids: {
        "state": {"a": 1},
        "sessionId": ids.session(rng),
        "events": [],
    },
    "/apps/{app}/users/{user}/sessions/{session_id}": lambda rng, ids: {"stateDelta": {"a": {"b": 1}}},
    "/ag-ui": lambda rng, ids: {
        "threadId": ids.session(rng),
        "runId": ids.run(rng),
        "messages": [{"id": "m1", "role": "user", "content": "3 0 5"}],
        "tools": [{"name": "t", "description": "d", "parameters": {"type": "object"}}],
        "context": [{"description": "d", "value": "v"}],
        "state": {"a": 1},
        "forwardedProps": {"p": 1},
    },
    "/v1/chat/completions": lambda rng, ids: {
        "model": rng.choice(ids.agents),
        "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": [_TEXT]}],
        "stream": rng.random() < 0.7,
        "temperature": 0.5,
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": lambda rng, ids: {
        "model": rng.choice(ids.agents),
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "3 0 5"}]}],
        "stream": rng.random() < 0.7,
        "previous_response_id": None,
    },
    "/chat/stream": lambda rng, ids: {
        "message": "3 0 5",
        "agent": rng.choice(ids.agents),
        "session_id": ids.session(rng),
    },
    "/vercel/chat": lambda rng, ids: {
        "id": ids.session(rng),
        "messages": [{"id": "m1", "role": "user", "parts": [_TEXT]}],
        "trigger": "submit-message",
    },
}
BODIES["/run"] = BODIES["/run_sse"]
PARAMS: tuple[str, ...] = (
    "after",
    "limit",
    "wire",
    "merge",
    "status",
    "session_id",
    "run_id",
    "runId",
    "agent",
    "offset",
    "join",
)
PARAMS += ("streaming", "message", "query", "threadId", "stream", "starting_after", "config", "detailed", "next")
HEADERS: tuple[str, ...] = (
    "last-event-id",
    "accept",
    "content-type",
    "x-run-id",
    "idempotency-key",
    "host",
    "origin",
    "cookie",
)
HEADERS += (
    "if-none-match",
    "range",
    "expect",
    "te",
    "upgrade",
    "accept-encoding",
    "x-forwarded-for",
    "content-encoding",
)
WIRES = ("ag-ui", "vercel", "openai", "openai-responses", "adk", "text")
HOSTILE = (
    *("", " ", "0", "-1", "1.5", "1e3", "00", "999999999999999999999", "9" * 5000, "٣", "0x10", "NaN", "null", "true"),
    *(
        "1.end",
        "1.1",
        "run:1",
        ":",
        "%",
        "%zz",
        "%00",
        "\x00",
        "..",
        "../../etc/passwd",
        "a/b",
        "a b",
        "é",
        "\U0001f600",
    ),
    *(
        "\r\nx-evil: 1",
        "'; DROP TABLE runs; --",
        "*",
        "{",
        "}",
        "[",
        "\\",
        "<script>",
        "\u2028",
        "\ud800",
        "text/event-stream",
    ),
    *(
        "application/json",
        "application/json; charset=utf-16",
        "multipart/form-data",
        "bytes=0-1",
        "100-continue",
        "gzip",
    ),
)


@dataclass(slots=True)
class Ids:
    """What a hostile request can name: things that there are, and things of others."""

    user: str
    agents: Sequence[str]
    runs: Sequence[str] = ()
    sessions: Sequence[str] = ()

    def run(self, rng: random.Random) -> str:
        return rng.choice(self.runs) if self.runs and rng.random() < 0.7 else f"{self.user}-f{rng.randrange(10**9)}"

    def session(self, rng: random.Random) -> str:
        if self.sessions and rng.random() < 0.5:
            return rng.choice(self.sessions)
        return f"{self.user}-f{rng.randrange(10**9)}"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One request: its bytes, what it is about, and whether the server may wait for more of it."""

    raw: bytes
    about: str
    unfinished: bool = False


def hostile_text(rng: random.Random) -> str:
    if rng.random() < 0.02:
        return rng.choice(string.ascii_letters) * LONG_CHARS
    if rng.random() < 0.2:
        return "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xD800)])) for _ in range(rng.randrange(30)))
    return rng.choice(HOSTILE)


def hostile_value(rng: random.Random) -> Any:
    """A JSON value that nobody expects there."""
    match rng.randrange(12):
        case 0:
            return None
        case 1:
            return rng.choice([True, False])
        case 2:
            return rng.choice([0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**70), 10**400])
        case 3:
            return rng.choice([0.1, -0.0, 1e308, 1e-320])
        case 4 | 5:
            return []
        case 6:
            return {}
        case 7:
            value: Any = "deep"
            for _ in range(rng.choice(DEPTHS[:3])):
                value = [value] if rng.random() < 0.5 else {"a": value}
            return value
        case 8:
            return [hostile_value(rng) for _ in range(rng.randrange(4))]
        case 9:
            return {hostile_text(rng): hostile_value(rng) for _ in range(rng.randrange(4))}
        case _:
            return hostile_text(rng)


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with something in it changed, wherever."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        rest = {name: one for name, one in value.items() if name != key}
        match rng.randrange(8):
            case 0:
                return rest
            case 1:
                return {**rest, hostile_text(rng): value[key]}
            case 2:
                return {**value, hostile_text(rng): hostile_value(rng)}
            case _:
                return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value * rng.randrange(4)
        return [*value[:index], changed(value[index], rng), *value[index + 1 :]]
    return hostile_value(rng)


def encoded(value: Any, rng: random.Random) -> bytes:
    """A value as JSON, or as what is nearly JSON."""
    data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(24):
        case 0:
            return data[: rng.randrange(len(data) + 1)]
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32"]), "replace")
        case 3:
            place = rng.randrange(len(data) + 1)
            return data[:place] + rng.randbytes(rng.randrange(1, 5)) + data[place:]
        case 4:
            return data.replace(b"1", rng.choice([b"NaN", b"Infinity", b"1" * 5000, b"01", b"1e999"]))
        case 5:
            return data.replace(b"{", b'{"message":"twice",', 1)
        case 6:
            deep = rng.choice(DEPTHS)
            return rng.choice([b"[" * deep, b'{"a":' * deep, b"[" * deep + b"]" * deep])
        case 7:
            return data + rng.choice([b"\x00", b"}", data, b" " * 1000])
        case 8 if rng.random() < 0.05:
            return data + b" " * HUGE_BYTES
        case _:
            return data


def hostile_request(
    seed: str, routes: Sequence[tuple[str, str]], ids: Ids, key: str | None, *, framing: bool = True
) -> Hostile:
    """A request that follows from its seed; `routes` are (method, path) as OpenAPI has them."""
    rng = random.Random(seed)
    method, template = rng.choice(routes)
    target = _target(template, rng, ids)
    if rng.random() < 0.08:
        method = rng.choice(METHODS)
    headers = [("host", "127.0.0.1")]
    if key is not None:
        headers.append(("authorization", f"Bearer {key}") if rng.random() < 0.8 else ("x-api-key", key))
    if rng.random() < 0.5:
        headers.append(("accept", rng.choice(["text/event-stream", "application/json", "*/*"])))
    odd = rng.choice([0, 0, 0, 1, 2])
    headers += [(rng.choice(HEADERS), hostile_text(rng)[:20_000]) for _ in range(odd)]
    body = None
    if method in ("POST", "PATCH", "PUT") or rng.random() < 0.05:
        make = BODIES.get(template, BODIES["/runs"])
        value = make(rng, ids)
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            value = changed(value, rng)
        body = encoded(value, rng)
        headers.append(("content-type", "application/json"))
    raw, unfinished = _framed(method, target, headers, body, rng, framing=framing)
    return Hostile(raw, f"{method} {target[:200]}", unfinished)


def _target(template: str, rng: random.Random, ids: Ids) -> str:
    parts = []
    for part in template.split("/"):
        if not part.startswith("{"):
            parts.append(part)
        elif rng.random() < 0.2:
            parts.append(_in_url(hostile_text(rng)[:2000], rng))
        elif "run" in part or "response" in part:
            parts.append(ids.run(rng))
        elif "session" in part or "chat" in part:
            parts.append(ids.session(rng))
        else:
            parts.append(ids.user if "user" in part else rng.choice(ids.agents))
    target = "/".join(parts)
    if rng.random() < 0.03:
        target = rng.choice(["/" + target, target + "/", "http://other.example" + target, "*", target + "/.."])
    params = []
    for _ in range(rng.choice([0, 0, 1, 2, 5])):
        name = rng.choice(PARAMS)
        value = rng.choice(WIRES) if name == "wire" and rng.random() < 0.8 else hostile_text(rng)[:2000]
        params.append(f"{name}={_in_url(value, rng)}")
    return target + ("?" + "&".join(params) if params else "")


def _in_url(text: str, rng: random.Random) -> str:
    if rng.random() < 0.1:  # as it is, but for what would end the line
        return text.replace("\r", "").replace("\n", "").replace(" ", "").replace("\x00", "")
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _framed(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes | None, rng: random.Random, *, framing: bool
) -> tuple[bytes, bool]:
    """The request's bytes, at times with a frame around the body that does not fit it."""
    unfinished = "100-continue" in dict(headers).get("expect", "")
    odd = rng.randrange(40) if framing else 40
    pieces = [body] if body is not None else []
    match odd:
        case 0:
            headers.append(("content-length", str(len(body or b"") + rng.randrange(1, 1000))))
            unfinished = True
        case 1:
            headers.append(("content-length", rng.choice(["-1", "+5", "0x5", "5, 5", "", "9" * 40, "1e3"])))
            unfinished = True
        case 2:
            headers += [("content-length", "5"), ("content-length", "6")]
            unfinished = True
        case 3:
            headers += [("transfer-encoding", "chunked"), ("content-length", "5")]
            unfinished = True
        case 4 | 5 if body is not None:
            headers.append(("transfer-encoding", "chunked"))
            pieces, unfinished = _odd_chunks(body, rng)
        case 6:
            headers.append(("transfer-encoding", rng.choice(["gzip", "chunked, gzip", "identity", "Chunked ", "x"])))
            unfinished = True
        case _ if body is not None:
            headers.append(("content-length", str(len(body))))
    version = rng.choice(["HTTP/1.0", "HTTP/2.0", "HTTP/1.9", "HTTX/1.1", ""]) if odd == 7 else "HTTP/1.1"
    if odd == 8:
        headers += [(f"x-{number}", "v") for number in range(rng.choice([50, 500]))]
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    raw = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"".join(pieces)
    if odd == 9:
        raw = raw[: rng.randrange(1, len(raw) + 1)]
        unfinished = True
    if odd == 10:
        place = rng.randrange(len(raw) + 1)
        raw = raw[:place] + rng.randbytes(rng.randrange(1, 20)) + raw[place:]
        unfinished = True
    return raw, unfinished


def _odd_chunks(body: bytes, rng: random.Random) -> tuple[list[bytes], bool]:
    pieces, place, unfinished = [], 0, False
    while place < len(body):
        size = rng.choice([1, 7, 1000, len(body)])
        chunk = body[place : place + size]
        place += size
        head = b"%x%b\r\n" % (len(chunk), rng.choice([b"", b"", b";name=value", b'; q="a b"']))
        if rng.random() < 0.03:
            head = rng.choice([b"-1\r\n", b"zz\r\n", b"f" * 20 + b"\r\n", b"\r\n", b"0x5\r\n"])
            unfinished = True
        pieces += [head, chunk, b"\r\n"]
        if len(pieces) > 300:
            pieces.append(b"%x\r\n%b\r\n" % (len(body) - place, body[place:]) if place < len(body) else b"")
            break
    pieces.append(rng.choice([b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n", b"0\r\n" + b"a: b\r\n" * 100 + b"\r\n"]))
    if rng.random() < 0.1:
        return pieces[:-1], True
    return pieces, unfinished


def hostile_frames(rng: random.Random) -> list[bytes]:
    """What is sent through a WebSocket that was opened properly."""
    frames = []
    for _ in range(rng.randrange(1, 8)):
        said = changed({"content": "hello", "id": "one"}, rng) if rng.random() < 0.6 else {"content": "hello"}
        payload = encoded(said, rng)[:200_000]
        match rng.randrange(14):
            case 0:
                frames.append(ws_frame(rng, 1, b"\xff\xfe bad"))
            case 1:
                frames.append(ws_frame(rng, rng.choice([3, 5, 7, 11, 15]), payload[:100]))
            case 2:
                frames.append(ws_frame(rng, 1, payload, mask=False))
            case 3:
                frames.append(ws_frame(rng, 1, payload, rsv=rng.randrange(1, 8)))
            case 4:
                frames += [ws_frame(rng, 1, payload[:5], fin=False), ws_frame(rng, 0, payload[5:])]
            case 5:
                frames.append(ws_frame(rng, 0, payload))
            case 6:
                frames.append(ws_frame(rng, 9, rng.randbytes(rng.choice([0, 125, 126, 1000]))))
            case 7:
                code = rng.choice([b"", b"\x03", b"\x03\xe8", b"\x00\x00", b"\xff\xff", b"\x03\xe8\xff"])
                frames.append(ws_frame(rng, 8, code))
            case 8:
                frames.append(ws_frame(rng, 2, rng.randbytes(rng.choice([0, 1, 10_000]))))
            case 9:
                frames.append(rng.randbytes(rng.randrange(1, 100)))
            case 10:
                frames.append(b"\x81\xff" + (2**62).to_bytes(8, "big") + b"\x00" * 20)
            case _:
                frames.append(ws_frame(rng, 1, payload))
    return frames
