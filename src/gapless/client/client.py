"""A client of a Gapless server that loses nothing and repeats nothing.

    async with GaplessClient("http://127.0.0.1:8000") as client:
        run = await client.start("Explain SSE")
        async for id, event in client.follow(run.id):
            if isinstance(event, TextMessageContentEvent):
                print(event.delta, end="", flush=True)

A connection that breaks is made again from the last event that was delivered. `SyncClient` is the same for code without
an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from gapless.client.bodies import FeedChange, Messages, Notices, Page, Refusal, Runs, Session, Sessions
from gapless.config import RunConfig
from gapless.errors import (
    ConnectionLost,
    GaplessError,
    InputInvalid,
    NoticeNotFound,
    RunFailed,
    RunNotFound,
    SessionNotFound,
    StreamInvalid,
    UsageError,
    error_for_code,
)
from gapless.events import ContentPart, CustomEvent, Event, Message, ResumeEntry, decode_event
from gapless.fold import SESSION
from gapless.given import check_numbers, one_of, shown
from gapless.live import LiveRequest
from gapless.notify import NoticeRecord, Webhook
from gapless.producing import Batch, Producer, Taken
from gapless.records import Listing, RunRecord, RunStatus
from gapless.sse import FRAME_BYTES_MAX, EventStreamParser, Frame
from gapless.timeline import Timeline

__all__ = [
    "RETRYABLE_STATUSES",
    "ClientLimits",
    "Cut",
    "GaplessClient",
    "backoff_s",
]

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that say "later", not "no"."""
_NOWHERE = frozenset({404, 405})
"""HTTP statuses of an address at which there is nothing."""
_NOWHERE_CODES = frozenset({"not_found", "method_not_allowed"})
"""What a Gapless server calls an address that it does not have."""
_NOT_FOUND: dict[str, type[GaplessError]] = {
    "runs": RunNotFound,
    "sessions": SessionNotFound,
    "notices": NoticeNotFound,
}
_POSITION = re.compile(r"[0-9]{1,15}")
_NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoding raises, the second for what is no UTF-8."""
_T = TypeVar("_T")


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds what a client waits for, repeats and takes. `connect_timeout_s` bounds the making of a connection.

    Raises `ValueError` for what is no number above 0."""

    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 30.0
    """For an answer that is not a stream."""
    idle_timeout_s: float = 45.0
    """A stream without a byte for so long is taken for dead; the server sends a keep-alive every 10 s."""
    retry_first_s: float = 0.25
    """The first retry waits at most this long (the server's `retry:` replaces it), each further one up to twice it."""
    retry_max_s: float = 10.0
    """No retry waits longer, whatever `Retry-After` says."""
    attempts_max: int = 60
    """Connections in a row that brought no new event before `follow` gives up."""
    request_attempts_max: int = 6
    """Attempts of a request that is safe to repeat."""
    frame_bytes_max: int = FRAME_BYTES_MAX
    """One frame of a stream."""
    answer_bytes_max: int = 256 * 1024 * 1024
    """An answer that is not a stream."""

    def __post_init__(self) -> None:
        check_numbers(self)


class Cut(NamedTuple):
    """Tells of a connection of `follow` to run `run_id`, or of `follow_session`, that ended before the run did, and for
    which `reason`; it is made again after `wait_s` seconds.
    """

    run_id: str
    after: int
    """The last event that was delivered; the stream goes on after it."""
    attempt: int
    """Connections in a row, this one included, that brought no new event; 0 if this one did."""
    reason: str
    wait_s: float
    session_id: str = ""
    """The session that is followed, if it is one; `run_id` is then that of the event."""


class GaplessClient:
    """Starts, follows, cancels and answers runs of a server, and manages its sessions.

    Every method raises the server's error as its class in `gapless.errors` (`RunNotFound`, `SessionBusy`,
    `NotAuthenticated` …), `ConnectionLost` when the server cannot be reached within the limits, `StreamInvalid` where
    what answers at `base_url` is no Gapless server, and `UsageError` once the client is closed.

    Args:
        base_url: Where the server is, with the path that it is mounted under.
        api_key: Sent as a bearer token; by default what the environment variable GAPLESS_API_KEY holds.
        headers: Sent with every request, such as what a server's own `authenticate` goes by. Like the key, to
            `base_url` only.
        limits: What the client waits for, repeats and takes.
        on_cut: Called for each connection of `follow` that broke and will be made again.
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        limits: ClientLimits | None = None,
        on_cut: Callable[[Cut], None] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{base_url!r} is not a server's URL; write http://host:port")
        self.base_url = base_url.rstrip("/")
        self.limits = limits or ClientLimits()
        self._on_cut = on_cut
        key = api_key if api_key is not None else os.environ.get("GAPLESS_API_KEY", "")
        sent = httpx2.Headers({"authorization": f"Bearer {key}"} if key else {})
        sent.update(headers)  # in whatever case they are written
        here = _is_loopback(parts.hostname)
        self._http = httpx2.AsyncClient(
            base_url=self.base_url,
            headers=sent,
            timeout=httpx2.Timeout(self.limits.answer_timeout_s, connect=self.limits.connect_timeout_s),
            transport=transport,
            trust_env=not here,  # a proxy from the environment does not reach this machine
            verify=not (here and parts.scheme == "http"),  # reading the certificates takes 70 ms
        )

    async def aclose(self) -> None:
        """Close the connections. Runs go on."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- runs -------------------------------------------------------------------------------------------------------

    async def start(
        self,
        message: str | list[ContentPart],
        *,
        agent: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        config: RunConfig | None = None,
        producer: bool = False,
        notify: Webhook | None = None,
    ) -> RunRecord:
        """Start a run; `follow` it by the record's `id`.

        The run's id is chosen here, so that a request whose answer was lost is repeated without a second run. Raises
        `RunConflict`, `SessionBusy`, `AgentNotFound`, `InputInvalid`, `LimitReached`, `ShuttingDown`.

        Args:
            message: What the user says: text, or parts where there is more than text.
            agent: Name of the agent; None for the server's first.
            session_id: The session to go on with; None begins one.
            run_id: Id of the run; started twice under one id it is one run.
            config: The run's settings, within what the server allows.
            producer: No agent of the server executes it: `produce` writes it.
            notify: Who is told when it waits for a person and when it has ended.
        """
        body = {
            "message": message,
            "run_id": run_id or uuid.uuid4().hex,
            "agent": agent,
            "session_id": session_id,
            "config": config,
            "producer": producer or None,
            "notify": notify,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return await self._request("POST", "/runs", RunRecord, body=body)

    async def notices(self, run_id: str) -> list[NoticeRecord]:
        """Return what was told of the run `run_id`, or is to be told still, oldest first. Raises `RunNotFound`."""
        return (await self._request("GET", _path("runs", run_id, "notices"), Notices)).notices

    async def notify_again(self, run_id: str, notice_id: str) -> NoticeRecord:
        """Have the notice `notice_id` of the run `run_id` sent once more, under the same id, whatever became of it.
        Raises `RunNotFound`, `NoticeNotFound`."""
        return await self._request("POST", _path("runs", run_id, "notices", notice_id), NoticeRecord)

    async def follow(self, run_id: str, after: int = 0) -> AsyncGenerator[tuple[int, Event], None]:
        """Yield the run's events with their positions, in order, each once, however often it is cut.

        Ends after the terminal event; also when the run waits for a person: the last event then is a RUN_FINISHED with
        the interrupt outcome, and after `answer` one follows on from its position. Adjacent text deltas come merged
        while catching up, with the position of the last of them. A clean end of the connection is not the end of the
        run. One that has failed ends with a RUN_ERROR, of which `gapless.errors.run_failure` makes an exception.

        Raises `RunNotFound`, `CursorExpired`, `CursorInvalid`, `NotAuthenticated`; `StreamInvalid` for what is no
        stream of Gapless; `ConnectionLost` after `attempts_max` connections in a row without a new event.

        Args:
            run_id: The run to follow.
            after: Position of the last event that is known already; 0 begins at the first.
        """
        path, last = _path("runs", run_id, "events"), Place(run_id, after)
        async with contextlib.aclosing(self._follow(path, last, _decode)) as events:
            async for place, event in events:
                yield place.seq, event

    async def follow_session(self, session_id: str, after: str = "0") -> AsyncGenerator[tuple[str, Event], None]:
        """Yield the events of all runs of a session, run after run, each once, however often it is cut; then live,
        until the session is deleted. With each comes its place in the session.

        A `CustomEvent` named `gapless.session` says how the session stands: its record and its runs that have not
        ended. It comes first, with every connection anew, and whenever that has changed.

        Raises `SessionNotFound`, `CursorExpired`, `CursorInvalid`, `NotAuthenticated`; `StreamInvalid` for what is no
        stream of Gapless; `ConnectionLost` after `attempts_max` connections in a row that brought nothing.

        Args:
            session_id: The session to follow.
            after: The place behind which to begin, as it came with an event; "0" for the beginning, "latest" for that
                of the run that has not ended, or what comes next.
        """
        path, last = _path("sessions", session_id, "events"), Place("", 0, session_id, after)
        async with contextlib.aclosing(self._follow(path, last, _decode_of_session)) as events:
            async for place, event in events:
                yield str(place), event

    async def follow_feed(
        self, after: str = "", *, everyone: bool = False
    ) -> AsyncGenerator[tuple[str, FeedChange], None]:
        """Yield what becomes of the caller's sessions, live and however often it is cut: each that is created, used,
        renamed or deleted, and each of which a run begins, waits, goes on or ends. With each comes its cursor. The
        first is `reset` where nothing, or too little, is known of what came since `after`.

        Raises `NotAuthenticated`; `StreamInvalid` for what is no feed of Gapless; `ConnectionLost` after `attempts_max`
        connections in a row that brought nothing.

        Args:
            after: The cursor behind which to go on, as it came; "" for from now on.
            everyone: Of all users' sessions, which have changed: for operators.
        """
        path = "/feed?everyone=1" if everyone else "/feed"
        async with contextlib.aclosing(self._follow(path, Place("", 0, asked=after), _decode_of_feed)) as changes:
            async for place, change in changes:
                yield place.asked, change

    async def _follow(
        self, path: str, last: Place, decode: Callable[[Frame, Place], tuple[Place, _T]]
    ) -> AsyncGenerator[tuple[Place, _T], None]:
        attempt, retry_first_s = 0, self.limits.retry_first_s
        while True:
            _check_open(self._http)
            parser = EventStreamParser(self.limits.frame_bytes_max)
            attempt += 1
            retry_after_s = 0.0
            refusal: GaplessError | None = None
            reason = "the connection ended"
            try:
                async with self._stream(path, last) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:  # all of it was seen
                        return
                    if response.status_code != httpx2.codes.OK:
                        refusal = await self._refusal(response)
                        retry_after_s, reason = refusal.retry_after_s or 0.0, refusal.message
                    else:
                        _check_content_type(response)
                        async for piece in response.aiter_bytes():
                            for frame in parser.feed(piece):
                                if frame.event == "end" and frame.data is None:
                                    return
                                if frame.event != "message" or frame.data is None:
                                    continue  # "reconnect" says that the server closes; the end of the body comes next
                                last, event = decode(frame, last)
                                attempt = 0
                                yield last, event
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            except (httpx2.DecodingError, StreamInvalid) as error:
                raise StreamInvalid(
                    f"{last.whose}: {self.base_url} sent what is no stream of Gapless ({error}); is it a Gapless "
                    "server, and not newer than this client?",
                    run_id=last.run_id or None,
                ) from error
            if refusal is not None and response.status_code not in RETRYABLE_STATUSES:
                raise refusal
            if attempt >= self.limits.attempts_max:
                raise ConnectionLost(
                    f"{last.whose}: nothing new in {attempt} connections to {self.base_url} ({reason}); it goes on "
                    f"there, follow it later after {last}",
                    run_id=last.run_id or None,
                )
            if parser.retry_ms is not None:
                retry_first_s = parser.retry_ms / 1000
            wait_s = backoff_s(self.limits, attempt, retry_first_s, retry_after_s)
            if self._on_cut is not None:
                self._on_cut(Cut(last.run_id, last.seq, attempt, reason, wait_s, last.session_id))
            await asyncio.sleep(wait_s)

    async def cancel(self, run_id: str) -> RunRecord:
        """Ask for the end of run `run_id` as cancelled; returns its record as it was at that moment. Idempotent. Raises
        `RunNotFound`.
        """
        return await self._request("POST", _path("runs", run_id, "cancel"), RunRecord)

    async def answer(self, run_id: str, entries: list[ResumeEntry]) -> RunRecord:
        """Answer interrupts of the waiting run `run_id`, all or some of them: one of `entries` each. It goes on once it
        has all. Raises `InputInvalid` when it waits for none of these, `RunNotFound`.
        """
        path = _path("runs", run_id, "input")
        return await self._request("POST", path, RunRecord, body={"resume": entries}, repeatable=False)

    async def send(self, run_id: str, request: LiveRequest | str) -> RunRecord:
        """Say something to the live run `run_id`: `request`, or a message where that is a string. Raises `InputInvalid`
        when it is not live or has ended, `LimitReached` when its agent is far behind, `RunNotFound`.
        """
        said = LiveRequest(content=request) if isinstance(request, str) else request
        if said.content is not None and said.id is None:
            said = msgspec.structs.replace(said, id=uuid.uuid4().hex)  # then it counts once, sent twice
        repeatable = said.id is not None or said.close
        path = _path("runs", run_id, "input")
        return await self._request("POST", path, RunRecord, body={"live": said}, repeatable=repeatable)

    def produce(self, run_id: str, *, name: str | None = None) -> Producer:
        """Write the run `run_id`, which was started as a producer's, from here: `async with client.produce(id) as out`,
        then `await out.send(…)`. `name` tells this producer from others. Leaving the block does not end the run."""

        async def send(batch: Batch) -> Taken:
            return await self._request("POST", _path("runs", run_id, "events"), Taken, body=batch)

        return Producer(run_id, send, name)

    async def record(self, run_id: str) -> RunRecord:
        """Return the record of run `run_id`. Raises `RunNotFound`."""
        return await self._request("GET", _path("runs", run_id), RunRecord)

    async def timeline(self, run_id: str) -> Timeline:
        """Return what happened in run `run_id`, as far as it has come. Raises `RunNotFound`, `CursorExpired`."""
        return await self._request("GET", f"{_path('runs', run_id)}/timeline", Timeline)

    async def runs(
        self,
        *,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        """Return the caller's runs, newest first, at most `limit`: those of session `session_id`, those that have this
        `status`, or all. Long messages are cut. `after` is the `next` of the page before. Raises `InputInvalid`.
        """
        status = one_of("status", status, RunStatus)
        params = {"session_id": session_id, "status": status and status.value, "limit": str(limit), "after": after}
        page = await self._request("GET", "/runs", Runs, params=params)
        return Listing(page.runs, page.next)

    async def page(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a part of the journal of run `run_id` as it is stored, unmerged, without waiting: at most `limit`
        events after position `after`. Raises `RunNotFound`.
        """
        params = {"after": str(after), "limit": str(limit)}
        return await self._request("GET", _path("runs", run_id, "events"), Page, params=params)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, session_id: str | None = None, *, state: dict[str, Any] | None = None) -> Session:
        """Create a session, or return the one that has the id already.

        Args:
            session_id: Its id; None for a new one.
            state: What its agents find as its state.
        """
        body = {"id": session_id or uuid.uuid4().hex, "state": state}
        return await self._request("POST", "/sessions", Session, body=body)

    async def sessions(
        self, *, limit: int = 100, after: str | None = None, q: str | None = None, agent: str | None = None
    ) -> Listing[Session]:
        """Return the caller's sessions, latest used first, at most `limit`, without their states. `after` is the `next`
        of the page before. With `q` those that have this text in their title or in what was said, with `agent` that
        agent's: such a page is what was found in half a second, and may be empty and have a `next`.
        """
        params = {"limit": str(limit), "after": after, "q": q, "agent": agent}
        page = await self._request("GET", "/sessions", Sessions, params=params)
        return Listing(page.sessions, page.next)

    async def session(self, session_id: str) -> Session:
        """Return the session `session_id`. Raises `SessionNotFound`."""
        return await self._request("GET", _path("sessions", session_id), Session)

    async def messages(self, session_id: str) -> list[Message]:
        """Return the messages of the ended runs of session `session_id`, oldest first. Raises `SessionNotFound`."""
        return (await self._request("GET", _path("sessions", session_id, "messages"), Messages)).messages

    async def rename_session(self, session_id: str, title: str) -> Session:
        """Call the session `session_id` by this `title`; with "" it has that of its first message again. Raises
        `SessionNotFound`, `InputInvalid`."""
        return await self._request("PATCH", _path("sessions", session_id), Session, body={"title": title})

    async def delete_session(self, session_id: str) -> None:
        """Delete the session `session_id` with its runs. Raises `SessionNotFound`, `SessionBusy`."""
        await self._request("DELETE", _path("sessions", session_id), None, repeatable=False)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _stream(self, path: str, last: Place) -> Any:
        # The position goes in the URL: a proxy may drop a header that it does not know, or answer from its cache.
        url = httpx2.URL(path).copy_merge_params({"after": str(last)} if str(last) != "0" else {})
        headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
        timeout = httpx2.Timeout(self.limits.idle_timeout_s, connect=self.limits.connect_timeout_s)
        return self._http.stream("GET", url, headers=headers, timeout=timeout)

    async def _request(
        self,
        method: str,
        path: str,
        answer: type[_T] | None,
        *,
        params: Mapping[str, str | None] | None = None,
        body: Any = None,
        repeatable: bool = True,
    ) -> _T:
        """Make one request, again where that is safe and may help."""
        headers = {"accept": "application/json"}
        content = None
        if body is not None:
            headers["content-type"], content = "application/json", msgspec.json.encode(body)
        query = {name: value for name, value in (params or {}).items() if value is not None}
        attempt = 0
        while True:
            _check_open(self._http)
            attempt += 1
            retry_after_s = 0.0
            try:
                async with self._http.stream(method, path, params=query, content=content, headers=headers) as response:
                    if response.is_success:
                        return _decode_answer(response, await self._read(response), answer)
                    refusal = await self._refusal(response)
            except httpx2.TransportError as error:
                reached = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                if attempt >= self.limits.request_attempts_max or (reached and not repeatable):
                    raise ConnectionLost(
                        f"{self.base_url} does not answer ({str(error) or type(error).__name__})."
                    ) from error
            else:
                again = response.status_code in RETRYABLE_STATUSES and (repeatable or refusal.retry_after_s is not None)
                if not again or attempt >= self.limits.request_attempts_max:
                    raise refusal
                retry_after_s = refusal.retry_after_s or 0.0
            await asyncio.sleep(backoff_s(self.limits, attempt, self.limits.retry_first_s, retry_after_s))

    async def _read(self, response: httpx2.Response) -> bytearray:
        """Read the whole answer. Raises `StreamInvalid`, `httpx2.TransportError`."""
        content = bytearray()
        try:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > self.limits.answer_bytes_max:
                    raise _no_answer(response, f"more than answer_bytes_max={self.limits.answer_bytes_max} bytes")
        except httpx2.DecodingError as error:
            raise _no_answer(response, f"what is not encoded as it says ({error})") from error
        return content

    async def _refusal(self, response: httpx2.Response) -> GaplessError:
        """Return the error that an answer stands for. Raises `httpx2.TransportError`."""
        retry_after = response.headers.get("retry-after", "")
        retry_after_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
        told = f"{response.request.method} {_shown(response)}: HTTP {response.status_code}"
        try:
            body = msgspec.json.decode(await self._read(response), type=Refusal).error
        except (*_NOT_JSON, StreamInvalid):  # not the server's own answer: the status must do
            body = None
        if response.status_code in _NOWHERE and (body is None or body.code in _NOWHERE_CODES):
            return StreamInvalid(f"no Gapless server at {self.base_url}; is it mounted under a path? ({told})")
        if body is None:
            return GaplessError(told, code="http_error", retry_after_s=retry_after_s)
        error = error_for_code(body.code, body.message, run_id=body.run_id)
        if type(error) is RunFailed and body.code != RunFailed.code:  # a code that is no run's
            error = GaplessError(body.message, run_id=body.run_id, code=body.code)
        error.retry_after_s = retry_after_s
        return error


def backoff_s(limits: ClientLimits, attempt: int, first_s: float, retry_after_s: float = 0.0) -> float:
    """Return the seconds to wait after attempt `attempt` (counted from 1) before the next.

    Exponential from `first_s`, with full jitter, so that the clients of a server that restarts do not come back as one;
    not before `retry_after_s`, where that is within the `retry_max_s` of `limits`.
    """
    ceiling_s: float = min(limits.retry_max_s, first_s * 2.0 ** min(max(attempt - 1, 0), 32))
    return min(limits.retry_max_s, max(retry_after_s, random.uniform(0, ceiling_s)))  # noqa: S311  # jitter


def _path(*parts: str) -> str:
    """Return the path of what stands under these ids, each behind the word for what it is of, and then maybe of what
    there is of it. Raises `InputInvalid` for what is no text; for one that nothing can have, and that would make it
    another path, what the server says of one that there is not."""
    for kind, id in zip(parts[::2], parts[1::2], strict=False):
        if not isinstance(id, str):
            its = "; give its id" if hasattr(id, "id") else ""
            raise InputInvalid(f"{kind[:-1]} id: text, not {shown(id)}{its}")
        if (missing := _NOT_FOUND.get(kind)) and (id in ("", ".", "..") or "/" in id):
            raise missing(f"no {kind[:-1]} {shown(id)}")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _check_open(http: httpx2.AsyncClient) -> None:
    if http.is_closed:
        raise UsageError(f"the client of {str(http.base_url).rstrip('/')} is closed: make another one")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Place(NamedTuple):
    """What was read last of a run, or of a session: an event of one of its runs, or nothing yet, behind what was
    `asked` for."""

    run_id: str
    seq: int
    session_id: str = ""
    asked: str = ""

    def __str__(self) -> str:
        return self.asked or (f"{self.run_id}:{self.seq}" if self.session_id and self.run_id else str(self.seq))

    @property
    def whose(self) -> str:
        if self.session_id:
            return f"session {self.session_id}"
        return f"run {self.run_id}" if self.run_id else "the feed"


def _decode(frame: Frame, last: Place) -> tuple[Place, Event]:
    """Read a frame of a run's stream, and where it is. Raises `StreamInvalid`."""
    seq, event = _position(frame.id or "", frame), _event(frame)
    if seq <= last.seq:
        raise StreamInvalid(f"it sent event {seq} again after {last}")
    return Place(last.run_id, seq), event


def _decode_of_session(frame: Frame, last: Place) -> tuple[Place, Event]:
    """Read a frame of a session's stream, and where it is. Raises `StreamInvalid`."""
    run_id, _, position = (frame.id or "").rpartition(":")
    event = _event(frame)
    place = Place(run_id, _position(position.partition("~")[0], frame), last.session_id)
    if isinstance(event, CustomEvent) and event.name == SESSION:
        return place, event
    if place.run_id == last.run_id and place.seq <= last.seq:
        raise StreamInvalid(f"it sent event {place} again after {last}")
    return place, event


def _decode_of_feed(frame: Frame, last: Place) -> tuple[Place, FeedChange]:
    """Read a frame of the feed, and its cursor. Raises `StreamInvalid`."""
    try:
        return Place("", 0, asked=frame.id or ""), msgspec.json.decode(frame.data or "", type=FeedChange)
    except _NOT_JSON as error:
        raise StreamInvalid(f"the frame with id {frame.id!r:.100} is no change of a feed: {error}") from error


def _position(text: str, frame: Frame) -> int:
    if not _POSITION.fullmatch(text):
        raise StreamInvalid(f"the frame with id {frame.id!r:.100} is no event of AG-UI 1.0: the id is no position")
    return int(text)


def _event(frame: Frame) -> Event:
    try:
        event: Event = decode_event(frame.data or "")
        return event
    except _NOT_JSON as error:
        raise StreamInvalid(f"the frame with id {frame.id!r:.100} is no event of AG-UI 1.0: {error}") from error


def _check_content_type(response: httpx2.Response) -> None:
    content_type = response.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "text/event-stream":
        raise StreamInvalid(f"{content_type or 'something without a content type'}, not an event stream")


def _decode_answer(response: httpx2.Response, content: bytearray, answer: type[_T] | None) -> _T:
    if answer is None:
        return None  # type: ignore[return-value]  # the caller takes no answer
    try:
        return msgspec.json.decode(content, type=answer)
    except _NOT_JSON as error:
        raise _no_answer(response, f"what is no {answer.__name__.lstrip('_')} ({error})") from error


def _no_answer(response: httpx2.Response, what: str) -> StreamInvalid:
    return StreamInvalid(f"{_shown(response)} answered {what}: is it a Gapless server?")


def _shown(response: httpx2.Response) -> httpx2.URL:
    return response.url.copy_with(query=None)
