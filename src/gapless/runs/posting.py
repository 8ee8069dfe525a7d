"""Posting to an address that may be anybody's.

Who names an address must not reach by it what only this machine reaches: the name is looked up here, each address
behind it is looked at, and the connection goes to one that was looked at, so that no second answer of the name's server
counts. No redirect is followed, no proxy of the environment is asked.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from socket import SOCK_STREAM, getaddrinfo
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpcore2
import httpx2
import msgspec

from gapless.notify import NotifyConfig, is_public

__all__ = ["Headers", "Outcome", "Poster"]

CONNECTION_IDLE_S = 5.0
ANSWER_BYTES_MAX = 256 * 1024
"""Of what is read of an answer, its head and those that came before it (RFC 9110, section 15.2): of these there may be
any number, and reading them as fast as they come for the time of an attempt would leave runs little of the process."""
RETRY_AFTER_S_MAX = 4 * 3600
"""More is not waited for when a receiver asks for it."""
_TAKEN = range(200, 300)
_MOVED = (301, 302, 303, 307, 308)
_GONE = 410

Headers: TypeAlias = dict[bytes | str, bytes | str]


class Outcome(msgspec.Struct, frozen=True):
    """Says what came of an attempt: it was taken where there is no `error`."""

    error: str = ""
    status: int = 0
    """What was answered, 0 where nothing was."""
    gone: bool = False
    """The receiver wants no more of it."""
    retry_after_s: int = 0
    """It asks for so long a pause."""
    nobody: bool = False
    """There was nobody to tell."""


class NotPublic(Exception):
    """Is raised where an address is one of this machine or its network."""


class TooLong(Exception):
    """Is raised where an answer goes on and on before it is one."""


class Poster:
    """Posts, over at most `connections_max` connections at the same time, and looks up so many names for them. A name's
    server may take longer than an attempt: what it holds up are threads of these, and none of those in which the
    process looks up the addresses of models. To be closed."""

    def __init__(self, config: NotifyConfig, connections_max: int) -> None:
        self._config = config
        self._connections_max = connections_max
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._lookups: ThreadPoolExecutor | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()
        lookups, self._lookups = self._lookups, None
        if lookups is not None:
            lookups.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, headers: Headers, body: bytes) -> Outcome:
        """Send `body` to `url`. Raises nothing but a cancel."""
        if urlsplit(url).scheme == "http" and not self._config.http:
            return Outcome("http:// is not allowed here")
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await self._post(url, {"user-agent": "Gapless", **headers}, body)
        except TimeoutError:
            return Outcome(f"no answer in {self._config.timeout_s:g} s")
        except (NotPublic, TooLong) as error:
            return Outcome(str(error))
        except Exception as error:  # of any layer below: its text may hold the address
            return Outcome(f"could not be reached ({type(error).__name__})")

    async def _post(self, url: str, headers: Headers, body: bytes) -> Outcome:
        if self._pool is None:
            self._lookups = ThreadPoolExecutor(self._connections_max, "gapless-lookup")
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=httpx2.create_ssl_context(trust_env=True),
                max_connections=self._connections_max,
                keepalive_expiry=CONNECTION_IDLE_S,
                network_backend=_Checked(self._lookups, private=self._config.private),
            )
        # Only the head of the answer is read: what else comes is cut off, however long it is.
        async with self._pool.stream("POST", url, headers=headers, content=body) as answer:
            return _outcome(answer.status, dict(answer.headers))


def _outcome(status: int, headers: dict[bytes, bytes]) -> Outcome:
    if status in _TAKEN:
        return Outcome(status=status)
    if status in _MOVED:
        return Outcome(f"it answers {status}: redirects are not followed, name the address that they lead to", status)
    after = next((value for name, value in headers.items() if name.lower() == b"retry-after"), b"")
    return Outcome(f"it answers {status}", status, gone=status == _GONE, retry_after_s=_pause_s(after))


def _pause_s(asked: bytes) -> int:
    """Return how long a `Retry-After` asks to wait: for so many seconds, or until a date (RFC 9110, section 10.2.3)."""
    try:
        pause_s = float(asked) if asked.isdigit() else parsedate_to_datetime(asked.decode()).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0
    return int(min(max(pause_s, 0), RETRY_AFTER_S_MAX))


class _Checked(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were looked at, and not to names."""

    def __init__(self, lookups: ThreadPoolExecutor, *, private: bool) -> None:
        self._lookups = lookups
        self._private = private
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first of the host's addresses that takes a connection. Raises `NotPublic` where none may."""
        look_up = partial(getaddrinfo, host, port, type=SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, look_up)
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        allowed = [address for address in addresses if self._private or is_public(address)]
        if not allowed:
            raise NotPublic("its address is not public; others are the operator's to allow")
        error: Exception = OSError("no address")
        for address in allowed:
            try:
                return _Bounded(await self._network.connect_tcp(address, port, timeout, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _Bounded(httpcore2.AsyncNetworkStream):
    """Reads no more than the head of an answer may have, after each request."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._read_bytes = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises `TooLong`."""
        data = await self._stream.read(max_bytes, timeout)
        self._read_bytes += len(data)
        if self._read_bytes > ANSWER_BYTES_MAX:
            raise TooLong(f"its answer is none after {ANSWER_BYTES_MAX} bytes")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._read_bytes = 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _Bounded(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
