"""`gapless doctor`: what is broken, why, and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias
from urllib.parse import quote

import typer
from rich.console import Console
from rich.text import Text

from gapless.agents import FRAMEWORKS
from gapless.cli.agents import AGENT_HELP, load_agent
from gapless.cli.logs import log_nowhere
from gapless.cli.terminal import clean, explained, one_line, raised_on_import
from gapless.errors import ExtraMissing, GaplessError, ModelMissing, RunTimeout
from gapless.journals import STORES

if TYPE_CHECKING:
    from gapless.agents.base import Agent, Deltas

__all__ = ["diagnose_deltas", "diagnose_failure", "diagnose_turn", "doctor"]

QUESTION = "Describe the sea in three sentences."
EXTRAS = {
    "local": ("xllamacpp", "models in .gguf files"),
    **{framework.extra: (framework.distribution, framework.agents) for framework in FRAMEWORKS},
    **{store.extra: (store.distribution, f"journals in {store.keeps_in}") for store in STORES if store.extra},
}
TIMEOUT_S = 60.0
BLOCKED_S = 0.5
"""An event loop that stands still for so long was blocked by the agent, not by a busy machine."""
LOOK_S = 0.02
BURST_SHARE = 0.05
"""Text that all comes within this share of the turn, at its end, was buffered before it reached Gapless."""
BURST_S_MIN = 0.5
"""A turn shorter than this is too short to tell."""

log = logging.getLogger("gapless.doctor")

Level: TypeAlias = Literal["ok", "note", "bad"]
_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


def doctor(
    ctx: typer.Context,
    agent: Annotated[str | None, typer.Argument(help=AGENT_HELP, show_default=False)] = None,
    store: Annotated[str, typer.Option(help="The store that should be writable.")] = "sqlite:///gapless.db",
    port: Annotated[int, typer.Option(help="The port that should be free.", min=1, max=65535)] = 8000,
    message: Annotated[str, typer.Option("--message", "-m", help="What the agent is asked.")] = QUESTION,
    timeout: Annotated[float, typer.Option(help="Seconds that the agent may take.", min=0.1)] = TIMEOUT_S,
) -> None:
    """Examine this environment and an agent: is everything there, and does it stream?

    Loads the agent and runs one turn (a real one: a paid model bills it). Says when
    the first event came, in which pieces, and where something is wrong, what to do.
    Exit code 1 if something is broken.

    [bold]Examples[/bold]
    gapless doctor
    gapless doctor my_agents.py:support
    """
    if not ctx.find_root().params["debug"]:
        log_nowhere()
    report = _Report()
    report.section("Environment")
    _environment(report)
    _store(report, store)
    _port(report, port)
    report.section("Agent")
    asyncio.run(_agent(report, agent, message, timeout))
    raise typer.Exit(1 if report.broken else 0)


class _Report:
    """Findings, printed as they come."""

    def __init__(self) -> None:
        self.broken = False
        self._console = Console(highlight=False, soft_wrap=True)

    def section(self, title: str) -> None:
        self._console.print(Text(title, style="bold"))

    def say(self, finding: Finding) -> None:
        self.broken = self.broken or finding.level == "bad"
        mark, style = _MARKS[finding.level]
        self._console.print(Text.assemble("  ", (mark, style), f" {clean(finding.text)}"))
        if finding.fix:
            self._console.print(Text(f"      → {clean(finding.fix)}", style="bold"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, and where it is no good, what to do."""

    level: Level
    text: str
    fix: str = ""


# ------------------------------------------------------------------------------------------------------- environment


def _environment(report: _Report) -> None:
    from gapless import __version__

    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    report.say(Finding("ok", f"gapless {__version__}, {python}"))
    names = ("fastapi", "uvicorn", "msgspec", "httpx2")
    report.say(Finding("ok", ", ".join(f"{name} {_version(name) or 'missing'}" for name in names)))
    for name in ("uvloop", "httptools"):
        if _version(name) is None:
            fix = f"pip install {name}" if sys.platform != "win32" else ""
            report.say(Finding("note", f"{name} is missing: the server is slower without it", fix))
    for extra, (package, purpose) in EXTRAS.items():
        version = _version(package)
        if version is None:
            report.say(Finding("note", f"{package} is not installed: no {purpose}", f"pip install 'gapless[{extra}]'"))
        else:
            report.say(Finding("ok", f"{package} {version}: {purpose}"))
    _descriptors(report)
    _model(report)


def _descriptors(report: _Report) -> None:
    from gapless.cli.listen import DESCRIPTORS_KEPT, connections_within, raise_descriptor_limit
    from gapless.config import ConnectionLimits

    descriptors, wanted = raise_descriptor_limit(), ConnectionLimits().connections_max
    connections = connections_within(descriptors)
    if connections < wanted:
        text = f"{descriptors} file descriptors at most (ulimit -Hn): a server here takes {connections} connections"
        fix = f"raise the hard limit to {wanted + DESCRIPTORS_KEPT} (systemd: LimitNOFILE=) if it should take {wanted}"
        report.say(Finding("note", text, fix))
    else:
        report.say(Finding("ok", f"file descriptors for {wanted} connections"))


def _model(report: _Report) -> None:
    from gapless.agents.embedded import model_info

    try:
        info = model_info()
    except GaplessError as error:
        report.say(Finding("bad", error.message))
        return
    if info.path is None:
        fix = "gapless model install (93 MB, once)"
        report.say(Finding("note", "no model is installed for commands that name no agent", fix))
    else:
        report.say(Finding("ok", f"model {info.name}: {info.path}"))


def _store(report: _Report, url: str) -> None:
    from gapless.cli.listen import check_store
    from gapless.journals import open_store
    from gapless.journals.contract import shown_url

    scheme, shown = url.partition("://")[0], shown_url(url)
    try:
        path = open_store(url).path
        if path is not None and not path.exists() and path.parent.is_dir():  # leave nothing behind
            with tempfile.TemporaryDirectory(prefix=".gapless-doctor-", dir=path.parent) as folder:
                kept_in, advice = check_store(f"{scheme}:///{quote(folder)}/probe")
        else:
            kept_in, advice = check_store(url)
    except GaplessError as error:
        report.say(Finding("bad", f"store {shown}: {error.message}"))
    except OSError as error:
        fix = "choose another place with --store sqlite:////path/to/file.db"
        report.say(Finding("bad", f"store {shown}: {error.strerror or error}", fix))
    else:
        report.say(Finding("ok", f"store {shown} is writable{kept_in and f' ({kept_in})'}"))
        for risk, fix in advice:
            report.say(Finding("note", risk, fix))


def _port(report: _Report, port: int) -> None:
    from gapless.cli.listen import bind

    try:
        bind("127.0.0.1", port).close()
    except GaplessError as error:
        report.say(Finding("note", error.message))
    else:
        report.say(Finding("ok", f"port {port} is free"))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -------------------------------------------------------------------------------------------------------- the agent


@dataclass(slots=True)
class Turn:
    """One turn of an agent, measured. Times are in seconds from its start."""

    first_event_s: float | None = None
    texts: list[tuple[float, int]] = field(default_factory=list)
    """When each piece of text came and how many characters it has."""
    others: int = 0
    """Events of tools and reasoning."""
    notices: list[str] = field(default_factory=list)
    interrupted: bool = False
    """True if it was ended where it waited for a person."""
    output: bool = False
    """True if it ended with a typed output."""
    total_s: float = 0.0
    blocked_s: float = 0.0
    """The longest time that the event loop stood still."""
    failure: BaseException | None = None


async def _agent(report: _Report, reference: str | None, message: str, timeout_s: float) -> None:
    try:
        agent = load_agent(reference)
    except GaplessError as error:
        report.say(diagnose_failure(error) if reference is not None else _no_agent(error))
        log.debug("%s", reference, exc_info=error)
        return
    report.say(Finding("ok", f"{agent.name} loads ({type(agent).__name__})"))
    turn = await _turn(agent, message, timeout_s)
    for finding in diagnose_turn(turn):
        report.say(finding)
    if agent.deltas is not None:
        report.say(diagnose_deltas(agent.deltas))


def _no_agent(error: GaplessError) -> Finding:
    """Say that there is no embedded model to be examined: nothing is broken for who has agents of their own."""
    if not isinstance(error, ModelMissing | ExtraMissing):
        return diagnose_failure(error)
    fix = "name yours: gapless doctor my_agents.py:support"
    return Finding("note", f"no AGENT was named, so none was examined. {error.message}", fix)


async def _turn(agent: Agent, message: str, timeout_s: float) -> Turn:
    from gapless.config import RunConfig
    from gapless.errors import run_failure
    from gapless.events import (
        CustomEvent,
        RunErrorEvent,
        RunFinishedEvent,
        RunFinishedInterruptOutcome,
        RunStartedEvent,
        TextMessageContentEvent,
    )
    from gapless.runs.runner import Runner

    turn = Turn()
    runner = Runner(agent)
    await runner.load()  # as a server does before it takes runs
    async with runner, _watching_the_loop(turn):
        started = time.monotonic()
        run = await runner.start(message, config=RunConfig(timeout=timeout_s))
        async for event in run.events():
            now_s = time.monotonic() - started
            match event:
                case RunStartedEvent():
                    continue
                case TextMessageContentEvent():
                    turn.texts.append((now_s, len(event.delta)))
                case CustomEvent(name="gapless.notice", value={"message": str(text)}):
                    turn.notices.append(text)
                case RunErrorEvent():
                    turn.failure = run.failure or run_failure(event.code, event.message)
                case RunFinishedEvent():
                    turn.output = event.result is not None
                    if isinstance(event.outcome, RunFinishedInterruptOutcome):
                        turn.notices.append("it asks a person to approve or to answer; the turn was ended there")
                        turn.interrupted = True
                        await run.cancel()
                case CustomEvent():
                    pass
                case _:
                    turn.others += 1
            if turn.first_event_s is None and turn.failure is None:
                turn.first_event_s = now_s
        turn.total_s = time.monotonic() - started
    return turn


@contextlib.asynccontextmanager
async def _watching_the_loop(turn: Turn) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LOOK_S)
            turn.blocked_s = max(turn.blocked_s, time.monotonic() - before - LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def diagnose_turn(turn: Turn) -> Iterator[Finding]:
    """Yield what a turn says about its agent."""
    for notice in turn.notices:
        yield Finding("note", f"it says: {one_line(notice, 300)}")
    if turn.failure is not None:
        if isinstance(turn.failure, RunTimeout) and len(turn.texts) > 1:
            fix = "it streams, and takes longer: raise --timeout, or ask what is answered sooner (--message)"
            until = f"; it had streamed {_pieces(turn)} until then, the last after {turn.texts[-1][0]:.2f} s"
            yield Finding("bad", f"{diagnose_failure(turn.failure).text}{until}", fix)
        else:
            yield diagnose_failure(turn.failure)
        return
    if turn.first_event_s is not None:
        yield Finding("ok", f"first event after {turn.first_event_s:.2f} s, the whole turn in {turn.total_s:.2f} s")
    blocked = turn.blocked_s > BLOCKED_S
    if not (turn.interrupted and not turn.texts) and not (blocked and _came_at_once(turn)):
        yield _streams(turn)
    if blocked:
        yield Finding(
            "bad",
            f"it blocks the event loop, for {turn.blocked_s:.1f} s at a time: every other run stands still meanwhile",
            "call blocking code in a thread (asyncio.to_thread), or make the agent a plain `def`: it then runs in one",
        )


def diagnose_deltas(deltas: Deltas) -> Finding:
    """Say which way the model's deltas came."""
    if deltas.at_model:
        return Finding("ok", "its deltas are taken at the model, beside the framework's graph of events")
    seen = f": {deltas.watched_by} may look at each" if deltas.watched_by else ""
    return Finding("note", f"its deltas go through the framework's graph of events, which costs more{seen}")


def _came_at_once(turn: Turn) -> bool:
    """Several pieces in one burst: something held them back."""
    times = [at for at, _ in turn.texts]
    return len(times) > 1 and turn.total_s > BURST_S_MIN and times[-1] - times[0] < BURST_SHARE * turn.total_s


def _pieces(turn: Turn) -> str:
    sizes = [size for _, size in turn.texts]
    return f"{len(sizes)} pieces of {min(sizes)} to {max(sizes)} characters (median {statistics.median(sizes):.0f})"


def _streams(turn: Turn) -> Finding:
    if not turn.texts:
        if turn.output:
            return Finding("ok", "a typed output and no text: clients that read text alone get it as JSON, at the end")
        if turn.others:
            return Finding("note", f"no text in the answer, but {turn.others} events of tools and reasoning")
        return Finding("bad", "it answers nothing", "yield text: strings, or TEXT_MESSAGE_CONTENT events")
    times = [at for at, _ in turn.texts]
    sizes = [size for _, size in turn.texts]
    if len(sizes) == 1 and turn.interrupted:
        return Finding("note", "one piece of text before its question: too little to tell whether it streams")
    if len(sizes) == 1:
        return Finding(
            "bad",
            f"nothing streams: all {sizes[0]} characters came in one piece, after {times[0]:.2f} s",
            "yield each piece as the model writes it instead of returning the whole; with streaming_mode=NONE, a model "
            "that cannot stream, or an output type that is validated as a whole there is nothing to yield earlier",
        )
    pieces = _pieces(turn)
    if _came_at_once(turn):
        return Finding(
            "bad",
            f"its output is buffered: {pieces} came at once, {times[0]:.2f} s after the question",
            "something between the model and the agent collects the answer: look for a client called without "
            "stream=True, a list that is built before it is yielded, or a proxy that buffers",
        )
    return Finding("ok", f"it streams: {pieces} over {times[-1] - times[0]:.2f} s")


_KEY = re.compile(r"\b[A-Z][A-Z0-9_]*(?:API_KEY|_TOKEN|_CREDENTIALS)\b")
_KEYS_KNOWN = "GOOGLE_API_KEY (Gemini), OPENAI_API_KEY, ANTHROPIC_API_KEY"


def diagnose_failure(failure: BaseException) -> Finding:
    """Return the cause of a failure and what to do about it, by what it says."""
    messages = [str(error) for error in _causes(failure)]
    text = " ".join(messages)
    own = isinstance(failure, GaplessError)  # says what to do by itself
    shown = f"{type(failure).__name__}: {explained(failure)}" if own else explained(failure)
    for matches, fix in _CAUSES:
        if matches(text):
            return Finding("bad", shown, fix(text))
    theirs = not own or raised_on_import(failure)
    return Finding("bad", shown, "`gapless --debug doctor …` shows the traceback" if theirs else "")


def _causes(failure: BaseException) -> Iterator[BaseException]:
    error: BaseException | None = failure
    while error is not None:
        yield error
        error = error.__cause__


def _key_fix(text: str) -> str:
    named = sorted(set(_KEY.findall(text)))
    missing = [name for name in named if not os.environ.get(name)]
    if named and not missing:
        return f"{', '.join(named)} is set, but the provider does not take it: make a new key"
    if missing:
        return f"export {' or '.join(missing)}=… in this shell"
    cloud = "; on Google Cloud: gcloud auth application-default login" if "default credentials" in text else ""
    return f"set the provider's key: {_KEYS_KNOWN}{cloud}"


def _says(*patterns: str) -> Callable[[str], bool]:
    pattern = re.compile("|".join(patterns), re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


_CAUSES: tuple[tuple[Callable[[str], bool], Callable[[str], str]], ...] = (
    (
        _says(
            r"api[_ -]?key",
            r"\b401\b",
            r"unauthenticated",
            r"unauthorized",
            r"default credentials",
            r"permission_denied",
        ),
        _key_fix,
    ),
    (
        _says(r"bidiGenerateContent", r"not supported for generateContent", r"live api", r"only supports? live"),
        lambda text: "this is a live-only model: use it with run_live(), or choose a standard model for streaming text",
    ),
    (
        _says(r"streaming (is )?not supported", r"does not support streaming", r"stream.{0,20}unsupported"),
        lambda text: "this model cannot stream: RunConfig(streaming_mode=StreamingMode.NONE), or choose another model",
    ),
    (
        _says(r"'NoneType' object", r"temp:deps"),
        lambda text: (
            "it needs something that is not there. If that is its deps: nobody gives any here; say how they are made "
            "from the run, with PydanticAIAgent(agent, deps=…) or ADKAgent(agent, deps=…)"
        ),
    ),
    (
        _says(r"cannot import name '\w+' from 'gapless'"),
        lambda text: (
            "Gapless has no such name there: events and what is in them are in gapless.events; see docs/reference.md"
        ),
    ),
    (
        _says(r"cannot import name", r"has no attribute"),
        lambda text: "the installed version lacks that name: upgrade the package that it comes from (pip install -U …)",
    ),
    (
        _says(r"no module (named )?'"),
        lambda text: "install the missing package into this environment, the one of " + sys.executable,
    ),
    (
        _says(r"first_event_timeout", r"idle_timeout", r"the run passed timeout"),
        lambda text: "it is too slow or hangs: look at the network and the model's load, or raise --timeout",
    ),
    (
        _says(r"connection (refused|error)", r"connect", r"name or service not known", r"network is unreachable"),
        lambda text: (
            "the model's endpoint cannot be reached: is its server running, is the URL right, is there a proxy?"
        ),
    ),
)
