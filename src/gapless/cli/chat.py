"""`gapless chat`: talk to an agent in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from gapless.cli.agents import AGENT_HELP, load_agent, settings_of
from gapless.cli.logs import log_nowhere
from gapless.cli.questions import ask_person
from gapless.cli.terminal import Transcript, clean, explained, rule, say, say_error
from gapless.errors import GaplessError
from gapless.progress import Progress

if TYPE_CHECKING:
    from gapless.config import RunConfig
    from gapless.events import Event
    from gapless.runs.run import Run
    from gapless.runs.runner import Runner

__all__ = ["chat"]

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
_T = TypeVar("_T")


def chat(
    agent: Annotated[str | None, typer.Argument(help=AGENT_HELP, show_default=False)] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this one message, print the answer, end.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Id of the session to go on with; a new one by default. Needs --store to last.")
    ] = None,
    store: Annotated[
        str,
        typer.Option(help="Where conversations are kept: memory://, sqlite:///file.db, redis://…, postgresql://…."),
    ] = "memory://",
    timeout: Annotated[float | None, typer.Option(help="Seconds that an answer may take.", min=0.001)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A model setting, e.g. temperature=0.2.")
    ] = None,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show chunks, characters and speed on standard error.")
    ] = False,
) -> None:
    """Talk to an agent. The answer comes as it is written; what the agent does beside it is shown dim.

    Ctrl-C stops an answer and keeps what was said; a second one, or one at the
    prompt, leaves. So do exit and quit. Lines from a pipe are messages; a pipe gets
    the answers alone, and exit code 1 says that one of them failed.

    [bold]Examples[/bold]
    gapless chat
    gapless chat my_agents.py:support --store sqlite:///chat.db --session alice
    gapless chat http://127.0.0.1:11434/v1 --set model=qwen3 --timeout 60
    gapless chat -m "Explain SSE in one sentence" > answer.txt
    """
    from gapless.config import RunConfig
    from gapless.runs.request import new_id
    from gapless.runs.runner import Runner

    config = RunConfig(model_settings=settings_of(settings or []))
    if timeout is not None:
        config = msgspec.structs.replace(config, timeout=timeout)
    log_nowhere()
    loaded = load_agent(agent)
    with _Loop() as loop:
        runner = Runner(loaded, store=store)
        conversation = _Conversation(loop, runner, session or new_id(), config, progress)
        try:
            loop.call(runner.open())
            if message is not None:
                code = conversation.ask(message)
            else:
                code = _interactive(conversation, session=session, store=store)
        finally:
            loop.call(runner.close())
    raise typer.Exit(code)


def _interactive(conversation: _Conversation, *, session: str | None, store: str) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # line editing and history at the prompt
    from gapless.journals import store_class

    on_screen = sys.stdout.isatty()  # a pipe is for what is said
    if on_screen:
        name = f"GAPLESS CHAT · {clean(conversation.agent_name)}"
        print(rule(), name, rule(), "'exit' ends the conversation, Ctrl-C stops an answer", rule(), sep="\n")
    if session is not None:
        earlier = conversation.turns_so_far()
        told = f"Session {session}: {earlier} earlier {'message' if earlier == 1 else 'messages'}"
        print(told, file=sys.stdout if on_screen else sys.stderr)
        if not store_class(store).shared:
            say("The session lasts as long as this command; --store sqlite:///chat.db keeps it.", style="yellow")
    code = 0
    while True:
        try:
            text = _typed(on_screen=on_screen)
        except (KeyboardInterrupt, EOFError):
            if on_screen:
                print("\nGoodbye!")
            return code
        if not text:
            continue
        if text.lower() in ("exit", "quit"):
            print("\nGoodbye!")
            return code
        outcome = conversation.ask(text, label=f"[{_now()}] Agent: " if on_screen else "")
        if outcome == EXIT_INTERRUPTED and conversation.left:
            print("Goodbye!")
            return EXIT_INTERRUPTED
        if not sys.stdin.isatty():  # a person has seen what went wrong, a script sees the exit code
            code = code or outcome


def _typed(*, on_screen: bool) -> str:
    """Return the next message, asked for where somebody types. Raises `EOFError`, `KeyboardInterrupt`."""
    prompt = f"\n[{_now()}] You: "
    if on_screen:
        return input(prompt).strip()
    if sys.stdin.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)
    return input().strip()


class _Conversation:
    """One session, asked message by message."""

    def __init__(self, loop: _Loop, runner: Runner, session_id: str, config: RunConfig, progress: bool) -> None:
        self.agent_name = runner.app_name
        self.left = False
        """Ctrl-C was pressed twice."""
        self._loop = loop
        self._runner = runner
        self._session_id = session_id
        self._config = config
        self._progress = progress
        self._transcript = Transcript()

    def turns_so_far(self) -> int:
        """Messages of the session so far."""
        if self._loop.call(self._runner.find_session(self._session_id)) is None:
            return 0
        return len(self._loop.call(self._runner.messages(self._session_id)))

    def ask(self, message: str, label: str = "") -> int:
        """Have one turn, shown as it comes. Returns an exit code; what goes wrong is shown and survived."""
        transcript, interrupts = self._transcript, _Interrupts()
        progress = Progress(every_s=None if sys.stdout.isatty() else 1.0) if self._progress else None
        transcript.label(label)
        try:
            with interrupts:
                run = self._loop.call(self._start(message))
                interrupts.on_first(lambda: self._loop.submit(run.cancel()))
                last = self._show(run, progress, interrupts)
        except _Left:
            self.left = True
            transcript.end_line()
            return EXIT_INTERRUPTED
        except GaplessError as error:
            transcript.end_line()
            say_error(error.message)
            return 1
        transcript.end_line()
        if progress is not None:
            progress.finish()
        return self._outcome(last, run)

    async def _start(self, message: str) -> Run:
        return await self._runner.start(message, session_id=self._session_id, config=self._config)

    def _show(self, run: Run, progress: Progress | None, interrupts: _Interrupts) -> Event | None:
        from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome

        event: Event | None = None
        for event in self._loop.iterate(run.events()):
            text = self._transcript.show(event)
            if progress is not None:
                progress.add(text)
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                self._transcript.end_line()
                try:
                    with interrupts.paused():
                        entries = [ask_person(interrupt) for interrupt in event.outcome.interrupts]
                except (KeyboardInterrupt, typer.Abort):
                    self._loop.call(run.cancel())
                else:
                    self._loop.call(run.answer(entries))
        return event

    def _outcome(self, last: Event | None, run: Run) -> int:
        from gapless.events import RunErrorEvent, RunFinishedCancelledOutcome, RunFinishedEvent

        if isinstance(last, RunErrorEvent):
            say_error(explained(run.failure) if run.failure is not None else last.message)
            return 1
        if isinstance(last, RunFinishedEvent) and isinstance(last.outcome, RunFinishedCancelledOutcome):
            say("[stopped; what was said is kept]", style="dim")
            return EXIT_INTERRUPTED
        return 0


def _now() -> str:
    return datetime.now().strftime("%H:%M:%S")  # the person's own time


class _Left(Exception):
    """Ctrl-C was pressed a second time."""


class _Interrupts:
    """While it is entered, the first Ctrl-C calls what `on_first` was given and the second raises `_Left`."""

    def __init__(self) -> None:
        self._pressed = 0
        self._action: Any = None

    def on_first(self, action: Any) -> None:
        self._action = action
        if self._pressed:
            action()

    def __enter__(self) -> None:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While a person types, Ctrl-C has its usual meaning."""
        signal.signal(signal.SIGINT, self._previous)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._pressed += 1
        if self._pressed > 1:
            raise _Left
        if self._action is not None:
            self._action()


class _Loop:
    """An event loop on a thread of its own: the main thread is left to wait for the person and for Ctrl-C, and the
    runner keeps its lease and its runs while someone thinks at the prompt."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gapless-chat", daemon=True)

    def __enter__(self) -> _Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for one coroutine; it is cancelled when the wait is given up."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[_T]) -> Iterator[_T]:
        """Yield one item after the other, each asked for when it is wanted: a stopped terminal holds nothing up."""

        async def step() -> tuple[_T] | None:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return None

        while (item := self.call(step())) is not None:
            yield item[0]
