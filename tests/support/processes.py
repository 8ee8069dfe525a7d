"""`gapless serve` as a process of its own, to be killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2

from gapless.client import ClientLimits, Cut, GaplessClient
from tests.support import preloaded

START_S_MAX = 120.0
STOP_S_MAX = 120.0
LOCK_S_MAX = 0.5
"""For as long nobody holds an SQLite file's lock who is running."""
QUICK = ClientLimits(retry_first_s=0.02, retry_max_s=0.2)

_held: list[socket.socket] = []


class Server:
    """A server process on a store that outlives it. Its agent speaks on as `say` lets it."""

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        store: str = "",
        arguments: tuple[str, ...] = (),
        agent: str = "",
        environment: dict[str, str] | None = None,
        popen: type[subprocess.Popen[bytes]] = preloaded.Popen,
    ) -> None:
        self.folder = folder
        self.store = store or f"sqlite:///{folder / 'gapless.db'}"
        self.gate, self.calls = folder / "gate", folder / "calls"
        self.gate.touch()
        self.calls.touch()
        self.port = port
        self.log = folder / f"server-{time.monotonic_ns()}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = arguments
        self._agent = agent or f"{Path(__file__).parent / 'slowly.py'}:agent"
        self._environment = environment or {}
        self._popen = popen

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, *words: str) -> None:
        """Let the agent say these words; "end" ends its answer."""
        with self.gate.open("a") as gate:
            gate.write("".join(word + "\n" for word in words))

    def forget(self) -> None:
        """The next answer starts anew."""
        self.gate.write_text("")

    def start(self) -> None:
        """Start it on the port it had, and wait until it is ready."""
        self.launch()
        self.ready()

    def launch(self) -> None:
        """Start it, without waiting."""
        if not self.port:
            self.port = free_port()
        environment = {
            **os.environ,
            "GAPLESS_TEST_GATE": str(self.gate),
            "GAPLESS_TEST_CALLS": str(self.calls),
            **self._environment,
        }
        command = [sys.executable, "-m", "gapless", "serve", self._agent, "--port", str(self.port)]
        with self.log.open("ab") as output:
            self.process = self._popen(
                [*command, "--store", self.store, *self._arguments], env=environment, stdout=output, stderr=output
            )

    def ready(self) -> None:
        """Wait until it takes runs."""
        assert self.process is not None
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                if httpx2.get(self.url + "/ready", timeout=5, trust_env=False, verify=False).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log.read_text())
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """The processes that serve, for one with `--workers` (multiprocessing's own helper is none)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        return [int(child) for child in children if b"resource_tracker" not in _command_line(child)]

    @contextlib.contextmanager
    def alone(self, worker: int) -> Iterator[None]:
        """Stop the other workers: this one takes all that comes, where else it is the kernel's choice."""
        with contextlib.ExitStack() as stack:
            for other in self.workers():
                if other != worker:
                    stack.enter_context(self.stopped(other))
            yield

    @contextlib.contextmanager
    def stopped(self, pid: int | None = None) -> Iterator[None]:
        """SIGSTOP the process, or that worker, for the block, and not while it has the lock of an SQLite file: nobody
        could write then."""
        pid = pid or self.pid
        deadline = time.monotonic() + STOP_S_MAX
        try:
            while True:
                os.kill(pid, signal.SIGSTOP)
                while not _is_stopped(pid):
                    assert time.monotonic() < deadline, f"process {pid} does not stop"
                    time.sleep(0.001)
                if self._store_is_free():
                    break
                assert time.monotonic() < deadline, f"process {pid} always has the lock of {self.store}"
                os.kill(pid, signal.SIGCONT)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _store_is_free(self) -> bool:
        scheme, _, path = self.store.partition(":///")
        if scheme != "sqlite":
            return True
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_S_MAX, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            db.execute("ROLLBACK")
            return True

    def drains(self) -> int:
        """How many processes of it have begun to drain, since its first start."""
        return self.log.read_text().count(" draining ")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, which must come; the exit code."""
        assert self.process is not None
        return self.process.wait(STOP_S_MAX)

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


def client_of(
    url: str,
    on_cut: Callable[[Cut], None] | None = None,
    *,
    api_key: str | None = None,
    limits: ClientLimits = QUICK,
) -> GaplessClient:
    """A client that comes back quickly."""
    transport = httpx2.AsyncHTTPTransport(verify=False)  # reading all certificates takes longer than a test
    return GaplessClient(url, limits=limits, on_cut=on_cut, api_key=api_key, transport=transport)


class LogLine(NamedTuple):
    """What the agent `talks` did."""

    what: str
    pid: int
    run_id: str
    talk: str
    at_ns: int


class Talks:
    """The talks of the agent `talks`, shared by all processes that are given its `environment`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copied = shutil.copy(Path(__file__).parent / "talks.py", folder)  # a worker process imports what is beside it
        self.agent = f"{copied}:agent"
        self.environment = {"GAPLESS_TEST_TALKS": str(folder)}

    def say(self, talk: str, *lines: str) -> None:
        """Let the talk's agents go on by these lines."""
        with (self.folder / talk).open("a") as file:
            file.write("".join(line + "\n" for line in lines))

    def log(self, what: str, run_id: str | None = None) -> list[LogLine]:
        """What was logged as `what`, in order."""
        path = self.folder / "log"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        lines = [LogLine(w, int(pid), run, talk, int(at_ns)) for w, pid, run, talk, at_ns in rows]
        return [line for line in lines if line.what == what and run_id in (None, line.run_id)]


def free_port() -> int:
    """A port for a server that a test starts, perhaps several times, and nobody else: the kernel gives it to no other,
    as it stays bound here. Servers bind it all the same, since nobody listens on it (SO_REUSEADDR in socket(7))."""
    while True:
        holder = _bound("127.0.0.1", 0)
        _held.append(holder)
        port = int(holder.getsockname()[1])
        try:  # one that a connection from this machine's other addresses has, some servers refuse
            _bound("0.0.0.0", port).close()
        except OSError:
            continue
        return port


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
        return b""


def _is_stopped(pid: int) -> bool:
    """None of its threads runs."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if thread.read_text().rpartition(")")[2].split()[0] not in "TZX":  # proc(5): stopped, or dead
                return False
    return True
