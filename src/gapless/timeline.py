"""What happened in a run, in order, of its events and their times: what `gapless run` prints and the window draws."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gapless import events as e

__all__ = ["Clock", "Entry", "Timeline", "timeline"]

TEXT_CHARS_MAX = 20_000
"""Characters of one entry; the rest of a longer text is in the journal."""
ENTRIES_MAX = 2_000
"""Entries of one timeline: the first ones of a longer run."""


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing that happened: from the event at position `seq` to the one at `last_seq`, `at` to `ended_at` (ms, where
    the journal has times).

    `what` is one of starts, goes on, says, thinks, calls, result, error, step, sub-agent, waits, takes back, notice,
    file, event, cancelled, finished, failed. A result has the position of its call, `of`, and a
    sub-agent's error that of the sub-agent.
    """

    seq: int
    last_seq: int
    what: str
    name: str = ""
    """Of the tool, the step, the sub-agent, the agent's own event."""
    text: str = ""
    cut: bool = False
    """The text is longer than this."""
    of: int | None = None
    at: int | None = None
    ended_at: int | None = None


class Clock:
    """Knows when an event was accepted: at the time of the last group before it, or its own, that has one."""

    def __init__(self, times: Sequence[tuple[int, int]]) -> None:
        """`times` are (position of a group's first event, ms)."""
        self._seqs = [seq for seq, _ in times]
        self._times = [at for _, at in times]

    def at(self, seq: int) -> int | None:
        """Return when the event at this position was accepted, in ms; None where that is not known."""
        place = bisect_right(self._seqs, seq)
        return self._times[place - 1] if place else None


class Timeline(msgspec.Struct, kw_only=True):
    """The entries of a run, as far as it has come."""

    entries: list[Entry]
    first_token_at: int | None = None
    """When the first text or thought came (ms), where the journal has times."""
    cut: bool = False
    """There is more than `ENTRIES_MAX` entries."""


class _Maker:
    def __init__(self, clock: Clock) -> None:
        self.entries: list[Entry] = []
        self._clock = clock
        self._growing: dict[str, tuple[Entry, list[str]]] = {}
        self._calls: dict[str, Entry] = {}
        self._subagents: dict[str, Entry] = {}

    def add(self, seq: int, what: str, text: str = "", *, name: str = "", of: int | None = None) -> Entry:
        at = self._clock.at(seq)
        entry = Entry(seq=seq, last_seq=seq, what=what, name=name, text=text, of=of, at=at, ended_at=at)
        self.entries.append(entry)
        return entry

    def grow(self, key: str, seq: int, what: str, piece: str, *, name: str = "") -> Entry:
        if key not in self._growing:
            self._growing[key] = (self.add(seq, what, name=name), [])
        entry, pieces = self._growing[key]
        pieces.append(piece)
        entry.last_seq, entry.ended_at = seq, self._clock.at(seq)
        return entry

    def event(self, seq: int, event: e.Event) -> None:
        match event:
            case e.RunStartedEvent():
                self.add(seq, "goes on" if any(it.what == "starts" for it in self.entries) else "starts")
            case e.TextMessageStartEvent(message_id=id):
                self.grow(f"text {id}", seq, "says", "")
            case e.ReasoningMessageStartEvent(message_id=id):
                self.grow(f"thought {id}", seq, "thinks", "")
            case e.TextMessageContentEvent(message_id=id, delta=delta):
                self.grow(f"text {id}", seq, "says", delta)
            case e.ReasoningMessageContentEvent(message_id=id, delta=delta):
                self.grow(f"thought {id}", seq, "thinks", delta)
            case e.ToolCallStartEvent(tool_call_id=id, tool_call_name=name):
                self._calls[id] = self.grow(f"call {id}", seq, "calls", "", name=name)
            case e.ToolCallArgsEvent(tool_call_id=id, delta=delta):
                self.grow(f"call {id}", seq, "calls", delta)
            case e.ToolCallResultEvent(tool_call_id=id, content=content):
                call = self._calls.get(id)
                what = "result" if event.error is None else "error"
                name = id if call is None else call.name
                self.add(seq, what, e.text_of(content), name=name, of=None if call is None else call.seq)
            case e.StepStartedEvent(step_name=name):
                self.add(seq, "step", name=name)
            case e.SubagentStartedEvent(name=name):
                self._subagents[event.subagent_run_id] = self.add(seq, "sub-agent", event.description or "", name=name)
            case e.SubagentFinishedEvent(subagent_run_id=id) if entry := self._subagents.get(id):
                entry.last_seq, entry.ended_at = seq, self._clock.at(seq)
            case e.SubagentErrorEvent(subagent_run_id=id, code=code, message=message):
                self._subagent_failed(seq, id, f"{code}: {message}" if code else message)
            case e.CustomEvent(name=name, value=value):
                what, of, text = _custom(name, value)
                self.add(seq, what, text, name=of)
            case e.RunFinishedEvent(outcome=e.RunFinishedInterruptOutcome(interrupts=asked)):
                self.add(seq, "waits", "; ".join(one.message or one.reason for one in asked))
            case e.RunFinishedEvent(outcome=outcome):
                self.add(seq, "cancelled" if isinstance(outcome, e.RunFinishedCancelledOutcome) else "finished")
            case e.RunErrorEvent(code=code, message=message):
                self.add(seq, "failed", f"{code}: {message}")

    def _subagent_failed(self, seq: int, id: str, text: str) -> None:
        entry = self._subagents.get(id)
        if entry is not None:
            entry.last_seq, entry.ended_at = seq, self._clock.at(seq)
        self.add(seq, "error", text, name=id if entry is None else entry.name, of=None if entry is None else entry.seq)

    def made(self) -> list[Entry]:
        for entry, pieces in self._growing.values():
            entry.text = "".join(pieces)
        for entry in self.entries:
            entry.cut, entry.text = len(entry.text) > TEXT_CHARS_MAX, entry.text[:TEXT_CHARS_MAX]
        return self.entries


def timeline(events: Iterable[tuple[int, e.Event]], times: Sequence[tuple[int, int]] = ()) -> Timeline:
    """Return what happened, of (position, event) pairs in order and the times of the journal's groups. Pieces of a
    text, and of a call's arguments, are one entry, where they began."""
    maker, clock = _Maker(Clock(times)), Clock(times)
    first_token_at, cut, before = None, False, 0
    for seq, event in events:
        if first_token_at is None and isinstance(event, e.TextMessageContentEvent | e.ReasoningMessageContentEvent):
            first_token_at = clock.at(before + 1)  # a merged event has the position of its last part
        before = seq
        if len(maker.entries) >= ENTRIES_MAX:
            cut = True
            break
        maker.event(seq, event)
    return Timeline(entries=maker.made(), first_token_at=first_token_at, cut=cut)


def _custom(name: str, value: Any) -> tuple[str, str, str]:
    """Return what an event that is not AG-UI's own is, of which name, and what it says."""
    fields = value if isinstance(value, dict) else {}
    if name == "gapless.void":
        ids = [*fields.get("messageIds", []), *fields.get("toolCallIds", []), *fields.get("cut", {})]
        return "takes back", "", f"what its lost worker said last: {', '.join(map(str, ids))}"
    if name == "gapless.restarted":
        return "takes back", "", "all: it begins anew at another worker"
    if name == "gapless.notice":
        return "notice", "", f"{fields.get('code', '')}: {fields.get('message', '')}"
    if name == "gapless.file":
        return "file", "", " ".join(str(fields[key]) for key in ("name", "mimeType", "size") if fields.get(key))
    if name == "gapless.artifact":
        return "file", "", f"{fields.get('name')}, version {fields.get('version')}"
    return "event", name, "" if value is None else msgspec.json.encode(value).decode()
