"""Folding events into what they amount to: the messages, the state, the outcome.

One fold serves the session's turn, the sweeper that closes a dead worker's run, late joins and aggregation. It is
linear in the length of the stream and usable at any point of it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import msgspec

from gapless.events import (
    ActivityDeltaEvent,
    ActivityMessage,
    ActivitySnapshotEvent,
    AssistantMessage,
    ContentPart,
    CustomEvent,
    DeveloperMessage,
    Event,
    FunctionCall,
    Interrupt,
    Message,
    ReasoningEncryptedValueEvent,
    ReasoningMessage,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    SystemMessage,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)

__all__ = [
    "ARTIFACT",
    "CONTINUES",
    "FILE",
    "LEFT",
    "RESTARTED",
    "SESSION",
    "VOID",
    "Fold",
    "Parts",
    "Void",
    "denies",
    "is_left",
    "void_of",
]

GATHERED_MIN = 64
"""Pieces of a text that are joined to one."""
COPIED_BYTES_MAX = 4 * 1024 * 1024
"""A patch that copies may double the document each time; one that could make it larger than this is not applied."""
FILE = "gapless.file"
ARTIFACT = "gapless.artifact"
"""The agent's framework keeps a file of the session's: its `name` and the `version` that was saved."""
"""Name of the CUSTOM event that holds a file of the answer: its `mimeType`, and its `data` (base64) or its `url`."""
CONTINUES = "gapless.continues"
"""Key in the metadata of the start of a text that goes on with one that its worker's loss had cut short: that one's id.
As one text they are one paragraph."""
RESTARTED = "gapless.restarted"
"""Name of the CUSTOM event which says that the run begins anew and that what it has said so far is void."""
SESSION = "gapless.session"
"""Name of the CUSTOM event in a session's stream that says how the session stands."""
VOID = "gapless.void"
"""Name of the CUSTOM event that takes back what a lost worker had said after the run's checkpoint, by name: `Void`."""


class Void(msgspec.Struct, rename="camel", omit_defaults=True):
    """The value of a `VOID` event: what is taken back. Names that a reader does not know mean nothing to it; one that
    was taken back may be given to something new later."""

    message_ids: list[str]
    """Messages of any kind: text, reasoning, results of tools, activities."""
    tool_call_ids: list[str]
    cut: dict[str, int] = {}
    """Text and reasoning that began before and went on after the checkpoint: how many of its characters (code points)
    stay."""

    def __bool__(self) -> bool:
        return bool(self.message_ids or self.tool_call_ids or self.cut)


def void_of(event: CustomEvent) -> Void | None:
    """Return what the event takes back; None for any other, an agent's own event of that name too."""
    if event.name == VOID:
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(event.value, Void)
    return None


def continued_by(event: TextMessageStartEvent) -> str | None:
    """Return the message that this one goes on with, if it does."""
    found = (event.metadata or {}).get(CONTINUES)
    return found if isinstance(found, str) else None


LEFT = {"interrupted": True}
"""Metadata of the result of a call that had none when its run was cut short."""


DENIED = {"denied": True}
"""Metadata of the result of a call that a person said no to."""


def denies(answer: ResumeEntry) -> bool:
    """Return whether an answer to the question for a yes is a no."""
    approved = answer.payload.get("approved") if isinstance(answer.payload, dict) else answer.payload
    return answer.status == "cancelled" or approved is False


def is_left(result: ToolCallResultEvent | ToolMessage) -> bool:
    """Return whether the result only says that its run has ended without it."""
    return result.error is not None and (result.metadata or {}).get("interrupted") is True


_TEXT_ROLES: dict[str, type[AssistantMessage | UserMessage | SystemMessage | DeveloperMessage]] = {
    "assistant": AssistantMessage,
    "user": UserMessage,
    "system": SystemMessage,
    "developer": DeveloperMessage,
}


class Parts(list[str]):
    """The pieces of a text, as they came. Apart they take ten times its room, so now and then they are gathered."""

    __slots__ = ("_gathered",)

    def __init__(self) -> None:
        self._gathered = 0
        """So many are joined pieces already."""

    def gather(self) -> None:
        """Join those that have come since the last time, if they are many."""
        gathered = min(self._gathered, len(self))  # what was cut meanwhile is one piece, or none
        if len(self) - gathered >= GATHERED_MIN:
            self[gathered:] = ["".join(self[gathered:])]
            self._gathered = gathered + 1


class _Text:
    """A text or reasoning message, or the assistant message that carries tool calls."""

    __slots__ = ("calls", "continues", "encrypted", "id", "kind", "name", "open", "parts", "subagent")

    def __init__(self, id: str, kind: str, name: str | None = None, subagent: str | None = None) -> None:
        self.id = id
        self.kind = kind
        self.name = name
        self.subagent = subagent
        self.continues: str | None = None
        self.parts = Parts()
        self.calls: list[_Call] = []
        self.open = True
        self.encrypted: str | None = None


class _Call:
    __slots__ = ("encrypted", "id", "name", "open", "parts")

    def __init__(self, id: str, name: str) -> None:
        self.id = id
        self.name = name
        self.parts = Parts()
        self.open = True
        self.encrypted: str | None = None


_Item: TypeAlias = "_Text | ToolMessage | ActivityMessage"


class _Mark:
    """What there was at a point of the stream."""

    __slots__ = ("activities", "calls", "items", "lengths", "state")

    def __init__(
        self, items: set[str], lengths: dict[str, int], calls: set[str], activities: dict[str, Any], state: Any
    ) -> None:
        self.items = items
        self.lengths = lengths
        self.calls = calls
        """Those that were whole."""
        self.activities = activities
        self.state = state


class Fold:
    """The state after some events of one run. `add` them in order; read the rest at any time."""

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._texts: dict[str, _Text] = {}
        self._thoughts: dict[str, _Text] = {}
        self._carriers: dict[str, _Text] = {}
        """Call → the message that was made for it, as it named none: what is called as the call is not that message."""
        self._spoken: list[_Text] = []
        """The assistant's texts, in the order in which they began to speak."""
        self._calls: dict[str, _Call] = {}
        self._activities: dict[str, ActivityMessage] = {}
        self._left: set[str] = set()
        """Calls that their run's end has left without a result."""
        self._denied: set[str] = set()
        """Calls that a person said no to."""
        self._own: set[str | None] = set()
        """Activities whose content, and with None the state, is a copy of this fold's own: patches change it."""
        self.state: Any = None
        """The agent's state after its snapshots and deltas; None when there was none."""
        self.finished: RunFinishedEvent | None = None
        self.error: RunErrorEvent | None = None
        self._run_id = "run"
        self._files = 0
        self._mark: _Mark | None = None
        self.restarts = 0
        """How often the run was begun anew by another worker; what had come before is void and not in here."""

    def text_parts(self, message_id: str) -> Parts:
        """Return the list that a message's deltas are added to: the recorder's short cut for its hottest event."""
        text = self._texts[message_id]
        if text not in self._spoken:
            self._spoken.append(text)
        return text.parts

    def delta_parts(
        self, delta: TextMessageContentEvent | ReasoningMessageContentEvent | ToolCallArgsEvent
    ) -> Parts | None:
        """Return the list that this delta of a message or call was added to, and that the next ones may be; None where
        it was not started."""
        found: _Text | _Call | None
        if isinstance(delta, ToolCallArgsEvent):
            found = self._calls.get(delta.tool_call_id)
        else:
            texts = self._texts if isinstance(delta, TextMessageContentEvent) else self._thoughts
            found = texts.get(delta.message_id)
        return None if found is None else found.parts

    def add(self, event: Event) -> None:
        """Take one event. Deltas of a message or call that was never started are ignored."""
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    # -- what it amounts to -----------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Returns the answer's text: the assistant's text messages, a blank line between two, reasoning apart."""
        parts: list[str] = []
        last: str | None = None
        for text in self._spoken:
            if any(text.parts):
                if last is not None and text.continues != last:
                    parts.append("\n\n")
                parts += text.parts
                last = text.id
        return "".join(parts)

    def messages(
        self, *, metadata: dict[str, Any] | None = None, interrupted: dict[str, Any] | None = None
    ) -> list[Message]:
        """Return the messages so far, in order. `metadata` is put on each.

        With `interrupted` (the error's `code` and `message`, or {}), the messages still open are marked as cut short;
        where none is, the last assistant message is, or an empty one that is added for it.
        """
        base = metadata or {}
        mark = None if interrupted is None else {**base, "interrupted": True, "error": interrupted}
        messages: list[Message] = []
        marked = False
        for item in self._items:
            if not isinstance(item, _Text):
                id = item.tool_call_id if isinstance(item, ToolMessage) else ""
                marks = (DENIED if id in self._denied else {}) | (LEFT if id in self._left else {})
                item.metadata = {**base, **marks} or None
                messages.append(item)
                continue
            cut = mark is not None and (item.open or any(call.open or call.id in self._left for call in item.calls))
            marked = marked or cut
            message = _message(item, mark if mark is not None and cut else base)
            if item.id in self._texts and self._texts[item.id] is not item and item.kind == "assistant":
                message.id = f"{item.id}-call"  # a list of messages has each id once
            messages.append(message)
        if mark is not None and not marked:
            last = messages[-1] if messages else None
            if isinstance(last, AssistantMessage):
                last.metadata = mark
            else:
                messages.append(AssistantMessage(id=f"{base.get('run_id', 'run')}-cut", content="", metadata=mark))
        return messages

    def has_said(self, message_id: str) -> bool:
        """Return whether there is any text of the message."""
        return message_id in self._texts and any(self._texts[message_id].parts)

    def unanswered(self) -> list[str]:
        """Return the calls that have no result."""
        answered = {item.tool_call_id for item in self._items if isinstance(item, ToolMessage)}
        return [id for id in self._calls if id not in answered]

    # -- taking back ------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Remember this point: `since_mark` tells what came after it."""
        lengths = {id: sum(map(len, text.parts)) for id, text in self._growing()}
        calls = {id for id, call in self._calls.items() if not call.open}
        activities = {id: copy.deepcopy(activity.content) for id, activity in self._activities.items()}
        items = {item.id for item in self._items}
        self._mark = _Mark(items, lengths, calls, activities, copy.deepcopy(self.state))

    def since_mark(self, half: Collection[str] = ()) -> Void:
        """Name what came after the mark, or was not whole at it, as `half` of what came before is said not to have
        been: all of it where nothing was marked."""
        mark = self._mark or _Mark(set(), {}, set(), {}, None)
        messages = [item.id for item in self._items if item.id not in mark.items or item.id in half]
        cut = {
            id: mark.lengths[id]
            for id, text in self._growing()
            if id not in half and id in mark.lengths and sum(map(len, text.parts)) > mark.lengths[id]
        }
        calls = [id for id in self._calls if id not in mark.calls or id in half]
        return Void(message_ids=messages, tool_call_ids=calls, cut=cut)

    def _growing(self) -> Iterator[tuple[str, _Text]]:
        yield from self._texts.items()
        yield from self._thoughts.items()

    @property
    def said(self) -> Void:
        """Names all that there is."""
        return Void(message_ids=[item.id for item in self._items], tool_call_ids=list(self._calls))

    @property
    def marked_state(self) -> Any:
        """Returns the agent's state at the mark."""
        return None if self._mark is None else self._mark.state

    @property
    def changed_activities(self) -> list[ActivityMessage]:
        """Returns the activities that began before the mark and changed after it, as they were then."""
        before = {} if self._mark is None else self._mark.activities
        return [
            ActivityMessage(id=id, activity_type=self._activities[id].activity_type, content=content)
            for id, content in before.items()
            if id in self._activities and self._activities[id].content != content
        ]

    def take_back(self, void: Void) -> None:
        """Take back what is named."""
        messages, calls = set(void.message_ids), set(void.tool_call_ids)
        self._items = [item for item in self._items if item.id not in messages]
        self._spoken = [text for text in self._spoken if text.id not in messages]
        for id in messages:
            for known in (self._texts, self._thoughts, self._carriers, self._activities):
                known.pop(id, None)
            self._own.discard(id)
        for id in calls:
            self._calls.pop(id, None)
        for item in self._items:
            if isinstance(item, _Text):
                item.calls = [call for call in item.calls if call.id not in calls]
        for id, text in self._growing():
            if (chars := void.cut.get(id)) is not None:
                text.parts[:] = ["".join(text.parts)[:chars]]

    # -- the events -------------------------------------------------------------------------------------------------

    def _text_start(self, event: TextMessageStartEvent) -> None:
        if event.message_id not in self._texts:
            text = _Text(event.message_id, event.role or "assistant", event.name, event.subagent_run_id)
            text.continues = continued_by(event)
            self._open(self._texts, text)

    def _open(self, known: dict[str, _Text], text: _Text) -> _Text:
        """Begin a message that is known by its id: those of each kind apart, as other kinds may have the same ids."""
        known[text.id] = text
        self._items.append(text)
        return text

    def _text_delta(self, event: TextMessageContentEvent) -> None:
        text = self._texts.get(event.message_id)
        if text is not None:
            if not text.parts and text.kind == "assistant" and text not in self._spoken:
                self._spoken.append(text)
            text.parts.append(event.delta)

    def _text_end(self, event: TextMessageEndEvent) -> None:
        text = self._texts.get(event.message_id)
        if text is not None:
            text.open = False

    def _reasoning_start(self, event: ReasoningMessageStartEvent) -> None:
        if event.message_id not in self._thoughts:
            self._open(self._thoughts, _Text(event.message_id, "reasoning", None, event.subagent_run_id or None))

    def _reasoning_delta(self, event: ReasoningMessageContentEvent) -> None:
        thought = self._thoughts.get(event.message_id)
        if thought is not None:
            thought.parts.append(event.delta)

    def _reasoning_end(self, event: ReasoningMessageEndEvent) -> None:
        thought = self._thoughts.get(event.message_id)
        if thought is not None:
            thought.open = False

    def _encrypted(self, event: ReasoningEncryptedValueEvent) -> None:
        id = event.entity_id
        target: _Text | _Call | None = self._calls.get(id)
        if event.subtype != "tool-call":
            target = self._thoughts.get(id) or self._texts.get(id) or self._carriers.get(id)
        if target is not None:
            target.encrypted = event.encrypted_value

    def _call_start(self, event: ToolCallStartEvent) -> None:
        # One that was taken back and is said again has left the message that was made for it.
        named = event.parent_message_id
        parent = self._texts.get(named) if named else self._carriers.get(event.tool_call_id)
        if parent is None:
            last = self._items[-1] if self._items else None
            if named is None and isinstance(last, _Text) and last.kind == "assistant":
                parent = last
            else:
                known = self._texts if named else self._carriers
                parent = self._open(known, _Text(named or event.tool_call_id, "assistant"))
                parent.open = False
        call = self._calls[event.tool_call_id] = _Call(event.tool_call_id, event.tool_call_name)
        parent.calls.append(call)

    def _call_args(self, event: ToolCallArgsEvent) -> None:
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            call.parts.append(event.delta)

    def _call_end(self, event: ToolCallEndEvent) -> None:
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            call.open = False

    def _call_result(self, event: ToolCallResultEvent) -> None:
        content: str | list[ContentPart] = event.content
        if is_left(event):
            self._left.add(event.tool_call_id)
        self._items.append(
            ToolMessage(id=event.message_id, tool_call_id=event.tool_call_id, content=content, error=event.error)
        )

    def _activity(self, event: ActivitySnapshotEvent) -> None:
        known = self._activities.get(event.message_id)
        if known is None:
            known = ActivityMessage(id=event.message_id, activity_type=event.activity_type, content=event.content)
            self._activities[event.message_id] = known
            self._items.append(known)
        elif event.replace is not False:
            known.content = event.content
            self._own.discard(event.message_id)

    def _activity_delta(self, event: ActivityDeltaEvent) -> None:
        known = self._activities.get(event.message_id)
        if known is not None:
            known.content = self._patched(event.message_id, known.content, event.patch)

    def _state(self, event: StateSnapshotEvent) -> None:
        self.state = event.snapshot
        self._own.discard(None)

    def _state_delta(self, event: StateDeltaEvent) -> None:
        self.state = self._patched(None, {} if self.state is None else self.state, event.delta)

    def _patched(self, id: str | None, document: Any, patch: list[dict[str, Any]]) -> Any:
        """Return the document after an RFC 6902 patch; unchanged where the patch does not apply. It is copied once,
        because it was an event's, and then changed in place: a small patch must not cost what a large document does.
        """
        import jsonpatch  # only where a run sends patches

        try:
            copies = sum(operation.get("op") == "copy" for operation in patch)
            if copies and len(msgspec.json.encode(document)) << copies > COPIED_BYTES_MAX:
                return document
            if id not in self._own:
                document = copy.deepcopy(document)
                self._own.add(id)
            return jsonpatch.apply_patch(document, patch, in_place=True, atomic=True)
        except (
            jsonpatch.JsonPatchException,
            jsonpatch.JsonPointerException,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            return document

    def _custom(self, event: CustomEvent) -> None:
        if event.name == RESTARTED:
            self._items, self._texts, self._calls, self._activities, self.state = [], {}, {}, {}, None
            self._thoughts.clear()
            self._carriers.clear()
            self._own.clear()
            self._spoken.clear()
            self._left.clear()
            self._denied.clear()
            self.restarts += 1
        elif (void := void_of(event)) is not None:
            self.take_back(void)
        elif event.name == FILE and isinstance(event.value, dict):
            self._files += 1
            self._items.append(
                ActivityMessage(id=f"{self._run_id}-file-{self._files}", activity_type=FILE, content=event.value)
            )
        elif event.name == ARTIFACT and isinstance(event.value, dict):
            id = f"{self._run_id}-artifact-{event.value.get('version')}-{event.value.get('name')}"
            if all(item.id != id for item in self._items if isinstance(item, ActivityMessage)):  # told again, once
                self._items.append(ActivityMessage(id=id, activity_type=ARTIFACT, content=event.value))

    def _started(self, event: RunStartedEvent) -> None:
        self._run_id = event.run_id
        answers = event.input.resume if event.input is not None else None
        if not answers or self.finished is None or not isinstance(self.finished.outcome, RunFinishedInterruptOutcome):
            return
        about = {one.id: one.tool_call_id for one in self.finished.outcome.interrupts if _is_approval(one)}
        self._denied.update(id for one in answers if (id := about.get(one.interrupt_id)) and denies(one))

    def _finished(self, event: RunFinishedEvent) -> None:
        self.finished = event

    def _error(self, event: RunErrorEvent) -> None:
        self.error = event


def _is_approval(interrupt: Interrupt) -> bool:
    """What is executed elsewhere waits for its result, and a question for its answer: no yes or no is that."""
    kind = (interrupt.metadata or {}).get("kind", "approval")
    return interrupt.tool_call_id is not None and kind == "approval"


_HANDLERS: dict[type, Any] = {
    TextMessageStartEvent: Fold._text_start,
    TextMessageContentEvent: Fold._text_delta,
    TextMessageEndEvent: Fold._text_end,
    ReasoningMessageStartEvent: Fold._reasoning_start,
    ReasoningMessageContentEvent: Fold._reasoning_delta,
    ReasoningMessageEndEvent: Fold._reasoning_end,
    ReasoningEncryptedValueEvent: Fold._encrypted,
    ToolCallStartEvent: Fold._call_start,
    ToolCallArgsEvent: Fold._call_args,
    ToolCallEndEvent: Fold._call_end,
    ToolCallResultEvent: Fold._call_result,
    ActivitySnapshotEvent: Fold._activity,
    ActivityDeltaEvent: Fold._activity_delta,
    StateSnapshotEvent: Fold._state,
    StateDeltaEvent: Fold._state_delta,
    CustomEvent: Fold._custom,
    RunStartedEvent: Fold._started,
    RunFinishedEvent: Fold._finished,
    RunErrorEvent: Fold._error,
}


def _message(item: _Text, metadata: dict[str, Any]) -> Message:
    content = "".join(item.parts)
    meta = metadata or None
    if item.kind == "reasoning":
        return ReasoningMessage(
            id=item.id,
            content=content,
            metadata=meta,
            encrypted_value=item.encrypted,
            subagent_run_id=item.subagent,
        )
    if item.kind != "assistant":
        cls = _TEXT_ROLES[item.kind]
        return cls(id=item.id, content=content, name=item.name, metadata=meta, subagent_run_id=item.subagent)
    calls = [
        ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments="".join(call.parts)))
        for call in item.calls
    ]
    for call, source in zip(calls, item.calls, strict=True):
        if source.encrypted is not None:
            call.encrypted_value = source.encrypted
    return AssistantMessage(
        id=item.id,
        content=content or (None if calls else ""),
        tool_calls=calls or None,
        name=item.name,
        metadata=meta,
        encrypted_value=item.encrypted,
        subagent_run_id=item.subagent,
    )
