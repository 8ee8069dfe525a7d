"""`gapless run`: one run, from its journal, as a person reads it: what happened in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from gapless.cli.target import RunId, StoreUrl, Url, connect, find, typed
from gapless.cli.terminal import clean, one_line, say
from gapless.moves import HANDED_OVER, PARKED, PASSED_ON, TAKEN_OVER, Move

if TYPE_CHECKING:
    from gapless.records import RunRecord
    from gapless.timeline import Entry

__all__ = ["show_run"]

TEXT_CHARS_MAX = 200
"""Characters shown of a text, of arguments, of a result."""
_STYLES = {"failed": "red", "error": "red", "waits": "yellow", "cancelled": "yellow", "finished": "green"}
_WHY = {
    TAKEN_OVER: "its worker was lost",
    HANDED_OVER: "its worker was stopped",
    PASSED_ON: "its worker does not have the agent",
    PARKED: "no worker has it while it waits",
}


def show_run(
    run: RunId,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """Show a run as it is now: what it was asked, and what happened in which order, with positions in its journal.

    [bold]Examples[/bold]
    gapless run 019a8f6e
    gapless follow 019a8f6e --json    every event, as it is
    """
    asyncio.run(_show(run, url, store))


async def _show(run_id: str, url: str | None, store: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    async with connect(url, store) as target:
        record = await find(target, run_id)
        shown = await target.timeline(record.id)
    console = Console(highlight=False)
    for name, value in _head(record):
        console.print(Text.assemble((f"{name:<9}", "dim"), clean(value)), soft_wrap=True)
    if shown.moves_left_out:
        say(f"[{shown.moves_left_out} more moves from worker to worker were before these]", style="dim")
    for entry in shown.in_order():
        text = one_line(_moved(entry) if isinstance(entry, Move) else _said(entry, shown.worker), TEXT_CHARS_MAX)
        style = _STYLES.get(entry.what, "bold")
        began = _after(entry.at, record)
        console.print(
            Text.assemble((f"{entry.seq:>7} {began:>9}  ", "dim"), (entry.what, style), f"  {text}"), soft_wrap=True
        )
    if shown.cut:
        say(f"[there is more: gapless follow {record.id}{typed(url, store)}]", style="dim")
    if record.status.value == "waiting":
        say(f"[it waits for an answer: gapless answer {record.id}{typed(url, store)}]", style="yellow")
    elif not record.status.ended:
        say(f"[it goes on: gapless follow {record.id}{typed(url, store)}]", style="dim")


def _said(entry: Entry, worker: str) -> str:
    if entry.what == "starts" and worker:
        return f"at worker {worker}"
    return f"{entry.name} {entry.text}".strip()


def _moved(move: Move) -> str:
    """Say why a run came to another worker, and to those who are told of workers from which to which."""
    why = _WHY.get(move.what, "")
    return f"from {move.from_worker} to {move.to_worker or 'nobody'}: {why}" if move.from_worker else why


def _after(at: int | None, record: RunRecord) -> str:
    """Return how long after the run's creation it was; nothing where the journal has no times."""
    return "" if at is None else f"{max(0, at - record.created_at) / 1000:.1f} s"


def _head(record: RunRecord) -> Iterator[tuple[str, str]]:
    yield "run", f"{record.id}  {record.status.value}"
    yield "agent", record.agent
    yield "session", record.session_id
    yield "user", record.user_id
    created = datetime.fromtimestamp(record.created_at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    took = ""
    if record.started_at is not None:
        waited = (record.started_at - record.created_at) / 1000
        took = f", waited {waited:.1f} s" if waited >= 1 else ""
        if record.ended_at is not None:
            took += f", took {(record.ended_at - record.started_at) / 1000:.1f} s"
    yield "made", created + took
    yield "events", str(record.last_seq)
    for one in record.usage or ():
        yield "tokens", f"{one.input_tokens} in, {one.output_tokens} out, {one.model or 'unknown model'}"
    if record.error is not None:
        yield "error", f"{record.error.get('code', '')}: {record.error.get('message', '')}"
    yield "asked", one_line(record.message, TEXT_CHARS_MAX)
