"""`gapless follow`, `cancel`: a run of a server, or of a store that several processes share."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urljoin

import msgspec
import typer

from gapless.cli.questions import shown
from gapless.cli.target import RunId, StoreUrl, Url, asked_by, connect, find, typed
from gapless.cli.terminal import Transcript, clean, say, say_error
from gapless.errors import GaplessError

if TYPE_CHECKING:
    from gapless.cli.target import Direct
    from gapless.client.client import GaplessClient
    from gapless.events import CustomEvent, Event, Interrupt
    from gapless.records import RunRecord

__all__ = ["cancel", "follow", "print_json"]

CANCEL_WAIT_S = 15.0
"""What a cancelled run gets to end: an agent may take 5 s to clean up, a lost worker's lease 10 s to run out."""
CANCEL_LOOK_S = 0.1


def print_json(value: dict[str, Any]) -> None:
    """Write a value in one line, which drives no terminal."""
    line = msgspec.json.encode(value).decode()
    sys.stdout.write((clean(line) if sys.stdout.isatty() else line) + "\n")
    sys.stdout.flush()


def follow(
    run: RunId,
    after: Annotated[int, typer.Option(help="Only what came after this position of its journal.", min=0)] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help='One line per event: {"id": position, "event": {…}} as in AG-UI.')
    ] = False,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """Show a run from its journal, from the start or from any position, and go on live until it ends.

    A connection that breaks is made again by itself; nothing is lost or repeated.
    Exit code 1 if the run failed.

    [bold]Examples[/bold]
    gapless follow 019a8f6e2d1c0a3b5c7d
    gapless follow 019a8f6e2d1c0a3b5c7d --after 41 --json | jq .event.type
    """
    raise typer.Exit(asyncio.run(_follow(run, after, as_json, url, store)))


async def _follow(run_id: str, after: int, as_json: bool, url: str | None, store: str | None) -> int:
    from gapless.events import RunErrorEvent, RunFinishedCancelledOutcome, RunFinishedEvent

    last: Event | None = None
    async with connect(url, store) as target:
        record = await find(target, run_id)  # a server that is not there is found out at once
        run_id = record.id
        transcript = Transcript(_addresses(target, record, whole=after == 0))
        while True:
            events = target.follow(run_id, after)
            asked: list[Interrupt] = []
            async with aclosing(events):
                async for after, last in events:
                    if as_json:
                        print_json({"id": after, "event": last})
                    else:
                        transcript.show(last)
                    asked = asked_by(last)
                    if asked and not as_json:
                        transcript.end_line()
                        if record.last_seq <= after:  # it may have been answered since it was looked at
                            record = await target.record(run_id)
                        _say_asked(record, after, asked, typed(url, store))
            if not asked:
                break
    if not as_json:
        transcript.end_line()
    if isinstance(last, RunErrorEvent):
        say_error(last.message)
        return 1
    if last is None and record.error is not None and record.status.value == "failed":
        say_error(record.error["message"])
        return 1
    if isinstance(last, RunFinishedEvent) and isinstance(last.outcome, RunFinishedCancelledOutcome):
        say("[the run was cancelled]", style="dim")
    return 0


def _addresses(
    target: GaplessClient | Direct, record: RunRecord, *, whole: bool
) -> Callable[[CustomEvent], str | None]:
    """Return what tells where each file of a run is, one after another; a path where there is no server to ask.

    A file within its event has an address by its number, which is known only where the `whole` run is read.
    """
    from gapless.onetext import Links

    links, base_url = Links(record), getattr(target, "base_url", "")

    def address(event: CustomEvent) -> str | None:
        path = links.address(event)
        if path is None or not (whole or event.value.get("url")):
            return None
        return base_url + path if path.startswith("/runs/") else urljoin(f"{base_url}/", path)

    return address


def _say_asked(record: RunRecord, at: int, asked: list[Interrupt], where: str) -> None:
    """Say that the run waits for a person since this event, or what it asked where it has gone on or ended since."""
    if record.last_seq > at or record.status.ended:
        say(f"[asked: {'; '.join(map(shown, asked))}]", style="dim")
    else:
        say(f"[the run waits for a person's answer: gapless answer {record.id}{where}]", style="yellow")


def cancel(
    run: RunId,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """End a run as cancelled; what was shown is kept. Nothing happens to a run that has ended.

    [bold]Examples[/bold]
    gapless cancel 019a8f6e2d1c0a3b5c7d
    """
    asyncio.run(_cancel(run, url, store))


async def _cancel(run_id: str, url: str | None, store: str | None) -> None:
    async with connect(url, store) as target:
        run_id = (await find(target, run_id)).id
        record = await target.cancel(run_id)
        if record.status.ended:
            typer.echo(f"run {run_id} had ended already: {record.status.value}")
            return
        deadline = time.monotonic() + CANCEL_WAIT_S
        while not record.status.ended:
            if time.monotonic() > deadline:
                raise GaplessError(
                    f"run {run_id} was told to stop and has not ended within {CANCEL_WAIT_S:.0f} s; if its worker is "
                    "gone, any other process on its store closes it once the lease has run out",
                    run_id=run_id,
                )
            await asyncio.sleep(CANCEL_LOOK_S)
            record = await target.record(run_id)
    typer.echo(f"run {run_id}: {record.status.value} after {record.last_seq} events")
