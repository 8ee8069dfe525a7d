"""A transport for Python clients that know nothing of resuming: an event stream of Gapless that is cut goes on, in the
same response, from the event after the last one that arrived whole. What the durable `fetch` is for JavaScript.

    http = httpx2.Client(transport=durable_transport(httpx2.HTTPTransport()))
    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", http_client=http)

It acts on answers that are event streams and name the stream in `Content-Location`, as all of Gapless's do, and passes
every other answer on as it came. The client sees what an uncut connection would have sent, frame by frame: none twice,
none by halves, keep-alives left out. `httpx` and `httpx2`, sync and async (on asyncio) alike: all that it needs of the
library it has from the transport and the requests that it is given.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar, cast

import msgspec

from gapless.client.client import RETRYABLE_STATUSES, ClientLimits, backoff_s
from gapless.errors import StreamInvalid
from gapless.jsontext import decode_json
from gapless.sse import EventStreamParser

__all__ = ["durable_transport"]

_FIRST_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "last-event-id",
        "transfer-encoding",
    }
)
"""Headers that speak of the first request alone: the one to resume has no body and wants an event stream."""
_LENGTH_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that speak of one connection's bytes, which the stitched answer has not."""
_OK, _NO_CONTENT = 200, 204
ID_CHARS_MAX = 1024
_ID = re.compile(rf"[^\x00-\x1f\x7f]{{1,{ID_CHARS_MAX}}}")
"""An id that can be sent back: a header carries no control characters, and servers take no long ones."""
SEEN_IDS_MAX = 10_000
"""Ids that are remembered, beside the first, in order to recognise a server that sends a frame again."""
_Transport = TypeVar("_Transport")


def durable_transport(
    transport: _Transport, *, limits: ClientLimits | None = None, on_cut: Callable[[str], None] | None = None
) -> _Transport:
    """Make a transport of `httpx` or `httpx2` durable: what comes back is one too, for that library's
    `Client(transport=…)`.

    The client's own read timeout bounds the wait for an answer; a stream, once it has begun, may be silent for
    `limits.idle_timeout_s`. The request that starts a run is made up to `limits.request_attempts_max` times if it names
    its run: by the header `X-Run-Id` or `Idempotency-Key`, or by `run_id` or `runId` in its query or JSON body.

    While a body is read it raises the library's `ReadError` after `limits.attempts_max` connections in a row without
    anything new, and its `RemoteProtocolError` when the server refuses to resume or sends what is no stream of Gapless.

    Args:
        transport: An `HTTPTransport` or `AsyncHTTPTransport`.
        limits: What it waits for, repeats and takes.
        on_cut: Called with the reason for each connection that was lost and is made again.
    """
    return cast(_Transport, _DurableTransport(transport, limits or ClientLimits(), on_cut or (lambda reason: None)))


class _DurableTransport:
    def __init__(self, inner: Any, limits: ClientLimits, on_cut: Callable[[str], None]) -> None:
        self._inner = inner
        self._limits = limits
        self._on_cut = on_cut

    def handle_request(self, request: Any) -> Any:
        start = _Start(request, self._limits)
        while True:
            try:
                response = self._inner.handle_request(request)
            except start.library.TransportError:
                wait_s = start.failed()
                if wait_s is None:
                    raise
            else:
                wait_s = start.answered(response)
                if wait_s is None:
                    break
                response.close()
            time.sleep(wait_s)
        return _stitched(request, response, self._inner, self._limits, self._on_cut)

    async def handle_async_request(self, request: Any) -> Any:
        start = _Start(request, self._limits)
        while True:
            try:
                response = await self._inner.handle_async_request(request)
            except start.library.TransportError:
                wait_s = start.failed()
                if wait_s is None:
                    raise
            else:
                wait_s = start.answered(response)
                if wait_s is None:
                    break
                await response.aclose()
            await asyncio.sleep(wait_s)
        return _stitched(request, response, self._inner, self._limits, self._on_cut)

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __enter__(self) -> _DurableTransport:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)

    async def __aenter__(self) -> _DurableTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)


class _Start:
    """The attempts of the first request: more than one only where they cannot make more than one run."""

    def __init__(self, request: Any, limits: ClientLimits) -> None:
        self.library = _library_of(request)
        self._limits = limits
        self._attempts_max = limits.request_attempts_max if _names_its_run(request) else 1
        self._attempt = 0

    def failed(self) -> float | None:
        """Return how long to wait before it is made again; None if it is not."""
        self._attempt += 1
        if self._attempt >= self._attempts_max:
            return None
        return backoff_s(self._limits, self._attempt, self._limits.retry_first_s)

    def answered(self, response: Any) -> float | None:
        """Return the same after an answer: only one that says "later" is asked for again."""
        if response.status_code not in RETRYABLE_STATUSES or response.headers.get("x-should-retry") == "false":
            return None
        wait_s = self.failed()
        return None if wait_s is None else max(wait_s, min(_retry_after_s(response), self._limits.retry_max_s))


class _Run(msgspec.Struct):
    run_id: str | None = None
    runId: str | None = None  # noqa: N815  # AG-UI's spelling


def _names_its_run(request: Any) -> bool:
    headers, query = request.headers, request.url.params
    try:
        content = request.content
    except _library_of(request).RequestNotRead:  # it can be sent only once
        return False
    if "x-run-id" in headers or "idempotency-key" in headers or "run_id" in query or "runId" in query:
        return True
    if "application/json" not in headers.get("content-type", ""):
        return False
    try:
        body = decode_json(content, _Run)
    except msgspec.DecodeError:
        return False
    return bool(body.run_id or body.runId)


def _stitched(request: Any, response: Any, inner: Any, limits: ClientLimits, on_cut: Callable[[str], None]) -> Any:
    """Return the answer as it came, or for an event stream that names itself one with all of its connections'
    frames.
    """
    headers = response.headers
    location = headers.get("content-location")
    if request.method == "HEAD" or response.status_code != _OK or not _is_stream(response) or location is None:
        return response
    library = _library_of(request)
    try:
        url = request.url.join(location)
    except library.InvalidURL:
        url = None
    if url and (url.scheme, url.netloc) != (request.url.scheme, request.url.netloc):  # its headers are for no other
        return response
    request.extensions.setdefault("timeout", {})["read"] = limits.idle_timeout_s  # read anew when the body begins
    kept = [(name, value) for name, value in headers.multi_items() if name.lower() not in _LENGTH_HEADERS]
    body = _body_type(library)(_Stitch(library, request, url, limits, on_cut), response, inner)
    extensions = {name: value for name, value in response.extensions.items() if name != "network_stream"}
    return library.Response(response.status_code, headers=kept, stream=body, extensions=extensions)


class _Stitch:
    """What is known between the connections of one stream; it does no I/O."""

    def __init__(
        self, library: Any, request: Any, url: Any, limits: ClientLimits, on_cut: Callable[[str], None]
    ) -> None:
        self.library = library
        self.ended = False
        self.leaving = False
        """The server has said that it ends the connection and not the run."""
        self._request = request
        self._url = url
        """Where the stream goes on; None if what the server said is no URL."""
        self._limits = limits
        self._on_cut = on_cut
        self._parser = EventStreamParser(limits.frame_bytes_max, raw=True)
        self._first_id: str | None = None
        self._last_id: str | None = None
        self._seen_ids: OrderedDict[str, None] = OrderedDict()
        self._attempt = 0
        """Connections in a row that brought no new id."""
        self._retry_first_s = limits.retry_first_s
        self._retry_after_s = 0.0
        self._reason = ""

    def request(self) -> Any:
        """Return the request for the rest."""
        headers = [item for item in self._request.headers.multi_items() if item[0].lower() not in _FIRST_HEADERS]
        headers += [("accept", "text/event-stream"), ("accept-encoding", "identity")]
        if self._last_id is not None:
            headers.append(("last-event-id", self._last_id.encode()))
        timeout = {**self._request.extensions["timeout"], "connect": self._limits.connect_timeout_s}
        extensions = {**self._request.extensions, "timeout": timeout}
        return self.library.Request("GET", self._url, headers=headers, extensions=extensions)

    def accepts(self, response: Any) -> bool:
        """Return whether the answer is the stream. Raises `StreamInvalid` where asking again would not help."""
        self._reason, self._retry_after_s = "the connection ended", 0.0
        if self._url is None:
            raise StreamInvalid(f"its Content-Location is no URL: {response.headers['content-location']!r:.100}")
        if response.status_code == _NO_CONTENT:  # all of it was seen
            self.ended = True
            return False
        if response.status_code == _OK and _is_stream(response):
            return True
        self._reason, self._retry_after_s = f"HTTP {response.status_code}", _retry_after_s(response)
        if response.status_code not in RETRYABLE_STATUSES:
            raise StreamInvalid(f"the server does not go on after event {self._last_id}: {self._reason}")
        return False

    def take(self, piece: bytes) -> bytes:
        """Return the frames that this piece of a body completes. Raises `StreamInvalid`."""
        frames = []
        for frame in self._parser.feed(piece):
            if frame.event == "reconnect":
                self.leaving = True
                break
            if frame.id is not None and frame.id == self._last_id:
                continue  # how a stream begins that nothing has come of yet: it comes again
            frames.append(frame.raw)
            if frame.event == "end" and frame.data is None:
                self.ended = True
                break
            if frame.id is not None or frame.data is not None:
                self._came(frame.id or "")
        return b"".join(frames)

    def _came(self, id: str) -> None:
        if not _ID.fullmatch(id):  # on no wire of ours: it would come again with every connection, for ever
            raise StreamInvalid("a frame without an id that can be sent back: this is no stream of Gapless")
        if id == self._first_id or id in self._seen_ids:
            raise StreamInvalid(f"the server did not go on after event {self._last_id}: it sent {id} again")
        self._first_id = self._first_id or id
        self._last_id = id
        self._seen_ids[id] = None
        if len(self._seen_ids) > SEEN_IDS_MAX:
            self._seen_ids.popitem(last=False)
        self._attempt = 0

    def broke(self, error: Exception) -> None:
        """Note that the connection failed."""
        self._reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    def cut(self) -> float:
        """Note that the stream was cut; returns how long to wait before the next connection, in seconds. Raises the
        library's error after enough of them.
        """
        at_once = self.leaving and self._attempt == 0
        self._attempt += 1
        if self._attempt > self._limits.attempts_max:
            raise self.library.ReadError(
                f"{self._url}: nothing new in {self._attempt - 1} connections ({self._reason}); the run goes on there",
                request=self._request,
            )
        self._on_cut(self._reason)
        if self._parser.retry_ms is not None:
            self._retry_first_s = self._parser.retry_ms / 1000
        self._parser = EventStreamParser(self._limits.frame_bytes_max, raw=True)
        self.leaving = False
        return 0.0 if at_once else backoff_s(self._limits, self._attempt, self._retry_first_s, self._retry_after_s)

    def refused(self, error: Exception) -> Exception:
        """Return the library's error for what no further connection would mend."""
        where = self._url or self._request.url
        raised: Exception = self.library.RemoteProtocolError(f"{where}: {error}", request=self._request)
        return raised


class _Body:
    """The bytes of a stitched stream. Its two loops are the same."""

    def __init__(self, stitch: _Stitch, response: Any, inner: Any) -> None:
        self._stitch = stitch
        self._response = response
        """The connection that is open."""
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        stitch = self._stitch
        while not stitch.ended:
            try:
                if self._response is None:
                    self._response = self._inner.handle_request(stitch.request())
                if stitch.accepts(self._response):
                    for piece in self._response.iter_bytes():
                        if frames := stitch.take(piece):
                            yield frames
                        if stitch.ended or stitch.leaving:
                            break
            except stitch.library.TransportError as error:
                stitch.broke(error)
            except (StreamInvalid, stitch.library.DecodingError) as error:
                raise stitch.refused(error) from error
            finally:
                self.close()
            if not stitch.ended:
                time.sleep(stitch.cut())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stitch = self._stitch
        while not stitch.ended:
            try:
                if self._response is None:
                    self._response = await self._inner.handle_async_request(stitch.request())
                if stitch.accepts(self._response):
                    async for piece in self._response.aiter_bytes():
                        if frames := stitch.take(piece):
                            yield frames
                        if stitch.ended or stitch.leaving:
                            break
            except stitch.library.TransportError as error:
                stitch.broke(error)
            except (StreamInvalid, stitch.library.DecodingError) as error:
                raise stitch.refused(error) from error
            finally:
                await self.aclose()
            if not stitch.ended:
                await asyncio.sleep(stitch.cut())

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    async def aclose(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()


def _library_of(request: Any) -> Any:
    """Return the module, `httpx` or `httpx2`, that the request is of."""
    return sys.modules[type(request).__module__.partition(".")[0]]


@functools.cache
def _body_type(library: Any) -> type[_Body]:
    """`_Body` as that library's own kind of stream: it takes no other."""
    return type("DurableStream", (_Body, library.SyncByteStream, library.AsyncByteStream), {})


def _is_stream(response: Any) -> bool:
    return bool(response.headers.get("content-type", "").lower().startswith("text/event-stream"))


def _retry_after_s(response: Any) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0
