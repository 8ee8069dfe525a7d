"""`gapless notices`: who was told of a run, and once more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gapless.cli.runs import print_json
from gapless.cli.target import RunId, StoreUrl, Url, connect, find
from gapless.cli.terminal import one_line, say

if TYPE_CHECKING:
    from gapless.notify import NoticeRecord

__all__ = ["notices"]

CELL_CHARS_MAX = 200
_COLUMNS = ("id", "type", "to", "status", "attempts", "next", "error")


def notices(
    run: RunId,
    again: Annotated[str | None, typer.Option(metavar="NOTICE", help="Send this one once more, by its id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """Show who was told that a run waits or has ended, and what came of it. Tab-separated.

    [bold]Examples[/bold]
    gapless notices 019a8f6e2d1c0a3b5c7d
    gapless notices 019a8f6e2d1c0a3b5c7d --again msg_019a8f6e2e00a1b2c3d4
    """
    found = asyncio.run(_notices(run, again, url, store))
    if as_json:
        import msgspec

        for notice in found:
            print_json(msgspec.to_builtins(notice))
        return
    if not found:
        say("Nobody was told of it.", style="dim")
        return
    for row in [_COLUMNS, *map(_row, found)]:
        typer.echo("\t".join(one_line(cell, CELL_CHARS_MAX) for cell in row))


async def _notices(run_id: str, again: str | None, url: str | None, store: str | None) -> list[NoticeRecord]:
    async with connect(url, store) as target:
        record = await find(target, run_id)
        if again is not None:
            return [await target.notify_again(record.id, again)]
        return await target.notices(record.id)


def _row(notice: NoticeRecord) -> tuple[str, ...]:
    at = "-"
    if notice.next_at is not None:
        at = datetime.fromtimestamp(notice.next_at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return notice.id, notice.type, notice.to, notice.status, str(notice.attempts), at, notice.error or "-"
