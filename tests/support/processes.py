"""`gapless serve` as a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

START_S_MAX = 30.0


class Server:
    """A server process on a store that outlives it. Its agent speaks on as `say` lets it."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder / 'gapless.db'}"
        self.gate, self.calls = folder / "gate", folder / "calls"
        self.gate.touch()
        self.calls.touch()
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

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
        if not self.port:
            self.port = free_port()
        agent = Path(__file__).parent / "slowly.py"
        environment = {
            **os.environ,
            "GAPLESS_TEST_GATE": str(self.gate),
            "GAPLESS_TEST_CALLS": str(self.calls),
        }
        command = [sys.executable, "-m", "gapless", "serve", f"{agent}:agent", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--store", self.store], env=environment, stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                if httpx.get(self.url + "/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "server.log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
