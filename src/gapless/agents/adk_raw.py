"""ADK's own events beside what they are translated to, for clients of ADK's server, who get them as they are.

Each whole event goes, as JSON, with the last event that it was translated to (`rawEvent`), and what partial events have
but for their text with the first. What the run says anyway is not said twice: a text, a call's arguments and a result
are named there by the ids under which they were shown, as `{"$": id}`.
"""

from __future__ import annotations

import json
from typing import Any

from google.adk.events import Event
from google.genai import types
from pydantic_core import PydanticSerializationError

from gapless.agents.adk_turn import hide_exception, without_secrets
from gapless.agents.base import AgentItem
from gapless.agents.values import json_of, plain
from gapless.events import (
    CustomEvent,
    EventBase,
    RawEvent,
    ReasoningMessageContentEvent,
    TextMessageContentEvent,
    ToolCallArgsEvent,
)
from gapless.fold import VOID
from gapless.jsontext import is_deep

try:  # what ADK's server leaves out; it has no public name
    from google.adk.auth.auth_credential import _redact_credential_secrets as _redacted
except ImportError:
    _redacted = without_secrets

__all__ = ["Shows", "keeps_state_only", "mark", "raw_partial", "silence", "tell"]

REF = "$"
NAMED_CHARS_MIN = 256
"""Arguments and results that are at least so long are named, not repeated."""
RAW_BYTES_MAX = 64 * 1024
"""An event that is longer all the same, such as by its changes to the state, is told without its actions' values."""
_DELTAS = (TextMessageContentEvent, ReasoningMessageContentEvent, ToolCallArgsEvent)


class Shows:
    """What of one whole event was shown, and under which ids: `texts` with their messages' ids, thoughts apart, and the
    numbers of `files`."""

    def __init__(self, texts: list[tuple[str, bool, str]], files: list[int]) -> None:
        self._texts = texts
        self._files = files

    def text(self, part: types.Part) -> str | None:
        """Return the id of the message that this part's text is, the first that was not named before."""
        for at, (id, thought, text) in enumerate(self._texts):
            if text == part.text and thought == bool(part.thought):
                del self._texts[at]
                return id
        return None

    def file(self) -> int:
        """Return the number of the next part that is a file."""
        return self._files.pop(0) if self._files else -1


def keeps_state_only(event: Event) -> bool:
    """Return whether the event is a resumable app's mark of how far its agents are, and nothing else."""
    actions = event.actions
    return (actions.agent_state is not None or bool(actions.end_of_agent)) and event.content is None


def raw_partial(event: Event) -> dict[str, Any]:
    """Return what partial events like this one have, but for their parts and tokens."""
    return {"partial": _dumped(event.model_copy(update={"content": None, "usage_metadata": None}))}


def tell(out: list[AgentItem], event: Event, shows: Shows, shown_id: Any) -> None:
    """Put the event as it is on the last of those that it was translated to, or on one of its own."""
    raw = _dumped(event)
    for part, said in zip((event.content.parts if event.content else None) or (), _parts(raw), strict=False):
        if part.text and (id := shows.text(part)) is not None:
            said["text"] = {REF: id}
        elif part.function_call is not None and len(json_of(part.function_call.args or {})) >= NAMED_CHARS_MIN:
            said["functionCall"]["args"] = {REF: shown_id(part.function_call.id or "")}
        elif part.function_response is not None and _is_shown(out, shown_id(part.function_response.id or "")):
            if len(json_of(part.function_response.response or {})) >= NAMED_CHARS_MIN:
                said["functionResponse"]["response"] = {REF: shown_id(part.function_response.id or "")}
            for number, one in enumerate(said["functionResponse"].get("parts") or ()):
                if "data" in one.get("inlineData", {}):
                    one["inlineData"]["data"] = {REF: f"{number}:{shown_id(part.function_response.id or '')}"}
        elif part.inline_data is not None and part.inline_data.data:
            said["inlineData"]["data"] = {REF: str(shows.file())}
    text = json.dumps(raw)
    if is_deep(text.encode()):
        raw = json.loads(json_of(raw))  # which tells what is too deep as text
    if len(text) > RAW_BYTES_MAX:
        raw.get("actions", {}).pop("stateDelta", None)
    last = out[-1] if out else None
    if isinstance(last, EventBase) and last.raw_event is None and not isinstance(last, _DELTAS):
        last.raw_event = {"adk": raw}
    else:
        out.append(RawEvent(source="adk", event={"adk": raw}))


def mark(out: list[AgentItem]) -> None:
    """Say on the first of these events that ADK's own come too."""
    if out and isinstance(first := out[0], EventBase) and first.raw_event is None:
        first.raw_event = {"adk": {}}


def silence(out: list[AgentItem]) -> None:
    """Say of deltas, and of what is taken back, that ADK's own event with what counts follows whole."""
    for item in out:
        if isinstance(item, _DELTAS) or (isinstance(item, CustomEvent) and item.name == VOID):
            item.raw_event = {"adk": {"silent": True}}


def _is_shown(out: list[AgentItem], call_id: str) -> bool:
    return any(getattr(item, "tool_call_id", None) == call_id for item in out)


def _parts(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return (raw.get("content") or {}).get("parts") or []


def _dumped(event: Event) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = event.model_dump(mode="json", by_alias=True, exclude_none=True, fallback=repr)
    except (PydanticSerializationError, ValueError):  # half a character in what a tool gave
        raw = plain(event.model_dump(by_alias=True, exclude_none=True))
    found: dict[str, Any] = _redacted(raw)
    del found["invocationId"]  # the run's own id, by which it can be cancelled
    hide_exception(found)
    return found
