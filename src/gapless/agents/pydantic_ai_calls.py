"""The tool calls of one response of a Pydantic AI model, from the first that is heard of them to their end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pydantic_core
from pydantic_ai import messages as m

from gapless.agents.pydantic_ai_sealed import sealed
from gapless.agents.writing import Call
from gapless.events import Event
from gapless.jsontext import without_surrogates

__all__ = ["Calls"]


class _Call(Call):
    __slots__ = ("args", "native", "of_values")

    def __init__(self, part: m.BaseToolCallPart) -> None:
        super().__init__(part.tool_call_id, part.tool_name)
        self.native = isinstance(part, m.NativeToolCallPart)
        """The provider makes it itself, within its response."""
        self.args: dict[str, Any] = {}
        """What came of its arguments as values."""
        self.of_values = isinstance(part.args, dict)


class Calls:
    """Says of one response's calls that they begin, with what arguments, and that they end.

    A part is where the framework says something of a call, and calls take turns: each is ended by its own result, or
    with the response. It begins with its first argument, as some services tell its id only then.
    """

    def __init__(self) -> None:
        self._parts: dict[int, _Call] = {}
        self._ids: list[str] = []
        """Of the response before: as they were said."""

    def start(self, index: int, part: m.BaseToolCallPart) -> Iterator[Event]:
        """Take what a part begins with; it may be said again, with more."""
        call = self._parts.get(index)
        if call is None:
            call = self._parts[index] = _Call(part)
        if isinstance(part.args, dict):
            call.args = part.args
            if call.native and not call.said:  # it is whole: the code is shown while it runs
                yield from call.say(part.args_as_json_str())
        elif part.args and not call.said:
            yield from call.say(part.args)

    def delta(self, index: int, delta: m.ToolCallPartDelta) -> Iterator[Event]:
        """Take more of a call."""
        call = self._parts.get(index)
        if call is None or call.ended:
            return
        if not call.started:
            call.id = delta.tool_call_id or call.id
            call.name += delta.tool_name_delta or ""
        if isinstance(delta.args_delta, dict):
            call.args = {**call.args, **delta.args_delta}
        elif delta.args_delta:
            yield from call.say(delta.args_delta)

    def whole(self, index: int) -> Iterator[Event]:
        """Say what a call has as values: another part begins, and stands behind it."""
        call = self._parts.get(index)
        if call is not None and call.of_values and not call.said:
            yield from call.say(pydantic_core.to_json(call.args).decode())

    def begin(self, call_id: str) -> Iterator[Event]:
        """Say that a call begins which was only heard of."""
        for call in self._parts.values():
            if call.id == call_id:
                yield from call.start()

    def end_native(self, part: m.NativeToolReturnPart) -> Iterator[Event]:
        """End the provider's own call that `part` is the result of."""
        calls = [call for call in self._parts.values() if call.id == part.tool_call_id]
        if not calls:
            alone = Call(part.tool_call_id, part.tool_name)
            yield from alone.start()
            yield from alone.end()
        for call in calls:
            yield from _end(call)

    def end(self, response: m.ModelResponse) -> Iterator[Event]:
        """End all calls of a response that is complete."""
        finals = {part.tool_call_id: part for part in _calls_of(response)}
        for call in self._parts.values():
            yield from _end(call, finals.get(call.id))
        self._ids = [call.id for call in self._parts.values()]
        self._parts.clear()

    def mend(self, response: m.ModelResponse) -> None:
        """Give the calls of `response` the ids under which they were said: some services change them later. Join what
        they divide inside a character: nothing that has half of one could be sent again."""
        for one in response.parts:
            if isinstance(one, m.TextPart | m.ThinkingPart):
                one.content = without_surrogates(one.content)
            elif isinstance(one, m.BaseToolCallPart) and isinstance(one.args, str):
                one.args = without_surrogates(one.args)
        parts = [*_calls_of(response)]
        if len(parts) == len(self._ids):
            for part, id in zip(parts, self._ids, strict=True):
                part.tool_call_id = id


def _end(call: _Call, final: m.BaseToolCallPart | None = None) -> list[Event]:
    if call.said:
        whole = ""
    elif final is None:
        whole = pydantic_core.to_json(call.args).decode()
    else:
        whole = final.args_as_json_str()
    return call.end(whole or "{}", None if final is None else sealed(final))


def _calls_of(response: m.ModelResponse) -> Iterable[m.BaseToolCallPart]:
    return (part for part in response.parts if isinstance(part, m.BaseToolCallPart))
