"""The HTTP side of endpoints: connections, the key, retries, what a refusal means, Server-Sent Events.

A request is sent again only where it cannot have cost anything: the connection was never made, or the service said
429 or 503 together with when to come back. Nothing is sent again once the answer has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NoReturn

import httpx2
import msgspec

from gapless.errors import AgentFailed, GaplessError, InputInvalid, InputTooLarge, ModelFailed, StreamInvalid
from gapless.jsontext import decode_json
from gapless.sse import EventStreamParser

__all__ = ["CUT", "Refused", "Service", "cut", "events_of", "read_body"]

ATTEMPTS_MAX = 3
RETRY_FIRST_S = 0.2
"""Pause before the second attempt to connect; it doubles."""
RETRY_AFTER_S_MAX = 20.0
"""A service that asks for a longer pause is not waited for."""
CONNECT_TIMEOUT_S = 10.0
IDLE_CONNECTIONS_MAX = 20
EVENT_BYTES_MAX = 8 * 1024 * 1024
"""One event of a stream."""
BODY_BYTES_MAX = 32 * 1024 * 1024
"""An answer that is no stream."""
REFUSAL_CHARS_MAX = 500
"""What is passed on of a service's own error message."""
STEPS_MAX = 64
"""Pieces and events of an answer that are read before the other runs of the process have their turn. What has come
already is read without waiting, and an event that makes the run say nothing waits for no store."""

KEY_VARIABLE = "GAPLESS_ENDPOINT_KEY"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
CUT = "endpoint_cut"
"""The code of a run whose endpoint stopped in the middle of its answer."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Service:
    """One HTTP service, named by its base URL.

    Its key is read from the environment at each request: `GAPLESS_ENDPOINT_KEY`; for OpenAI's own host, and the one
    that `OPENAI_BASE_URL` names, `OPENAI_API_KEY`. It goes to the URL as it was written and nowhere else: redirects are
    not followed. A service of this process brings its `key` along, and is named in errors by `name`; its connections
    are not kept, for it has a thread for each.
    """

    def __init__(self, url: httpx2.URL, *, name: str | None = None, key: str | None = None) -> None:
        self.url = url
        self.host = name or url.host
        self.key = key
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def key_variable(self) -> str:
        """Returns the environment variable that this service's key is read from."""
        base = os.environ.get("OPENAI_BASE_URL", "")
        openai_hosts = {OPENAI_HOST, httpx2.URL(base).host} if base else {OPENAI_HOST}
        own = self.url.host in openai_hosts and KEY_VARIABLE not in os.environ
        return OPENAI_KEY_VARIABLE if own else KEY_VARIABLE

    async def aclose(self) -> None:
        """Close the connections of this event loop. A later request opens new ones."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: httpx2.URL, body: Any, *, run_id: str, accept: str = "application/json"
    ) -> AsyncIterator[httpx2.Response]:
        """Ask for one answer with status 200, its body unread. Leaving the block closes the stream, and with it the
        work.

        Raises `InputInvalid`, `InputTooLarge` or `ModelFailed` for a refusal, `AgentFailed` (`endpoint_cut`) when the
        connection broke before an answer.
        """
        client = self._client()
        headers = {"accept": accept, "accept-encoding": "identity", **self._authorization(run_id)}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(body)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            request = client.build_request(method, url, headers=headers, content=content)
            try:
                response = await client.send(request, stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
                if attempt == ATTEMPTS_MAX:
                    raise ModelFailed(
                        f"nothing answers at {_shown(url)} ({type(error).__name__}, {attempt} attempts): "
                        "check the URL and that the service is up",
                        run_id=run_id,
                    ) from error
                await asyncio.sleep(RETRY_FIRST_S * 2 ** (attempt - 1))
                continue
            except httpx2.HTTPError as error:
                raise cut(self.host, run_id, type(error).__name__) from error
            try:
                pause_s = _retry_after_s(response)
                if response.status_code == httpx2.codes.OK:
                    yield response
                    return
                if pause_s is None or pause_s > RETRY_AFTER_S_MAX or attempt == ATTEMPTS_MAX:
                    await self._refuse(response, pause_s, run_id)
            finally:
                await response.aclose()
            await asyncio.sleep(pause_s)

    def _authorization(self, run_id: str) -> dict[str, str]:
        if self.key is not None:
            return {"authorization": f"Bearer {self.key}"}
        variable = self.key_variable
        key = os.environ.get(variable, "").strip()
        if not (key.isascii() and key.isprintable()):  # said here, because what a header's encoder says may show it
            raise ModelFailed(f"{variable} is no key: it has characters that a header cannot carry", run_id=run_id)
        return {"authorization": f"Bearer {key}"} if key else {}

    def _client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            idle_max = IDLE_CONNECTIONS_MAX if self.key is None else 0
            client = self._clients[loop] = httpx2.AsyncClient(
                # How long an answer may take is the run's to decide: timeout, first_event_timeout, idle_timeout.
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
                # One connection per run: `runs_active_max` bounds them.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=idle_max),
                follow_redirects=False,
                # The runs of all users share the client: what a service tells one of them is not for the others.
                cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=())),
                trust_env=self.url.host not in _LOOPBACK,  # a proxy cannot reach this machine's own services
                verify=self.url.scheme == "https",  # for plain HTTP the system's certificates need not be read
            )
        return client

    async def _refuse(self, response: httpx2.Response, pause_s: float | None, run_id: str) -> NoReturn:
        status = response.status_code
        where = _shown(response.request.url) if self.key is None else self.host
        if response.has_redirect_location:
            with contextlib.suppress(httpx2.InvalidURL):  # else it is a refusal like any other
                target = response.request.url.join(response.headers["location"])
                raise ModelFailed(f"{where} redirects to {_shown(target)}: write that URL", run_id=run_id)
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            how = "does not take the key in" if os.environ.get(self.key_variable) else "wants a key: set"
            raise ModelFailed(f"{where} answered {status}: it {how} {self.key_variable}", run_id=run_id)
        message, parameter = await _refusal(response)
        said = f"{where} answered {status}: {message}"
        error: GaplessError
        if status == 413:  # content too large
            error = InputTooLarge(said, run_id=run_id)
        elif status in (400, 422):  # bad request, unprocessable content
            error = InputInvalid(said, run_id=run_id)
        else:
            error = ModelFailed(said, run_id=run_id, retry_after_s=pause_s)
        error.__cause__ = Refused(status, parameter)
        raise error


class Refused(Exception):
    """What the service itself said: its HTTP status and, in OpenAI's error shape, the parameter it is about."""

    def __init__(self, status: int, parameter: str | None) -> None:
        super().__init__(status, parameter)
        self.status = status
        self.parameter = parameter


def cut(host: str, run_id: str, how: str) -> AgentFailed:
    """Return the error of an answer that stopped before it was complete."""
    return AgentFailed(
        f"{host} broke off in the middle of the answer ({how}); what had come is kept, ask again",
        run_id=run_id,
        code=CUT,
    )


class _Turns:
    """Counts the steps of reading one answer, and gives the event loop to others after each `STEPS_MAX` of them."""

    def __init__(self) -> None:
        self._steps = 0

    async def step(self) -> None:
        self._steps += 1
        if self._steps % STEPS_MAX == 0:
            await asyncio.sleep(0)


async def events_of(response: httpx2.Response) -> AsyncGenerator[str, None]:
    """Yield the `data` of each Server-Sent Event (WHATWG HTML, section 9.2.6), one by one as they come.

    An event that its blank line has not ended is not one. Raises `httpx2.TransportError` when the connection breaks,
    `ModelFailed` for an event over `EVENT_BYTES_MAX`.
    """
    parser, turns = EventStreamParser(EVENT_BYTES_MAX), _Turns()
    # Not httpx2's lines: those also split at U+2028 and its like, which may stand inside a JSON string.
    async for piece in response.aiter_bytes():
        await turns.step()
        try:
            frames = parser.feed(piece)
        except StreamInvalid:
            host = response.request.url.host
            raise ModelFailed(f"{host} sent an event of more than {EVENT_BYTES_MAX} bytes") from None
        for frame in frames:
            if frame.data:
                yield frame.data
            await turns.step()


async def read_body(response: httpx2.Response, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Return the whole body. Raises `ModelFailed` for one over `bytes_max`, `httpx2.TransportError`."""
    body, turns = bytearray(), _Turns()
    async for piece in response.aiter_bytes():
        await turns.step()
        body += piece
        if len(body) > bytes_max:
            raise ModelFailed(f"{response.request.url.host} answered more than {bytes_max} bytes")
    return bytes(body)


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _Refusal(msgspec.Struct):
    error: _Error | str = ""
    detail: Any = None


async def _refusal(response: httpx2.Response) -> tuple[str, str | None]:
    """Return the service's own message, as far as it has one, and the parameter it is about."""
    try:
        body = await read_body(response, 64 * 1024)
        said = decode_json(body, _Refusal)
    except (msgspec.MsgspecError, GaplessError, httpx2.HTTPError):
        return response.reason_phrase or "no reason given", None
    error = said.error if isinstance(said.error, _Error) else _Error(message=said.error or str(said.detail or ""))
    return error.message[:REFUSAL_CHARS_MAX] or response.reason_phrase, error.param


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Return the pause that a busy service asks for (RFC 9110, section 10.2.3; the form in seconds)."""
    if response.status_code not in (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE):
        return None
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        return None


def _shown(url: httpx2.URL) -> str:
    """Return a URL as errors may show it: a query can hold a secret."""
    return str(url.copy_with(query=None, fragment=None, username=None, password=None))
