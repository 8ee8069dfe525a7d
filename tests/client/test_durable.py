"""The durable transport: vendors' own Python clients, unchanged, through a network that cuts every answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import httpx2
import msgspec
import openai
import pytest
from google.adk.agents import LlmAgent
from google.adk.cli.api_server import RunAgentRequest
from google.adk.cli.conformance.adk_web_server_client import AdkWebServerClient
from google.adk.events import Event
from google.genai import types
from openai import AsyncOpenAI, OpenAI

from gapless import Runner, create_app
from gapless.client import ClientLimits
from gapless.client.durable import durable_transport
from gapless.testing import CutKind, Cutter, serving
from tests.support.adk import Call, Raises, Scripted, Thought
from tests.support.rich import ANSWER, LONG_ARGUMENTS, REASONING, TEXT, rich
from tests.support.upstream import Reply, Request, upstream
from tests.support.waiting import WAIT_S

KINDS: tuple[CutKind | None, ...] = ("abrupt", "mid-frame", "clean", None)
CUTS = 10
QUICK = ClientLimits(retry_first_s=0.001, retry_max_s=0.005)
ENDLESS = "".join(f"{n} " for n in range(100_000))
TOOLS: list[Any] = [{"type": "function", "function": {"name": "locate", "parameters": {"type": "object"}}}]


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


class Paced(Scripted):
    """So slow that a client that comes back finds little to catch up with, and many frames to come."""

    def __init__(self, *scripts: list[Any], **options: Any) -> None:
        super().__init__(*scripts, **options)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[Any, None]:
        async for response in super().generate_content_async(llm_request, stream):
            yield response
            await asyncio.sleep(0.003)


PIECES = [f"piece {n} — ünïcödé 🦉\n" for n in range(80)]
SAID = [item for n, piece in enumerate(PIECES) for item in ([Thought("hm "), piece] if n % 5 == 0 else [piece])]
"""With something else than text between every few, so that what is caught up with has many frames all the same."""
ADK_AGENTS: dict[str, Callable[[], LlmAgent]] = {
    "tools": lambda: LlmAgent(
        name="tools",
        model=Paced([*SAID, Call("add", {"a": 1, "b": 2}, id="c1")], [*SAID, "It is 3."]),
        tools=[add],
    ),
    "failing": lambda: LlmAgent(name="failing", model=Paced([*SAID, Raises(RuntimeError("a secret"))])),
    "stuck": lambda: LlmAgent(name="stuck", model=Paced(SAID, hold_at=len(SAID))),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(Runner(rich))) as base:
        yield base


@pytest.fixture
def adk_url() -> Iterator[str]:
    """A server of its own for each test: the agents' scripts are used up."""
    with serving(create_app(Runner(agents={name: make() for name, make in ADK_AGENTS.items()}))) as base:
        yield base


@contextlib.contextmanager
def cut(url: str, kind: CutKind | None, *, least: int = CUTS) -> Iterator[Cutter]:
    """A network in which every run's answer was cut so often when the block ends."""
    with Cutter(url, kind, cuts=CUTS) as cutter:
        yield cutter
        assert bool(cutter.cuts) == (kind is not None)
        assert all(cuts >= least for cuts in cutter.cuts.values()), cutter.cuts


# -- OpenAI's client ------------------------------------------------------------------------------------------------


class Told:
    """What OpenAI's client made of a chat completion's stream."""

    def __init__(self) -> None:
        self.text = self.reasoning = self.arguments = ""
        self.calls: list[str] = []
        self.reason: str | None = None
        self.id = ""
        self.tokens: int | None = None
        self.error: openai.APIError | None = None

    def take(self, chunk: Any) -> None:
        self.id = chunk.id
        self.tokens = chunk.usage.total_tokens if chunk.usage else self.tokens
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            self.reason = choice.finish_reason or self.reason
            for call in choice.delta.tool_calls or ():
                if call.function.name:
                    self.calls.append(call.function.name)
                self.arguments += call.function.arguments or ""


Chat = Callable[..., Told]


def chat_sync(base: str, message: str, durable: bool, on_id: Callable[[str], None] | None = None) -> Told:
    told = Told()
    transport = httpx2.HTTPTransport(verify=False)
    http = httpx2.Client(transport=durable_transport(transport, limits=QUICK) if durable else transport)
    with OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, http_client=http) as client:
        try:
            for chunk in client.chat.completions.create(**asked(message)):
                told.take(chunk)
                if on_id and len(told.text) > 3000:
                    on_id(told.id)
        except openai.APIError as error:
            told.error = error
    return told


def chat_async(base: str, message: str, durable: bool, on_id: Callable[[str], None] | None = None) -> Told:
    told = Told()

    async def chat() -> None:
        transport = httpx2.AsyncHTTPTransport(verify=False)
        http = httpx2.AsyncClient(transport=durable_transport(transport, limits=QUICK) if durable else transport)
        async with AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, http_client=http) as client:
            try:
                async for chunk in await client.chat.completions.create(**asked(message)):
                    told.take(chunk)
                    if on_id and len(told.text) > 3000:
                        await asyncio.to_thread(on_id, told.id)
            except openai.APIError as error:
                told.error = error

    asyncio.run(chat())
    return told


def asked(message: str) -> dict[str, Any]:
    return {
        "model": "rich",
        "messages": [{"role": "user", "content": message}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": TOOLS if message.startswith("long-tool") else openai.omit,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [chat_sync, chat_async])
def test_openai_chat_is_whole(url: str, chat: Chat, kind: CutKind | None) -> None:
    with cut(url, kind) as network:
        told = chat(network.url, "rich 1", True)
    assert (told.text, told.reasoning) == (ANSWER, "".join(REASONING))
    assert (told.reason, told.tokens, told.error) == ("stop", 33, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [chat_sync, chat_async])
def test_openai_chat_calls_the_clients_tools(url: str, chat: Chat, kind: CutKind | None) -> None:
    with cut(url, kind) as network:
        told = chat(network.url, "long-tool 1", True)
    assert (told.text, told.calls, told.arguments) == ("Let me see. ", ["locate"], LONG_ARGUMENTS)
    assert (told.reason, told.error) == ("tool_calls", None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [chat_sync, chat_async])
def test_openai_chat_that_fails_says_so_after_its_text(url: str, chat: Chat, kind: CutKind | None) -> None:
    with cut(url, kind) as network:
        told = chat(network.url, "error 1", True)
    assert (told.text, told.reason) == ("".join(TEXT), None)
    assert told.error is not None
    assert told.error.code == "agent_failed"
    assert "secret" not in told.error.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [chat_sync, chat_async])
def test_openai_chat_that_is_cancelled_is_never_taken_for_whole(url: str, chat: Chat, kind: CutKind | None) -> None:
    def cancel(id: str) -> None:
        if not cancelled.is_set():
            cancelled.set()
            httpx2.post(f"{url}/runs/{id.removeprefix('chatcmpl-')}/cancel", timeout=WAIT_S).raise_for_status()

    cancelled = threading.Event()
    with cut(url, kind, least=1) as network:  # who is behind gets all that there is in a few frames
        told = chat(network.url, "endless 1", True, cancel)
    assert ENDLESS.startswith(told.text)
    assert (len(told.text) > 3000, told.reason) == (True, None)
    assert told.error is not None
    assert told.error.code == "run_cancelled"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [chat_sync, chat_async])
def test_openai_chat_without_it_sees_a_cut_for_what_it_is(url: str, chat: Chat, kind: CutKind | None) -> None:
    with Cutter(url, kind, cuts=1, after_bytes=(9000, 9900)) as network:
        try:
            told = chat(network.url, "rich 1", False)
        except UnicodeDecodeError:  # within a character: no answer at all
            assert kind in ("abrupt", "mid-frame")
            return
    assert ANSWER.startswith(told.text)
    assert (told.reason == "stop") == (told.text == ANSWER) == (kind is None)
    if kind in ("abrupt", "mid-frame"):
        assert told.error is not None or told.reason is None


# -- ADK's client ---------------------------------------------------------------------------------------------------


async def adk(base: str, app: str, *, durable: bool, streaming: bool = True) -> AsyncIterator[Event]:
    """The events that ADK's own client yields; where it keeps its `httpx` client is the one thing that is not its
    public face."""
    async with AdkWebServerClient(base) as client:
        transport: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(verify=False)
        if durable:
            transport = durable_transport(transport, limits=QUICK)
        client._client = httpx.AsyncClient(base_url=base, timeout=WAIT_S, transport=transport)
        session = await client.create_session(app_name=app, user_id="u")
        request = RunAgentRequest(
            app_name=app,
            user_id="u",
            session_id=session.id,
            new_message=types.UserContent("hi"),
            streaming=streaming,
        )
        async for event in client.run_agent(request):
            yield event


def said(events: list[Event], *, partial: bool) -> str:
    parts = [
        part
        for event in events
        if bool(event.partial) is partial and event.content
        for part in event.content.parts or []
    ]
    return "".join(part.text or "" for part in parts if not part.thought)


@pytest.mark.parametrize("kind", KINDS)
async def test_adks_client_gets_everything_once(adk_url: str, kind: CutKind | None) -> None:
    with cut(adk_url, kind) as network:
        events = [event async for event in adk(network.url, "tools", durable=True)]
    text = "".join(PIECES) * 2 + "It is 3."
    assert said(events, partial=True) == said(events, partial=False) == text
    whole = [event for event in events if not event.partial]  # ADK tells a call while it comes, too
    calls = [call for event in whole for call in event.get_function_calls()]
    assert [(call.name, call.args, call.id) for call in calls] == [("add", {"a": 1, "b": 2}, "c1")]
    results = [result for event in events for result in event.get_function_responses()]
    assert [result.response for result in results] == [{"sum": 3}]
    assert events[-1].is_final_response()
    assert events[-1].finish_reason == types.FinishReason.STOP


@pytest.mark.parametrize("kind", KINDS)
async def test_adks_client_raises_what_the_run_failed_with(adk_url: str, kind: CutKind | None) -> None:
    events: list[Event] = []
    with cut(adk_url, kind) as network, pytest.raises(RuntimeError, match="model_failed") as error:
        async for event in adk(network.url, "failing", durable=True):
            events.append(event)  # noqa: PERF401  # what came before the error is wanted
    assert "secret" not in str(error.value)
    assert said(events, partial=True) == said(events, partial=False) == "".join(PIECES)


@pytest.mark.parametrize("kind", KINDS)
async def test_adks_client_is_told_of_a_cancel(adk_url: str, kind: CutKind | None) -> None:
    events: list[Event] = []
    with cut(adk_url, kind) as network:
        async for event in adk(network.url, "stuck", durable=True):
            events.append(event)
            if event.partial and said(events, partial=True) == "".join(PIECES):
                run = f"{adk_url}/apps/stuck/users/u/runs/{event.invocation_id}"
                (await asyncio.to_thread(httpx2.post, f"{run}/cancel", timeout=WAIT_S)).raise_for_status()
    assert said(events, partial=False) == "".join(PIECES)
    assert events[-1].error_code == "INVOCATION_ABORTED"


@pytest.mark.parametrize("kind", KINDS)
async def test_adks_client_without_it_does_not_get_a_whole_event_that_is_wrong(
    adk_url: str, kind: CutKind | None
) -> None:
    """Its protocol has no end marker, a clean cut looks like the end. What it has are whole events after the pieces."""
    events: list[Event] = []
    failed = False
    with Cutter(adk_url, kind, cuts=1, after_bytes=(9000, 9900)) as network:
        try:
            async for event in adk(network.url, "tools", durable=False):
                events.append(event)  # noqa: PERF401  # what came before the error is wanted
        except (httpx.TransportError, json.JSONDecodeError):
            failed = True
    assert failed == (kind in ("abrupt", "mid-frame"))
    whole = "".join(PIECES) * 2 + "It is 3."
    assert whole.startswith(said(events, partial=True))
    assert (said(events, partial=False) == whole) == (kind is None)
    if kind is not None:
        assert not any(event.is_final_response() for event in events if not event.partial)


# -- the transport itself -------------------------------------------------------------------------------------------

VIAS = [(library, way) for library in (httpx2, httpx) for way in ("sync", "async")]


@pytest.fixture(params=VIAS, ids=[f"{library.__name__}-{way}" for library, way in VIAS])
def via(request: pytest.FixtureRequest) -> Any:
    return request.param


async def ask(via: Any, method: str, url: str, *, limits: ClientLimits = QUICK, **options: Any) -> Any:
    """The answer to one request, read whole."""
    library, way = via
    if way == "async":
        async with library.AsyncClient(
            transport=durable_transport(library.AsyncHTTPTransport(verify=False), limits=limits), timeout=WAIT_S
        ) as client:
            return await client.request(method, url, **options)

    def ask() -> Any:
        transport = durable_transport(library.HTTPTransport(verify=False), limits=limits)
        with library.Client(transport=transport, timeout=WAIT_S) as client:
            return client.request(method, url, **options)

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wire", ["ag-ui", "vercel", "openai", "openai-responses", "adk"])
async def test_every_byte_comes_once(url: str, via: Any, wire: str, kind: CutKind | None) -> None:
    run_id = f"{via[0].__name__}-{via[1]}-{wire}-{kind}"
    await ask(via, "POST", f"{url}/runs", json={"message": "rich", "agent": "rich", "run_id": run_id})
    path = f"/runs/{run_id}/events?wire={wire}&merge=0"
    whole = await ask(via, "GET", url + path)
    with cut(url, kind) as network:
        stitched = await ask(via, "GET", network.url + path)
    assert stitched.content == whole.content
    assert stitched.content.endswith(b".end\n\n")
    assert stitched.headers["x-run-id"] == run_id


FRAMES = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(1, 5)] + [b"event: end\nid: 4.end\n\n"]
WHOLE = b"".join(FRAMES)


def stream(body: bytes, *, content_encoding: str = "identity", **options: Any) -> Reply:
    return Reply(body, headers={"content-location": "/stream", "content-encoding": content_encoding}, **options)


def later(request: Request) -> Reply:
    """What a server that resumes sends."""
    return stream(b"".join(FRAMES[int(request.headers.get("last-event-id", "0")) :]))


def gone(request: Request) -> Reply:
    raise ConnectionResetError


async def test_a_silent_connection_is_a_cut(via: Any) -> None:
    for idle_s in (0.1, 1.0, 10.0):  # where the machine stands still for so long, it is cut before it has said anything
        limits = msgspec.structs.replace(QUICK, idle_timeout_s=idle_s)
        async with upstream(stream(FRAMES[0] + b"id: 2\nda", hold=True), later) as server:
            assert (await ask(via, "GET", f"{server.url}/stream", limits=limits)).content == WHOLE
        if resumed := server.requests[1].headers.get("last-event-id"):
            break
    assert resumed == "1"


async def test_a_server_that_is_away_or_leaves_is_asked_again(via: Any) -> None:
    leaving = stream(FRAMES[0] + b": ping\nevent: reconnect\ndata: {}\n\n")
    busy = Reply(b"down", 503, "text/plain", {"retry-after": "0"})
    headers = {"authorization": "Bearer x", "x-mine": "y"}
    async with upstream(leaving, gone, busy, stream(FRAMES[1][:5], cut_at=5), later) as server:
        told = await ask(via, "POST", f"{server.url}/start", json={}, headers=headers)
    assert told.content == WHOLE
    start, *rest = server.requests
    assert start.line == "POST /start HTTP/1.1"
    assert {one.line for one in rest} == {"GET /stream HTTP/1.1"}
    assert {one.headers["last-event-id"] for one in rest} == {"1"}
    assert {one.headers["accept"] for one in rest} == {"text/event-stream"}
    assert all(one.headers.items() >= headers.items() and "content-length" not in one.headers for one in rest)


async def test_it_gives_up_without_progress_only(via: Any) -> None:
    limits = msgspec.structs.replace(QUICK, attempts_max=2)
    halves = [stream(frame) for frame in FRAMES[:3]]
    async with upstream(halves[0], gone, halves[1], gone, halves[2], stream(b": ping\n")) as server:
        with pytest.raises(via[0].ReadError, match="nothing new in 2 connections"):
            await ask(via, "GET", f"{server.url}/stream", limits=limits)
        assert len(server.requests) == 5 + 2


@pytest.mark.parametrize("empty", [b"", b": ping\n" * 1000, b"event: nothing\n\n"])
async def test_what_brings_no_new_event_is_no_progress(via: Any, empty: bytes) -> None:
    limits = msgspec.structs.replace(QUICK, attempts_max=3)
    async with upstream(stream(FRAMES[0]), stream(empty)) as server:
        with pytest.raises(via[0].ReadError, match="nothing new in 3 connections"):
            await ask(via, "GET", f"{server.url}/stream", limits=limits)
        assert len(server.requests) == 1 + 3


@pytest.mark.parametrize("retry", ["9" * 400, "9" * 5000, "0", "-5", "soon"])
async def test_any_retry_time_is_waited_for_within_the_limit(via: Any, retry: str) -> None:
    busy = Reply(b"", 429, "text/plain", {"retry-after": retry})
    async with upstream(stream(f"retry: {retry}\n".encode() + FRAMES[0]), busy, later) as server:
        assert (await ask(via, "GET", f"{server.url}/stream")).content.endswith(b"".join(FRAMES[1:]))


async def test_an_id_beyond_ascii_is_sent_back_as_it_came(via: Any) -> None:
    async with upstream(stream("id: é漢\ndata: 1\n\n".encode()), stream(FRAMES[-1])) as server:
        await ask(via, "GET", f"{server.url}/stream")
        assert server.requests[1].headers["last-event-id"] == "é漢"


@pytest.mark.parametrize("id", ["id:", "id", "id: \x0b1", "id: \x011", f"id: {'1' * 2000}"])
async def test_an_id_that_cannot_be_sent_back_is_an_error(via: Any, id: str) -> None:
    async with upstream(stream(f"{id}\ndata: x\n\n".encode())) as server:
        with pytest.raises(via[0].RemoteProtocolError, match="no stream of Gapless"):
            await ask(via, "GET", f"{server.url}/stream")
        assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["http://a:b/", "//a:b"])
async def test_a_content_location_that_is_no_url_is_an_error_of_the_request(via: Any, location: str) -> None:
    async with upstream(Reply(WHOLE, headers={"content-location": location}, hold=True)) as server:
        with pytest.raises(via[0].RemoteProtocolError, match="/stream: its Content-Location is no URL"):
            await ask(via, "GET", f"{server.url}/stream")
        await asyncio.wait_for(server.left.wait(), WAIT_S)


async def test_a_head_has_no_body_to_go_on_with(via: Any) -> None:
    async with upstream(stream(b""), later) as server:
        assert (await ask(via, "HEAD", f"{server.url}/stream")).content == b""
        assert len(server.requests) == 1


async def test_a_body_that_can_be_sent_only_once_is_sent_once(via: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    content = pieces() if via[1] == "async" else iter([b"{}"])
    headers = {"x-run-id": "r", "content-length": "2"}
    async with upstream(Reply(b"later", 503, "text/plain")) as server:
        assert (await ask(via, "POST", server.url, content=content, headers=headers)).status_code == 503
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Reply(b"", 307, "text/plain", {"location": "http://elsewhere.invalid/"}), "HTTP 307"),
        (stream(b"".join(FRAMES[2:0:-1])), "it sent 2 again"),
        (stream(b"zzzz", content_encoding="gzip"), "decompressing"),
        (Reply(b"{}", 404, "application/json"), "HTTP 404"),
        (Reply(b"<html>log in</html>", 200, "text/html"), "HTTP 200"),
        (stream(WHOLE), "did not go on after event 2: it sent 1 again"),
        (stream(b"data: " + b"x" * 2000), "frame_bytes_max"),
    ],
)
async def test_what_does_not_go_on_is_an_error_and_no_end(via: Any, answer: Reply, message: str) -> None:
    limits = msgspec.structs.replace(QUICK, frame_bytes_max=1000)
    async with upstream(stream(FRAMES[0] + FRAMES[1]), answer) as server:
        with pytest.raises(via[0].RemoteProtocolError, match=message):
            await ask(via, "GET", f"{server.url}/stream", limits=limits)
        assert len(server.requests) == 2


async def test_another_servers_stream_without_ids_is_an_error_and_is_not_read_again_and_again(via: Any) -> None:
    limits = msgspec.structs.replace(QUICK, attempts_max=1)
    async with upstream(stream(b"data: one\n\n"), stream(b"data: one\n\n"), Reply(b"", 204)) as server:
        with pytest.raises(via[0].RemoteProtocolError, match="no stream of Gapless"):
            await ask(via, "GET", f"{server.url}/stream", limits=limits)
        assert len(server.requests) == 1


async def test_a_run_that_has_ended_meanwhile_is_no_error(via: Any) -> None:
    async with upstream(stream(b"".join(FRAMES[:4])), Reply(b"", 204)) as server:
        assert (await ask(via, "GET", f"{server.url}/stream")).content == b"".join(FRAMES[:4])


@pytest.mark.parametrize("headers", [{}, {"content-location": "http://elsewhere.invalid/stream"}])
async def test_streams_that_do_not_name_themselves_here_pass(via: Any, headers: dict[str, str]) -> None:
    async with upstream(Reply(FRAMES[0], headers=headers), later) as server:
        assert (await ask(via, "GET", server.url)).content == FRAMES[0]
        assert len(server.requests) == 1


@pytest.mark.parametrize("lost", [gone, Reply(b"later", 503, "text/plain")])
@pytest.mark.parametrize(
    "named",
    [
        {"json": {"run_id": "r"}},
        {"json": {"runId": "r"}},
        {"json": {}, "headers": {"x-run-id": "r"}},
        {"json": {}, "headers": {"idempotency-key": "k"}},
        {"params": {"run_id": "r"}},
    ],
)
async def test_a_start_that_names_its_run_is_repeated(via: Any, named: dict[str, Any], lost: Any) -> None:
    async with upstream(lost, lost, later) as server:
        assert (await ask(via, "POST", f"{server.url}/start", **named)).content == WHOLE
        assert len(server.requests) == 3
        assert len({(one.line, str(one.body)) for one in server.requests}) == 1


@pytest.mark.parametrize("unnamed", [{"json": {}}, {"json": []}, {"json": {"run_id": 7}}, {"content": b"7"}])
async def test_any_other_is_made_once(via: Any, unnamed: dict[str, Any]) -> None:
    async with upstream(gone, later) as server:
        with pytest.raises(via[0].TransportError):
            await ask(via, "POST", f"{server.url}/start", **unnamed)
        assert len(server.requests) == 1
    async with upstream(Reply(b"later", 503, "text/plain"), later) as server:
        assert (await ask(via, "POST", f"{server.url}/start", **unnamed)).status_code == 503


async def test_a_start_that_is_not_to_be_repeated_is_not(via: Any) -> None:
    refusal = Reply(b"{}", 502, "application/json", {"x-should-retry": "false"})
    async with upstream(refusal, later) as server:
        assert (await ask(via, "POST", server.url, json={"run_id": "r"})).status_code == 502
        assert len(server.requests) == 1


async def test_a_start_is_repeated_so_often_and_then_fails(via: Any) -> None:
    limits = msgspec.structs.replace(QUICK, request_attempts_max=3)
    async with upstream(gone) as server:
        with pytest.raises(via[0].RemoteProtocolError):
            await ask(via, "POST", server.url, limits=limits, json={"run_id": "r"})
        assert len(server.requests) == 3
    async with upstream(Reply(b"later", 503, "text/plain")) as server:
        assert (await ask(via, "POST", server.url, limits=limits, json={"run_id": "r"})).status_code == 503
        assert len(server.requests) == 3


async def test_a_client_that_leaves_leaves_the_server(via: Any) -> None:
    library, way = via
    async with upstream(stream(FRAMES[0], hold=True)) as server:
        if way == "async":
            async with library.AsyncClient(
                transport=durable_transport(library.AsyncHTTPTransport(verify=False))
            ) as client:
                async with client.stream("GET", server.url) as response:
                    assert await anext(response.aiter_bytes()) == FRAMES[0]
                await asyncio.wait_for(server.left.wait(), WAIT_S)
            return

        left = threading.Event()

        def leave() -> None:
            with library.Client(transport=durable_transport(library.HTTPTransport(verify=False))) as client:
                with client.stream("GET", server.url) as response:
                    assert next(response.iter_bytes()) == FRAMES[0]
                assert left.wait(WAIT_S)

        leaving = asyncio.create_task(asyncio.to_thread(leave))
        await asyncio.wait_for(server.left.wait(), WAIT_S)
        left.set()
        await leaving
