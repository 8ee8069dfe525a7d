"""A server's socket and settings: what `gapless serve` and `gapless demo` share."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import gc
import importlib.util
import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from gapless.config import ConnectionLimits, Limits
from gapless.errors import GaplessError, UsageError

if TYPE_CHECKING:
    import uvicorn

    from gapless.journals.contract import Advice

__all__ = [
    "Terminal",
    "bind",
    "check_store",
    "collect_garbage_rarely",
    "connections_within",
    "exit_at_signals",
    "hosts_allowed",
    "is_loopback",
    "is_path",
    "raise_descriptor_limit",
    "server_config",
    "url_of",
]

BACKLOG = 2048
_SOCKET_MODE = 0o666
CONNECTIONS_GRACE_S = 5
"""What answers that are on their way get at shutdown. Event streams end at once; runs have a time of their own."""
WORKER_SILENCE_S = 30
"""A worker process that does not answer its supervisor for so long is replaced."""
_HOSTS = "give one of this machine: 127.0.0.1 for programs on it alone, 0.0.0.0 for all of its networks"

DESCRIPTORS_KEPT = 256
"""For the store, the models and files: what connections leave of the process's descriptors."""
CONNECTIONS_MIN = 64
"""So many connections are taken however few descriptors there are."""

GC_THRESHOLDS = (50_000, 20, 50)
"""How many more objects there must be for a collection of the young ones, and how many of those for one of the older.
CPython's own are (700, 10, 10): with 500 streams a tenth of all CPU went into looking at the same live objects."""


def is_path(host: str) -> bool:
    """True if `host` is the path of a Unix socket."""
    return "/" in host


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a server on `host`, which may be the path of a Unix socket."""
    if is_path(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_allowed(host: str) -> list[str]:
    """Return the names by which a server that trusts this machine may be called, against DNS rebinding."""
    if is_path(host):
        host = "localhost"
    return sorted({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host})


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one. A `host` with a slash is the path of a Unix socket. Raises
    `UsageError` for a host that is none, else `GaplessError`.
    """
    if is_path(host):
        return _bind_path(Path(host))
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}; {_HOSTS}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise GaplessError(_why(host, port, error), code="port_unavailable") from None
    return listener


def _bind_path(path: Path) -> socket.socket:
    """Open a Unix socket. Whoever may enter its folder may connect, as with a port of this machine. One that a killed
    server has left is replaced; it goes with this process, unless another server has taken the path meanwhile."""
    if sys.platform == "win32":
        raise UsageError("--uds: not on Windows; choose --host and --port")
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _is_listened_on(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(_SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            why = "a server listens there" if path.is_socket() else "it is a file"
            why += "; choose another path"
        raise GaplessError(f"--uds {path}: {why}", code="port_unavailable") from None
    atexit.register(_leave, path, _file_at(path))
    return listener


def _leave(path: Path, bound: tuple[int, ...] | None) -> None:
    if bound is not None and _file_at(path) == bound:
        path.unlink(missing_ok=True)


def _file_at(path: Path) -> tuple[int, ...] | None:
    """Return which file a path leads to, None for none; also by its time, as numbers of inodes are used again."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use: stop what listens there, or choose another with --port (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} needs privileges: choose one from 1024 on with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} cannot be listened on; {_HOSTS}"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def url_of(listener: socket.socket) -> str:
    """Return where a browser on this machine finds it; `unix:` and the path of a Unix socket."""
    name = listener.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host, port = name[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  # any address of this machine: one that works
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def raise_descriptor_limit() -> int | None:
    """Take as many descriptors as this process and its children may have: its soft limit becomes its hard one. Returns
    how many these are, None where there is no limit."""
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS: the kernel has a limit below "none"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connections_within(descriptors: int | None, wanted: int = ConnectionLimits().connections_max) -> int:
    """Lower a limit of connections to what can be opened, so that the last ones are refused and not left waiting."""
    return wanted if descriptors is None else min(wanted, max(CONNECTIONS_MIN, descriptors - DESCRIPTORS_KEPT))


def server_config(
    app: Any,
    *,
    workers: int = 1,
    factory: bool = False,
    access_log: bool = False,
    limits: ConnectionLimits | None = None,
    proxied: bool = False,
) -> uvicorn.Config:
    """uvicorn's settings: the fast loop and parser where they are installed, its own logging left alone, and bounds on
    what a connection may cost before anybody is known. Who connects where it is `proxied` is believed what it says of
    its client (X-Forwarded-For and -Proto)."""
    import uvicorn

    from gapless.server.connections import http_protocol, websocket_protocol

    limits = limits or ConnectionLimits()
    most = connections_within(raise_descriptor_limit(), limits.connections_max)
    limits = msgspec.structs.replace(limits, connections_max=most)

    return uvicorn.Config(
        app,
        factory=factory,
        workers=workers,
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http=http_protocol(limits),
        ws=websocket_protocol(),
        lifespan="on",
        forwarded_allow_ips="*" if proxied else None,
        log_config=None,
        access_log=access_log,
        server_header=False,
        ws_per_message_deflate=False,  # a message is a word: compressing it costs more than it saves
        ws_ping_timeout=None,  # a client that is held back is not read, its pongs neither
        ws_max_size=Limits().body_bytes_max,
        timeout_graceful_shutdown=CONNECTIONS_GRACE_S,
        timeout_worker_healthcheck=WORKER_SILENCE_S,
    )


def check_store(url: str) -> tuple[str, list[Advice]]:
    """Open and close the store once, so that a bad one is one clear line and not a server that fails to start; returns
    what it is kept in, and what about its set-up may lose data.

    Raises `UsageError`, `StoreUnavailable`, `StoreCorrupt`, `ExtraMissing`.
    """
    from gapless.journals import open_store
    from gapless.runs.request import new_id

    async def check() -> tuple[str, list[Advice]]:
        store = open_store(url)  # and no worker: that would take over runs which it cannot execute
        await store.open(new_id(), _Deaf())
        try:
            return await store.description(), await store.advice()
        finally:
            await store.close()

    return asyncio.run(check())


class _Deaf:
    """The listener of who only looks at a store."""

    def on_events(self, run_id: str, first_seq: int, events: list[bytes], closed: bool) -> None:
        pass

    def on_command(self, run_id: str, command: bytes, id: int = 0) -> None:
        pass

    def on_wanted(self) -> None:
        pass

    def on_session(self, session_id: str) -> None:
        pass

    def on_user_session(self, user_id: str, session_id: str | None) -> None:
        pass


def exit_at_signals() -> None:
    """SIGTERM and Ctrl-C end the process with exit code 0. The server puts its own handlers in front while it runs,
    and hands the signal on here once it has shut down in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


class Terminal:
    """Tells whether the terminal in which this process was started has been closed, which is the other meaning of
    SIGHUP."""

    def __init__(self) -> None:
        self._there = os.isatty(0)

    @property
    def is_closed(self) -> bool:
        return self._there and not os.isatty(0)


def collect_garbage_rarely() -> None:
    """Set the cyclic collector for a process that serves: what is loaded by now stays for good and is not looked at
    again (`gc.freeze`), and the young objects of many streams are looked at seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
