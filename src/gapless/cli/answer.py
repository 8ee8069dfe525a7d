"""`gapless answer`: what a waiting run asks, and the answer that lets it go on."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gapless.cli.questions import ask_person, entry_of, shown
from gapless.cli.target import RunId, StoreUrl, Url, connect, find, questions
from gapless.cli.terminal import clean, one_line
from gapless.errors import GaplessError, UsageError

if TYPE_CHECKING:
    from gapless.events import Interrupt, ResumeEntry
    from gapless.records import RunRecord

__all__ = ["answer"]

REASON_CHARS_MAX = 300
"""Characters shown of why a run has ended."""
_HOW = {"finished": "has finished", "failed": "has failed", "cancelled": "was cancelled"}


def answer(
    run: RunId,
    said: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ANSWER", help="y, n, JSON or text, one for each question in their order.", show_default=False
        ),
    ] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Let the run go on without an answer.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Only show what it asks.")] = False,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """Answer what a run asks. Without an ANSWER it is asked here, as a form where the question comes with a schema.

    [bold]Examples[/bold]
    gapless runs --status waiting
    gapless answer 019a8f6e
    gapless answer 019a8f6e y
    gapless answer 019a8f6e '{"approved": false, "reason": "too dear"}'
    """
    asyncio.run(_answer(run, said or [], url, store, decline=decline, show=show))


async def _answer(
    run_id: str, said: list[str], url: str | None, store: str | None, *, decline: bool, show: bool
) -> None:
    async with connect(url, store) as target:
        run = await find(target, run_id)
        asked = await questions(target, run)
        if not asked:
            raise GaplessError(_unasked(run), run_id=run.id)
        if show:
            for interrupt in asked:
                typer.echo(shown(interrupt))
            return
        record = await target.answer(run.id, await _entries(run.id, asked, said, decline=decline))
    typer.echo(clean(f"run {record.id}: answered"))


def _unasked(run: RunRecord) -> str:
    """Say that a run waits for no answer, and how it is with it."""
    if not run.status.ended:
        return f"run {run.id} is {run.status.value}: it waits for no answer now"
    error = run.error or {}
    why = ": ".join(said for name in ("code", "message") if (said := error.get(name)))
    reason = f" ({one_line(why, REASON_CHARS_MAX)})" if why else ""
    return f"run {run.id} {_HOW[run.status.value]}{reason}: it waits for no answer"


async def _entries(run_id: str, asked: list[Interrupt], said: list[str], *, decline: bool) -> list[ResumeEntry]:
    if decline:
        return [entry_of(interrupt, "") for interrupt in asked]
    if said:
        if len(said) != len(asked):
            raise UsageError(f"run {run_id} asks {len(asked)} things: give as many answers, not {len(said)}")
        return [entry_of(interrupt, text) for interrupt, text in zip(asked, said, strict=True)]
    if not sys.stdin.isatty():
        raise UsageError(f"give an ANSWER, or --decline: {'; '.join(map(shown, asked))}")
    return [await asyncio.to_thread(ask_person, interrupt) for interrupt in asked]
