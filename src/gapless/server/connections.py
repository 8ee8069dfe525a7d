"""Connections before anybody is known: bounds on what a stranger may send, how slowly, and how often.

A request's head, body and trailers come from whoever can reach the port. These are uvicorn's protocol classes with a
bound on each: bytes of a head, seconds for head and body, connections in all and of one address. `gapless serve` uses
them; any other app can, with `uvicorn --http gapless.server.connections:HttpConnection
--ws gapless.server.connections:WebSocketConnection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import ipaddress
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakKeyDictionary

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from gapless.config import ConnectionLimits
from gapless.http.direct import Handover

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    _Protocol = H11Protocol
else:
    _Protocol = object

__all__ = ["H11Connection", "HttpConnection", "WebSocketConnection", "http_protocol", "websocket_protocol"]

LINGER_S = 1.0
"""What a refused client sends on is read and dropped for so long: who is cut off while sending sees no answer."""
UNREAD_BODY_S = 5.0
"""The rest of a body that was answered before it was whole is read and dropped for so long."""
CLOSING_S = 4.0
"""A client that does not take the rest of its answer when the server ends is cut off after this."""
PIPELINED_MAX = 16
"""Requests of one connection that wait for the one before them; hundreds fit into one read, and each takes memory."""
H11_PIECE_BYTES = 16 * 1024
"""A head may be larger than the limit by this."""
WEBSOCKET_LINE_BYTES_MAX = 8000
WEBSOCKET_HEADERS_MAX = 120
"""A handshake within these is read by any library (websockets has 8,192 bytes and 128 headers, and says nothing)."""

_REASONS = {
    408: "Request Timeout",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_CODES = {408: "request_timeout", 429: "limit_reached", 503: "limit_reached"}

_open: WeakKeyDictionary[ServerState, Counter[str]] = WeakKeyDictionary()
"""How many connections each peer address has, by server."""


def _answer(status: int, message: str, *, code: str | None = None) -> bytes:
    """An error as every route gives it, for a connection that ends with it."""
    error = {"code": code or _CODES.get(status, "input_too_large"), "message": message}
    body = msgspec.json.encode({"error": error})
    retry = b"retry-after: 1\r\n" if status in (429, 503) else b""
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"
        b"x-content-type-options: nosniff\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (status, _REASONS[status].encode(), retry, len(body), body)
    )


def _address_of(client: tuple[str, int] | None) -> str | None:
    """The network that a peer can choose its addresses from: of IPv6 the first 64 bits."""
    if client is None:
        return None
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return client[0]
    if address.version == 4:
        return client[0]
    if (mapped := address.ipv4_mapped) is not None:
        return str(mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _is_in(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return address == network


def _count_out(server: ServerState, address: str) -> None:
    counts = _open[server]
    counts[address] -= 1
    if not counts[address]:
        del counts[address]


class _Counted:
    """Counts a server's connections by the peer's address, while they are open."""

    server_state: ServerState
    _address: str | None = None

    def _count(self, client: tuple[str, int] | None) -> int:
        """Count this one in; returns how many its address has."""
        self._address = _address_of(client)
        if self._address is None:
            return 0
        counts = _open.setdefault(self.server_state, Counter())
        counts[self._address] += 1
        return counts[self._address]

    def _count_out(self) -> None:
        if self._address is not None:
            _count_out(self.server_state, self._address)
        self._address = None


class _Bounded(_Counted, _Protocol):
    """What the bounds are, whichever library reads HTTP.

    A request is at its head, then at its body, then through; `_phase` says where this one is. One timer a connection
    looks whether that has taken too long."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    def __init__(
        self, *args: Any, limits: ConnectionLimits | None = None, admitted: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits or self.limits
        self._refused = False
        """It has been answered; what comes yet is dropped."""
        self._due: float | None = None
        """When, by the loop's clock, what is waited for has to be there."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        """Something has come since the last request was through."""
        self._running: Any = None
        """The cycle that is being answered, where others wait behind it: uvicorn tells only the last one of its end."""
        self._admitted = admitted
        """It was in before, and is not judged again: those who are being refused are counted beside it."""
        self._unread: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    def _phase(self) -> tuple[str, int]:
        """Where the request is, "head", "body" or "through", and its number or that of the last one."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        of_address, limits = self._count(self.client), self._limits
        if self._admitted:
            self._wait(limits.head_s)
        elif len(self.connections) > limits.connections_max:
            self._refuse(503, f"this server has connections_max={limits.connections_max} connections; try again")
        elif of_address > limits.connections_per_address_max and not self._is_trusted():
            most = limits.connections_per_address_max
            self._refuse(429, f"your address has connections_per_address_max={most} connections; close some")
        else:
            self._wait(limits.head_s)

    def _is_trusted(self) -> bool:
        """The peer is a proxy, which has everybody's connections: uvicorn's `forwarded_allow_ips` names it."""
        trusted = self.config.forwarded_allow_ips
        named = [one.strip() for one in (trusted.split(",") if isinstance(trusted, str) else trusted)]
        return self.client is not None and any(one == "*" or _is_in(self.client[0], one) for one in named)

    def connection_lost(self, exc: Exception | None) -> None:
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
        if self._unread is not None:
            self._unread.cancel()
        self._count_out()
        self._forsake()
        super().connection_lost(exc)

    def hand_over(self) -> Handover | None:
        """Let go of the connection, whose answer goes on by itself (see `gapless.http.direct`), if its request is
        through. It stays counted."""
        if self._refused or self._phase()[0] != "through":
            return None
        self._due = self._running = None
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        address, self._address = self._address, None
        return _BoundedHandover(self, self._limits, address)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        before = self._phase()
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        self._asked = True
        if (now := self._phase()) != before:
            self._enter(now[0])
        elif self._due is None and now[0] != "body" and self._is_idle():
            self._wait(self._limits.head_s)  # for the next request: uvicorn's timer for a silent connection is off now

    def _enter(self, phase: str) -> None:
        """Give the request the time that this part of it may take."""
        if phase == "through":
            self._due, self._asked = None, False
        else:
            self._wait(self._limits.head_s if phase == "head" else self._limits.body_s)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase()[0] == "body" and self._is_idle():  # and not that of a request behind it
            self._wait(UNREAD_BODY_S)

    # -- time -------------------------------------------------------------------------------------------------------

    def _wait(self, time_s: float) -> None:
        self._due = due = self.loop.time() + time_s
        if self._timer is not None and self._timer.when() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        """End what has taken too long. The timer is not moved with each part of each request, but looks again."""
        self._timer = None
        if self._due is None or self.transport.is_closing():
            return
        if self.loop.time() < self._due:
            self._timer = self.loop.call_at(self._due, self._look)
        elif self._refused:
            self.transport.close()
        elif self._phase()[0] == "body" and self.flow.read_paused and not self._is_idle():
            self._wait(self._limits.body_s)  # it is the app that does not read
        elif not self._asked or self._has_answer_begun():
            self._leave()
        else:
            late = f"its head took over head_s={self._limits.head_s}"
            if self._phase()[0] == "body":
                late = f"its body took over body_s={self._limits.body_s}"
            self._refuse(408, f"the request is not whole: {late} seconds")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_bytes = 0
        if self._unread is None:
            self._unread = self.loop.call_later(self._limits.unread_s, self._look_at_unread)

    def _look_at_unread(self) -> None:
        """Cut off who takes nothing of an answer. One of no fixed length is a stream, whose client may come back to
        reading: it costs no more than its place."""
        self._unread = None
        before, self._unread_bytes = self._unread_bytes, self.transport.get_write_buffer_size()
        cycle: Any = self._running or self.cycle
        if not self.flow.write_paused or cycle is None:
            return
        streams = getattr(cycle, "chunked_encoding", not cycle.response_complete)  # h11's do not say
        if self._unread_bytes == before and not streams:
            self._forsake()
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(self._limits.unread_s, self._look_at_unread)

    def _has_answer_begun(self) -> bool:
        """Whether a status has gone out for this request, or one before it is still being answered."""
        cycle = self.cycle
        if cycle is None:
            return False
        return not cycle.response_complete if self._phase()[0] == "head" else cycle.response_started

    # -- the end ----------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        """Answer so and hang up, once what is on its way has been read."""
        if self._refused:
            return
        self._refused = True
        self._unset_keepalive_if_required()
        if self._has_answer_begun():
            self._leave()
            return
        self._forsake()
        self.transport.write(_answer(status, message, code=code))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._wait(LINGER_S)

    def _leave(self) -> None:
        self._forsake()
        self.transport.close()

    def _forsake(self) -> None:
        """Tell the app that its client is gone."""
        for cycle in (self.cycle, self._running):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.flow.resume_writing()  # whoever waits for it to read need not

    def shutdown(self) -> None:
        """End with the server: at once where there is no whole request, else when it is answered, or not taken."""
        if self._refused:
            self.transport.close()
        elif self._phase()[0] == "body" and not self._has_answer_begun():
            self._refuse(503, "this server is stopping; ask again", "shutting_down")
        else:
            super().shutdown()
            self.loop.call_later(CLOSING_S, self._abort)

    def _abort(self) -> None:
        self._forsake()
        self.transport.abort()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        if any(len(name) + len(value) > WEBSOCKET_LINE_BYTES_MAX for name, value in self.headers):
            self._refuse(431, f"a header of a WebSocket's handshake has at most {WEBSOCKET_LINE_BYTES_MAX} bytes")
        elif len(self.headers) > WEBSOCKET_HEADERS_MAX:
            self._refuse(431, f"a WebSocket's handshake has at most {WEBSOCKET_HEADERS_MAX} headers")
        elif len(self._target()) > WEBSOCKET_LINE_BYTES_MAX:
            self._refuse(414, f"a WebSocket's URL has at most {WEBSOCKET_LINE_BYTES_MAX} bytes")
        else:
            self._due = None
            super().handle_websocket_upgrade(*args)
            self._count_out()  # the other protocol counts it now

    def _target(self) -> bytes:
        """The URL as it was sent."""
        scope: Any = self.scope
        return cast(bytes, scope["raw_path"] + scope["query_string"])


class _BoundedHandover(Handover):
    """Goes on with the same bounds, and has the connection counted until then."""

    __slots__ = ("_address", "_limits")

    def __init__(self, protocol: _Bounded, limits: ConnectionLimits, address: str | None) -> None:
        super().__init__(protocol)
        self._limits = limits
        self._address = None if address is None else sys.intern(address)

    def again(self) -> Any:
        return self._kind(
            limits=self._limits,
            admitted=True,
            config=self._config,
            server_state=self.state,
            app_state=self._app_state,
        )

    def let_go(self) -> None:
        if self._address is not None:
            _count_out(self.state, self._address)
        self._address = None

    def closing_s(self) -> float | None:
        return CLOSING_S


class H11Connection(_Bounded, H11Protocol):
    """A connection that h11 reads. That has a bound, which it looks at between what it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = h11.Connection(h11.SERVER, self._limits.head_bytes_max)

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), H11_PIECE_BYTES):
            if self._refused or self.transport.is_closing():
                return
            super().data_received(data[at : at + H11_PIECE_BYTES])

    def _phase(self) -> tuple[str, int]:
        state = self.conn.their_state
        place = "head" if state is h11.IDLE else "body" if state is h11.SEND_BODY else "through"
        return place, id(self.cycle)

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]  # it is called where that is handled
        if getattr(error, "error_status_hint", 400) == 431:
            most = self._limits.head_bytes_max
            self._refuse(431, f"what a request has beside its body is over head_bytes_max={most} bytes")
        elif self._has_answer_begun():
            self._refused = True
            self._leave()
        else:
            super().send_400_response(msg)


HttpConnection: type[_Bounded] = H11Connection
"""Reads HTTP with httptools where it is installed, else with h11."""

if TYPE_CHECKING or importlib.util.find_spec("httptools"):
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class _TooLarge(Exception):
        """Stops the parser."""

    class HttpToolsConnection(_Bounded, HttpToolsProtocol):  # type: ignore[misc]  # two classes of one interface
        """A connection that httptools reads. That has no bounds: a header that comes in pieces is copied with each, and
        150 MB of one held the loop for 17 s."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._place = "through"
            self._number = 0
            """Requests that have begun."""
            self._head_bytes = 0
            """Of the present head: what has been read of it, by the parser's word."""
            self._fed_bytes = 0
            """Of the present head, or since the last byte of the body: what was given to the parser."""
            self._body_came = False

        def _phase(self) -> tuple[str, int]:
            return self._place, self._number

        def data_received(self, data: bytes) -> None:
            before, self._body_came = self._phase(), False
            super().data_received(data)
            if self._refused or self.transport.is_closing():
                return
            now = self._phase()
            if now == before and not self._body_came:
                self._fed_bytes += len(data)
            elif before[0] == "through" and now == ("head", before[1] + 1):
                self._fed_bytes = len(data)
            else:
                self._fed_bytes = 0  # how much of this was the present head's is not known
            if self._fed_bytes > self._limits.head_bytes_max:
                self._refuse_size(414 if len(self.url) > self._limits.head_bytes_max // 2 else 431)

        def _refuse_size(self, status: int) -> None:
            what = "the URL" if status == 414 else "what a request has beside its body"
            self._refuse(status, f"{what} is over head_bytes_max={self._limits.head_bytes_max} bytes")

        def on_message_begin(self) -> None:
            self._place, self._number, self._head_bytes = "head", self._number + 1, 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            if len(self.url) > self._limits.head_bytes_max:
                self._refuse_size(414)
                raise _TooLarge

        def on_header(self, name: bytes, value: bytes) -> None:
            self._head_bytes += len(name) + len(value) + 4
            if self._head_bytes > self._limits.head_bytes_max:
                self._refuse_size(431)
                raise _TooLarge
            if self._place == "head":  # a trailer is nobody's here (RFC 9110, section 6.5.1), and no header
                super().on_header(name, value)
                if len(self.headers) > self._limits.headers_max:
                    self._refuse(431, f"the request has over headers_max={self._limits.headers_max} headers")
                    raise _TooLarge

        def on_headers_complete(self) -> None:
            self._place, self._head_bytes = "body", 0
            super().on_headers_complete()
            if len(self.pipeline) > PIPELINED_MAX:
                self._refuse(429, f"over {PIPELINED_MAX} requests wait on this connection")
                raise _TooLarge

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

        def on_body(self, body: bytes) -> None:
            self._body_came = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._place = "through"
            super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            if self._refused:
                return
            if self._has_answer_begun():
                self._refused = True
                self._leave()
            else:
                super().send_400_response(msg)

        def _target(self) -> bytes:
            return self.url

    HttpConnection = HttpToolsConnection

WebSocketConnection: Any = None
"""Reads a WebSocket with websockets, where that is installed."""

if TYPE_CHECKING or importlib.util.find_spec("websockets"):
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from websockets.exceptions import InvalidState

    class _WebSocketConnection(_Counted, WebSocketsSansIOProtocol):
        """A WebSocket, counted like the connection that it was."""

        def __init__(self, config: Config, server_state: ServerState, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, server_state, *args, **kwargs)
            self.server_state = server_state

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._count(self.client)

        def connection_lost(self, exc: Exception | None) -> None:
            self._count_out()
            super().connection_lost(exc)

        def send_receive_event_to_app(self) -> None:
            """Pass a message on; one that is no UTF-8 ends the connection (RFC 6455, section 8.1)."""
            if self.curr_msg_data_type == "text":
                try:
                    b"".join(self.frames).decode()
                except UnicodeDecodeError:
                    self.frames = []
                    with contextlib.suppress(InvalidState):  # it is closing already
                        self.conn.send_close(1007)
                        self.handle_parser_exception()
                    return
            super().send_receive_event_to_app()

        def handle_parser_exception(self) -> None:
            if self.conn.close_sent is None:  # before there was a WebSocket to close
                self.transport.close()
            else:
                super().handle_parser_exception()

        def shutdown(self) -> None:
            super().shutdown()
            self.loop.call_later(CLOSING_S, self.transport.abort)

    WebSocketConnection = _WebSocketConnection


def http_protocol(limits: ConnectionLimits) -> Any:
    """Return what `uvicorn.Config(http=…)` takes, with these limits; it can be sent to another process."""
    return functools.partial(HttpConnection, limits=limits)


def websocket_protocol() -> Any:
    """Return what `uvicorn.Config(ws=…)` takes."""
    return WebSocketConnection or "auto"
