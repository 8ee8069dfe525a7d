"""`gapless runs`: the runs of a server, or of a store that several processes share, as a list."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from gapless.cli.runs import print_json
from gapless.cli.target import StoreUrl, Url, connect, typed
from gapless.cli.terminal import one_line, say
from gapless.errors import UsageError

if TYPE_CHECKING:
    from gapless.cli.target import Direct
    from gapless.client.client import GaplessClient
    from gapless.records import RunRecord, RunStatus

__all__ = ["list_runs"]

CELL_CHARS_MAX = 200
"""Characters of a message in a list."""
LOOKED_MAX = 5000
"""Runs that are looked through for those that are wanted."""
_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Filter(NamedTuple):
    """What a run must be like beside its session and status, by which the store itself looks."""

    agent: str | None
    user: str | None
    since_ms: float
    error: str | None

    def takes(self, run: RunRecord) -> bool:
        why = " ".join((run.error or {}).values()).lower()
        return (
            self.agent in (None, run.agent)
            and self.user in (None, run.user_id)
            and run.created_at >= self.since_ms
            and (self.error is None or (bool(why) and self.error.lower() in why))
        )


def list_runs(
    session: Annotated[str | None, typer.Option(help="Only the runs of this session.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only: queued, running, waiting, finished, failed or cancelled.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's, with --store.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those made since then: 30m, 2h, 7d, or 2026-03-04[T10:30].")
    ] = None,
    error: Annotated[str | None, typer.Option(help="Only those whose error has this in its code or text.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1, max=1000)] = 20,
    after: Annotated[str | None, typer.Option(metavar="PLACE", help="The page behind, as the one before says.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, as `GET /runs` has them.")] = False,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """List runs, newest first. Tab-separated where the output is no terminal.

    [bold]Examples[/bold]
    gapless runs --status running
    gapless runs --status failed --since 2h --error timeout
    gapless runs --store sqlite:///gapless.db --session alice
    gapless runs --json | jq -r .id
    """
    from gapless.records import RunStatus

    if status is not None and status not in set(RunStatus):
        raise UsageError(f"--status {status!r}: it is one of {', '.join(RunStatus)}")
    wanted = _Filter(agent, user, 0.0 if since is None else _since_ms(since), error)

    async def work() -> tuple[list[RunRecord], str | None]:
        async with connect(url, store) as target:
            return await _find(target, session, RunStatus(status) if status else None, wanted, limit, after)

    runs, more = asyncio.run(work())
    if as_json:
        from gapless.http.answers import public

        for run in runs:
            print_json(public(run))
    elif sys.stdout.isatty():
        _print_table(runs)
    else:
        for row in [_COLUMNS, *(_row(run) for run in runs)]:
            typer.echo("\t".join(row))
    if more is not None and sys.stdout.isatty():
        say(f"[more: --after {more}{typed(url, store)}]", style="dim")


async def _find(
    target: GaplessClient | Direct,
    session: str | None,
    status: RunStatus | None,
    wanted: _Filter,
    limit: int,
    after: str | None,
) -> tuple[list[RunRecord], str | None]:
    """Return at most `limit` runs, and the place behind the last that was looked at, None at the end."""
    found: list[RunRecord] = []
    looked = 0
    while True:
        page = await target.runs(session_id=session, status=status, limit=limit - len(found), after=after)
        found += filter(wanted.takes, page)
        looked, after = looked + len(page), page.next
        older = bool(page) and page[-1].created_at < wanted.since_ms
        if after is None or older:
            return found, None
        if len(found) >= limit or looked >= LOOKED_MAX:
            return found, after


def _since_ms(text: str) -> float:
    if ago := _AGO.fullmatch(text):
        return (time.time() - int(ago[1]) * _SECONDS[ago[2]]) * 1000
    try:
        return datetime.fromisoformat(text).timestamp() * 1000
    except ValueError:
        raise UsageError(f"--since {text!r}: write it as 30m, 2h, 7d, or as a date such as 2026-03-04T10:30") from None


_COLUMNS = ("id", "status", "agent", "session", "events", "created", "seconds", "message")
_DROPPED = ("session", "seconds", "events", "created", "agent", "message", "status")
"""In this order, where a terminal has no room: what is left is whole, ids above all, as one copies them."""
_STATUS_STYLES = {"running": "cyan", "waiting": "yellow", "finished": "green", "failed": "red", "cancelled": "dim"}
MESSAGE_CHARS_MIN = 10


def _row(run: RunRecord) -> tuple[str, ...]:
    created = datetime.fromtimestamp(run.created_at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    started_ms = run.started_at or run.created_at
    seconds = f"{((run.ended_at or time.time() * 1000) - started_ms) / 1000:.1f}" if run.started_at else "-"
    cells = (run.id, run.status.value, run.agent, run.session_id, str(run.last_seq), created, seconds, run.message)
    return tuple(one_line(cell, CELL_CHARS_MAX) for cell in cells)


def _print_table(runs: list[RunRecord]) -> None:
    from rich.cells import cell_len, set_cell_size
    from rich.console import Console
    from rich.text import Text

    if not runs:
        say("No runs.", style="dim")
        return
    console = Console(highlight=False)
    rows = [dict(zip(_COLUMNS, cells, strict=True)) for cells in [_COLUMNS, *map(_row, runs)]]
    widths = {name: max(cell_len(row[name]) for row in rows) for name in _COLUMNS}
    names = _that_fit(widths, console.width)
    used = sum(widths[name] + 2 for name in names if name != "message")
    widths["message"] = max(MESSAGE_CHARS_MIN, console.width - used)
    for number, row in enumerate(rows):
        line = Text(style="bold" if number == 0 else "")
        for name in names:
            cell = row[name]
            if name == "message" and cell_len(cell) > widths[name]:
                cell = set_cell_size(cell, widths[name] - 1) + "…"
            padding = "" if name == names[-1] else " " * (widths[name] - cell_len(cell) + 2)
            line.append(cell, style=_STATUS_STYLES.get(cell, "") if name == "status" else "").append(padding)
        console.print(line, soft_wrap=True)


def _that_fit(widths: dict[str, int], width: int) -> list[str]:
    """Return the columns for which there is room."""
    names = list(_COLUMNS)
    for dropped in _DROPPED:
        needed = sum(MESSAGE_CHARS_MIN if name == "message" else widths[name] + 2 for name in names)
        if needed <= width:
            break
        names.remove(dropped)
    return names
