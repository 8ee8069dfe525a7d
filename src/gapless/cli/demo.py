"""`gapless demo`: a scripted conversation over HTTP, with a connection that breaks in the middle of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gapless.cli.agents import AGENT_HELP, load_agent
from gapless.cli.terminal import Transcript, clean, rule
from gapless.errors import GaplessError
from gapless.progress import Progress

if TYPE_CHECKING:
    import uvicorn

    from gapless.agents.base import Agent
    from gapless.client.client import Cut, GaplessClient
    from gapless.config import RunConfig

__all__ = ["demo"]

MESSAGES = (
    "Hello! What can you help me with?",
    "Explain quantum computing in simple terms",
    "What are the practical applications?",
    "How does it compare to classical computing?",
)
CUT_FROM = 1
"""Which message's answer is cut first (the second); if that one is too short, the next."""
CUT_AFTER_BYTES = 2600
"""Into an event stream: some fifteen words into an answer."""
CUT_LAST_BYTES = 500
"""The same for the last answer, should all be short."""
DEMO_PORT = 8000
SETTINGS = {"max_tokens": 160, "temperature": 0.3}
"""For the embedded model: it is small, and long answers make it wander."""


def demo(
    agent: Annotated[str | None, typer.Option(help=AGENT_HELP)] = None,
    store: Annotated[
        str | None, typer.Option(help="Where journals are kept; by default a SQLite file that goes with the demo.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help=f"The port; by default {DEMO_PORT}, or a free one.", min=0, max=65535)
    ] = None,
    leave: Annotated[bool, typer.Option("--exit", help="End after the conversation, also on a terminal.")] = False,
) -> None:
    """Serve an agent and talk to it over HTTP, with one connection cut in the middle of an answer.

    The text comes as it is written; after the cut it goes on where it was, and it
    is compared with the journal. On a terminal the server stays up, for its page.

    [bold]Examples[/bold]
    gapless demo
    gapless demo --agent my_agents.py:support --exit
    """
    from gapless.agents.local import LocalModel
    from gapless.cli.listen import bind, check_store, exit_at_signals
    from gapless.cli.logs import log_to_stderr
    from gapless.config import RunConfig

    log_to_stderr("warning")
    loaded = load_agent(agent)
    config = RunConfig(model_settings=SETTINGS if isinstance(loaded, LocalModel) else {})
    stay = sys.stdout.isatty() and not leave
    with contextlib.ExitStack() as stack:
        if store is None:
            store = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory(prefix='gapless-demo-'))}/demo.db"
        check_store(store)
        try:
            listener = bind("127.0.0.1", DEMO_PORT if port is None else port)
        except GaplessError:
            if port is not None:
                raise
            listener = bind("127.0.0.1", 0)
        exit_at_signals()
        asyncio.run(_serve_and_talk(loaded, store, config, listener, stay))


async def _serve_and_talk(agent: Agent, store: str, config: RunConfig, listener: socket.socket, stay: bool) -> None:
    import uvicorn

    from gapless.cli.listen import hosts_allowed, server_config, url_of
    from gapless.journals.contract import shown_url
    from gapless.runs.runner import Runner
    from gapless.server import create_app

    url = url_of(listener)
    print(rule())
    print("STREAMING CHAT DEMO")
    print(rule())
    print(f"agent  {clean(agent.name)}")
    print(f"store  {shown_url(store)}")
    print(f"server {url}")
    app = create_app(Runner(agent, store=store), allowed_hosts=hosts_allowed("127.0.0.1"), drain_s=0)
    server = uvicorn.Server(server_config(app))
    serving = asyncio.create_task(_serve(server, listener))
    talking = asyncio.create_task(_talk(agent, url, config))
    await asyncio.wait({serving, talking}, return_when=asyncio.FIRST_COMPLETED)
    interrupted = server.should_exit  # by a signal: that the run in the middle has failed is no news then
    if not talking.done():  # Ctrl-C, or the server did not start
        talking.cancel()
        await asyncio.wait({talking})
    elif stay and talking.exception() is None:
        print(f"\nThe chat page: {url}   (Ctrl-C ends)")
    else:
        server.should_exit = True
    await serving
    if not server.started:
        raise GaplessError("the server did not start; the lines above say why")
    if not talking.cancelled() and (failure := talking.exception()) is not None and not interrupted:
        raise failure


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    with contextlib.suppress(SystemExit):  # a signal: the server has shut down in order, and the demo ends as well
        await server.serve(sockets=[listener])


async def _talk(agent: Agent, url: str, config: RunConfig) -> None:
    from gapless.agents.local import LocalModel
    from gapless.client.client import ClientLimits, GaplessClient
    from gapless.runs.request import new_id
    from gapless.testing import Cutter

    if isinstance(agent, LocalModel):
        await agent.load()  # so that the first figure is the model's and not the disk's

    talk, session_id, limits = _Talk(), new_id(), ClientLimits(attempts_max=10)
    for number, message in enumerate(MESSAGES):
        cut = number >= CUT_FROM and talk.cut is None
        after = CUT_LAST_BYTES if number == len(MESSAGES) - 1 else CUT_AFTER_BYTES
        with Cutter(url, "abrupt" if cut else None, cuts=1, after_bytes=(after, after)) as cutter:
            async with GaplessClient(cutter.url, limits=limits, on_cut=talk.on_cut) as client:
                await talk.turn(client, session_id, message, config)
    if talk.cut is None:
        raise GaplessError("the answers were too short to be cut, so that nothing was shown; try another agent")
    print(f"\n{rule()}")
    print("\n".join(talk.figures()))
    print(rule())


class _Talk:
    """The conversation: shows it, counts it, and compares it with the journals."""

    def __init__(self) -> None:
        self.cut: Cut | None = None
        self._transcript = Transcript()
        self._cut_at = 0.0
        self._resume_s = 0.0
        self._events = self._chunks = self._characters = 0
        self._seconds = 0.0
        self._first_s: list[float] = []

    def on_cut(self, cut: Cut) -> None:
        self.cut, self._cut_at = cut, time.monotonic()
        self._note(f"✂ connection cut in the middle of a frame, after event {cut.after} ({cut.reason})")

    async def turn(self, client: GaplessClient, session_id: str, message: str, config: RunConfig) -> None:
        """Ask one message: show its answer as it comes, then compared with the journal. Raises `GaplessError`."""
        from gapless.events import RunErrorEvent

        print(f"\n[{_now()}] User: {message}")
        self._transcript.label(f"[{_now()}] Agent: ")
        progress, shown = Progress(every_s=None), []
        run = await client.start(message, session_id=session_id, config=config)
        async with aclosing(client.follow(run.id)) as events:
            async for _, event in events:
                if self._cut_at:
                    self._resume_s, self._cut_at = time.monotonic() - self._cut_at, 0.0
                    self._note(f"↻ resumed after {self._resume_s * 1000:.0f} ms, from where it was:")
                text = self._transcript.show(event)
                progress.add(text)
                shown.append(text)
                if isinstance(event, RunErrorEvent):
                    self._transcript.end_line()
                    raise GaplessError(f"the run failed: {event.message}", run_id=run.id)
        self._seconds += progress.elapsed_s
        self._chunks += progress.chunks
        self._characters += progress.characters
        self._first_s.append(progress.first_s or 0.0)
        self._transcript.end_line()
        await self._compare(client, run.id, "".join(shown))

    async def _compare(self, client: GaplessClient, run_id: str, shown: str) -> None:
        from gapless.fold import Fold

        fold, after, ended = Fold(), 0, False
        while not ended:
            page = await client.page(run_id, after)
            for event in page.events:
                fold.add(event)
            after += len(page.events)
            ended = page.ended and after >= page.last_seq
        if shown != fold.text:
            raise GaplessError(f"run {run_id}: the text that was shown is not that of the journal", run_id=run_id)
        self._events += after
        if self.cut is not None and self.cut.run_id == run_id:
            self._note(f"✓ all {len(shown)} characters are those of the journal: nothing lost, nothing repeated")

    def _note(self, text: str) -> None:
        self._transcript.end_line()
        print(f"    {clean(text)}", flush=True)

    def figures(self) -> list[str]:
        """Return what the conversation amounted to."""
        assert self.cut is not None, "without a cut there is nothing to show"
        first = ", ".join(f"{seconds:.2f}" for seconds in self._first_s)
        return [
            f"events          {self._events} in {len(MESSAGES)} journals",
            f"text            {self._characters} characters in {self._chunks} chunks",
            f"speed           {self._characters / max(self._seconds, 1e-9):.0f} characters/s",
            f"first text      {first} s after each question",
            f"cut and resume  1 cut after event {self.cut.after}, resumed after {self._resume_s * 1000:.0f} ms",
        ]


def _now() -> str:
    return datetime.now().strftime("%H:%M:%S")  # the person's own time
