"""Writing where events are accepted: who is written to so, and every way from it to the connection's task and back."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gapless import Runner, create_app
from gapless.agents.base import RunContext
from gapless.config import ConnectionLimits
from gapless.events import Interrupt, RunFinishedEvent, TextMessageContentEvent
from gapless.http import stream
from gapless.http.direct import DirectWriter, Handover, TakenConnection
from gapless.http.stream import Delivery, EventStream
from gapless.protocols import WIRES
from gapless.protocols.ag_ui.wire import AGUIEncoder
from gapless.records import now_ms
from gapless.server import connections
from gapless.server.connections import http_protocol
from gapless.testing import serving
from tests.http.test_stream import unchunked
from tests.support.agents import Gated
from tests.support.sse import events
from tests.support.waiting import WAIT_S, until
from tests.support.writes import Writes

STREAM = {"accept": "text/event-stream"}
TORRENT = 20_000
"""Words of which a client that does not read gets only the first."""


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def text_of(body: bytes) -> str:
    return "".join(e.delta for e in events(body) if isinstance(e, TextMessageContentEvent))


def is_followed_live(app: Any, run_id: str = "r") -> Callable[[], bool]:
    """Whether somebody waits for the run to say more, with nothing unread, by an answer that lasts."""
    journals, lasting = app.state.runner.journals._journals, app.state.streams._lasting
    return lambda: bool(lasting.due) and run_id in journals and bool(journals[run_id]._live)


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("cors", [(), ("https://app.example",)], ids=["alone", "behind a middleware"])
async def test_words_go_out_where_they_are_accepted_if_nothing_stands_between(
    http: str, cors: tuple[str, ...], writes: Writes
):
    direct = http == "httptools" and not cors
    agent = Gated("one", "two", "three")
    app = create_app(Runner(agent), cors_origins=cors)
    with serving(app, http=http) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/runs", json={"message": "x", "run_id": "r"})
            async with client.stream("GET", "/runs/r/events", headers=STREAM) as response:
                body, pieces = b"", response.aiter_bytes()
                for word in ("one", "two", "three"):
                    if direct:
                        await until(is_followed_live(app), "it is followed")
                    agent.let()
                    while b'"%b"' % word.encode() not in body:
                        body += await anext(pieces)
                    assert writes.has(word) is direct
                agent.let()
                async for piece in pieces:
                    body += piece
    assert text_of(body) == "onetwothree"


async def test_a_live_followers_stream_ends_where_the_run_waits_for_a_person():
    go_on = threading.Event()

    async def asks(ctx: RunContext) -> AsyncIterator[str]:
        yield "well "
        await asyncio.to_thread(go_on.wait)
        await ctx.interrupt([Interrupt(id="i", reason="approval")])

    app = create_app(Runner(asks))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client, asyncio.timeout(WAIT_S):
            await client.post("/runs", json={"message": "x", "run_id": "r"})
            async with client.stream("GET", "/runs/r/events", headers=STREAM) as response:
                await until(is_followed_live(app), "it is followed")
                go_on.set()
                body = await response.aread()
    assert isinstance(events(body)[-1], RunFinishedEvent)


def read_until(client: socket.socket, received: bytearray, wanted: bytes) -> None:
    while wanted not in received:
        piece = client.recv(1 << 16)
        assert piece, "it was cut off"
        received += piece


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """Takes little at a time."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.settimeout(60)
        yield client


def ask(client: socket.socket, url: str, path: str) -> None:
    client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    client.sendall(b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path.encode())


async def test_who_stops_reading_and_reads_again_has_every_word_once(writes: Writes, client: socket.socket):
    passed, go_on, caught_up, end = (threading.Event() for _ in range(4))

    def agent(message: str) -> Iterator[str]:
        yield "first,"
        go_on.wait(60)
        for number in range(TORRENT):
            yield f"{number:06d},"
        passed.set()
        caught_up.wait(60)
        yield "again,"
        end.wait(60)
        yield "last."

    app = create_app(Runner(agent))
    with serving(app, send_buffer_bytes=16 * 1024) as url:
        async with httpx2.AsyncClient(base_url=url) as starting:
            await starting.post("/runs", json={"message": "x", "run_id": "r"})
        ask(client, url, "/runs/r/events?merge=0")
        received = bytearray()
        read_until(client, received, b"first,")
        await until(is_followed_live(app), "it is followed")
        go_on.set()
        assert passed.wait(60)
        assert 0 < sum(map(len, writes.pieces)) < 64 * TORRENT, "written at once, until it did not read"
        read_until(client, received, b"%06d," % (TORRENT - 1))
        await until(is_followed_live(app), "it has caught up")
        caught_up.set()
        read_until(client, received, b"again,")
        end.set()
        while piece := client.recv(1 << 16):
            received += piece
    assert writes.has("again,"), "and is written to at once again"
    assert (
        text_of(unchunked(bytes(received))) == "first," + "".join(f"{n:06d}," for n in range(TORRENT)) + "again,last."
    )


async def test_a_live_follower_is_sent_away_and_kept_alive_as_any_other(
    writes: Writes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.http.stream.PING_S", 0.02)
    agent = Gated("one", "two")
    app = create_app(Runner(agent))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/runs", json={"message": "x", "run_id": "r"})
            async with client.stream("GET", "/runs/r/events", headers=STREAM) as response:
                body, asked = b"", False
                async for piece in response.aiter_bytes():
                    body += piece
                    if b": ping\n" in body and not asked:
                        asked = True
                        agent.let()
                    if b'"one"' in body:
                        app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
            assert body.endswith(b"event: reconnect\ndata: {}\nid: 3\n\n")
            agent.let(2)


async def test_another_workers_words_go_out_where_they_are_heard(writes: Writes, tmp_path: Path):
    store = f"sqlite:///{tmp_path / 'gapless.db'}"
    agent = Gated("one", "two")
    app = create_app(Runner(store=store))
    async with Runner(agent, store=store) as owner:
        run = await owner.start("x", run_id="r")
        with serving(app) as url:
            async with (
                httpx2.AsyncClient(base_url=url) as client,
                client.stream("GET", "/runs/r/events", headers=STREAM) as response,
            ):
                body, pieces = b"", response.aiter_bytes()
                await until(is_followed_live(app), "it is followed")
                agent.let()
                while b'"one"' not in body:
                    body += await anext(pieces)
                assert writes.has("one")
                agent.let(2)
                async for piece in pieces:
                    body += piece
        await run.wait()
    assert text_of(body) == "onetwo"


async def test_an_encoder_that_fails_ends_its_own_connection_alone(monkeypatch: pytest.MonkeyPatch):
    agent = Gated("one", "two")
    app = create_app(Runner(agent))

    def fails(*_: Any) -> bytes:
        raise ValueError("a fault")

    with serving(app, log_level="critical") as url:  # the server says that the application failed
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/runs", json={"message": "x", "run_id": "r"})
            async with client.stream("GET", "/runs/r/events", headers=STREAM) as response:
                with pytest.raises(httpx2.RemoteProtocolError):
                    async for piece in response.aiter_bytes():
                        if b"RUN_STARTED" in piece:
                            await until(is_followed_live(app), "it is followed")
                            monkeypatch.setattr(AGUIEncoder, "encode_one", fails)
                            monkeypatch.setattr(Delivery, "_encode", fails)  # if it was nudged just now
                            agent.let()
            monkeypatch.undo()
            agent.let(2)
            rest = await client.get("/runs/r/events", headers=STREAM)
    assert text_of(rest.content) == "onetwo"


# -- connections that are taken from the server ------------------------------------------------------------------------


class Taken:
    """The connections that were taken from their server, and how often one could not be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connections: list[TakenConnection] = []
        self.left = 0
        take = DirectWriter.take

        def noted(writer: DirectWriter, on_lost: Callable[[], None]) -> TakenConnection | None:
            taken = take(writer, on_lost)
            if taken is None:
                self.left += 1
            else:
                self.connections.append(taken)
            return taken

        monkeypatch.setattr(DirectWriter, "take", noted)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


async def started(url: str, run_id: str = "r", **more: str) -> None:
    async with httpx2.AsyncClient(base_url=url) as client:
        (await client.post("/runs", json={"message": "x", "run_id": run_id, **more})).raise_for_status()


PLAIN: dict[str, Any] = {"http": "httptools"}
BOUNDED: dict[str, Any] = {"http": http_protocol(ConnectionLimits())}


@pytest.mark.parametrize("options", [PLAIN, BOUNDED], ids=["uvicorn's", "gapless serve's"])
async def test_a_connection_that_was_taken_answers_the_next_request_too(
    options: dict[str, Any], taken: Taken, client: socket.socket
):
    agent = Gated("one", "two")
    app = create_app(Runner(agent))
    with serving(app, **options) as url:
        await started(url)
        received = bytearray()
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET /runs/r/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        read_until(client, received, b"RUN_STARTED")
        await until(is_followed_live(app), "it is followed")
        assert len(taken.connections) == 1
        client.sendall(b"\r\n")  # as some clients do after a request
        agent.let()
        read_until(client, received, b'"one"')
        client.sendall(b"GET /runs/r HTT")  # the next request comes before its turn, and in parts
        agent.let(2)
        read_until(client, received, b"\r\n0\r\n\r\n")
        assert text_of(unchunked(bytes(received))) == "onetwo"
        assert b" 200 OK" not in received[20:], "one after the other"
        client.sendall(b"P/1.1\r\nhost: localhost\r\n\r\n")
        del received[:]
        read_until(client, received, b'"finished"')
        assert received.startswith(b"HTTP/1.1 200 OK")
        client.sendall(b"GET /runs/r HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        while piece := client.recv(1 << 16):
            received += piece
        assert received.count(b"HTTP/1.1 200 OK") == 2
    assert taken.left == 0
    assert not any(counts for counts in connections._open.values()), "and it is counted no more"


@pytest.mark.parametrize("options", [PLAIN, BOUNDED], ids=["uvicorn's", "gapless serve's"])
async def test_a_connection_that_was_taken_and_is_closed_is_forgotten(
    options: dict[str, Any], taken: Taken, client: socket.socket
):
    agent = Gated("one")
    app = create_app(Runner(agent))
    with serving(app, **options) as url:
        await started(url)
        ask(client, url, "/runs/r/events")
        read_until(client, bytearray(), b"RUN_STARTED")
        await until(is_followed_live(app), "it is followed")
        if options is BOUNDED:
            assert any(counts["127.0.0.1"] for counts in connections._open.values()), "it counts while it is there"
        client.close()
        await until(lambda: not app.state.streams.open, "it is noticed")
        await until(lambda: not any(connections._open.values()), "and it is counted no more")
        agent.let(2)
    assert len(taken.connections) == 1


async def test_a_request_of_which_a_part_came_before_the_connection_was_taken_is_answered(
    taken: Taken, client: socket.socket
):
    agent = Gated("one")
    with serving(create_app(Runner(agent)), **PLAIN) as url:
        await started(url)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET /runs/r/events HTTP/1.1\r\nhost: localhost\r\n\r\nGET /runs/r HTT")
        received = bytearray()
        read_until(client, received, b"RUN_STARTED")
        await until(lambda: taken.left, "it cannot be taken")
        agent.let(2)
        read_until(client, received, b"\r\n0\r\n\r\n")
        client.sendall(b"P/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        while piece := client.recv(1 << 16):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == received.count(b"HTTP/1.1 ") == 2
    assert not taken.connections


async def test_a_connection_that_was_taken_hears_of_its_end_after_an_empty_line_too(
    taken: Taken, client: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.http.stream.PING_S", 3600.0)  # nothing is written that would find out
    read, data_received = bytearray(), TakenConnection.data_received

    def noted(connection: TakenConnection, data: bytes) -> None:
        data_received(connection, data)
        read.extend(data)

    monkeypatch.setattr(TakenConnection, "data_received", noted)
    agent = Gated("one")
    app = create_app(Runner(agent))
    with serving(app, **PLAIN) as url:
        await started(url)
        ask(client, url, "/runs/r/events")
        read_until(client, bytearray(), b"RUN_STARTED")
        await until(is_followed_live(app), "it is followed")
        client.sendall(b"\r\n")
        await until(lambda: read == b"\r\n", "it is read")
        client.close()
        await until(lambda: not app.state.streams.open, "it is noticed")
        agent.let(2)


class Full(asyncio.Transport):
    """Takes more than it likes."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.get_protocol().pause_writing()


async def test_a_connection_that_is_full_when_it_is_given_back_waits_before_its_next_answer():
    """The last piece of an answer may be all that its client has not read."""
    config = Config(create_app(Runner(Gated("one"))), log_config=None)
    config.load()
    transport: Any = Full()
    handover = Handover(HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}))
    transport.set_protocol(taken := TakenConnection(transport, handover, lambda: None, keeps_alive=True))
    await taken.send({"type": "http.response.body", "body": b"much", "more_body": False})
    assert transport.protocol.flow.write_paused
    transport.protocol.resume_writing()
    assert not transport.protocol.flow.write_paused
    transport.protocol._unset_keepalive_if_required()


async def test_a_connection_that_is_given_back_is_not_turned_away_for_one_that_is(taken: Taken, client: socket.socket):
    agent = Gated("one")
    app = create_app(Runner(agent))
    limits = ConnectionLimits(connections_max=1)
    with serving(app, http=http_protocol(limits)) as url:
        await started(url)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET /runs/r/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        received = bytearray()
        read_until(client, received, b"RUN_STARTED")
        await until(is_followed_live(app), "it is followed")
        with socket.create_connection(client.getpeername()) as refused:
            read_until(refused, bytearray(), b"HTTP/1.1 503")  # and it is there until it closes, or a second has gone
            agent.let(2)
            read_until(client, received, b"\r\n0\r\n\r\n")
            client.sendall(b"GET /runs/r HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            while piece := client.recv(1 << 16):
                received += piece
    assert received.count(b"HTTP/1.1 200 OK") == received.count(b"HTTP/1.1 ") == 2
    assert len(taken.connections) == 1


@pytest.mark.parametrize("wire", sorted(WIRES))
async def test_what_is_taken_has_the_same_bytes_as_what_is_not(
    wire: str, taken: Taken, monkeypatch: pytest.MonkeyPatch
):
    agent = Gated("one", "two", "three")
    app = create_app(Runner(agent))
    answers: list[tuple[socket.socket, bytearray]] = []
    with serving(app) as url:
        await started(url)
        agent.let()
        for way in ("first", "taken", "written beside", "sent"):  # the first may hear the word live, the others do not
            answer = socket.socket(), bytearray()
            answer[0].settimeout(60)
            with monkeypatch.context() as patch:
                if way == "written beside":
                    patch.setattr(DirectWriter, "take", lambda *asked: None)
                if way == "sent":
                    patch.setattr("gapless.http.stream.writer_of", lambda send: None)
                ask(answer[0], url, f"/runs/r/events?wire={wire}")
                read_until(*answer, b"one")
                if way == "taken":
                    await until(lambda: len(taken.connections) == 2, "it is taken")
            answers.append(answer)
        for word in (b"two", b"three"):
            agent.let()
            for answer in answers:
                read_until(*answer, word)
        agent.let()
        for client, received in answers:
            while piece := client.recv(1 << 16):
                received += piece
            client.close()
    bodies = {bytes(received.partition(b"\r\n\r\n")[2]) for _, received in answers[1:]}
    assert len(bodies) == 1
    if wire == "ag-ui":
        assert text_of(unchunked(bytes(answers[1][1]))) == "onetwothree"


# -- answers that last ------------------------------------------------------------------------------------------------


async def lasts(app: Any) -> None:
    """Have the open answers last from now on."""
    journals = app.state.runner.journals
    told = threading.Event()

    def tell() -> None:
        for delivery in app.state.streams.open:
            delivery.lasts()
        told.set()

    journals.loop.call_soon_threadsafe(tell)
    assert await asyncio.to_thread(told.wait, 60)


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[EventStream]:
    """The answers whose client is listened to, none of which lasts by itself."""
    monkeypatch.setattr("gapless.http.stream.LASTS_S", 3600.0)
    found: list[EventStream] = []
    listen = EventStream._listen

    async def noted(stream: EventStream, receive: Any) -> None:
        found.append(stream)
        await listen(stream, receive)

    monkeypatch.setattr(EventStream, "_listen", noted)
    return found


@pytest.mark.parametrize("way", ["direct", "h11", "behind a middleware"])
async def test_an_answer_is_listened_to_or_taken_in_its_middle_once_it_lasts(
    way: str, taken: Taken, listened: list[EventStream], client: socket.socket
):
    agent = Gated("one", "two", "three")
    app = create_app(Runner(agent), cors_origins=("https://app.example",) if way == "behind a middleware" else ())
    with serving(app, http="h11" if way == "h11" else "httptools") as url:
        await started(url)
        ask(client, url, "/runs/r/events")
        received = bytearray()
        agent.let()
        read_until(client, received, b'"one"')
        assert (taken.connections, listened) == ([], []), "it may be short"
        await lasts(app)
        if way == "direct":
            await until(lambda: taken.connections, "it is taken")
        else:
            await until(lambda: listened, "it is listened to")
        agent.let()
        read_until(client, received, b'"two"')
        assert (len(taken.connections), len(listened)) == ((1, 0) if way == "direct" else (0, 1))
        agent.let(2)
        while piece := client.recv(1 << 16):
            received += piece
    assert text_of(unchunked(bytes(received))) == "onetwothree"


async def test_a_short_answer_is_neither_listened_to_nor_taken(
    taken: Taken, listened: list[EventStream], client: socket.socket
):
    agent = Gated("one")
    app = create_app(Runner(agent))
    with serving(app) as url:
        await started(url)
        ask(client, url, "/runs/r/events")
        agent.let(2)
        received = bytearray()
        while piece := client.recv(1 << 16):
            received += piece
        await until(lambda: not app.state.streams.open, "it is closed")
    assert text_of(unchunked(bytes(received))) == "one"
    assert (taken.connections, taken.left, listened) == ([], 0, [])


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_client_that_has_left_before_its_answer_lasts_is_noticed_then(
    http: str, listened: list[EventStream], client: socket.socket
):
    agent = Gated("one")
    app = create_app(Runner(agent))
    with serving(app, http=http) as url:
        await started(url)
        ask(client, url, "/runs/r/events")
        read_until(client, bytearray(), b"RUN_STARTED")
        client.close()
        assert app.state.streams.open
        await lasts(app)
        await until(lambda: not app.state.streams.open, "it is noticed")
        agent.let(2)


async def test_who_does_not_read_when_the_answer_comes_to_last_has_every_word_once(
    taken: Taken, listened: list[EventStream], client: socket.socket
):
    passed, go_on = threading.Event(), threading.Event()

    def agent(message: str) -> Iterator[str]:
        for number in range(TORRENT):
            yield f"{number:06d},"
        passed.set()
        go_on.wait(60)
        yield "last."

    app = create_app(Runner(agent))
    with serving(app, send_buffer_bytes=16 * 1024) as url:
        await started(url)
        ask(client, url, "/runs/r/events?merge=0")
        assert await asyncio.to_thread(passed.wait, 60)
        assert not taken.connections
        await lasts(app)
        assert (taken.connections, taken.left) == ([], 0), "its loop waits for it to read"
        received = bytearray()
        read_until(client, received, b"%06d," % (TORRENT - 1))
        await until(lambda: taken.connections, "it is taken")
        go_on.set()
        while piece := client.recv(1 << 16):
            received += piece
    assert text_of(unchunked(bytes(received))) == "".join(f"{n:06d}," for n in range(TORRENT)) + "last."


async def test_what_comes_while_a_client_that_was_taken_does_not_read_is_merged(taken: Taken, client: socket.socket):
    go_on, passed, end = threading.Event(), threading.Event(), threading.Event()

    def agent(message: str) -> Iterator[str]:
        yield "first,"
        go_on.wait(60)
        yield "x" * 900_000  # more than what is between the two holds
        for number in range(2_000):
            yield f"{number:06d},"
        passed.set()
        end.wait(60)

    app = create_app(Runner(agent))
    with serving(app, send_buffer_bytes=16 * 1024) as url:
        await started(url)
        ask(client, url, "/runs/r/events")
        received = bytearray()
        read_until(client, received, b"first,")
        await lasts(app)
        await until(lambda: taken.connections, "it is taken")
        go_on.set()
        assert await asyncio.to_thread(passed.wait, 60)
        end.set()
        while piece := client.recv(1 << 16):
            received += piece
    body = unchunked(bytes(received))
    assert text_of(body).endswith("".join(f"{n:06d}," for n in range(2_000)))
    assert body.count(b"\ndata: ") < 200


async def test_who_does_not_read_and_is_given_up_by_the_server_is_followed_no_more(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    """Also where its loop waits until the client reads, to take its connection."""
    monkeypatch.setattr("gapless.http.stream.PING_S", 3600.0)
    monkeypatch.setattr("gapless.http.stream.LASTS_S", 3600.0)
    go_on, passed, end = threading.Event(), threading.Event(), threading.Event()

    def agent(message: str) -> Iterator[str]:
        yield "first,"
        go_on.wait(60)
        yield "x" * 900_000
        passed.set()
        end.wait(60)

    app = create_app(Runner(agent))
    http = http_protocol(ConnectionLimits(head_s=0.5))
    with serving(app, send_buffer_bytes=16 * 1024, http=http) as url:
        await started(url)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET /runs/r/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        read_until(client, bytearray(), b"first,")
        go_on.set()
        assert await asyncio.to_thread(passed.wait, 60)
        client.sendall(b"GET /runs/r HTT")  # of which no more comes
        await lasts(app)
        await until(lambda: not app.state.streams.open, "it is followed no more")
        end.set()


async def is_taken_and_goes_on(taken: Taken, agent: Gated, client: socket.socket, url: str, path: str) -> None:
    """Follow a run that says "one", and hear the rest of it over a connection that was taken."""
    ask(client, url, path)
    received = bytearray()
    read_until(client, received, b"RUN_STARTED")
    await until(lambda: taken.connections, "it is taken")
    agent.let(2)
    read_until(client, received, b"RUN_FINISHED")
    assert received.count(b'"one"') == 1


@pytest.mark.parametrize("path", ["/runs/r/events", "/sessions/s/events"])
async def test_a_connection_that_could_not_be_taken_when_the_answer_came_to_last_is_taken_later(
    path: str, taken: Taken, client: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.http.stream.PING_S", 0.02)
    agent, take = Gated("one"), DirectWriter.take

    def not_yet(writer: DirectWriter, on_lost: Callable[[], None]) -> TakenConnection | None:
        monkeypatch.setattr(DirectWriter, "take", take)
        return None

    app = create_app(Runner(agent))
    with serving(app) as url:
        await started(url, session_id="s")
        monkeypatch.setattr(DirectWriter, "take", not_yet)
        await is_taken_and_goes_on(taken, agent, client, url, path)


@pytest.mark.parametrize("path", ["/runs/r/events", "/sessions/s/events"])
async def test_a_connection_of_what_lasts_is_taken_at_once(path: str, taken: Taken, client: socket.socket):
    """So does a session's, and a run's that has: its follower need not wait with all that a request takes."""
    agent = Gated("one")
    app = create_app(Runner(agent))
    with serving(app) as url:
        await started(url, session_id="s")
        began = now_ms()  # and the run before
        await until(lambda: now_ms() - began > stream.LASTS_S * 1000, "the run has lasted")
        app.state.streams._new.add = None  # by which it would wait
        await is_taken_and_goes_on(taken, agent, client, url, path)


@pytest.mark.parametrize("path", ["/runs/r/events", "/sessions/s/events"])
async def test_nothing_is_kept_of_the_request_whose_connection_was_taken(
    path: str, client: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    requests, take = list[weakref.ref[Any]](), DirectWriter.take

    def noted(writer: DirectWriter, on_lost: Callable[[], None]) -> TakenConnection | None:
        requests.append(weakref.ref(writer._cycle))
        return take(writer, on_lost)

    monkeypatch.setattr(DirectWriter, "take", noted)
    agent = Gated("one")
    app = create_app(Runner(agent))

    def are_gone() -> bool:
        gc.collect()
        return bool(requests) and all(request() is None for request in requests)

    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as asking:
            await asking.post("/runs", json={"message": "x", "run_id": "r", "session_id": "s"})
        ask(client, url, path)
        read_until(client, bytearray(), b"RUN_STARTED")
        await until(are_gone, "its request is gone")
        assert app.state.streams.open
        agent.let(2)


class Listening:
    """Middleware that hears what a client says before the app does, as what traces requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def heard() -> Message:
            return await receive()

        await self._app(scope, heard, send)


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
@pytest.mark.parametrize("way", ["alone", "behind a middleware", "behind one that listens"])
@pytest.mark.parametrize("path", ["/runs/r/events", "/sessions/s/events", "/feed"])
async def test_a_client_that_leaves_while_a_request_of_its_waits_behind_the_stream_is_noticed(
    path: str,
    way: str,
    loop: Literal["auto", "asyncio"],
    client: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """uvicorn tells the last request alone; of uvloop's connections, one that is gone raises where it is written to."""
    monkeypatch.setattr("gapless.http.stream.PING_S", 0.02)
    agent = Gated("one")
    app = create_app(Runner(agent), cors_origins=("https://app.example",) if way == "behind a middleware" else ())
    if way == "behind one that listens":
        app.add_middleware(Listening)
    with serving(app, loop=loop, log_config=None, **PLAIN) as url:
        async with httpx2.AsyncClient(base_url=url) as asking:
            await asking.post("/runs", json={"message": "x", "run_id": "r", "session_id": "s"})
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        request = b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n"
        client.sendall(request % path.encode() + request % b"/runs/r")
        read_until(client, bytearray(), b"reset" if path == "/feed" else b"RUN_STARTED")
        client.close()
        await until(lambda: not app.state.streams.open, "it is noticed")
        assert app.state.runner.metrics.followers == 0
        agent.let(2)
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
