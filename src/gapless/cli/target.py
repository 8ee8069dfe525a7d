"""What `runs`, `follow`, `cancel` and `answer` speak to: a server, or a store that several processes share."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

from gapless.cli.settings_file import ENVIRONMENT
from gapless.cli.terminal import say
from gapless.errors import ConnectionLost, RunNotFound, UsageError

if TYPE_CHECKING:
    from gapless.client.client import Cut, GaplessClient
    from gapless.events import Event, Interrupt, ResumeEntry
    from gapless.notify import NoticeRecord
    from gapless.records import Listing, RunRecord, RunStatus
    from gapless.runs.runner import Runner
    from gapless.timeline import Timeline

__all__ = ["RunId", "StoreUrl", "Url", "asked_by", "connect", "find", "questions", "typed"]

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = f"{ENVIRONMENT}_URL"
"""Says where the server is where neither `--url` nor `--store` does."""
PREFIX_CHARS_MIN = 4
"""So much of a run's id stands for all of it, if no other of the newest `PREFIX_RUNS` runs begins so."""
PREFIX_RUNS = 1000

RunId: TypeAlias = Annotated[str, typer.Argument(help="The run's id, or how it begins.")]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help=f"The server, by default what {URL_VARIABLE} says, or {DEFAULT_URL}; GAPLESS_API_KEY holds its key."
    ),
]
StoreUrl: TypeAlias = Annotated[
    str | None, typer.Option(help="The store itself instead of a server: sqlite:///file.db, redis://…, postgresql://….")
]


class Direct:
    """A store as the target of a command, with no server in between."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def follow(self, run_id: str, after: int) -> AsyncGenerator[tuple[int, Event], None]:
        handle = await self._runner.attach(run_id)
        async for item in handle.entries(after):
            yield item

    async def runs(
        self, *, session_id: str | None, status: RunStatus | None, limit: int, after: str | None = None
    ) -> Listing[RunRecord]:
        return await self._runner.list_runs(session_id=session_id, status=status, limit=limit, after=after)

    async def record(self, run_id: str) -> RunRecord:
        return await self._runner.get_run(run_id)

    async def timeline(self, run_id: str) -> Timeline:
        return await self._runner.readers.timeline(await self._runner.get_run(run_id))

    async def cancel(self, run_id: str) -> RunRecord:
        return await self._runner.cancel(run_id)

    async def notices(self, run_id: str) -> list[NoticeRecord]:
        return await self._runner.notices(run_id)

    async def notify_again(self, run_id: str, notice_id: str) -> NoticeRecord:
        return await self._runner.notify_again(run_id, notice_id)

    async def answer(self, run_id: str, entries: list[ResumeEntry]) -> RunRecord:
        await self._runner.answer(run_id, entries)
        return await self._runner.get_run(run_id)


def typed(url: str | None, store: str | None) -> str:
    """Return the option by which a command was told its target, to go behind another command that is shown: that one
    would look elsewhere without it."""
    if store is not None:
        from gapless.journals.contract import shown_url

        return f" --store {shlex.quote(shown_url(store))}"
    return f" --url {shlex.quote(url)}" if url is not None else ""


@contextlib.asynccontextmanager
async def connect(url: str | None, store: str | None) -> AsyncIterator[GaplessClient | Direct]:
    """Reach the server or the store. Raises `UsageError`, `ConnectionLost`."""
    if store is not None and url is not None:
        raise UsageError("give --url or --store, not both")
    try:
        async with _reached(url, store) as target:
            yield target
    except RunNotFound as error:
        hint = f"{error.message}; `gapless runs{typed(url, store)}` lists them"
        raise RunNotFound(hint, run_id=error.run_id) from error
    except ConnectionLost as error:
        hint = f"{error.message} Start one with `gapless serve`, or give --url or --store."
        raise ConnectionLost(hint, run_id=error.run_id) from error


@contextlib.asynccontextmanager
async def _reached(url: str | None, store: str | None) -> AsyncIterator[GaplessClient | Direct]:
    if store is not None:
        from gapless.runs.runner import Runner

        _check_exists(store)
        before = signal.signal(signal.SIGTERM, _end)  # so that the store hears that this worker of it is gone
        try:
            async with Runner(store=store) as runner:
                yield Direct(runner)
        finally:
            signal.signal(signal.SIGTERM, before)
        return
    from gapless.client.client import ClientLimits, GaplessClient

    where = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    async with GaplessClient(where, on_cut=_say_cut, limits=ClientLimits(request_attempts_max=2)) as client:
        yield client


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _check_exists(store: str) -> None:
    """Looking must not make a store. Raises `UsageError`."""
    from gapless.journals import open_store

    looked_at = open_store(store)
    if not looked_at.shared:
        raise UsageError(f"--store {store} is another process's memory; use --url, or a store that is shared")
    if looked_at.path is not None and not looked_at.path.is_file():
        raise UsageError(f"--store {store}: there is no file {looked_at.path}")


def _say_cut(cut: Cut) -> None:
    if cut.attempt > 1 or cut.wait_s >= 1:  # a short one goes unnoticed
        say(f"[connection lost after event {cut.after}: {cut.reason}; again in {cut.wait_s:.1f} s]", style="yellow")


async def find(target: GaplessClient | Direct, run_id: str) -> RunRecord:
    """Return the record of the run with this id, or whose id begins so. Raises `RunNotFound`, `UsageError`."""
    if not run_id:
        raise UsageError("give a run's id; `gapless runs` lists them")
    try:
        return await target.record(run_id)
    except RunNotFound:
        if len(run_id) < PREFIX_CHARS_MIN:
            hint = f"no run {run_id}; the beginning of an id needs {PREFIX_CHARS_MIN} characters"
            raise RunNotFound(hint, run_id=run_id) from None
        runs = await target.runs(session_id=None, status=None, limit=PREFIX_RUNS)
        found = [run.id for run in runs if run.id.startswith(run_id)]
        if not found:
            raise
    if len(found) > 1:
        raise UsageError(f"{len(found)} runs begin with {run_id}: {', '.join(found[:5])}{', …' * (len(found) > 5)}")
    return await target.record(found[0])


async def questions(target: GaplessClient | Direct, run: RunRecord) -> list[Interrupt]:
    """Return what a run waits for; nothing where it waits for no person."""
    from gapless.records import RunStatus

    if run.status is RunStatus.WAITING:
        async with contextlib.aclosing(target.follow(run.id, run.last_seq - 1)) as events:
            async for _, event in events:
                if asked := asked_by(event):
                    return asked
    return []


def asked_by(event: Event) -> list[Interrupt]:
    """Return what an event asks a person; nothing for one that asks nothing."""
    from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome

    if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
        return event.outcome.interrupts
    return []
