"""What a model says, as events: parts as they come, and wholes that are reconciled with their parts.

For adapters. A framework streams a message in parts, repeats it whole when it is complete, or gives it whole alone; the
journal has each word once. Ends of what is not open are ignored by the recorder, which also begins what was not begun.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from gapless.events import (
    ContentPart,
    CustomEvent,
    DataSource,
    Event,
    ReasoningEncryptedValueEvent,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextPart,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UrlSource,
)
from gapless.fold import ARTIFACT, FILE
from gapless.user_message import media_part, simplest

__all__ = [
    "FINISH_REASONS",
    "Call",
    "Said",
    "WholeCall",
    "artifact",
    "file",
    "finish",
    "notice",
    "result",
    "settings_ignored",
    "with_files",
]

FINISH_REASONS = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "completed", "complete", "eos", "eos_token"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    "model_context_window_exceeded": "length",
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "safety", "sensitive", "refusal", "recitation", "blocklist"), "content_filter"),
    **dict.fromkeys(("prohibited_content", "spii", "error_toxic"), "content_filter"),
    "error": "error",
}
"""What services call the ways in which an answer ends, in small letters, as `gapless.finish` says it. (OpenAI,
Anthropic, Cohere, Gemini, Hugging Face and Zhipu, some of them behind gateways.)"""


class WholeCall(NamedTuple):
    """Is a tool call that is complete: `id`, `name`, and the JSON of its `arguments`."""

    id: str
    name: str
    arguments: str


class Call:
    """Says one call of a model, from the first that is heard of it: its `id` and `name`, which may change until it
    begins. `parent` is the message that it is in, `author` the sub-agent whose it is."""

    __slots__ = ("author", "ended", "held", "id", "name", "parent", "said", "started")

    def __init__(self, id: str = "", name: str = "", *, parent: str | None = None, author: str | None = None) -> None:
        self.id = id
        self.name = name
        self.parent = parent
        self.author = author
        self.held = ""
        """Arguments that came before its id and name."""
        self.started = self.said = self.ended = False

    def start(self, metadata: dict[str, Any] | None = None) -> list[Event]:
        """Begin it, unless it has begun; `metadata` goes with it."""
        if self.started:
            return []
        self.started = True
        return [
            ToolCallStartEvent(
                tool_call_id=self.id,
                tool_call_name=self.name,
                parent_message_id=self.parent,
                subagent_run_id=self.author,
                metadata=metadata,
            )
        ]

    def say(self, arguments: str) -> list[Event]:
        """Say more of its `arguments`' JSON, and begin it with that."""
        self.said = True
        event = ToolCallArgsEvent(tool_call_id=self.id, delta=arguments, subagent_run_id=self.author)
        return [event] if self.started else [*self.start(), event]

    def end(self, whole: str | None = None, signature: str | None = None) -> list[Event]:
        """End it, unless it has ended: say its `whole` arguments where none were said, and then the `signature` that
        its provider wants back with it."""
        if self.ended:
            return []
        found = [] if whole is None or self.said else self.say(whole)
        self.ended = True
        if signature is not None:
            found.append(
                ReasoningEncryptedValueEvent(
                    subtype="tool-call", entity_id=self.id, encrypted_value=signature, subagent_run_id=self.author
                )
            )
        found.append(ToolCallEndEvent(tool_call_id=self.id, subagent_run_id=self.author))
        return found


class Said:
    """Says one message of a model, `id`, part by part; each method returns the events to record.

    `author` is the sub-agent whose message it is. `new_id` makes the ids of its reasoning, as `RunContext.new_id` does.
    Reasoning ends when something else begins.
    """

    __slots__ = ("_calls", "_files", "_new_id", "_reasoning", "_texts", "_thoughts", "author", "id")

    def __init__(self, id: str, new_id: Callable[[str], str], author: str | None = None) -> None:
        self.id = id
        self.author = author
        self._new_id = new_id
        self._reasoning: str | None = None
        """The id of the reasoning that is open."""
        self._thoughts = self._files = 0
        self._texts: list[str] = []
        self._calls: dict[Hashable, Call] = {}

    @property
    def spoken(self) -> str:
        """Returns the text so far."""
        return "".join(self._texts)

    @property
    def call_ids(self) -> Iterable[str]:
        """Returns the ids of its calls."""
        return [call.id for call in self._calls.values() if call.started]

    def text(self, delta: str) -> list[Event]:
        """Say more of the text, `delta`."""
        if (event := self.delta(delta)) is not None:
            return [event]
        return [*self.end_reasoning(), *self.text(delta)]

    def delta(self, delta: str) -> TextMessageContentEvent | None:
        """Say more of the text, `delta`, in the one event that it mostly is. None where it is more, and nothing is
        said: reasoning has to end before.
        """
        if self._reasoning is not None:
            return None
        self._texts.append(delta)
        return TextMessageContentEvent(message_id=self.id, delta=delta, subagent_run_id=self.author)

    def reasoning(self, delta: str, *, part: bool = False) -> list[Event]:
        """Say more of what is thought, `delta`; in a message of its own where a new `part` begins."""
        found = self.end_reasoning() if part else []
        if delta:
            self._thoughts += len(delta)
            found.append(
                ReasoningMessageContentEvent(
                    message_id=self._open_reasoning(), delta=delta, subagent_run_id=self.author
                )
            )
        return found

    def signature(self, value: str) -> list[Event]:
        """Add the provider's signature of what was thought, `value`; without any thought, of what it keeps secret."""
        found: list[Event] = []
        if self._reasoning is None:
            found.append(ReasoningMessageStartEvent(message_id=self._open_reasoning()))
        id = self._open_reasoning()
        found.append(ReasoningMessageEndEvent(message_id=id, subagent_run_id=self.author))
        found.append(
            ReasoningEncryptedValueEvent(
                subtype="message", entity_id=id, encrypted_value=value, subagent_run_id=self.author
            )
        )
        found.append(ReasoningEndEvent(message_id=id, subagent_run_id=self.author))
        self._reasoning = None
        return found

    def call(self, key: Hashable, id: str | None = None, name: str | None = None, arguments: str = "") -> list[Event]:
        """Say more of the call that `key` tells from the message's others: its `id` and `name` once they are known, and
        a piece of the JSON of its `arguments`. Calls may take turns."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = Call(parent=self.id, author=self.author)
        if call.ended:
            return []
        if call.started:
            return call.say(arguments) if arguments else []
        call.id, call.name, call.held = call.id or id or "", call.name or name or "", call.held + arguments
        if not (call.id and call.name):
            return []
        return [*self.end_reasoning(), *call.start(), *(call.say(call.held) if call.held else ())]

    def file(self, mime_type: str | None, data: str | bytes | None = None, url: str | None = None) -> list[Event]:
        """Give a picture or another file of `mime_type`: its `data`, or the `url` where it is, as `file` takes them."""
        self._files += 1
        return [*self.end_reasoning(), file(mime_type, data, url, author=self.author)]

    def whole(
        self,
        text: str = "",
        reasoning: str = "",
        calls: Sequence[WholeCall] = (),
        files: Sequence[tuple[str | None, str | bytes | None, str | None]] = (),
    ) -> list[Event]:
        """Say what of the complete message (its `text`, `reasoning`, `calls` and `files`) was not said in parts, and
        end it."""
        found: list[Event] = []
        if reasoning and not self._thoughts:
            found += self.reasoning(reasoning)
        spoken = self.spoken
        if len(text) > len(spoken) and text.startswith(spoken):
            found += self.text(text[len(spoken) :])
        known = {call.id: call for call in self._calls.values()}
        for one in calls:
            call = known.get(one.id)
            if call is None:
                found += self.call(one, one.id, one.name, one.arguments)
            elif call.started and not call.said and not call.ended:
                found += call.say(one.arguments)
        for given in files[self._files :]:
            found += self.file(*given)
        return [*found, *self.end()]

    def end_reasoning(self) -> list[Event]:
        """End what is thought, where that is open."""
        if self._reasoning is None:
            return []
        id, self._reasoning = self._reasoning, None
        return [
            ReasoningMessageEndEvent(message_id=id, subagent_run_id=self.author),
            ReasoningEndEvent(message_id=id, subagent_run_id=self.author),
        ]

    def end(self) -> list[Event]:
        """End the message, and its calls: their arguments are complete."""
        found = self.end_reasoning()
        for call in self._calls.values():
            found += call.end() if call.started else []
            call.ended = True
        if self._texts:
            found.append(TextMessageEndEvent(message_id=self.id, subagent_run_id=self.author))
        return found

    def _open_reasoning(self) -> str:
        if self._reasoning is None:
            self._reasoning = self._new_id("reasoning")
        return self._reasoning


def result(
    message_id: str,
    call_id: str,
    content: str | list[ContentPart],
    *,
    error: str | None = None,
    author: str | None = None,
) -> ToolCallResultEvent:
    """Tell what the call `call_id` has returned, `content`, or with which `error` it failed, as the message
    `message_id` of the sub-agent `author`."""
    return ToolCallResultEvent(
        message_id=message_id, tool_call_id=call_id, content=content, role="tool", error=error, subagent_run_id=author
    )


def file(
    mime_type: str | None, data: str | bytes | None = None, url: str | None = None, *, author: str | None = None
) -> CustomEvent:
    """Give a picture or another file of the answer, of `mime_type` and the sub-agent `author`: its `data`, as they are
    or in base64, or the `url` where it is. A URL that holds the data is taken for these."""
    mime_type, data, url = _where(mime_type, data, url)
    where: dict[str, Any] = {"url": url} if data is None else {"data": data}
    return CustomEvent(name=FILE, value={"mimeType": mime_type, **where}, subagent_run_id=author)


def artifact(name: str, version: int, *, author: str | None = None) -> CustomEvent:
    """Tell that the framework has saved a `version` of the session's artifact `name`, for the sub-agent `author`."""
    return CustomEvent(name=ARTIFACT, value={"name": name, "version": version}, subagent_run_id=author)


def with_files(
    text: str, files: Iterable[tuple[str | None, str | bytes | None, str | None]]
) -> str | list[ContentPart]:
    """Return what a tool has returned: its `text`, and the pictures and other `files`, each as `file` takes them."""
    found: list[ContentPart] = [TextPart(text=text)] if text else []
    for mime_type, data, url in files:
        kind, held, where = _where(mime_type, data, url)
        if isinstance(held, bytes):
            held = base64.b64encode(held).decode()
        if held is not None:
            found.append(media_part(DataSource(value=held, mime_type=kind or "application/octet-stream")))
        elif where is not None:
            found.append(media_part(UrlSource(value=where, mime_type=kind)))
    return simplest(found)


def _where(
    mime_type: str | None, data: str | bytes | None, url: str | None
) -> tuple[str | None, str | bytes | None, str | None]:
    """Return a file's type, and its data or else where it is; a URL that holds the data is taken for these."""
    head, comma, held = (url or "").partition(";base64,")
    if comma and head.startswith("data:"):
        return head.removeprefix("data:"), held, None
    return mime_type, data, url


def notice(code: str, message: str) -> CustomEvent:
    """Tell the user something of the run that is no part of the answer: `message`, and its kind, `code`."""
    return CustomEvent(name="gapless.notice", value={"code": code, "message": message})


def settings_ignored(names: Iterable[str]) -> CustomEvent:
    """Tell the user that the agent cannot do as the settings of these `names` say."""
    return notice("setting_ignored", f"this agent cannot do as these settings say: {', '.join(names)}")


def finish(reason: object) -> list[Event]:
    """Say why the last answer ended, where that is known: `reason`, in a service's words."""
    known = FINISH_REASONS.get(reason.lower()) if isinstance(reason, str) else None
    return [] if known is None else [CustomEvent(name="gapless.finish", value={"reason": known})]
