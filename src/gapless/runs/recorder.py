"""From what an agent yields to a legal sequence of stored events.

Followers' clients check AG-UI's order at all times, and an agent need not know it. So the recorder opens messages
before their content, expands chunks, closes what is open before the run ends, and keeps the fold of it all for the
session. It runs once per event: plain text takes the short way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import msgspec

from gapless.agents.base import AgentItem
from gapless.config import Limits
from gapless.errors import AgentInvalid, RunFenced, RunLimit
from gapless.events import (
    CustomEvent,
    Event,
    EventBase,
    Message,
    MessagesSnapshotEvent,
    ReasoningEncryptedValueEvent,
    ReasoningEndEvent,
    ReasoningMessageChunkEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
    delta_head,
    encode_event,
)
from gapless.fold import RESTARTED, Fold
from gapless.journals.journal import Journal
from gapless.jsontext import DEPTH_MAX, is_deep, with_plain_lines

__all__ = ["Recorder", "sound"]

_encode_text = msgspec.json.Encoder().encode
_EventT = TypeVar("_EventT", bound=EventBase)

OPEN_MAX = 1000
"""Messages, calls, steps and the like that a run may have open at once: all are closed in one go when it ends."""
_TEXT_SPLIT_FACTOR = 8
"""A character takes at most 6 bytes of JSON; so much of a text surely fits one event of `event_bytes_max`."""


class Recorder:
    """Writes one run's events to its journal."""

    def __init__(self, journal: Journal, run_id: str, session_id: str, limits: Limits) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.fold = Fold()
        self.failure: RunErrorEvent | None = None
        """Set when the agent itself yielded RUN_ERROR."""
        self.finish: RunFinishedEvent | None = None
        """Set when the agent itself yielded RUN_FINISHED."""
        self._journal = journal
        self._limits = limits
        self._append = journal.append
        self._open: dict[tuple[str, str], Event] = {}
        """What is open, with the event that closes it; insertion order is nesting order."""
        self._messages = 0
        self._text_id: str | None = None
        """The message that plain text goes to."""
        self._text_head = b""
        self._text_parts: list[str] = []
        self._carry = ""
        self._text_chars_max = limits.event_bytes_max // _TEXT_SPLIT_FACTOR
        self._chunk: dict[type, str] = {}
        self._own_spans: set[str] = set()
        """Reasoning spans that were opened here because the agent did not."""
        self._ended_span: str | None = None
        """One of them whose message has ended: it ends before the next thing that is no reasoning."""
        self._sealed = False
        self._paused = False
        """The run waits for a person: RUN_FINISHED with the interrupt outcome came last."""
        self._barred = False
        """Sealed or paused: nothing is taken from the agent."""

    # -- what agents yield ------------------------------------------------------------------------------------------

    def add(self, item: AgentItem) -> None:
        """Record one item. Raises `AgentInvalid` for anything that is neither text nor a sound event, and for anything
        while the run waits for an answer, `RunLimit`.

        Once sealed it raises `RunFenced`: an agent that was left behind may go on, its run has ended."""
        if self._barred:
            self.check_open()
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
        if self._journal.appended > self._limits.journal_events_max:
            raise RunLimit(f"run {self.run_id}: more than journal_events_max={self._limits.journal_events_max} events")
        if self._journal.size_bytes > self._limits.journal_bytes_max:
            raise RunLimit(f"run {self.run_id}: more than journal_bytes_max={self._limits.journal_bytes_max} bytes")

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
            delta = self._join_surrogates(delta)
            if not delta:
                return
            encoded = _encode_text(delta)
        else:
            if self._carry:
                delta, self._carry = "\ufffd" + delta, ""
                encoded = _encode_text(delta)
        if len(encoded) > self._text_chars_max and len(delta) > self._text_chars_max:
            for start in range(0, len(delta), self._text_chars_max):
                self._text(delta[start : start + self._text_chars_max])
            return
        self._text_parts.append(delta)
        if not encoded.isascii():
            encoded = with_plain_lines(encoded)
        self._append(self._text_head + encoded + b"}")

    def _end_span(self) -> None:
        if self._ended_span is not None:
            span, self._ended_span = self._ended_span, None
            self._close("span", span)

    def _open_text(self) -> None:
        self._end_span()
        self._messages += 1
        self._text_id = message_id = f"{self.run_id}-{self._messages}"
        self._put(TextMessageStartEvent(message_id=message_id, role="assistant"))
        self._open["text", message_id] = TextMessageEndEvent(message_id=message_id)
        self._text_head = delta_head(TextMessageContentEvent, message_id)
        self._text_parts = self.fold.text_parts(message_id)

    def _close_text(self) -> None:
        if self._carry:
            self._carry = ""
            self._text("\ufffd")
        if self._text_id is not None:
            message_id, self._text_id = self._text_id, None
            self._close("text", message_id)

    def _join_surrogates(self, delta: str) -> str:
        """Join a surrogate pair that was split over two deltas; a lone surrogate becomes U+FFFD."""
        text = (self._carry + delta).encode("utf-16-le", "surrogatepass")
        self._carry = ""
        if text[-2:] and 0xD8 <= text[-1] <= 0xDB:  # a high surrogate: its other half may come next
            self._carry = text[-2:].decode("utf-16-le", "surrogatepass")
            text = text[:-2]
        return text.decode("utf-16-le", "replace")

    def _event(self, event: Event) -> None:
        kind = type(event)
        if kind not in _KINDS:  # an agent's own subclass is recorded as what it is a kind of
            event, _ = self._sound(event)
            kind = type(event)
        expand = _EXPAND.get(kind)
        if expand is not None:
            expand(self, event)
            return
        accepted = self._check(event)  # before anything is held open that only its end could close
        event = accepted[0][0]
        self._end_chunks(kind)
        if kind not in _REASONING:
            self._end_span()
        if kind not in _BESIDE_TEXT:
            self._close_text()
        prepare = _PREPARE.get(kind)
        if prepare is not None and not prepare(self, event):
            return
        for part in accepted:
            self._write(*part)
        if len(self._open) > OPEN_MAX:
            raise RunLimit(f"run {self.run_id}: more than {OPEN_MAX} messages, calls and steps are open at once")
        if isinstance(event, ReasoningMessageEndEvent) and event.message_id in self._own_spans:
            self._ended_span = event.message_id

    def _put(self, event: Event) -> None:
        for part in self._check(event):
            self._write(*part)

    def _check(self, event: Event) -> list[tuple[Event, bytes]]:
        """The event as it will be read, with its JSON; in several parts where it is a delta over the limit. Raises
        `AgentInvalid`, `RunLimit`."""
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

    def _write(self, event: Event, encoded: bytes) -> None:
        self.fold.add(event)
        self._append(encoded)

    # -- keeping AG-UI's order --------------------------------------------------------------------------------------

    def _close(self, kind: str, id: str) -> None:
        closing = self._open.pop((kind, id), None)
        if closing is not None:
            self._write(*sound(closing))  # it says little more than what opened it, which was within the limit

    def _ensure_text(self, event: TextMessageContentEvent) -> bool:
        if ("text", event.message_id) not in self._open:
            subagent = event.subagent_run_id
            self._event(TextMessageStartEvent(message_id=event.message_id, role="assistant", subagent_run_id=subagent))
        return True

    def _text_started(self, event: TextMessageStartEvent) -> bool:
        if ("text", event.message_id) in self._open:
            return False
        end = TextMessageEndEvent(message_id=event.message_id, subagent_run_id=event.subagent_run_id)
        self._open["text", event.message_id] = end
        return True

    def _ensure_reasoning(self, event: ReasoningMessageContentEvent) -> bool:
        if ("reasoning", event.message_id) not in self._open:
            subagent = event.subagent_run_id or msgspec.UNSET
            self._event(ReasoningMessageStartEvent(message_id=event.message_id, subagent_run_id=subagent))
        return True

    def _reasoning_started(self, event: ReasoningMessageStartEvent) -> bool:
        if ("reasoning", event.message_id) in self._open:
            return False
        subagent = event.subagent_run_id or None
        if not any(kind == "span" for kind, _ in self._open):
            self._event(ReasoningStartEvent(message_id=event.message_id, subagent_run_id=subagent))
            self._own_spans.add(event.message_id)
        end = ReasoningMessageEndEvent(message_id=event.message_id, subagent_run_id=subagent)
        self._open["reasoning", event.message_id] = end
        return True

    def _span_started(self, event: ReasoningStartEvent) -> bool:
        if ("span", event.message_id) in self._open:
            return False
        end = ReasoningEndEvent(message_id=event.message_id, subagent_run_id=event.subagent_run_id)
        self._open["span", event.message_id] = end
        return True

    def _call_started(self, event: ToolCallStartEvent) -> bool:
        if ("call", event.tool_call_id) in self._open:
            return False
        end = ToolCallEndEvent(tool_call_id=event.tool_call_id, subagent_run_id=event.subagent_run_id)
        self._open["call", event.tool_call_id] = end
        return True

    def _ensure_call(self, event: ToolCallArgsEvent) -> bool:
        if ("call", event.tool_call_id) not in self._open:
            raise AgentInvalid(f"run {self.run_id}: TOOL_CALL_ARGS for {event.tool_call_id}, which was not started")
        return True

    def _call_result(self, event: ToolCallResultEvent) -> bool:
        self._close("call", event.tool_call_id)
        return True

    def _step_started(self, event: StepStartedEvent) -> bool:
        if ("step", event.step_name) in self._open:
            return False
        end = StepFinishedEvent(step_name=event.step_name, subagent_run_id=event.subagent_run_id)
        self._open["step", event.step_name] = end
        return True

    def _subagent_started(self, event: SubagentStartedEvent) -> bool:
        id = event.subagent_run_id
        if ("subagent", id) in self._open:
            return False
        self._open["subagent", id] = SubagentErrorEvent(
            subagent_run_id=id, message="the run ended before the subagent did", code="run_ended"
        )
        return True

    def _own_finish(self, event: RunFinishedEvent) -> None:
        self.finish = event

    def _own_error(self, event: RunErrorEvent) -> None:
        self.failure = event

    # -- chunks: the shorthand without starts and ends --------------------------------------------------------------

    def _text_chunk(self, event: TextMessageChunkEvent) -> None:
        id = event.message_id or self._chunk.get(TextMessageChunkEvent)
        if id is None:
            raise AgentInvalid(f"run {self.run_id}: the first TEXT_MESSAGE_CHUNK of a message needs its messageId")
        self._switch_chunk(TextMessageChunkEvent, id)
        if ("text", id) not in self._open:
            self._event(
                TextMessageStartEvent(
                    message_id=id,
                    role=event.role or "assistant",
                    name=event.name,
                    subagent_run_id=event.subagent_run_id,
                )
            )
        if event.delta:
            self._event(
                TextMessageContentEvent(message_id=id, delta=event.delta, subagent_run_id=event.subagent_run_id)
            )
        self._chunk[TextMessageChunkEvent] = id

    def _call_chunk(self, event: ToolCallChunkEvent) -> None:
        id = event.tool_call_id or self._chunk.get(ToolCallChunkEvent)
        if id is None:
            raise AgentInvalid(f"run {self.run_id}: the first TOOL_CALL_CHUNK of a call needs its toolCallId")
        self._switch_chunk(ToolCallChunkEvent, id)
        if ("call", id) not in self._open:
            if event.tool_call_name is None:
                raise AgentInvalid(f"run {self.run_id}: the first TOOL_CALL_CHUNK of a call needs its toolCallName")
            self._event(
                ToolCallStartEvent(
                    tool_call_id=id,
                    tool_call_name=event.tool_call_name,
                    parent_message_id=event.parent_message_id,
                    subagent_run_id=event.subagent_run_id,
                )
            )
        if event.delta:
            self._event(ToolCallArgsEvent(tool_call_id=id, delta=event.delta, subagent_run_id=event.subagent_run_id))
        self._chunk[ToolCallChunkEvent] = id

    def _reasoning_chunk(self, event: ReasoningMessageChunkEvent) -> None:
        id = event.message_id or self._chunk.get(ReasoningMessageChunkEvent)
        if id is None:
            raise AgentInvalid(f"run {self.run_id}: the first REASONING_MESSAGE_CHUNK needs its messageId")
        self._switch_chunk(ReasoningMessageChunkEvent, id)
        if event.delta:
            self._event(
                ReasoningMessageContentEvent(message_id=id, delta=event.delta, subagent_run_id=event.subagent_run_id)
            )
        self._chunk[ReasoningMessageChunkEvent] = id

    def _switch_chunk(self, kind: type, id: str) -> None:
        """A chunk of another message or kind ends the one before it."""
        for other, other_id in tuple(self._chunk.items()):
            if other is not kind or other_id != id:
                del self._chunk[other]
                self._close(_CHUNK_KIND[other], other_id)
                if other is ReasoningMessageChunkEvent:
                    self._close("span", other_id)

    def _end_chunks(self, kind: type) -> None:
        if self._chunk and kind not in _WITHIN_CHUNK:
            self._switch_chunk(type(None), "")

    # -- the run's frame --------------------------------------------------------------------------------------------

    def start(self, timestamp: int, resume: list[ResumeEntry] | None = None) -> None:
        """The run begins, or goes on with these answers to what it asked."""
        answers = None
        if resume:
            answers = RunAgentInput(thread_id=self.session_id, run_id=self.run_id, messages=[], resume=resume)
        started = RunStartedEvent(thread_id=self.session_id, run_id=self.run_id, timestamp=timestamp, input=answers)
        self._put(started)
        self._paused, self._barred = False, self._sealed

    def restart(self, messages: list[Message], state: dict[str, Any]) -> None:
        """Begin anew after another worker's loss. `messages` and `state`, without what the void answer made of them,
        are what clients that keep these are to have now."""
        had_state = self.fold.state is not None
        self.put(CustomEvent(name=RESTARTED, value={"restarts": self.fold.restarts + 1}))
        if had_state:
            self.leave_state(state)
        self._write(*sound(MessagesSnapshotEvent(messages=messages)))  # however long the conversation is

    def resume(self, event: Event) -> None:
        """Take up an event that another worker recorded, to know what is open and what it amounts to."""
        kind = type(event)
        if kind in _PREPARE and kind not in _CONTENT:
            _PREPARE[kind](self, event)
        if isinstance(event, RunStartedEvent | RunFinishedEvent):
            self._paused = self._barred = isinstance(event, RunFinishedEvent)
        self.fold.add(event)

    def put(self, event: Event) -> None:
        """Record an event of the runner's own, after closing what is open."""
        self.close_open()
        self._put(event)

    def seal(self) -> None:
        """Take nothing more from the agent."""
        self._sealed = self._barred = True

    def pause(self, event: RunFinishedEvent) -> None:
        """The run waits for a person: RUN_FINISHED with the interrupt outcome, and not the last of its events."""
        self.put(event)
        self._paused = self._barred = True

    def close_open(self) -> None:
        """End every message, call and step that is open, innermost first: nothing may be open when a run ends."""
        if self._paused:  # it ends without having gone on
            self.start(time.time_ns() // 1_000_000)
        self._close_text()
        self._chunk.clear()
        while self._open:
            key = next(reversed(self._open))
            self._close(*key)

    def leave_state(self, state: dict[str, Any]) -> None:
        """The session's state as the run leaves it: clients that keep the state send theirs back with the next message.
        One over the limit of an event is kept all the same, and not told."""
        with contextlib.suppress(RunLimit):
            self._put(StateSnapshotEvent(snapshot=state))


def _ender(kind: str, id_field: str) -> Callable[[Recorder, Any], bool]:
    """Takes an end only of what is open, so that nothing ends twice."""

    def end(recorder: Recorder, event: Any) -> bool:
        return recorder._open.pop((kind, getattr(event, id_field)), None) is not None

    return end


_KINDS = frozenset(get_args(Event))

_EXPAND: dict[type, Any] = {
    RunStartedEvent: lambda recorder, event: None,
    RunFinishedEvent: Recorder._own_finish,
    RunErrorEvent: Recorder._own_error,
    TextMessageChunkEvent: Recorder._text_chunk,
    ToolCallChunkEvent: Recorder._call_chunk,
    ReasoningMessageChunkEvent: Recorder._reasoning_chunk,
}
_CHUNK_KIND: dict[type, str] = {
    TextMessageChunkEvent: "text",
    ToolCallChunkEvent: "call",
    ReasoningMessageChunkEvent: "reasoning",
}
_WITHIN_CHUNK = frozenset(
    {
        TextMessageStartEvent,
        TextMessageContentEvent,
        ToolCallStartEvent,
        ToolCallArgsEvent,
        ReasoningStartEvent,
        ReasoningMessageStartEvent,
        ReasoningMessageContentEvent,
        CustomEvent,
    }
)
_PREPARE: dict[type, Any] = {
    TextMessageStartEvent: Recorder._text_started,
    TextMessageContentEvent: Recorder._ensure_text,
    TextMessageEndEvent: _ender("text", "message_id"),
    ReasoningStartEvent: Recorder._span_started,
    ReasoningMessageStartEvent: Recorder._reasoning_started,
    ReasoningMessageContentEvent: Recorder._ensure_reasoning,
    ReasoningMessageEndEvent: _ender("reasoning", "message_id"),
    ReasoningEndEvent: _ender("span", "message_id"),
    ToolCallStartEvent: Recorder._call_started,
    ToolCallArgsEvent: Recorder._ensure_call,
    ToolCallEndEvent: _ender("call", "tool_call_id"),
    ToolCallResultEvent: Recorder._call_result,
    StepStartedEvent: Recorder._step_started,
    StepFinishedEvent: _ender("step", "step_name"),
    SubagentStartedEvent: Recorder._subagent_started,
    SubagentFinishedEvent: _ender("subagent", "subagent_run_id"),
    SubagentErrorEvent: _ender("subagent", "subagent_run_id"),
}
_CONTENT: tuple[type, ...] = (TextMessageContentEvent, ReasoningMessageContentEvent, ToolCallArgsEvent)
"""Before them it is only made sure that what they go into is open."""
_REASONING = frozenset(
    {
        ReasoningEncryptedValueEvent,
        ReasoningEndEvent,
        ReasoningMessageContentEvent,
        ReasoningMessageEndEvent,
        ReasoningMessageStartEvent,
        ReasoningStartEvent,
    }
)
_BESIDE_TEXT = frozenset({CustomEvent})
"""Events that do not end the message that plain text goes to."""


def sound(event: _EventT) -> tuple[_EventT, bytes]:
    """An event as it will be read, and its JSON in one line. What is in the journal can be decoded, by everyone and for
    ever: an agent makes its events without any check of their fields' types, so they are read back here.

    Raises `AgentInvalid`."""
    name = type(event).__name__
    try:
        try:
            encoded = encode_event(event)
        except UnicodeEncodeError:
            encoded = msgspec.json.encode(_without_surrogates(msgspec.to_builtins(event)))
        checked = decode_event(encoded)
        encoded = with_plain_lines(encode_event(checked))  # and not as it came: JSON may have been put in as it was
    except msgspec.DecodeError as error:
        raise AgentInvalid(f"a {name} that is none: {error}") from None
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise AgentInvalid(f"a {name} cannot be written as JSON: {error}") from None
    if is_deep(encoded):
        raise AgentInvalid(f"a {name} is nested deeper than {DEPTH_MAX} levels")
    return checked, encoded


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value
