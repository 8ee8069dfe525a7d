"""The Python client: its parser, and that no cut of any kind at any byte loses or repeats anything."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.staticfiles import StaticFiles

from gapless import LiveRequest, RunConfig, Runner, StreamingMode, create_app
from gapless.agents.base import RunContext
from gapless.client import ClientLimits, Cut, GaplessClient, SyncClient
from gapless.errors import (
    ConnectionLost,
    GaplessError,
    InputInvalid,
    NotAuthenticated,
    RunConflict,
    RunFenced,
    RunNotFound,
    SessionNotFound,
    StreamInvalid,
    UsageError,
)
from gapless.events import (
    AssistantMessage,
    Event,
    Interrupt,
    ResumeEntry,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    UserMessage,
    encode_event,
    text_of,
)
from gapless.records import RunStatus
from gapless.sse import RETRY_MS_MAX, EventStreamParser, Frame
from gapless.testing import ScriptedAgent, serving
from tests.support.waiting import WAIT_S

IMPATIENT = ClientLimits(retry_first_s=0.001, retry_max_s=0.002, connect_timeout_s=WAIT_S, idle_timeout_s=WAIT_S)

# ------------------------------------------------------------------------------------------------------- the parser


def parsed(*pieces: bytes, limit: int = 1000) -> list[Frame]:
    parser = EventStreamParser(limit)
    return [frame for piece in pieces for frame in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"data: a\n\n", [Frame("message", "a", None)]),
        (b"data:a\n\n", [Frame("message", "a", None)]),
        (b"data:  a\n\n", [Frame("message", " a", None)]),
        (b"data: a\ndata\ndata: b\n\n", [Frame("message", "a\n\nb", None)]),
        (b"id: 7\nevent: x\ndata: a\n\n", [Frame("x", "a", "7")]),
        (b"id: 7\nid\ndata: a\n\n", [Frame("message", "a", "")]),
        (b"id: 7\0\ndata: a\n\n", [Frame("message", "a", None)]),
        (b": ping\n", []),
        (b": ping\ndata: a\n\n", [Frame("message", "a", None)]),
        (b"\xef\xbb\xbfdata: a\n\n", [Frame("message", "a", None)]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Frame("message", "a", None)]),
        (b"event: end\nid: 9.end\n\n", [Frame("end", None, "9.end")]),
        (b"id: 3\n\n", []),
        (b"unknown: field\nDATA: a\n\n", []),
        (b"data: \xe2\x82\xac\n\n", [Frame("message", "€", None)]),
        ("data: a\u2028b\x0bc\x85d\n\n".encode(), [Frame("message", "a\u2028b\x0bc\x85d", None)]),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
    ],
)
def test_parser_reads_what_the_standard_says(stream: bytes, frames: list[Frame]) -> None:
    assert parsed(stream) == frames


@given(st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_parser_does_not_care_how_the_stream_is_cut_into_pieces(data: st.DataObject, end: str) -> None:
    lines = ["\ufeff: hello", "id: 1", "data: {", "data: €}", "", "event: x", "data", "", ": ping", "retry: 20", "", ""]
    stream = end.join(lines).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parsed(*pieces) == [Frame("message", "{\n€}", "1"), Frame("x", "", None)]


def test_parser_keeps_the_last_id_of_complete_frames_and_the_retry_time() -> None:
    parser = EventStreamParser()
    parser.feed(b"id: 1\nretry: 250\ndata: a\n\nid: 2\ndata: b\n\nid: 3\nretry: soon\nda")
    assert (parser.last_event_id, parser.retry_ms) == ("2", 250)


@pytest.mark.parametrize(
    ("text", "retry_ms"),
    [("0", 0), ("000000000000000000250", 250), ("9" * 400, RETRY_MS_MAX), ("9" * 5000, RETRY_MS_MAX)]
    + [(text, None) for text in ("", "-1", "1_0", "1e3", "٣", "²")],
)
def test_parser_takes_a_retry_time_of_any_size_and_ascii_digits_only(text: str, retry_ms: int | None) -> None:
    parser = EventStreamParser()
    parser.feed(f"retry: {text}\n\n".encode())
    assert parser.retry_ms == retry_ms


def test_parser_refuses_a_frame_over_the_limit() -> None:
    assert parsed(*[b": keep-alive\n"] * 20, limit=40) == []
    assert len(parsed(*[b"data: 0123456789\n\n"] * 100, limit=40)) == 100
    with pytest.raises(StreamInvalid, match="frame_bytes_max=40"):
        parsed(b"data: 0123456789\n", b"data: 0123456789\n", b"data: 0123456789", limit=40)


# ----------------------------------------------------------------------------------------- cuts, by a scripted server

EVENTS: list[Event] = [
    RunStartedEvent(thread_id="s", run_id="r"),
    TextMessageStartEvent(message_id="m", role="assistant"),
    *(TextMessageContentEvent(message_id="m", delta=delta) for delta in ("Hel", "lo €", "\n😀", " end")),
    RunFinishedEvent(thread_id="s", run_id="r"),
]
WANTED = list(enumerate(EVENTS, 1))


def body(after: int) -> bytes:
    """What the server sends after an event: frames with ids, a keep-alive, the end marker."""
    frames = [b"id: %d\ndata: %b\n\n" % (seq, encode_event(event)) for seq, event in WANTED if seq > after]
    return b": ping\n".join(frames) + b"event: end\nid: %d.end\n\n" % len(EVENTS)


OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n"
Handler = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


class Request:
    def __init__(self, method: str, target: str, headers: dict[str, str], content: bytes) -> None:
        self.method, self.target, self.headers, self.content = method, target, headers, content
        self.path, _, query = target.partition("?")
        position = query.removeprefix("after=")
        self.after = int(position) if position.isdigit() else 0


@asynccontextmanager
async def scripted(handler: Handler) -> AsyncIterator[str]:
    """A server whose every answer is written by `handler`, byte by byte if it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            assert len(headers) == len(head) - 3, f"a header twice: {head}"
            content = await reader.readexactly(int(headers.get("content-length", "0")))
            await handler(Request(method, target, headers, content), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def collect(client: GaplessClient, run_id: str = "r", after: int = 0) -> list[tuple[int, Event]]:
    return [item async for item in client.follow(run_id, after)]


@pytest.mark.parametrize("kind", ["clean", "reset", "chunked"])
async def test_a_cut_at_any_byte_loses_and_repeats_nothing(kind: str) -> None:
    """`clean`: the connection ends as if all were said; `reset`: abruptly; `chunked`: in the middle of a chunk."""
    offset = 0
    cut = False

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        content = body(request.after)
        if kind == "chunked":
            head = OK + b"transfer-encoding: chunked\r\n\r\n"
            answer = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        else:
            head = OK + b"\r\n"
            answer = head + content
        if cut:
            writer.write(answer)
            return
        cut = True
        writer.write(answer[: len(head) + offset])
        await writer.drain()
        if kind == "reset":
            reset(writer)

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        for offset in range(0, len(body(0)), 1 if kind == "clean" else 3):
            cut = False
            assert await collect(client) == WANTED, f"cut after {offset} bytes"


async def test_a_cut_before_the_headers_is_a_cut_as_well() -> None:
    requests: list[int] = []

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        requests.append(request.after)
        writer.write(OK[:20] if len(requests) == 1 else OK + b"\r\n" + body(request.after))

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        assert await collect(client, after=3) == WANTED[3:]
    assert requests == [3, 3]


async def test_resumes_from_the_last_event_and_tells_of_each_cut() -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        one_frame = body(request.after).partition(b"\n\n")[0] + b"\n\n"
        writer.write(OK + b"\r\n" + (one_frame if request.after < len(EVENTS) else body(request.after)))

    cuts: list[Cut] = []
    limits = msgspec.structs.replace(IMPATIENT, attempts_max=2)  # progress starts the count anew
    async with scripted(handler) as url, GaplessClient(url, limits=limits, on_cut=cuts.append) as client:
        assert await collect(client) == WANTED
    assert [(cut.after, cut.attempt) for cut in cuts] == [(seq, 0) for seq, _ in WANTED]


async def test_gives_up_after_so_many_connections_without_anything_new() -> None:
    requests: list[int] = []

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        requests.append(request.after)
        frames = body(0).split(b"\n\n")
        writer.write(OK + b"\r\n" + (frames[0] + b"\n\n" if len(requests) == 1 else b": ping\n"))

    limits = msgspec.structs.replace(IMPATIENT, attempts_max=3)
    async with scripted(handler) as url, GaplessClient(url, limits=limits) as client:
        with pytest.raises(ConnectionLost, match="nothing new in 3 connections") as raised:
            await collect(client)
    assert requests == [0, 1, 1, 1]
    assert raised.value.run_id == "r"


async def test_a_silent_connection_is_a_cut() -> None:
    requests = 0

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        writer.write(OK + b"\r\n" + (body(0)[:100] if requests == 1 else body(request.after)))
        await writer.drain()
        if requests == 1:
            await asyncio.Event().wait()

    limits = msgspec.structs.replace(IMPATIENT, idle_timeout_s=0.1)
    async with scripted(handler) as url, GaplessClient(url, limits=limits) as client:
        assert await collect(client) == WANTED


def answer_with(status: str, content: bytes = b"", content_type: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(content)}\r\n{more}"
    return f"{head}connection: close\r\n\r\n".encode() + content


async def test_an_ended_run_that_was_seen_whole_is_an_empty_stream() -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

    async with scripted(handler) as url, GaplessClient(url) as client:
        assert await collect(client, after=7) == []


async def test_later_is_waited_for_and_no_is_final() -> None:
    answers = [
        answer_with("503 Service Unavailable", b"down", "text/plain", "retry-after: 0\r\n"),
        answer_with("404 Not Found", b'{"error":{"code":"run_not_found","message":"no run r","run_id":"r"}}'),
    ]

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        with pytest.raises(RunNotFound, match="no run r"):
            await collect(client)
    assert answers == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (answer_with("200 OK", b"<html>please log in</html>", "text/html"), "not an event stream"),
        (OK + b"\r\nid: 1\ndata: {}\n\n", "no event of AG-UI"),
        (OK + b'\r\nid: x\ndata: {"type":"RAW","event":1}\n\n', "no event of AG-UI"),
        (OK + b"\r\n" + body(0), "sent event 1 again after 2"),
        (OK + b'\r\nid: 3_0\ndata: {"type":"RAW","event":1}\n\n', "no event of AG-UI"),
        (OK + b'\r\nid: \xd9\xa3\ndata: {"type":"RAW","event":1}\n\n', "no event of AG-UI"),
        (OK + b"\r\nid: " + b"9" * 5000 + b'\ndata: {"type":"RAW","event":1}\n\n', "no event of AG-UI"),
        (OK + b'\r\nid: 3\ndata: {"type":"RAW","event":' + b"[" * 200_000 + b"\n\n", "no event of AG-UI"),
        (OK + b'\r\ndata: {"type":"RAW","event":1}\n\n', "no event of AG-UI"),
        (OK + b"\r\n:" + b"x" * 1_000_001, "frame_bytes_max=1000000"),
        (OK + b"content-encoding: gzip\r\n\r\nzzzz", "header"),
    ],
)
async def test_what_is_no_stream_of_gapless_is_refused(answer: bytes, message: str) -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    limits = msgspec.structs.replace(IMPATIENT, frame_bytes_max=1_000_000)
    async with scripted(handler) as url, GaplessClient(url, limits=limits) as client:
        with pytest.raises(StreamInvalid, match=message) as raised:
            await collect(client, after=2)
    assert raised.value.run_id == "r"
    assert str(raised.value).startswith(f"run r: {url} sent what is no stream of Gapless")
    assert len(str(raised.value)) < 600


async def test_an_absurd_retry_time_is_waited_for_within_the_limit() -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        frames = body(request.after).partition(b"\n\n")[0] + b"\n\n" if request.after == 0 else body(request.after)
        writer.write(OK + b"\r\nretry: " + b"9" * 5000 + b"\n" + frames)

    cuts: list[Cut] = []
    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT, on_cut=cuts.append) as client:
        assert await collect(client) == WANTED
    assert [cut.wait_s <= IMPATIENT.retry_max_s for cut in cuts] == [True]


GZIP = "content-encoding: gzip\r\n"
DEEP = b"[" * 200_000
BROKEN = [
    (answer_with("200 OK", b'{"id":"\xff"}'), "is no RunRecord"),
    (answer_with("200 OK", b'{"x":' + DEEP), "is no RunRecord"),
    (answer_with("200 OK", b"null"), "is no RunRecord"),
    (answer_with("204 No Content"), "is no RunRecord"),
    (answer_with("200 OK", b"zzzz", more=GZIP), "not encoded as it says"),
    (answer_with("200 OK", b'"' + b"x" * 1_000_001), "answer_bytes_max=1000000"),
    (answer_with("200 OK", gzip.compress(b"x" * 10_000_000), more=GZIP), "answer_bytes_max=1000000"),
]


@pytest.mark.parametrize(("answer", "message"), BROKEN)
async def test_what_is_no_answer_of_gapless_is_refused(answer: bytes, message: str) -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    limits = msgspec.structs.replace(IMPATIENT, answer_bytes_max=1_000_000)
    async with scripted(handler) as url, GaplessClient(url, limits=limits) as client:
        with pytest.raises(StreamInvalid, match=message) as raised:
            await client.record("r")
    assert str(raised.value).startswith(f"{url}/runs/r answered")


@pytest.mark.parametrize("answer", [answer.replace(b"200 OK", b"403 Forbidden") for answer, _ in BROKEN])
async def test_a_refusal_that_says_nothing_readable_is_told_by_its_status(answer: bytes) -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer.replace(b"204 No Content", b"403 Forbidden"))

    limits = msgspec.structs.replace(IMPATIENT, answer_bytes_max=1_000_000)
    async with scripted(handler) as url, GaplessClient(url, limits=limits) as client:
        for asked in (client.record("r"), collect(client)):
            with pytest.raises(GaplessError, match=r"GET .*/runs/r.*: HTTP 403") as raised:
                await asked
            assert raised.value.code == "http_error"


@pytest.mark.parametrize("path", ["", "/agent", "/agents/v2"])
@pytest.mark.parametrize("with_files", [True, False])
async def test_a_wrong_base_url_is_told_as_such(path: str, with_files: bool, tmp_path: Path) -> None:
    app = FastAPI()
    app.mount("/agents", create_app(Runner(ScriptedAgent("never"))))
    if with_files:  # its answer to a POST is 405
        app.mount("/", StaticFiles(directory=tmp_path))
    with serving(app) as url:
        async with GaplessClient(url + path) as client:
            for asked in (client.start("hi"), client.record("r"), client.sessions(), collect(client)):
                with pytest.raises(StreamInvalid) as raised:
                    await asked
                told = f"no Gapless server at {url}{path}; is it mounted under a path? ("
                assert str(raised.value).startswith(told)
                assert str(raised.value).endswith((": HTTP 404)", ": HTTP 405)"))
        async with GaplessClient(url + "/agents") as client:
            for asked in (client.record("r"), collect(client)):
                with pytest.raises(RunNotFound):
                    await asked


@pytest.mark.parametrize("location", ["http://[", "/runs/r/events", "http://elsewhere.invalid/"])
async def test_a_redirect_is_not_followed(location: str) -> None:
    requests: list[str] = []

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        requests.append(request.path)
        writer.write(answer_with("307 Temporary Redirect", more=f"location: {location}\r\n"))

    limits = msgspec.structs.replace(IMPATIENT, attempts_max=1, request_attempts_max=1)
    async with scripted(handler) as url, GaplessClient(url, api_key="secret", limits=limits) as client:
        for asked in (client.record("r"), collect(client)):
            with pytest.raises(GaplessError, match=r"HTTP 307|Invalid URL"):
                await asked
    assert requests == ["/runs/r", "/runs/r/events"]


async def test_a_start_whose_answer_is_lost_is_repeated_under_its_id() -> None:
    bodies: list[dict[str, str]] = []

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        bodies.append(msgspec.json.decode(request.content))
        if len(bodies) == 1:
            reset(writer)
            return
        record = {"id": bodies[-1]["run_id"], "session_id": "s", "user_id": "u", "agent": "a"}
        content = msgspec.json.encode({**record, "message": "hi", "created_at": 1, "status": "running"})
        writer.write(answer_with("202 Accepted", content))

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        run = await client.start("hi")
    assert [body["run_id"] for body in bodies] == [run.id, run.id]


async def test_an_answer_that_may_have_arrived_is_not_repeated() -> None:
    requests = 0

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        reset(writer)

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        with pytest.raises(ConnectionLost, match="does not answer"):
            await client.answer("r", [ResumeEntry(interrupt_id="i", status="resolved")])
    assert requests == 1


async def test_the_key_comes_from_the_caller_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str | None] = []

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        keys.append(request.headers.get("authorization"))
        writer.write(answer_with("401 Unauthorized", b'{"error":{"code":"not_authenticated","message":"send a key"}}'))

    monkeypatch.setenv("GAPLESS_API_KEY", "from-the-environment")
    async with scripted(handler) as url:
        for key in (None, "given", ""):
            async with GaplessClient(url, api_key=key) as client:
                with pytest.raises(NotAuthenticated):
                    await client.runs()
        async with GaplessClient(url, headers={"Authorization": "Own it"}) as client:  # in place of a key
            with pytest.raises(NotAuthenticated):
                await client.runs()
    assert keys == ["Bearer from-the-environment", "Bearer given", None, "Own it"]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not a server's URL"):
        GaplessClient(url)


# ---------------------------------------------------------------------------------------------------- the real server


async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
    if message == "talk":
        async for request in ctx.live:
            yield f"You said {text_of(request.content)}. "
        return
    if message == "ask":
        entries = await ctx.interrupt([Interrupt(id="i1", reason="approval", message="May I?")])
        yield f"answered {entries[0].payload}"
        return
    yield "Hello "
    if message == "hang":
        await asyncio.Event().wait()
    yield "world"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(Runner(agent), drain_s=0)) as url:
        yield url


def text_of_run(items: list[tuple[int, Event]]) -> str:
    return "".join(event.delta for _, event in items if isinstance(event, TextMessageContentEvent))


async def test_start_follow_and_read_back(url: str) -> None:
    async with GaplessClient(url) as client:
        run = await client.start("hi", session_id="read-back", run_id="run-1")
        again = await client.start("hi", session_id="read-back", run_id="run-1")
        assert (again.id, again.created_at) == (run.id, run.created_at)
        items = await collect(client, run.id)
        assert text_of_run(items) == "Hello world"
        assert isinstance(items[-1][1], RunFinishedEvent)
        assert await collect(client, run.id, after=items[-1][0]) == []
        page = await client.page(run.id)
        assert (len(page.events), page.last_seq, page.ended) == (items[-1][0], items[-1][0], True)
        assert [run.id for run in await client.runs(session_id="read-back")] == ["run-1"]
        with pytest.raises(RunConflict):
            await client.start("something else", session_id="read-back", run_id="run-1")
        with pytest.raises(RunNotFound):
            await collect(client, "no-such-run")


async def test_cancel_keeps_what_was_said(url: str) -> None:
    async with GaplessClient(url) as client:
        run = await client.start("hang")
        items = []
        async for item in client.follow(run.id):
            items.append(item)
            if isinstance(item[1], TextMessageContentEvent):
                await client.cancel(run.id)
        assert text_of_run(items) == "Hello "
        last = items[-1][1]
        assert isinstance(last, RunFinishedEvent)
        assert isinstance(last.outcome, RunFinishedCancelledOutcome)


async def test_an_interrupted_run_is_answered_and_followed_on(url: str) -> None:
    async with GaplessClient(url) as client:
        run = await client.start("ask")
        items = await collect(client, run.id)
        seq, last = items[-1]
        assert isinstance(last, RunFinishedEvent)
        assert isinstance(last.outcome, RunFinishedInterruptOutcome)
        await client.answer(run.id, [ResumeEntry(interrupt_id="i1", status="resolved", payload="yes")])
        assert text_of_run(await collect(client, run.id, after=seq)) == "answered yes"


LIVE = RunConfig(streaming_mode=StreamingMode.BIDI)


async def test_a_live_run_is_spoken_to(url: str) -> None:
    async with GaplessClient(url) as client:
        run = await client.start("talk", config=LIVE)
        await client.send(run.id, "one")
        for _ in range(2):
            await client.send(run.id, LiveRequest(content="two", id="m2"))
        await client.send(run.id, LiveRequest(close=True))
        with pytest.raises(InputInvalid):
            await client.send(run.id, "three")
        assert text_of_run(await collect(client, run.id)) == "oneYou said one. twoYou said two. "
        with pytest.raises(RunNotFound):
            await client.send("no-such-run", "one")


async def test_sessions(url: str) -> None:
    async with GaplessClient(url) as client:
        session = await client.create_session("s-1", state={"color": "blue"})
        assert (session.id, session.state) == ("s-1", {"color": "blue"})
        run = await client.start("hang", session_id="s-1")
        assert (await client.session("s-1")).active_run_id == run.id
        await client.cancel(run.id)
        await collect(client, run.id)
        assert [type(message) for message in await client.messages("s-1")] == [UserMessage, AssistantMessage]
        assert "s-1" in [session.id for session in await client.sessions()]
        assert (await client.rename_session("s-1", "Of hanging")).title == "Of hanging"
        assert (await client.session("s-1")).title == "Of hanging"
        with pytest.raises(InputInvalid, match="at most 200 characters, not 201"):
            await client.rename_session("s-1", "x" * 201)
        await client.delete_session("s-1")
        with pytest.raises(SessionNotFound):
            await client.session("s-1")


@pytest.mark.parametrize("status", ["cancelled", RunStatus.CANCELLED])
async def test_runs_are_listed_by_their_status_and_another_word_is_refused(url: str, status: Any) -> None:
    async with GaplessClient(url, limits=IMPATIENT) as client:
        run = await client.start("hang")
        await client.cancel(run.id)
        await collect(client, run.id)
        assert run.id in [one.id for one in await client.runs(status=status)]
        nope: Any = "nope"
        with pytest.raises(InputInvalid, match=r"status: one of queued, .*, not 'nope'"):
            await client.runs(status=nope)


@pytest.mark.parametrize("id", ["a/b?c#d", "", "..", "none"])
async def test_an_id_that_nothing_has_is_told_as_such(url: str, id: str) -> None:
    async with GaplessClient(url, limits=IMPATIENT) as client:
        for of_run in (client.record, client.cancel, client.timeline, client.page, client.notices):
            with pytest.raises(RunNotFound, match=r"^no run "):
                await of_run(id)
        for of_session in (client.session, client.messages, client.delete_session):
            with pytest.raises(SessionNotFound, match=r"^no session "):
                await of_session(id)
        with pytest.raises(RunNotFound):
            await anext(client.follow(id))
        with pytest.raises(SessionNotFound):
            await anext(client.follow_session(id))
        with pytest.raises(RunNotFound):
            async with client.produce(id):
                pass


async def test_what_is_no_id_is_told_as_what_it_is(url: str) -> None:
    async with GaplessClient(url, limits=IMPATIENT) as client:
        run: Any = await client.start("hi")
        with pytest.raises(InputInvalid, match=r"^run id: text, not a RunRecord; give its id$"):
            await client.record(run)
        session: Any = 5
        with pytest.raises(InputInvalid, match=r"^session id: text, not 5$"):
            await client.session(session)


async def test_a_client_that_was_closed_says_so(url: str) -> None:
    client = GaplessClient(url)
    run = await client.start("hi")
    following = client.follow(run.id)
    await anext(following)
    await client.aclose()
    await client.aclose()
    for asked in (client.record(run.id), client.start("x"), anext(client.follow(run.id))):
        with pytest.raises(UsageError, match=f"the client of {url} is closed"):
            await asked
    await following.aclose()


def test_the_blocking_client_says_that_it_was_closed(url: str) -> None:
    client = SyncClient(url)
    run = client.start("hi")
    following = client.follow(run.id)
    next(following)
    client.close()
    client.close()
    with pytest.raises(UsageError, match=f"the client of {url} is closed"):
        client.record(run.id)
    with pytest.raises(UsageError, match=f"the client of {url} is closed"):
        next(client.follow(run.id))
    following.close()


async def test_a_producer_that_leaves_without_an_end_leaves_the_run_to_its_next(url: str) -> None:
    async with GaplessClient(url, limits=IMPATIENT) as client:
        run = await client.start("Do it.", producer=True)
        async with client.produce(run.id) as out:
            await out.send("Said.")
        assert not (await client.record(run.id)).status.ended
        async with client.produce(run.id) as out:
            await out.send(RunFinishedEvent(thread_id="", run_id=""))
        assert text_of_run(await collect(client, run.id)) == "Said."


def test_the_same_without_an_event_loop(url: str) -> None:
    with SyncClient(url) as client:
        run = client.start("hi", session_id="sync")
        items = list(client.follow(run.id))
        assert text_of_run(items) == "Hello world"
        assert client.record(run.id).status == "finished"
        assert client.page(run.id).last_seq == items[-1][0]
        assert [record.id for record in client.runs(session_id="sync")] == [run.id]
        hanging = client.start("hang")
        for _, event in client.follow(hanging.id):
            if isinstance(event, TextMessageContentEvent):
                break
        assert client.cancel(hanging.id).id == hanging.id
        assert isinstance(list(client.follow(hanging.id))[-1][1], RunFinishedEvent)
        asking = client.start("ask")
        paused_at = list(client.follow(asking.id))[-1][0]
        client.answer(asking.id, [ResumeEntry(interrupt_id="i1", status="cancelled")])
        assert text_of_run(list(client.follow(asking.id, paused_at))) == "answered None"
        talking = client.start("talk", config=LIVE)
        client.send(talking.id, "one")
        client.send(talking.id, LiveRequest(close=True))
        assert text_of_run(list(client.follow(talking.id))) == "oneYou said one. "
        assert client.create_session("sync-2").id == "sync-2"
        assert len(client.messages("sync")) == 2
        assert client.rename_session("sync", "").title == "hi"
        assert client.session("sync").id in [session.id for session in client.sessions()]
        client.delete_session("sync")
        with pytest.raises(SessionNotFound):
            client.messages("sync")


def test_a_run_is_written_without_an_event_loop(url: str) -> None:
    with SyncClient(url) as client:
        run = client.start("Do it.", producer=True)
        with client.produce(run.id) as first, client.produce(run.id, name="second") as out:
            assert (out.run_id, first.epoch, out.epoch) == (run.id, 1, 2)
            with pytest.raises(RunFenced):
                first.send("too late")
            with pytest.raises(InputInvalid, match="nothing of the batch was taken"):
                out.send("Not this. ", ToolCallArgsEvent(tool_call_id="none", delta="{}"))
            assert out.send("Said.") == out.number == 1
        with client.produce(run.id) as again:
            assert again.number == 1
            again.send(RunFinishedEvent(thread_id="", run_id=""))
        assert text_of_run(list(client.follow(run.id))) == "Said."


async def test_the_blocking_client_refuses_to_block_an_event_loop() -> None:
    client = SyncClient()
    with pytest.raises(UsageError, match="use GaplessClient"):
        client.runs()


async def test_nobody_there_is_said_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    limits = msgspec.structs.replace(IMPATIENT, request_attempts_max=2)
    async with GaplessClient(f"http://127.0.0.1:{port}", limits=limits) as client:
        with pytest.raises(GaplessError, match=f"http://127.0.0.1:{port} does not answer"):
            await client.start("hi")
