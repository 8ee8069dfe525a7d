"""ADK's own events, as an ADK agent's run has them beside what they were translated to (`agents/adk_raw.py`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import msgspec

from gapless.events import (
    ContentPart,
    CustomEvent,
    DataSource,
    Event,
    RawEvent,
    ReasoningMessageContentEvent,
    ReasoningStartEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    TextPart,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    delta_head,
    text_of,
)
from gapless.fold import FILE, RESTARTED, VOID
from gapless.jsontext import decode_json
from gapless.records import RunRecord
from gapless.wire import NO_DELTA

__all__ = ["OwnEvents", "own_of"]

_REF = "$"
_ACTIONS: dict[str, Any] = {
    "stateDelta": {},
    "artifactDelta": {},
    "requestedAuthConfigs": {},
    "requestedToolConfirmations": {},
}
_encode = msgspec.json.Encoder().encode


def own_of(event: Event) -> dict[str, Any] | None:
    """Return what an event has of ADK's own; None for nothing."""
    raw = event.event if isinstance(event, RawEvent) else event.raw_event
    adk = raw.get("adk") if isinstance(raw, dict) else None
    return adk if isinstance(adk, dict) else None


class OwnEvents:
    """Makes ADK's events again of what is named in them and what the run says."""

    def __init__(self, run: RunRecord, *, partials: bool, splits: bool) -> None:
        self._run = run
        self._partials = partials
        self._splits = splits
        """An event's artifacts come apart from its content, as on `/run_sse`."""
        self.delta_head = NO_DELTA
        """How the stored deltas of the newest message begin, where each is a frame."""
        self.pieces: list[bytes] = []
        self.tail = b""
        """The newest message's pieces, and what its frames have after the text."""
        self.called: set[str] = set()
        """Calls that were told since the run began or went on."""
        self._seconds = run.created_at / 1000
        self._events = 0
        self._template: dict[str, Any] = {}
        self._messages: dict[str, tuple[dict[str, Any], bool, list[bytes]]] = {}
        """Texts that no whole event has named yet: what partial events with them are like, and their pieces."""
        self._arguments: dict[str, list[str]] = {}
        self._results: dict[str, str] = {}
        self._shown: dict[str, list[ContentPart]] = {}
        """What came with results, pictures and files, by call."""
        self._files: dict[str, dict[str, Any]] = {}
        self._files_seen = 0
        self._error_told: Any = None
        """Code of the error that the newest whole event is."""

    def frames(self, event: Event, own: dict[str, Any] | None) -> Sequence[bytes]:
        """Return the frames of an event; `own` is what it has of ADK's."""
        if isinstance(event, TextMessageStartEvent | ReasoningStartEvent):
            template = (own or {}).get("partial")
            self._template = template if isinstance(template, dict) else {}
        frames = self._frames(event, own is not None and bool(own.get("silent")))
        return (*frames, *self._whole(own)) if own is not None and "id" in own else frames

    def _frames(self, event: Event, silent: bool) -> Sequence[bytes]:
        match event:
            case TextMessageContentEvent() | ReasoningMessageContentEvent():
                return self._said(event, silent=silent)
            case ToolCallArgsEvent():
                self._arguments.setdefault(event.tool_call_id, []).append(event.delta)
            case ToolCallResultEvent():
                self._results[event.tool_call_id] = text_of(event.content)
                parts = event.content if isinstance(event.content, list) else []
                self._shown[event.tool_call_id] = [part for part in parts if not isinstance(part, TextPart)]
            case RunStartedEvent(timestamp=int(at)):
                self._seconds = at / 1000
                self.called.clear()
            case RunFinishedEvent(outcome=RunFinishedCancelledOutcome()):
                cancelled = {"errorCode": "INVOCATION_ABORTED", "errorMessage": "Invocation was aborted by client."}
                return (*self._rest(), self._beside(cancelled))
            case RunErrorEvent():
                code = event.code or "run_failed"
                if code == self._error_told:
                    return self._rest()
                details = {"error_type": code, "error_message": event.message}
                told = _encode({"error": f"{code}: {event.message}", "error_details": details})
                return (*self._rest(), self._beside({"errorCode": code, "errorMessage": event.message}), told)
            case CustomEvent(name=name):
                if name == FILE and isinstance(event.value, dict):
                    self._files[str(self._files_seen)] = event.value
                    self._files_seen += 1
                elif name == VOID and silent:  # ADK's own event has what counts in its place
                    for id in event.value["messageIds"]:
                        self._messages.pop(id, None)
                elif name in ("gapless.notice", RESTARTED, VOID):
                    if name != "gapless.notice":
                        self._forget()
                    return (self._beside({"customMetadata": {name: event.value}}),)
        return ()

    def _beside(self, fields: dict[str, Any]) -> bytes:
        """Return an event that ADK has not made."""
        self._events += 1
        id = f"{self._run.id}-e{self._events}"
        base = {"invocationId": self._run.id, "author": self._run.agent, "actions": _ACTIONS}
        base["nodeInfo"] = {"path": f"{self._run.agent}@1"}
        return _encode({**fields, **base, "id": id, "timestamp": self._seconds})

    def _rest(self) -> Sequence[bytes]:
        """Return what was said and no whole event has told: it was cut off there."""
        found = []
        for template, thought, pieces in self._messages.values():
            part: dict[str, Any] = {"text": msgspec.Raw(b'"%b"' % b"".join(pieces))}
            said = {"content": {"parts": [part | ({"thought": True} if thought else {})], "role": "model"}}
            own = {**said, **template, "partial": False, "interrupted": True}
            found.append(_encode({**own, "invocationId": self._run.id}))
        self._forget()
        return found

    def _forget(self) -> None:
        """Forget what was said so far."""
        self._messages.clear()
        self._arguments.clear()
        self._results.clear()
        self._shown.clear()
        self._files.clear()
        self.delta_head = NO_DELTA

    def _said(self, event: TextMessageContentEvent | ReasoningMessageContentEvent, *, silent: bool) -> Sequence[bytes]:
        thought = isinstance(event, ReasoningMessageContentEvent)
        known = self._messages.get(event.message_id)
        if known is None:
            known = self._messages[event.message_id] = self._template, thought, []
        template, _, pieces = known
        text = _encode(event.delta)
        pieces.append(text[1:-1])
        if silent or not template:
            self.delta_head = NO_DELTA
            return ()
        self.delta_head, self.pieces = delta_head(type(event), event.message_id), pieces
        rest = _encode({**template, "invocationId": self._run.id})
        self.tail = (b',"thought":true}' if thought else b"}") + b'],"role":"model"},' + rest[1:]
        return (b'{"content":{"parts":[{"text":' + text + self.tail,) if self._partials else ()

    def _whole(self, own: dict[str, Any]) -> Sequence[bytes]:
        own = copy.deepcopy(own)
        for part in (own.get("content") or {}).get("parts") or ():
            self._fill(part)
        own["invocationId"] = self._run.id
        self._error_told = own.get("errorCode")
        self.delta_head = NO_DELTA
        if own.get("partial") is True:
            return (_encode(own),) if self._partials else ()
        self._files.clear()
        actions = own.get("actions") or {}
        if not (self._splits and actions.get("artifactDelta") and (own.get("content") or {}).get("parts")):
            return (_encode(own),)
        apart = {key: value for key, value in own.items() if key != "content"}
        return _encode({**own, "actions": {**actions, "artifactDelta": {}}}), _encode(apart)

    def _fill(self, part: dict[str, Any]) -> None:
        """Put what the part names in its place."""
        if (id := _named(part.get("text"))) is not None:
            _, _, pieces = self._messages.pop(id, ({}, False, []))
            part["text"] = msgspec.Raw(b'"%b"' % b"".join(pieces))
        call, response = part.get("functionCall"), part.get("functionResponse")
        if isinstance(call, dict):
            self.called.add(str(call.get("id")))
        if isinstance(call, dict) and (id := _named(call.get("args"))) is not None:
            call["args"] = _object("".join(self._arguments.get(id, ())))
        if isinstance(response, dict) and (id := _named(response.get("response"))) is not None:
            response["response"] = _object(self._results.get(id, "{}"))
        if isinstance(response, dict):
            for one in response.get("parts") or ():
                _fill_media(one, self._shown)
        if isinstance(blob := part.get("inlineData"), dict) and (id := _named(blob.get("data"))) is not None:
            file = self._files.get(id, {})
            del blob["data"]
            if isinstance(file.get("data"), str):
                blob["data"] = file["data"].replace("+", "-").replace("/", "_")
            elif isinstance(file.get("url"), str):  # too large for an event
                del part["inlineData"]
                part["fileData"] = {"fileUri": file["url"], "mimeType": file.get("mimeType")}


def _fill_media(one: dict[str, Any], shown: dict[str, list[ContentPart]]) -> None:
    """Put in its place what a result's part names, by its number and call, of those that were `shown`."""
    blob = one.get("inlineData")
    name = _named(blob.get("data")) if isinstance(blob, dict) else None
    number, _, call_id = (name or "").partition(":")
    parts = shown.get(call_id, [])
    if not number.isdecimal() or int(number) >= len(parts) or isinstance(part := parts[int(number)], TextPart):
        return
    if isinstance(part.source, DataSource):
        one["inlineData"] = {**one["inlineData"], "data": part.source.value.replace("+", "-").replace("/", "_")}
    else:  # too large for an event
        del one["inlineData"]
        one["fileData"] = {"fileUri": part.source.value, "mimeType": part.source.mime_type}


def _named(value: Any) -> str | None:
    return str(value[_REF]) if isinstance(value, dict) and list(value) == [_REF] else None


def _object(text: str) -> Any:
    try:
        return decode_json(text)
    except msgspec.DecodeError:
        return {}
