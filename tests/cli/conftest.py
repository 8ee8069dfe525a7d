"""The command `gapless` as a person runs it: in a process of its own, on a pipe or on a terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import gapless
from gapless.cli import app
from tests.support import preloaded
from tests.support.waiting import WAIT_S

PRESS_AGAIN_S = 10.0
COMMAND = [sys.executable, "-c", "from gapless.cli import main; main()"]

AGENTS = '''
"""Scripted agents. A file "go" beside this one lets on those that wait for it."""
import asyncio, sys
from pathlib import Path
from gapless.agents.base import RunContext
from gapless.events import (CustomEvent, Interrupt, ReasoningMessageContentEvent, ReasoningMessageEndEvent,
    ReasoningMessageStartEvent, ToolCallArgsEvent, ToolCallEndEvent, ToolCallResultEvent, ToolCallStartEvent)

async def words(message):
    "Twelve words, at once."
    for number in range(12):
        yield f"word{number} "

async def go():
    while not Path(__file__).with_name("go").exists():
        await asyncio.sleep(0.01)

async def ticks(message):
    "A hundred ticks, half of them when it is let on."
    for number in range(100):
        if number == 50:
            await go()
        yield f"tick{number} "

async def quick(message):
    "The same in a third of a second."
    for number in range(100):
        yield f"tick{number} "
        await asyncio.sleep(0.003)

async def endless(message):
    number = 0
    while True:
        yield f"tick{number} "
        number += 1
        await asyncio.sleep(0.01)

async def stubborn(message):
    "When it is cancelled, it ends when it is let on, and not before."
    yield "ready "
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaning up", file=sys.stderr)
        await go()

async def raises(message):
    yield "so far "
    raise ValueError("no luck")

async def remembers(ctx: RunContext):
    yield f"You have said {sum(type(m).__name__ == 'UserMessage' for m in ctx.messages)} things"

async def settings(ctx: RunContext):
    yield repr(dict(ctx.config.model_settings))

async def works(message):
    "Thinks, calls a tool, says something that would drive a terminal."
    yield ReasoningMessageStartEvent(message_id="t")
    yield ReasoningMessageContentEvent(message_id="t", delta="let me think")
    yield ReasoningMessageEndEvent(message_id="t")
    yield ToolCallStartEvent(tool_call_id="c", tool_call_name="weather")
    yield ToolCallArgsEvent(tool_call_id="c", delta='{"city":')
    yield ToolCallArgsEvent(tool_call_id="c", delta='"Oslo"}')
    yield ToolCallEndEvent(tool_call_id="c")
    yield ToolCallResultEvent(message_id="r", tool_call_id="c", content="rain")
    yield CustomEvent(name="gapless.notice", value={"code": "x", "message": "mind the step"})
    yield "It rains\\x1b[2J."

async def asks(message, ctx: RunContext):
    entries = await ctx.interrupt([Interrupt(id="i", reason="approval", message="May I?")])
    yield f"{entries[0].status} {entries[0].payload}"

async def whole(message):
    return "All of it in one piece."

async def keyless(message):
    raise RuntimeError("Set the `EXAMPLE_API_KEY` environment variable")
    yield

async def silent(message):
    return
    yield

not_an_agent = 42
'''


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that is invoked in this process sets up the logging of all that comes after it."""
    root, own = logging.getLogger(), logging.getLogger("gapless")
    handlers, levels = list(root.handlers), (root.level, own.level)
    hooks, filters = (threading.excepthook, sys.unraisablehook), list(logging.getLogger("asyncio").filters)
    yield
    threading.excepthook, sys.unraisablehook = hooks
    logging.getLogger("asyncio").filters[:] = filters
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
def agents(tmp_path: Path) -> str:
    """The path of a file of scripted agents."""
    path = tmp_path / "agents.py"
    path.write_text(AGENTS, encoding="utf-8")
    return str(path)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing is configured and the project is importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GAPLESS_")}
    source = str(Path(gapless.__file__).parents[1])
    return {**kept, "PYTHONPATH": source, "TERM": "xterm", "HOME": str(tmp_path), "COLUMNS": "200"}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run a command to its end on pipes: `run("chat", …, input="…")`."""

    def start(*arguments: str, input: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return preloaded.run(
            [*COMMAND, *arguments],
            input=input,
            env={**environment, **(env or {})},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )

    return start


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """The same in this process, quicker: `invoke("runs", …)`."""
    return lambda *arguments: CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


class Terminal:
    """A command on a terminal of its own, with keys to press."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self.process = preloaded.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            cwd=cwd,
            start_new_session=True,  # so that Ctrl-C is a signal
        )
        os.close(slave)
        self.output = ""
        self._seen = 0

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until the output after the last match has the pattern."""
        deadline = time.monotonic() + WAIT_S
        while (match := re.compile(pattern).search(self.output, self._seen)) is None:
            assert self._read(deadline), f"no {pattern!r} in {self.output[self._seen :]!r}"
        self._seen = match.end()
        return match

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def press_until(self, keys: str, pattern: str) -> None:
        """Press again where nothing comes: Python's `input` overlooks a signal that comes just before it waits. Not
        soon, or what only comes late would be pressed twice."""
        for _ in range(int(WAIT_S / PRESS_AGAIN_S)):
            self.press(keys)
            deadline = time.monotonic() + PRESS_AGAIN_S
            while time.monotonic() < deadline and re.compile(pattern).search(self.output, self._seen) is None:
                self._read(deadline)
            if re.compile(pattern).search(self.output, self._seen) is not None:
                break
        self.expect(pattern)

    def ends(self) -> int:
        """Wait for its end; its exit code."""
        deadline = time.monotonic() + WAIT_S
        while self._read(deadline):
            pass
        return self.process.wait(timeout=WAIT_S)

    def _read(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Run a command on a terminal: `terminal("chat", …)`."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> Terminal:
            started = Terminal(arguments, environment, tmp_path)
            stack.callback(started.close)
            return started

        yield start


class Server:
    """`gapless serve` in a process of its own."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], cwd: Path) -> None:
        self.log = cwd / f"server-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = preloaded.Popen(
                [*COMMAND, "serve", *arguments], stdout=subprocess.PIPE, stderr=log, env=environment, cwd=cwd, text=True
            )
        self.banner: dict[str, str] = {}
        assert self.process.stdout is not None
        while "store" not in self.banner:
            line = self.process.stdout.readline()
            assert line, self.log.read_text()
            name, _, value = line.strip().partition(" ")
            self.banner[name] = value.strip()
        self.url = self.banner.get("page", "").rstrip("/")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=WAIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """Start a server and wait until it listens: `server("agents.py:words", "--port", "0")`."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, env: dict[str, str] | None = None) -> Server:
            started = Server(arguments, {**environment, **(env or {})}, tmp_path)
            stack.callback(started.close)
            return started

        yield start
