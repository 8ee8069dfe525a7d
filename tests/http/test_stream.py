"""The response that follows a journal, over real sockets: slow readers, silent runs, a server that stops."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import msgspec
import pytest

from gapless import Runner, create_app
from gapless.agents.base import RunContext
from gapless.errors import GaplessError, RunNotFound, StoreUnavailable
from gapless.events import Interrupt, RunFinishedEvent, RunFinishedInterruptOutcome, TextMessageContentEvent
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from gapless.testing import serving
from tests.support.agents import Gated
from tests.support.sse import events, frames
from tests.support.waiting import WAIT_S, until

EVENTS = 100_000
STALLED_BYTES_MAX = 512 * 1024
"""What may be on its way to a client that reads nothing: the kernel's buffers (made small here) and the server's."""


class Counting:
    """An app around the app: how many bytes of event streams the server has taken from it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state = app.state
        self.sent_bytes = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            await send(message)
            if scope["type"] == "http" and message["type"] == "http.response.body":
                self.sent_bytes += len(message["body"])

        await self.app(scope, receive, counted)


def test_a_follower_that_stops_reading_costs_a_bounded_number_of_bytes_and_catches_up_exactly():
    passed = threading.Event()

    async def torrent(message: str) -> AsyncIterator[str]:
        for number in range(EVENTS):
            yield f"{number:06d},"
        passed.set()

    app = Counting(create_app(Runner(torrent)))
    with serving(app, send_buffer_bytes=16 * 1024) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.settimeout(60)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        body = b'{"message":"x","run_id":"r"}'
        client.sendall(
            b"POST /runs?merge=0 HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert passed.wait(60)  # all of them were made, and nobody has read a byte
        stalled_bytes = app.sent_bytes
        received = bytearray()
        while piece := client.recv(1 << 16):
            received += piece
    assert stalled_bytes < STALLED_BYTES_MAX, "what is sent ahead does not grow with the run"
    assert len(received) > 10 * STALLED_BYTES_MAX
    got = events(unchunked(bytes(received)))
    text = "".join(e.delta for e in got if isinstance(e, TextMessageContentEvent))
    assert text == "".join(f"{number:06d}," for number in range(EVENTS))


def unchunked(answer: bytes) -> bytes:
    """The body of an HTTP/1.1 answer in chunks."""
    rest = answer.partition(b"\r\n\r\n")[2]
    body = bytearray()
    position = 0
    while True:
        end = rest.index(b"\r\n", position)
        size = int(rest[position:end], 16)
        if not size:
            return bytes(body)
        body += rest[end + 2 : end + 2 + size]
        position = end + 2 + size + 2


async def test_a_silent_run_is_kept_alive_without_blank_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.http.stream.PING_S", 0.02)
    agent = Gated("a")
    with serving(create_app(Runner(agent))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            post = {"json": {"message": "x"}, "headers": {"accept": "text/event-stream"}}
            async with client.stream("POST", "/runs", **post) as response:  # type: ignore[arg-type]  # keywords
                body, let = b"", False
                async for piece in response.aiter_bytes():
                    body += piece
                    if body.count(b": ping\n") >= 3 and not let:
                        agent.let(2)
                        let = True
    assert b": ping\n\n" not in body
    text = body.replace(b": ping\n", b"")
    assert [e.delta for e in events(text) if isinstance(e, TextMessageContentEvent)] == ["a"]


async def test_a_client_that_leaves_is_noticed_and_its_run_goes_on():
    agent = Gated("a", "b")
    app = create_app(Runner(agent))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            post = {"json": {"message": "x", "run_id": "r"}, "headers": {"accept": "text/event-stream"}}
            async with client.stream("POST", "/runs", **post) as response:  # type: ignore[arg-type]  # keywords
                async for _ in response.aiter_bytes():
                    break
            await until(lambda: not app.state.streams.open, "it is noticed")
            agent.let(3)
            rest = await client.get("/runs/r/events", headers={"accept": "text/event-stream"})
            assert "".join(e.delta for e in events(rest.content) if isinstance(e, TextMessageContentEvent)) == "ab"


async def test_draining_ends_connections_and_not_runs():
    agent = Gated("a", "b")
    app = create_app(Runner(agent))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            post = {"json": {"message": "x", "run_id": "r"}, "headers": {"accept": "text/event-stream"}}
            async with client.stream("POST", "/runs", **post) as response:  # type: ignore[arg-type]  # keywords
                agent.let()
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if b'"a"' in body:
                        app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
            assert body.endswith(b"event: reconnect\ndata: {}\nid: 3\n\n"), "after the word, the third event"
            assert (await client.get("/ready")).status_code == 503
            assert (await client.get("/runs/r")).json()["status"] == "running"
            agent.let(2)


async def test_who_asks_a_worker_that_stops_asks_again_on_another_connection():
    app = create_app(Runner(Gated("a")))
    with serving(app) as url:
        app.state.runner.refuse_new()
        async with httpx2.AsyncClient(base_url=url) as client:
            answer = await client.post("/runs", json={"message": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")


async def test_a_wire_that_cannot_say_so_is_not_ended_cleanly_by_draining():
    agent = Gated("a", "b")
    app = create_app(Runner(agent))
    with serving(app, log_level="critical") as url:  # the server says that the answer lacks its end
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/runs", json={"message": "x", "run_id": "r"})
            agent.let()
            async with client.stream("GET", "/runs/r/events?wire=adk") as response:
                with pytest.raises(httpx2.RemoteProtocolError):
                    async for piece in response.aiter_bytes():
                        assert b"event: end" not in piece
                        app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
            agent.let(2)


async def test_many_followers_of_one_run_get_the_same_bytes():
    agent = Gated(*"abcdef")
    app = create_app(Runner(agent))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url, limits=httpx2.Limits(max_connections=None)) as client:
            await client.post("/runs", json={"message": "x", "run_id": "r"})
            headers = {"accept": "text/event-stream"}
            reading = [asyncio.create_task(client.get("/runs/r/events?merge=0", headers=headers)) for _ in range(20)]
            await until(lambda: len(app.state.streams.open) == 20, "all follow")
            agent.let(7)
            bodies = {(await task).content for task in reading}
    assert len(bodies) == 1
    assert "".join(e.delta for e in events(bodies.pop()) if isinstance(e, TextMessageContentEvent)) == "abcdef"


class FailingStore(MemoryStore):
    """Fails when it is asked to watch a run, at the last moment before its events are followed."""

    error: GaplessError | None = None
    unread: GaplessError | None = None
    """What its reading of events fails with."""

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        if self.unread is not None:
            raise self.unread
        return await super().read(run_id, after, limit)

    async def watch(self, run_id: str) -> None:
        if isinstance(self.error, RunNotFound):
            await self.delete_session("s")
        elif self.error is not None:
            raise self.error
        await super().watch(run_id)


@pytest.mark.parametrize("cors", [(), ("https://app.example",)], ids=["deferred", "inside"])
@pytest.mark.parametrize(("error", "status"), [(RunNotFound("gone"), 404), (StoreUnavailable("not now"), 503)])
@pytest.mark.parametrize(
    "path",
    [
        "/runs/r/events",
        "/ag-ui?runId=r",
        "/vercel/chat/s/stream?runId=r",
        "/v1/responses/resp_r?stream=true",
        "/apps/words/users/anonymous/runs/r/events",
    ],
)
async def test_what_is_lost_before_its_stream_begins_has_a_status(
    path: str, error: GaplessError, status: int, cors: tuple[str, ...], client_of: Callable[..., Any]
):
    memory = Memory()
    store = FailingStore(memory)
    runner = Runner(store=store)
    client = await client_of(runner, cors_origins=cors)
    async with Runner(lambda message: message, store=MemoryStore(memory)) as owner:
        await (await owner.start("x", run_id="r", session_id="s")).wait()
    store.error = error
    response = await client.get(path)
    told = response.json()["error"]
    assert (response.status_code, told["code"]) == (status, error.code)
    assert ("type" in told) == path.startswith("/v1/"), "in the shape of OpenAI's errors for its clients alone"
    assert runner.journals.followers_of("r") == 0


@pytest.mark.parametrize("wire", ["ag-ui", "vercel", "openai", "text"])
async def test_what_is_lost_after_its_stream_has_begun_sends_the_client_back(wire: str, client_of: Callable[..., Any]):
    memory = Memory()
    store = FailingStore(memory)
    client = await client_of(Runner(store=store))
    async with Runner(lambda message: message, store=MemoryStore(memory)) as owner:
        await (await owner.start("x", run_id="r", session_id="s")).wait()
    store.unread = StoreUnavailable("not now")
    response = await client.get("/runs/r/events", params={"wire": wire})
    assert response.status_code == 200
    assert frames(response.content)[-1].event == "reconnect"


class LateStore(MemoryStore):
    """Knows of a run's first event only; what it reads is newer, as when another worker writes at that moment."""

    async def get_run(self, run_id: str) -> RunRecord | None:
        record = await super().get_run(run_id)
        return None if record is None else msgspec.structs.replace(record, last_seq=min(record.last_seq, 1))


async def test_a_stream_ends_where_another_workers_run_waits_also_when_that_was_read_before_it_was_told(
    client_of: Callable[..., Any],
):
    async def asks(ctx: RunContext) -> AsyncIterator[str]:
        yield "well "
        await ctx.interrupt([Interrupt(id="i", reason="approval")])

    memory = Memory()
    async with Runner(asks, store=MemoryStore(memory)) as owner:
        run = await owner.start("x", run_id="r")
        while (await run.record()).status is not RunStatus.WAITING:
            await asyncio.sleep(0)
        client = await client_of(Runner(store=LateStore(memory)))
        async with asyncio.timeout(WAIT_S):
            response = await client.get("/runs/r/events")
    pause = events(response.content)[-1]
    assert isinstance(pause, RunFinishedEvent)
    assert isinstance(pause.outcome, RunFinishedInterruptOutcome)
