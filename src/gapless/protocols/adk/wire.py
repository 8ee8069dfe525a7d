"""The wire `adk`: frames as ADK's own server sends them on `/run_sse`.

A frame is an ADK event as JSON, camelCase and without nulls. Text and reasoning come as partial events that share an
id; the whole of them follows in one event with the same id, before a tool's result, another agent's words or the run's
end. Everything in a frame is derived from the journal, so any number of connections agree on every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from gapless.agents.adk_turn import CONFIRMATION, INPUT, TRANSFER
from gapless.events import (
    CustomEvent,
    DataSource,
    Event,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextPart,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    decode_event,
    delta_head,
    text_of,
)
from gapless.fold import FILE, RESTARTED, VOID, Fold, Void, is_left, void_of
from gapless.jsontext import decode_json
from gapless.protocols.adk.floor import Floor, SaidEvent
from gapless.protocols.adk.own import OwnEvents, own_of
from gapless.records import RunRecord
from gapless.wire import NO_DELTA, Encoder

__all__ = ["ADKEncoder", "PageADKEncoder", "WholeADKEncoder", "arguments_of", "media_of", "object_of", "result_of"]

_encode = msgspec.json.Encoder().encode
_ACTIONS = b'"actions":{"stateDelta":%b,"artifactDelta":{},%b"requestedAuthConfigs":{},"requestedToolConfirmations":{}}'
_NO_ACTIONS = _ACTIONS % (b"{}", b"")
_FINISH = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_MARKS = {"gapless.interrupted": b"interrupted", "gapless.turn_complete": b"turnComplete"}
"""What a live run's custom events of these names are on an ADK event."""
_URL_SAFE = str.maketrans("+/", "-_")
"""Base64 as ADK writes it."""
_HEAD = b'{"content":{"parts":[{"text":'

_Frames = Sequence[bytes]


class _Call:
    __slots__ = ("arguments", "author", "name", "waits")

    def __init__(self, name: str, author: str, waits: bool) -> None:
        self.name = name
        self.author = author
        self.waits = waits
        self.arguments: list[str] = []


class _Response:
    """What one agent has said since its last whole event."""

    __slots__ = ("id", "parts")

    def __init__(self, id: str) -> None:
        self.id = id
        """Its first message's."""
        self.parts: list[tuple[str, bytes, list[bytes]]] = []
        """Lists of each part its message, what comes after its text, and the pieces of the text's JSON."""


class ADKEncoder(Encoder):
    """ADK events, partial ones as they come."""

    name: ClassVar[str] = "adk"
    pauses: ClassVar[bool] = True
    partials: ClassVar[bool] = True
    """Partial events are sent, as for `"streaming": true`."""
    splits: ClassVar[bool] = True
    """An event's artifacts come apart from its content, as on `/run_sse`."""

    def __init__(self, run: RunRecord) -> None:
        super().__init__(run)
        self._id_head = b"%b:" % run.id.encode()  # names the run too, for clients that repeat their POST
        self._seconds = b"%.3f" % (run.created_at / 1000)
        self._author = run.agent
        """Who speaks where a message does not name its agent."""
        self._names: dict[str, str] = {}
        """Messages by id: the agent that they name, "" for those that are not the assistant's."""
        self._steps: dict[str, str] = {}
        """Steps that are open, each with who spoke before it."""
        self._responses: dict[str, _Response] = {}
        """By agent; several where agents speak at once."""
        self._begun: dict[str, int] = {}
        """By message, how many responses began with it: one that goes on behind a file or new state begins another."""
        self._floor = Floor()
        self._silent = True
        """Nothing was told yet."""
        self._pieces: list[bytes] = []
        """The newest message's, and what comes after the text in its frames."""
        self._tail = b""
        self._calls: dict[str, _Call] = {}
        self._questions: dict[str, str] = {}
        """Function calls that wait for a client: id and name."""
        self._fold = Fold()
        """Actions that are of the state alone."""
        self._state_said: dict[str, bytes] = {}
        """The state's values as JSON: those in the fold are changed in place."""
        self._finish_reason = "STOP"
        self._events = 0
        self._own: OwnEvents | None = None

    def frames(self, event: bytes) -> Sequence[bytes]:
        if event.startswith(self._delta_head):  # the hot path: nothing is decoded
            return self._piece(event[len(self._delta_head) : -1])
        return self.frames_of(decode_event(event))

    def frames_of(self, event: Event) -> Sequence[bytes]:
        """Return one decoded event's frames."""
        own = own_of(event)
        if own is not None and self._own is None:
            self._own = OwnEvents(self.run, partials=self.partials, splits=self.splits)
        if self._own is not None:  # nothing is made up where ADK's own are
            frames = self._own.frames(event, own)
            self._delta_head, self._pieces, self._tail = self._own.delta_head, self._own.pieces, self._own.tail
            outcome = event.outcome if isinstance(event, RunFinishedEvent) else None
            if isinstance(outcome, RunFinishedInterruptOutcome):  # what was asked before the last answer is asked again
                again = [one for one in outcome.interrupts if one.id not in self._own.called]
                return (*frames, *filter(None, map(self._asked, again)))
            return frames
        handler = _HANDLERS.get(type(event))
        told = handler(self, event) if handler is not None else ()
        self._silent = self._silent and not told and not self._responses
        return told

    # -- text and reasoning -----------------------------------------------------------------------------------------

    def _piece(self, text: bytes) -> _Frames:
        """Return a piece of the newest message; `text` is its JSON."""
        self._pieces.append(text[1:-1])
        return (_HEAD + text + self._tail,) if self.partials else ()

    def _said(self, event: SaidEvent) -> _Frames:
        """Another message goes on than the one before."""
        speaker = self._names.get(event.message_id, self._author)
        return self._say(speaker, event) if speaker and self._floor.has(speaker, event) else ()

    def _say(self, speaker: str, event: SaidEvent) -> _Frames:
        message_id, thought = event.message_id, isinstance(event, ReasoningMessageContentEvent)
        response = self._responses.get(speaker)
        if response is None:
            begun = self._begun[message_id] = self._begun.get(message_id, 0) + 1
            # by the same id clients would replace what was said before
            id = message_id if begun == 1 else f"{message_id}-r{begun}"
            response = self._responses[speaker] = _Response(id)
        self._delta_head = delta_head(type(event), message_id)
        rest = b',"thought":true}' if thought else b"}"
        self._tail = rest + b'],"role":"model"},"partial":true,' + self._base(response.id, speaker) + b"}"
        if not response.parts or response.parts[-1][0] != message_id:
            response.parts.append((message_id, rest, []))
        self._pieces = response.parts[-1][2]
        return self._piece(_encode(event.delta))

    def _ended(self, event: TextMessageEndEvent | ReasoningMessageEndEvent) -> _Frames:
        return [frame for speaker, said in self._floor.end(event) for frame in self._say(speaker, said)]

    def _text_start(self, event: TextMessageStartEvent) -> _Frames:
        self._delta_head = NO_DELTA
        if event.role not in (None, "assistant"):
            self._names[event.message_id] = ""
        elif event.name:
            self._names[event.message_id] = event.name
            if not self._steps:
                self._author = event.name
        elif not self._names.get(event.message_id, self._author):  # it was another's before
            del self._names[event.message_id]
        return ()

    # -- whole responses --------------------------------------------------------------------------------------------

    def _whole(self, *speakers: str, finish: str = "STOP", **fields: Any) -> _Frames:
        """Return the whole responses of these agents, where one is coming; of all agents if none is named."""
        return tuple(
            self._model_event(speaker, None, finish=finish, **fields)
            for speaker in speakers or tuple(self._responses)
            if speaker in self._responses
        )

    def _model_event(
        self, speaker: str, part: bytes | None, id: str = "", finish: str = "STOP", calls: bytes = b"", **fields: Any
    ) -> bytes:
        """Return what the agent has said, and this part after it, as one event."""
        response = self._responses.pop(speaker, None)
        self._delta_head = NO_DELTA
        parts = []
        if response is not None:
            id = response.id
            parts = [b'{"text":"%b"%b' % (b"".join(pieces), rest) for _, rest, pieces in response.parts]
        if part is not None:
            parts.append(part)
        extra = b"".join([b'"%b":%b,' % (name.encode(), _encode(value)) for name, value in fields.items()])
        return b'{"content":{"parts":[%b],"role":"model"},"partial":false,"finishReason":"%b",%b%b}' % (
            b",".join(parts),
            finish.encode(),
            extra,
            self._base(id, speaker, calls=calls),
        )

    def _base(self, id: str, author: str, actions: bytes = _NO_ACTIONS, calls: bytes = b"") -> bytes:
        """Return what every event has."""
        return b'"invocationId":%b,"author":%b,%b,"nodeInfo":{"path":%b},%b"id":%b,"timestamp":%b' % (
            _encode(self.run.id),
            _encode(author),
            actions,
            _encode(f"{author}@1"),
            calls,
            _encode(id),
            self._seconds,
        )

    # -- agents -----------------------------------------------------------------------------------------------------

    def _step_started(self, event: StepStartedEvent) -> _Frames:
        before = [speaker for speaker in self._responses if speaker not in self._steps]
        frames = self._whole(*before) if before else ()
        self._steps[event.step_name] = self._author
        self._author = event.step_name
        return frames

    def _step_finished(self, event: StepFinishedEvent) -> _Frames:
        self._author = self._steps.pop(event.step_name, self._author)
        return self._whole(event.step_name)

    # -- tools ------------------------------------------------------------------------------------------------------

    def _call_start(self, event: ToolCallStartEvent) -> _Frames:
        adk = (event.metadata or {}).get("adk") or {}
        waits = isinstance(adk, dict) and adk.get("longRunning") is True
        self._calls[event.tool_call_id] = _Call(event.tool_call_name, self._author, waits)
        return ()

    def _call_args(self, event: ToolCallArgsEvent) -> _Frames:
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            call.arguments.append(event.delta)
        return ()

    def _call_end(self, event: ToolCallEndEvent) -> _Frames:
        """Note that a call is whole: it goes out at once, with the text before it, so that it is seen before its
        result.
        """
        id = event.tool_call_id
        call = self._calls.get(id)
        if call is None:
            return ()
        return (self._called(id, call.name, arguments_of("".join(call.arguments)), call.author, waits=call.waits),)

    def _called(self, id: str, name: str, arguments: Any, author: str, *, waits: bool) -> bytes:
        part = _encode({"functionCall": {"id": id, "args": arguments, "name": name}})
        calls = b'"longRunningToolIds":%b,' % _encode([id] if waits else [])
        return self._model_event(author, part, f"{id}-call", calls=calls)

    def _result(self, event: ToolCallResultEvent) -> _Frames:
        if is_left(event):  # ADK's own server leaves it without a response too
            return ()
        call = self._calls.get(event.tool_call_id)
        author = call.author if call is not None else self._author
        name = call.name if call is not None else ""
        actions = _NO_ACTIONS
        if call is not None and name == TRANSFER:
            target = arguments_of("".join(call.arguments)).get("agent_name")
            actions = _ACTIONS % (b"{}", b'"transferToAgent":%b,' % _encode(str(target)))
        told = {"response": result_of(event), **media_of(event)}
        frame = self._response(event.message_id, author, event.tool_call_id, name, told, actions)
        return (*self._whole(author), frame)

    def _response(
        self, id: str, author: str, call_id: str, name: str, told: dict[str, Any], actions: bytes = _NO_ACTIONS
    ) -> bytes:
        said = _encode({"id": call_id, "name": name, **told})
        return b'{"content":{"parts":[{"functionResponse":%b}],"role":"user"},%b}' % (
            said,
            self._base(id, author, actions),
        )

    # -- state and the rest -----------------------------------------------------------------------------------------

    def _state(self, event: StateSnapshotEvent | StateDeltaEvent) -> _Frames:
        said, keys = self._state_said, None
        if isinstance(event, StateDeltaEvent) and self._fold.state is not None:
            keys = _keys_of(event.delta)
        self._fold.add(event)
        state = self._fold.state if isinstance(self._fold.state, dict) else {}
        changed: dict[str, Any] = {}
        for key in {**said, **state} if keys is None else keys:
            if key not in state:
                if said.pop(key, None) is not None:
                    changed[key] = None
            elif (value := _encode(state[key])) != said.get(key):
                said[key] = value
                changed[key] = msgspec.Raw(value)
        if not changed:
            return ()
        frame = b"{%b}" % self._base(self._new_id(), self._author, _ACTIONS % (_encode(changed), b""))
        return (*self._whole(self._author), frame)

    def _custom(self, event: CustomEvent) -> _Frames:
        value = event.value if isinstance(event.value, dict) else {}
        if event.name == "gapless.finish":
            self._finish_reason = _FINISH.get(str(value.get("reason")).replace("-", "_"), "OTHER")
        elif event.name == FILE:
            kind, name, source = ("inlineData", "data", "data") if "data" in value else ("fileData", "fileUri", "url")
            part = _encode({kind: {name: value.get(source), "mimeType": value.get("mimeType")}})
            return (self._model_event(self._author, part, self._new_id()),)
        elif event.name == "gapless.audio":  # beside what is being said
            data = str(value.get("data")).translate(_URL_SAFE)
            part = _encode({"inlineData": {"data": data, "mimeType": value.get("mimeType")}})
            base = self._base(self._new_id(), self._author)
            return (b'{"content":{"parts":[%b],"role":"model"},%b}' % (part, base),)
        elif event.name in _MARKS:
            said = self._whole()
            return (*said, b'{"%b":true,%b}' % (_MARKS[event.name], self._base(self._new_id(), self._author)))
        elif event.name in ("gapless.notice", RESTARTED):
            if event.name == RESTARTED:  # what was said is void
                self._responses, self._delta_head, self._calls = {}, NO_DELTA, {}
                self._floor = Floor()
                self._fold.add(event)
            return (self._metadata(event.name, event.value),)
        elif (void := void_of(event)) is not None:
            return self._void(void)
        return ()

    def _metadata(self, name: str, value: Any) -> bytes:
        metadata = _encode({name: value})
        return b'{"customMetadata":%b,%b}' % (metadata, self._base(self._new_id(), self._author))

    def _void(self, void: Void) -> _Frames:
        """Say what is taken back: what came in pieces only is whole now, what stays of it apart from what does not."""
        for id in void.tool_call_ids:
            self._calls.pop(id, None)
        stays = dict.fromkeys(void.message_ids, 0) | void.cut
        self._floor.forget(stays)
        frames: list[bytes] = []
        for speaker, response in tuple(self._responses.items()):
            kept, gone = _Response(response.id), _Response(response.id)
            for message_id, rest, pieces in response.parts:
                if message_id not in stays:
                    kept.parts.append((message_id, rest, pieces))
                    continue
                text: str = msgspec.json.decode(b'"%b"' % b"".join(pieces))
                for part, piece in ((kept, text[: stays[message_id]]), (gone, text[stays[message_id] :])):
                    if piece:
                        part.parts.append((message_id, rest, [_encode(piece)[1:-1]]))
            if not gone.parts:
                continue
            if kept.parts:
                self._responses[speaker] = kept
                frames += self._whole(speaker)
                gone.id = f"{gone.parts[0][0]}-void"
            self._responses[speaker] = gone
            if self.partials:
                frames += self._whole(speaker, interrupted=True, customMetadata={VOID: void})
            self._responses.pop(speaker, None)
            self._delta_head = NO_DELTA
        return (*frames, self._metadata(VOID, msgspec.to_builtins(void)))

    def _new_id(self) -> str:
        self._events += 1
        return f"{self.run.id}-e{self._events}"

    # -- the run's frame --------------------------------------------------------------------------------------------

    def _started(self, event: RunStartedEvent) -> _Frames:
        if event.timestamp is not None:
            self._seconds = b"%.3f" % (event.timestamp / 1000)
        answers = (event.input.resume if event.input is not None else None) or ()
        for answer in answers:
            self._questions.pop(answer.interrupt_id, None)
        return () if answers else self._close_questions()  # of several, the others may still be asked

    def _close_questions(self) -> _Frames:
        """Answer what waited for a client and waits no longer: ADK's clients show a call as open until it has a
        response."""
        asked, self._questions = self._questions, {}
        told = {"response": {"error": "the run does not wait for this any more"}}
        return [self._response(f"{id}-closed", self._author, id, name, told) for id, name in asked.items()]

    def _finished(self, event: RunFinishedEvent) -> _Frames:
        if isinstance(event.outcome, RunFinishedInterruptOutcome):
            said = self._whole()
            asked = [self._asked(interrupt) for interrupt in event.outcome.interrupts]
            return (*said, *(frame for frame in asked if frame))
        if isinstance(event.outcome, RunFinishedCancelledOutcome):
            return (
                *self._whole(interrupted=True),
                self._error("INVOCATION_ABORTED", "Invocation was aborted by client."),
            )
        usage = {} if event.usage is None else {"usageMetadata": _usage(event.usage)}
        if self._silent and self._finish_reason != "STOP" and event.result is None:  # else nobody is told why
            return (
                self._model_event(
                    self._author, b'{"text":""}', self._new_id(), finish=self._finish_reason, calls=b"", **usage
                ),
            )
        if self._responses or event.result is None:
            return self._whole(finish=self._finish_reason, **usage)
        return (b'{"output":%b,%b}' % (_encode(event.result), self._base(self._new_id(), self._author)),)

    def _failed(self, event: RunErrorEvent) -> _Frames:
        code = event.code or "run_failed"
        details = {"error_type": code, "error_message": event.message}
        shown = self._whole(interrupted=True)
        return (
            *shown,
            *self._close_questions(),
            self._error(code, event.message),
            _encode({"error": f"{code}: {event.message}", "error_details": details}),
        )

    def _error(self, code: str, message: str) -> bytes:
        return b'{"errorCode":%b,"errorMessage":%b,%b}' % (
            _encode(code),
            _encode(message),
            self._base(self._new_id(), self._author),
        )

    def _asked(self, interrupt: Interrupt) -> bytes:
        """Return what the run waits for, as the function call by which ADK asks its clients; b"" for a call that went
        out already, marked as one that waits.
        """
        known = self._calls.get(interrupt.id)
        if known is not None and known.waits:
            self._questions[interrupt.id] = known.name
            return b""
        metadata = interrupt.metadata or {}
        adk = metadata.get("adk")
        if isinstance(adk, dict):
            name, arguments = str(adk.get("name")), adk.get("args") or {}
        elif interrupt.tool_call_id is not None:
            call = self._calls.get(interrupt.tool_call_id)
            original = {
                "id": interrupt.tool_call_id,
                "name": call.name if call else str(metadata.get("toolName", "")),
                "args": arguments_of("".join(call.arguments)) if call else {},
            }
            confirmation = {"hint": interrupt.message or "", "confirmed": False}
            name, arguments = CONFIRMATION, {"originalFunctionCall": original, "toolConfirmation": confirmation}
        else:
            arguments = {"interruptId": interrupt.id, "message": interrupt.message}
            if interrupt.response_schema is not None:
                arguments["response_schema"] = interrupt.response_schema
            name = INPUT
        self._questions[interrupt.id] = name
        part = _encode({"functionCall": {"id": interrupt.id, "args": arguments, "name": name}})
        calls = b'"longRunningToolIds":%b,' % _encode([interrupt.id])
        base = self._base(f"{interrupt.id}-call", self._author, calls=calls)
        return b'{"content":{"parts":[%b],"role":"model"},%b}' % (
            part,
            base,
        )  # no model's words: it has no finish reason


class WholeADKEncoder(ADKEncoder):
    """The same without partial events, as for `"streaming": false` and `/run`."""

    partials: ClassVar[bool] = False


class PageADKEncoder(WholeADKEncoder):
    """The same as `/run` has them, and a session."""

    splits: ClassVar[bool] = False


_HANDLERS: dict[type, Callable[[ADKEncoder, Any], _Frames]] = {
    RunStartedEvent: ADKEncoder._started,
    TextMessageStartEvent: ADKEncoder._text_start,
    TextMessageContentEvent: ADKEncoder._said,
    ReasoningMessageContentEvent: ADKEncoder._said,
    TextMessageEndEvent: ADKEncoder._ended,
    ReasoningMessageEndEvent: ADKEncoder._ended,
    StepStartedEvent: ADKEncoder._step_started,
    StepFinishedEvent: ADKEncoder._step_finished,
    ToolCallStartEvent: ADKEncoder._call_start,
    ToolCallArgsEvent: ADKEncoder._call_args,
    ToolCallEndEvent: ADKEncoder._call_end,
    ToolCallResultEvent: ADKEncoder._result,
    StateSnapshotEvent: ADKEncoder._state,
    StateDeltaEvent: ADKEncoder._state,
    CustomEvent: ADKEncoder._custom,
    RunFinishedEvent: ADKEncoder._finished,
    RunErrorEvent: ADKEncoder._failed,
}


def _keys_of(patch: list[dict[str, Any]]) -> dict[str, None] | None:
    """Return the state's keys that an RFC 6902 patch may change; None where that may be any. Not all of a large state
    is to be compared for each small patch.
    """
    keys: dict[str, None] = {}
    for operation in patch:
        for pointer in (operation.get("path"), operation.get("from", "/")):
            if not isinstance(pointer, str) or not pointer.startswith("/"):
                return None
            keys[pointer.split("/", 2)[1].replace("~1", "/").replace("~0", "~")] = None
    return keys


def arguments_of(text: str) -> dict[str, Any]:
    """Return a call's arguments; {} for none, and the text itself under `_raw` where the model wrote no JSON object."""
    if not text:
        return {}
    try:
        value = decode_json(text)
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"_raw": text}


def object_of(text: str) -> dict[str, Any]:
    """Return a result as ADK has them: the JSON object that it is, or an object that holds it."""
    try:
        value = decode_json(text)
    except msgspec.DecodeError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


def result_of(said: ToolCallResultEvent | ToolMessage) -> dict[str, Any]:
    """Return what a call came to as ADK has it: a failure is an object with an `error`."""
    response, error = object_of(text_of(said.content)), said.error
    if error is None or not {"error", "isError", "is_error", "error_message", "error_details"}.isdisjoint(response):
        return response
    return {"error": error}


def media_of(said: ToolCallResultEvent | ToolMessage) -> dict[str, Any]:
    """Return the pictures and files that came with a result, as `parts`; nothing where there are none."""
    parts: list[Any] = []
    for part in said.content if isinstance(said.content, list) else ():
        if isinstance(part, TextPart):
            continue
        if isinstance(part.source, DataSource):
            data = part.source.value.translate(_URL_SAFE)
            parts.append({"inlineData": {"data": data, "mimeType": part.source.mime_type}})
        else:
            file = {"fileUri": part.source.value, "mimeType": part.source.mime_type}
            parts.append({"fileData": {key: value for key, value in file.items() if value is not None}})
    return {"parts": parts} if parts else {}


def _usage(usage: list[TokenUsage]) -> dict[str, int]:
    names = {
        "promptTokenCount": "input_tokens",
        "candidatesTokenCount": "output_tokens",
        "totalTokenCount": "total_tokens",
        "thoughtsTokenCount": "reasoning_tokens",
        "cachedContentTokenCount": "cached_input_tokens",
    }
    counts: dict[str, int] = {}
    for name, field in names.items():
        known = [value for one in usage if (value := getattr(one, field)) is not None]
        if known:
            counts[name] = sum(known)
    if "totalTokenCount" not in counts:
        counts["totalTokenCount"] = counts.get("promptTokenCount", 0) + counts.get("candidatesTokenCount", 0)
    return counts
