"""Writing to a connection of uvicorn without a task: where it parses with httptools, and nothing stands between.

ASGI's `send` is a coroutine, because it may have to wait until the client reads. What need not wait is a function: so a
live follower's frames go out in the task that accepted the events. And a task that has nothing else to wait for need
not be there: a connection that follows live can be taken from the server's HTTP machinery, of whose parser, request and
task nothing stays. When its answer has ended, the connection is given back, for the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from starlette.types import Message, Receive, Send

__all__ = [
    "Direct",
    "DirectWriter",
    "Handover",
    "TakenConnection",
    "chunk_of",
    "tell_if_lost",
    "until_lost",
    "writer_of",
]

_CYCLE = ("uvicorn.protocols.http.httptools_impl", "RequestResponseCycle")
_PROTOCOL = ("uvicorn.protocols.http.httptools_impl", "HttpToolsProtocol")
_PROXY_HEADERS = ("uvicorn.middleware.proxy_headers", "ProxyHeadersMiddleware")
"""By name: whoever serves with them has imported them, nobody else need."""


class Direct(Protocol):
    """Writes pieces of one answer, whose headers have been sent, without waiting."""

    transport: Any
    """Takes what is written: each piece, which is not empty, as `chunk_of` makes it, once for all who are written the
    same."""

    @property
    def ready(self) -> bool:
        """Returns whether the client takes what is written: it is there, and reads."""


def chunk_of(body: bytes) -> bytes:
    """Return a piece of an answer as a chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(body), body)


class DirectWriter:
    """Writes pieces of one chunked answer (RFC 9112, section 7.1) beside the server's own `send`."""

    __slots__ = ("_cycle", "_flow", "transport")

    def __init__(self, cycle: Any) -> None:
        self._cycle, self._flow, self.transport = cycle, cycle.flow, cycle.transport

    @property
    def ready(self) -> bool:
        return not (self._flow.write_paused or self._cycle.disconnected)

    def take(self, on_lost: Callable[[], None]) -> TakenConnection | None:
        """Take the connection from the server, which then has nothing to do with it but to count it and to end it;
        `on_lost` is called when the client is gone. None where the server still needs it: for the rest of the request,
        for another one behind it, or since it is of a kind that is not known here. None also where anything is around
        the app: to it, an answer lasts for as long as the app is at it."""
        cycle: Any = self._cycle
        protocol = cycle.transport.get_protocol()
        if _is_around(getattr(protocol, "app", None), cycle.scope.get("app")):
            return None
        if cycle.more_body or not self.ready or cycle.transport.is_closing() or cycle.waiting_for_100_continue:
            return None
        if getattr(protocol, "cycle", None) is not self._cycle or protocol.pipeline:
            return None
        if protocol.scope is not cycle.scope:
            return None  # of another scope is a request whose head has come in part
        if (type(protocol).__module__, type(protocol).__qualname__) == _PROTOCOL:
            handover = Handover(protocol)
        elif (hand_over := getattr(protocol, "hand_over", None)) is None or (handover := hand_over()) is None:
            return None
        protocol.flow.resume_reading()
        protocol._unset_keepalive_if_required()
        protocol.parser = None  # it and the protocol refer to each other
        taken = TakenConnection(cycle.transport, handover, on_lost, keeps_alive=cycle.keep_alive)
        protocol.connections.discard(protocol)
        protocol.connections.add(taken)
        cycle.disconnected = True  # so that the server does not miss the rest of the answer
        cycle.transport.set_protocol(taken)
        return taken


def _is_around(outer: Any, app: Any) -> bool:
    """Return whether there is more around `app` than uvicorn's own layer, in what it serves."""
    while outer is not app and (type(outer).__module__, type(outer).__qualname__) == _PROXY_HEADERS:
        outer = outer.app
    return outer is not app


class Handover:
    """Knows what a connection goes on with when its answer has ended: with what `protocol` was made of."""

    __slots__ = ("_app_state", "_config", "_kind", "state")

    def __init__(self, protocol: Any) -> None:
        self._kind: Any = type(protocol)
        self._config, self._app_state = protocol.config, protocol.app_state
        self.state = protocol.server_state

    def again(self) -> Any:
        """Make the protocol that reads the next request."""
        return self._kind(config=self._config, server_state=self.state, app_state=self._app_state)

    def let_go(self) -> None:
        """Forget the connection: it is lost, or is about to be made anew."""

    def closing_s(self) -> float | None:
        """Return how long a client may take for the rest of its answer when the server ends; None for ever."""
        return None


class _Touched:
    """Has what each write touches, side by side, as `Journal` has."""

    __slots__ = ("ready", "transport")


class TakenConnection(_Touched, asyncio.Protocol):
    """A connection whose answer is under way, and nothing else of it: a chunked answer (RFC 9112, section 7.1)."""

    __slots__ = ("_again", "_drained", "_handover", "_keeps_alive", "_on_lost", "ended")

    def __init__(self, transport: Any, handover: Handover, on_lost: Callable[[], None], *, keeps_alive: bool) -> None:
        self.transport = transport
        self._handover = handover
        self._on_lost: Callable[[], None] | None = on_lost
        """None once it was called, or never will be: it is of who writes here, which refers to this."""
        self._keeps_alive = keeps_alive
        self.ended = False
        """The answer is whole."""
        self.ready = True
        """The client reads."""
        self._drained: asyncio.Future[None] | None = None
        self._again = b""
        """What has come of the next request."""

    async def send(self, message: Message) -> None:
        """Write a piece of the answer as ASGI's `send` does: the bytes are the same, and it waits for the client."""
        while not self.ready:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self.transport.is_closing():
            raise OSError("the client is gone")
        body = message["body"]
        piece = chunk_of(body) if body else b""
        if message["more_body"]:
            self.transport.write(piece)
            return
        self.transport.write(piece + b"0\r\n\r\n")
        self.ended = True
        self._handover.state.total_requests += 1
        if self._keeps_alive:
            self._give_back()
        else:
            self.transport.close()

    def _give_back(self) -> None:
        """Let the server have the connection for the next request."""
        transport, handover, self._on_lost = self.transport, self._handover, None
        handover.state.connections.discard(self)
        handover.let_go()
        protocol = handover.again()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if not self.ready:  # which it is told when it changes
            protocol.pause_writing()
        if self._again:
            transport.resume_reading()
            protocol.data_received(self._again)
        else:
            protocol.timeout_keep_alive_task = protocol.loop.call_later(
                protocol.timeout_keep_alive, protocol.timeout_keep_alive_handler
            )

    def close(self) -> None:
        """Close the connection of an answer that has been left before its end."""
        if not self.ended:
            self.transport.close()

    # -- what the transport and the server say ----------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.ready = False

    def resume_writing(self) -> None:
        self.ready = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Keep what the client sends already, for when its answer has ended: a read of it, and no more."""
        if self._again or (data := data.lstrip(b"\r\n")):  # an empty line may come before a request (RFC 9112, 2.2)
            if not self._again:
                self.transport.pause_reading()
            self._again += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._handover.state.connections.discard(self)
        self._handover.let_go()
        self.resume_writing()
        if (on_lost := self._on_lost) is not None:
            self._on_lost = None
            on_lost()

    def shutdown(self) -> None:
        """End with the server, when the answer has ended."""
        self._keeps_alive = False
        closing_s = self._handover.closing_s()
        if closing_s is not None:
            asyncio.get_running_loop().call_later(closing_s, self.transport.abort)


def writer_of(send: Send) -> DirectWriter | None:
    """Return what writes to the connection that `send` sends to, once its headers are sent; None where it has to be
    awaited: another server, a middleware, an answer that is not chunked."""
    cycle: Any = getattr(send, "__self__", None)
    if (type(cycle).__module__, type(cycle).__qualname__) != _CYCLE:
        return None
    return DirectWriter(cycle) if cycle.chunked_encoding and not cycle.response_complete else None


def tell_if_lost(receive: Receive) -> None:
    """Have `receive` hear that its connection is lost, where it is one of uvicorn's, and is: of the requests that wait
    for each other on one, only the last is told."""
    cycle: Any = getattr(receive, "__self__", None)
    if (type(cycle).__module__, type(cycle).__qualname__) == _CYCLE and cycle.transport.is_closing():
        cycle.disconnected = True
        cycle.message_event.set()


class _UntilLost:
    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        return isinstance(error, OSError) or (isinstance(error, RuntimeError) and "the handler is closed" in str(error))


until_lost = _UntilLost()
"""Within it, what is done for a client is left when writing says that it is gone: with `OSError` (ASGI 2.4), or as
uvloop does, which has no error of its own for that."""
