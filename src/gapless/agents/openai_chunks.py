"""Chunks of chat completions, as loosely as the services that offer them are.

The OpenAI API reference says what a chunk is. What others send beside that, and how it is read, is written here and
nowhere else: what says the same in another form is taken for it, what says nothing is passed over, and what is no chat
completion at all is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gapless.agents.endpoint_json import decode_halved
from gapless.agents.writing import FINISH_REASONS
from gapless.errors import ModelFailed
from gapless.events import Event, TokenUsage, ToolCallArgsEvent, ToolCallEndEvent, ToolCallStartEvent
from gapless.halves import Halves
from gapless.jsontext import decode_json

__all__ = [
    "Calls",
    "Choice",
    "Chunk",
    "Delta",
    "decode_chunk",
    "failure_of",
    "finish_of",
    "pictures_of",
    "texts_of",
    "usage_of",
]

ERROR_CHARS_MAX = 500
"""What is passed on of a service's own error message."""

_FAILED = frozenset(
    {
        "error",  # OpenRouter, Cohere
        "network_error",  # Zhipu
        "insufficient_system_resource",  # DeepSeek
        "abort",  # vLLM, SGLang
        "malformed_function_call",  # Gemini
        "malformed_response",
        "unexpected_tool_call",
    }
)
"""Finish reasons of an answer that its service gave up."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _CallDelta(msgspec.Struct):
    index: Any = None
    id: str | int | None = None
    function: _Function | None = None


class Delta(msgspec.Struct):
    content: str | list[Any] | dict[str, Any] | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: list[_CallDelta | None] | _CallDelta | None = None
    function_call: _Function | None = None
    """The form before `tool_calls`."""
    images: Any = None


class Choice(msgspec.Struct):
    index: Any = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: Any = None
    usage: Any = None
    error: Any = None


class Chunk(msgspec.Struct):
    """A streamed chunk or a whole completion: they differ in `delta` and `message`."""

    choices: list[Choice | None] | None = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None
    object: Any = None
    message: Any = None
    detail: Any = None

    @property
    def choice(self) -> Choice | None:
        """Returns the first choice: one run, one answer, however many the service gives."""
        return next((one for one in self.choices or () if one is not None and one.index in (None, 0, "0")), None)


def decode_chunk(data: str | bytes, host: str, run_id: str) -> Chunk:
    """Decode a chunk. Raises `ModelFailed` for what is none."""
    try:
        return decode_halved(data, Chunk)
    except msgspec.DecodeError as error:
        raise ModelFailed(f"{host} sent what is not a chat completion: {error}", run_id=run_id) from None


def finish_of(choice: Choice) -> str | None:
    """Return why the answer ended, in OpenAI's words where there is one for it; None while it goes on."""
    reason = choice.finish_reason
    if not isinstance(reason, str) or reason in ("", "null"):
        return None
    said = reason.rpartition(":")[2].strip().lower()  # Gemini: "function_call_filter: MALFORMED_FUNCTION_CALL"
    return FINISH_REASONS.get(said, said)


def failure_of(chunk: Chunk) -> str | None:
    """Return what the service says has failed, or None: an error comes under status 200 once the answer has begun."""
    choice = chunk.choice
    error = chunk.error or (choice.error if choice is not None else None)
    if not error and not chunk.choices and (chunk.object == "error" or chunk.message or chunk.detail):
        error = chunk.message or chunk.detail or chunk.object
    if error:
        said = error.get("message") or error.get("code") or error if isinstance(error, dict) else error
        return str(said)[:ERROR_CHARS_MAX]
    reason = finish_of(choice) if choice is not None else None
    return f"it gave the answer up ({reason})" if reason in _FAILED else None


def texts_of(delta: Delta) -> tuple[str, str]:
    """Return the thought and the text of a delta."""
    thought, text = _texts(delta.content)
    said = delta.reasoning_content or delta.reasoning or delta.reasoning_details
    return "".join(_texts(said)) or thought, text + (delta.refusal or "")


def _texts(content: Any) -> tuple[str, str]:
    """Return the thought and the text of content: text, a part, or a list of these. Other parts say neither."""
    if isinstance(content, str):
        return "", content
    if isinstance(content, list):
        found = [_texts(part) for part in content]
        return "".join(thought for thought, _ in found), "".join(text for _, text in found)
    if not isinstance(content, dict):
        return "", ""
    for key in ("thinking", "reasoning", "summary"):
        if content.get(key):
            return "".join(_texts(content[key])), ""
    text = "".join(_texts(content.get("text") or content.get("refusal") or content.get("content")))
    return (text, "") if str(content.get("type")).startswith(("reasoning", "thinking")) else ("", text)


def pictures_of(delta: Delta) -> Iterator[str]:
    """Yield the URLs of a delta's pictures, which mostly hold them: beside its content (OpenRouter) or in it."""
    for parts in (delta.images, delta.content):
        for part in parts if isinstance(parts, list) else ():
            where = _under(part, "image_url")
            url = where if isinstance(where, str) else _under(where, "url")
            if isinstance(url, str) and url.startswith(("data:image/", "https://", "http://")):
                yield url


def usage_of(chunk: Chunk, provider: str, model: str) -> TokenUsage | None:
    """Return the tokens that a chunk counts, if it does: at its root, in its choice (Moonshot) or aside (Groq)."""
    places = (chunk.usage, chunk.choice.usage if chunk.choice is not None else None, _under(chunk.x_groq, "usage"))
    usage = next((place for place in places if isinstance(place, dict) and place), None)
    if usage is None:
        return None
    read, written = _count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens")
    return TokenUsage(
        provider=provider,
        model=model,
        input_tokens=read,
        output_tokens=written,
        total_tokens=_count(usage, "total_tokens"),
        cached_input_tokens=_count(_under(usage, "prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(_under(usage, "completion_tokens_details"), "reasoning_tokens"),
    )


def _under(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _count(value: Any, *names: str) -> int | None:
    for name in names:
        count = _under(value, name)
        if isinstance(count, str) and count.isdecimal() and len(count) < 16:
            return int(count)
        if isinstance(count, int | float) and 0 <= count < 2**53:
            return int(count)
    return None


class _Call:
    """One call: shown once its name and its id have come, or nothing more can."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.shown_id = ""
        """The id that its events bear, once it is shown. Later ones change nothing."""
        self._pieces: list[str] = []
        """Its arguments as they came."""
        self._pieces_shown = 0
        self._halves = Halves()

    @property
    def complete(self) -> bool:
        """Returns whether the arguments are whole."""
        if not self._pieces or self._pieces[-1].rstrip()[-1:] not in ("", "}", "]"):
            return False  # told without reading them all again, for services that name the call in each delta
        try:
            decode_json("".join(self._pieces))
        except msgspec.DecodeError:
            return False
        return True

    def repeats(self, id: str, name: str, arguments: str) -> bool:
        """Return whether a delta is this call said again, whole."""
        return id == self.id and name == self.name and self.complete and "".join(self._pieces) == arguments

    @property
    def begun(self) -> bool:
        """Returns whether arguments have come: the name is whole then."""
        return bool(self._pieces)

    def goes_on(self, id: str, name: str, arguments: str, *, indexed: bool) -> bool:
        """Return whether a delta that is at this call's place continues it, rather than begin another."""
        if not name or not self.name:
            return True
        if name != self.name:  # a name may come in pieces, as arguments do
            return indexed and not self.begun and (not id or id == self.id)
        if not self._pieces:
            return not (id and self.id and id != self.id)
        if self.complete:
            return not arguments and (not id or id == self.id)
        return True

    def take(self, id: str, name: str, arguments: str) -> None:
        self.id = self.id or id
        if not self.name or (name != self.name and not self.begun):
            self.name += name
        if piece := self._halves.feed(arguments):
            self._pieces.append(piece)

    def show(self, id: str) -> Iterator[Event]:
        """Show what there is to show, under `id` where it has no other yet."""
        if not self.shown_id:
            self.shown_id, self.name = id, self.name or "unnamed"
            yield ToolCallStartEvent(tool_call_id=id, tool_call_name=self.name)
        if delta := "".join(self._pieces[self._pieces_shown :]):
            self._pieces_shown = len(self._pieces)
            yield ToolCallArgsEvent(tool_call_id=self.shown_id, delta=delta)

    def end(self) -> None:
        if piece := self._halves.end():
            self._pieces.append(piece)


class Calls:
    """The calls of one answer, told apart by what its service gives: an index, an id, a name, or their order.

    Their ids are the service's, but for those that it gave to an earlier call already, `taken`, or to none: results are
    known by them in the whole session.
    """

    def __init__(self, run_id: str, taken: set[str]) -> None:
        self._run_id = run_id
        self._taken = set(taken)
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}
        """Index → the newest call there."""

    def __len__(self) -> int:
        return len(self._calls)

    def take(self, delta: Delta) -> Iterator[Event]:
        """Take the calls of a delta. Yield what can be shown of them."""
        deltas = delta.tool_calls or []
        if not deltas and delta.function_call is not None:
            deltas = _CallDelta(function=delta.function_call)
        for one in deltas if isinstance(deltas, list) else [deltas]:
            if one is not None:
                yield from self._take(one)

    def _take(self, delta: _CallDelta) -> Iterator[Event]:
        function = delta.function or _Function()
        id, name, arguments = str(delta.id or ""), function.name or "", _arguments(function.arguments)
        index = delta.index if isinstance(delta.index, int) else None
        call = self._candidate(index, id, name)
        if call is not None and id and call.repeats(id, name, arguments):
            return
        if call is None or not call.goes_on(id, name, arguments, indexed=index is not None):
            for earlier in self._calls[-1:] if index is None or index in self._at else ():
                yield from self._show(earlier)  # nothing more of it will come
            call = _Call()
            self._calls.append(call)
        if index is not None:
            self._at[index] = call
        call.take(id, name, arguments)
        if call.shown_id or (call.id and call.name and call.begun):
            for earlier in self._calls[: self._calls.index(call)]:
                if earlier.id and earlier.name and not earlier.shown_id:
                    yield from self._show(earlier)
            yield from self._show(call)

    def _candidate(self, index: int | None, id: str, name: str) -> _Call | None:
        """Return the call that a delta may belong to."""
        known = next((call for call in self._calls if id and call.id == id), None)
        if index is not None:
            there = self._at.get(index)
            return known if known is not None and not name and (there is None or there.id != id) else there
        if known is not None:
            return known
        last = self._calls[-1] if self._calls else None
        # Without an index, a new id with a name is a new call, even of the same tool.
        return None if last is not None and id and last.id and name else last

    def _show(self, call: _Call) -> Iterator[Event]:
        id = call.shown_id or call.id
        if not call.shown_id:
            if not id or id in self._taken:
                id = f"{self._run_id}-call-{self._calls.index(call) + 1}"
            self._taken.add(id)
        yield from call.show(id)

    def end(self) -> Iterator[Event]:
        """Show what is left of all calls, and their ends."""
        for call in self._calls:
            call.end()
            yield from self._show(call)
        for call in self._calls:
            yield ToolCallEndEvent(tool_call_id=call.shown_id)

    def names(self) -> dict[str, str]:
        """Return id → name of every call, once they have ended."""
        return {call.shown_id: call.name for call in self._calls}

    def cut(self) -> str | None:
        """Return the name of the call in whose arguments the answer broke off, when it did: only the last can be."""
        return self._calls[-1].name if self._calls and not self._calls[-1].complete else None


def _arguments(value: Any) -> str:
    """Return arguments as the JSON text that they are to be; some services send the object itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()
