"""What happened in a run, in order, of its events and their times: what `gapless run` prints and the window draws."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gapless import events as e
from gapless.moves import PARKED, Move, Moves

__all__ = ["Clock", "Entry", "Timeline", "TimelineMaker", "timeline"]

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
    within: int | None = None
    """The position of the sub-agent whose work it is a part of."""
    at: int | None = None
    ended_at: int | None = None


class Clock:
    """Knows when an event was accepted: at the time of the last group before it, or its own, that has one."""

    def __init__(self, times: Iterable[tuple[int, int]] = ()) -> None:
        """`times` are (position of a group's first event, ms)."""
        self._seqs: list[int] = []
        self._times: list[int] = []
        self.learn(times)

    def learn(self, times: Iterable[tuple[int, int]]) -> None:
        """Take the times of groups behind those that are known."""
        for seq, at in times:
            self._seqs.append(seq)
            self._times.append(at)

    @property
    def known(self) -> int:
        """Returns the position of the newest group whose time is known, 0 for none."""
        return self._seqs[-1] if self._seqs else 0

    def at(self, seq: int) -> int | None:
        """Return when the event at this position was accepted, in ms; None where that is not known."""
        place = bisect_right(self._seqs, seq)
        return self._times[place - 1] if place else None


class Timeline(msgspec.Struct, kw_only=True):
    """The entries of a run, as far as it has come: to position `last_seq`."""

    entries: list[Entry]
    last_seq: int = 0
    first_token_at: int | None = None
    """When the first text or thought came (ms), where the journal has times."""
    waited_ms: int = 0
    """How long it had waited for people until then."""
    cut: bool = False
    """There is more than `ENTRIES_MAX` entries."""
    moves: list[Move] = []
    """How the run came from worker to worker, each behind the entries that began up to its position."""
    moves_left_out: int = 0
    """There were so many more before them."""
    worker: str = ""
    """Who had it before the first of them; "" where some are left out."""

    def moved(self, kept: Moves, owner: str) -> Timeline:
        """Return it with what the store has kept of the run's moves, up to where it has come; `owner` has a run without
        any. A move behind that is one of the next time, at its place among the entries of that time."""
        self.moves = [move for move in kept.moves if self.cut or move.seq <= self.last_seq]
        self.moves_left_out = kept.left_out
        first = kept.moves[0].from_worker if kept.moves else owner
        self.worker = "" if kept.left_out else first
        return self

    def in_order(self) -> list[Entry | Move]:
        """Return entries and moves, each move behind the entries that began before it."""
        return sorted([*self.entries, *self.moves], key=lambda it: (it.seq, isinstance(it, Move)))

    def without_workers(self) -> Timeline:
        """Return it as users see it, who are not told of workers: nor that no worker had the run while it waited."""
        moves = [
            Move(seq=move.seq, what=move.what, at=move.at, ended_at=move.ended_at)
            for move in self.moves
            if move.what != PARKED
        ]
        return msgspec.structs.replace(self, moves=moves, worker="")


class TimelineMaker:
    """Makes the timeline of a run's events, as they come."""

    def __init__(self, clock: Clock | None = None) -> None:
        """`clock` knows when events were accepted; it may be told of more on the way."""
        self.entries: list[Entry] = []
        self.clock = clock or Clock()
        self.last_seq = 0
        """The position of the newest event that was added."""
        self.cut = False
        """There is no room for more."""
        self._first_token_at: int | None = None
        self._has_said_something = False
        self._waits_since: int | None = None
        self._waited_ms = 0
        self._growing: dict[str, tuple[Entry, list[str]]] = {}
        self._calls: dict[str, Entry] = {}
        self._subagents: dict[str, Entry] = {}
        self._within: int | None = None

    def extend(self, events: Iterable[tuple[int, e.Event]]) -> None:
        """Add the events behind those that were added, as (position, event); a merged one has that of its last part."""
        for seq, event in events:
            if isinstance(event, e.TextMessageContentEvent | e.ReasoningMessageContentEvent):
                if not self._has_said_something:
                    self._first_token_at = self.clock.at(self.last_seq + 1)
                self._has_said_something = True
            self.last_seq = seq
            if len(self.entries) >= ENTRIES_MAX:
                self.cut = True
                return
            self._within = self._subagent_of(event)
            self.event(seq, event)

    def _subagent_of(self, event: e.Event) -> int | None:
        """Return the position of the sub-agent that an event is of, None for the agent's own."""
        is_one = isinstance(event, e.SubagentStartedEvent | e.SubagentFinishedEvent | e.SubagentErrorEvent)
        id = getattr(event, "parent_subagent_run_id" if is_one else "subagent_run_id", None)
        entry = self._subagents.get(id) if isinstance(id, str) else None
        return None if entry is None else entry.seq

    def timeline(self, after: int = 0) -> Timeline:
        """Return the entries of which something came behind position `after`, with what else there is to be said."""
        for entry, pieces in self._growing.values():
            if entry.last_seq > after:
                entry.text = "".join(pieces)[: TEXT_CHARS_MAX + 1]
                pieces[:] = [entry.text]
        changed = [msgspec.structs.replace(entry) for entry in self.entries if entry.last_seq > after]
        for entry in changed:
            entry.cut, entry.text = len(entry.text) > TEXT_CHARS_MAX, entry.text[:TEXT_CHARS_MAX]
        return Timeline(
            entries=changed,
            last_seq=self.last_seq,
            first_token_at=self._first_token_at,
            waited_ms=self._waited_ms,
            cut=self.cut,
        )

    def add(self, seq: int, what: str, text: str = "", *, name: str = "", of: int | None = None) -> Entry:
        at = self.clock.at(seq)
        entry = Entry(
            seq=seq, last_seq=seq, what=what, name=name, text=text, of=of, within=self._within, at=at, ended_at=at
        )
        self.entries.append(entry)
        return entry

    def grow(self, key: str, seq: int, what: str, piece: str, *, name: str = "") -> Entry:
        if key not in self._growing:
            self._growing[key] = (self.add(seq, what, name=name), [])
        entry, pieces = self._growing[key]
        pieces.append(piece)
        entry.last_seq, entry.ended_at = seq, self.clock.at(seq)
        return entry

    def event(self, seq: int, event: e.Event) -> None:
        match event:
            case e.RunStartedEvent():
                self._goes_on(seq)
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
                entry.last_seq, entry.ended_at = seq, self.clock.at(seq)
            case e.SubagentErrorEvent(subagent_run_id=id, code=code, message=message):
                self._subagent_failed(seq, id, f"{code}: {message}" if code else message)
            case e.CustomEvent(name=name, value=value):
                what, of, text = _custom(name, value)
                self.add(seq, what, text, name=of)
            case e.RunFinishedEvent(outcome=e.RunFinishedInterruptOutcome(interrupts=asked)):
                self._waits_since = self.clock.at(seq)
                self.add(seq, "waits", "; ".join(one.message or one.reason for one in asked))
            case e.RunFinishedEvent(outcome=outcome):
                self.add(seq, "cancelled" if isinstance(outcome, e.RunFinishedCancelledOutcome) else "finished")
            case e.RunErrorEvent(code=code, message=message):
                self.add(seq, "failed", f"{code}: {message}")

    def _goes_on(self, seq: int) -> None:
        now, since = self.clock.at(seq), self._waits_since
        if now is not None and since is not None and not self._has_said_something:
            self._waited_ms += max(0, now - since)
        self._waits_since = None
        self.add(seq, "goes on" if any(it.what == "starts" for it in self.entries) else "starts")

    def _subagent_failed(self, seq: int, id: str, text: str) -> None:
        entry = self._subagents.get(id)
        if entry is not None:
            entry.last_seq, entry.ended_at = seq, self.clock.at(seq)
            self._within = entry.within
        self.add(seq, "error", text, name=id if entry is None else entry.name, of=None if entry is None else entry.seq)


def timeline(events: Iterable[tuple[int, e.Event]], times: Sequence[tuple[int, int]] = ()) -> Timeline:
    """Return what happened, of (position, event) pairs in order and the times of the journal's groups. Pieces of a
    text, and of a call's arguments, are one entry, where they began."""
    maker = TimelineMaker(Clock(times))
    maker.extend(events)
    return maker.timeline()


def _custom(name: str, value: Any) -> tuple[str, str, str]:
    """Return what an event that is not AG-UI's own is, of which name, and what it says."""
    fields = value if isinstance(value, dict) else {}
    if name == "gapless.void":
        ids = [*fields.get("messageIds", []), *fields.get("toolCallIds", []), *fields.get("cut", {})]
        return "takes back", "", f"what the worker before said last: {', '.join(map(str, ids))}"
    if name == "gapless.restarted":
        return "takes back", "", "all: it begins anew at another worker"
    if name == "gapless.notice":
        return "notice", "", f"{fields.get('code', '')}: {fields.get('message', '')}"
    if name == "gapless.file":
        return "file", "", " ".join(str(fields[key]) for key in ("name", "mimeType", "size") if fields.get(key))
    if name == "gapless.artifact":
        return "file", "", f"{fields.get('name')}, version {fields.get('version')}"
    return "event", name, "" if value is None else msgspec.json.encode(value).decode()
