"""What somebody without a key can do to a server: heads without end, requests that trickle, connections in numbers."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from unittest.mock import Mock

import httpx2
import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from gapless import ConnectionLimits, RunContext, Runner, create_app
from gapless.server import connections
from gapless.server.connections import H11Connection, HttpConnection, http_protocol, websocket_protocol
from gapless.testing import serving
from tests.support.waiting import WAIT_S

BOUNDED = ConnectionLimits(connections_max=40, connections_per_address_max=8)
LIMITS = msgspec.structs.replace(BOUNDED, head_s=WAIT_S, body_s=WAIT_S, unread_s=WAIT_S)
"""Nothing of it ends because the machine is slow."""
HURRIED = msgspec.structs.replace(BOUNDED, head_s=1, body_s=1)
PROXY = "127.0.0.9"
KB = 1024
KEY = "0123456789abcdef"


async def parrot(ctx: RunContext) -> AsyncIterator[str]:
    if ctx.live is None:
        yield "said"
        return
    async for request in ctx.live:
        yield f"You said {request.content}. "


class Served(NamedTuple):
    port: int
    parser: str


PARSERS = ["httptools", "h11"]


@pytest.fixture(scope="module", params=PARSERS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with served_by(request.param, LIMITS) as found:
        yield found


@pytest.fixture(params=PARSERS)
def hurried(request: pytest.FixtureRequest) -> Iterator[Served]:
    with served_by(request.param, HURRIED) as found:
        yield found


@contextlib.contextmanager
def served_by(parser: str, limits: ConnectionLimits) -> Iterator[Served]:
    protocol: Any = http_protocol(limits)
    if parser == "h11":
        protocol = lambda *args, **kwargs: H11Connection(*args, limits=limits, **kwargs)  # noqa: E731
    else:
        assert HttpConnection is not H11Connection
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "UNREAD_BODY_S", 1.0)
        patch.setenv("GAPLESS_API_KEYS", f"alice={KEY}")
        app = create_app(Runner(parrot))
        with serving(app, http=protocol, ws=websocket_protocol(), forwarded_allow_ips=PROXY) as url:
            yield Served(int(url.rpartition(":")[2]), parser)


@contextlib.contextmanager
def connected(port: int, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), WAIT_S, (address, 0)) as sock:
        yield sock


def answer(sock: socket.socket) -> bytes:
    """All that comes, to the end."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(KB * KB):
            received += piece
    return received


def status_of(received: bytes) -> int:
    return int(received.split(b" ", 2)[1]) if received else 0


def asked(port: int, *parts: bytes) -> tuple[int, bytes]:
    """The status, where these are sent one after the other for as long as they are taken."""
    with connected(port) as sock:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
        received = answer(sock)
    return status_of(received), received


GET = b"GET /runs HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
LONG = [b"a" * 16 * KB] * 64
"""1 MB, in pieces."""
HEADS = {
    "one header": ([GET + b"X: ", *LONG], 431),
    "one header that ends": ([GET + b"X: " + b"a" * 80 * KB + b"\r\n\r\n"], 431),
    "a header's name": ([GET, *LONG], 431),
    "many headers": ([GET, *[b"X: a\r\n" * 4000] * 40], 431),
    "many headers at once": ([GET + b"".join(b"X%d: a\r\n" % n for n in range(20_000)) + b"\r\n"], 431),
    "a URL": ([b"GET /", *LONG], 414),
    "a URL that ends": ([b"GET /" + b"a" * 80 * KB + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"], 414),
    "trailers": ([CHUNKED + b"1\r\n{\r\n0\r\nX: ", *LONG], 431),
    "many trailers": ([CHUNKED + b"1\r\n{\r\n0\r\n", *[b"X: a\r\n" * 4000] * 40], 431),
    "a chunk's extension": ([CHUNKED + b"1;x=", *LONG], 431),
    "a handshake's header": ([UPGRADE + b"X: " + b"a" * 12 * KB + b"\r\n\r\n"], 431),
    "a handshake's headers": ([UPGRADE + b"X: a\r\n" * 200 + b"\r\n"], 431),
    "a handshake's URL": ([UPGRADE.replace(b"/live", b"/live?x=" + b"a" * 12 * KB) + b"\r\n"], 414),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_without_end_is_refused(served: Served, name: str, caplog: pytest.LogCaptureFixture):
    parts, expected = HEADS[name]
    if served.parser == "h11" and expected == 414 and "handshake" not in name:
        expected = 431  # it does not say where it was
    status, received = asked(served.port, *parts)
    if "trailer" in name or "chunk" in name:  # who has no key may have been told that before
        assert status in (expected, 401, 413)
    else:
        assert status == expected, received[:200]
        assert b'"code":"input_too_large"' in received
        assert b"connection: close" in received
    assert not [record for record in caplog.records if record.exc_info]


def test_150_mb_of_one_header_do_not_hold_the_loop(served: Served):
    def send() -> None:
        asked(served.port, GET + b"X: ", *[b"a" * 256 * KB] * 600)

    attack = threading.Thread(target=send)
    attack.start()
    longest_s, until = 0.0, time.monotonic() + 0.5
    with httpx2.Client(trust_env=False) as client:
        while attack.is_alive() or time.monotonic() < until:
            began = time.monotonic()
            client.get(f"http://127.0.0.1:{served.port}/health")
            longest_s = max(longest_s, time.monotonic() - began)
    attack.join()
    assert longest_s < 5.0, "it was 17 s"


def test_a_request_within_the_bounds_is_as_before(served: Served):
    with connected(served.port) as sock:
        whole = GET.replace(b"/runs", b"/health") + b"X: " + b"a" * 40 * KB + b"\r\n\r\n"
        for _ in range(3):  # on one connection, each in pieces
            for at in range(0, len(whole), 10 * KB):
                sock.sendall(whole[at : at + 10 * KB])
            assert b"200 OK" in sock.recv(KB * KB)
        body = b'{"message": "x", "run_id": "r-%b"}' % served.parser.encode()
        key = b"X-Api-Key: %b\r\n" % KEY.encode()
        pieces = b"".join(b"1;a=b\r\n%b\r\n" % body[n : n + 1] for n in range(len(body)))
        chunked = CHUNKED.replace(b"\r\n\r\n", b"\r\n" + key + b"\r\n")
        sock.sendall(chunked + pieces + b"0\r\nX-Api-Key: another\r\n\r\n" + whole)  # and the next behind it
        received = b""
        while received.count(b"HTTP/1.1 ") < 2:
            received += sock.recv(KB * KB)
        assert b"202 Accepted" in received
        assert b"200 OK" in received


SLOW = {
    "nothing": ([], 0),
    "a part of a head": ([GET], 408),
    "line ends": ([b"\r\n"], 408),
    "half a URL": ([b"GET /ru"], 408),
    "no body": ([POST + b"X-Api-Key: 0123456789abcdef\r\nContent-Length: 10\r\n\r\n"], 408),
    "a part of a body": ([POST + b"X-Api-Key: 0123456789abcdef\r\nContent-Length: 10\r\n\r\n{"], 408),
    "nothing after an answer": ([GET + b"\r\n", b"\r\n"], 401),
    "a body that nobody reads": ([POST + b"Content-Length: 10\r\n\r\n{"], 401),
}


def test_what_comes_too_slowly_is_ended(hurried: Served):
    with contextlib.ExitStack() as stack:
        socks = {}
        began = time.monotonic()
        for number, (name, (parts, _)) in enumerate(SLOW.items(), 20):
            socks[name] = stack.enter_context(connected(hurried.port, f"127.0.0.{number}"))
            for part in parts:
                socks[name].sendall(part)
                time.sleep(0.02)
        for name, sock in socks.items():
            received = answer(sock)
            assert status_of(received) in (SLOW[name][1], 400 * (name == "line ends")), (name, received)
            assert time.monotonic() - began < WAIT_S, f"{name} holds its connection"
    assert time.monotonic() - began > 0.9


def test_what_trickles_is_ended(hurried: Served):
    """Each byte in time, the whole never."""
    heads = {GET + b"X: ": 408, POST + b"X-Api-Key: 0123456789abcdef\r\nContent-Length: 1000\r\n\r\n": 408}
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(hurried.port)) for _ in heads]
        for sock, head in zip(socks, heads, strict=True):
            sock.sendall(head)
        for _ in range(50):
            for sock in socks:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(b"a")
            time.sleep(0.03)
        assert [status_of(answer(sock)) for sock in socks] == list(heads.values())


def taken_again(port: int, address: str = "127.0.0.1") -> None:
    """Wait until a connection is taken: the server hears a little later that another has ended."""
    deadline, status = time.monotonic() + WAIT_S, 0
    while status != 401:
        assert time.monotonic() < deadline, status
        with connected(port, address) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(GET + b"Connection: close\r\n\r\n")
            status = status_of(answer(sock))


def test_connections_of_one_address_are_bounded(served: Served):
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(connected(served.port, "127.0.0.2")) for _ in range(8)]
        with connected(served.port, "127.0.0.2") as late:
            received = answer(late)
            assert status_of(received) == 429
            assert b"connections_per_address_max=8" in received
            assert b"retry-after: 1" in received
        with connected(served.port, "127.0.0.3") as other:  # is not in its way
            other.sendall(GET + b"Connection: close\r\n\r\n")
            assert status_of(answer(other)) == 401
        proxied = [stack.enter_context(connected(served.port, PROXY)) for _ in range(12)]
        proxied[-1].sendall(GET + b"Connection: close\r\n\r\n")
        assert status_of(answer(proxied[-1])) == 401
        mine.pop().close()
        taken_again(served.port, "127.0.0.2")


def test_connections_are_bounded_in_all(served: Served):
    with contextlib.ExitStack() as stack:
        for number in range(40):
            stack.enter_context(connected(served.port, f"127.0.1.{number}"))
        with connected(served.port, "127.0.2.1") as late:
            received = answer(late)
            assert status_of(received) == 503
            assert b"connections_max=40" in received
    taken_again(served.port)


def test_websockets_count_and_one_of_bad_utf_8_is_closed_with_a_reason(
    served: Served, caplog: pytest.LogCaptureFixture
):
    url, headers = f"ws://127.0.0.1:{served.port}/live", {"x-api-key": KEY}
    with caplog.at_level(logging.INFO), contextlib.ExitStack() as stack:
        for _ in range(8):
            live = stack.enter_context(
                connect(url, additional_headers=headers, source_address=("127.0.0.4", 0), proxy=None)
            )
        with connected(served.port, "127.0.0.4") as late:
            assert status_of(answer(late)) == 429
        live.socket.sendall(Frame(Opcode.TEXT, b'{"content": "\xff\xfe"}').serialize(mask=True, extensions=[]))
        with pytest.raises(ConnectionClosedError) as closed:
            while True:
                live.recv(timeout=WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_a_server_that_stops_waits_for_no_half_request_and_no_client_that_does_not_read(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "CLOSING_S", 0.3)
    monkeypatch.delenv("GAPLESS_API_KEYS", raising=False)  # a fixture's that is still there

    said = threading.Event()

    async def torrent(message: str) -> AsyncIterator[str]:
        for _ in range(3000):
            yield "word " * 200
        said.set()

    app = create_app(Runner(torrent))
    with caplog.at_level(logging.INFO), contextlib.ExitStack() as stack:
        with serving(app, http=http_protocol(LIMITS), ws=websocket_protocol(), send_buffer_bytes=16 * KB) as url:
            port = int(url.rpartition(":")[2])
            sent = {"head": GET, "body": POST + b"Content-Length: 10\r\n\r\n{"}
            socks = {name: stack.enter_context(connected(port)) for name in sent}
            for name, part in sent.items():
                socks[name].sendall(part)
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KB)
            deaf.connect(("127.0.0.1", port))
            body = b'{"message": "x"}'
            deaf.sendall(POST + b"Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            assert said.wait(WAIT_S)  # and what came before is read
            began = time.monotonic()
        assert time.monotonic() - began < WAIT_S
        assert status_of(answer(socks["body"])) == 503
        assert answer(socks["head"]) == b""
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_any_app_is_given_the_bounds_by_uvicorns_own_options():
    config = uvicorn.Config(
        create_app(Runner(parrot)),
        http="gapless.server.connections:HttpConnection",
        ws="gapless.server.connections:WebSocketConnection",
    )
    config.load()
    made: Any = config.http_protocol_class(config=config, server_state=ServerState(), app_state={}, _loop=Mock())  # type: ignore[call-arg]
    assert isinstance(made, HttpConnection)
    assert made._limits == ConnectionLimits()
    assert config.ws_protocol_class is connections.WebSocketConnection


def test_who_takes_nothing_of_an_answer_is_cut_off_and_who_is_slow_or_has_a_stream_is_not():
    limits, is_cut = msgspec.structs.replace(LIMITS, unread_s=3), threading.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        """An answer that no kernel takes at once."""
        body = b"x" * 4 * KB * KB
        head = [] if scope["path"] == "/stream" else [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})  # waits until most of it is taken, or nobody is there
        if scope["path"] == "/whole":
            is_cut.set()

    options: Any = {"http": http_protocol(limits), "lifespan": "off", "send_buffer_bytes": 16 * KB}
    with serving(large, **options) as url, contextlib.ExitStack() as stack:
        socks = {}
        for name in ("/whole", "/stream", "/slow"):
            sock = socks[name] = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KB)
            sock.settimeout(WAIT_S)
            sock.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            sock.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % name.encode())
        slowly, until = b"", time.monotonic() + WAIT_S
        while not is_cut.wait(0.1):
            assert time.monotonic() < until
            slowly += socks["/slow"].recv(16 * KB)
        assert len(answer(socks["/whole"])) < KB * KB
        assert len(answer(socks["/stream"])) > 4 * KB * KB
        assert len(slowly + answer(socks["/slow"])) > 4 * KB * KB


def test_requests_that_wait_on_one_connection_are_bounded(served: Served):
    _, received = asked(served.port, (GET + b"\r\n") * 2000 + GET + b"Connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") < 40 or served.parser == "h11", "which reads no more than one ahead"
    _, received = asked(served.port, (GET + b"\r\n") * 9 + GET + b"Connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 401") == 10


def test_a_stream_with_a_request_behind_it_ends_with_its_connection(caplog: pytest.LogCaptureFixture):
    left = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    options: Any = {"http": http_protocol(LIMITS), "lifespan": "off"}
    with serving(app, **options) as url:
        with connected(int(url.rpartition(":")[2])) as sock:
            sock.sendall((GET + b"\r\n") * 2)
            assert sock.recv(KB)
        assert left.wait(WAIT_S)
