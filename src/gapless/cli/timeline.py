"""`gapless run`: one run, from its journal, as a person reads it: what happened in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from gapless.cli.questions import shown
from gapless.cli.target import RunId, StoreUrl, Url, connect, find, typed
from gapless.cli.terminal import clean, one_line, say

if TYPE_CHECKING:
    from gapless.events import Event
    from gapless.records import RunRecord

__all__ = ["show_run"]

TEXT_CHARS_MAX = 200
"""Characters shown of a text, of arguments, of a result."""
_STYLES = {"failed": "red", "error": "red", "waits": "yellow", "cancelled": "yellow", "finished": "green"}


class Entry(NamedTuple):
    """One line: the position of its first event, what happened, and of what."""

    at: int
    what: str
    text: str = ""


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
        events: list[tuple[int, Event]] = []
        if record.last_seq > 0:
            async with aclosing(target.follow(record.id, 0)) as following:
                async for at, event in following:
                    events.append((at, event))
                    if at >= record.last_seq:
                        break
    console = Console(highlight=False)
    for name, value in _head(record):
        console.print(Text.assemble((f"{name:<9}", "dim"), clean(value)), soft_wrap=True)
    for entry in timeline(events):
        text = one_line(entry.text, TEXT_CHARS_MAX)
        style = _STYLES.get(entry.what, "bold")
        console.print(Text.assemble((f"{entry.at:>7}  ", "dim"), (entry.what, style), f"  {text}"), soft_wrap=True)
    if record.status.value == "waiting":
        say(f"[it waits for an answer: gapless answer {record.id}{typed(url, store)}]", style="yellow")
    elif not record.status.ended:
        say(f"[it goes on: gapless follow {record.id}{typed(url, store)}]", style="dim")


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
    if record.error is not None:
        yield "error", f"{record.error.get('code', '')}: {record.error.get('message', '')}"
    yield "asked", one_line(record.message, TEXT_CHARS_MAX)


def timeline(events: list[tuple[int, Event]]) -> list[Entry]:
    """Return what happened, in order. Pieces of a text, and of a call's arguments, are one line, where they began."""
    from gapless import events as e

    entries: list[Entry] = []
    pieces: dict[str, tuple[int, list[str]]] = {}  # what grows, by its id: the place of its line, and its pieces
    names: dict[str, str] = {}  # of the tools, by the ids of their calls

    def grow(key: str, at: int, what: str, piece: str) -> None:
        if key not in pieces:
            pieces[key] = (len(entries), [])
            entries.append(Entry(at, what))
        place, parts = pieces[key]
        parts.append(piece)
        entries[place] = entries[place]._replace(text="".join(parts))

    for at, event in events:
        match event:
            case e.RunStartedEvent():
                entries.append(Entry(at, "starts" if not any(it.what == "starts" for it in entries) else "goes on"))
            case e.TextMessageStartEvent(message_id=id):
                grow(f"text {id}", at, "says", "")
            case e.ReasoningMessageStartEvent(message_id=id):
                grow(f"thought {id}", at, "thinks", "")
            case e.TextMessageContentEvent(message_id=id, delta=delta):
                grow(f"text {id}", at, "says", delta)
            case e.ReasoningMessageContentEvent(message_id=id, delta=delta):
                grow(f"thought {id}", at, "thinks", delta)
            case e.ToolCallStartEvent(tool_call_id=id, tool_call_name=name):
                names[id] = name
                grow(f"call {id}", at, "calls", f"{name} ")
            case e.ToolCallArgsEvent(tool_call_id=id, delta=delta):
                grow(f"call {id}", at, "calls", delta)
            case e.ToolCallResultEvent(tool_call_id=id, content=content):
                failed = event.error is not None
                said = f"{names.get(id, id)}: {e.text_of(content)}"
                entries.append(Entry(at, "error" if failed else "result", said))
            case e.StepStartedEvent(step_name=name):
                entries.append(Entry(at, "step", name))
            case e.SubagentStartedEvent(name=name):
                entries.append(Entry(at, "sub-agent", name))
            case e.CustomEvent(name=name, value=value):
                entries.append(Entry(at, *_custom(name, value)))
            case e.RunFinishedEvent(outcome=outcome):
                if isinstance(outcome, e.RunFinishedInterruptOutcome):
                    entries.append(Entry(at, "waits", "; ".join(map(shown, outcome.interrupts))))
                else:
                    cancelled = isinstance(outcome, e.RunFinishedCancelledOutcome)
                    entries.append(Entry(at, "cancelled" if cancelled else "finished"))
            case e.RunErrorEvent(code=code, message=message):
                entries.append(Entry(at, "failed", f"{code}: {message}"))
    return entries


def _custom(name: str, value: object) -> tuple[str, str]:
    """Return what an event that is not AG-UI's own says."""
    fields = value if isinstance(value, dict) else {}
    if name == "gapless.void":
        ids = [*fields.get("messageIds", []), *fields.get("toolCallIds", []), *fields.get("cut", {})]
        return "takes back", f"what its lost worker said last: {', '.join(map(str, ids))}"
    if name == "gapless.restarted":
        return "takes back", "all: it begins anew at another worker"
    if name == "gapless.notice":
        return "notice", f"{fields.get('code', '')}: {fields.get('message', '')}"
    if name == "gapless.file":
        return "file", " ".join(str(fields[key]) for key in ("name", "mimeType", "size") if fields.get(key))
    return "event", name
