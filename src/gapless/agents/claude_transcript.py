"""A session's history as a transcript of Claude Code, and one run's part of it as Gapless keeps it.

The CLI goes on from a transcript alone: entries of user, assistant and its own, each below another by `parentUuid`. It
writes one as it works, and the SDK hands that over (`SessionStore`).
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gapless import events as g
from gapless.agents.base import RunContext
from gapless.agents.call_names import CallNames, call_names
from gapless.agents.conversation import with_a_beginning
from gapless.agents.turns import results_brought, turns_before
from gapless.errors import InputInvalid
from gapless.events import DataSource, Message, UrlSource, text_of
from gapless.jsontext import decode_json

__all__ = ["History", "Transcript", "blocks_of", "decode_kept", "encode_kept", "history_of", "turn_of"]

FRAMEWORK = "claude"
NO_RESULT = "This call has no result: the conversation went on without it."
DEFERRED = "hook_deferred_tool"
"""The CLI's own entry for a call that a hook has put off."""
STOPPED = "hook_stopped_continuation"
"""The CLI's own entry where a hook has ended the run before the model is asked again; it would tell the model so."""
UNKEPT = ("queue-operation", "last-prompt")
"""Entries that say again what was asked."""

Entry = dict[str, Any]


class History(NamedTuple):
    """Is what was said before a run: `entries`, and the `instructions` that are no part of a transcript."""

    entries: list[Entry]
    instructions: list[str]


class Transcript:
    """Gives the CLI the transcript of one run, what came `before` it and its `own` part, and takes what it adds: then
    `grown` is called. It is a `SessionStore` of the SDK's."""

    def __init__(self, before: Sequence[Entry], own: Iterable[Entry], grown: Callable[[], None]) -> None:
        self.own: list[Entry] = [*own]
        self._before = before
        self._grown = grown
        self._known = {entry.get("uuid") for entry in self.own}
        self.session_id = ""

    @property
    def is_empty(self) -> bool:
        """Returns whether there is nothing to go on from."""
        return not (self._before or self.own)

    @property
    def is_unanswered(self) -> bool:
        """Returns whether it ends with what the model is to answer, or with calls that were put off."""
        for entry in reversed([*self._before, *self.own]):
            if (entry.get("attachment") or {}).get("type") == DEFERRED or entry.get("type") == "user":
                return True
            if entry.get("type") == "assistant":
                return False
        return False

    def begin(self) -> str:
        """Return the id for a session of the CLI, a new one: several may go on from one transcript at once."""
        self.session_id = str(uuid.uuid4())
        return self.session_id

    async def append(self, key: Mapping[str, Any], entries: Sequence[Entry]) -> None:
        """Take what the CLI has written."""
        if key.get("subpath"):  # a sub-agent's: it is begun anew with the call that asked for it
            return
        for entry in entries:
            if entry.get("type") in UNKEPT or (entry.get("uuid") and entry["uuid"] in self._known):
                continue
            if (entry.get("attachment") or {}).get("type") == STOPPED:
                continue
            self._known.add(entry.get("uuid"))
            self.own.append(entry)
        self._grown()

    async def load(self, key: Mapping[str, Any]) -> list[Entry] | None:
        """Return all that the CLI goes on from."""
        return _linked([*self._before, *self.own], self.session_id)

    def step(self, complete: Mapping[str, Collection[str]], earlier: int) -> int:
        """Return how many of the own entries end with a step: all calls of the last answer have returned. `complete`
        has the calls of the answers that were heard to their end; the first `earlier` entries were before these."""
        is_open: set[str] = set()
        returned: set[str] = set()
        answer, found = "", 0
        for at, entry in enumerate(self.own):
            content = _content_of(entry)
            if entry.get("type") == "assistant":
                answer = str(entry["message"].get("id"))
                is_open.update(part["id"] for part in content if part.get("type") == "tool_use")
            elif results := {part["tool_use_id"] for part in content if part.get("type") == "tool_result"}:
                is_open -= results
                returned |= results
                heard = at < earlier or (answer in complete and returned.issuperset(complete[answer]))
                found = at + 1 if heard and not is_open else found
        return found

    def said(self, count: int) -> tuple[set[str], set[str]]:
        """Return the ids of the answers and of the calls in the first `count` of the own entries."""
        told = [entry for entry in self.own[:count] if entry.get("type") == "assistant"]
        calls = {part["id"] for entry in told for part in _content_of(entry) if part.get("type") == "tool_use"}
        return {str(entry["message"].get("id")) for entry in told}, calls


def encode_kept(run_id: str, entries: Sequence[Entry], **more: Any) -> bytes:
    """Encode a run's part of the transcript, with what `more` is to be known of it."""
    return json.dumps({"framework": FRAMEWORK, "run_id": run_id, "entries": entries, **more}).encode()


def decode_kept(data: bytes) -> dict[str, Any] | None:
    """Return what `encode_kept` was given; None for another framework's."""
    try:
        kept = json.loads(data)
    except ValueError:
        return None
    is_ours = isinstance(kept, dict) and kept.get("framework") == FRAMEWORK and isinstance(kept.get("entries"), list)
    return kept if is_ours else None


def turn_of(run_id: str, transcript: Transcript) -> bytes:
    """Return one turn in the form that `history_of` reads."""
    return encode_kept(run_id, transcript.own)


def history_of(ctx: RunContext) -> History:
    """Return the turns before the run's message. Every call before has a result: the client's, where it brought one."""
    entries: list[Entry] = []
    instructions: list[str] = []
    names = call_names(["anthropic"])
    for turn in turns_before(ctx, _decode_native):
        if turn.native is not None:
            entries += turn.native
        else:
            entries += _entries(turn.messages, names, is_first=not entries)
            instructions += [one.content for one in turn.messages if isinstance(one, g.SystemMessage)]
            instructions += [one.content for one in turn.messages if isinstance(one, g.DeveloperMessage)]
    told = {one.tool_call_id: one for one in (*ctx.messages, *results_brought(ctx)) if isinstance(one, g.ToolMessage)}
    return History(_answered(entries, told), instructions)


def blocks_of(content: str | list[g.ContentPart]) -> list[Entry]:
    """Return a user's message as blocks. Raises `InputInvalid` for what Claude has no place for."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [_block(part) for part in content]


def _decode_native(native: bytes) -> tuple[str, list[Entry]] | None:
    kept = decode_kept(native)
    return None if kept is None else (str(kept.get("run_id")), kept["entries"])


def _content_of(entry: Entry) -> list[Entry]:
    message = entry.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _answered(entries: Sequence[Entry], told: Mapping[str, g.ToolMessage]) -> list[Entry]:
    """Return the entries with a result of each call, and without what says that it is put off."""
    has = {part["tool_use_id"] for entry in entries for part in _content_of(entry) if part.get("type") == "tool_result"}
    found: list[Entry] = []
    missing: list[str] = []

    def bring() -> None:
        for id in missing:
            message = told.get(id)
            part = {"type": "tool_result", "tool_use_id": id, "content": NO_RESULT}
            found.append(_entry("user", [part if message is None else _result(message, id)]))
        missing.clear()

    for entry in entries:
        if (entry.get("attachment") or {}).get("type") == DEFERRED:
            continue
        if entry.get("type") == "user":
            bring()
        found.append(entry)
        if entry.get("type") == "assistant":
            missing += [
                part["id"] for part in _content_of(entry) if part.get("type") == "tool_use" and part["id"] not in has
            ]
    bring()
    return found


def _linked(entries: Sequence[Entry], session_id: str) -> list[Entry]:
    """Return the entries as one transcript: each is below one that is there."""
    found: list[Entry] = []
    known: set[str] = set()
    last: str | None = None
    for entry in entries:
        made = {**entry, "sessionId": session_id} if "sessionId" in entry else dict(entry)
        if isinstance(id := made.get("uuid"), str) and "parentUuid" in made:
            if made["parentUuid"] not in known and "logicalParentUuid" not in made:
                made["parentUuid"] = last
            known.add(id)
            last = id
        found.append(made)
    return found


def _entry(role: str, content: Any, **message: Any) -> Entry:
    return {
        "parentUuid": None,
        "isSidechain": False,
        "type": role,
        "message": {"role": role, "content": content, **message},
        "uuid": str(uuid.uuid4()),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sessionId": "",
    }


def _entries(messages: Sequence[Message], names: CallNames, *, is_first: bool) -> list[Entry]:
    found: list[Entry] = []
    for message in names.messages(with_a_beginning([*messages], first=is_first)):
        if isinstance(message, g.UserMessage):
            found.append(_entry("user", blocks_of(message.content)))
        elif isinstance(message, g.ToolMessage):
            found.append(_entry("user", [_result(message, message.tool_call_id)]))
        elif isinstance(message, g.AssistantMessage):
            content: list[Entry] = [{"type": "text", "text": message.content}] if message.content else []
            for call in message.tool_calls or ():
                given = decode_json(call.function.arguments.strip() or "{}")
                content.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": given})
            usage = {"input_tokens": 0, "output_tokens": 0}
            stop = "tool_use" if message.tool_calls else "end_turn"
            found.append(
                _entry(
                    "assistant",
                    content,
                    id=f"msg_{uuid.uuid4().hex}",
                    type="message",
                    model="another",
                    stop_reason=stop,
                    stop_sequence=None,
                    usage=usage,
                )
            )
    return found


def _result(message: g.ToolMessage, id: str) -> Entry:
    """Return a call's result, its pictures and documents too."""
    text = text_of(message.content) or message.error or ""
    told: Any = text
    if isinstance(message.content, list) and any(not isinstance(part, g.TextPart) for part in message.content):
        told = [_block(part) for part in message.content]
    failed = {"is_error": True} if message.error else {}
    return {"type": "tool_result", "tool_use_id": id, "content": told, **failed}


def _block(part: g.ContentPart) -> Entry:
    if isinstance(part, g.TextPart):
        return {"type": "text", "text": part.text}
    kind = "image" if isinstance(part, g.ImagePart) else "document" if isinstance(part, g.DocumentPart) else None
    source = part.source
    if kind is not None and isinstance(source, DataSource):
        if source.mime_type.startswith("text/"):
            text = base64.b64decode(source.value).decode(errors="replace")
            return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}
        where = {"type": "base64", "media_type": source.mime_type, "data": source.value}
        return {"type": kind, "source": where}
    if kind is not None and isinstance(source, UrlSource):
        return {"type": kind, "source": {"type": "url", "url": source.value}}
    raise InputInvalid(f"this agent takes text, pictures and documents, and no {source.mime_type or 'such file'}")
