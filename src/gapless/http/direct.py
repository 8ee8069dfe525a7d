"""Writing to a connection of uvicorn without a task: where it parses with httptools, and nothing stands between.

ASGI's `send` is a coroutine, because it may have to wait until the client reads. What need not wait is a function: so a
live follower's frames go out in the task that accepted the events.
"""

from __future__ import annotations

from typing import Any

from starlette.types import Send

__all__ = ["DirectWriter", "writer_of"]

_CYCLE = ("uvicorn.protocols.http.httptools_impl", "RequestResponseCycle")
"""By name: whoever serves with it has imported it, nobody else need."""


class DirectWriter:
    """Writes pieces of one chunked answer (RFC 9112, section 7.1), whose headers have been sent."""

    __slots__ = ("_cycle", "_flow", "_write")

    def __init__(self, cycle: Any) -> None:
        self._cycle, self._flow, self._write = cycle, cycle.flow, cycle.transport.write

    def is_ready(self) -> bool:
        """Return whether the client takes what is written: it is there, and reads."""
        return not (self._flow.write_paused or self._cycle.disconnected)

    def write(self, body: bytes) -> None:
        """Write one piece, which is not empty."""
        self._write(b"%x\r\n%b\r\n" % (len(body), body))


def writer_of(send: Send) -> DirectWriter | None:
    """Return what writes to the connection that `send` sends to, once its headers are sent; None where it has to be
    awaited: another server, a middleware, an answer that is not chunked."""
    cycle: Any = getattr(send, "__self__", None)
    if (type(cycle).__module__, type(cycle).__qualname__) != _CYCLE:
        return None
    return DirectWriter(cycle) if cycle.chunked_encoding and not cycle.response_complete else None
