"""From what an agent yields to a legal sequence of stored events.

Followers' clients check AG-UI's order at all times, and an agent need not know it. So the recorder opens messages
before their content, expands chunks, closes what is open before the run ends, and keeps the fold of it all for the
session. It runs once per event: plain text takes the short way.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Collection
from functools import cache
from typing import Any, Protocol, get_args

import msgspec

from gapless.agents.base import AgentItem
from gapless.config import Limits
from gapless.errors import AgentInvalid, GaplessError, RunCancelled, RunFenced, RunLimit
from gapless.events import (
    ActivitySnapshotEvent,
    CustomEvent,
    Event,
    EventBase,
    Message,
    MessagesSnapshotEvent,
    ReasoningMessageContentEvent,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    delta_head,
    encode_event,
)
from gapless.fold import CONTINUES, LEFT, RESTARTED, VOID, Fold, Parts
from gapless.halves import DELTAS, Halves, JoinedDeltas
from gapless.jsontext import with_plain_lines
from gapless.records import now_ms
from gapless.runs.deltas import DeltasOf
from gapless.runs.order import BESIDE_TEXT, CHUNKS, OPEN_MAX, Order
from gapless.runs.sound import sound

__all__ = ["Recorder"]

PROTOCOL_VERSION = "1.0"
"""The AG-UI that is spoken."""
_encode_text = msgspec.json.Encoder().encode

_TEXT_SPLIT_FACTOR = 8
"""A character takes at most 6 bytes of JSON; so much of a text surely fits one event of `event_bytes_max`."""


@cache
def _text_chars_max(event_bytes_max: int) -> int:
    """Return so much of a text as surely fits one event: one and the same number for all runs, which is at hand."""
    return event_bytes_max // _TEXT_SPLIT_FACTOR


class Log(Protocol):
    """Is what a recorder writes to: a run's journal. `size_bytes` is of all that was handed to it."""

    appended: int

    @property
    def size_bytes(self) -> int: ...

    def append(self, event: bytes) -> None: ...


class Nowhere:
    """Counts what is written, from where the `log` stands on, and keeps none of it."""

    def __init__(self, log: Log) -> None:
        self.appended, self.size_bytes = log.appended, log.size_bytes

    def append(self, event: bytes) -> None:
        self.appended += 1
        self.size_bytes += len(event)


class _Touched:
    """Has what each word touches, side by side, as `Journal` has."""

    __slots__ = ("_deltas", "_journal", "_more_head", "_text_chars_max", "_text_parts", "_unchecked_until")


class Recorder(_Touched):
    """Writes one run's events to its journal."""

    __slots__ = (
        "_barred",
        "_bytes_max",
        "_cut_id",
        "_events_max",
        "_halves",
        "_joined",
        "_limits",
        "_messages",
        "_order",
        "_paused",
        "_sealed",
        "_text_head",
        "_text_id",
        "failure",
        "finish",
        "fold",
        "limits",
        "run_id",
        "session_id",
        "setting_aside",
    )

    def __init__(self, journal: Log, run_id: str, session_id: str, limits: Limits) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.fold = Fold()
        self.failure: RunErrorEvent | None = None
        """Set when the agent itself yielded RUN_ERROR."""
        self.finish: RunFinishedEvent | None = None
        """Set when the agent itself yielded RUN_FINISHED."""
        self.setting_aside = asyncio.Lock()
        """Held while something large is set aside: its agent has said it, and it is not recorded yet."""
        self._journal = journal
        self.limits = self._limits = limits
        self._events_max, self._bytes_max = limits.journal_events_max, limits.journal_bytes_max
        self._order = Order(run_id)
        self._messages = 0
        self._text_id: str | None = None
        """The message that plain text goes to."""
        self._text_head = b""
        self._more_head: bytes | None = None
        """The same, while more plain text may go the short way: the message is open, no half a character waits, and
        nothing bars it."""
        self._text_parts = Parts()
        self._cut_id: str | None = None
        """The message that plain text went to when another worker was lost, and goes on with."""
        self._halves = Halves()
        self._joined = JoinedDeltas()
        self._deltas: DeltasOf | None = None
        """What the last event was a delta of, which the next one mostly is too."""
        self._text_chars_max = _text_chars_max(limits.event_bytes_max)
        self._unchecked_until = 0
        """Up to this position, deltas that go the short way cannot bring the journal over its limits."""
        self._sealed = False
        self._paused = False
        """Record that the run waits for a person: RUN_FINISHED with the interrupt outcome came last."""
        self._barred = False
        """Sealed or paused: nothing is taken from the agent."""

    def trial(self) -> Recorder:
        """Return a recorder that stands where this one does and writes nowhere: what it takes, this one takes, and what
        it raises, this one would."""
        trial = Recorder(Nowhere(self._journal), self.run_id, self.session_id, self.limits)
        trial._order, trial._halves, trial._joined = self._order.copy(), self._halves.copy(), self._joined.copy()
        trial._messages, trial._text_id, trial._text_head = self._messages, self._text_id, self._text_head
        trial._sealed, trial._paused, trial._barred = self._sealed, self._paused, self._barred
        return trial

    # -- what agents yield ------------------------------------------------------------------------------------------

    def add(self, item: AgentItem) -> None:
        """Record one item. Raises `AgentInvalid` for anything that is neither text nor a sound event, and for anything
        while the run waits for an answer, `RunLimit`.

        Once sealed it raises `RunFenced`: an agent that was left behind may go on, its run has ended."""
        head = self._more_head
        if head is not None and type(item) is str and len(item) <= self._text_chars_max:  # as most are
            try:
                text = _encode_text(item)
            except UnicodeEncodeError:
                self._add(item)
            else:
                self._text_parts.append(item)
                if not text.isascii():
                    text = with_plain_lines(text)
                self._journal.append(head + text + b"}")
        elif (deltas := self._deltas) is not None and (encoded := deltas.more(item)) is not None:
            self._journal.append(encoded)
        else:
            self._add(item)
        if self._journal.appended > self._unchecked_until:
            self._check_limits()

    def _add(self, item: AgentItem) -> None:
        """Record one item by the long way, which opens the short one where more may go it."""
        if self._barred:
            self.check_open()
        self._more_head = None
        if type(item) is str:
            self._text(item)
        elif isinstance(item, EventBase):
            self._event(item)
        elif isinstance(item, str):
            self._text(str(item))
        else:
            raise AgentInvalid(
                f"run {self.run_id}: the agent yielded {type(item).__name__}, not str or an event of gapless.events"
            )
        if self._text_id is not None and not (self._halves.half or self._barred):
            self._more_head = self._text_head

    def _check_limits(self) -> None:
        """Look whether the journal is over its limits, and gather what has come since the last time. Raises
        `RunLimit`."""
        self._text_parts.gather()
        if self._deltas is not None:
            self._deltas.parts.gather()
        appended, size = self._journal.appended, self._journal.size_bytes
        if appended > self._events_max:
            raise RunLimit(f"run {self.run_id}: more than journal_events_max={self._events_max} events")
        if size > self._bytes_max:
            raise RunLimit(f"run {self.run_id}: more than journal_bytes_max={self._bytes_max} bytes")
        more = (self._bytes_max - size) // self._limits.event_bytes_max
        self._unchecked_until = min(self._events_max, appended + more)

    def check_open(self) -> None:
        """Raises `RunFenced` when the run has ended, `AgentInvalid` while it waits for an answer."""
        self.check_sealed()
        if self._paused:
            raise AgentInvalid(f"run {self.run_id}: the agent goes on while the run waits for an answer already")

    def check_sealed(self) -> None:
        """Raises `RunFenced` when the run has ended."""
        if self._sealed:
            raise RunFenced(f"run {self.run_id} has ended", run_id=self.run_id)

    def _text(self, delta: str) -> None:
        if self._text_id is None:
            if not delta:
                return
            self._open_text()
        try:
            encoded = _encode_text(delta)
        except UnicodeEncodeError:
            delta = self._halves.feed(delta)
            if not delta:
                return
            encoded = _encode_text(delta)
        else:
            if self._halves.half:
                delta = self._halves.end() + delta
                encoded = _encode_text(delta)
        if len(encoded) > self._text_chars_max and len(delta) > self._text_chars_max:
            for start in range(0, len(delta), self._text_chars_max):
                self._text(delta[start : start + self._text_chars_max])
            return
        self._text_parts.append(delta)
        if not encoded.isascii():
            encoded = with_plain_lines(encoded)
        self._journal.append(self._text_head + encoded + b"}")

    def _open_text(self) -> None:
        self._deltas = None
        self._messages += 1
        message_id = f"{self.run_id}-{self._messages}"
        metadata = None if self._cut_id is None else {CONTINUES: self._cut_id}
        start = TextMessageStartEvent(message_id=message_id, role="assistant", metadata=metadata)
        self._write_own(self._order.admit(start))
        self._check_count()
        self._cut_id = None
        self._text_id = message_id
        self._text_head = delta_head(TextMessageContentEvent, message_id)
        self._text_parts = self.fold.text_parts(message_id)

    def _close_text(self) -> None:
        if rest := self._halves.end():
            self._text(rest)
        if self._text_id is not None:
            message_id, self._text_id, self._more_head = self._text_id, None, None
            self._write_own(self._order.close("text", message_id))

    def _event(self, event: Event) -> None:
        self._deltas = None
        kind = type(event)
        if kind not in _KINDS:  # an agent's own subclass is recorded as what it is a kind of
            event, _ = self._sound(event)
            kind = type(event)
        if kind is RunStartedEvent:
            return
        if kind in CHUNKS:
            ends, events = self._order.expand(event)
            self._write_own(ends)
            for one in events:
                self._event(one)
            return
        if isinstance(event, RunFinishedEvent):
            self.finish = event
        elif isinstance(event, RunErrorEvent):
            self.failure = event
        elif kind in DELTAS:
            joined = self._joined.join(event)  # type: ignore[arg-type]  # it is one
            if joined is event or joined.delta:  # else it is half a character, whose other half comes next
                self._admit(joined)
                if not self._joined.waiting and (parts := self.fold.delta_parts(joined)) is not None:
                    self._deltas = DeltasOf(joined, parts, self._limits.event_bytes_max)
        else:
            if self._joined.waiting:
                for rest in self._joined.end(event):
                    self._admit(rest)
            self._admit(event)

    def _admit(self, event: Event) -> None:
        accepted = self._check(event)  # before anything is held open that only its end could close
        event = accepted[0][0]
        if type(event) not in BESIDE_TEXT:
            self._close_text()
            self._cut_id = None
        for one in self._order.admit(event):
            if one is event:
                for part in accepted:
                    self._write(*part)
            else:
                self._write_own([one])
        self._check_count()

    def _check_count(self) -> None:
        if len(self._order) > OPEN_MAX:
            raise RunLimit(f"run {self.run_id}: more than {OPEN_MAX} messages, calls and steps are open at once")

    def _put(self, event: Event) -> None:
        for part in self._check(event):
            self._write(*part)

    def _check(self, event: Event) -> list[tuple[Event, bytes]]:
        """Return the event as it will be read, with its JSON; in several parts where it is a delta over the limit.
        Raises `AgentInvalid`, `RunLimit`.
        """
        event, encoded = self._sound(event)
        if len(encoded) <= self._limits.event_bytes_max:
            return [(event, encoded)]
        if isinstance(event, TextMessageContentEvent | ToolCallArgsEvent | ReasoningMessageContentEvent):
            bare = len(encode_event(msgspec.structs.replace(event, delta="")))
            if len(event.delta) > 1 and 2 * bare < self._limits.event_bytes_max:
                half = len(event.delta) // 2
                deltas = event.delta[:half], event.delta[half:]
                return [part for delta in deltas for part in self._check(msgspec.structs.replace(event, delta=delta))]
        raise RunLimit(
            f"run {self.run_id}: a {type(event).__name__} of {len(encoded)} bytes is over "
            f"event_bytes_max={self._limits.event_bytes_max}"
        )

    def _sound(self, event: Event) -> tuple[Event, bytes]:
        try:
            return sound(event)
        except AgentInvalid as error:
            error.run_id = self.run_id
            raise

    def _write_own(self, events: list[Event]) -> None:
        """Write what was made here, of parts that are sound and within the limits: it need not be read back."""
        for event in events:
            self._write(event, with_plain_lines(encode_event(event)))

    def _write(self, event: Event, encoded: bytes) -> None:
        self._unchecked_until = 0
        self.fold.add(event)
        self._journal.append(encoded)

    # -- the run's frame --------------------------------------------------------------------------------------------

    def start(self, timestamp: int, resume: list[ResumeEntry] | None = None) -> None:
        """Begin the run, or go on with these answers to what it asked."""
        answers = None
        if resume:
            answers = RunAgentInput(
                thread_id=self.session_id,
                run_id=self.run_id,
                messages=[],
                protocol_version=PROTOCOL_VERSION,
                state={},
                tools=[],
                context=[],
                forwarded_props={},
                resume=resume,
            )  # clients of versions before 1.0 want all of these
        started = RunStartedEvent(
            thread_id=self.session_id,
            run_id=self.run_id,
            timestamp=timestamp,
            input=answers,
            protocol_version=PROTOCOL_VERSION,
        )
        if resume:
            self._put(started)
        else:
            self._write_own([started])
        self._paused, self._barred = False, self._sealed

    def restart(self, messages: list[Message], state: dict[str, Any]) -> None:
        """Begin anew after another worker's loss. `messages` and `state`, without what the void answer made of them,
        are what clients that keep these are to have now."""
        had_state, void = self.fold.state is not None, self.fold.said
        self.close_open()
        restarted = {"restarts": self.fold.restarts + 1, **msgspec.to_builtins(void)}
        self._write(*sound(CustomEvent(name=RESTARTED, value=restarted)))  # however much it names
        if had_state:
            self.leave_state(state)
        self._write(*sound(MessagesSnapshotEvent(messages=messages)))  # however long the conversation is

    def go_back(self, messages: list[Message], state: dict[str, Any], half: Collection[str] = ()) -> None:
        """Take back, by name, what a lost worker said after the mark of the fold, and what of `half` it said before it;
        nothing where that is nothing. `messages` are those before the run, `state` the session's."""
        fold = self.fold
        void, activities = fold.since_mark(half), fold.changed_activities
        state_before, state_changed = fold.marked_state, fold.state != fold.marked_state
        if not (void or activities or state_changed):
            return
        cut_id = self._text_id
        self.close_open()
        self._write(*sound(CustomEvent(name=VOID, value=msgspec.to_builtins(void))))  # however much it names
        if state_changed:
            self.leave_state(state if state_before is None else state_before)
        for one in activities:
            self._put(
                ActivitySnapshotEvent(
                    message_id=one.id, activity_type=one.activity_type, content=one.content, replace=True
                )
            )
        self._write(*sound(MessagesSnapshotEvent(messages=[*messages, *fold.messages()])))
        self._cut_id = cut_id if cut_id is not None and fold.has_said(cut_id) else None

    def go_on(self) -> None:
        """Go on where another worker left: ids do not come again, and plain text joins the message it belongs to."""
        self._messages = self._journal.appended
        open_text = self._order.open_text()
        if open_text is not None and re.fullmatch(rf"{re.escape(self.run_id)}-\d+", open_text):
            self._text_id = open_text
            self._text_head = delta_head(TextMessageContentEvent, open_text)
            self._text_parts = self.fold.text_parts(open_text)

    def resume(self, event: Event) -> None:
        """Take up an event that another worker recorded, to know what is open and what it amounts to."""
        self._order.resume(event)
        if isinstance(event, RunStartedEvent | RunFinishedEvent):
            self._paused = self._barred = isinstance(event, RunFinishedEvent)
            self._more_head = self._deltas = None
        self.fold.add(event)

    def put(self, event: Event) -> None:
        """Record an event of the runner's own, after closing what is open."""
        self.close_open()
        self._put(event)

    def seal(self) -> None:
        """Take nothing more from the agent."""
        self._sealed = self._barred = True
        self._more_head = self._deltas = None

    def pause(self, event: RunFinishedEvent) -> None:
        """Record that the run waits for a person: RUN_FINISHED with the interrupt outcome, and not the last of its
        events.
        """
        self.put(event)
        self._paused = self._barred = True

    def close_open(self) -> None:
        """End every message, call and step that is open, innermost first: nothing may be open when a run ends."""
        if self._paused:  # it ends without having gone on
            self.start(now_ms())
        self._deltas = None
        self._close_text()
        self._write_own(self._order.close_all())

    def end(self, failure: GaplessError | None) -> None:
        """End what is open. Where the run was cut short, the calls that had no result are told to have failed: a client
        would wait for them, or show a question that nobody can answer."""
        self.close_open()
        if failure is None:
            return
        how = "was cancelled" if isinstance(failure, RunCancelled) else "failed"
        why = f"the run {how} before this call had a result"
        for number, id in enumerate(self.fold.unanswered(), 1):
            message_id = f"{self.run_id}-left-{number}"
            result = ToolCallResultEvent(
                message_id=message_id, tool_call_id=id, content=why, role="tool", error=why, metadata=dict(LEFT)
            )
            self._write(*sound(result))

    def leave_state(self, state: dict[str, Any]) -> None:
        """Record the session's state as the run leaves it: clients that keep the state send theirs back with the next
        message. One over the limit of an event is kept all the same, and not told.
        """
        with contextlib.suppress(RunLimit):
            self._put(StateSnapshotEvent(snapshot=state))


_KINDS = frozenset(get_args(Event))
